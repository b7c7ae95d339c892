"""The device, and whether it supports bf16 natively."""

from typing import Any

import torch

from support.errors import UserError


def choose_device(wanted: str) -> torch.device:
    """The device of 'auto', 'cpu' or 'cuda'. Raises `UserError` if there is no GPU."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--device cuda: torch finds no GPU here; use --device cpu or auto"
        )
    return torch.device(
        "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"
    )


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether training runs in bf16: on request, or with 'auto' if the hardware supports it."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # the public capability query lacks this bit
    return bool(torch.cpu._is_avx512_bf16_supported())


def accelerator(device: torch.device) -> Any:
    """The `Accelerator` of a training on this device, in one process or several."""
    from accelerate import Accelerator, DistributedDataParallelKwargs

    # A batch uses the heads of its pattern alone. cpu=True joins the ranks of torchrun.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(cpu=device.type == "cpu", kwargs_handlers=[unused])
