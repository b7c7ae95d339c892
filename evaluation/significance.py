"""Is one model better than another on the same users? Paired tests over users, seeds,
comparisons.

Input is a metric as (S, P) values, S seeds of a model, P users in one order; a model without
seeds has S = 1. `compare` averages seeds for each user first: it speaks of users, and the spread
over seeds stands beside it. `compare_over_seeds` counts the luck of the seed too.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr, stdtrit

BLOCK = 256  # resamples at a time


@dataclass(frozen=True)
class Comparison:
    """Model minus reference: mean difference, its 95 % interval, p of the test against none."""

    difference: float
    low: float
    high: float
    p_value: float


def compare(
    model: np.ndarray,
    reference: np.ndarray,
    samples: int = 10_000,
    seed: int = 0,
) -> Comparison:
    """Paired bootstrap and paired randomisation test (Fisher's, by random signs; Smucker et al.,
    CIKM 2007, section 3) of a metric (S, P) against a reference (S', P).

    Raises `ValueError` where the users differ in number.
    """
    model, reference = np.atleast_2d(model), np.atleast_2d(reference)
    if model.shape[1] != reference.shape[1]:
        raise ValueError(
            f"{model.shape[1]} users against {reference.shape[1]}: not the same ones"
        )
    difference = model.mean(0) - reference.mean(0)  # (P,)
    draw, users = np.random.default_rng(seed), len(difference)
    observed = np.abs(difference.sum()) - 1e-12
    means, extreme = [], 0
    for start in range(0, samples, BLOCK):
        size = min(BLOCK, samples - start)
        means.append(
            difference[draw.integers(0, users, (size, users))].mean(1)
        )
        signs = draw.integers(0, 2, (size, users), dtype=np.int8) * 2 - 1
        extreme += int((np.abs(signs @ difference) >= observed).sum())
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    mean, p_value = float(difference.mean()), (extreme + 1) / (samples + 1)
    return Comparison(mean, float(low), float(high), p_value)


def seed_spread(models: list[np.ndarray]) -> tuple[float, int]:
    """(variance of the luck of the seed in the difference of two models, its degrees of freedom),
    pooled over the models of a study, each a metric (S, P).

    Of the models and not of their differences: those that share a reference share its luck, and
    many of them tell no more of it than one. That a seed is the same luck for two models is not
    counted on.
    """
    freedom = sum(len(values) - 1 for values in models)
    total = sum(
        _components(values)[1] * (len(values) - 1) for values in models
    )
    return 2 * total / freedom, freedom


def _components(values: np.ndarray) -> tuple[float, float, float]:
    """Of (S, P): the variance of users' means; that of what a seed does to everybody alike, by
    chance below 0; and that of what a seed does to one user."""
    of_users, of_seeds = values.mean(0), values.mean(1)
    left = values - of_users - of_seeds[:, None] + values.mean()
    alone = float((left**2).sum()) / (
        (len(of_seeds) - 1) * (len(of_users) - 1)
    )
    luck = float(of_seeds.var(ddof=1)) - alone / len(of_users)
    return float(of_users.var(ddof=1)), luck, alone


def compare_over_seeds(
    model: np.ndarray,
    reference: np.ndarray,
    spread: tuple[float, int] | None = None,
) -> Comparison:
    """Difference of a metric (S, P) to a reference (S, P) with the same seeds, S of 2 or more, as
    a draw of users and of seeds.

    Both are crossed: var(mean) = (users + alone / S) / P + seeds / S, where `alone`, a user's own
    luck under a seed, is in the variance of the users' means already and is counted once (Searle,
    Casella and McCulloch, Variance Components, 1992, chapter 4). t has Satterthwaite's degrees of
    freedom (Biometrics Bulletin 2, 1946).

    Two or three seeds that agree by luck would make any difference certain. So the luck of the
    seed is `spread`, of `seed_spread` over a whole study, or the difference's own where that is
    larger; without `spread` it is its own, and t has no more than S - 1 degrees of freedom. Where
    the seeds of one model scatter twice as far as those of the others, so few seeds cannot show
    it: then p is below .05 in up to 11 % of the worlds without a difference. Raises `ValueError`
    where users or seeds differ in number, or there is one seed.
    """
    if model.shape != reference.shape or len(model) < 2:
        raise ValueError(
            f"{model.shape} against {reference.shape}: the same users and at least two "
            f"seeds are needed"
        )
    difference = model - reference  # (S, P)
    seeds, users = difference.shape
    among_users, luck, alone = _components(difference)
    pooled, seed_freedom = spread or (0.0, seeds - 1)
    parts = np.array([among_users / users, max(pooled, luck, 0.0) / seeds])
    # The luck of seeds was told from their means, which hold that of each user under them too.
    measured = np.array([parts[0], parts[1] + alone / (seeds * users)])
    mean, error = float(difference.mean()), float(np.sqrt(parts.sum()))
    scatter = (measured**2 / [users - 1, seed_freedom]).sum()
    freedom = parts.sum() ** 2 / max(scatter, np.finfo(float).tiny)
    if spread is None:
        freedom = min(freedom, seeds - 1)
    freedom = max(1.0, freedom)
    reach = error * float(stdtrit(freedom, 0.975))
    if error:
        p_value = 2 * float(stdtr(freedom, -abs(mean) / error))
    else:
        p_value = 1.0 if mean == 0 else 0.0
    return Comparison(mean, mean - reach, mean + reach, p_value)


def holm(p_values: list[float]) -> list[float]:
    """P-values corrected for the number of comparisons (Holm, 1979): the smallest times n, the
    next times n - 1, ..."""
    order = np.argsort(p_values)
    factors = len(p_values) - np.arange(len(p_values))
    raised = np.maximum.accumulate(np.array(p_values)[order] * factors)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(1.0, raised)
    return corrected.tolist()


def mark(p_value: float) -> str:
    """The sign that tables put beside a difference: *** below .001, ** below .01, * below .05."""
    return "*" * sum(p_value < level for level in (0.05, 0.01, 0.001))
