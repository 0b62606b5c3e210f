"""A sliding window over maps, and im2col, which turns convolution into one product of matrices.

Of an image of 3×3 under a window of 2×2, im2col makes a column of every place where the window can lie:

    1 2 3                         1 2 4 5     the window's top left
    4 5 6   windows 12 23 45 56   2 3 5 6     top right
    7 8 9           45 56 78 89   4 5 7 8     bottom left
                                  5 6 8 9     bottom right

A filter of 2×2, written as a row of four numbers, times this matrix is the filter's answer at every place.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from imori.engine.layer import Array, Shape


@dataclass(frozen=True)
class Window:
    """A sliding window. Pairs are (vertical, horizontal), pads (top, bottom, left, right)."""

    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    dilation: tuple[int, int] = (1, 1)

    @property
    def area(self) -> int:
        """How many values it holds of one channel."""
        return self.kernel[0] * self.kernel[1]

    @property
    def plain(self) -> bool:
        """Whether it is each pixel by itself, so that im2col has nothing to do."""
        return self.area == 1 and self.stride == (1, 1) and not any(self.pads)

    def places(self, height: int, width: int) -> tuple[int, int]:
        """How many places it can lie at, vertically and horizontally."""
        top, bottom, left, right = self.pads
        (kh, kw), (sh, sw), (dh, dw) = self.kernel, self.stride, self.dilation
        down = (height + top + bottom - dh * (kh - 1) - 1) // sh + 1
        along = (width + left + right - dw * (kw - 1) - 1) // sw + 1
        return down, along


def pad(x: Array, pads: tuple[int, int, int, int], value: float = 0.0) -> Array:
    """Maps with `value` around them; `x` itself where there is nothing to add."""
    if not any(pads):
        return x
    top, bottom, left, right = pads
    channels, images, height, width = x.shape
    padded = np.full((channels, images, top + height + bottom, left + width + right), value, x.dtype)
    crop(padded, pads)[...] = x
    return padded


def crop(x: Array, pads: tuple[int, int, int, int]) -> Array:
    """The inside of padded maps, as a view."""
    top, bottom, left, right = pads
    return x[:, :, top : x.shape[2] - bottom, left : x.shape[3] - right]


def taps(padded: Array, window: Window) -> Iterator[Array]:
    """For each value of the window, row by row: what it meets at every place, (C, N, places down, places along).

    `padded` holds the pads already. These are views: what is added to them is added to `padded`.
    """
    (kh, kw), (sh, sw), (dh, dw) = window.kernel, window.stride, window.dilation
    down, along = Window(window.kernel, window.stride, dilation=window.dilation).places(*padded.shape[2:])
    for i in range(0, kh * dh, dh):
        for j in range(0, kw * dw, dw):
            yield padded[:, :, i : i + sh * down : sh, j : j + sw * along : sw]


def im2col(x: Array, window: Window) -> Array:
    """(C, N, H, W) -> (C · values of the window, N · places): a column for every place of the window."""
    if window.plain:
        return x.reshape(len(x), -1)
    channels, images = x.shape[:2]
    columns = np.empty((channels, window.area, images, *window.places(*x.shape[2:])), x.dtype)
    for i, tap in enumerate(taps(pad(x, window.pads), window)):
        columns[:, i] = tap
    return columns.reshape(channels * window.area, -1)


def col2im(columns: Array, window: Window, shape: Shape) -> Array:
    """The columns laid back where `im2col` took them from, and added up where they overlap: maps of `shape`.

    This is the gradient of `im2col`.
    """
    if window.plain:
        return columns.reshape(shape)
    channels, images, height, width = shape
    top, bottom, left, right = window.pads
    padded = np.zeros((channels, images, top + height + bottom, left + width + right), columns.dtype)
    each = columns.reshape(channels, window.area, images, *window.places(height, width))
    for i, tap in enumerate(taps(padded, window)):
        tap += each[:, i]
    return crop(padded, window.pads)
