"""Whether the rating head's probabilities are what they say."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STARS = np.arange(1, 6)


@dataclass(frozen=True)
class Reliability:
    """Bins of stated probability: what was stated on average, how often it was so, and how many statements."""

    stated: np.ndarray  # (bins,)
    observed: np.ndarray  # (bins,)
    number: np.ndarray  # (bins,)

    @property
    def error(self) -> float:
        """Expected calibration error: mean |stated - observed|, weighted by statements (Naeini et al., AAAI 2015)."""
        return float(np.abs(self.stated - self.observed) @ self.number / self.number.sum())


def rating_reliability(probabilities: np.ndarray, ratings: np.ndarray, bins: int = 10) -> Reliability:
    """Reliability of all statements 'this rating is s' for s = 1 to 5, in bins of equal width of the probability.

    probabilities (Q, 5), ratings (Q,) from 1 to 5. Empty bins are left out.
    """
    stated, true = probabilities.ravel(), (ratings[:, None] == STARS).ravel()
    place = np.minimum((stated * bins).astype(int), bins - 1)
    number = np.bincount(place, minlength=bins)
    kept = number > 0
    return Reliability(np.bincount(place, stated, bins)[kept] / number[kept],
                       np.bincount(place, true, bins)[kept] / number[kept], number[kept])
