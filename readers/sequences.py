"""Histories in lines: `user item` (SASRec) or `user item item ...` (S3-Rec), oldest first.

Attributes may be beside them as `NAME_item2attributes.json`: item -> list of attribute numbers.
"""

import itertools
import re
from pathlib import Path

import pandas as pd

from readers.raw import File
from readers.tables import named_errors, open_text
from support.errors import UserError, require
from support.files import parse_json

LINES = 100  # that are looked at


def is_sequences(path: Path) -> bool:
    """Whether a file has this form: no header, fields separated by blanks, ids in all of them.

    Lines of one length, with a time or a decimal number at their end or many of them, are a table.
    """
    if not path.is_file() or path.suffix not in (".txt", ".seq", ".gz"):
        return False
    try:
        with open_text(path) as file:
            lines = list(itertools.islice(file, LINES))
    except (OSError, EOFError, ValueError):
        return False  # read_file says what is wrong
    rows = [line.split() for line in lines if line.strip()]
    several = max(map(len, rows), default=0) > 1
    if not rows or not several or re.search("[,;|]|::", "".join(lines)):
        return False
    ends = [row[-1] for row in rows]
    one_length = len({len(row) for row in rows}) == 1 and len(rows[0]) > 2
    valued = all(re.fullmatch(r"\d{9,}(\.\d+)?|\d+\.\d+", end) for end in ends)
    return not (one_length and (valued or len(rows) == LINES))


def read_sequences(path: Path) -> dict[str, File]:
    """Interactions in the order of the lines, and items with attributes if there are any."""
    require(path.is_file(), f"{path} is missing; name the file")
    users: list[str] = []
    items: list[str] = []
    with named_errors(path), open_text(path) as file:
        for number, line in enumerate(file, start=1):
            user, *history = line.split() or [""]
            if user and not history:
                raise UserError(
                    f"{path}:{number}: user {user} has no item; drop the line"
                )
            users += [user] * len(history)
            items += history
    frame = pd.DataFrame({"user_id": users, "item_id": items})
    files = {"interactions": File(frame, str(path))}
    beside = path.with_name(f"{path.stem}_item2attributes.json")
    if beside.exists():
        with named_errors(beside):
            attributes = parse_json(beside.read_text(encoding="utf-8"))
        require(
            isinstance(attributes, dict),
            f"{beside}: expected a mapping of items to lists of attributes",
        )
        table = pd.DataFrame(
            attributes.items(), columns=["item_id", "attributes"]
        )
        files["items"] = File(table, str(beside))
    return files
