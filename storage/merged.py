"""Values of the parts of a build, merged as they come."""

from collections.abc import Callable

import pandas as pd

MERGED = 1_000_000  # values that wait to be merged, beside as many as are merged


class Merged:
    """Values of many parts, which have most of them in common, merged now and then: memory is that
    of different values, and few merges are made."""

    def __init__(self, merge: Callable[[pd.Series], pd.Series]) -> None:
        self.merge = merge
        self.parts: list[pd.Series] = []
        self.size = self.waiting = 0

    def add(self, part: pd.Series) -> None:
        """Add a part."""
        self.parts.append(part)
        self.waiting += len(part)
        if self.waiting > MERGED + self.size:
            self.parts = [self.whole()]
            self.size, self.waiting = len(self.parts[0]), 0

    def whole(self) -> pd.Series:
        """All values."""
        return self.merge(pd.concat(self.parts))
