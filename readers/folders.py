"""Which files of a folder, or of a pattern, hold which table."""

import glob
import os
from pathlib import Path

from support.errors import UserError

# Names of files in a folder, and the ending of RecBole's.
FILES = {
    "interactions": {"interactions", "ratings", ".inter"},
    "items": {"items", "movies", ".item"},
    "users": {"users", ".user"},
}


def matching(place: str) -> list[Path]:
    """The file of that name, else the files that fit a pattern such as 'orders/*.parquet'."""
    if os.path.exists(place):
        return [Path(place)]
    return [Path(path) for path in sorted(glob.glob(place))] or [Path(place)]


def files_in(path: Path) -> dict[str, tuple[str, list[Path]]]:
    """Table -> (name or pattern, files): of a file or a pattern alone, or of a folder by the names
    of its files. Raises `UserError` for a folder in which they cannot be told apart."""
    if not path.is_dir():
        return {"interactions": (str(path), matching(str(path)))}
    here = [
        file
        for file in sorted(path.iterdir())
        if file.is_file() and file.name[0] not in "._"
    ]
    files = {}
    for table, names in FILES.items():
        found = [
            file
            for file in here
            if {file.suffix, file.name.partition(".")[0]} & names
        ]
        if table == "interactions" and not found:
            # Parts of one table, as Spark and others write them.
            found = here if len({file.suffix for file in here}) == 1 else []
            if len(found) > 1:
                return files_in(path / f"*{found[0].suffix}")
        if len(found) > 1 or (table == "interactions" and not found):
            raise UserError(
                f"{path} has {[file.name for file in found]} as files of {table} "
                f"({', '.join(sorted(names))}); name the file itself, or write a schema "
                f"(datasets/README.md)"
            )
        if found:
            files[table] = (str(found[0]), found)
    return files
