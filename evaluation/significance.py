"""Is one model better than another on the same people? Paired tests over people, several seeds, several comparisons.

Input is a metric as (S, P) values, S seeds of a model, P people in one order; a model without seeds has S = 1. Seeds
are averaged for each person first: the tests speak of people, the spread over seeds stands beside them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BLOCK = 256  # resamples at a time


@dataclass(frozen=True)
class Comparison:
    """Model minus reference: mean difference, its 95 % bootstrap interval, p of the randomisation test, and for how
    many people the model was better, equal or worse."""

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
