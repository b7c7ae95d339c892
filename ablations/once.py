"""Models that a table needs, trained once and kept in a folder of its work."""

import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ablations.study import code_version, data_hash, run_key
from dataset import Dataset
from model_io import load_model, save_model
from settings import Settings
from starting import starting_model
from support.checkpoint import settled
from support.processes import alone
from training_loop import fit


def trained(
    settings: Settings, data: Dataset, work: Path
) -> tuple[nn.Module, dict[str, Any], Path]:
    """(model, record of its best epoch and `seconds` of training, its folder in `work`) of
    settings; trained once, and gone on with where it was stopped.

    """
    folder = work / run_key(settings, data_hash(data), code_version())
    state = folder.with_name(f"{folder.name}.stopped")
    work.mkdir(parents=True, exist_ok=True)
    with alone(folder.with_name(f"{folder.name}.lock")):
        if (folder / "checkpoint.json").exists():
            checkpoint = load_model(folder)
            return checkpoint.model, checkpoint.info["validation"], folder
        torch.manual_seed(settings.train.seed)
        model = starting_model(data, settings)
        progress = fit(
            model,
            data,
            settings,
            state_folder=state,
            resume=settled(state),
        )
        record = {**progress.best, "seconds": progress.seconds}
        save_model(folder, model, settings, data, record)
        shutil.rmtree(state)
    return model.cpu().eval(), record, folder
