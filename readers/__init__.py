"""Data sets as raw tables: `read(dataset)` finds the schema and the files, whatever their format.

A reader turns files into `Files`: a data frame per table with the fields of the file. `assemble`
then gives them the names of the schema: `user`, `item`, `time` and the columns of interactions,
`id`, `name` and the columns of items and users. No later module sees a field's name.
"""

from pathlib import Path

from readers.raw import RawData, assemble
from schema import Schema, read_schema
from support.errors import UserError

ROOT = Path(__file__).resolve().parent.parent
DATASETS = ROOT / "datasets"


def read(dataset: str, data_dir: str | None = None, columns: str = "") -> RawData:
    """The raw tables of a data set.

    dataset: a name from datasets/, a YAML file with a schema, or a file or folder with data,
    whose schema is then inferred. columns: roles of the fields of such a file, as in
    'user=A,item=B'. Raises `UserError` naming file, line and remedy.
    """
    path = Path(dataset)
    known = DATASETS / f"{dataset}.yaml"
    described = path.suffix in (".yaml", ".yml") or known.exists()
    if columns and described:
        raise UserError(f"--columns is for a file without a schema; {dataset} has one")
    if known.exists() and path.name == dataset:
        return _by_schema(read_schema(known), ROOT, data_dir)
    if path.suffix in (".yaml", ".yml"):
        return _by_schema(read_schema(path), path.parent, data_dir)
    if not path.exists():
        names = ", ".join(sorted(file.stem for file in DATASETS.glob("*.yaml")))
        raise UserError(
            f"--dataset {dataset}: no such file or folder ({path.absolute()}), and none "
            f"of the data sets {names}"
        )
    from readers.infer import inferred

    schema, files = inferred(path, columns)
    return assemble(schema, files)


def _by_schema(schema: Schema, folder: Path, data_dir: str | None) -> RawData:
    """Read what a schema describes; folder: where its files are sought."""
    if schema.reader == "synthetic":
        from readers.synthetic import generate

        return assemble(schema, generate())
    if schema.reader == "movielens":
        from readers.download import data_folder
        from readers.movielens import read_movielens

        files, note = read_movielens(data_folder(schema.name, data_dir))
        return assemble(schema, files, note)
    if schema.reader == "tables":
        from readers.tables import read_tables

        return assemble(
            schema, read_tables(schema, Path(data_dir) if data_dir else folder)
        )
    if schema.reader == "sequences":
        from readers.sequences import read_sequences

        folder = Path(data_dir) if data_dir else folder
        return assemble(schema, read_sequences(folder / schema.interactions.file))
    raise UserError(
        f"schema {schema.name}: unknown reader {schema.reader!r}; there are tables, "
        f"sequences, movielens, synthetic"
    )
