"""The device, and whether bf16 is faster on it."""

import functools
import time
from typing import Any

import torch

from support.errors import UserError

GAIN = 1.2
TRIALS = 100


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
    """Whether to compute in bf16: on request, or with 'auto' if it is faster on this device."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # the public capability query lacks this bit
    return torch.cpu._is_avx512_bf16_supported() and _product_gains()


@functools.cache
def _product_gains():
    """Whether a product in bf16 takes less than 1 / GAIN of its time in fp32.

    It takes twice as long on some processors that have instructions for it. A product here takes
    less than a millisecond, so that other work on the machine does not interrupt all trials.
    """
    shapes = (512, 128), (128, 512)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    best = {}
    for _ in range(TRIALS):
        for kind in (torch.float32, torch.bfloat16):
            left, right = (torch.ones(shape, dtype=kind) for shape in shapes)
            start = time.perf_counter()
            left @ right
            seconds = time.perf_counter() - start
            best[kind] = min(seconds, best.get(kind, seconds))
    torch.set_num_threads(threads)
    return best[torch.bfloat16] * GAIN < best[torch.float32]


def accelerator(device: torch.device) -> Any:
    """The `Accelerator` of a training on this device, in one process or several."""
    from accelerate import Accelerator, DistributedDataParallelKwargs

    # A batch uses the heads of its pattern alone. cpu=True joins the ranks of torchrun.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(cpu=device.type == "cpu", kwargs_handlers=[unused])
