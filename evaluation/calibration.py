"""Whether the probabilities of a value head are what they say."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Reliability:
    """Bins of stated probability: what was stated on average, how often it was so, how many there
    were.
    """

    stated: np.ndarray  # (bins,)
    observed: np.ndarray  # (bins,)
    number: np.ndarray  # (bins,)

    @property
    def error(self) -> float:
        """Expected calibration error: mean |stated - observed|, weighted by number (Naeini et
        al., AAAI 2015)."""
        apart = np.abs(self.stated - self.observed)
        return float(apart @ self.number / self.number.sum())


def reliability(
    probabilities: np.ndarray, codes: np.ndarray, bins: int = 10
) -> Reliability:
    """Reliability of all statements 'this value is c', in bins of equal width of the probability.

    probabilities (Q, K), codes (Q,) from 1 to K. Empty bins are left out.
    """
    values = np.arange(1, probabilities.shape[1] + 1)
    stated, true = probabilities.ravel(), (codes[:, None] == values).ravel()
    place = np.minimum((stated * bins).astype(int), bins - 1)
    number = np.bincount(place, minlength=bins)
    filled = number > 0
    means = [
        np.bincount(place, each, bins)[filled] / number[filled]
        for each in (stated, true)
    ]
    return Reliability(*means, number[filled])
