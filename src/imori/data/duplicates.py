"""Photos that look alike: copies of one photo that were resized, saved again or a little brightened.

A look is 128 bits: of a picture of 9×8 cells whether each is brighter than its left neighbour, and of one of 8×9 the
same with the one above (N. Krawetz, "Kind of like that", 2013, https://www.hackerfactor.com/blog/archives/529-Kind-of-
Like-That.html, in both directions). Of a thousand photos of cats and dogs, two different ones differ in 23 bits or
more; half the size changes 7 of a photo's bits, and half of JPEG's quality 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Array = npt.NDArray[Any]

CELLS = 8
SEEN = (2 * CELLS + 2, 2 * CELLS + 2)
"""(height, width) of the smallest picture that is looked at: two pixels a cell."""
NEAR = 12
"""Bits in which two looks of one photo may differ."""
PLAIN = 2 * NEAR
"""A look of fewer bits says too little: only one that is the same is near."""
MOST = 20_000
"""Of so many photos every pair is compared; of more, those alone whose looks are the same are found."""
BLOCK = 512


def look(picture: Image.Image) -> int:
    """What a picture looks like, in 128 bits."""
    grey = picture.convert("L")
    across = np.asarray(grey.resize((CELLS + 1, CELLS), Image.Resampling.BOX)).astype(np.int16)
    down = np.asarray(grey.resize((CELLS, CELLS + 1), Image.Resampling.BOX)).astype(np.int16)
    bits = np.concatenate([np.diff(across, axis=1).ravel() > 0, np.diff(down, axis=0).ravel() > 0])
    return int.from_bytes(np.packbits(bits).tobytes(), "big")


def near_pairs(looks: Sequence[int]) -> list[tuple[int, int]]:
    """The numbers (i, j), i below j, of the photos that look alike, in order."""
    halves = np.array([[one >> 64, one & (2**64 - 1)] for one in looks], np.uint64).reshape(-1, 2)
    if len(halves) > MOST:
        return sorted(_same(looks))
    bits = np.bitwise_count(halves).sum(axis=1)
    far = np.where(bits < PLAIN, 0, NEAR)
    found: list[tuple[int, int]] = []
    for first in range(0, len(halves), BLOCK):
        block = halves[first : first + BLOCK, np.newaxis]
        differing = np.bitwise_count(block ^ halves[np.newaxis, first:]).sum(axis=2)
        near = differing <= np.minimum(far[first : first + BLOCK, np.newaxis], far[np.newaxis, first:])
        rows, columns = np.nonzero(np.triu(near, 1))
        found += zip((rows + first).tolist(), (columns + first).tolist(), strict=True)
    return found


def _same(looks: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Each photo with the first one of the same look."""
    seen: dict[int, int] = {}
    for number, one in enumerate(looks):
        first = seen.setdefault(one, number)
        if first != number:
            yield first, number


def groups(count: int, pairs: Iterable[tuple[int, int]]) -> Array:
    """int64 (count,): for each photo the number of its group, in which all are linked by pairs."""
    parent = list(range(count))

    def root(number: int) -> int:
        while parent[number] != number:
            parent[number] = parent[parent[number]]
            number = parent[number]
        return number

    for one, two in pairs:
        parent[root(two)] = root(one)
    return np.unique([root(number) for number in range(count)], return_inverse=True)[1].astype(np.int64)
