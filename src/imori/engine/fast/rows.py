"""im2col along the height alone: the windows of a row overlap in memory, and need no copy.

Channels last, the row of an image is W·C values. Laying the kernel's rows side by side at every pixel,

    laid[n, h, w] = x[n, h], x[n, h + 1], x[n, h + 2] at w        (kernel rows · C values)

makes what a window meets one contiguous stretch: that of the next place begins only a stride further, and overlaps it. A
matrix of the w-th window of every row (n, h) is thus a view, and BLAS takes its rows at any distance. So a 3×3 kernel
copies a map three times where im2col copies it nine times; the convolution is a batch of products, one for each w. It is
the lowering of "MEC" (M. Cho, D. Brand 2017, https://arxiv.org/abs/1706.06873) with its axes swapped.

Where there are few rows, BLAS would spend its time on arranging the weights anew for each w. Then the windows are copied
after all, and it is one product. Arrays are channels last.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

from imori.engine.fast.layout import Axis, blocks
from imori.engine.layer import Array

FEW = 48
"""Rows of one product, fewer than which are better gathered."""


def fits(x: Array, along: Axis) -> bool:
    """Whether the window's values lie side by side, and are enough to be worth a copy of their own."""
    return along.dilation == 1 and x.shape[3] >= 4


def correlate(x: Array, weight: Array, down: Axis, along: Axis) -> Array:
    """(N, H, W, C) by (O, C, kernel height, kernel width) -> (N, OH, OW, O)."""
    filters = len(weight)
    matrix = np.ascontiguousarray(weight.transpose(3, 2, 1, 0)).reshape(-1, filters)
    y = np.empty((len(x), down.places, along.places, filters), x.dtype)
    for part in blocks(len(x), _size(x, down, along)):
        multiply(windows(lay(x[part], down, along), along, down.taps), matrix, y[part])
    return y


def weigh(dy: Array, x: Array, down: Axis, along: Axis) -> Array:
    """The gradient by the weight, (O, C, kernel height, kernel width)."""
    total = np.zeros((along.taps * down.taps * x.shape[3], dy.shape[3]), dy.dtype)
    for part in blocks(len(x), _size(x, down, along)):
        total += contract(windows(lay(x[part], down, along), along, down.taps), dy[part])
    return total.reshape(along.taps, down.taps, x.shape[3], -1).transpose(3, 2, 1, 0)


def lay(x: Array, down: Axis, along: Axis) -> Array:
    """(N, H, W, C) -> (N, OH, span, kernel height, C), zeros where a row or a column is padding."""
    images, _, _, channels = x.shape
    laid = np.empty((images, down.places, along.span, down.taps, channels), x.dtype)
    inside = along.inside
    laid[:, :, : inside.start] = 0
    laid[:, :, inside.stop :] = 0
    columns = slice(inside.start - along.pad, inside.stop - along.pad)
    for tap in range(down.taps):
        places, pixels = down.pixels(tap)
        laid[:, : places.start, inside, tap] = 0
        laid[:, places.stop :, inside, tap] = 0
        laid[:, places, inside, tap] = x[:, pixels, columns]
    return laid


def windows(laid: Array, along: Axis, tall: int = 1) -> Array:
    """(..., span, tall, C), contiguous -> a view (OW, rows, window): the w-th window of every row."""
    channels = tall * laid.shape[-1]
    flat = laid.reshape(-1, along.span * channels)
    row, value = flat.strides
    shape = (along.places, len(flat), along.taps * channels)
    return as_strided(flat, shape, (along.stride * channels * value, row, value), writeable=False)


def multiply(view: Array, matrix: Array, y: Array) -> None:
    """Each window by the matrix (window, O), into y (..., OW, O)."""
    count, rows, _ = view.shape
    flat = y.reshape(rows, count, -1)
    if rows < FEW:
        np.matmul(view.transpose(1, 0, 2).reshape(rows * count, -1), matrix, out=flat.reshape(rows * count, -1))
    else:
        np.matmul(view, matrix, out=flat.transpose(1, 0, 2))


def contract(view: Array, dy: Array) -> Array:
    """Σ over the windows of window · dy, (window, O); dy (..., OW, O)."""
    count, rows, size = view.shape
    flat = dy.reshape(rows, count, -1)
    if rows < 4 * flat.shape[2]:
        gathered = view.transpose(1, 0, 2).reshape(rows * count, size)
        return np.asarray(gathered.T @ flat.reshape(rows * count, -1))
    return np.asarray((view.transpose(0, 2, 1) @ flat.transpose(1, 0, 2)).sum(axis=0))


def _size(x: Array, down: Axis, along: Axis) -> int:
    """Bytes of one image's rows."""
    return down.places * along.span * down.taps * x.shape[3] * x.itemsize
