"""The state of a training run (training_loop.Run): its progress, and the folder that `--resume`
reads."""

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from description import damaged
from evaluation.metrics import METRIC
from support.checkpoint import load_weights, read_checkpoint, write_checkpoint
from support.errors import require


class Stopped(KeyboardInterrupt):
    """The user asked a run to stop; its state is saved in a folder."""

    def __init__(self, folder: Path | None) -> None:
        message = "stopped"
        if folder is not None:
            message = (
                f"stopped and saved in {folder}; the same command goes on, trainer.py and "
                f"bert_multi.py with --resume"
            )
        super().__init__(message)


@dataclass
class Progress:
    """Progress of a run: what a stopped run needs besides weights, optimizer and random state.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    step_seconds: float = 0.0  # of the training steps alone
    # of all cores together, whatever else the machine does
    processor_seconds: float = 0.0
    evaluations_without_gain: int = 0
    finished: bool = False
    # metrics, epoch, step, ... of the best model
    best: dict[str, Any] = field(default_factory=dict)

    @property
    def best_score(self) -> float:
        """Validation score of the best model so far."""
        return self.best.get(METRIC, -math.inf)

    def line(self, record: dict[str, Any], losses: dict[str, float]) -> str:
        """A line about an evaluation; * if it is the best so far."""
        parts = " ".join(
            f"{task} {value:.3f}" for task, value in losses.items()
        )
        mark = " *" if self.best["epoch"] == record["epoch"] else ""
        return (
            f"epoch {record['epoch']:3d}  {record['seconds']:6.0f} s  losses: {parts}  "
            f"validation: HR@10 {record['HR@10']:.4f} NDCG@10 {record['NDCG@10']:.4f}{mark}"
        )

    def stopwatch(self, training: bool = False) -> Callable[[], None]:
        """A function that adds the time since now, whenever it is called. training: it is that of
        training steps."""
        wall = self.seconds - time.perf_counter()
        steps = self.step_seconds - time.perf_counter()
        processor = self.processor_seconds - time.process_time()

        def count() -> None:
            self.seconds = wall + time.perf_counter()
            if training:
                self.step_seconds = steps + time.perf_counter()
            self.processor_seconds = processor + time.process_time()

        return count


ADAPTER = TypeAdapter(Progress)


def save_state(run: Any, folder: Path) -> None:
    """Write weights, best weights, optimizer, random state, losses and progress."""
    parts = {"model": run.model.state_dict(), "best": run.best_weights}
    states = run.optimizer.state_dict()["state"]
    for index, values in states.items():
        parts[f"optimizer.{index}"] = values
    tensors = {"random": torch.get_rng_state()}
    for part, values in parts.items():
        tensors |= {f"{part}.{name}": value for name, value in values.items()}
    if run.device.type == "cuda":
        tensors["random_cuda"] = torch.cuda.get_rng_state()
    info = {
        "settings": run.settings.to_dict(),
        "threads": torch.get_num_threads(),
        "processes": run.world,
        "split_hash": run.data.split_hash,
        "optimizer_parts": sorted(states),
        "progress": dataclasses.asdict(run.progress),
        # exact: a number of fp32 is one of fp64
        "loss_sums": {
            task: float(total) for task, total in run.loss_sums.items()
        },
        "loss_counts": run.loss_counts,
    }
    write_checkpoint(folder, tensors, info)


def load_state(run: Any, folder: Path) -> Progress:
    """Go back to where a stopped run was and return its progress; exact in one process (of
    several, only the main one's random state is kept, so the others' dropout goes on
    differently)."""
    tensors, info = read_checkpoint(folder)
    require(
        "optimizer_parts" in info,
        f"{folder} was written by an older version of this program; go on with that version, or "
        f"start again without --resume",
    )
    require(
        info["processes"] == run.world,
        f"{folder} was trained by {info['processes']} processes, here are {run.world}; start as "
        f"many",
    )
    require(
        info["split_hash"] == run.data.split_hash,
        f"{folder} was trained on split {info['split_hash']}, the data at hand are split "
        f"{run.data.split_hash}; give the same data",
    )
    try:
        progress = ADAPTER.validate_python(info["progress"])
        _restore(run, tensors, info, folder)
    except (
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:
        raise damaged(folder, repr(error)) from error
    return progress


def _restore(run, tensors, info, folder):
    """Load a state into a run; the shape of each tensor is checked."""
    # Sums of another number of threads round otherwise.
    torch.set_num_threads(info["threads"])
    run.best_weights = _part(tensors, "best.")
    if run.best_weights:  # none without a validation part
        load_weights(run.model, run.best_weights, str(folder))
    load_weights(run.model, _part(tensors, "model."), str(folder))
    whole = run.optimizer.state_dict()
    parameters = [
        (parameter, group["muon"])
        for group in run.optimizer.param_groups
        for parameter in group["params"]
    ]
    for index, (parameter, muon) in enumerate(parameters):
        state = _part(tensors, f"optimizer.{index}.")
        # A parameter without a gradient has none.
        if index in info["optimizer_parts"]:
            _check_moments(state, parameter, index, muon)
        whole["state"][index] = state
    run.optimizer.load_state_dict(whole)
    torch.set_rng_state(tensors["random"])
    if "random_cuda" in tensors and run.device.type == "cuda":
        torch.cuda.set_rng_state(tensors["random_cuda"])
    for task, total in info["loss_sums"].items():
        run.loss_sums[task] = torch.tensor(float(total), device=run.device)
    run.loss_counts |= info["loss_counts"]


def _check_moments(state, parameter, index, muon):
    """Check their shapes, which the optimizer does not."""
    names = ("momentum",) if muon else ("exp_avg", "exp_avg_sq")
    for name in names:
        moment = state[name]
        if (moment.shape, moment.dtype) != (parameter.shape, parameter.dtype):
            raise ValueError(
                f"optimizer.{index}.{name} is {tuple(moment.shape)}, {moment.dtype}"
            )
    if state["step"].shape:
        raise ValueError(f"optimizer.{index}.step is no number")


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names have this prefix, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
