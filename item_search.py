"""Finds items by ids, names, and conditions on columns."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dataset import Table
from fields import UNKNOWN
from schema import Schema
from support.errors import UserError, nearest
from support.files import check_regular

# 'Matrix, The (1999)', up to the parenthesis. Anchored, so that it takes no longer than a name.
ARTICLE_LAST = re.compile(
    r"^(.+), (the|an?|l[ea]s?|l'|une?|el|los|il|die|der|das)( *)$", re.DOTALL
)
ARTICLE_AT_END = re.compile(
    r"^(.+), (The|An?|L[ea]s?|L'|Une?|El|Los|Il|Die|Der|Das)( *)$", re.DOTALL
)
YEAR_LAST = re.compile(r"\(\d{4}\)$")
ARTICLE = re.compile(r"^(the|an?) ")


def listed(text: str) -> str:
    """A list of items in the form of `find_items`; @FILE stands for the lines of a file.

    Raises `UserError` for a file that cannot be read.
    """
    if not text.startswith("@"):
        return text
    try:
        check_regular(Path(text[1:]))
        content = Path(text[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise UserError(f"{text[1:]} cannot be read: {reason}") from None
    lines = [line.strip() for line in content.splitlines() if line.strip()]
    numbers = all(re.fullmatch(r"-?\d+", line) for line in lines)
    return (", " if numbers else "; ").join(lines)


def find_items(items: Table, schema: Schema, text: str) -> list[Any]:
    """Ids of a list given as ids with commas, or as names with semicolons.

    Raises `UserError` for a name that fits no item or several items.
    """
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if all(_is_id(items, part) for part in parts):
        return [items.parse_id(part) for part in parts]
    known = _Names(items)
    names = [part.strip() for part in text.split(";") if part.strip()]
    # Commas separate names too unless the whole is one: 'Piano, The'.
    if len(names) > 1 or known.rows_of(text):
        parts = names
    return [_id_of(items, known, schema, part) for part in parts]


def _is_id(items, text):
    if items.numeric:
        return bool(re.fullmatch(r"-?\d+", text))
    return items.index([text])[0] != UNKNOWN


def _id_of(items, known, schema, text):
    if _is_id(items, text):
        return items.parse_id(text)
    names = items.names
    found = known.rows_of(text)
    if len(found) == 1:
        return items.id(found[0])
    if found:
        listed = ", ".join(repr(names[row]) for row in found[:4])
        raise UserError(
            f"{text!r} fits {len(found)} {schema.nouns}, such as {listed}; give the whole "
            f"name, or the id"
        )
    parts = text.split()
    hint = "give an id or a name"
    if len(parts) > 1 and all(_is_id(items, part) for part in parts):
        hint = f"separate ids with commas: {','.join(parts)}"
    else:
        hint = nearest(text, names[items.first :], hint)
    raise UserError(
        f"no {schema.noun} in the catalogue is called {text!r}; {hint}"
    )


def rows_where(
    items: Table, conditions: Sequence[str], flag: str = "--where"
) -> np.ndarray:
    """(R,) True at the items that meet all conditions: 'colour=red,blue' (any of these),
    'price<=20'.

    Raises `UserError`, naming the flag, for an invalid condition, an unknown column or value.
    """
    found = np.arange(len(items)) >= items.first
    for condition in conditions:
        match = re.fullmatch(
            r"(\w+)\s*(>=|<=|=|>|<)\s*(.+)", condition.strip(), re.DOTALL
        )
        if match is None:
            raise UserError(
                f"{flag} {condition!r}: write column=value or column>=number"
            )
        name, sign, value = match.groups()
        if (
            name not in items.fields
            or items.fields[name].column.kind == "vector"
        ):
            listed = ", ".join(items.fields) or "none"
            hint = nearest(name, items.fields, f"there are {listed}")
            raise UserError(
                f"{flag} {condition!r}: no column is called {name!r}; {hint}"
            )
        entry, values = items.fields[name], items.data[name]
        try:
            found &= _meets(entry, values, sign, value)
        except UserError as error:
            raise UserError(f"{flag} {name}: {error}") from None
    return found


def _meets(entry, values, sign, wanted):
    kind = entry.column.kind
    if kind == "text":
        if sign != "=":
            raise UserError(f"it is text; write {entry.name}=word")
        return np.array(
            [wanted.casefold() in str(text).casefold() for text in values]
        )
    if kind in ("category", "tags") and sign == "=":
        codes = _codes(entry, wanted)
        return np.isin(values.reshape(len(values), -1), codes).any(1)
    numbers = entry.as_numbers(values)
    if numbers is None:
        raise UserError(f"it has no order; write {entry.name}=value")
    try:
        limit = float(wanted)
    except ValueError:
        raise UserError(f"{wanted!r} is not a number") from None
    compare = {
        ">=": np.greater_equal,
        "<=": np.less_equal,
        ">": np.greater,
        "<": np.less,
        "=": np.equal,
    }[sign]
    return compare(numbers, limit)


def _codes(entry, wanted):
    """Codes of values with commas between; a value may hold a comma itself."""
    parts, codes = wanted.split(","), []
    while parts:
        for count in range(len(parts), 0, -1):
            text = ",".join(parts[:count])
            found = entry.find(text)
            if found:
                codes.append(found)
                parts = parts[count:]
                break
        else:
            value, listed = parts[0].strip(), ", ".join(entry.values[:40])
            hint = nearest(
                value, entry.values, f"there are {listed or 'none'}"
            )
            raise UserError(f"no value is called {value!r}; {hint}")
    return codes


def folded(name: str) -> str:
    """A name in the form in which names are compared: lower case, without accents and punctuation,
    with an article at its end moved to the front."""
    signs = unicodedata.normalize("NFKD", str(name).lower())
    letters = "".join(
        sign for sign in signs if not unicodedata.combining(sign)
    )
    parts = re.split("([()])", letters)
    plain = "".join(map(_article_first, parts))
    return " ".join(re.findall(r"\w+", re.sub("['’.*]", "", plain)))


def _article_first(part):
    if ", " not in part:
        return part
    return ARTICLE_LAST.sub(r"\2 \1\3", part)


def spoken(name: str) -> str:
    """A name as people say it: 'Matrix, The (1999)' as 'The Matrix (1999)'."""
    title, year = str(name), YEAR_LAST.search(str(name))
    if year:
        title = title[: year.start()].rstrip()
    if ", " in title:
        # Other names of the item stand in parentheses: each part has its own article.
        parts = re.split("([()])", title)
        title = "".join(map(_spoken_part, parts))
    return f"{title} {year[0]}" if year else title


def _spoken_part(part):
    found = ARTICLE_AT_END.match(part)
    if not found:
        return part
    rest, article, space = found.groups()
    between = "" if article.endswith("'") else " "
    return f"{article}{between}{rest}{space}"


class _Names:
    """Names of the items in the forms by which they are found, each made once."""

    def __init__(self, items: Table) -> None:
        self.rows = items.rows.tolist()
        names = [str(items.names[row]) for row in self.rows]
        self.folded = [folded(name) for name in names]
        undated = [YEAR_LAST.sub("", name) for name in names]
        bare = [_bare(folded(name.partition(" (")[0])) for name in names]
        self.by_form = [
            self._by_name(forms)
            for forms in (self.folded, map(folded, undated), bare)
        ]

    def _by_name(self, forms):
        found = defaultdict(list)
        for row, form in zip(self.rows, forms, strict=True):
            found[form].append(row)
        return found

    def rows_of(self, name: str) -> list[int]:
        """Rows of the items with this name: exactly, else without the year, then without what
        stands in parentheses and the article, else holding its words, else its letters."""
        wanted = folded(name)
        if not wanted:
            return []
        whole, undated, bare = self.by_form
        return (
            whole.get(wanted)
            or undated.get(wanted)
            or bare.get(_bare(wanted))
            or self._holding(f" {wanted} ")
            or self._holding(wanted)
        )

    def _holding(self, text):
        return [
            row
            for row, form in zip(self.rows, self.folded, strict=True)
            if text in f" {form} "
        ]


def _bare(name):
    return ARTICLE.sub("", name)
