"""Paired tests against scipy and against what they promise."""

import numpy as np
import pytest
from scipy import stats

from evaluation.significance import (
    compare,
    compare_over_seeds,
    holm,
    mark,
    seed_spread,
)
from tests.conftest import rng


def test_randomisation_test_agrees_with_scipy():
    for seed, shift in ((0, 0.0), (1, 0.05), (2, 0.12)):
        draw = rng(seed)
        reference = draw.random(80)
        model = reference + draw.normal(shift, 0.4, 80)
        ours = compare(model, reference, samples=20_000)
        theirs = stats.permutation_test(
            (model, reference),
            lambda x, y, axis: (x - y).mean(axis),
            n_resamples=20_000,
            permutation_type="samples",
            vectorized=True,
            rng=seed,
        )
        assert ours.p_value == pytest.approx(theirs.pvalue, abs=0.015)
        interval = stats.bootstrap(
            (model - reference,),
            np.mean,
            method="percentile",
            n_resamples=20_000,
            rng=seed,
        )
        assert ours.low == pytest.approx(
            interval.confidence_interval.low, abs=0.01
        )
        assert ours.high == pytest.approx(
            interval.confidence_interval.high, abs=0.01
        )


def test_false_alarms_are_as_rare_as_promised():
    """Two equal models: p below .05 in about 5 % of the worlds."""
    alarms = []
    for seed in range(300):
        draw = rng(seed)
        alarms.append(
            compare(
                draw.random(40), draw.random(40), samples=300, seed=seed
            ).p_value
            < 0.05
        )
    assert 0.02 <= np.mean(alarms) <= 0.09


def test_the_luck_of_the_seed_counts():
    """Equal models whose seeds scatter more than people do: tests over people alone call most of
    them different.
    """
    alarms, blind, covered = [], [], []
    for seed in range(300):
        draw = rng(seed)
        people, luck = draw.random(200), draw.normal(0, 0.1, (2, 3, 1))
        model, reference = (
            people + luck[side] + draw.normal(0, 0.1, (3, 200))
            for side in (0, 1)
        )
        result = compare_over_seeds(model, reference)
        alarms.append(result.p_value < 0.05)
        covered.append(result.low <= 0 <= result.high)
        blind.append(
            compare(model, reference, samples=200, seed=seed).p_value < 0.05
        )
    assert (
        np.mean(alarms) <= 0.08 < 0.5 < np.mean(blind)
        and np.mean(covered) >= 0.92
    )


def worlds(
    number, seeds, of_seed, of_person, of_pair, first=1, models=10, people=60
):
    """(models, seeds, people) values of equal models in each of so many worlds; of_*: standard
    deviations of what the mean over people and seeds is moved by, of a model; first: how much
    farther the second one's seeds scatter."""
    for world in range(number):
        draw = rng(world)
        luck = draw.normal(0, of_seed * seeds**0.5, (models, seeds, 1))
        luck[1] *= first
        yield (
            luck
            + draw.normal(0, of_person * people**0.5, (models, 1, people))
            + draw.normal(
                0, of_pair * (seeds * people) ** 0.5, (models, seeds, people)
            )
        )


def told(models, pooled=True):
    """p-values of the others against the first."""
    spread = seed_spread(list(models)) if pooled else None
    return [
        compare_over_seeds(model, models[0], spread).p_value
        for model in models[1:]
    ]


@pytest.mark.parametrize("seeds", [2, 3])
@pytest.mark.parametrize(
    ("pooled", "first"), [(False, 1), (True, 1), (True, 2)]
)
def test_seeds_that_agree_by_luck_prove_nothing(seeds, pooled, first):
    """Nine equal variants and the one that they are compared with, where seeds do most of what
    chance does, or those of the first variant twice as much (its own test is then a little too
    sure): no test alone, and no family of nine with Holm's correction, is wrong more often than
    it says."""
    alone, of_first, family = [], [], []
    for models in worlds(300, seeds, 0.045 / seeds**0.5, 0.012, 0, first):
        p_values = told(models, pooled)
        alone += [p < 0.05 for p in p_values]
        of_first.append(p_values[0] < 0.05)
        family.append(min(holm(dict(enumerate(p_values))).values()) < 0.05)
    assert (
        np.mean(alone) <= 0.06
        and np.mean(of_first) <= (0.07 if first == 1 else 0.11)
        and np.mean(family) <= 0.07
    )


@pytest.mark.parametrize("seeds", [2, 3])
def test_a_persons_own_luck_under_a_seed_counts_once(seeds):
    """Luck as in our studies, most of it of a person under a seed: false alarms are neither more
    than 5 % nor far fewer, and a difference of four standard errors is mostly found."""
    of_seed, of_person, of_pair = 0.00075, 0.0003, 0.0011
    error = (2 * (of_seed**2 + of_person**2 + of_pair**2)) ** 0.5
    alarms, found = [], []
    for models in worlds(200, seeds, of_seed, of_person, of_pair):
        alarms += [p < 0.05 for p in told(models)]
        found += [
            p < 0.05
            for p in told(
                models + 4 * error * (np.arange(10) > 0)[:, None, None]
            )
        ]
    assert 0.02 <= np.mean(alarms) <= 0.06 and np.mean(found) > 0.85


def test_the_pooled_luck_of_seeds():
    """Twice the mean of the variances of the seeds' means, weighted by their degrees of freedom,
    where nobody has luck of their own; without it where that is all there is."""
    first, second = np.array([1.0, 3.0]), np.array([0.0, 1.0, 2.0])
    people = rng(0).normal(size=50)
    models = [values[:, None] + people for values in (first, second)]
    assert seed_spread(models) == (
        pytest.approx(2 * (2.0 * 1 + 1.0 * 2) / 3),
        3,
    )
    spread, freedom = seed_spread(
        [rng(seed).normal(size=(40, 5)) for seed in range(40)]
    )
    assert freedom == 40 * 39 and abs(spread) < 0.04  # of 2 / 5 in the means


def test_seeds_without_luck_leave_the_paired_t_test_of_people():
    draw = rng(5)
    difference = draw.normal(0.1, 1.0, 50)
    reference = np.tile(draw.random(50), (4, 1))
    ours = compare_over_seeds(
        reference + difference, reference, spread=(0.0, 1000)
    )
    theirs = stats.ttest_1samp(difference, 0.0)
    assert ours.p_value == pytest.approx(theirs.pvalue, rel=1e-6)
    assert (ours.low, ours.high) == pytest.approx(
        tuple(theirs.confidence_interval()), rel=1e-6
    )
    assert compare_over_seeds(reference, reference).p_value == 1.0
    for wrong in (reference[:1], reference[:, :9]):
        with pytest.raises(ValueError, match="at least two seeds"):
            compare_over_seeds(wrong, wrong if len(wrong) == 1 else reference)


def test_seeds_are_averaged_for_each_person():
    model, reference = (
        np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]),
        np.array([[0.5, 0.5, 0.5]]),
    )
    result = compare(model, reference)
    assert result.difference == pytest.approx((0.5 + 0.0 + 1.0) / 3 - 0.5)
    with pytest.raises(ValueError, match="3 users against 2"):
        compare(model, np.array([0.1, 0.2]))


def test_holm():
    corrected = holm({"a": 0.04, "b": 0.01, "c": 0.03})
    assert corrected == pytest.approx({"a": 0.06, "b": 0.03, "c": 0.06})
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}
    assert [mark(p) for p in (0.0005, 0.005, 0.04, 0.06)] == [
        "***",
        "**",
        "*",
        "",
    ]
