"""`--preset auto`: settings from figures of the data; flags come before it."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest

import auto_preset
import trainer
from auto_preset import MANY_ITEMS, OF_FEW, as_flags, fitted
from command_line import parse_command_line
from data_processor import from_frames
from run_folder import newest_run
from settings import Settings
from support.errors import UserError, run_command


def log_of(users, items, length, seed=0):
    """A log of users with so many interactions each, with different items."""
    draw = np.random.default_rng(seed)
    chosen = [draw.permutation(items)[:length] for _ in range(users)]
    return pd.DataFrame(
        {
            "user": np.repeat(np.arange(users), length),
            "item": np.concatenate(chosen),
            "time": 1_600_000_000 + np.arange(users * length) * 60,
        }
    )


@pytest.mark.parametrize(
    ("users", "items", "length", "few", "seq_length"),
    [
        (300, 20, 10, False, 16),  # 120 interactions of an item
        (200, 20, 10, True, 16),  # 80, but few in all
        (300, 400, 10, True, 16),
        (40, 300, 60, True, 64),
        (20, 400, 300, True, 200),
    ],
)
def test_the_rule(monkeypatch, users, items, length, few, seq_length):
    monkeypatch.setattr(auto_preset, "FEW", 2000)
    values, figures = fitted(from_frames(log_of(users, items, length)))
    assert values["seq_length"] == seq_length
    assert (OF_FEW.items() <= values.items()) == few
    assert "loss" not in values and items < MANY_ITEMS
    assert f"{users * (length - 2):,} training interactions" in figures
    assert Settings().replace(**values)


def test_users_who_do_not_train_are_not_counted():
    """Of the split into users, those asked have no training part."""
    data = from_frames(log_of(40, 400, 120))
    ends = data.split.train_ends.copy()
    ends[2:] = data.offsets[2:-1]  # one user is left
    split = dataclasses.replace(data.split, train_ends=ends)
    values, _ = fitted(data.replace(split=split))
    assert values["seq_length"] == 120


def test_flags_come_before_the_rule():
    def derive(_settings):
        return {"dropout": 0.3, "user_ids": False, "batch_tokens": 1024}

    flags = ["--preset", "auto", "--dropout", "0.7", "--batch_size", "9"]
    settings, _ = parse_command_line(flags, "", derive)
    assert settings.model.dropout == 0.7
    assert not settings.model.user_ids
    # It would overrule the batch size that was given.
    assert settings.train.batch_tokens == 0
    vanilla, _ = parse_command_line(
        ["--preset", "auto", "--model", "vanilla"], "", derive
    )
    assert (vanilla.model.dropout, vanilla.model.user_ids) == (0.3, True)
    with pytest.raises(UserError, match="auto"):
        parse_command_line(flags, "")


def test_flags_as_one_would_type_them():
    values = {"user_ids": False, "start_token": True, "dropout": 0.3}
    assert as_flags(values) == "--no_user_ids --start_token --dropout 0.3"


def test_next_months_file(tmp_path, capsys):
    """A folder with one more file goes on from the model of the first: its shape stays."""
    folder = tmp_path / "orders"
    folder.mkdir()
    places = [
        "--checkpoint_dir",
        str(tmp_path / "c"),
        "--runs_dir",
        str(tmp_path),
    ]
    command = ["--preset", "auto", "--dataset", f"{folder}/*.csv", *places]
    first = log_of(30, 40, 8)
    first.to_csv(folder / "january.csv", index=False)
    small = ["--hidden_size", "16", "--max_steps", "2"]
    assert run_command(trainer.main, [*command, *small]) == 0
    later = log_of(45, 60, 20, seed=1)
    later = later.merge(first[["user", "item"]], how="left", indicator=True)
    later = later[later.pop("_merge") == "left_only"]
    later["time"] += 10_000_000
    later.to_csv(folder / "february.csv", index=False)
    goes_on = [
        "--start_from",
        str(tmp_path / "c" / "best"),
        "--max_steps",
        "1",
    ]
    assert run_command(trainer.main, [*command, *goes_on]) == 0
    best = newest_run(tmp_path / "c") / "best" / "checkpoint.json"
    info = json.loads(best.read_text())
    assert info["settings"]["hidden_size"] == 16
    assert len(pd.read_parquet(best.with_name("users.parquet"))) == 45
    items = pd.read_parquet(best.with_name("items.parquet"))
    assert info["num_items"] == len(items) > 40
    assert "preset auto: " in capsys.readouterr().out
