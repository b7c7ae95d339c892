"""`Settings` from flags and YAML files. The flags are the fields of settings.py."""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from presets import PRESETS, preset_settings
from settings import FIELDS, SECTIONS, Settings, idle, model_only, unknown_name
from support.arguments import ArgumentParser, whole
from support.errors import UserError, require
from support.yaml_file import Lines, read_yaml, refuse_at

AUTO = "auto"  # the preset that looks at the data
RAY = (
    "train in the workers of a Ray cluster: auto or host:port, or local for one of --workers "
    "workers here"
)
FIRST = (
    "dataset",
    "columns",
    "protocol",
    "hidden_size",
    "num_layers",
    "batch_size",
    "learning_rate",
    "max_epochs",
    "max_minutes",
    "seed",
)
Derive = Callable[[Settings], dict[str, Any]]


@dataclass(frozen=True)
class Launch:
    """How a run is started: whether a stopped one goes on, and in which workers of which Ray
    cluster (none: in this process)."""

    resume: bool = False
    ray: str | None = None
    workers: int = 1


def _lone(text):
    if text in (*PRESETS, AUTO):
        return f"did you mean --preset {text}?"
    return "a flag begins with --, see --help"


def settings_parser(
    description: str, sections: Sequence[str] = tuple(SECTIONS)
) -> ArgumentParser:
    """A parser with a flag for each setting of some sections; flags not given stay absent."""
    parser = ArgumentParser(description, _lone)
    parser.usage = "%(prog)s [--FLAG VALUE ...]"
    first = parser.add_argument_group("flags that matter first")
    for section in sections:
        fields = SECTIONS[section]
        group = parser.add_argument_group(section, fields.__doc__)
        for name, entry in fields.__pydantic_fields__.items():
            _add_flag(first if name in FIRST else group, name, entry)
    return parser


def _add_flag(group, name, entry):
    text = f"{entry.description} (default: {entry.default})"
    if get_origin(entry.annotation) is Literal:
        text = f"{text}; one of {', '.join(get_args(entry.annotation))}"
    shared = {"help": text.replace("%", "%%"), "default": argparse.SUPPRESS}
    if entry.annotation is bool:
        shared["dest"] = name
        group.add_argument(f"--{name}", action="store_true", **shared)
        group.add_argument(f"--no_{name}", action="store_false", **shared)
        return
    group.add_argument(f"--{name}", metavar="VALUE", **shared)


def parse_settings(argv: list[str], preset: str = "default") -> Settings:
    """Settings from flags: preset first, then --config FILE.yaml, then the flags themselves.

    preset: the one to begin with if the flags name neither a preset nor a file. Raises `UserError`
    for an unknown flag or YAML key (naming the nearest), and as `settings_of` does.
    """
    return _settings(_given(_parser(), argv), preset)


def parse_command_line(
    argv: list[str], description: str, derive: Derive | None = None
) -> tuple[Settings, Launch]:
    """(settings, how to start) from the flags of a program that trains: see `parse_settings`.

    derive: gives the settings of the preset `auto`, for the data of the settings that it is given.
    """
    parser = _parser(description, (*PRESETS, AUTO) if derive else PRESETS)
    add = parser.add_argument
    add("--resume", action="store_true", help="go on with the stopped run")
    add("--ray", metavar="ADDRESS", help=RAY)
    add("--workers", type=whole(1, 10_000), help="with --ray: how many")
    flags = _given(parser, argv)
    resume, ray, workers = (
        flags.pop(name) for name in ("resume", "ray", "workers")
    )
    require(ray or not workers, "--workers are of a Ray cluster: give --ray")
    given = {name for name, value in flags.items() if value is not None}
    require(
        not resume or given <= {"checkpoint_dir"},
        "--resume goes on with the settings of the stopped run; give it no flag but "
        "--checkpoint_dir, --ray and --workers",
    )
    settings = _settings(flags, "default", derive)
    return settings, Launch(resume, ray, workers or 1)


def _parser(description="", presets=tuple(PRESETS)):
    parser = settings_parser(description)
    add = parser.add_argument
    add("--preset", help=", ".join(presets))
    add("--config", type=Path, metavar="FILE.yaml", help="settings by name")
    return parser


def _given(parser, argv):
    """The flags by name."""
    return vars(parser.parse_args(list(map(_with_underscores, argv))))


def _settings(flags, preset, derive=None):
    """Settings from flags by name. preset: as in `parse_settings`."""
    flags = dict(flags)
    chosen = flags.pop("preset")
    config = flags.pop("config")
    values = dict(flags)
    if config:
        preset = "default"
        values = _file_values(config) | flags
    if chosen == AUTO and derive:
        settings = _derived(derive, values)
    else:
        settings = settings_of(chosen or preset, values)
    for name in sorted(flags):
        needed = idle(name, settings)
        if needed:
            note = f"note: --{name} does nothing without {needed}"
            print(note, file=sys.stderr)
    return settings


def _derived(derive, given):
    """The preset `quick`, changed by the rule of `--preset auto`, then by the flags."""
    settings = settings_of("quick", given)
    changes = derive(settings)
    if "batch_size" in given:
        changes.pop("batch_tokens", None)
    chosen = {}
    for name, value in changes.items():
        read = model_only(name) in (None, settings.model.model)
        if read and name not in given:
            chosen[name] = value
    return settings.replace(**chosen)


def settings_of(preset: str, values: dict[str, Any]) -> Settings:
    """The settings of a preset with some changed. A limit of the preset is dropped if a changed
    value would silently run into it.

    Raises `UserError` for an impossible value, or one that the chosen model would ignore.
    """
    settings = preset_settings(preset, values.get("model"))
    model = settings.model.model
    for name in sorted(values):
        if model_only(name) not in (None, model):
            raise UserError(
                f"--{name} belongs to --model {model_only(name)}; --model {model} does not read it"
            )
    if "batch_size" in values:
        settings = settings.replace(batch_tokens=0)
    if values.keys() & {"max_epochs", "max_steps"}:
        settings = settings.replace(max_minutes=0.0)
    return settings.replace(**values)


def _with_underscores(token):
    """'--batch-size=3' as '--batch_size=3'."""
    name, equals, value = token.partition("=")
    if not name.startswith("--"):
        return token
    return f"--{name[2:].replace('-', '_')}{equals}{value}"


def _file_values(path):
    """The settings in a YAML file."""
    content, lines = read_yaml(path)
    check_names(content, path, lines)
    return content


def check_names(
    values: dict[str, Any], path: Path, lines: Lines, *place: str
) -> None:
    """Raise `UserError` unless the content of a file at some place is settings, one value each."""
    for name, value in values.items():
        if name not in FIELDS:
            refuse_at(path, lines, (*place, name), unknown_name("key", name))
        if isinstance(value, list | dict | None):
            refuse_at(path, lines, (*place, name), "expected one value")
