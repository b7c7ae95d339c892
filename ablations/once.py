"""Runs and models that a table needs, trained once and kept in a work folder."""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ablations.study import code_version, data_hash, run_key
from dataset import Dataset
from model_io import load_model, save_model
from run_folder import BEST, RESULTS, read_results, stopped_run
from settings import Settings
from starting import starting_model
from support.checkpoint import recover_checkpoint
from support.processes import wait_for_lock
from training_loop import fit
from training_run import train


def run_once(settings: Settings, folder: Path) -> dict[str, Any]:
    """Results of the run in this folder. A finished run is read; else it is trained and measured,
    or continued where it was stopped.

    Waits if another process has the run.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings = settings.replace(
        checkpoint_dir=str(folder), runs_dir=str(folder / "log")
    )
    with wait_for_lock(folder / "lock"):
        if (folder / BEST / RESULTS).exists():
            return read_results(folder / BEST)
        return train(settings, stopped_run(folder))


def trained(
    settings: Settings, data: Dataset, work: Path
) -> tuple[nn.Module, dict[str, Any], Path]:
    """(model, record of its best epoch and `seconds` of training, its folder in `work`) of settings
    and data, without test figures; trained once, or continued where it was stopped."""
    folder = work / run_key(settings, data_hash(data), code_version())
    best, last = folder / "best", folder / "last"
    folder.mkdir(parents=True, exist_ok=True)
    with wait_for_lock(folder / "lock"):
        if not recover_checkpoint(best):
            torch.manual_seed(settings.train.seed)
            model = starting_model(data, settings)
            progress = fit(
                model,
                data,
                settings,
                state_folder=last,
                resume=recover_checkpoint(last),
            )
            record = {**progress.best, "seconds": progress.seconds}
            save_model(best, model, settings, data, record)
            shutil.rmtree(last, ignore_errors=True)
    checkpoint = load_model(best)
    return checkpoint.model, checkpoint.info["validation"], best
