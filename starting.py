"""The start of a training: a new model, or one grown from a checkpoint (`--start_from`), and its
teachers. A checkpoint is refused if it may have been trained on held-out interactions of this
run."""

import os
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from data_processor import load
from dataset import Dataset
from evaluation.metrics import METRIC
from fields import UNKNOWN
from growth import for_catalogue
from model_io import load_model, new_model
from settings import (
    BOOKKEEPING,
    Settings,
    idle,
    model_only,
)
from support.arguments import names_of
from support.checkpoint import load_weights
from support.devices import choose_device, uses_bf16
from support.errors import UserError, require
from trained_users import read_users, training_hashes

# What --start_from may change: it leaves no trace in what the weights mean.
MAY_CHANGE = {"dropout", "layer_dropout", "transitions"}
# Names of tensors that are computed from the data, unless they are parameters.
OF_DATA = ("graph.", "transitions.", "counts")
SAME_OF_TEACHERS = ("model", "start_token", "query_time")
SAME_OF_TEACHERS += ("next_item_weight", "masked_item_weight")


def starting_shape(settings: Settings) -> dict[str, Any]:
    """The model settings of the checkpoint that training continues; {} without one."""
    start = settings.train.start_from
    if not start:
        return {}
    checkpoint = load_model(Path(start), data_dir=settings.data.data_dir)
    return dict(vars(checkpoint.settings.model))


def starting_model(data: Dataset, settings: Settings) -> nn.Module:
    """The model that training begins with.

    The weights of a checkpoint stay. Edges of a graph, counts and transitions are taken from these
    data. Raises `UserError` if the settings are of another model, or items are missing in the data.
    """
    start = settings.train.start_from
    if not start:
        return new_model(data, settings.model)
    origin = f"--start_from {start}"
    checkpoint = load_model(Path(start), data_dir=settings.data.data_dir)
    names = vars(settings.model).keys() - MAY_CHANGE
    _check_same(origin, checkpoint, settings, names)
    try:
        grown = for_catalogue(checkpoint.model, data.catalogue).state_dict()
    except UserError as error:
        raise UserError(f"{origin}: {error}") from error
    model = new_model(data, settings.model)
    learned = dict(model.named_parameters())

    def of_data(name: str) -> bool:
        return name.startswith(OF_DATA) and name not in learned

    taken = {name: value for name, value in grown.items() if not of_data(name)}
    own = {
        name: value
        for name, value in model.state_dict().items()
        if of_data(name)
    }
    load_weights(model, taken | own, origin)
    return model


def pinned(settings: Settings) -> Settings:
    """Settings of a run that may be resumed, perhaps by another process: with the precision that is
    faster here, and the targets of links such as checkpoints/best, which may point elsewhere
    then."""
    train = settings.train
    bf16 = uses_bf16(train.precision, choose_device(train.device))
    teachers = [_target(folder) for folder in names_of(train.teacher)]
    return settings.replace(
        precision="bf16" if bf16 else "fp32",
        teacher=",".join(teachers),
        start_from=_target(train.start_from),
    )


def _target(folder):
    return str(Path(folder).resolve()) if os.path.islink(folder) else folder


def starting_data(settings: Settings) -> Dataset:
    """The data, with the codes of the model that training continues.

    Raises `UserError` if that model may have been trained on held-out interactions: each user's
    training part must begin with the one that trained the model, and may be longer.
    """
    folder = settings.train.start_from
    if not folder:
        return load(settings.data)
    start = load_model(Path(folder), data_dir=settings.data.data_dir)
    data = load(settings.data, start.catalogue)
    _check_selected(f"--start_from {folder}", start, settings)
    columns = ["id", "length", "hash"]
    ids, lengths, theirs = read_users(Path(folder), start.info, columns)
    rows = data.catalogue.users.index(ids)
    ends = data.offsets[:-1].copy()
    ends[rows] += np.minimum(lengths, data.train_lengths[rows])
    ours = training_hashes(data, ends)[rows]
    differs = (ours != theirs) | (rows == UNKNOWN)
    differs &= lengths > 0
    if differs.any():
        user = ids[differs.argmax()]
        raise UserError(
            f"--start_from {folder} may have been trained on what is held out here: what trained "
            f"it of user {user} is not what this user's training part begins with; give the files "
            f"that trained it, or such with later interactions"
        )
    return data


def load_teachers(data: Dataset, settings: Settings) -> list[nn.Module]:
    """The teachers. Raises `UserError` if one does not fit this run."""
    folders = names_of(settings.train.teacher)
    return [_teacher(Path(folder), data, settings) for folder in folders]


def _teacher(folder, data, settings):
    flag = f"--teacher {folder}"
    checkpoint = load_model(folder, data_dir=settings.data.data_dir)
    hash_there = checkpoint.info["split_hash"]
    require(
        hash_there == data.split_hash,
        f"{flag} was trained on split {hash_there}, this run on {data.split_hash}: other items, "
        f"or interactions that are held out here; train it on the same data",
    )
    _check_selected(flag, checkpoint, settings)
    _check_same(flag, checkpoint, settings, SAME_OF_TEACHERS)
    least = settings.model.seq_length
    require(
        checkpoint.settings.model.seq_length >= least,
        f"{flag} must read at least {least} interactions (--seq_length)",
    )
    return checkpoint.model


def _check_selected(origin, start, settings):
    """Raises `UserError` if a model may have been trained on held-out interactions of this run.
    origin: its flag and folder."""
    # The hash does not hold each choice, so one that rounds alike is compared too.
    names = vars(settings.data).keys() - {"dataset", *BOOKKEEPING}
    _check_same(origin, start, settings, names)
    require(
        METRIC in start.info.get("validation", {}),
        f"{origin} was not selected on validation: what this run holds out may have trained it; "
        f"train one with trainer.py",
    )


def _check_same(origin, start, settings, names):
    """Raises `UserError` if one of these settings differs from that of the model."""
    theirs, ours = start.settings.to_dict(), settings.to_dict()
    for name in sorted(names):
        before, now = theirs[name], ours[name]
        if name.endswith("_weight"):  # whether there is a head is what counts
            before, now = before > 0, now > 0
        other_model = model_only(name) not in (None, ours["model"])
        if before != now and not other_model and idle(name, settings) is None:
            raise UserError(
                f"{origin} does not fit: --{name} is {theirs[name]} there and {ours[name]} here; "
                f"give the same, or train one with it"
            )
