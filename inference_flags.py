"""The flags of `inference.py`."""

import math
from typing import Any

from support.arguments import ArgumentParser, model_parser, share, whole
from support.errors import require

ONE_USER = (
    "user_id",
    "history",
    "at",
    "set",
    "where",
    "only",
    "without",
    "similar_to",
    "prefer_expected",
    "explain",
    "no_explain",
    "json",
)
MANY_USERS = ("output", "vectors", "precision", "ray")
# Items like another one depend on no user.
NOT_SIMILAR = (
    *MANY_USERS,
    *("user_id", "history", "history_until", "at", "set", "filter_seen"),
    *("only", "without", "rank_by", "diversity", "prefer_expected"),
    "explain",
)
ENDINGS = (".csv", ".parquet")  # of a file of lists
FILTERS = {"auto": None, "yes": True, "no": False}


def _fact(text):
    """A column of the user and its value, as --set gives them."""
    name, equals, value = text.partition("=")
    require(equals, f"--set {text!r}: write COLUMN=VALUE, as in --set age=25")
    return name.strip(), value.strip()


def _least(text):
    if text == "mean":
        return text
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    require(
        math.isfinite(value),
        f"--prefer_expected {text!r}: give a number, as in --prefer_expected 3.5, or mean",
    )
    return value


def _moment(text):
    from profiles import parse_time

    return parse_time(text)


# Group -> flag -> how it is read.
FLAGS: dict[str, dict[str, dict[str, Any]]] = {
    "for whom": {
        "user_id": {"help": "a user of the data"},
        "history": {
            "help": "items a user has had, oldest first: ids with commas or names with semicolons"
        },
        "set": {
            "type": _fact,
            "action": "append",
            "default": [],
            "metavar": "COLUMN=VALUE",
            "help": "a column of a new user, or instead of what the data say: --set age=25",
        },
        "at": {
            "type": _moment,
            "help": "moment of the request (ISO, UTC, or seconds), for --query_time known",
        },
        "history_until": {
            "choices": ("end", "test", "validation"),
            "default": "end",
            "help": "of users of the data: whole histories, or what comes before the held-out "
            "interaction",
        },
    },
    "which items": {
        "k": {
            "type": whole(1),
            "default": 10,
            "help": "how many items (default: 10)",
        },
        "where": {
            "action": "append",
            "default": [],
            "metavar": "CONDITION",
            "help": 'items that meet a condition: --where "price<=20" --where colour=red,blue',
        },
        "only": {
            "metavar": "ITEMS",
            "help": "no other items than these: ids or names as in --history, or @FILE "
            "with one a line",
        },
        "without": {
            "metavar": "ITEMS",
            "help": "not these items, in the same forms",
        },
        "filter_seen": {
            "choices": FILTERS,
            "default": "auto",
            "help": "leave out items of the history; auto = unless the schema allows repeats",
        },
        "rank_by": {
            "choices": ("next", "liked"),
            "default": "next",
            "help": "next: what comes next; liked: what comes next and is rated at least as the "
            "user's mean (reranking.py)",
        },
        "prefer_expected": {
            "type": _least,
            "metavar": "VALUE",
            "help": "a list whose expected rating is at least this on average, changed as little "
            "as possible; 'mean' = the user's mean",
        },
        "diversity": {
            "type": share,
            "default": 0.0,
            "help": "0 to 1: how much items unlike each other are preferred (default: 0)",
        },
        "similar_to": {
            "metavar": "ITEM",
            "help": "items with a vector like that of this one, instead of recommendations",
        },
    },
    "how it is printed": {
        "no_explain": {
            "action": "store_true",
            "help": "recommendations without reasons",
        },
        "explain": {
            "action": "store_true",
            "help": "all that speaks for each item, without what it would leave the list, and how "
            "it would rank for others",
        },
        "json": {"action": "store_true", "help": "print JSON"},
    },
    "many users": {
        "users": {
            "help": "'all' or a list of ids: recommendations for many, to --output"
        },
        "output": {
            "help": "with --users: FILE.parquet or FILE.csv to write, FOLDER/ for a file of every "
            "100,000 users, or - for CSV on the terminal"
        },
        "vectors": {
            "metavar": "FOLDER",
            "help": "with --users: write vectors of all items and of these users, for an index of "
            "nearest neighbours (vectors.py)",
        },
        "precision": {
            "choices": ("auto", "fp32", "bf16"),
            "default": "auto",
            "help": "with --users: auto encodes whole histories in bf16 where that is faster",
        },
        "ray": {
            "metavar": "ADDRESS",
            "help": "with --output FOLDER/: spread the files over a Ray cluster: auto or "
            "host:port, or local",
        },
    },
}


def _lone(text):
    if text.isdigit():
        return f"did you mean --user_id {text}?"
    return "put a history in quotes, with ; between names or , between ids"


def parser_of(description: str) -> ArgumentParser:
    """The parser of the command line."""
    parser = model_parser(description, lone=_lone)
    parser.usage = "%(prog)s [--FLAG VALUE ...]"
    for title, flags in FLAGS.items():
        group = parser.add_argument_group(title)
        for name, options in flags.items():
            group.add_argument(f"--{name}", **options)
    return parser
