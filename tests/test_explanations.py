"""Contributions to a score: against exact enumeration, against captum, and against what each
method promises.
"""

import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
import torch

import trainer
from ablations import faithfulness, fidelity, planted, questions
from answers import Item, Profile, Reason
from batches import History, history_of
from dataset import ITEM_ROWS, MASK
from explanations import attribution
from explanations import question as question_module
from explanations.attribution import (
    DRAWN,
    METHODS,
    carried,
    expected_gradients,
    explain,
    integrated_gradients,
    places_lost,
)
from explanations.counterfactual import other_users, smallest_set
from explanations.question import Question
from explanations.sentences import family_label, sentence, strongest
from explanations.tables import columns_text, profile_line
from pair_counts import REACH
from schema import Schema
from settings import ModelSettings
from support.errors import run_command
from tests.conftest import TINY_MODEL, VARIANTS, fresh_model, other_data, rng


def question_of(data, settings, user=4, items=(0, 5), **options):
    scorer = fresh_model(data, settings).frozen()
    allowed = torch.arange(len(data.catalogue.items)) >= ITEM_ROWS
    rows = np.array(items) + ITEM_ROWS
    return Question(
        scorer,
        data.catalogue,
        history_of(data, user),
        rows,
        allowed,
        **options,
    )


@pytest.mark.parametrize("method", [*METHODS, *DRAWN, "random"])
def test_every_method_answers_for_every_model(data, variant, method):
    """Shapes, the score itself, sums where promised; the same again with the same seed."""
    question = question_of(data, variant)
    room = TINY_MODEL["seq_length"] - (
        variant.model == "vanilla" or not variant.next_item_weight
    )
    assert question.length == room < len(question.history.items)
    found, again = (explain(question, method, seed=2) for _ in range(2))
    with torch.no_grad():
        logits = question.scorer.score(question.batch([question.read]))[
            0, ITEM_ROWS:
        ]
    np.testing.assert_allclose(
        found.score,
        logits.log_softmax(0)[[0, 5]].numpy(),
        rtol=1e-4,
        atol=1e-4,
    )
    assert found.history.shape == (2, room) and set(found.families) == set(
        question.families
    )
    assert np.isfinite(found.history).all() and np.array_equal(
        found.history, again.history
    )
    other = explain(question, method, seed=3).history
    drawn = method == "random" or method in DRAWN
    assert np.array_equal(found.history, other) != drawn
    if method == "blocks":
        nothing = sum(
            share
            * dataclasses.replace(question, absent=way).scores(
                np.zeros((1, room), bool)
            )[0]
            for way, share in attribution.BLOCK_WAYS.items()
        )
        np.testing.assert_allclose(
            nothing + found.history.sum(1), found.score, rtol=1e-3, atol=2e-3
        )
    if method == "integrated_gradients":
        unknown = question_module.unknown_items(question.read, MASK)
        nothing = question.of_histories([unknown])[0][0]
        np.testing.assert_allclose(
            nothing + found.history.sum(1), found.score, rtol=1e-3, atol=2e-3
        )


class Game(Question):
    """Three interactions and two families with values of their own."""

    length, families = 3, ("items.genres", "times")

    def scores(self, kept, without=frozenset()):
        told = np.array(
            [family not in without for family in self.families], dtype=float
        )
        # (N, 5)
        players = np.concatenate(
            [kept.astype(float), np.tile(told, (len(kept), 1))], axis=1
        )
        return (
            players @ rng(1).normal(size=(5, 2))
            + (players @ rng(2).normal(size=(5, 2))) ** 2 * players[:, :1]
            + players[:, 3:4] * players[:, 1:2]
        )


@pytest.mark.parametrize("players", [1, 2, 5, 6, 8])
def test_shapley_values_are_those_of_all_orders(players):
    """By their definition, of any game of five; of more, of games of single players and pairs."""
    known = attribution.coalitions_of(players)
    assert len(known) == {1: 2, 2: 4, 5: 32, 6: 44, 8: 74}[players]
    alone, pairs = rng(3).normal(size=(players, 2)), rng(4).normal(size=(2, 8, 8))
    pairs = pairs[:, :players, :players]
    any_game = rng(5).normal(size=(2**players, 2)) * (players <= 5)

    def worth(sets):
        number = sets @ 2 ** np.arange(players)
        joint = np.einsum("ni,cij,nj->nc", sets * 1.0, pairs, sets * 1.0)
        return 7 + sets @ alone + joint + any_game[number]

    every = (np.arange(2**players)[:, None] & 2 ** np.arange(players)) > 0
    exact = np.zeros((players, 2))
    for player in range(players):
        without = every[~every[:, player]]
        with_it = without | (np.arange(players) == player)
        orders = [
            1 / (players * math.comb(players - 1, size))
            for size in without.sum(1)
        ]
        exact[player] = orders @ (worth(with_it) - worth(without))
    found = attribution.shapley_values(known, worth(known))
    np.testing.assert_allclose(found, exact, atol=1e-9)


def test_blocks_are_exact_where_each_is_one_interaction(monkeypatch):
    """Shapley values by all orders, families known; and a block's value is that of all it holds.
    Masking does here 2.25 times what removing does, so a fifth of the latter and four fifths of
    it are twice the latter."""

    class Known(Game):
        def scores(self, kept, _without=frozenset()):
            return (
                super().scores(kept)
                * {"removed": 1, "masked": 2.25}[self.absent]
            )

    game = Known(None, None, None, np.zeros(2), None)
    monkeypatch.setattr(
        attribution,
        "integrated_gradients",
        lambda question, points: np.array([[1.0, 3.0, -1.0], [-1.0, -3.0, 1.0]]),
    )
    monkeypatch.setattr(
        attribution, "attention_flow", lambda _: np.array([0.2, 0.2, 0.6])
    )
    monkeypatch.setattr(attribution, "BLOCK_ENDS", (1, 2))
    exact = np.zeros((3, 2))
    for order in itertools.permutations(range(3)):
        for place, player in enumerate(order):
            before, after = (
                game.scores(np.isin(np.arange(3), order[:end])[None])[0]
                for end in (place, place + 1)
            )
            exact[player] += (after - before) / 6
    found = attribution.blocks(game)
    np.testing.assert_allclose(found.T, 2 * exact, rtol=1e-9)
    monkeypatch.setattr(attribution, "BLOCK_ENDS", (1,))
    wide = attribution.blocks(game)
    np.testing.assert_allclose(wide.sum(1), 2 * exact.sum(0))
    for row, gradients in zip(
        wide, (1, -1), strict=True
    ):  # divided by gradients of its sign and attention
        agree = np.sign(row[:2].sum()) == gradients
        assert row[1] / row[0] == pytest.approx(
            (0.6 + 0.1) / (0.2 + 0.1) if agree else 1
        )


@pytest.mark.parametrize("absent", ["removed", "masked", "replaced"])
def test_ways_to_leave_out(data, absent):
    """All of them agree on the whole, and each hides what is left out from the model."""
    films = np.full(12, ITEM_ROWS + 7)
    question = question_of(
        data, ModelSettings(**TINY_MODEL), absent=absent, stand_ins=films
    )
    kept = np.ones((2, question.length), dtype=bool)
    kept[1, 4] = False
    seen, real = question._only(kept[1]), question.read
    assert np.array_equal(question._only(kept[0]).items, real.items)
    assert len(seen.items) == question.length - (absent == "removed")
    assert absent == "removed" or (
        seen.items[4],
        seen.columns["rating"][4],
    ) == (
        MASK if absent == "masked" else films[0],
        0,
    )
    others = np.delete(np.arange(12), 4)
    assert np.array_equal(
        seen.items if absent == "removed" else seen.items[others],
        real.items[others],
    )
    scores = question.scores(kept)
    np.testing.assert_allclose(
        scores[1], question.scores(kept[1:])[0], rtol=1e-5, atol=1e-5
    )
    assert not np.allclose(scores[0], scores[1])


def test_nothing_known_is_the_start_or_a_mask(data):
    for settings in (
        VARIANTS["enhanced-known-time"],
        VARIANTS["enhanced"],
        VARIANTS["vanilla"],
    ):
        question = question_of(data, settings)
        empty = question._only(np.zeros(question.length, dtype=bool))
        assert empty.items.tolist() == (
            [MASK]
            if settings.model == "enhanced" and not settings.start_token
            else []
        )
        assert np.isfinite(
            question.scores(np.zeros((1, question.length), dtype=bool))
        ).all()


# Faithfulness


class Additive(Question):
    """Ten interactions whose contributions are known and add up."""

    length = 10
    worth = np.array([0.0, 5, 0, 1, 0, 0, 3, 0, 0, 0])

    def scores(self, kept, _without=frozenset()):
        return (kept * self.worth).sum(1, keepdims=True)


def named_measures(game, contributions):
    figures = faithfulness.measures(game, contributions)
    return dict(zip(faithfulness.MEASURES, figures, strict=True))


def test_faithfulness_of_a_game_whose_answer_is_known():
    """By hand for the true contributions; every other order is worse by every measure."""
    game = Additive(None, None, None, np.zeros(1), None)
    true = named_measures(game, game.worth)
    # The first 1, 5, 10 % are one interaction, 20 % two, 50 % five.
    assert true["comprehensiveness"] == pytest.approx((5 + 5 + 5 + 8 + 9) / 5)
    assert true["sufficiency"] == pytest.approx((4 + 4 + 4 + 1 + 0) / 5)
    shares, falls = faithfulness.CURVE, np.array([0, 5, 5, 8, 9, 9, 9, 9])
    assert true["deletion"] == pytest.approx(np.trapezoid(-falls, shares))
    assert true["insertion"] == pytest.approx(np.trapezoid(falls - 9, shares))
    wrong = named_measures(game, -game.worth)
    for name, sign in faithfulness.MEASURES.items():
        assert sign * true[name] > sign * wrong[name]
        for seed in range(5):
            assert (
                sign * true[name]
                >= sign * named_measures(game, rng(seed).normal(size=10))[name]
            )


def test_standard_measures_of_a_game_whose_answer_is_known():
    """By hand: the three interactions that count carry 5, 3 and 1 of the score 9; every item has
    one more rival before it for each unit that is lost."""

    class Ranked(Additive):
        def outcomes(self, kept, _without=frozenset()):
            scores = self.scores(kept)
            return scores, 1 + (9 - scores).astype(int)

    game = Ranked(None, None, None, np.zeros(1), None)
    found = fidelity.by_size(game, game.worth)
    lost, left = np.array([5, 8, 9, 9, 9]), np.array([4, 1, 0, 0, 0])
    expected = {
        "POS@5": [0, 0, 0, 0, 0],  # ranks 6, 9, 10, 10, 10
        "POS@10": [1, 1, 1, 1, 1],
        "POS@20": [1, 1, 1, 1, 1],
        "DEL": np.exp(-lost),
        "INS": np.exp(-left),
        "CDCG": 1 / np.log2([7, 10, 11, 11, 11]),
    }
    for row, name in zip(found, fidelity.MEASURES, strict=True):
        np.testing.assert_allclose(row, expected[name], err_msg=name)
    wrong = fidelity.by_size(game, -game.worth)
    signs = np.array(list(fidelity.MEASURES.values()))[:, None]
    assert (signs * found >= signs * wrong).all()
    assert (signs * found > signs * wrong)[3:].all()


def test_reasons_are_known_where_counts_alone_rank(data):
    """Gradients find the terms of the counts; what the encoder says no longer matters."""
    question = question_of(data, VARIANTS["enhanced-transitions"])
    scorer = question.scorer
    before = scorer.table.clone(), scorer.model.next_bias.clone()
    alone = fidelity.counts_alone(scorer)
    assert torch.equal(scorer.table, before[0]) and before[0].any()
    assert torch.equal(scorer.model.next_bias, before[1])
    question = dataclasses.replace(question, scorer=alone)
    batch = question.batch([question.read])
    with torch.no_grad():
        logits = alone.score(batch)[0, ITEM_ROWS:]
    counted = alone.transitions(batch)[0, ITEM_ROWS:]
    torch.testing.assert_close(logits, counted)
    item = int(counted.argmax()) + ITEM_ROWS
    question = dataclasses.replace(question, candidates=np.array([item]))
    parts = alone.transitions.parts(batch)[0, :, ITEM_ROWS:]
    parts = parts[: min(REACH, question.length)]
    terms = np.zeros(question.length)
    # By hand: log P of the item by the counts of one interaction.
    terms[-len(parts) :] = [
        float(one[item - ITEM_ROWS] - one.exp().sum().log())
        for one in parts.flip(0)
    ]
    assert fidelity.known_reasons(question, terms) == pytest.approx((1, 0))
    correlation, on_others = fidelity.known_reasons(question, -terms)
    assert correlation == pytest.approx(-1)
    found = integrated_gradients(question)[0]
    correlation, on_others = fidelity.known_reasons(question, found)
    assert correlation > 0.9 and on_others < 1e-3


def test_expected_gradients_add_up_over_many_draws(data):
    """base + contributions = score, where the base is the mean score of random histories."""
    question = question_of(data, VARIANTS["enhanced-transitions"])
    rows = np.flatnonzero(question.allowed.numpy())
    question = dataclasses.replace(question, candidates=rows)
    draw = rng(5)
    others = [
        question_module.unknown_items(
            question.read, draw.choice(rows, question.length)
        )
        for _ in range(600)
    ]
    base = question.of_histories(others)[0]
    error = base.std(0) / 600**0.5
    way = question.scores(question.everything)[0] - base.mean(0)
    # the items whose scores the history changes most, up and down
    chosen = np.argsort(way)[[0, 1, -2, -1]]
    way, error = way[chosen], error[chosen]
    assert (np.abs(way) > 8 * error).all()
    question = dataclasses.replace(question, candidates=rows[chosen])
    found = expected_gradients(question, points=600)
    assert (np.abs(found.sum(1) - way) < 4 * error).all()


def test_the_film_asked_about_is_the_one_recommended_first(data):
    scorer = fresh_model(data, VARIANTS["enhanced"]).frozen()
    question = questions.question_of(scorer, data, 2)
    with torch.no_grad():
        scores = scorer.score(question.batch([history_of(data, 2)]))[0]
    scores[torch.from_numpy(history_of(data, 2).items)] = -torch.inf
    assert question.candidates.tolist() == [int(scores.argmax())]
    assert len(question.stand_ins) == question.length and not set(
        question.stand_ins
    ) & set(question.history.items)


@pytest.mark.parametrize("dataset", ["synthetic", "ml-1m"])
def test_the_faithfulness_command(
    tmp_path, ml_1m_folder, capsys, monkeypatch, dataset
):
    """Figures of every method in every way; the planted causes where they are known."""
    monkeypatch.setattr(planted, "FEWEST", 80)  # fewer cases
    place = tmp_path / "model"
    small = [
        "--preset",
        "quick",
        "--dataset",
        dataset,
        "--hidden_size",
        "16",
        "--seq_length",
        "12",
        "--max_steps",
        "3",
        "--device",
        "cpu",
    ]
    if dataset == "ml-1m":
        small += ["--data_dir", str(ml_1m_folder)]
    assert (
        run_command(
            trainer.main,
            [*small, "--checkpoint_dir", str(place), "--runs_dir", str(place)],
        )
        == 0
    )
    command = [
        "--model_path",
        str(place / "best"),
        "--users",
        "6",
        "--results",
        str(tmp_path / "results"),
        "--methods",
        "leave_one_out",
        "random",
    ]
    assert run_command(faithfulness.main, command) == 0
    found = json.loads(
        (tmp_path / "results" / dataset / "results.json").read_text()
    )
    assert set(found["Faithfulness"]) == set(faithfulness.WAYS)
    for table, measured in (
        ("Faithfulness", faithfulness.MEASURES),
        ("Standard measures", fidelity.MEASURES),
        ("Known reasons", fidelity.KNOWN),
    ):
        for figures in found[table].values():
            assert set(figures) == set(measured)
            for of_method in figures.values():
                assert set(of_method) == {"leave_one_out", "random"}
    assert list(found["Standard measures"]) == ["mean", *"12345"]
    known = found["Known reasons"]["counts alone"]["correlation"]
    assert known["leave_one_out"]["mean"] > known["random"]["mean"]
    assert ("planted causes" in found) == (dataset == "synthetic")
    if dataset == "synthetic":
        shares = found["planted causes"]["leave_one_out"].values()
        assert all(0 <= one["share"] <= 1 <= one["cases"] for one in shares)
    text = (tmp_path / "results" / dataset / "table.md").read_text()
    assert str(tmp_path) not in text and "| removed | leave_one_out |" in text
    assert run_command(faithfulness.main, [*command, "--users", "0"]) == 2
    assert "--users: '0' is not a whole number" in capsys.readouterr().err


# Words, and what would have to be otherwise


def test_a_share_is_no_reason_where_the_film_is_better_off_without_it():
    """Of the TRIED strongest, those without which alone the score falls, to the last one."""
    game = Additive(None, None, None, np.zeros(1), None)
    shares = np.array([[1.0, 5, 4, 1.5, 0, 0, 3, 0, 0, 0]])
    found = attribution.Attribution(
        game.scores(np.ones((1, 10), dtype=bool))[0], shares, {}
    )
    # not 2: nothing falls without it
    assert np.flatnonzero(carried(game, found)[0]).tolist() == [1, 3, 6]
    both = attribution.Attribution(
        np.repeat(found.score, 2), np.concatenate([shares, -shares]), {}
    )
    assert carried(game, both).any(1).tolist() == [True, False]


def test_ranks_lost_are_those_of_the_model_without_it(data):
    question = question_of(data, VARIANTS["enhanced"])
    of_films, of_families = places_lost(question)
    everything = np.ones((1, question.length), dtype=bool)
    _, ranks = question.outcomes(everything)
    for family in question.families:
        assert (
            of_families[family]
            == question.outcomes(everything, {family})[1][0] - ranks[0]
        ).all()
    without = everything.copy()
    without[0, 1] = False
    assert (
        of_films[:, 1] == question.outcomes(without)[1][0] - ranks[0]
    ).all()
    assert any(values.any() for values in of_families.values())


class Cases(Question):
    """The film is in the list as long as given interactions are known."""

    length = 6

    def outcomes(self, kept, _without=frozenset()):
        ranks = np.where(self.candidates(kept), 1, 20)[:, None]
        return -ranks.astype(float), ranks


@pytest.mark.parametrize(
    ("stays", "expected"),
    [
        (lambda kept: kept[:, 4], [4]),
        (lambda kept: kept[:, 4] | kept[:, 1], [1, 4]),
        (lambda kept: kept[:, [0, 2, 5]].any(1), [0, 2, 5]),
        (lambda kept: np.ones(len(kept), dtype=bool), None),
    ],
)
def test_the_fewest_interactions_without_which_a_film_leaves_the_list(
    stays, expected
):
    """All of one and two are tried; larger sets hold nothing that they don't need."""
    assert smallest_set(Cases(None, None, None, stays, None), 10) == expected


def test_what_leaving_out_one_told_is_not_asked_again():
    cases = Cases(None, None, None, lambda kept: kept[:, 4], None)
    assert len(cases.one_by_one[1]) == cases.length + 1
    cases.outcomes = None
    assert smallest_set(cases, 10) == [4]


@pytest.mark.parametrize("shape", ["films", "shop", "ids"])
def test_leaving_out_is_ranking_without(data, shape):
    data = data if shape == "films" else other_data(shape)
    question = question_of(data, VARIANTS["enhanced"])
    found = explain(question, "leave_one_out")
    rank, (falls, _) = question.one_by_one[1][0], places_lost(question)
    for place in (0, question.length - 1):
        history = question.read.select(
            np.delete(np.arange(question.length), place)
        )
        with torch.no_grad():
            logits = question.scorer.score(question.batch([history]))
        scores = question.of_logits(logits)[0]
        lost = [
            1 + int((logits > logits[0, item]).sum())
            for item in question.candidates
        ]
        assert (falls[:, place] + rank).tolist() == lost
        np.testing.assert_allclose(
            found.history[:, place],
            found.score - scores.numpy(),
            rtol=1e-3,
            atol=1e-4,
        )


@pytest.mark.parametrize("method", [*METHODS, *DRAWN, "random"])
@pytest.mark.parametrize(
    "name", ["vanilla", "enhanced-ids-only", "enhanced-cloze-only"]
)
def test_a_user_without_a_history_is_explained(data, name, method):
    question = question_of(data, VARIANTS[name])
    users = data.catalogue.users.data.items()
    columns = {name: values[3] for name, values in users}
    nobody = History(np.zeros(0, dtype=int), user_columns=columns)
    found = explain(dataclasses.replace(question, history=nobody), method)
    assert found.history.shape == (2, 0) and np.isfinite(found.score).all()
    for family in {"interactions.rating", "times", "users.id"} & set(
        found.families
    ):
        if method != "random":
            # nothing of it is known
            np.testing.assert_allclose(found.families[family], 0.0, atol=1e-4)


def test_transitions_are_attributed_exactly(data):
    """What the counts add to a difference of two logits is the sum of their parts: without the
    states' share, which does not depend on them."""
    settings = VARIANTS["enhanced-transitions"]
    question = question_of(data, settings)
    found = integrated_gradients(question, points=32)
    plain = question_of(data, settings)
    plain.scorer.transitions = None
    without = integrated_gradients(plain, points=32)
    parts = question.scorer.transitions.parts(question.batch([question.read]))
    parts = parts[0, : question.length].flip(0).numpy()  # (J, R)
    rows = question.candidates
    expected = parts[:, rows[0]] - parts[:, rows[1]]
    changed = (found - without)[0] - (found - without)[1]
    np.testing.assert_allclose(
        changed[-len(expected) :], expected, rtol=1e-3, atol=1e-4
    )
    assert (parts != 0).any()


@pytest.mark.parametrize("name", ["vanilla", "enhanced", "enhanced-graph"])
def test_integrated_gradients_are_captums(data, name):
    captum = pytest.importorskip("captum.attr")
    question = question_of(data, VARIANTS[name])
    model, table = question.scorer.model, question.scorer.table
    batch = question.request(question.read)
    blank = question.request(
        question_module.unknown_items(question.read, MASK)
    )
    with torch.no_grad():
        (end, attend), (start, _) = (
            model.embed(batch, table),
            model.embed(blank, table),
        )

    def score(x):
        states = model.encoder(x, attend)[
            torch.arange(len(x)), int(batch.lengths[0]) - 1
        ]
        return question.of_logits(model.rank(states, table, batch))[:, 1]

    gradients = captum.IntegratedGradients(score)
    theirs = gradients.attribute(
        end, start, n_steps=32, method="gausslegendre"
    )
    ours = integrated_gradients(question, points=32)
    places = slice(attend.prefix, attend.prefix + question.length)
    np.testing.assert_allclose(
        ours[1],
        theirs[0, places].sum(-1).detach().numpy(),
        rtol=1e-3,
        atol=1e-4,
    )


FILMS = Schema("films", noun="film", verb="watched")
SHOP = Schema("shop", noun="article", verb="bought")


def test_a_sentence_names_what_the_numbers_carry():
    def spoken(items, families, schema=FILMS):
        items = [Reason("history", *pair) for pair in items]
        families = [Reason("features", *pair) for pair in families.items()]
        return sentence(schema, strongest(items, families))

    films = [("Alien", 0.8), ("Aliens", 0.5), ("Heat", 0.4), ("Clue", -0.3)]
    assert spoken(
        films,
        {
            "its genres": 0.3,
            "its year": 0.25,
            "the times of your history": -1.0,
        },
    ) == (
        "Because you watched Alien (+0.80) and Aliens (+0.50); because of its genres (+0.30); "
        "because of its year (+0.25)."
    )
    assert (
        spoken(films, {"its genres": 0.19})
        == "Because you watched Alien (+0.80) and Aliens (+0.50)."
    )
    assert (
        spoken([("milk", 0.6)], {}, SHOP) == "Because you bought milk (+0.60)."
    )
    for nothing in ([], [("Alien", 0.09)], [("Alien", -2.0)]):
        assert spoken(nothing, {"its year": -0.2}).startswith("No single film")
        assert spoken(nothing, {}, SHOP).startswith("No single article")


def test_a_tag_is_shown_with_other_items_that_have_it():
    like = ("Mulan", "Bambi", "Dumbo", "Tarzan")
    reasons = strongest(
        [Reason("history", "Bambi", 0.5)],
        [Reason("tag", "Animation", 1.0, like)],
    )
    assert sentence(FILMS, reasons) == (
        "Because you watched Bambi (+0.50); because of Animation (+1.00), like Mulan, Dumbo and "
        "2 more films that you watched."
    )
    alone = strongest([], [Reason("tag", "War", 1.0, ("Heat", "Up", "It"))])
    assert "like Heat, Up and 1 more film that" in sentence(FILMS, alone)
    none = strongest([], [Reason("tag", "War", 1.0)])
    assert sentence(FILMS, none) == "Because of War (+1.00)."


@pytest.mark.parametrize("shape", ["films", "shop"])
def test_without_a_tag_is_the_model_of_items_without_it(data, shape):
    """The same weights on a catalogue whose items lack the tag."""
    data = data if shape == "films" else other_data(shape)
    question = question_of(data, VARIANTS["enhanced"])
    assert question.tagged
    family = question.tagged[0]
    name = family.partition(".")[2]
    items = data.catalogue.items
    stored = items.data[name]
    code = int(stored[ITEM_ROWS:].max())
    kept = np.where(stored == code, 0, stored)
    # Stored tags stand first in a row.
    kept = np.take_along_axis(
        kept, np.argsort(kept == 0, axis=1, kind="stable"), 1
    )
    fewer = dataclasses.replace(items, data={**items.data, name: kept})
    catalogue = dataclasses.replace(data.catalogue, items=fewer)
    other = fresh_model(
        data.replace(catalogue=catalogue), VARIANTS["enhanced"]
    )
    other.load_state_dict(question.scorer.model.state_dict())
    expected = dataclasses.replace(question, scorer=other.frozen())
    everything = question.everything
    found = question.without_tag(family, code)
    np.testing.assert_allclose(
        found, expected.scores(everything)[0], rtol=1e-4, atol=1e-5
    )
    assert not np.allclose(found, question.scores(everything)[0])


def test_every_family_has_words(data):
    for world in (data, other_data("shop")):
        scorer = fresh_model(
            world, ModelSettings(graph=True, **TINY_MODEL)
        ).frozen()
        words = [
            family_label(world.catalogue, family) for family in scorer.families
        ]
        assert all(words) and len(set(words)) == len(words)


def test_another_users_rank_is_what_the_model_says_of_them(data):
    question = question_of(data, VARIANTS["enhanced"])
    flips = {
        (flip.column, flip.value): flip for flip in other_users(question, 0)
    }
    assert len(flips) == 1 + 6
    columns, field = (
        dict(question.read.user_columns),
        data.catalogue.users.fields["gender"],
    )
    other = 3 - int(columns["gender"])
    history = dataclasses.replace(
        question.read, user_columns={**columns, "gender": np.array(other)}
    )
    with torch.no_grad():
        logits = question.scorer.score(question.batch([history]))[0]
    flip = flips["gender", field.values[other - 1]]
    assert flip.rank == 1 + int(
        (logits > logits[question.candidates[0]]).sum()
    )
    assert other_users(question_of(data, VARIANTS["vanilla"]), 0) == []
    unknown = {
        name: values[0] for name, values in data.catalogue.users.data.items()
    }
    nobody = dataclasses.replace(question.history, user_columns=unknown)
    assert (
        len(other_users(dataclasses.replace(question, history=nobody), 0))
        == 2 + 7
    )


def test_tags_of_users_and_items_are_words():
    item = Item(
        1,
        "A",
        {
            "kind": ("x", "y"),
            "price": 2,
            "name": "A",
            "tag": ("A",),
            "z": None,
        },
    )
    assert columns_text(item) == "x, y; 2"
    columns = {"club": ("gold", "new"), "city": None, "none": ()}
    user = Profile(columns=columns, interactions=3, affinities={}, means={})
    line = profile_line(Schema("shop"), user)
    assert line == "User None: gold, new, 3 items"


def test_what_was_had_twice_is_named_once():
    twice = [
        Reason("history", name, effect)
        for name, effect in (("Milk", 0.9), ("Milk", 0.8), ("Tea", 0.7))
    ]
    assert strongest(twice, []) == (twice[0], twice[2])
