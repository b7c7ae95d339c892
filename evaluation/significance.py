"""Is one model better than another on the same users? Paired tests.

A metric is an array (S, P): S seeds of a model, P users in the same order for both models. A
model without seeds has S = 1. `compare` averages over seeds first, so its interval holds for
these seeds and new users. `compare_over_seeds` holds for new users and new seeds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtr, stdtrit

BLOCK = 256  # resamples at a time


@dataclass(frozen=True)
class Comparison:
    """Model minus reference: the mean difference, its 95 % interval, and the p-value of the
    hypothesis that there is no difference."""

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
    """Interval by the paired bootstrap, p-value by the paired `randomisation_test`.

    model (S, P), reference (S', P). Raises `ValueError` if the numbers of users differ.
    """
    model, reference = np.atleast_2d(model), np.atleast_2d(reference)
    if model.shape[1] != reference.shape[1]:
        raise ValueError(
            f"{model.shape[1]} users against {reference.shape[1]}: not the same ones"
        )
    difference = model.mean(0) - reference.mean(0)  # (P,)
    users = len(difference)
    draw = np.random.default_rng(seed)
    means = []
    for start in range(0, samples, BLOCK):
        size = min(BLOCK, samples - start)
        drawn = draw.integers(0, users, (size, users))
        means.append(difference[drawn].mean(1))
    low, high = np.percentile(np.concatenate(means), [2.5, 97.5])
    p_value = randomisation_test(difference, samples, seed)
    return Comparison(
        float(difference.mean()), float(low), float(high), p_value
    )


def randomisation_test(
    difference: np.ndarray, samples: int = 10_000, seed: int = 0
) -> float:
    """p-value that differences (P,) of users are 0 on average: Fisher's test with random signs
    (Smucker et al., CIKM 2007, section 3)."""
    users = len(difference)
    total = difference.sum()
    # Less a trifle: sums of the same numbers differ in the last digits.
    observed = abs(total) - 1e-10
    draw = np.random.default_rng(seed)
    extreme = 0
    for start in range(0, samples, BLOCK):
        size = min(BLOCK, samples - start)
        coins = draw.integers(0, 256, (size, -(-users // 8)), dtype=np.uint8)
        negative = np.unpackbits(coins, axis=1, count=users).astype(float)
        sums = np.abs(total - 2 * (negative @ difference))
        extreme += int((sums >= observed).sum())
    return (extreme + 1) / (samples + 1)


def seed_spread(models: list[np.ndarray]) -> tuple[float, int]:
    """(variance that seeds add to the difference of two models, its degrees of freedom).

    Pooled over the models of a study, each a metric (S, P). The variance is estimated from the
    models, not from their differences: all differences share one reference, so they are not
    independent. The seeds of two models are taken as independent draws, hence the factor 2.
    """
    freedom = sum(len(values) - 1 for values in models)
    total = sum(
        _components(values)[1] * (len(values) - 1) for values in models
    )
    return 2 * total / freedom, freedom


def _components(values):
    """Variance components of a metric (S, P): of users, of seeds, of their interaction.

    The first is the variance of the users' means. The second is an estimate, which can come out
    below 0.
    """
    user_means = values.mean(0)
    seed_means = values.mean(1)
    seeds, users = values.shape
    residuals = values - user_means - seed_means[:, None] + values.mean()
    interaction = float((residuals**2).sum()) / ((seeds - 1) * (users - 1))
    of_seeds = float(seed_means.var(ddof=1)) - interaction / users
    return float(user_means.var(ddof=1)), of_seeds, interaction


def compare_over_seeds(
    model: np.ndarray,
    reference: np.ndarray,
    spread: tuple[float, int] | None = None,
) -> Comparison:
    """Difference for new users and new seeds; both metrics (S, P) with the same seeds, S >= 2.

    Users and seeds are crossed random effects (Searle, Casella and McCulloch, Variance
    Components, 1992, chapter 4):

        var(mean) = (users + interaction / S) / P + seeds / S

    The variance of the users' means already holds interaction / S, so it is counted once. The
    t test has Satterthwaite's degrees of freedom (Biometrics Bulletin 2, 1946).

    spread: `seed_spread` of a whole study. Two or three seeds can agree by chance, and
    would then make any difference certain. So the larger of `spread` and the difference's own
    variance counts. Without `spread`, t has at most S - 1 degrees of freedom. If the seeds of one
    model scatter twice as far as those of the others, p is too small: below .05 in up to 11 % of
    the cases without a difference.

    Raises `ValueError` if the shapes differ or there is one seed.
    """
    if model.shape != reference.shape or len(model) < 2:
        raise ValueError(
            f"{model.shape} against {reference.shape}: the same users and at least two "
            f"seeds are needed"
        )
    difference = model - reference  # (S, P)
    seeds, users = difference.shape
    of_users, of_seeds, interaction = _components(difference)
    pooled, seed_freedom = spread or (0.0, seeds - 1)
    of_seeds = max(pooled, of_seeds, 0.0)
    parts = np.array([of_users / users, of_seeds / seeds])
    # The seeds' means, from which their variance was estimated, hold the interaction too.
    measured = parts + np.array([0.0, interaction / (seeds * users)])
    mean = float(difference.mean())
    error = float(np.sqrt(parts.sum()))
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


def holm(p_values: Mapping[Any, float]) -> dict[Any, float]:
    """P-values by name, corrected for the number of comparisons (Holm, 1979).

    The smallest is multiplied by n, the next by n - 1, and so on.
    """
    names = sorted(p_values, key=p_values.get)
    raised = [
        p_values[name] * (len(names) - i) for i, name in enumerate(names)
    ]
    corrected = np.minimum(1.0, np.maximum.accumulate(raised))
    return dict(zip(names, corrected.tolist(), strict=True))


def mark(p_value: float) -> str:
    """The sign that tables put beside a difference: *** below .001, ** below .01, * below .05."""
    return "*" * sum(p_value < level for level in (0.05, 0.01, 0.001))
