"""Properties that hold for every model on every kind of data, and for each part of the enhanced
one.
"""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import batches
import training_batches
from batches import history_batch, history_of
from data_processor import process
from dataset import ITEM_ROWS, MASK, NO_TIME, PAD
from evaluation.protocols import request_batches
from explanations.question import Question
from growth import for_catalogue
from losses import value_loss
from model_io import load_model, new_model, save_model
from objectives import TASKS, task_losses
from sampling import Sampler
from settings import DataSettings, ModelSettings, Settings, TrainSettings
from tests.conftest import (
    TINY_MODEL,
    VARIANTS,
    fresh_model,
    other_data,
    shop,
    span,
)
from training_batches import TrainingBatches

CPU = torch.device("cpu")
TRAIN = TrainSettings(batch_size=64, mask_prob=0.3)
EVERYTHING = ModelSettings(graph=True, text_encoder="ngrams", **TINY_MODEL)


@pytest.fixture(autouse=True)
def nothing_hidden(monkeypatch):
    """Side information stays in training batches."""
    monkeypatch.setattr(training_batches, "CONTEXT_DROPOUT", 0.0)
    monkeypatch.setattr(training_batches, "USER_ID_DROPOUT", 0.0)


def both_batches(data, model, settings):
    """One batch of each pattern that the model trains on."""
    share = model.cloze_share(TRAIN)
    shares = {share} if share in (0.0, 1.0) else {0.0, 1.0}
    return [
        next(TrainingBatches(data, settings.seq_length, TRAIN, kind).epoch(0))
        for kind in sorted(shares)
    ]


def losses_of(model, batch):
    return task_losses(model(batch), batch)


def outputs(model, batch):
    """(B, L, ...) what every head says at every position, side by side."""
    table = model.item_table()
    states = model.encode(batch, table)
    if model.settings.model == "vanilla":
        return model.head(states) @ table.T
    found = []
    if model.next_bias is not None:
        found.append(states @ table.T + model.next_bias)
    if model.masked_head is not None:
        found.append(model.masked_head(states) @ table.T + model.masked_bias)
    candidate = table[ITEM_ROWS + 3].expand_as(states)
    found += [head(states, candidate) for head in model.value_heads.values()]
    found += [head(states) for head in model.preference_heads.values()]
    return torch.cat(found, dim=-1)


def request(data, seq_length=12, users=range(1, 13), until="test"):
    histories = [
        history_of(data, user, span(data, user, until)[1]) for user in users
    ]
    return history_batch(histories, data.catalogue, seq_length)


def score(model, batch, without=frozenset()):
    return model.frozen().score(batch, without)


def changed_columns(columns, rows):
    """Other values of every column in some places."""
    changed = {name: values.copy() for name, values in columns.items()}
    for values in changed.values():
        values[rows] = (
            values[rows] + 1
            if values.dtype.kind == "f"
            else (values[rows] + 1) % 3
        )
    return changed


def test_the_newest_state_alone_is_the_newest_of_all_states(case):
    """The short way that ranking takes says what the whole encoder says there."""
    data, variant = case
    model = fresh_model(data, variant)
    for batch in both_batches(data, model, variant):
        table = model.item_table()
        whole = model.encode(batch, table)[
            torch.arange(len(batch.lengths)), batch.lengths - 1
        ]
        x, attend = model.embed(batch, table)
        short = model.encoder.last_state(x, attend, batch.lengths - 1)
        torch.testing.assert_close(short, whole, rtol=1e-5, atol=1e-5)


# No leak


def moved(data, row, query_time):
    """The data with another interaction in place of one: item, columns and, unless the time of
    the request is known, time."""
    items, times = data.items.copy(), data.times.copy()
    items[row] = ITEM_ROWS if items[row] != ITEM_ROWS else ITEM_ROWS + 1
    if query_time == "unknown" and data.has_times:
        times[row] += min(1000, (times[row + 1] - times[row]) // 2)
    return data.replace(
        items=items, times=times, columns=changed_columns(data.columns, [row])
    )


def asked_and_compared(data, settings, share, train=TRAIN, epochs=12):
    """How often a training batch asked for one interaction; fails where a head saw it."""
    user = 6
    row = span(data, user, "test")[1] - 3
    changed, model = (
        moved(data, row, settings.query_time),
        fresh_model(data, settings),
    )
    asked = 0
    for epoch in range(epochs):
        pairs = zip(
            TrainingBatches(data, 12, train, share).epoch(epoch),
            TrainingBatches(changed, 12, train, share).epoch(epoch),
            strict=True,
        )
        for batch, other in pairs:
            for line, position in (
                (other.targets != batch.targets).nonzero().tolist()
            ):
                assert batch.users[line] == user
                asked += 1
                torch.testing.assert_close(
                    outputs(model, other)[line, position],
                    outputs(model, batch)[line, position],
                    rtol=1e-5,
                    atol=1e-5,
                )
    return asked


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_no_head_sees_what_it_predicts(case, share):
    """End to end: change a training interaction in the data. Wherever a batch asks for it, every
    head says the same."""
    data, variant = case
    if variant.model == "vanilla" and share == 0.0:
        return  # it never trains on causal batches
    assert asked_and_compared(data, variant, share) >= (
        12 if share == 0.0 else 1
    )


@pytest.mark.parametrize(
    "masking", [{"masking": "late"}, {"last_mask_share": 0.8}]
)
def test_no_kind_of_mask_leaks(data, masking):
    assert asked_and_compared(
        data, VARIANTS["enhanced"], 1.0, dataclasses.replace(TRAIN, **masking)
    )


def test_what_comes_after_a_position_does_not_matter(case):
    """Causal: interactions after the predicted one may be anything."""
    data, variant = case
    model = fresh_model(data, variant)
    if (
        variant.model == "vanilla"
        or not variant.next_item_weight
        or variant.query_time == "known"
    ):
        return
    batch = next(TrainingBatches(data, 12, TRAIN, 0.0).epoch(0))
    items, times = batch.items.clone(), batch.times.clone()
    items[:, 2:] = items[:, 2:].where(items[:, 2:] == PAD, ITEM_ROWS + 1)
    times[:, 2:] += 10**6 * (times[:, 2:] > 0)
    columns = {name: values.clone() for name, values in batch.columns.items()}
    for values in columns.values():
        values[:, 2:] = batches.unknown_like(values[:, 2:])
    other = batch.replace(items=items, times=times, columns=columns)
    torch.testing.assert_close(
        outputs(model, other)[:, :2],
        outputs(model, batch)[:, :2],
        rtol=1e-5,
        atol=1e-5,
    )


def test_unknown_request_time_is_never_seen(data):
    batch = request(data)
    later = batch.replace(request_times=batch.request_times + 10**7)
    for name, variant in VARIANTS.items():
        model = fresh_model(data, variant)
        equal = torch.equal(score(model, batch), score(model, later))
        assert equal == (variant.query_time == "unknown"), name


def test_attention_turns_to_the_moment_asked_about(data):
    """Where the request time is known, queries stand there: rotation alone tells it, and at the
    time of the interaction itself nothing is changed by it."""
    settings = VARIANTS["enhanced-known-time"]
    settings = dataclasses.replace(settings, transitions=False)
    model = fresh_model(data, settings)
    for weight in model.request_time.parameters():
        torch.nn.init.zeros_(weight)
    own = request(data).replace(request_times=request(data).times)
    later = own.replace(request_times=own.request_times + 10**7)
    assert not torch.allclose(score(model, own), score(model, later))
    model.request_time = None
    assert torch.equal(score(model, own), score(model, later))


# Invariances


def test_scores_do_not_depend_on_padding_or_company(case):
    data, variant = case
    model = fresh_model(data, variant)
    together = score(model, request(data))
    for user in range(1, 13):
        torch.testing.assert_close(
            score(model, request(data, 12, [user]))[0],
            together[user - 1],
            rtol=1e-4,
            atol=1e-4,
        )


def test_short_history_beside_a_long_one(case):
    data, variant = case
    model = fresh_model(data, variant)
    long, short = (
        history_of(data, user, span(data, user, "test")[1]) for user in (1, 2)
    )
    short = short.select(slice(2))
    both = score(model, history_batch([long, short], data.catalogue, 12))
    alone = score(model, history_batch([short], data.catalogue, 12))
    torch.testing.assert_close(alone[0], both[1], rtol=1e-4, atol=1e-4)


def test_only_items_are_ranked(case):
    data, variant = case
    scores = score(fresh_model(data, variant), request(data))
    assert scores.shape == (12, len(data.catalogue.items))
    assert (scores[:, :ITEM_ROWS] == -torch.inf).all() and scores[
        :, ITEM_ROWS:
    ].isfinite().all()


def test_same_seed_same_model(case):
    data, variant = case
    torch.manual_seed(5)
    first = new_model(data, variant)
    torch.manual_seed(5)
    again = new_model(data, variant).state_dict()
    assert all(
        torch.equal(value, again[name])
        for name, value in first.state_dict().items()
    )


def test_order_of_the_history_matters(case):
    data, variant = case
    model = fresh_model(data, variant)
    history = history_of(data, 3, span(data, 3, "test")[1])
    turned = dataclasses.replace(history, items=history.items[::-1].copy())
    one, other = (
        score(model, history_batch([either], data.catalogue, 12))
        for either in (history, turned)
    )
    assert not torch.allclose(one, other)


def test_save_and_load(case, tmp_path, monkeypatch):
    data, variant = case
    model = fresh_model(data, variant)
    save_model(
        tmp_path / "model", model, Settings(model=variant), data, {"epoch": 1}
    )
    loaded = load_model(tmp_path / "model")
    batch = request(data)
    assert torch.equal(score(loaded.model, batch), score(model, batch))
    assert (
        loaded.settings.model == variant
        and loaded.info["split_hash"] == data.split_hash
    )
    items, ours = loaded.catalogue.items, data.catalogue.items
    assert (
        items.ids.tolist() == ours.ids.tolist()
        and items.names.tolist() == ours.names.tolist()
    )
    for name, values in ours.data.items():
        np.testing.assert_array_equal(items.data[name], values)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == [
        "checkpoint.json",
        "items.parquet",
        "model.safetensors",
        "users.parquet",
    ]


def test_overfits_one_batch(case):
    """A model that cannot learn eight people by heart learns nothing."""
    data, variant = case
    torch.manual_seed(0)
    model = new_model(
        data, dataclasses.replace(variant, hidden_size=32)
    ).train()
    chosen = [
        batch.select(slice(8)) for batch in both_batches(data, model, variant)
    ]
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    # Falling, as a high rate throws the loss up again now and then.
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, 100)
    # Without times, users or features the same history may go on in two ways.
    most = 0.5 if variant.user_ids else 1.0
    for _ in range(100):
        worst = 0.0
        for batch in chosen:
            optimizer.zero_grad()
            losses = losses_of(model, batch)
            sum(losses.values()).backward()
            optimizer.step()
            for task in {"masked_item", "next_item"} & set(losses):
                worst = max(worst, float(losses[task].detach()))
        if worst < most:
            return
        schedule.step()
    raise AssertionError(f"a loss of {worst:.2f} after 100 steps")


def test_bf16_training_step_is_close_to_fp32(case):
    data, variant = case
    model = fresh_model(data, variant, spread=0.1)
    for batch in both_batches(data, model, variant):
        exact = losses_of(model, batch)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = losses_of(model, batch)
        for task, loss in exact.items():
            torch.testing.assert_close(
                rough[task].float(), loss, rtol=0.03, atol=0.03
            )


def test_a_sample_of_the_catalogue_says_what_the_whole_says(case):
    """Of the items that a sampled batch reads: the same states, logits and other losses."""
    data, variant = case
    model = fresh_model(data, variant)
    if getattr(model, "masked_head", None) is not None:
        # Else MASK is the average item, of whatever items there are.
        model.mask_trained.fill_(True)
    sampler = Sampler(data, 5)
    for batch in both_batches(data, model, variant):
        sampled = sampler(batch)
        rows = sampled.sample.rows
        assert (rows[:2].tolist(), rows.tolist()) == (
            [PAD, MASK],
            sorted(set(rows.tolist())),
        )
        assert (sampled.rows_of(sampled.items) == batch.items).all()
        assert (sampled.rows_of(sampled.targets) == batch.targets).all()
        whole, part = model(batch), model(sampled)
        for one, other in (
            (whole.item, part.item),
            (whole.first_item, part.first_item),
        ):
            if one is None:
                continue
            assert (sampled.rows_of(other.targets) == one.targets).all()
            torch.testing.assert_close(
                other.logits(slice(None)), one.logits(slice(None))[:, rows]
            )
        item = TASKS[batch.pattern]
        before, after = losses_of(model, batch), losses_of(model, sampled)
        assert before.keys() == after.keys()
        for task in before.keys() - {item, "contrastive"}:
            torch.testing.assert_close(before[task], after[task])
        assert not torch.equal(before[item], after[item])


@pytest.mark.parametrize("loss", ["softmax", "sampled_softmax"])
def test_no_gradient_is_gathered_in_an_order_of_its_own(case, loss):
    """The gradient of indexing adds rows that stand twice in whatever order the threads come;
    embeddings do not."""
    data, variant = case
    model = fresh_model(data, variant).train()
    for batch in both_batches(data, model, variant):
        if loss == "sampled_softmax":
            batch = Sampler(data, 5)(batch)
        found = losses_of(model, batch)
        nodes, met = [value.grad_fn for value in found.values()], set()
        while nodes:
            node = nodes.pop()
            if node is None or node in met:
                continue
            met.add(node)
            nodes += [following for following, _ in node.next_functions]
            if node.name() != "IndexBackward0":
                continue
            for index in node._saved_indices:
                assert index is None or index.numel() == index.unique().numel()
        assert len(met) > 20


@settings(
    max_examples=12, deadline=None, suppress_health_check=list(HealthCheck)
)
@given(
    seed=st.integers(0, 10**6),
    customers=st.integers(5, 20),
    articles=st.integers(3, 30),
    item_features=st.sampled_from(["all", "none", "price,picture", "shelf"]),
    user_features=st.sampled_from(["all", "none", "club"]),
    times=st.sampled_from(["gap,season", "none"]),
    keep=st.sampled_from(["", "amount>=1"]),
)
def test_any_schema_trains_ranks_and_comes_back(
    tmp_path_factory,
    seed,
    customers,
    articles,
    item_features,
    user_features,
    times,
    keep,
):
    """Drawn data and settings: a step of each task has finite gradients, and a checkpoint ranks
    alike.
    """
    data = process(
        shop(seed, customers, articles),
        DataSettings(dataset="shop", keep=keep, min_user_count=1),
    )
    variant = ModelSettings(
        item_features=item_features,
        user_features=user_features,
        time_features=times,
        **TINY_MODEL,
    )
    model = fresh_model(data, variant).train()
    for batch in both_batches(data, model, variant):
        sum(losses_of(model, batch).values()).backward()
    assert all(
        parameter.grad is None or parameter.grad.isfinite().all()
        for parameter in model.parameters()
    )
    folder = tmp_path_factory.mktemp("any") / "model"
    save_model(folder, model, Settings(model=variant), data, {})
    batch = history_batch([history_of(data, 1)], data.catalogue, 12)
    assert torch.equal(
        score(load_model(folder).model, batch), score(model, batch)
    )


# Parts of the enhanced model

OFF = {
    "item_ids": False,
    "item_features": "none",
    "interaction_features": "none",
    "user_ids": False,
    "user_features": "none",
    "time_features": "season",
    "relative_time": False,
    "text_encoder": "none",
    "graph": False,
}


def copy_shared(source, target):
    """Give two models the same weights wherever both have them."""
    weights = source.state_dict()
    with torch.no_grad():
        for name, value in target.state_dict().items():
            if name in weights and weights[name].shape == value.shape:
                value.copy_(weights[name])


def size(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("shape", ["films", "shop"])
@pytest.mark.parametrize("switch", OFF)
def test_each_input_counts_when_on_and_is_absent_when_off(data, switch, shape):
    data = data if shape == "films" else other_data(shape)
    with_it = fresh_model(data, EVERYTHING)
    without = fresh_model(
        data, dataclasses.replace(EVERYTHING, **{switch: OFF[switch]}), seed=1
    )
    copy_shared(with_it, without)
    batch = request(data)
    assert not torch.allclose(score(with_it, batch), score(without, batch))
    # the rotation has no parameters
    assert size(without) < size(with_it) or switch == "relative_time"


@pytest.mark.parametrize(
    "task", ["masked_item", "next_item", "value", "preference"]
)
def test_each_head_trains_when_on_and_is_absent_when_off(data, task):
    base = ModelSettings(**TINY_MODEL)
    off = {f"{task}_weight": 0.0}
    if task == "next_item":
        off |= {"value_weight": 0.0, "preference_weight": 0.0}
    with_it, without = (
        fresh_model(data, base),
        fresh_model(data, dataclasses.replace(base, **off)),
    )

    def tasks(model):
        batches = both_batches(data, model, model.settings)
        return set().union(*(losses_of(model, batch) for batch in batches))

    assert task in tasks(with_it) and task not in tasks(without)
    assert len(without.state_dict()) < len(with_it.state_dict())


@pytest.mark.parametrize("shape", ["films", "shop"])
def test_each_family_left_out_changes_the_scores(data, shape):
    data = data if shape == "films" else other_data(shape)
    scorer = fresh_model(data, EVERYTHING).frozen()
    rows = torch.arange(len(data.catalogue.items))
    history = history_of(data, 3)
    question = Question(
        scorer, data.catalogue, history, rows[2:].numpy(), rows >= 2
    )
    columns = [
        *(f"items.{name}" for name in data.catalogue.items.fields),
        *(
            f"interactions.{name}"
            for name in data.catalogue.interaction_fields
        ),
        *(f"users.{name}" for name in data.catalogue.users.fields),
        "users.id",
        "times",
        "graph",
    ]
    assert sorted(scorer.families) == sorted(columns)
    before = question.scores(question.everything)
    for family in scorer.families:
        after = question.scores(question.everything, {family})
        assert not np.allclose(before, after), family


def test_preference_target_is_the_mean_of_what_comes_later(data, monkeypatch):
    """Against a naive loop."""
    monkeypatch.setattr("heads.PREFERENCE_HORIZON", 3)
    model = fresh_model(data, ModelSettings(**TINY_MODEL))
    batch = next(TrainingBatches(data, 12, TRAIN, 0.0).epoch(0))
    got = model.preference_heads.later_shares("genres", batch.targets)
    for row in range(3):
        for position in range(int(batch.lengths[row])):
            later = [
                target
                for target in batch.targets[
                    row, position : position + 3
                ].tolist()
                if target
            ]
            mean = sum(
                model.preference_heads.shares_genres[target]
                for target in later
            )
            torch.testing.assert_close(got[row, position], mean / mean.sum())


def test_the_mask_is_the_average_item_where_no_cloze_task_teaches_it(data):
    taught, untaught = (
        fresh_model(
            data, ModelSettings(masked_item_weight=weight, **TINY_MODEL)
        )
        for weight in (1.0, 0.0)
    )
    table = untaught.item_table()
    torch.testing.assert_close(table[MASK], table[ITEM_ROWS:].mean(0))
    table = taught.item_table()  # built, and no step of the cloze task yet
    torch.testing.assert_close(table[MASK], table[ITEM_ROWS:].mean(0))
    taught.train()(next(TrainingBatches(data, 12, TRAIN, 1.0).epoch(0)))
    torch.testing.assert_close(
        taught.eval().item_table()[MASK], taught.special[MASK]
    )
    grown = for_catalogue(taught, data.catalogue)
    assert torch.equal(grown.item_table(), taught.item_table())


def test_value_head_reads_the_candidate(data):
    scorer = fresh_model(data, ModelSettings(**TINY_MODEL)).frozen()
    states = scorer.states(request(data))
    rows = torch.arange(ITEM_ROWS, ITEM_ROWS + 12)
    first, second = (
        scorer.value_probabilities("rating", states, items)
        for items in (rows, rows + 1)
    )
    torch.testing.assert_close(first.sum(1), torch.ones(12))
    assert first.shape == (12, 5) and not torch.allclose(first, second)


def test_value_loss_counts_known_values_only(data):
    model = fresh_model(data, ModelSettings(**TINY_MODEL))
    batch = next(TrainingBatches(data, 12, TRAIN, 0.0).epoch(0))
    table, codes = model.item_table(), batch.target_columns["rating"]
    known = codes > 0
    logits = model.value_heads["rating"](
        model.encode(batch, table)[known],
        table[batch.targets[known]],
    )
    torch.testing.assert_close(
        losses_of(model, batch)["value"], value_loss(logits, codes[known])
    )


def test_a_larger_catalogue_keeps_what_was_learned_and_ranks_new_items(case):
    """Scores of known items stay; a new one stands where its columns, or those like it, put it."""
    data, variant = case
    model = fresh_model(data, variant)
    batch = request(data)
    new = data.catalogue.items.with_row(
        10**6 if data.catalogue.items.numeric else "zz", "New", {}
    )
    larger = dataclasses.replace(data.catalogue, items=new)
    grown = score(for_catalogue(model, larger), batch)
    assert grown.shape[1] == len(new) and grown[:, -1].isfinite().all()
    # over neighbours; the untrained mask
    averages = variant.graph or not variant.next_item_weight
    if variant.model == "vanilla" or not averages:
        torch.testing.assert_close(
            grown[:, :-1], score(model, batch), rtol=1e-4, atol=1e-4
        )


def test_times_that_are_not_known_are_not_read():
    """Data without times: no part of the model is about time."""
    model = fresh_model(other_data("ids"), ModelSettings(**TINY_MODEL))
    assert (
        model.time is None
        and model.periods is None
        and "times" not in model.families
    )
    assert (other_data("ids").times == NO_TIME).all()


def test_every_request_is_scored_once(data):
    everybody = list(range(len(data.split.requests["test"])))
    alone = [
        row
        for rows, *_ in request_batches(data, data.split.requests["test"], 12)
        for row in rows
    ]
    assert sorted(alone) == everybody
    shares = [
        row
        for rank in (0, 1, 2)
        for rows, *_ in request_batches(
            data, data.split.requests["test"], 12, CPU, rank, 3
        )
        for row in rows
    ]
    assert sorted(shares) == everybody
