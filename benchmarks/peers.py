"""RecTools' side of `benchmarks.compare`; runs in the peers' environment
(benchmarks/requirements-peers.txt).

    python -m benchmarks.peers BERT4RecModel|SASRecModel|HSTUModel TRAIN.npz
"""

import logging
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from pytorch_lightning import Callback, Trainer
from rectools import Columns, models
from rectools.dataset import Dataset
from rectools.dataset.context import get_context
from torch import get_num_threads, nn

from benchmarks.side import run
from support.memory import peak_memory_mb


class Clock(Callback):
    """Seconds and steps of an epoch, without Lightning's set-up; dropout where our blocks have
    it.
    """

    def on_fit_start(self, trainer: Trainer, *_args: Any) -> None:
        """Take out dropout on attention weights, inside the position-wise network and behind it a
        second time: ours has none there, and drawing it costs time."""
        for (
            name,
            module,
        ) in trainer.lightning_module.torch_model.named_modules():
            if isinstance(module, nn.MultiheadAttention):
                module.dropout = 0.0
            elif name.rpartition(".")[2] in ("ff_dropout_1", "dropout_3"):
                module.p = 0.0

    def on_train_epoch_start(self, trainer: Trainer, *_args: Any) -> None:
        """Start."""
        self.step, self.began = trainer.global_step, time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, *_args: Any) -> None:
        """Stop."""
        self.seconds, self.steps = (
            time.perf_counter() - self.began,
            trainer.global_step - self.step,
        )


class Peer:
    """One of RecTools' models with its own defaults, except for what both sides share."""

    def __init__(self, name: str, path: str) -> None:
        arrays = np.load(path)
        table = pd.DataFrame(
            {
                Columns.User: arrays["user"],
                Columns.Item: arrays["item"],
                Columns.Weight: 1.0,
                Columns.Datetime: pd.to_datetime(arrays["time"], unit="s"),
            }
        )
        self.dataset, self.clock = Dataset.construct(table), Clock()
        self.users = np.unique(arrays["user"]).tolist()
        later = pd.DataFrame(
            {
                Columns.User: self.users,
                Columns.Datetime: table[Columns.Datetime].max(),
            }
        )
        self.context = get_context(later) if name == "HSTUModel" else None
        self.model = getattr(models, name)(
            n_blocks=2,
            n_heads=2,
            n_factors=128,
            session_max_len=200,
            batch_size=128,
            dropout_rate=0.2,
            lr=1e-3,
            loss="softmax",
            get_trainer_func=self.trainer,
        )

    def trainer(self) -> Trainer:
        """Lightning's trainer as RecTools makes it, with a clock."""
        return Trainer(
            max_epochs=1,
            min_epochs=1,
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=False,
            enable_checkpointing=False,
            devices=1,
            callbacks=[self.clock],
        )

    def epoch(self) -> dict[str, Any]:
        """Train one epoch more."""
        self.model.fit_partial(self.dataset, min_epochs=1, max_epochs=1)
        clock = next(
            callback
            for callback in self.model.fit_trainer.callbacks
            if isinstance(callback, Clock)
        )
        return {
            "seconds": clock.seconds,
            "steps": clock.steps,
            "precision": "fp32",
            "threads": get_num_threads(),
            "peak_mb": peak_memory_mb(),
        }

    def recommend(self, users: Sequence[Any]) -> Sequence[Any]:
        """See `side.Side`."""
        context = self.context
        if context is not None:
            context = context[context[Columns.User].isin(users)]
        table = self.model.recommend(
            users, self.dataset, k=10, filter_viewed=True, context=context
        )
        return table[Columns.User].tolist()


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    run(Peer)
