"""Buffers reused, by the C library itself.

A layer makes its arrays anew, and they are freed as soon as nobody needs them: a step of training goes through the same
few megabytes again and again, if the allocator keeps them. glibc's gives every large array back to the system, which
clears each page before it hands it out again; that takes a fifth of a step. But glibc learns: where a large array was
freed, it keeps arrays up to that size from then on, and twice as much of what is free ("M_MMAP_THRESHOLD" in
mallopt(3)). One array is enough, of almost the largest size that it learns from. Nothing is written into it, so that it
takes no memory; where the allocator is another one, nothing happens.
"""

from __future__ import annotations

import numpy as np

LARGEST = 2**25
"""Bytes: arrays of this size and more are always given back."""


def keep() -> None:
    """From now on, the memory of freed arrays is kept for the next ones."""
    np.empty(LARGEST - 2**16, np.uint8)
