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
Fit = Callable[[Settings], dict[str, Any]]


@dataclass(frozen=True)
class Launch:
    """How a run is started: whether a stopped one goes on, and in which workers of which Ray
    cluster (none: in this process)."""

    resume: bool = False
    ray: str | None = None
    workers: int = 1


def settings_parser(
    description: str, sections: Sequence[str] = tuple(SECTIONS)
) -> ArgumentParser:
    """A parser with a flag for each setting of some sections; flags not given stay absent."""
    parser = ArgumentParser(description)
    parser.usage = "%(prog)s [--FLAG VALUE ...]"
    absent = {"default": argparse.SUPPRESS}
    for section in sections:
        kind = SECTIONS[section]
        group = parser.add_argument_group(section, kind.__doc__)
        for name, entry in kind.__pydantic_fields__.items():
            text = f"{entry.description} (default: {entry.default})".replace(
                "%", "%%"
            )
            if entry.annotation is bool:
                for flag, kind in (("", "store_true"), ("no_", "store_false")):
                    shared = {"dest": name, "help": text, **absent}
                    group.add_argument(
                        f"--{flag}{name}", action=kind, **shared
                    )
                continue
            if get_origin(entry.annotation) is Literal:
                text += f"; one of {', '.join(get_args(entry.annotation))}"
            group.add_argument(
                f"--{name}", metavar="VALUE", help=text, **absent
            )
    return parser


def parse_command_line(
    argv: list[str],
    description: str,
    preset: str = "default",
    fit: Fit | None = None,
) -> tuple[Settings, Launch]:
    """(settings, how to start) from flags: preset first, then --config FILE.yaml, then the flags
    themselves.

    preset: the one to begin with if the flags name neither a preset nor a file. fit: gives the
    settings of the preset `auto`, for the data of the settings that it is given. Raises
    `UserError` for an unknown flag or YAML key (naming the nearest), and as `settings_of` does.
    """
    parser = settings_parser(description)
    add = parser.add_argument
    add("--preset", help=", ".join((*PRESETS, *([AUTO] if fit else []))))
    add("--config", type=Path, metavar="FILE.yaml", help="settings by name")
    add("--resume", action="store_true", help="go on with the stopped run")
    add("--ray", metavar="ADDRESS", help=RAY)
    add("--workers", type=whole(1, 10_000), help="with --ray: how many")
    given = vars(
        parser.parse_args([_with_underscores(token) for token in argv])
    )
    chosen, config, resume, ray, workers = (
        given.pop(name)
        for name in ("preset", "config", "resume", "ray", "workers")
    )
    require(ray or not workers, "--workers are of a Ray cluster: give --ray")
    if resume and (set(given) - {"checkpoint_dir"} or chosen or config):
        raise UserError(
            "--resume goes on with the settings of the stopped run; give it no flag but "
            "--checkpoint_dir, --ray and --workers"
        )
    flags = set(given)
    if config:
        preset, given = "default", _file_values(config) | given
    if chosen == AUTO and fit:
        settings = _fitted(fit, given)
    else:
        settings = settings_of(chosen or preset, given)
    for name in sorted(flags):
        needed = idle(name, settings)
        if needed:
            note = f"note: --{name} does nothing without {needed}"
            print(note, file=sys.stderr)
    return settings, Launch(resume, ray, workers or 1)


def _fitted(fit, given):
    """The preset `quick`, changed by the rule of `--preset auto`, then by the flags."""
    settings = settings_of("quick", given)
    changes = fit(settings)
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
