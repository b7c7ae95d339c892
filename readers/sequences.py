"""Histories in lines: `user item` (SASRec) or `user item item ...` (S3-Rec), oldest first.

Attributes may lie beside them as `NAME_item2attributes.json`: item -> list of attribute numbers.
"""

import json
from pathlib import Path

import pandas as pd

from readers.raw import File
from readers.tables import open_text
from support.errors import UserError


def is_sequences(path: Path) -> bool:
    """Whether a file looks so: no header, fields separated by blanks, ids in all of them."""
    if not path.is_file() or path.suffix not in (".txt", ".seq", ".gz"):
        return False
    try:
        with open_text(path) as file:
            fields = file.readline().split()
    except (OSError, EOFError, UnicodeDecodeError):
        return False  # read_file says what is wrong
    return len(fields) >= 2 and "," not in fields[0]


def read_sequences(path: Path) -> dict[str, File]:
    """Interactions in the order of the lines, and items with attributes where there are any."""
    if not path.is_file():
        raise UserError(
            f"{path} is missing; name the file of the interactions"
        )
    users: list[str] = []
    items: list[str] = []
    with open_text(path) as file:
        for line in file:
            user, *history = line.split() or [""]
            users += [user] * len(history)
            items += history
    frame = pd.DataFrame({"user_id": users, "item_id": items})
    files = {"interactions": File(frame, str(path))}
    beside = path.with_name(f"{path.stem}_item2attributes.json")
    if beside.exists():
        try:
            attributes = dict(json.loads(beside.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{beside}: expected a mapping of items to lists of attributes ({error})"
            ) from error
        table = pd.DataFrame(
            {
                "item_id": list(attributes),
                "attributes": list(attributes.values()),
            }
        )
        files["items"] = File(table, str(beside))
    return files
