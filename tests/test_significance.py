"""Paired tests against scipy and against what they promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from evaluation.significance import compare, holm, mark
from tests.conftest import rng


def test_randomisation_test_agrees_with_scipy():
    for seed, shift in ((0, 0.0), (1, 0.05), (2, 0.12)):
        draw = rng(seed)
        reference = draw.random(80)
        model = reference + draw.normal(shift, 0.4, 80)
        ours = compare(model, reference, samples=20_000)
        theirs = stats.permutation_test((model, reference), lambda x, y, axis: (x - y).mean(axis), n_resamples=20_000,
                                        permutation_type="samples", vectorized=True, rng=seed)
        assert ours.p_value == pytest.approx(theirs.pvalue, abs=0.015)
        interval = stats.bootstrap((model - reference,), np.mean, method="percentile", n_resamples=20_000, rng=seed)
        assert ours.low == pytest.approx(interval.confidence_interval.low, abs=0.01)
        assert ours.high == pytest.approx(interval.confidence_interval.high, abs=0.01)


def test_false_alarms_are_as_rare_as_promised():
    """Two equal models: p below .05 in about 5 % of the worlds."""
    alarms = []
    for seed in range(300):
        draw = rng(seed)
        alarms.append(compare(draw.random(40), draw.random(40), samples=300, seed=seed).p_value < 0.05)
    assert 0.02 <= np.mean(alarms) <= 0.09


def test_seeds_are_averaged_for_each_person():
    model, reference = np.array([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]]), np.array([[0.5, 0.5, 0.5]])
    result = compare(model, reference)
    assert (result.wins, result.ties, result.losses) == (1, 1, 1)
    assert result.difference == pytest.approx((0.5 + 0.0 + 1.0) / 3 - 0.5)
    with pytest.raises(ValueError, match="3 people against 2"):
        compare(model, np.array([0.1, 0.2]))


def test_holm():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert [mark(p) for p in (0.0005, 0.005, 0.04, 0.06)] == ["***", "**", "*", ""]
