"""Data sets as raw tables: `read(dataset)` finds the schema and the files, whatever their format.

A reader turns files into `Files`: a data frame per table with the fields of the file. `assemble`
then gives them the names of the schema: `user`, `item`, `time` and the columns of interactions,
`id`, `name` and the columns of items and users. Later modules do not know the names of fields.
"""

import dataclasses
import glob
from pathlib import Path

from readers.folders import matching
from readers.raw import RawData, assemble
from schema import TABLES, read_schema
from support.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
DATASETS = ROOT / "datasets"
YAML = (".yaml", ".yml")
# Folders that are known by their files.
MOVIELENS = {
    "ml-1m": ("ratings.dat", "movies.dat", "users.dat"),
    "ml-100k": ("u.data", "u.item", "u.user"),
}


def home(dataset: str) -> Path:
    """The folder of the files that the schema of a data set names."""
    if (DATASETS / f"{dataset}.yaml").exists():
        return DATASETS
    path = Path(dataset)
    return path.parent if path.suffix in YAML else Path()


def located(
    dataset: str, data_dir: str | None = None
) -> tuple[Path, str | None]:
    """(YAML file with a schema, or the data themselves; folder of the data) of a data set.

    dataset: a name from datasets/, a YAML file, or a file, folder or pattern with data. Raises
    `UserError` if there is none.
    """
    shipped = {file.stem: file for file in sorted(DATASETS.glob("*.yaml"))}
    path = shipped.get(dataset, Path(dataset))
    for name, files in MOVIELENS.items():
        if path.is_dir() and all((path / file).exists() for file in files):
            path, data_dir = shipped[name], str(path)
    if "://" in dataset:
        raise UserError(
            f"--dataset {dataset}: other file systems are read by data_processor.py --build DIR "
            f"alone; then give --dataset DIR"
        )
    if not glob.glob(str(path)) and not path.exists():
        raise UserError(
            f"--dataset {dataset}: no such file or folder ({path.absolute()}), and none "
            f"of the data sets {', '.join(shipped)}"
        )
    return path, data_dir


def read(
    dataset: str, data_dir: str | None = None, columns: str = ""
) -> RawData:
    """The raw tables of a data set, as in `located`.

    A file or folder with data has no schema; it is inferred. columns: roles of its fields, as in
    'user=A,item=B'. Raises `UserError` naming file, line and remedy.
    """
    path, data_dir = located(dataset, data_dir)
    if path.suffix not in YAML:
        from readers.infer import inferred

        return assemble(*inferred(path, columns))
    require_no_columns(dataset, columns)
    schema, folder = read_schema(path), Path(data_dir or home(dataset))
    if schema.reader == "movielens":
        from readers.download import data_folder
        from readers.movielens import read_movielens

        files, note = read_movielens(data_folder(schema.name, data_dir))
        schema = dataclasses.replace(schema, note=note or schema.note)
    elif schema.reader == "tables":
        from readers.tables import read_tables

        files = read_tables(schema, folder)
    else:
        from readers.sequences import read_sequences

        files = read_sequences(folder / schema.interactions.file)
    return assemble(schema, files)


def files_behind(
    dataset: str, data_dir: str | None = None
) -> list[tuple[str, int, int]]:
    """What `read` may read of a data set: path, size and time of the last change of each file; of
    a YAML file, its text instead."""
    path, data_dir = located(dataset, data_dir)
    texts, places = [], [path]
    if path.suffix in YAML:
        texts.append((path.read_text(encoding="utf-8"), 0, 0))
        places = _places_of(read_schema(path), dataset, data_dir)
    paths = []
    for place in places:
        found = matching(str(place))
        if place.is_dir():
            found = [file for file in place.iterdir() if file.is_file()]
        paths += found
        # Attributes beside sequences.
        paths += place.parent.glob(f"{glob.escape(place.stem)}_*.json")
    paths = [one for one in sorted(set(paths)) if one.is_file()]
    stats = [(str(one.resolve()), one.stat()) for one in paths]
    return texts + [
        (name, stat.st_size, stat.st_mtime_ns) for name, stat in stats
    ]


def _places_of(schema, dataset, data_dir):
    """The files, patterns or folders that a schema names."""
    if schema.reader == "movielens":
        from readers.download import data_folder

        return [data_folder(schema.name, data_dir)]
    folder = Path(data_dir or home(dataset))
    named = [schema.table(table).file for table in TABLES]
    return [folder / name for name in named if name]


def require_no_columns(dataset: str, columns: str) -> None:
    """Raise `UserError` if roles of fields are given beside a schema."""
    if columns:
        raise UserError(
            f"--columns is for a file without a schema; {dataset} has one"
        )
