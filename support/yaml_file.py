"""YAML files written by people: content, and the line of each name for error messages."""

import datetime
import json
from pathlib import Path
from typing import Any, NoReturn

from pydantic import TypeAdapter, ValidationError

from support.errors import UserError
from support.files import read_written

MOST_VALUES = 100_000  # that a file may stand for
Lines = dict[tuple[str, ...], int]


def read_yaml(path: Path) -> tuple[dict[str, Any], Lines]:
    """Content of a YAML 1.2 file, and the line of each name by its path, as in ('variants', 'gate',
    'fusion'). Names are text.

    Raises `UserError` naming file and line if it is not YAML or not a mapping, or has a name twice;
    naming the file if it cannot be read.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import MarkedYAMLError, YAMLError

    lines: Lines = {}
    try:
        content = YAML(pure=True).load(read_written(path))
        if not isinstance(content, dict):
            refuse(path, 1, "expected lines of 'name: value'")
        if _expanded(content, {}) > MOST_VALUES:
            refuse(
                path, 1, f"its aliases make more than {MOST_VALUES:,} values"
            )
        return _plain(content, (), lines, 1), lines
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        refuse(path, line, "is not UTF-8 text")
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join((error.problem or error.context).split())
        refuse(path, mark.line + 1, f"is not YAML: {problem}")
    except (YAMLError, RecursionError, ValueError, KeyError) as error:
        raise UserError(
            f"{path} is not YAML: {' '.join(str(error).split())}"
        ) from error


def _expanded(value: Any, known: dict[int, int]) -> int:
    """Number of values with all aliases expanded; no alias is followed twice."""
    if not isinstance(value, list | dict):
        return 1
    if id(value) not in known:
        # One that holds itself has no end.
        known[id(value)] = MOST_VALUES
        parts = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_expanded(part, known) for part in parts)
    return known[id(value)]


def _plain(value: Any, place: tuple[str, ...], lines: Lines, line: int) -> Any:
    """Plain dictionaries, lists and scalars; fills in the line of each name below `place`."""
    if isinstance(value, list):
        return [_plain(part, place, lines, line) for part in value]
    if isinstance(value, dict):
        plain = {}
        for key, inner in value.items():
            # What was merged has no line of its own.
            name_line = value.lc.data.get(key, [line - 1])[0] + 1
            name = (*place, str(key))
            lines[name] = name_line
            plain[str(key)] = _plain(inner, name, lines, name_line)
        return plain
    # ruamel's own kinds of numbers and text, as plain ones.
    text = json.dumps(value, default=_date, ensure_ascii=False)
    text.encode()  # lone surrogates are no text
    return json.loads(text)


def _date(value):
    if isinstance(value, datetime.date):
        return str(value)
    raise ValueError(f"{value} is neither text nor a number")


def validated(
    kind: type, content: Any, path: Path, lines: Lines, keys: str
) -> Any:
    """Content of a file as an instance of a class, checked by pydantic.

    keys: the allowed names, for the error about another one. Raises `UserError`
    naming file and line.
    """
    unknown = "unexpected_keyword_argument"
    try:
        return TypeAdapter(kind).validate_python(content)
    except ValidationError as error:
        faults = error.errors()
    # A wrong name before what is missing for it.
    fault = min(faults, key=lambda fault: fault["type"] != unknown)
    message = fault["msg"]
    if fault["type"] == "string_pattern_mismatch":
        message = "a name has letters, digits and _ alone; the field's own goes to source"
    if fault["type"] == unknown:
        message = f"unknown key; {keys}"
    refuse_at(path, lines, tuple(map(str, fault["loc"])), message)


def refuse_at(
    path: Path, lines: Lines, place: tuple[str, ...], message: str
) -> NoReturn:
    """Raise `UserError` naming the line of a place, or of the nearest one around it."""
    around = place
    while around and around not in lines:
        around = around[:-1]
    refuse(path, lines.get(around, 1), f"{'.'.join(place)}: {message}")


def refuse(path: Path, line: int, message: str) -> NoReturn:
    """Raise `UserError` naming file and line."""
    raise UserError(f"{path}:{line}: {message}")
