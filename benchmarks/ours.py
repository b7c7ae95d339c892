"""Our side of `benchmarks.compare`: `python -m benchmarks.ours vanilla|causal|enhanced
ml-1m|synthetic`"""

import dataclasses
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.side import run
from bulk import recommend_all
from data_processor import load
from dataset import Dataset
from engine import RecommendationEngine
from model_io import new_model, save_model
from settings import Settings
from support.devices import choose_device, uses_bf16
from support.memory import peak_memory_mb
from training_loop import fit

# What all sides share: width, depth, heads, length, sequences a step, share of masked positions,
# dropout, full softmax.
SHARED = dict(
    hidden_size=128,
    num_layers=2,
    num_heads=2,
    seq_length=200,
    batch_size=128,
    mask_prob=0.15,
    dropout=0.2,
    learning_rate=1e-3,
    max_epochs=1,
)
MODELS: dict[str, dict[str, Any]] = {
    "vanilla": dict(model="vanilla", last_mask_share=0.0),
    # SASRec's shape on our blocks: ids, positions, an inner width of one and the next-item head,
    # nothing else.
    "causal": dict(
        ffn_multiplier=1,
        item_features="none",
        interaction_features="none",
        user_features="none",
        user_ids=False,
        time_features="none",
        relative_time=False,
        masked_item_weight=0.0,
        value_weight=0.0,
        preference_weight=0.0,
    ),
    # four heads, all side information
    "enhanced": dict(masked_batch_share=0.1),
}


class Ours:
    """A model of ours on a data set."""

    def __init__(self, kind: str, dataset: str) -> None:
        self.settings = Settings().replace(
            dataset=dataset, **SHARED, **MODELS[kind]
        )
        self.data = load(self.settings.data)
        self.users = self.data.catalogue.users.ids.tolist()
        torch.manual_seed(self.settings.train.seed)
        self.model = new_model(self.data, self.settings.model)

    def epoch(self) -> dict[str, Any]:
        """Train one epoch."""
        # Its training part as it is, without validation.
        split = dataclasses.replace(self.data.split, requests={})
        data = self.data.replace(split=split)
        progress = fit(self.model, data, self.settings, quiet=True)
        bf16 = uses_bf16("auto", choose_device("auto"))
        return {
            "seconds": progress.seconds,
            "steps": progress.step,
            "precision": "bf16" if bf16 else "fp32",
            "threads": torch.get_num_threads(),
            "peak_mb": peak_memory_mb(),
        }

    @cached_property
    def engine(self) -> RecommendationEngine:
        """The model, written and opened again as a user would."""
        with tempfile.TemporaryDirectory() as folder:
            save_model(Path(folder), self.model, self.settings, self.data, {})
            return RecommendationEngine(folder)

    def recommend(self, users: Sequence[Any]) -> Sequence[Any]:
        """See `side.Side`."""
        if len(users) == 1:
            return self.engine.get_recommendations(users[0], None, 10)
        return recommend_all(self.engine, users, k=10)["user_id"].tolist()


def training_part(data: Dataset, folder: Path) -> Path:
    """The training interactions as arrays, oldest first for each user, for the peers."""
    rows = data.training_rows()
    path = folder / "train.npz"
    np.savez(
        path,
        user=data.user_of[rows],
        item=data.items[rows],
        time=data.times[rows],
    )
    return path


if __name__ == "__main__":
    run(Ours)
