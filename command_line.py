"""From flags and YAML files to `Settings`; whatever is wrong is answered with one line and the nearest name."""

from __future__ import annotations

import contextlib
import io
import re
import sys
from pathlib import Path
from typing import Any

from presets import PRESETS, preset_settings
from settings import Settings, all_fields, idle, model_only, unknown_name
from support.errors import UserError
from support.yaml_file import read_yaml, refuse

TYRO_NOISE = r"Parsing error|Value error|Invalid choice (?=.)|Argument helptext:.*|For full helptext.*"


def parse_command_line(argv: list[str], description: str, preset: str = "default") -> tuple[Settings, bool]:
    """(settings, resume) from flags: preset first, then --config FILE.yaml, then the flags themselves.

    preset: the one to begin with where the flags name neither a preset nor a file.

    Raises `UserError` for an unknown flag or YAML key (naming the nearest), for a value of the wrong kind, and for
    a flag that the chosen model would ignore.
    """
    own: dict[str, Any] = {"--preset": None, "--config": None, "--resume": False}
    rest = _take_own_flags(argv, own)
    preset = "default" if own["--config"] else preset
    _check_flag_names(rest, tuple(name[2:] for name in own))
    given = {name for name, value in own.items() if value and name != "--resume"} | {
        token for token in rest if token.startswith("--") and not token.startswith(("--checkpoint_dir", "--help"))}
    if own["--resume"] and given:
        raise UserError("--resume goes on with the settings of the stopped run; give it no flag but --checkpoint_dir")
    arguments = _yaml_arguments(own["--config"]) + rest
    model = _last_value(arguments, "--model") or "enhanced"
    explicit = {_flag_name(token) for token in arguments if token.startswith("--")}
    for name in sorted(explicit):
        other = model_only(name)
        if other and other != model and model in ("enhanced", "vanilla"):
            raise UserError(f"--{name} belongs to --model {other}; --model {model} does not read it")
    settings = _tyro(arguments, _defaults(own["--preset"] or preset, model, explicit),
                     description + f"\n\nBeside the flags below: --preset {'|'.join(PRESETS)}, "
                                   "--config FILE.yaml (flags by name), --resume.")
    return settings, bool(own["--resume"])


def say_idle_flags(argv: list[str], settings: Settings) -> None:
    """Name on stderr the flags that were given and do nothing with these settings."""
    for name in sorted({_flag_name(token) for token in argv if token.startswith("--")} & set(all_fields())):
        if needed := idle(name, settings):
            print(f"note: --{name} does nothing without {needed}", file=sys.stderr)


def _defaults(preset: str, model: str, explicit: set[str]) -> Settings:
    """The preset's settings, less those limits of it that an explicit flag would silently run into."""
    settings = preset_settings(preset, "vanilla" if model == "vanilla" else "enhanced")
    if "batch_size" in explicit:
        settings = settings.replace(batch_tokens=0)
    if explicit & {"max_epochs", "max_steps"}:
        settings = settings.replace(max_minutes=0.0)
    return settings


def _take_own_flags(argv: list[str], own: dict[str, Any]) -> list[str]:
    """Fill `own` from argv and return what is left."""
    rest, tokens = [], iter(argv)
    for token in tokens:
        name, equals, value = token.partition("=")
        if name == "--resume" and not equals:
            own[name] = True
        elif name in ("--preset", "--config"):
            own[name] = value if equals else next(tokens, None)
            if not own[name]:
                raise UserError(f"{name} needs a value")
        else:
            rest.append(token)
    return rest


def _flag_name(token: str) -> str:
    """Setting that a flag is about: '--no-user_id' and '--user-id=1' both give 'user_id'."""
    name = token[2:].partition("=")[0].replace("-", "_")
    return name[3:] if name.startswith("no_") and name not in all_fields() else name


def _check_flag_names(tokens: list[str], extra: tuple[str, ...]) -> None:
    for token in tokens:
        if token in ("--help", "-h") or not re.match(r"--?[A-Za-z]", token):
            continue
        if not token.startswith("--") or _flag_name(token) not in all_fields():
            raise UserError(unknown_name("flag", token.partition("=")[0].lstrip("-").replace("-", "_"), extra))


def _last_value(arguments: list[str], flag: str) -> str | None:
    value = None
    for token, following in zip(arguments, [*arguments[1:], ""], strict=False):
        if token == flag:
            value = following
        elif token.startswith(flag + "="):
            value = token.partition("=")[2]
    return value


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
        if isinstance(value, bool):
            arguments.append(f"--{key}" if value else f"--no-{key}")
        else:
            arguments += [f"--{key}", str(value)]
    return arguments


def _tyro(arguments: list[str], default: Settings, description: str) -> Settings:
    import tyro

    output = io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            return tyro.cli(Settings, args=arguments, default=default, description=description, use_underscores=True,
                            config=(tyro.conf.OmitArgPrefixes,))
    except SystemExit as stop:
        if not stop.code:  # --help
            sys.stdout.write(output.getvalue())
            raise
        # tyro draws a box; keep its words on one line.
        words = re.sub(r"[^\x20-\x7e]+|-{3,}", " ", re.sub(r"\x1b\[[0-9;]*m", "", output.getvalue()))
        words = re.sub(TYRO_NOISE, " ", words)
        raise UserError(" ".join(words.split()) + "; --help lists what each flag takes") from None
