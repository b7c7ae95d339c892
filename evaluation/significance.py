"""Is one model better than another on the same people? Paired tests over people, several seeds, several comparisons.

Input is a metric as (S, P) values, S seeds of a model, P people in one order; a model without seeds has S = 1.
`compare` averages seeds for each person first: it speaks of people, and the spread over seeds stands beside it.
`compare_over_seeds` counts the luck of the seed too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

BLOCK = 256  # resamples at a time


@dataclass(frozen=True)
class Comparison:
    """Model minus reference: mean difference, its 95 % interval, p of the test against none, and for how many
    people the model was better, equal or worse."""

    difference: float
    low: float
    high: float
    p_value: float
    wins: int
    ties: int
    losses: int


def compare(model: np.ndarray, reference: np.ndarray, samples: int = 10_000, seed: int = 0) -> Comparison:
    """Paired bootstrap and paired randomisation test (Fisher's, by random signs; Smucker et al., CIKM 2007, section 3)
    of a metric (S, P) against a reference (S', P).

    Raises `ValueError` where the people differ in number.
    """
    model, reference = np.atleast_2d(model), np.atleast_2d(reference)
    if model.shape[1] != reference.shape[1]:
        raise ValueError(f"{model.shape[1]} people against {reference.shape[1]}: not the same ones")
    difference = model.mean(0) - reference.mean(0)  # (P,)
    draw, people = np.random.default_rng(seed), len(difference)
    means, extreme = [], 0
    for start in range(0, samples, BLOCK):
        size = min(BLOCK, samples - start)
        means.append(difference[draw.integers(0, people, (size, people))].mean(1))
        signs = draw.integers(0, 2, (size, people), dtype=np.int8) * 2 - 1
        extreme += int((np.abs(signs @ difference) >= np.abs(difference.sum()) - 1e-12).sum())
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    return Comparison(float(difference.mean()), float(low), float(high), (extreme + 1) / (samples + 1),
                      int((difference > 0).sum()), int((difference == 0).sum()), int((difference < 0).sum()))


def seed_spread(models: list[np.ndarray]) -> tuple[float, int]:
    """(variance over seeds of the difference of two models, its degrees of freedom), pooled over the models of a study,
    each the means (S,) of its seeds.

    Of the models and not of their differences: those that share a reference share its luck, and many of them tell no
    more of it than one. That a seed is the same luck for two models is not counted on.
    """
    freedom = sum(len(values) - 1 for values in models)
    return 2 * sum(float(values.var(ddof=1)) * (len(values) - 1) for values in models) / freedom, freedom


def compare_over_seeds(model: np.ndarray, reference: np.ndarray,
                       spread: tuple[float, int] | None = None) -> Comparison:
    """Difference of a metric (S, P) to a reference (S, P) with the same seeds, S of 2 or more, as a draw of people and
    of seeds: the variances of its mean over either are added, and t has Satterthwaite's degrees of freedom (Biometrics
    Bulletin 2, 1946).

    Two or three seeds that agree by luck would make any difference certain. So `spread`, of `seed_spread` over a whole
    study, stands in where it is larger than their own variance, with its degrees of freedom; their own has S - 1, and
    without `spread` t has no more than that. Where the seeds of one model scatter four times as much as those of the
    others, so few seeds cannot show it: then p is below .05 in up to 12 % of the worlds without a difference.
    Raises `ValueError` where people or seeds differ in number, or there is one seed.
    """
    if model.shape != reference.shape or len(model) < 2:
        raise ValueError(f"{model.shape} against {reference.shape}: the same people and at least two seeds are needed")
    difference = model - reference  # (S, P)
    seeds, people = difference.shape
    of_seeds, seed_freedom = float(difference.mean(1).var(ddof=1)), seeds - 1
    if spread is not None and spread[0] >= of_seeds:
        of_seeds, seed_freedom = spread
    parts = np.array([difference.mean(0).var(ddof=1) / people, of_seeds / seeds])
    mean, error = float(difference.mean()), float(np.sqrt(parts.sum()))
    freedom = parts.sum()**2 / max((parts**2 / [people - 1, seed_freedom]).sum(), np.finfo(float).tiny)
    freedom = max(1.0, freedom if spread is not None else min(freedom, seeds - 1))
    reach = error * float(stats.t.ppf(0.975, freedom))
    p_value = 2 * float(stats.t.sf(abs(mean) / error, freedom)) if error else 1.0 if mean == 0 else 0.0
    of_people = difference.mean(0)
    return Comparison(mean, mean - reach, mean + reach, p_value, int((of_people > 0).sum()),
                      int((of_people == 0).sum()), int((of_people < 0).sum()))


def holm(p_values: list[float]) -> list[float]:
    """P-values corrected for the number of comparisons (Holm, 1979): the smallest times n, the next times n - 1, ..."""
    order = np.argsort(p_values)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(
        [p_values[index] * (len(p_values) - place) for place, index in enumerate(order)]))
    return corrected.tolist()


def mark(p_value: float) -> str:
    """The sign that tables put beside a difference: *** below .001, ** below .01, * below .05."""
    return "***" if p_value < 0.001 else "**" if p_value < 0.01 else "*" if p_value < 0.05 else ""
