"""Max pooling by shifted maxima, and its gradient without a record of the winners.

The window's taps are shifted views of the map, and y is their maximum. Padding is never looked at: a tap meets the
places that it meets. Backward, a value has won if it equals y and none before it in the window did, so that of equal
values the first wins, as in the plain layer and in PyTorch. The map itself says so; nothing is kept that is not kept
anyway.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from imori.engine import pool as plain
from imori.engine.fast.layout import axes, blocks, first, last
from imori.engine.layer import Array


class MaxPool(plain.MaxPool):
    """The plain layer."""

    def forward(self, x: Array, training: bool = False) -> Array:
        """max over the window."""
        pixels = last(x)
        down, along = axes(x.shape[2:], self.window)
        y = np.full((len(pixels), down.places, along.places, len(x)), -np.inf, x.dtype)
        for part in blocks(len(pixels), pixels[:1].nbytes):
            for place, pixel in self._taps(x.shape[2:]):
                np.maximum(y[part][place], pixels[part][pixel], out=y[part][place])
        self.keep(training, pixels, y)
        return first(y)

    def backward(self, dy: Array) -> Array:
        """Each dy goes to the value that won."""
        x, y = self.recall()
        given, dx = last(dy), np.zeros_like(x)
        reach = zip(self.window.kernel, self.window.dilation, self.window.stride, strict=True)
        apart = all(gap * (size - 1) < step for size, gap, step in reach)  # so that a pixel is in one window alone
        for part in blocks(len(x), x[:1].nbytes):
            free = np.ones(y[part].shape, bool)
            for place, pixel in self._taps(x.shape[1:3]):
                won = (x[part][pixel] == y[part][place]) & free[place]
                free[place] ^= won
                if apart:
                    np.multiply(given[part][place], won, out=dx[part][pixel])
                else:
                    dx[part][pixel] += given[part][place] * won
        return first(dx)

    def _taps(self, size: tuple[int, int]) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
        """For each value of the window, row by row: the places at which it lies on the map, and the pixels it meets."""
        down, along = axes(size, self.window)
        for i in range(down.taps):
            for j in range(along.taps):
                (above, rows), (left, columns) = down.pixels(i), along.pixels(j)
                yield (slice(None), above, left), (slice(None), rows, columns)
