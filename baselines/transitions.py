"""Items by what followed those of the history: counts of the training part, and nothing learned
(transitions.py)."""

from torch import Tensor

from baselines.popularity import Popularity
from batches import Batch
from dataset import Dataset
from transitions import Transitions


class TransitionRanker:
    """Scores by transitions alone. Pairs never seen follow in the order of their popularity."""

    starts = True

    def __init__(self, data: Dataset, transitions: Transitions) -> None:
        self.transitions = transitions
        ever = Popularity(data).counts
        # less than any pair gives; -inf for PAD and MASK
        self.fallback = 1e-6 * ever / (ever.max() + 1)

    def score(self, batch: Batch) -> Tensor:
        """(B, R)."""
        device = batch.items.device
        return self.transitions.to(device)(batch) + self.fallback.to(device)
