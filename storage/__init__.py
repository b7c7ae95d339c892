"""Data sets larger than memory: built once into sequences on disk, one user a row.

    python data_processor.py --dataset EVENTS --build DIR     writes
    python trainer.py --dataset DIR                           reads

remote.py      copies files from other file systems, such as s3
source.py      which files hold the events, and how
stage.py       the events in parts by user, as they stand in the files (DuckDB)
part.py        what is done with one part; knows nothing of the others
build.py       the steps over all parts, which go on where they were stopped
sequences.py   the files of a built data set
item_table.py  the items as a file, also of a trained model
"""

from pathlib import Path

MANIFEST = "manifest.json"


def is_built(dataset: str) -> bool:
    """Whether --dataset is a folder with a built data set."""
    return (Path(dataset) / MANIFEST).is_file()
