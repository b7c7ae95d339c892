"""YAML files that people write: content, and the line of each name, by which whatever is wrong is
answered.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NoReturn

from support.errors import UserError


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[tuple[str, ...], int]]:
    """What a file says, its names as they are written there (so that 'on' or '0.10' may be one),
    and the line of each by its path, as in ('variants', 'gate', 'fusion'). Numbers are decimal,
    dates stay text.

    Raises `UserError` naming file and line for what is not YAML, not a mapping, a name that
    stands there twice, or a number that YAML would read in another base; naming the file where it
    cannot be read.
    """
    import yaml

    try:
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        refuse(path, error.object[: error.start].count(b"\n") + 1, "is not UTF-8 text")
    lines: dict[tuple[str, ...], int] = {}
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        if not isinstance(node, yaml.MappingNode):
            refuse(path, 1, "expected lines of 'name: value'")
        _find_lines(path, node, (), lines)
        return yaml.load(text, _loader(path)), lines
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        refuse(
            path,
            mark.line + 1 if mark else 1,
            f"is not YAML: {error.problem or error.context}",
        )
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise UserError(
            f"{path} is not YAML: {' '.join(str(error).split())}"
        ) from error


def refuse(path: Path, line: int, message: str) -> NoReturn:
    """Raise `UserError` naming file and line."""
    raise UserError(f"{path}:{line}: {message}")


def _find_lines(
    path: Path,
    node: Any,
    place: tuple[str, ...],
    lines: dict[tuple[str, ...], int],
    merged_at: int = 0,
    around: tuple[Any, ...] = (),
) -> None:
    """Fill in the line of each name below a node. merged_at: where the node was merged, 0 if it
    stands in its place; around: the nodes that it lies in."""
    import yaml

    if any(node is outer for outer in around):
        refuse(
            path,
            lines.get(place, merged_at or 1),
            "an alias lies within what it stands for",
        )
    merges: list[tuple[Any, int]] = []
    for key, value in node.value if isinstance(node, yaml.MappingNode) else ():
        line = merged_at or key.start_mark.line + 1
        if key.tag == "tag:yaml.org,2002:merge":
            merges += [
                (part, line)
                for part in (
                    value.value if isinstance(value, yaml.SequenceNode) else [value]
                )
            ]
            continue
        if not isinstance(key, yaml.ScalarNode):
            refuse(path, line, "a name must be plain text, not a list or a mapping")
        inner = (*place, key.value)
        if inner in lines:
            if merged_at:
                continue  # what is written out comes before what is merged
            refuse(path, line, f"{key.value!r} stands there twice")
        lines[inner] = line
        _find_lines(path, value, inner, lines, merged_at, (*around, node))
    for part, line in merges:
        _find_lines(path, part, place, lines, line, (*around, node))


def _loader(path: Path) -> type:
    """A loader that leaves names and dates as they are written, and takes decimal numbers alone."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Of this file."""

    def mapping(loader: Loader, node: yaml.MappingNode) -> dict[str, Any]:
        loader.flatten_mapping(node)
        return {
            key.value: loader.construct_object(value, deep=True)
            for key, value in node.value
        }

    def whole_number(_: Loader, node: yaml.ScalarNode) -> int:
        if not re.fullmatch(r"[-+]?(0|[1-9][0-9_]*)", node.value):
            refuse(
                path,
                node.start_mark.line + 1,
                f"{node.value}: write a decimal number, without a 0 before it",
            )
        return int(node.value)

    def number(loader: Loader, node: yaml.ScalarNode) -> float:
        if ":" in node.value:
            refuse(
                path, node.start_mark.line + 1, f"{node.value}: write a decimal number"
            )
        return loader.construct_yaml_float(node)

    Loader.add_constructor("tag:yaml.org,2002:map", mapping)
    Loader.add_constructor("tag:yaml.org,2002:int", whole_number)
    Loader.add_constructor("tag:yaml.org,2002:float", number)
    Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda _, node: node.value)
    return Loader
