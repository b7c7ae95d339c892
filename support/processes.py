"""Processes: parents, locks, signals, and what several compute together."""

import contextlib
import ctypes
import gc
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from support.errors import UserError

IMPATIENCE = 3.0  # seconds
STOPPING = [signal.SIGINT, signal.SIGTERM]
if hasattr(signal, "SIGHUP"):  # the terminal was closed
    STOPPING.append(signal.SIGHUP)


def die_with(parent: int) -> None:
    """Stop this process when its parent is killed (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            sys.exit(0)


@contextlib.contextmanager
def wait_for_lock(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on this file. The lock is released when the process ends, however it
    ends.
    """
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        yield
        return
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            # A process that was forked meanwhile has it open, too.
            fcntl.flock(lock, fcntl.LOCK_UN)


@contextlib.contextmanager
def lock_or_refuse(path: Path, message: str) -> Iterator[None]:
    """Hold an exclusive lock on this file, or raise `UserError(message)` if another process has
    it."""
    try:
        import fcntl
    except ImportError:  # Windows has no such locks
        yield
        return
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(message) from None
        yield


@contextlib.contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C, SIGTERM or SIGHUP into a flag. A second one after IMPATIENCE seconds interrupts
    at once; before that it is ignored, because a terminal and torchrun both send the signal.
    """
    asked: list[float] = []

    def ask(_number: int, _frame: object) -> None:
        if asked and time.monotonic() - asked[0] > IMPATIENCE:
            raise KeyboardInterrupt
        asked.append(time.monotonic())

    before = {}
    # outside the main thread signals are others' business
    with contextlib.suppress(ValueError):
        for number in STOPPING:
            before[number] = signal.signal(number, ask)
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def process_place() -> tuple[int, int]:
    """(number of this process from 0, how many work together): (0, 1) for one alone."""
    if not _in_a_group():
        return 0, 1
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


def summed(numbers: np.ndarray, device: torch.device) -> np.ndarray:
    """The sum over the processes that work together, each of which calls this. device: where they
    exchange tensors."""
    if not _in_a_group():
        return numbers
    shared = torch.from_numpy(numbers).to(device)
    torch.distributed.all_reduce(shared)
    return shared.cpu().numpy()


def leave_process_group() -> None:
    """Call this at the end of a program that may run under torchrun: a process that ends while
    threads of its group are alive sometimes aborts."""
    if _in_a_group():
        gc.collect()  # what still holds the group would keep its threads
        torch.distributed.destroy_process_group()


def _in_a_group():
    """Whether several processes work together (torchrun)."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized()
