"""Pooling: one value for each window. Pools have no weights and keep the channels apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from imori.engine.im2col import Window, crop, pad, taps
from imori.engine.layer import Array, Layer


class MaxPool(Layer):
    """The largest value of each window. Padding is -inf, which never wins; of equal values the first wins."""

    def __init__(self, window: Window) -> None:
        super().__init__()
        self.window = window

    def forward(self, x: Array, training: bool = False) -> Array:
        """max over the window; in training, which value of the window it was is kept."""
        first, *others = taps(pad(x, self.window.pads, -np.inf), self.window)
        y = first.copy()
        winner = np.zeros(y.shape, np.uint8 if self.window.area <= 256 else np.uint32)
        for i, tap in enumerate(others, 1):
            if training:
                np.copyto(winner, i, where=tap > y)
            np.maximum(y, tap, out=y)
        self.keep(training, winner, x.shape)
        return y

    def backward(self, dy: Array) -> Array:
        """Each dy goes to the value that won."""
        winner, shape = self.recall()
        dx = np.zeros(_padded(shape, self.window), dy.dtype)
        for i, tap in enumerate(taps(dx, self.window)):
            tap += dy * (winner == i)
        return crop(dx, self.window.pads)


class AvgPool(Layer):
    """The mean of each window.

    The sum is divided by rows × columns of `counts`, each a number for every place of the window or one for all:
    windows that reach over the edge may count fewer values than the kernel has.
    """

    def __init__(self, window: Window, counts: tuple[Sequence[int], Sequence[int]] | None = None) -> None:
        super().__init__()
        self.window = window
        rows, columns = counts or ((window.kernel[0],), (window.kernel[1],))
        self.divisor = np.outer(rows, columns)

    def forward(self, x: Array, training: bool = False) -> Array:
        """Σ over the window / count."""
        first, *others = taps(pad(x, self.window.pads), self.window)
        y = first.copy()
        for tap in others:
            y += tap
        y /= self.divisor.astype(y.dtype)
        self.keep(training, x.shape)
        return y

    def backward(self, dy: Array) -> Array:
        """Every value of the window gets dy / count."""
        (shape,) = self.recall()
        dx = np.zeros(_padded(shape, self.window), dy.dtype)
        share = dy / self.divisor.astype(dy.dtype)
        for tap in taps(dx, self.window):
            tap += share
        return crop(dx, self.window.pads)


def _padded(shape: tuple[int, ...], window: Window) -> tuple[int, ...]:
    top, bottom, left, right = window.pads
    return (*shape[:2], top + shape[2] + bottom, left + shape[3] + right)


class AdaptiveAvgPool(Layer):
    """The means of a grid of `size` cells, whatever the map's size.

    Cell i of n covers the rows from floor(i · H / n) to ceil((i + 1) · H / n): neighbours may share a row.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Array, training: bool = False) -> Array:
        """The mean of each cell."""
        y = np.empty((*x.shape[:2], *self.size), x.dtype)
        for i, row in _cells(x.shape[2], self.size[0]):
            for j, column in _cells(x.shape[3], self.size[1]):
                y[:, :, i, j] = x[:, :, row, column].mean(axis=(2, 3))
        self.keep(training, x.shape)
        return y

    def backward(self, dy: Array) -> Array:
        """Every value of a cell gets dy / the cell's size."""
        (shape,) = self.recall()
        dx = np.zeros(shape, dy.dtype)
        for i, row in _cells(shape[2], self.size[0]):
            for j, column in _cells(shape[3], self.size[1]):
                area = (row.stop - row.start) * (column.stop - column.start)
                dx[:, :, row, column] += dy[:, :, i, j, None, None] / area
        return dx


def _cells(length: int, count: int) -> Iterator[tuple[int, slice]]:
    for i in range(count):
        yield i, slice(i * length // count, -(-(i + 1) * length // count))


class GlobalAvgPool(Layer):
    """The mean of each channel: map (C, N, H, W) -> flat (C, N)."""

    def forward(self, x: Array, training: bool = False) -> Array:
        """mean over height and width."""
        self.keep(training, x.shape)
        return np.asarray(x.mean(axis=(2, 3)))

    def backward(self, dy: Array) -> Array:
        """Every pixel gets dy / (H · W)."""
        (shape,) = self.recall()
        return np.broadcast_to((dy / (shape[2] * shape[3]))[:, :, None, None], shape)
