"""Models from settings, and to and from checkpoint folders.

A folder holds the weights, the items (trained_items.py), the users who trained them
(trained_users.py), and `checkpoint.json`: settings, schema, the fields of the columns, figures. If
the licence of the data forbids to publish names and columns of items, they are read from the data.
Columns of users are never stored.
"""

import dataclasses
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from batches import History, history_batch
from bert4rec import BERT4Rec
from data_processor import load
from dataset import ITEM_ROWS, USER_ROWS, Catalogue, Dataset, Table
from description import Fields, check_description, damaged
from enhanced_model import EnhancedBERT4Rec
from schema import schema_of
from settings import ModelSettings, Settings
from support.checkpoint import (
    INFO,
    load_weights,
    read_checkpoint,
    write_checkpoint,
)
from support.errors import UserError, require
from support.memory import machine_memory
from support.tracking import git_commit
from trained_items import FILE as ITEMS
from trained_items import read_items
from trained_users import keep_users, read_users, write_users

# of a parameter: itself, its gradient, at most two moments, and the best so far
TRAINING_BYTES = 5 * 4


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A trained model in evaluation mode, its settings, its catalogue and its record.

    data: the data set, if it was read for the names of the items.
    """

    model: nn.Module
    settings: Settings
    catalogue: Catalogue
    info: dict[str, Any]
    data: Dataset | None = None


def has_user_vectors(settings: ModelSettings) -> bool:
    """Whether a model has a vector for each user."""
    return settings.model == "enhanced" and settings.user_ids


def least_parameters(catalogue: Catalogue, settings: ModelSettings) -> int:
    """A lower bound of the model's parameters, known before it is built."""
    width = settings.hidden_size
    rows = settings.seq_length
    if settings.model == "vanilla" or settings.item_ids:
        rows += len(catalogue.items.ids)
    if has_user_vectors(settings):
        rows += len(catalogue.users.ids)
    if settings.model == "enhanced" and settings.positions == "sinusoidal":
        rows -= settings.seq_length
    block = (4 + 2 * settings.ffn_multiplier) * width**2
    return rows * width + settings.num_layers * block


def build_model(catalogue: Catalogue, settings: ModelSettings) -> nn.Module:
    """The model that settings describe, freshly initialised."""
    if settings.model == "vanilla":
        return BERT4Rec.from_settings(catalogue, settings)
    return EnhancedBERT4Rec(catalogue, settings)


def new_model(data: Dataset, settings: ModelSettings) -> nn.Module:
    """A model to be trained on the training part of these data. Raises `UserError` if this machine
    has too little memory for it."""
    least = least_parameters(data.catalogue, settings)
    needed, there = least * TRAINING_BYTES, machine_memory()
    require(
        not there or needed < there,
        f"a model of {least:,} parameters takes {needed / 1e9:,.0f} GB in training, this machine "
        f"has {there / 1e9:,.0f} GB; lower --hidden_size {settings.hidden_size} or --num_layers "
        f"{settings.num_layers}",
    )
    return build_model(data.catalogue, settings).prepare(data)


def save_model(
    folder: Path,
    model: nn.Module,
    settings: Settings,
    data: Dataset,
    record: dict[str, Any],
    run: str = "",
) -> None:
    """Write a checkpoint folder (module's head). run: identification of the run."""
    catalogue = data.catalogue
    info = {
        "settings": settings.to_dict(),
        "schema": catalogue.schema.to_dict(),
        "fields": Fields.dump_python(catalogue.fields, mode="json"),
        "validation": record,
        "run": run,
        "split_hash": data.split_hash,
        "git_commit": git_commit(),
        "versions": {name: version(name) for name in ("torch", "numpy")},
        "num_items": len(catalogue.items.ids),
    }

    def add(new: Path) -> None:
        from storage.item_table import write_items

        described = catalogue.schema.publish_items
        write_items(new / ITEMS, catalogue.items, described)
        if not keep_users(folder, new, data.split_hash):
            write_users(new, data)

    write_checkpoint(folder, model.state_dict(), info, add)


def load_model(
    folder: Path, copies: str | None = None, data_dir: str | None = None
) -> Checkpoint:
    """The model of a checkpoint folder.

    Names and columns of the items come from the folder, else from the files of the data set, in
    `data_dir` or in their old place. copies: as in
    `read_checkpoint`. Raises `UserError` if the folder is missing, corrupted or foreign, or the
    items are others.
    """
    tensors, info = read_checkpoint(folder, copies)
    check_description(folder, info)
    settings = stored_settings(folder, info)
    if data_dir:
        settings = settings.replace(data_dir=str(data_dir))
    catalogue, data = _stored_catalogue(folder, info, settings)
    held = sum(
        tensor.numel()
        for name, tensor in tensors.items()
        if not name.startswith("transitions.")  # any number of counts
    )
    if least_parameters(catalogue, settings.model) > held:
        raise damaged(folder, "it is of a larger model than its weights")
    try:
        model = build_model(catalogue, settings.model)
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(folder, repr(error)) from error
    load_weights(model, tensors, str(folder), assign=copies is not None)
    _check_scores(model.eval(), catalogue, folder)
    return Checkpoint(model, settings, catalogue, info, data)


def _check_scores(model, catalogue, folder):
    """Raise `UserError` unless the model can rank: no score of an item is NaN or infinite."""
    first = History(np.array([ITEM_ROWS]))
    batch = history_batch([first], catalogue, model.settings.seq_length)
    with torch.no_grad():
        scores = model.frozen().score(batch)[:, ITEM_ROWS:]
    require(
        bool(scores.isfinite().all()),
        f"{folder}: its weights give scores that are no numbers; copy it again or train again",
    )


def stored_settings(folder: Path, info: dict[str, Any]) -> Settings:
    """The settings in a checkpoint's description."""
    try:
        return Settings().replace(**info["settings"])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(folder, repr(error)) from error
    except UserError as error:
        raise _foreign(folder, info, error) from error


def _stored_catalogue(folder, info, settings):
    """The catalogue that a model was trained on, and the data set if it had to be read. Of the
    users, only the ids, if the model has a vector for each."""
    nameless = np.empty(0, dtype=object)
    user_ids = nameless
    if has_user_vectors(settings.model):
        (user_ids,) = read_users(folder, info, ["id"])
    try:
        schema = schema_of(info["schema"], folder / INFO, {})
        fields = Fields.validate_python(info["fields"])
        users = Table(user_ids, USER_ROWS, nameless, fields["users"])
    except UserError as error:
        raise _foreign(folder, info, error) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise damaged(folder, repr(error)) from error
    items = read_items(folder, info, fields["items"])
    catalogue = Catalogue(schema, items, users, fields["interactions"])
    if len(items.names):
        return catalogue, None
    data = load(settings.data, catalogue)
    items = _rows_of(items, data.catalogue.items, folder)
    return dataclasses.replace(catalogue, items=items), data


def from_pretrained(folder: str | Path) -> EnhancedBERT4Rec:
    """The model of a folder that trainer.py wrote; also `EnhancedBERT4Rec.from_pretrained`."""
    return load_model(Path(folder)).model


EnhancedBERT4Rec.from_pretrained = staticmethod(from_pretrained)


def data_of(
    checkpoint: Checkpoint, folder: Path | str, same_split: bool = True
) -> Dataset:
    """The data that a model was trained on, its columns coded as then.

    Raises `UserError` if the files have other items, or other users where the model has a vector
    for each. same_split: also if they have other interactions, as held-out parts may then differ.
    """
    info = checkpoint.info
    data = checkpoint.data
    if data is None:
        data = load(checkpoint.settings.data, checkpoint.catalogue)
    ours = data.catalogue
    for table, read in checkpoint.catalogue.fields.items():
        _check_columns(read, ours.fields[table], folder)
    differs = ""
    if same_split and data.split_hash != info["split_hash"]:
        differs = "other interactions, columns or times"
    theirs = checkpoint.catalogue
    same = np.array_equal(ours.items.ids, theirs.items.ids)
    if has_user_vectors(checkpoint.settings.model):
        same &= np.array_equal(ours.users.ids, theirs.users.ids)
    if not same:
        differs = "another catalogue"
    if differs:
        raise UserError(
            f"{folder} was trained on split {info['split_hash']} of {data.name}, the files "
            f"at hand give split {data.split_hash}: {differs}; give the right --data_dir "
            f"or train again"
        )
    if data.split_hash != info["split_hash"] and has_user_vectors(
        checkpoint.settings.model
    ):
        data = _with_trained_users(data, Path(folder), info)
    return data


def _with_trained_users(data, folder, info):
    """The data whose training part has only users who trained the model. Newer interactions may
    have moved the date of the split, and the vectors of other users are untrained."""
    _, lengths = read_users(folder, info, ("id", "length"))
    never = np.flatnonzero(lengths == 0) + USER_ROWS
    ends = data.split.train_ends.copy()
    ends[never] = data.offsets[never]
    split = dataclasses.replace(data.split, train_ends=ends)
    return data.replace(split=split)


def load_with_data(
    folder: Path, data_dir: str | None = None
) -> tuple[nn.Module, Settings, Dataset]:
    """(model, settings, data) of a checkpoint folder: see `load_model` and `data_of`."""
    checkpoint = load_model(folder, data_dir=data_dir)
    data = data_of(checkpoint, folder)
    return checkpoint.model, checkpoint.settings, data


def _rows_of(bare, found, folder):
    """The items of a checkpoint with names and columns from the data."""
    try:
        rows = np.append(np.arange(bare.first), bare.rows_in(found))
    except UserError as error:
        raise UserError(
            f"{folder}: {error}; give the right --data_dir or train again"
        ) from error
    _check_columns(bare.fields, found.fields, folder)
    # A column that the model does not know is not read by it either.
    data = {name: found.data[name][rows] for name in bare.fields}
    return dataclasses.replace(bare, names=found.names[rows], data=data)


def _check_columns(read, found, folder):
    """Raise `UserError` if the data lack a column that the model may read."""
    lacking = sorted(read.keys() - found.keys())
    require(
        not lacking,
        f"{folder}: the data lack {', '.join(lacking)}, which the model reads; give the right "
        f"--data_dir or train again",
    )


def _foreign(folder, info, error):
    commit = info.get("git_commit", "unknown")
    return UserError(
        f"{folder} was written by another version of this program (commit {commit}): "
        f"{error}; use that version, or train again"
    )
