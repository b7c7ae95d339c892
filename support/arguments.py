"""argparse that answers a wrong flag with one line and the nearest name."""

from __future__ import annotations

import argparse
import difflib
from typing import NoReturn

from support.errors import UserError


class ArgumentParser(argparse.ArgumentParser):
    """Raises `UserError` where argparse would print its usage; flags cannot be abbreviated."""

    def __init__(self, description: str | None) -> None:
        super().__init__(
            description=description,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    # type: ignore[override]
    def parse_args(self, args: list[str]) -> argparse.Namespace:
        """Parsed flags."""
        parsed, rest = self.parse_known_args(args)
        if rest:
            known = [
                option for action in self._actions for option in action.option_strings
            ]
            near = difflib.get_close_matches(
                rest[0].partition("=")[0], known, n=1, cutoff=0.5
            )
            raise UserError(
                f"unknown flag {rest[0]!r}"
                + (f"; did you mean {near[0]}?" if near else "; see --help")
            )
        return parsed

    def error(self, message: str) -> NoReturn:
        """argparse's own complaint, as a `UserError`."""
        raise UserError(f"{message}; see --help")


def seeds(text: str) -> list[int]:
    """The seeds of so many runs: 42, 43, ... Raises `ArgumentTypeError` if it is not a number
    above 0.
    """
    if not text.isdecimal() or int(text) == 0:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of seeds (which are 42, 43, ...)"
        )
    return list(range(42, 42 + int(text)))
