"""Reading and writing files: regular files only, replaced completely or not at all."""

import contextlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from support.errors import UserError

STREAMS = ("-", "/dev/stdout")  # names of what a program prints to
MOST_WRITTEN = 1 << 20  # bytes of a file that people write, such as YAML


def check_regular(path: Path) -> None:
    """Raise `UserError` if a path is a folder, a pipe or a device, whose reading may never end. A
    missing file passes; opening it gives the error."""
    if path.exists() and not path.is_file():
        raise UserError(
            f"{path} is not a regular file; give a file, or copy what it holds into one"
        )


def read_written(path: Path) -> str:
    """The text of a file written by people. Raises `UserError` unless it is a regular file of at
    most MOST_WRITTEN bytes; `OSError` and `UnicodeDecodeError` pass."""
    check_regular(path)
    size = path.stat().st_size
    if size > MOST_WRITTEN:
        raise UserError(
            f"{path} has {size:,} bytes, where a file of settings has at most {MOST_WRITTEN:,}; "
            f"is it another file?"
        )
    return path.read_text(encoding="utf-8")


def parse_json(text: str) -> Any:
    """`json.loads` that raises `ValueError` for anything it cannot read."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to, which then replaces `path`, completely or not at all.

    A link keeps pointing to its file. Raises `UserError` if `path` is a pipe, a device or a folder,
    or cannot be written; nothing is left behind then.
    """
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():
            raise UserError(
                f"{path} cannot be written: it is not a regular file; choose another place"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            dir=target.parent, prefix=".writing-"
        ) as folder:
            part = Path(folder) / target.name
            yield part
            to_disk(part)
            os.replace(part, target)
    except OSError as error:
        if not _concerns(error, path):
            # Of what the caller reads meanwhile.
            raise
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}; choose another place"
        ) from error


def _concerns(error, path):
    """Whether an error may be one of writing a path: of no file, or of one beside or above it."""
    if not isinstance(error.filename, str | bytes | os.PathLike):
        return True
    place = Path(os.fsdecode(error.filename)).absolute()
    target = Path(os.path.realpath(path))
    return place.is_relative_to(target.parent) or target.is_relative_to(place)


def to_disk(path: Path) -> None:
    """Flush a file, or the names in a folder, to disk."""
    with contextlib.suppress(PermissionError):  # Windows opens no folders
        opened = os.open(path, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def write_text(path: Path, text: str) -> None:
    """Write a text completely or not at all: see `replacing`."""
    with replacing(path) as part:
        # A lone surrogate, from a name that is no UTF-8, becomes \\udcff, which JSON reads back.
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file completely or not at all."""
    write_text(path, json.dumps(content, indent=1, ensure_ascii=False))
