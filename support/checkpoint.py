"""Checkpoints: a folder of safetensors and JSON, no pickle, replaced as a whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from support.errors import UserError

WEIGHTS, INFO = "model.safetensors", "checkpoint.json"
FORMAT = "enhanced-bert4rec/1"


def write_checkpoint(folder: Path, tensors: dict[str, Tensor], info: dict[str, Any],
                     files: dict[str, Any] | None = None) -> None:
    """Write tensors, their description and further JSON files into a folder, atomically.

    Everything is written to a folder beside it first, so that a full disk or a kill leaves the old one as it was.
    """
    from safetensors.torch import save_file

    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        # Tied or sliced tensors must not share memory in the file.
        save_file({name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
                  scratch / WEIGHTS)
        for name, content in {INFO: {"format": FORMAT, **info}, **(files or {})}.items():
            (scratch / name).write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
        (scratch / WEIGHTS).chmod(0o644)  # safetensors and mkdtemp make private ones
        scratch.chmod(0o755)
        if folder.exists():
            old = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
            os.replace(folder, old / folder.name)
            os.replace(scratch, folder)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(scratch, folder)
    except BaseException as error:
        shutil.rmtree(scratch, ignore_errors=True)
        # safetensors wraps a full disk in an error of its own.
        if "No space left" in str(error):
            raise UserError(f"{folder}: no space left on the disk; free some and run again") from error
        raise


def set_aside(folder: Path) -> None:
    """Move a finished checkpoint to `<folder>.previous`, so that the next run does not replace it for good."""
    if folder.exists():
        previous = folder.with_name(folder.name + ".previous")
        shutil.rmtree(previous, ignore_errors=True)
        os.replace(folder, previous)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file whole or not at all."""
    scratch = path.with_name(f".{path.name}.part")
    try:
        scratch.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8")
        os.replace(scratch, path)
    finally:
        scratch.unlink(missing_ok=True)


def read_checkpoint(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, info) of a checkpoint folder. Raises `UserError` if it is missing, corrupted or of another program."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    info = read_json(folder / INFO)
    if info.get("format") != FORMAT:
        raise UserError(f"{folder / INFO} says format {info.get('format')!r}, this program reads {FORMAT!r}; "
                        f"train again or use the version that wrote it ({info.get('git_commit', 'unknown')})")
    try:
        return load_file(folder / WEIGHTS), info
    except FileNotFoundError:
        raise UserError(f"{folder / WEIGHTS} is missing; the checkpoint is incomplete, train again") from None
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{folder / WEIGHTS} is corrupted ({error}); copy it again or train again") from error


def read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON file. Raises `UserError` if it is missing or broken."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{path} does not exist; give the folder of a trained model "
                        f"(python trainer.py writes checkpoints/best)") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is corrupted ({error}); copy it again or train again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a file of this program")
    return content


def load_weights(model: torch.nn.Module, tensors: dict[str, Tensor], source: str) -> None:
    """Copy tensors into a model. Raises `UserError` naming the first that is missing, foreign or of another shape."""
    expected = model.state_dict()
    for name in [*expected, *tensors]:
        if name not in tensors or name not in expected:
            fault = "missing" if name in expected else "foreign"
            raise UserError(f"{source} does not fit this model: {name!r} is {fault}")
        if tensors[name].shape != expected[name].shape:
            raise UserError(f"{source} does not fit this model: {name!r} is {tuple(tensors[name].shape)}, "
                            f"expected {tuple(expected[name].shape)}; was it trained on another catalogue?")
    model.load_state_dict(tensors)
