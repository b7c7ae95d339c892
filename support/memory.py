"""Memory of this process: how much it took, and giving back what it no longer needs."""

import ctypes
import os
import re
import sys
from pathlib import Path


def peak_memory_mb() -> int:
    """Largest resident size of this process so far, in 10^6 bytes; 0 where the system does not
    tell (Windows).
    """
    status = Path("/proc/self/status")
    if (
        status.exists()
    ):  # getrusage would also count what the parent process held
        return (
            int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1])
            * 1024
            // 10**6
        )
    try:
        import resource
    except ImportError:
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6)


def machine_memory() -> int:
    """Bytes that this machine, or the container around the process, has; 0 where the system does
    not tell."""
    if not hasattr(os, "sysconf"):
        return 0
    pages = os.sysconf("SC_PHYS_PAGES")
    memory = pages * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.exists():
        text = limit.read_text().strip()
        memory = min(memory, int(text)) if text.isdecimal() else memory
    return memory


def release_memory() -> None:
    """Give freed memory back to the system, which glibc keeps: reading data frees a lot."""
    if sys.platform == "linux" and hasattr(
        libc := ctypes.CDLL(None), "malloc_trim"
    ):
        libc.malloc_trim(0)
