"""argparse whose errors are one line with the nearest flag."""

import argparse
import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from support.errors import UserError, nearest

MOST_SEEDS = 1000
MOST_HINTS = 3  # flags that a hint names


class ArgumentParser(argparse.ArgumentParser):
    """Raises `UserError` instead of printing the usage; flags cannot be abbreviated.

    lone: a hint for an argument that is no flag.
    """

    def __init__(
        self,
        description: str | None,
        lone: Callable[[str], str] = lambda text: "see --help",
    ) -> None:
        super().__init__(
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        self.lone = lone
        self.add_argument(
            "--version",
            action=_Version,
            nargs=0,
            default=argparse.SUPPRESS,
            help="print the commit of this program, and end",
        )

    def parse_args(self, args: list[str]) -> argparse.Namespace:  # type: ignore[override]
        """Parsed flags."""
        parsed, rest = self.parse_known_args(args)
        if rest:
            name = rest[0].partition("=")[0]
            if name.startswith("-"):
                hint = nearest_flags(name, self._option_string_actions)
            else:
                hint = self.lone(rest[0])
            raise UserError(f"unknown flag {name!r}; {hint}")
        return parsed

    def error(self, message: str) -> NoReturn:
        """argparse's own complaint, as a `UserError`."""
        raise UserError(f"{message.removeprefix('argument ')}; see --help")


class _Version(argparse.Action):
    def __call__(self, parser, *_rest):
        from support.tracking import git_commit

        print(f"Enhanced BERT4Rec, commit {git_commit()}")
        parser.exit()


def nearest_flags(name: str, known: Iterable[str]) -> str:
    """A hint for an unknown flag: those of which it is the beginning or the initials, else the
    nearest."""
    wanted = name.lstrip("-").replace("-", "_")
    found = []
    for flag in known:
        words = flag.lstrip("-").split("_")
        initials = "".join(word[:1] for word in words)
        begins = len(wanted) > 1 and flag.lstrip("-").startswith(wanted)
        if begins or (len(words) > 1 and initials == wanted):
            found.append(flag)
    if found and len(found) <= MOST_HINTS:
        return f"did you mean {' or '.join(found)}?"
    return nearest(name, known, "see --help")


def model_parser(
    description: str | None,
    default: str | None = "checkpoints/best",
    lone: Callable[[str], str] = lambda text: "see --help",
) -> ArgumentParser:
    """A parser with the flags of a program that opens a trained model. lone: as in
    `ArgumentParser`."""
    parser = ArgumentParser(description, lone)
    text = "folder of a trained model (default: %(default)s)"
    parser.add_argument("--model_path", type=Path, default=default, help=text)
    text = "folder with the data set's files (default: as in training)"
    parser.add_argument("--data_dir", help=text)
    return parser


def whole(least: int, most: int = 1_000_000_000) -> Callable[[str], int]:
    """A parser of whole numbers in a range. It raises `ArgumentTypeError` for others."""

    def read(text: str) -> int:
        digits = text.removeprefix("-")
        if digits.isascii() and digits.isdecimal() and len(digits) < 20:
            number = int(text)
            if least <= number <= most:
                return number
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a whole number from {least:,} to {most:,}"
        )

    return read


def share(text: str) -> float:
    """A number from 0 to 1. Raises `ArgumentTypeError` for another one."""
    with contextlib.suppress(ValueError):
        if 0 <= float(text) <= 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 1")


def seeds(text: str) -> list[int]:
    """The seeds of so many runs: 42, 43, ... Raises as `whole` does."""
    return list(range(42, 42 + whole(1, MOST_SEEDS)(text)))


def names_of(text: str) -> list[str]:
    """Names separated by commas; 'none' and '' are no names."""
    if text == "none":
        return []
    return [name.strip() for name in text.split(",") if name.strip()]
