"""Memory of this process: its peak, and release of freed memory."""

import ctypes
import os
import re
import sys
from pathlib import Path


def peak_memory_mb() -> int:
    """Peak resident size of this process, in 10^6 bytes; 0 if the system does not report it
    (Windows).
    """
    status = Path("/proc/self/status")
    # getrusage would also count what the parent process held.
    if status.exists():
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
    """Memory of this machine or container in bytes; 0 if the system does not report it."""
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
    """Return freed memory to the system, which glibc would keep; reading data frees a lot."""
    if sys.platform == "linux" and hasattr(
        libc := ctypes.CDLL(None), "malloc_trim"
    ):
        libc.malloc_trim(0)
