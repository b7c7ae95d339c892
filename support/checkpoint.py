"""Checkpoints: a folder of safetensors and JSON, no pickle, replaced as a whole or not at all."""

import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from support.errors import UserError, require
from support.files import (
    check_regular,
    parse_json,
    replacing,
    to_disk,
    write_json,
)

WEIGHTS, INFO = "model.safetensors", "checkpoint.json"
FORMAT = "enhanced-bert4rec/3"
DIGITS = 16  # of the hash that weights are known by
STALE = 3600  # seconds after which nobody still writes


def write_checkpoint(
    folder: Path,
    tensors: dict[str, Tensor],
    info: dict[str, Any],
    add: Callable[[Path], None] | None = None,
) -> None:
    """Write tensors and their description into a folder, atomically.

    Everything is first written to a folder beside it and flushed to disk. Only then is the old
    folder moved away; it comes back if the last step fails. add: writes further files to a folder.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    recover_checkpoint(folder)
    _remove_stale(folder)
    scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=_prefix(folder)))
    new, old = scratch / "new", scratch / "old"
    try:
        new.mkdir()
        _write_weights(new / WEIGHTS, tensors)
        if add is not None:
            add(new)
        digests = {path.name: file_digest(path) for path in new.iterdir()}
        marks = {"format": FORMAT, "weights": digests.pop(WEIGHTS)}
        write_json(new / INFO, {**info, **marks, "files": digests})
        for path in (*new.iterdir(), new):
            to_disk(path)
        if folder.exists():
            os.replace(folder, old)
        os.replace(new, folder)
        to_disk(folder.parent)
    except BaseException as error:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        # safetensors wraps a full disk in an error of its own.
        if "No space left" in str(error):
            raise UserError(
                f"{folder}: no space left on the disk; free some and run again"
            ) from error
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write_weights(path: Path, tensors: dict[str, Tensor]) -> None:
    from safetensors.torch import save_file

    # Tied or sliced tensors must not share memory in the file.
    copies = {
        name: tensor.detach().cpu().contiguous().clone()
        for name, tensor in tensors.items()
    }
    save_file(copies, path)
    path.chmod(0o644)  # safetensors makes a private one


def _prefix(folder: Path) -> str:
    """How the names of folders begin in which a checkpoint is written."""
    return f".{folder.name}.writing-"


def require_no_other_files(folder: Path) -> None:
    """Raise `UserError` if a folder holds more than a checkpoint, which would be lost if one was
    written to it."""
    if not folder.exists():
        return
    require(folder.is_dir(), f"{folder} is a file; choose another place")
    own = set(files_of(folder)) if (folder / INFO).exists() else set()
    others = sorted(path.name for path in set(folder.iterdir()) - own)
    if others:
        raise UserError(
            f"{folder} holds other files, such as {others[0]}; choose a new or empty folder"
        )


def _remove_stale(folder: Path) -> None:
    """Remove leftovers of a process that was killed while it wrote here."""
    for left in folder.parent.glob(f"{_prefix(folder)}*"):
        if time.time() - left.stat().st_mtime > STALE:
            shutil.rmtree(left, ignore_errors=True)


def recover_checkpoint(folder: Path) -> bool:
    """Whether a checkpoint exists. If a killed process had written it completely and had moved the
    old one away, it is first put in its place. No process may be writing there."""
    if not folder.exists():
        for left in folder.parent.glob(f"{_prefix(folder)}*"):
            if (left / "old").exists() and (left / "new").exists():
                os.replace(left / "new", folder)
                shutil.rmtree(left, ignore_errors=True)
                break
    return (folder / INFO).exists()


def read_checkpoint(
    folder: Path, copies: str | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, info) of a checkpoint folder. Raises `UserError` if it is missing, corrupted or
    of another program.

    copies: a folder for a copy of the weights, which is mapped into memory. Processes with the same
    folder share it. Later changes of the checkpoint do not affect it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load, load_file

    info = read_json(folder / INFO)
    if info.get("format") != FORMAT:
        raise UserError(
            f"{folder / INFO} says format {info.get('format')!r}, this program reads {FORMAT!r}; "
            f"train again or use the version that wrote it ({info.get('git_commit', 'unknown')})"
        )
    path = folder / WEIGHTS
    check_regular(path)
    try:
        if copies is None:
            content = path.read_bytes()
            _check_digest(path, info, hashlib.sha256(content))
            return load(content), info
        copy = Path(copies) / f"{info.get('weights')}.safetensors"
        if not copy.exists():
            with replacing(copy) as part:
                shutil.copyfile(path, part)
                with part.open("rb") as file:
                    _check_digest(
                        path, info, hashlib.file_digest(file, "sha256")
                    )
        return load_file(copy), info
    except (OSError, SafetensorError, ValueError) as error:
        raise UserError(
            f"{path} is missing, incomplete or corrupted ({error}); copy it again or train again"
        ) from error


def _check_digest(path, info, digest):
    require(
        info.get("weights") == digest.hexdigest()[:DIGITS],
        f"{path} is not what {INFO} beside it describes; copy both again or train again",
    )


def files_of(folder: Path) -> list[Path]:
    """The files of a checkpoint, not what may lie beside them."""
    names = [INFO, WEIGHTS, *read_json(folder / INFO).get("files", ())]
    return [folder / name for name in names]


def check_file(folder: Path, info: dict[str, Any], name: str) -> None:
    """Raise `UserError` unless a further file of a checkpoint is the one that was written."""
    path = folder / name
    check_regular(path)
    require(
        path.exists() and info["files"].get(name) == file_digest(path),
        f"{path} is missing, or not what {INFO} beside it describes; copy both again or train "
        f"again",
    )


def file_digest(path: Path) -> str:
    """Hash of a file, by which weights are known."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:DIGITS]


def read_json(path: Path) -> dict[str, Any]:
    """Content of a JSON file. Raises `UserError` if it is missing or broken."""
    check_regular(path)
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{path} does not exist (sought in {Path.cwd()}); give the folder of a trained model: "
            f"python trainer.py writes checkpoints/best, models/enhanced is a published one"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read or is corrupted ({error}); copy it again or train again"
        ) from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a file of this program")
    return content


def load_weights(
    model: torch.nn.Module,
    tensors: dict[str, Tensor],
    source: str,
    assign: bool = False,
) -> None:
    """Copy tensors into a model, or make them its own. Raises `UserError` naming those that are
    missing, foreign or of another shape."""
    for name, own in model.state_dict().items():
        if name in tensors and tensors[name].dtype != own.dtype:
            raise UserError(
                f"{source} does not fit this model: {name} is {tensors[name].dtype} there and "
                f"{own.dtype} here; copy it again or train again"
            )
    try:
        model.load_state_dict(tensors, assign=assign)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{source} does not fit this model; was it trained on another catalogue, or by another "
            f"version? {reason}"
        ) from error
