"""Models from settings, and to and from checkpoint folders. Inference needs nothing but such a folder."""

from __future__ import annotations

import dataclasses
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from bert4rec import BERT4Rec
from data_processor import FIRST_ITEM, Catalogue, SequenceData, load
from enhanced_model import EnhancedBERT4Rec
from readers.interactions import GENRES
from settings import DataSettings, ModelSettings, Settings, idle, model_only, section_fields
from support.checkpoint import load_weights, read_checkpoint, read_json, write_checkpoint
from support.errors import UserError
from support.tracking import git_commit

METADATA = "metadata.json"
# What --start_from may change: it leaves no trace in what the weights mean.
MAY_CHANGE = {"dropout", "layer_dropout"}


def build_model(catalogue: Catalogue, settings: ModelSettings) -> nn.Module:
    """The model that settings describe, freshly initialised."""
    if settings.model == "vanilla":
        return BERT4Rec.from_settings(len(catalogue.movie_ids), settings)
    return EnhancedBERT4Rec(catalogue, settings)


def new_model(data: SequenceData, settings: ModelSettings, held_out: bool = True) -> nn.Module:
    """A model that is about to be trained on the training part of these data, or (held_out=False) on all of them."""
    model = build_model(data.catalogue, settings)
    return model.prepare(data, held_out) if isinstance(model, EnhancedBERT4Rec) else model


def starting_model(data: SequenceData, settings: Settings, held_out: bool = True) -> nn.Module:
    """What a training on these data begins with: a new model, or one grown from a checkpoint (`--start_from`).

    held_out: as in `new_model`.
    """
    start = settings.train.start_from
    return _grown_model(Path(start), data, settings, held_out) if start else new_model(data, settings.model, held_out)


def _grown_model(folder: Path, data: SequenceData, settings: Settings, held_out: bool) -> nn.Module:
    """The model of a checkpoint folder, about to be trained further on data that may hold new films and people.

    Weights are the checkpoint's; what is kept of the data (the edges of a graph, counts) is that of these data. Raises
    `UserError` where the settings are of another model, or films of the checkpoint are missing in the data.
    """
    older, _, own, _ = load_model(folder, data_dir=settings.data.data_dir)
    for name in set(section_fields(ModelSettings)) - MAY_CHANGE:
        theirs, ours = getattr(older.settings, name), getattr(settings.model, name)
        if theirs != ours and model_only(name) in (None, settings.model.model) and idle(name, settings) is None:
            raise UserError(f"--start_from {folder} is of another model: --{name} is {theirs} there and {ours} here; "
                            f"give {theirs}, or train without --start_from")
    try:
        kept = older.for_catalogue(own, data.catalogue).state_dict()
    except UserError as error:
        raise UserError(f"--start_from {folder}: {error}") from error
    model = new_model(data, settings.model, held_out)
    fresh = {name: value for name, value in model.state_dict().items()
             if name.startswith(("encoders.graph.", "counts")) and name not in dict(model.named_parameters())}
    load_weights(model, {**kept, **fresh}, f"--start_from {folder}")
    return model


def save_model(folder: Path, model: nn.Module, settings: Settings, data: SequenceData, record: dict[str, Any],
               keep_previous: bool = False) -> None:
    """Write a checkpoint folder: weights, checkpoint.json (how it came about), metadata.json (the catalogue)."""
    films = data.catalogue
    info = {
        "settings": settings.to_dict(), "validation": record, "dataset": data.name, "data_note": data.note,
        "split_hash": data.split_hash, "seed": settings.train.seed, "git_commit": git_commit(),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in ("torch", "numpy")}},
        "movie_ids": films.movie_ids.tolist(), "user_ids": films.user_ids.tolist(),
        "train_lengths": data.train_lengths.tolist(),
        "occupations": {str(code): name for code, name in films.occupations.items()}}
    write_checkpoint(folder, model.state_dict(), info, {METADATA: _metadata(films)}, keep_previous)


def load_model(folder: Path, metadata_path: Path | None = None,
               mapped: bool = False,
               data_dir: str | None = None) -> tuple[nn.Module, Settings, Catalogue, dict[str, Any]]:
    """(model in evaluation mode, settings, catalogue, info) of a checkpoint folder.

    Titles, genres and years come from `metadata_path`, else from metadata.json in the folder, else from the files of
    the data set that the model was trained on, in `data_dir` or where they lay then.
    mapped: as in `read_checkpoint`. Raises `UserError` if the folder is missing, corrupted, foreign, or its
    metadata belong to another catalogue.
    """
    tensors, info = read_checkpoint(folder, mapped)
    if "movie_ids" not in info:
        raise UserError(f"{folder} holds no catalogue: it is the state of a training run or a library model, "
                        f"not a model for recommendation; give checkpoints/best")
    try:
        settings = Settings().replace(**info["settings"])
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(folder, error) from error
    except UserError as error:
        raise UserError(f"{folder} was written by another version of this program (commit "
                        f"{info.get('git_commit', 'unknown')}): {error}; use that version, or train again") from error
    metadata_path = metadata_path or folder / METADATA
    if metadata_path == folder / METADATA and not metadata_path.exists():  # a published model comes without titles
        files = dataclasses.replace(settings.data, data_dir=data_dir or settings.data.data_dir)
        metadata = _metadata(data_of(files, info, folder, same_split=False).catalogue)
    else:
        metadata = read_json(metadata_path)
    try:
        catalogue = _catalogue(info, metadata, metadata_path)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{metadata_path} is damaged ({error!r}); copy it again from beside its model") from error
    try:
        model = build_model(catalogue, settings.model)
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(folder, error) from error
    load_weights(model, tensors, str(folder), assign=mapped)
    return model.eval(), settings, catalogue, info


def data_of(settings: DataSettings, info: dict[str, Any], folder: Path | str, same_split: bool = True) -> SequenceData:
    """The data that a model was trained on, read again. Raises `UserError` if the files hold other films or people, or
    (same_split) other interactions, so that what was held out then may not be what is held out now."""
    data = load(settings)
    differs = "another catalogue" if not all(np.array_equal(ours, info[name]) for name, ours in (
        ("movie_ids", data.catalogue.movie_ids), ("user_ids", data.catalogue.user_ids))) else \
        "other interactions or times" if same_split and data.split_hash != info["split_hash"] else ""
    if differs:
        raise UserError(f"{folder} was trained on split {info['split_hash']} of {data.name}, the files at hand give "
                        f"split {data.split_hash}: {differs}; give the right --data_dir or train again")
    return data


def _damaged(folder: Path, error: Exception) -> UserError:
    return UserError(f"{folder}: its settings are damaged ({error!r}); copy it again or train again")


def _metadata(films: Catalogue) -> dict[str, Any]:
    rows = zip(films.movie_ids.tolist(), films.titles, films.genres[FIRST_ITEM:], films.years[FIRST_ITEM:].tolist(),
               strict=True)
    return {"movies": {str(movie_id): {
        "title": title, "year": year or None, "genres": [GENRES[index] for index in np.flatnonzero(flags)]}
        for movie_id, title, flags, year in rows}}


def _catalogue(info: dict[str, Any], metadata: dict[str, Any], path: Path) -> Catalogue:
    movies = metadata.get("movies")
    if not isinstance(movies, dict) or set(movies) != {str(movie_id) for movie_id in info["movie_ids"]}:
        raise UserError(f"{path} does not list the {len(info['movie_ids'])} films of this checkpoint; "
                        f"give the {METADATA} that was written beside it")
    films = [movies[str(movie_id)] for movie_id in info["movie_ids"]]
    genres = np.zeros((len(films) + FIRST_ITEM, len(GENRES)), dtype=np.float32)
    for row, film in enumerate(films, start=FIRST_ITEM):
        genres[row, [GENRES.index(name) for name in film["genres"]]] = 1
    years = np.array([0] * FIRST_ITEM + [film["year"] or 0 for film in films], dtype=np.int64)
    return Catalogue(np.array(info["movie_ids"]), tuple(film["title"] for film in films), genres, years,
                     np.array(info["user_ids"]), {int(code): name for code, name in info["occupations"].items()})
