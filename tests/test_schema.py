"""Schemas: wrong ones are refused with their line, right ones survive being written and read."""

from pathlib import Path

import pandas as pd
import pytest

from data_processor import process, write_schema
from model_io import new_model
from readers.raw import File, assemble
from schema import read_schema, schema_of
from settings import DataSettings, ModelSettings
from support.errors import UserError
from tests.conftest import ROOT, SHOP, TINY_MODEL

GOOD = """name: shop
noun: article
interactions:
  user: customer
  item: sku
  columns:
    channel: {kind: category, predict: true}
items:
  id: sku
  columns:
    price: number
    shelf: {kind: tags, separator: ";"}
users:
  id: customer
  columns:
    club: {kind: category, counterfactual: true}
"""


def test_the_schema_is_read(tmp_path):
    (tmp_path / "shop.yaml").write_text(GOOD)
    schema = read_schema(tmp_path / "shop.yaml")
    assert (
        schema.nouns == "articles"
        and schema.items.columns["shelf"].separator == ";"
    )
    assert schema.interactions.roles == {"user": "customer", "item": "sku"}


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("name: shop", "title: shop", 1, "title: unknown key"),
        (
            "noun: article",
            "noun: [article]",
            2,
            "noun: Input should be a valid string",
        ),
        (
            "price: number",
            "price: numbers",
            11,
            "Input should be 'category', 'tags'",
        ),
        ("price: number", "price: 3", 11, "price"),
        (
            "price: number",
            "list price: number",
            11,
            "a name has letters, digits and _ alone",
        ),
        (
            "predict: true",
            "predict: maybe",
            7,
            "predict: Input should be a valid boolean",
        ),
        ("predict: true", "predicts: true", 7, "predicts: unknown key"),
        (
            "kind: category, predict",
            "kind: number, predict",
            7,
            "predict is not for a number of",
        ),
        (
            "channel: {kind: category",
            "channel: {kind: text",
            7,
            "put text into the table",
        ),
        ("id: customer", "user: customer", 14, "users.user: users have id"),
        (
            'tags, separator: ";"',
            "tags, counterfactual: true",
            12,
            "counterfactual is not for a tags",
        ),
        (
            "item: sku",
            "item: [sku]",
            5,
            "interactions.item: Input should be a valid string",
        ),
    ],
)
def test_a_wrong_schema_is_refused_with_its_line(
    tmp_path, old, new, line, message
):
    assert old in GOOD
    path = tmp_path / "shop.yaml"
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        read_schema(path)
    text = str(caught.value)
    assert (
        text.startswith(f"{path}:{line}:")
        and message in text
        and "\n" not in text
    )


def test_a_table_without_what_it_must_say_is_refused(tmp_path):
    (tmp_path / "shop.yaml").write_text(GOOD.replace("  id: sku\n", ""))
    with pytest.raises(UserError, match=r"shop\.yaml:8: items: lacks its id"):
        read_schema(tmp_path / "shop.yaml")


@pytest.mark.parametrize(
    "name", sorted(path.stem for path in (ROOT / "datasets").glob("*.yaml"))
)
def test_shipped_schemas_survive_being_written(name, tmp_path):
    schema = read_schema(ROOT / "datasets" / f"{name}.yaml")
    write_schema(schema, tmp_path / "again.yaml")
    again = read_schema(tmp_path / "again.yaml")
    assert again.interactions.columns == schema.interactions.columns
    assert (again.items.columns, again.users.columns) == (
        schema.items.columns,
        schema.users.columns,
    )
    shop = schema_of(SHOP, Path("x"), {})
    assert schema_of(shop.to_dict(), Path("x"), {}) == shop


@pytest.mark.parametrize(
    "name", ["type", "items", "keys", "forward", "training", "float"]
)
def test_a_column_may_have_any_name(name):
    """Also one that a module of torch has already, in all three tables."""
    rows = [
        (f"u{user}", f"i{(user + place) % 7}")
        for user in range(9)
        for place in range(5)
    ]
    frame = pd.DataFrame(rows, columns=["u", "i"]).assign(
        x=["ab"[row % 2] for row in range(45)]
    )
    items = pd.DataFrame(
        {"i": [f"i{row}" for row in range(7)], "x": list("aabbccd")}
    )
    users = pd.DataFrame(
        {"u": [f"u{row}" for row in range(9)], "x": list("aabbccdde")}
    )
    column = {"kind": "category", "source": "x"}
    schema = {
        "name": "any",
        "interactions": {
            "user": "u",
            "item": "i",
            "columns": {name: {**column, "predict": True}},
        },
        "items": {"id": "i", "columns": {name: {**column, "predict": True}}},
        "users": {"id": "u", "columns": {name: column}},
    }
    files = {
        "interactions": File(frame, "i"),
        "items": File(items, "t"),
        "users": File(users, "u"),
    }
    data = process(
        assemble(schema_of(schema, Path("x"), {}), files),
        DataSettings(dataset="any"),
    )
    model = new_model(data, ModelSettings(**TINY_MODEL))
    assert list(model.value_heads) == list(model.preference_heads) == [name]
    assert set(model.frozen().families) == {
        f"{table}.{name}" for table in ("interactions", "items", "users")
    } | {"users.id"}


@pytest.mark.parametrize(
    ("values", "named"),
    [
        (
            ["a", 2, True, None],
            {"a": "a", "2": "2", "True": "True", "None": "None"},
        ),
        ({"F": None, 1: "one", 2: True}, {"F": "F", "1": "one", "2": "True"}),
    ],
)
def test_declared_values_are_text(values, named):
    column = {"kind": "category", "values": values}
    content = {
        "name": "any",
        "interactions": {"user": "u", "item": "i", "columns": {"c": column}},
    }
    schema = schema_of(content, Path("x"), {})
    assert schema.interactions.columns["c"].values == named


def test_a_column_may_not_take_the_place_of_the_name(tmp_path):
    """Its field would be shown as the item's name."""
    path = tmp_path / "own.yaml"
    path.write_text(
        "name: own\n"
        "interactions: {file: log.csv, user: user, item: item}\n"
        "items:\n  file: items.csv\n  id: item\n  name: title\n"
        "  columns:\n    name: {kind: category, source: brand}\n"
    )
    with pytest.raises(UserError, match=r"own\.yaml:8: .*the role name is title"):
        read_schema(path)
