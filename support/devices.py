"""Processors: which one, whether it multiplies bf16 natively, how its cores share work."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from support.errors import UserError


def choose_device(wanted: str) -> torch.device:
    """'auto', 'cpu' or 'cuda' to a device. Raises `UserError` for a GPU that is not there."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: torch finds no GPU here; use --device cpu or auto")
    return torch.device("cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu")


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether training runs in bf16: on request, or with 'auto' where the hardware has it."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return bool(torch.cpu._is_avx512_bf16_supported())  # the public capability query lacks this bit


def one_core_each(function: Callable[[Any], Any], things: Iterable[Any]) -> list[Any]:
    """[function(thing), ...] with as many threads as torch has, each doing its arithmetic on one core.

    Small batches cut up among the cores leave them waiting for each other at every operation.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(function, things))
    finally:
        torch.set_num_threads(threads)
