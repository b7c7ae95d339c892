"""RecTools' side of `benchmarks.compare`; runs in the peers' environment
(benchmarks/requirements-peers.txt).

    python -m benchmarks.peers BERT4RecModel|SASRecModel|HSTUModel TRAIN.npz
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from typing import Any

import numpy as np
import pandas as pd
from pytorch_lightning import Callback, Trainer
from rectools import Columns, models
from rectools.dataset import Dataset
from rectools.dataset.context import get_context
from torch import get_num_threads, nn

from benchmarks.serve import REQUESTS, claim_stdout, requests, serve
from support.memory import peak_memory_mb

PEOPLE = 2000


class Clock(Callback):
    """Seconds and steps of an epoch, without Lightning's set-up; dropout where our blocks have
    it.
    """

    def on_fit_start(self, trainer: Trainer, *_args: Any) -> None:
        """Take out dropout on attention weights, inside the position-wise network and behind it a
        second time: ours has none there, and drawing it costs time."""
        for name, module in trainer.lightning_module.torch_model.named_modules():
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
    """One of RecTools' models at its own defaults, but for what both sides share."""

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
        self.everybody = np.unique(arrays["user"])
        self.people = self.everybody[:PEOPLE]
        later = pd.DataFrame(
            {
                Columns.User: self.everybody,
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

    def prepare(self) -> dict[str, Any]:
        """Nothing to do."""
        return {}

    def _recommend(self, people: np.ndarray) -> pd.DataFrame:
        context = (
            None
            if self.context is None
            else self.context[self.context[Columns.User].isin(people)]
        )
        return self.model.recommend(
            people, self.dataset, k=10, filter_viewed=True, context=context
        )

    def recommend(self) -> dict[str, Any]:
        """Ten items for each of the first users, seen ones left out."""
        began = time.perf_counter()
        table = self._recommend(self.people)
        return {
            "seconds": time.perf_counter() - began,
            "users": table[Columns.User].nunique(),
            "rows": len(table),
        }

    def latency(self) -> dict[str, Any]:
        """One person at a time."""
        times = []
        for person in requests(self.everybody):
            began = time.perf_counter()
            self._recommend(np.array([person]))
            times.append(time.perf_counter() - began)
        return {
            "p50_ms": 1e3 * float(np.percentile(times, 50)),
            "p99_ms": 1e3 * float(np.percentile(times, 99)),
            "requests": REQUESTS,
        }


def main(argv: list[str]) -> None:
    """See the module's head."""
    answers = claim_stdout()
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    peer = Peer(*argv)
    serve(
        {
            "epoch": peer.epoch,
            "prepare": peer.prepare,
            "recommend": peer.recommend,
            "latency": peer.latency,
        },
        answers,
    )


if __name__ == "__main__":
    main(sys.argv[1:])
