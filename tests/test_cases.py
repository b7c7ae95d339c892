"""Small inputs after public reports from users of other systems, each with what is right."""

import io
import json
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

import inference
import trainer
from bert4rec import BERT4Rec
from data_processor import Dataset, from_sequences, load
from engine import RecommendationEngine
from enhanced_model import EnhancedBERT4Rec
from readers import read
from settings import DataSettings
from support.errors import UserError, run_command

TINY = ["--preset", "quick", "--max_steps", "3", "--precision", "fp32"]
TINY += ["--hidden_size", "8", "--num_layers", "1", "--seq_length", "8"]
TINY += ["--device", "cpu"]


def train(folder, dataset, *flags):
    """Exit code of a tiny training."""
    places = ["--checkpoint_dir", str(folder), "--runs_dir", str(folder)]
    return run_command(
        trainer.main, [*TINY, "--dataset", str(dataset), *places, *flags]
    )


def events(users=40, items=30, each=12):
    """Each user has some of the items, once each, a minute apart."""
    draw = np.random.default_rng(0)
    rows = []
    for user in range(1, users + 1):
        for place, item in enumerate(draw.permutation(items)[:each] + 1):
            stars = int(draw.integers(1, 6))
            rows.append((user, item, stars, 10**9 + 1000 * user + 60 * place))
    return pd.DataFrame(rows, columns=["user", "item", "rating", "time"])


def csv(folder, frame, name="a.csv"):
    frame.to_csv(folder / name, index=False)
    return folder / name


def test_training_goes_on_only_from_what_these_users_begin_with(
    tmp_path, capsys
):
    """Case 1: as long a training part in another order is another training part."""
    frame = events()
    forwards = csv(tmp_path, frame)
    backwards = csv(
        tmp_path, frame.assign(time=3 * 10**9 - frame["time"]), "b.csv"
    )
    assert train(tmp_path / "a", forwards) == 0
    start = ["--start_from", str(tmp_path / "a" / "best")]
    assert train(tmp_path / "b", backwards, *start) == 2
    assert (
        "may have been trained on what is held out" in capsys.readouterr().err
    )
    assert train(tmp_path / "c", forwards, *start) == 0


@pytest.mark.parametrize(
    "other", [{"num_heads": 4}, {"attention_type": "causal"}]
)
def test_what_leaves_no_trace_in_shapes_is_compared(tmp_path, other):
    """Case 2."""
    shape = {"hidden_size": 16, "num_layers": 1, "max_seq_length": 10}
    model = BERT4Rec(14, **shape)
    model.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="another model"):
        BERT4Rec(14, **shape, **other).load_pretrained(tmp_path)
    again = BERT4Rec.from_pretrained(tmp_path)
    assert again.settings == model.settings
    wanted, found = model.state_dict(), again.state_dict()
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)


def test_a_trained_model_by_its_folder(tmp_path):
    """Case 2, of the other model."""
    assert train(tmp_path, csv(tmp_path, events())) == 0
    model = EnhancedBERT4Rec.from_pretrained(tmp_path / "best")
    assert isinstance(model, EnhancedBERT4Rec) and not model.training


def test_users_that_training_never_saw_have_no_vector_later(tmp_path):
    """Newer interactions move the date of the split behind them."""
    frame = events()
    path = csv(tmp_path, frame)
    assert train(tmp_path / "a", path, "--protocol", "global_time") == 0
    before = RecommendationEngine(tmp_path / "a" / "best")
    users = before.data.catalogue.users.ids.tolist()
    known = [bool(before.history(user).user) for user in users]
    assert not all(known) and any(known)
    newer = frame[frame["user"] <= 12]
    newer = newer.assign(item=31 - newer["item"], time=2 * 10**9)
    both = pd.concat([frame, newer]).drop_duplicates(["user", "item"])
    csv(tmp_path, both)
    after = RecommendationEngine(tmp_path / "a" / "best")
    assert [bool(after.history(user).user) for user in users] == known


def test_what_was_left_out_of_training_was_seen(tmp_path):
    """Case 3: films of one to three stars do not train, and are not recommended either."""
    frame = events()
    keep = ["--keep", "rating>=4"]
    assert train(tmp_path / "a", csv(tmp_path, frame), *keep) == 0
    engine = RecommendationEngine(tmp_path / "a" / "best")
    data = engine.data
    assert len(data.items) < len(frame)
    for user in data.catalogue.users.ids.tolist():
        seen = set(frame.loc[frame["user"] == user, "item"])
        found = engine.get_recommendations(user, k=30)
        assert found and not seen & {item.id for item in found}
    # Before a held-out interaction, what came after it is not known to be seen.
    requests = data.split.requests["test"]
    for user, end in zip(requests.users, requests.ends, strict=True):
        name = data.catalogue.users.id(user)
        before = frame[
            (frame["user"] == name) & (frame["time"] <= data.times[end])
        ]
        items = set(data.catalogue.items.id_array(data.seen(user, end)))
        known = set(before["item"]) & set(data.catalogue.items.ids)
        assert items == known - {data.catalogue.items.id(data.items[end])}


@pytest.mark.parametrize("unit", [1, 1000, 10**6, 10**9])
def test_times_in_any_unit(tmp_path, unit, capsys):
    """Case 4: and dates are shown."""
    frame = events()
    frame["time"] *= unit
    path = csv(tmp_path, frame)
    times = load(DataSettings(dataset=str(path))).times
    assert times.min() == events()["time"].min()
    if unit == 1000:
        assert train(tmp_path, path) == 0
        flags = ["--model_path", str(tmp_path / "best"), "--user_id", "5"]
        assert run_command(inference.main, flags) == 0
        assert "error" not in capsys.readouterr().err


def test_a_split_without_requests_is_refused_before_training(tmp_path, capsys):
    """Case 5."""
    early = [(user, item, 10**9) for user in (1, 2, 3) for item in (1, 2, 3)]
    late = [(user, item, 2 * 10**9) for user in range(4, 9) for item in (1, 2)]
    names = ["user", "item", "time"]
    path = csv(tmp_path, pd.DataFrame(early + late, columns=names))
    assert train(tmp_path, path, "--protocol", "global_time") == 2
    assert "take another protocol" in capsys.readouterr().err
    few = csv(tmp_path, events(users=3, each=8), "b.csv")
    flags = ["--protocol", "multi5", "--model", "vanilla"]
    assert train(tmp_path, few, *flags) == 2
    assert "--protocol multi5" in capsys.readouterr().err


def test_histories_of_every_kind(tmp_path):
    """Case 6."""
    assert train(tmp_path, csv(tmp_path, events())) == 0
    engine = RecommendationEngine(tmp_path / "best")
    wanted = engine.get_recommendations(None, [3, 9])
    kinds = (
        np.array([3, 9]),
        pd.Series([3, 9]),
        (np.int32(3), np.int64(9)),
        iter([3, 9]),
        (item for item in (3, 9)),
        torch.tensor([3, 9]).numpy(),
    )
    for history in kinds:
        assert engine.get_recommendations(None, history) == wanted


def test_one_user_without_anything_left_stops_no_other(tmp_path, capsys):
    """Case 7."""
    rows = [(1, item, 10**9 + item) for item in range(11)]
    rows += [
        (user, (user + item) % 11, 10**9 + item)
        for user in (2, 3)
        for item in range(4)
    ]
    frame = pd.DataFrame(rows, columns=["user", "item", "time"])
    assert train(tmp_path, csv(tmp_path, frame)) == 0
    output = tmp_path / "all.csv"
    flags = ["--users", "all", "--k", "3", "--output", str(output)]
    code = run_command(
        inference.main, ["--model_path", str(tmp_path / "best"), *flags]
    )
    assert code == 0
    counts = pd.read_csv(output)["user_id"].value_counts().to_dict()
    assert counts == {2: 3, 3: 3}
    assert "1 of them have fewer than 3 left" in capsys.readouterr().out


def test_repeats_have_both_figures(tmp_path, capsys):
    """Case 8: where items repeat, the table says what the filter does to the figure."""
    draw = np.random.default_rng(0)
    rows = [
        (user, 6 * user + int(item), 10**9 + place)
        for user in range(60)
        for place, item in enumerate(draw.integers(0, 6, 14))
    ]
    frame = pd.DataFrame(rows, columns=["user", "item", "time"])
    assert train(tmp_path, csv(tmp_path, frame)) == 0
    ranking = json.loads((tmp_path / "best" / "results.json").read_text())
    kept = ranking["ranking"]["enhanced"]["HR@10"]["mean"]
    hidden = ranking["ranking"]["enhanced, history left out"]["HR@10"]["mean"]
    assert hidden < kept
    assert "history left out" in capsys.readouterr().out


def test_ids_that_are_none_are_refused(tmp_path):
    """Case 9."""
    for history in ([[1.6, 5.9]], [["B0A"]], [[None]], [[float("nan"), 2]]):
        with pytest.raises(UserError, match="whole numbers from 1"):
            from_sequences(history, 14)
    frame = events()
    for column, bad in (
        ("item", frame["item"] + 0.5),
        ("user", [[1]] * len(frame)),
        ("item", [{"a": 1}] * len(frame)),
    ):
        with pytest.raises(UserError, match="is no id"):
            Dataset.from_frames(frame.assign(**{column: bad}))


def test_ids_beyond_what_json_holds(tmp_path, capsys):
    """Case 10: an id that is printed can be asked for."""
    frame = events()
    frame["item"] += 2**60
    frame["user"] += 2**40
    assert train(tmp_path, csv(tmp_path, frame)) == 0
    path = ["--model_path", str(tmp_path / "best"), "--json"]
    user = str(2**40 + 5)
    capsys.readouterr()
    assert run_command(inference.main, [*path, "--user_id", user]) == 0
    first = json.loads(capsys.readouterr().out)["recommendations"][0]["id"]
    assert first in {str(item) for item in frame["item"]}
    assert run_command(inference.main, [*path, "--history", first]) == 0


def test_values_of_every_type_are_converted_or_refused():
    """Case 11: half stars, moments of pandas, gaps in every table."""
    frame = events()
    frame["rating"] -= 0.5
    frame["time"] = pd.to_datetime(frame["time"], unit="s")
    genres = [None, "drama|war", "comedy"] * 10
    items = pd.DataFrame({"item": range(1, 31), "genres": genres})
    users = pd.DataFrame(
        {"user": range(1, 40), "gender": ["F", None, "M"] * 13}
    )
    data = Dataset.from_frames(frame, items, users)
    assert data.times.min() == events()["time"].min()
    ratings = data.catalogue.interaction_fields["rating"]
    assert ratings.values == ("0.5", "1.5", "2.5", "3.5", "4.5")
    assert data.catalogue.users.data["gender"][40] == 0


def test_nothing_of_the_size_of_the_catalogue_is_made_but_scores():
    """Case 12: 1,000,000 items. Their titles alone took four times as long."""
    model = BERT4Rec(1_000_000, hidden_size=8, num_layers=1)
    model.recommend([1, 2, 3])
    began = time.process_time()
    model.recommend([1, 2, 3])
    assert time.process_time() - began < 0.25


@pytest.mark.parametrize("encoding", ["ascii", "cp932"])
def test_names_that_a_terminal_lacks(tmp_path, monkeypatch, encoding):
    """Case 13."""
    frame = events()
    names = [f"Amélie {item} 🎬 שלום" for item in range(1, 31)]
    csv(tmp_path, frame, "interactions.csv")
    csv(
        tmp_path,
        pd.DataFrame({"item": range(1, 31), "name": names}),
        "items.csv",
    )
    assert train(tmp_path / "a", tmp_path) == 0
    path = ["--model_path", str(tmp_path / "a" / "best"), "--user_id", "5"]
    for flags in ([], ["--json"], ["--explain"]):
        stream = io.TextIOWrapper(io.BytesIO(), encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        assert run_command(inference.main, [*path, *flags]) == 0
        stream.flush()
        assert b"lie " in stream.buffer.getvalue()


def test_a_message_names_the_cause(tmp_path, capsys):
    """Case 14: the real line, and a remedy that helps."""
    path = csv(tmp_path, events(each=3))
    assert train(tmp_path, path) == 2
    assert "give longer histories" in capsys.readouterr().err
    assert train(tmp_path, csv(tmp_path, events(each=4))) == 0
    text = events().to_csv(index=False).splitlines()
    text[4] = "1,3,five,soon"
    (tmp_path / "c.csv").write_text("\n".join(text))
    with pytest.raises(UserError, match=r":5: .*'soon' is not a time"):
        read(str(tmp_path / "c.csv"))
