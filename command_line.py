"""From flags and YAML files to `Settings`; whatever is wrong is answered with one line and the
nearest name."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from support.errors import UserError
from support.yaml_file import read_yaml, refuse

TYRO_NOISE = (
    r"Parsing error|Value error|Invalid choice (?=.)|Argument helptext:.*"
    r"|For full helptext.*"
)


def parse_command_line(
    argv: list[str], description: str, preset: str = "default"
) -> tuple[Settings, bool]:
    """(settings, resume) from flags: preset first, then --config FILE.yaml, then the flags
    themselves.

    preset: the one to begin with where the flags name neither a preset nor a file. Raises
    `UserError` for an unknown flag or YAML key (naming the nearest), for a value of the wrong
    kind, and for a flag that the chosen model would ignore.
    """
    own: dict[str, Any] = {"--preset": None, "--config": None, "--resume": False}
    rest = _take_own_flags(argv, own)
    _check_flag_names(rest, [name[2:] for name in own])
    harmless = ("--checkpoint_dir", "--help")
    given = [
        token
        for token in rest
        if token.startswith("--") and not token.startswith(harmless)
    ]
    if own["--resume"] and (given or own["--preset"] or own["--config"]):
        raise UserError(
            "--resume goes on with the settings of the stopped run; give it no flag but "
            "--checkpoint_dir"
        )
    arguments = _yaml_arguments(own["--config"]) + rest
    model = _last_value(arguments, "--model") or "enhanced"
    explicit = {_flag_name(token) for token in arguments if token.startswith("--")}
    for name in sorted(explicit & set(all_fields())):
        if model in ("enhanced", "vanilla") and model_only(name) not in (None, model):
            raise UserError(
                f"--{name} belongs to --model {model_only(name)}; --model {model} does "
                f"not read it"
            )
    preset = own["--preset"] or ("default" if own["--config"] else preset)
    default = _defaults(preset, model, explicit)
    description += (
        f"\n\nBeside the flags below: --preset {'|'.join(PRESETS)}, --config FILE.yaml "
        f"(flags by name), --resume."
    )
    return _tyro(arguments, default, description), bool(own["--resume"])


def parse_sections(
    argv: list[str], description: str, sections: Sequence[str], own: dict[str, Any]
) -> tuple[Settings, dict[str, Any]]:
    """(settings, own flags with their values) of a program that takes flags of some sections
    only, and flags of its `own` with a value each. Raises `UserError` for any other flag."""
    rest = _take_own_flags(argv, own)
    known = [name for section in sections for name in section_fields(SECTIONS[section])]
    for token in rest:
        if token.startswith("--") and _flag_name(token) not in (*known, "help"):
            flags = ", ".join(
                f"--{name}" for name in (*known, *(flag[2:] for flag in own))
            )
            raise UserError(f"unknown flag {token!r}; there are {flags}")
    return parse_command_line(rest, description)[0], own


def say_idle_flags(argv: list[str], settings: Settings) -> None:
    """Name on stderr the flags that were given and do nothing with these settings."""
    given = {_flag_name(token) for token in argv if token.startswith("--")}
    for name in sorted(given & set(all_fields())):
        needed = idle(name, settings)
        if needed:
            print(f"note: --{name} does nothing without {needed}", file=sys.stderr)


def _defaults(preset: str, model: str, explicit: set[str]) -> Settings:
    """The preset's settings, less those limits of it that an explicit flag would silently run
    into.
    """
    settings = preset_settings(preset, "vanilla" if model == "vanilla" else "enhanced")
    if "batch_size" in explicit:
        settings = settings.replace(batch_tokens=0)
    if explicit & {"max_epochs", "max_steps"}:
        settings = settings.replace(max_minutes=0.0)
    return settings


def _take_own_flags(argv: list[str], own: dict[str, Any]) -> list[str]:
    """Fill `own` from argv and return what is left; a flag that is False by default takes no
    value.
    """
    rest, tokens = [], iter(argv)
    for token in tokens:
        name, equals, value = token.partition("=")
        if name not in own:
            rest.append(token)
        elif own[name] is False:
            own[name] = True
        else:
            own[name] = value if equals else next(tokens, None)
            if not own[name]:
                raise UserError(f"{name} needs a value")
    return rest


def _flag_name(token: str) -> str:
    """Setting that a flag is about: '--no-user_ids' and '--user-ids=1' both give 'user_ids'."""
    name = token[2:].partition("=")[0].replace("-", "_")
    if name.startswith("no_") and name not in all_fields():
        return name[3:]
    return name


def _check_flag_names(tokens: list[str], extra: list[str]) -> None:
    for token in tokens:
        if token in ("--help", "-h") or not re.match(r"--?[A-Za-z]", token):
            continue
        if not token.startswith("--") or _flag_name(token) not in all_fields():
            name = token.partition("=")[0].lstrip("-").replace("-", "_")
            raise UserError(unknown_name("flag", name, tuple(extra)))


def _last_value(arguments: list[str], flag: str) -> str | None:
    value = None
    for token, following in zip(arguments, [*arguments[1:], ""], strict=False):
        if token == flag:
            value = following
        elif token.startswith(flag + "="):
            value = token.partition("=")[2]
    return value


def as_flags(name: str, value: Any) -> list[str]:
    """The flags that give a setting a value."""
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", str(value)]


def _yaml_arguments(path: str | None) -> list[str]:
    """Flags that say what a YAML file says."""
    if path is None:
        return []
    file = Path(path)
    content, lines = read_yaml(file)
    arguments = []
    for key, value in content.items():
        if key not in all_fields():
            refuse(file, lines[(key,)], unknown_name("key", key))
        if isinstance(value, list | dict | None):
            refuse(file, lines[(key,)], f"{key}: expected one value")
        arguments += as_flags(key, value)
    return arguments


def _tyro(arguments: list[str], default: Settings, description: str) -> Settings:
    import tyro

    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            return tyro.cli(
                Settings,
                args=arguments,
                default=default,
                description=description,
                use_underscores=True,
                config=(tyro.conf.OmitArgPrefixes,),
            )
    except SystemExit as stop:
        if not stop.code:  # --help
            sys.stdout.write(output.getvalue())
            raise
        # tyro draws a box; keep its words on one line.
        plain = re.sub(r"\x1b\[[0-9;]*m", "", output.getvalue())
        words = re.sub(TYRO_NOISE, " ", re.sub(r"[^\x20-\x7e]+|-{3,}", " ", plain))
        raise UserError(
            f"{' '.join(words.split())}; --help lists what each flag takes"
        ) from None
