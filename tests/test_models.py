"""Properties that hold for every model, and for each part of the enhanced one."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from item_encoders.fusion import FUSIONS

from batches import TrainingBatches, history_batch, history_of
from data_processor import FIRST_ITEM, MASK, PAD
from enhanced_model import FEATURE_FAMILIES
from evaluation.protocols import request_batches
from losses import rating_loss
from model_io import load_model, new_model, save_model
from objectives import item_loss
from settings import ModelSettings, Settings, TrainSettings
from tests.conftest import ALL_TASKS, TINY_MODEL, VARIANTS, fresh_model, span

CPU = torch.device("cpu")
TRAIN = TrainSettings(context_dropout=0.0, user_id_dropout=0.0, batch_size=64, mask_prob=0.3)


def training_batches(data, model, settings):
    """One batch of each pattern that the model trains on."""
    share = model.cloze_share(TRAIN)
    shares = {0.0} if share == 0 else {1.0} if share == 1 else {0.0, 1.0}
    return [next(TrainingBatches(data, settings.seq_length, TRAIN, kind).epoch(0)) for kind in sorted(shares)]


def outputs(model, batch):
    """(B, L, ...) what every head says at every position, side by side."""
    if model.settings.model == "vanilla":
        return model.head(model.encode(batch)) @ model.items.weight.T
    table = model.item_table()
    states = model.encode(batch, table)
    said = []
    if model.next_bias is not None:
        said.append(states @ table.T + model.next_bias)
    if model.masked_head is not None:
        said.append(model.masked_head(states) @ table.T + model.masked_bias)
    if model.preference_head is not None:
        said.append(model.preference_head(states))
    if model.rating_head is not None:
        said.append(model.rating_head(states, table[FIRST_ITEM + 3].expand_as(states)))  # one candidate for all
    return torch.cat(said, dim=-1)


def request(data, seq_length, users=range(12), until="test"):
    return history_batch([history_of(data, user, span(data, user, until)[1]) for user in users], seq_length)


def test_the_newest_state_alone_is_the_newest_of_all_states(data, variant):
    """The short way that ranking takes says what the whole encoder says there."""
    model = fresh_model(data, variant)
    for batch in training_batches(data, model, variant):
        table = () if variant.model == "vanilla" else (model.item_table(),)
        whole = model.encode(batch, *table)[torch.arange(len(batch.lengths)), batch.lengths - 1]
        torch.testing.assert_close(model.encoder.last_state(*model.embed(batch, *table), batch.lengths - 1), whole,
                                   rtol=1e-5, atol=1e-5)


# No leak --------------------------------------------------------------------------------------------------------------

def test_no_head_sees_what_it_predicts(data, variant):
    """Change the film that is predicted, its rating and, unless request time is known, its time: same logits."""
    model = fresh_model(data, variant)
    for batch in training_batches(data, model, variant):
        before = outputs(model, batch)
        for row, position in (batch.targets != PAD).nonzero().tolist()[::7]:
            changed = batch
            if batch.pattern == "causal" and position + 1 < int(batch.lengths[row]):
                # The target is the next input: everything from there on may change.
                items, ratings, times = batch.items.clone(), batch.ratings.clone(), batch.timestamps.clone()
                items[row, position + 1:int(batch.lengths[row])] = FIRST_ITEM + 1
                ratings[row, position + 1:int(batch.lengths[row])] = 1
                changed = batch.replace(items=items, ratings=ratings)
                if model.settings.query_time == "unknown":
                    times[row, position + 1:int(batch.lengths[row])] += 10**6
                    requests = batch.request_times.clone()
                    requests[row] += 5 * 10**6
                    # The rotation counts from the first event: what comes later must not shift the rest.
                    changed = changed.replace(timestamps=times, request_times=requests)
            targets, target_ratings = batch.targets.clone(), batch.target_ratings.clone()
            targets[row, position], target_ratings[row, position] = FIRST_ITEM, 1
            changed = changed.replace(targets=targets, target_ratings=target_ratings)
            if batch.pattern == "bidirectional":
                assert batch.items[row, position] == MASK and batch.ratings[row, position] == 0
            after = outputs(model, changed)
            torch.testing.assert_close(after[row, position], before[row, position], rtol=1e-5, atol=1e-5)


MASKINGS = ({"masking": "late"}, {"masking": "span"}, {"last_too_share": 0.5}, {"last_mask_share": 0.8})


@pytest.mark.parametrize(("name", "share", "masking"), [
    *((name, share, {}) for name in VARIANTS for share in (0.0, 1.0)), *(("enhanced", 1.0, way) for way in MASKINGS)])
def test_what_a_batch_predicts_can_be_changed_in_the_data_unseen(data, name, share, masking):
    """End to end: change a training interaction in the data (film, rating and, unless request time is known, time).
    Wherever a batch asks for it, cloze or causal, every head says the same."""
    settings = VARIANTS[name]
    if settings.model == "vanilla" and share == 0.0:
        return  # it never trains on causal batches
    row = int(data.split.requests["test"].ends[5]) - 3  # of person 5, whose user_index is 6
    items, ratings, times = data.items.copy(), data.ratings.copy(), data.timestamps.copy()
    items[row], ratings[row] = FIRST_ITEM, 6 - ratings[row]
    if settings.query_time == "unknown":
        times[row] += min(1000, (times[row + 1] - times[row]) // 2)
    changed = dataclasses.replace(data, items=items, ratings=ratings, timestamps=times)
    model, asked, train = fresh_model(data, settings), 0, dataclasses.replace(TRAIN, **masking)
    for epoch in range(12):
        pairs = zip(TrainingBatches(data, 12, train, share).epoch(epoch),
                    TrainingBatches(changed, 12, train, share).epoch(epoch), strict=True)
        for batch, other in pairs:
            for line, position in (other.targets != batch.targets).nonzero().tolist():
                assert batch.users[line] == 6
                asked += 1
                torch.testing.assert_close(outputs(model, other)[line, position], outputs(model, batch)[line, position],
                                           rtol=1e-5, atol=1e-5)
    assert asked >= (12 if share == 0.0 else 1)


def test_unknown_request_time_is_never_seen(data):
    batch = request(data, 12)
    moved = batch.replace(request_times=batch.request_times + 10**7)
    for name, settings in VARIANTS.items():
        model = fresh_model(data, settings)
        equal = torch.equal(model.score(batch), model.score(moved))
        assert equal == (settings.query_time == "unknown"), name


# Invariances ----------------------------------------------------------------------------------------------------------

def test_scores_do_not_depend_on_padding_or_company(data, variant):
    model = fresh_model(data, variant)
    together = model.score(request(data, 12))
    for user in range(12):
        alone = model.score(request(data, 12, [user]))
        torch.testing.assert_close(alone[0], together[user], rtol=1e-4, atol=1e-4)


def test_short_history_beside_a_long_one(data, variant):
    model = fresh_model(data, variant)
    long, short = history_of(data, 0, span(data, 0, "test")[1]), history_of(data, 1, span(data, 1, "test")[1])
    short = dataclasses.replace(short, items=short.items[:2], ratings=short.ratings[:2],
                                timestamps=short.timestamps[:2])
    both = model.score(history_batch([long, short], 12))
    torch.testing.assert_close(model.score(history_batch([short], 12))[0], both[1], rtol=1e-4, atol=1e-4)


def test_only_films_are_ranked(data, variant):
    scores = fresh_model(data, variant).score(request(data, 12))
    assert scores.shape == (12, data.catalogue.num_rows)
    assert (scores[:, :FIRST_ITEM] == -torch.inf).all() and scores[:, FIRST_ITEM:].isfinite().all()


@pytest.mark.parametrize("name", ["vanilla-causal-segments", "enhanced-cloze-only"])
def test_cosine_scores_lie_within_one_over_temperature(data, name):
    """And equal torch's cosine similarity, whose states and vectors may have any length."""
    settings = dataclasses.replace(VARIANTS[name], temperature=0.25)
    model = fresh_model(data, settings)
    states = model.request_states(request(data, settings.seq_length))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.shape == (data.catalogue.num_rows,):
                parameter.zero_()
        table = model.items.weight if settings.model == "vanilla" else model.item_table()
        head = model.head(states) if settings.model == "vanilla" else model.masked_head(states)
        expected = torch.cosine_similarity(head[:, None], table[None], dim=-1) / 0.25
        torch.testing.assert_close(model.rank(states)[:, FIRST_ITEM:], expected[:, FIRST_ITEM:])


def test_same_seed_same_model(data, variant):
    torch.manual_seed(5)
    first = new_model(data, variant)
    torch.manual_seed(5)
    again = new_model(data, variant)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())


def test_order_of_the_history_matters(data, variant):
    model = fresh_model(data, variant)
    history = history_of(data, 3, span(data, 3, "test")[1])
    turned = dataclasses.replace(history, items=history.items[::-1].copy())
    assert not torch.allclose(model.score(history_batch([history], 12)), model.score(history_batch([turned], 12)))


def test_save_and_load(data, variant, tmp_path):
    model = fresh_model(data, variant)
    save_model(tmp_path / "model", model, Settings(model=variant), data, {"epoch": 1})
    loaded, settings, catalogue, info = load_model(tmp_path / "model")
    batch = request(data, 12)
    assert torch.equal(loaded.score(batch), model.score(batch))
    assert settings.model == variant and info["split_hash"] == data.split_hash
    assert catalogue.titles == data.catalogue.titles and (catalogue.genres == data.catalogue.genres).all()
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == \
        ["checkpoint.json", "metadata.json", "model.safetensors"]


def test_overfits_one_batch(data, variant):
    """A model that cannot learn eight people by heart learns nothing."""
    torch.manual_seed(0)
    model = new_model(data, dataclasses.replace(variant, hidden_size=32)).train()
    batches = [batch.select(range(8)) for batch in training_batches(data, model, variant)]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(150):
        for batch in batches:
            optimizer.zero_grad()
            losses = model(batch, ALL_TASKS)
            sum(losses.values()).backward()
            optimizer.step()
    for batch in batches:
        for task, loss in model(batch, ALL_TASKS & {"masked_item", "next_item"}).items():
            assert float(loss.detach()) < 0.5, task


def test_bf16_training_step_is_close_to_fp32(data, variant):
    model = fresh_model(data, variant, spread=0.1)
    for batch in training_batches(data, model, variant):
        exact = model(batch, ALL_TASKS)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = model(batch, ALL_TASKS)
        for task, loss in exact.items():
            torch.testing.assert_close(rough[task].float(), loss, rtol=0.03, atol=0.03)


@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax", "gbce"])
def test_no_gradient_is_gathered_in_an_order_of_its_own(data, variant, loss):
    """The gradient of indexing adds rows that stand twice in whatever order the threads come; embeddings do not."""
    model = fresh_model(data, variant).train()
    model.item_loss = item_loss(dataclasses.replace(TRAIN, loss=loss), data, True, CPU)
    for batch in training_batches(data, model, variant):
        nodes, met = [value.grad_fn for value in model(batch, ALL_TASKS).values()], set()
        while nodes:
            node = nodes.pop()
            if node is None or node in met:
                continue
            met.add(node)
            nodes += [following for following, _ in node.next_functions]
            if node.name() == "IndexBackward0":
                for index in node._saved_indices:
                    assert index is None or index.numel() == index.unique().numel()
        assert len(met) > 20


# Parts of the enhanced model ------------------------------------------------------------------------------------------

SWITCHES = ["id_encoder", "genre_encoder", "year_encoder", "rating_input", "day_of_year", "time_gap", "relative_time",
            "user_id", "gender", "age", "occupation"]


def copy_shared(source, target):
    """Give two models the same weights wherever both have them."""
    weights = source.state_dict()
    with torch.no_grad():
        for name, value in target.state_dict().items():
            if name in weights and weights[name].shape == value.shape:
                value.copy_(weights[name])


@pytest.mark.parametrize("switch", [*SWITCHES, "weekday_hour", "time_bias", "title_encoder", "graph_encoder"])
def test_each_input_counts_when_on_and_is_absent_when_off(data, switch):
    base = ModelSettings(weekday_hour=True, time_bias=True, title_encoder="ngrams", graph_encoder="lightgcn",
                         **TINY_MODEL)
    with_it = fresh_model(data, base)
    off = "none" if switch in ("title_encoder", "graph_encoder") else False
    without = fresh_model(data, dataclasses.replace(base, **{switch: off}), seed=1)
    copy_shared(with_it, without)
    batch = request(data, 12)
    assert not torch.allclose(with_it.score(batch), without.score(batch))
    fewer = sum(value.numel() for value in without.parameters()) < sum(value.numel() for value in with_it.parameters())
    assert fewer or switch == "relative_time"  # the rotation has no parameters


@pytest.mark.parametrize(("head", "task"), [("masked_item_head", "masked_item"), ("next_item_head", "next_item"),
                                            ("rating_head", "rating"), ("preference_head", "preference")])
def test_each_head_trains_when_on_and_is_absent_when_off(data, head, task):
    base = ModelSettings(**TINY_MODEL)
    off = {head: False, **({"rating_head": False, "preference_head": False} if head == "next_item_head" else {})}
    with_it, without = fresh_model(data, base), fresh_model(data, dataclasses.replace(base, **off))

    def tasks(model):
        return {name for kind in (0.0, 1.0) for name in
                model(next(TrainingBatches(data, 12, TRAIN, kind).epoch(0)), ALL_TASKS)}

    assert task in tasks(with_it) and task not in tasks(without)
    assert len(without.state_dict()) < len(with_it.state_dict())


def test_a_task_of_weight_zero_is_not_computed(data, monkeypatch):
    model = fresh_model(data, ModelSettings(**TINY_MODEL))
    batch = next(TrainingBatches(data, 12, TRAIN, 0.0).epoch(0))
    monkeypatch.setattr(model, "rating_head", None)  # would fail if it were called
    assert set(model(batch, {"next_item", "preference"})) == {"next_item", "preference"}
    assert model.cloze_share(dataclasses.replace(TRAIN, masked_item_weight=0.0)) == 0.0
    assert model.cloze_share(dataclasses.replace(TRAIN, next_item_weight=0.0, rating_weight=0.0,
                                                 preference_weight=0.0)) == 1.0


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("family", FEATURE_FAMILIES)
def test_a_family_left_out_changes_the_scores(data, family, fusion):
    model = fresh_model(data, ModelSettings(title_encoder="ngrams", graph_encoder="rgcn", fusion=fusion, **TINY_MODEL))
    batch = request(data, 12)
    assert not torch.allclose(model.score(batch), model.score(batch, frozenset({family})))


def test_preference_target_is_the_genre_mean_of_what_comes_later(data):
    """Against a naive loop."""
    model = fresh_model(data, ModelSettings(preference_horizon=3, **TINY_MODEL))
    batch = next(TrainingBatches(data, 12, TRAIN, 0.0).epoch(0))
    got = model.later_genres(batch.targets)
    for row in range(3):
        for position in range(int(batch.lengths[row])):
            later = [target for target in batch.targets[row, position:position + 3].tolist() if target != PAD]
            mean = sum(model.genre_shares[target] for target in later)
            torch.testing.assert_close(got[row, position], mean / mean.sum())


def test_the_mask_is_the_average_film_where_no_cloze_task_teaches_it(data):
    taught, untaught = (fresh_model(data, ModelSettings(masked_item_head=cloze, **TINY_MODEL))
                        for cloze in (True, False))
    torch.testing.assert_close(taught.item_table()[MASK], taught.special[MASK])
    table = untaught.item_table()
    torch.testing.assert_close(table[MASK], table[FIRST_ITEM:].mean(0))
    torch.nn.init.zeros_(taught.masked_bias)  # built, and no step of the cloze task yet
    table = taught.item_table()
    torch.testing.assert_close(table[MASK], table[FIRST_ITEM:].mean(0))
    grown = taught.for_catalogue(data.catalogue, data.catalogue)
    assert not grown.masked_bias.any() and torch.equal(grown.item_table()[MASK], table[MASK])
    torch.testing.assert_close(taught.train().item_table()[MASK], taught.special[MASK])


def test_rating_head_reads_the_candidate(data):
    model = fresh_model(data, ModelSettings(**TINY_MODEL))
    batch = request(data, 12)
    films = torch.arange(FIRST_ITEM, FIRST_ITEM + 12)
    first, second = model.rate(batch, films), model.rate(batch, films + 1)
    assert ((first >= 1) & (first <= 5)).all() and not torch.allclose(first, second)


def test_rating_loss_counts_rated_positions_only(data):
    model = fresh_model(data, ModelSettings(**TINY_MODEL))
    batch = next(TrainingBatches(data, 12, TRAIN, 0.0).epoch(0))
    table = model.item_table()
    rated = batch.target_ratings > 0
    logits = model.rating_head(model.encode(batch, table)[rated], table[batch.targets[rated]])
    torch.testing.assert_close(model(batch, {"rating"})["rating"], rating_loss(logits, batch.target_ratings[rated]))


def test_every_user_is_scored_once(data):
    seen = [user for users, _ in request_batches(data, "test", 12, 7, CPU) for user in users]
    assert sorted(seen) == list(range(data.num_users))
    shares = [user for rank in (0, 1, 2) for users, _ in request_batches(data, "test", 12, 7, CPU, rank, 3)
              for user in users]
    assert sorted(shares) == list(range(data.num_users))
