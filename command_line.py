"""From flags and YAML files to `Settings`: the flags follow from the fields of settings.py."""

import argparse
import ast
import inspect
import itertools
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from presets import PRESETS, preset_settings
from settings import (
    SECTIONS,
    Settings,
    all_fields,
    idle,
    model_only,
    section_fields,
    unknown_name,
)
from support.arguments import ArgumentParser
from support.errors import UserError
from support.yaml_file import read_yaml, refuse


def settings_parser(
    description: str, sections: Sequence[str] = tuple(SECTIONS)
) -> ArgumentParser:
    """A parser with a flag for each setting of some sections; what is not given stays absent."""
    parser = ArgumentParser(description)
    parser.usage = "%(prog)s [--FLAG VALUE ...]"
    for section in sections:
        kind = SECTIONS[section]
        group = parser.add_argument_group(section, kind.__doc__)
        texts, types = _help_texts(kind), get_type_hints(kind)
        for name, entry in section_fields(kind).items():
            options = _options(types[name])
            text = f"{texts[name]} (default: {entry.default})".replace("%", "%%")
            if entry.default is True:
                text += f"; --no_{name} turns it off"
            group.add_argument(
                f"--{name}", default=argparse.SUPPRESS, help=text, **options
            )
            if types[name] is bool:
                absent = {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
                group.add_argument(
                    f"--no_{name}", dest=name, action="store_false", **absent
                )
    return parser


def _help_texts(section: type) -> dict[str, str]:
    """The text under each field of a settings dataclass."""
    (definition,) = ast.parse(inspect.getsource(section)).body
    return {
        entry.target.id: " ".join(text.value.value.split())
        for entry, text in itertools.pairwise(definition.body)
        if isinstance(entry, ast.AnnAssign) and isinstance(text, ast.Expr)
    }


def _options(kind: Any) -> dict[str, Any]:
    """What argparse is told of a type."""
    if kind is bool:
        return {"action": "store_true"}
    if get_origin(kind) is Literal:
        return {"choices": get_args(kind)}
    return {"type": kind if kind in (int, float) else str}


def parse_command_line(
    argv: list[str], description: str, preset: str = "default"
) -> tuple[Settings, bool]:
    """(settings, resume) from flags: preset first, then --config FILE.yaml, then the flags
    themselves.

    preset: the one to begin with where the flags name neither a preset nor a file. Raises
    `UserError` for an unknown flag or YAML key (naming the nearest), for a value of the wrong
    kind, and for a flag that the chosen model would ignore.
    """
    parser = settings_parser(description)
    add = parser.add_argument
    add("--preset", help=", ".join(PRESETS))
    add("--config", type=Path, metavar="FILE.yaml", help="settings by name")
    add("--resume", action="store_true", help="go on with the stopped run")
    given = vars(parser.parse_args([_with_underscores(token) for token in argv]))
    chosen, config, resume = (
        given.pop(name) for name in ("preset", "config", "resume")
    )
    if resume and (set(given) - {"checkpoint_dir"} or chosen or config):
        raise UserError(
            "--resume goes on with the settings of the stopped run; give it no flag but "
            "--checkpoint_dir"
        )
    values = (_file_values(config, parser) if config else {}) | given
    model = values.get("model", "enhanced")
    for name in sorted(values):
        if model_only(name) not in (None, model):
            raise UserError(
                f"--{name} belongs to --model {model_only(name)}; --model {model} does not read it"
            )
    if chosen is None:
        chosen = "default" if config else preset
    return _defaults(chosen, model, set(values)).replace(**values), resume


def _with_underscores(token: str) -> str:
    """'--batch-size=3' as '--batch_size=3'."""
    name, equals, value = token.partition("=")
    return (
        f"--{name[2:].replace('-', '_')}{equals}{value}"
        if name.startswith("--")
        else token
    )


def say_idle_flags(argv: list[str], settings: Settings) -> None:
    """Name on stderr the flags that were given and do nothing with these settings."""
    tokens = [_with_underscores(token) for token in argv]
    given, _ = settings_parser("").parse_known_args(tokens)
    for name in sorted(vars(given)):
        needed = idle(name, settings)
        if needed:
            print(f"note: --{name} does nothing without {needed}", file=sys.stderr)


def _defaults(preset: str, model: str, explicit: set[str]) -> Settings:
    """The preset's settings, less those limits of it that an explicit flag would silently run
    into."""
    settings = preset_settings(preset, model)
    if "batch_size" in explicit:
        settings = settings.replace(batch_tokens=0)
    if explicit & {"max_epochs", "max_steps"}:
        settings = settings.replace(max_minutes=0.0)
    return settings


def as_flags(name: str, value: Any) -> list[str]:
    """The flags that give a setting a value."""
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no_{name}"]
    return [f"--{name}={value}"]


def _file_values(path: Path, parser: ArgumentParser) -> dict[str, Any]:
    """The settings in a YAML file, checked as flags are."""
    content, lines = read_yaml(path)
    flags = []
    for key, value in content.items():
        if key not in all_fields():
            refuse(path, lines[(key,)], unknown_name("key", key))
        if isinstance(value, list | dict | None):
            refuse(path, lines[(key,)], f"{key}: expected one value")
        flags += as_flags(key, value)
    values = vars(parser.parse_args(flags))
    return {name: value for name, value in values.items() if name in content}
