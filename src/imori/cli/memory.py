"""Large blocks of memory that are freed stay with the process, and are had again at once.

A layer's output is some tens of megabytes. From 32 MiB up glibc maps new pages for each, which the system has to clear
before the layer can write them. PyTorch spent about half of its time on that where MobileNet-v2 predicted 32
photos at 224 px at a time (figures: benchmarks/memory_kept.py).
"""

from __future__ import annotations

import ctypes
import os
import sys

TRIM_THRESHOLD, MMAP_MAX = -1, -4
"""The parameters' numbers in glibc's malloc.h."""
CHOSEN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD")
"""Who has set one of these has chosen otherwise, or another allocator."""


def keep() -> None:
    """From now on what is freed stays with the process: `mallopt(3)`. Elsewhere than on glibc nothing is done.

    It is for the whole process, which is why the command line alone calls it.
    """
    if sys.platform != "linux" or any(name in os.environ for name in CHOSEN):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt:
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, -1)
