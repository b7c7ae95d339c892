"""Processors: which one, whether it multiplies bf16 natively, and how much memory this process
took.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import torch

from support.errors import UserError


def choose_device(wanted: str) -> torch.device:
    """'auto', 'cpu' or 'cuda' to a device. Raises `UserError` for a GPU that is not there."""
    if wanted == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "--device cuda: torch finds no GPU here; use --device cpu or auto"
        )
    return torch.device(
        "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"
    )


def uses_bf16(precision: str, device: torch.device) -> bool:
    """Whether training runs in bf16: on request, or with 'auto' where the hardware has it."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # the public capability query lacks this bit
    return bool(torch.cpu._is_avx512_bf16_supported())


def peak_memory_mb() -> int:
    """Largest resident size of this process so far, in 10^6 bytes; 0 where the system does not
    tell (Windows).
    """
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would also count what the parent process held
        return (
            int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) * 1024 // 10**6
        )
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)
