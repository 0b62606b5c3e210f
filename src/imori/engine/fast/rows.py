"""im2col along the height alone: the windows of a row overlap in memory, and need no copy.

Channels last, the row of an image is W·C values. Laying the kernel's rows side by side at every pixel,

    laid[n, h, w] = x[n, h], x[n, h + 1], x[n, h + 2] at w        (kernel rows · C values)

makes what a window meets one contiguous stretch: that of the next place begins only a stride further, and overlaps it.
A matrix of the w-th window of every row (n, h) is thus a view, and BLAS takes its rows at any distance. So a 3×3 kernel
copies a map three times where im2col copies it nine times; the convolution is a batch of products, one for each w. It
is the lowering of "MEC" (M. Cho, D. Brand 2017, https://arxiv.org/abs/1706.06873) with its axes swapped.

Where there are few rows, BLAS would spend its time on arranging the weights anew for each w. Then the windows are
copied after all, and it is one product. Arrays are channels last.
"""

from __future__ import annotations

import numpy as np

from imori.engine.fast.layout import Axis, blocks
from imori.engine.layer import Array

FEW = 32
"""Rows of one product, fewer than which are better gathered."""
SMALL = 2**15
"""Values of a matrix, up to which BLAS had better find its rows in one piece: a larger one it arranges itself."""


def fits(x: Array, along: Axis) -> bool:
    """Whether the window's values lie side by side, and are enough to be worth a copy of their own."""
    return along.dilation == 1 and x.shape[3] >= 4


def correlate(x: Array, weight: Array, down: Axis, along: Axis) -> Array:
    """(N, H, W, C) by (O, C, kernel height, kernel width) -> (N, OH, OW, O)."""
    filters = len(weight)
    matrix = _matrix(weight)
    y = np.empty((len(x), down.places, along.places, filters), x.dtype)
    for part in blocks(len(x), _size(x, down, along)):
        multiply(windows(lay(x[part], down, along), along), matrix, y[part].reshape(1, -1, along.places, filters))
    return y


def weigh(dy: Array, x: Array, down: Axis, along: Axis) -> Array:
    """The gradient by the weight, (O, C, kernel height, kernel width)."""
    total = np.zeros((dy.shape[3], along.taps * down.taps * x.shape[3]), dy.dtype)
    for part in blocks(len(x), _size(x, down, along)):
        given = dy[part].reshape(1, -1, along.places, dy.shape[3])
        total += contract(windows(lay(x[part], down, along), along), given)[0]
    return total.reshape(-1, along.taps, down.taps, x.shape[3]).transpose(0, 3, 2, 1)


def lay(x: Array, down: Axis, along: Axis) -> Array:
    """(N, H, W, C) -> (1, N · OH, span, kernel height · C), zeros where a row or a column is padding."""
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
    return laid.reshape(1, -1, along.span, down.taps * channels)


def windows(laid: Array, along: Axis) -> Array:
    """Rows (stack, R, span, C) -> (stack, OW, R, window): of every row the w-th window, which is a view."""
    stack, rows, _, channels = laid.shape
    plane, row, pixel, value = laid.strides
    shape = (stack, along.places, rows, along.taps * channels)
    return np.ndarray(shape, laid.dtype, laid, strides=(plane, along.stride * pixel, row, value))


def multiply(view: Array, matrices: Array, y: Array) -> None:
    """Windows (stack, OW, R, window) by matrices (stack, window, O), into y (stack, R, OW, O), which is contiguous."""
    stack, places, rows, size = view.shape
    if rows < FEW:
        np.matmul(view.swapaxes(1, 2).reshape(stack, -1, size), matrices, out=y.reshape(stack, rows * places, -1))
    else:
        np.matmul(view, matrices[:, None], out=y.swapaxes(1, 2))


def contract(view: Array, dy: Array) -> Array:
    """Σ dy · window: windows (stack, OW, R, window) and dy (stack, R, OW, O) -> (stack, O, window)."""
    stack, _, rows, size = view.shape
    if rows < FEW:
        gathered = view.swapaxes(1, 2).reshape(stack, -1, size)
        return np.asarray(np.matmul(dy.reshape(stack, -1, dy.shape[3]).swapaxes(1, 2), gathered))
    return np.asarray(np.matmul(dy.transpose(0, 2, 3, 1), view).sum(axis=1))


def in_rows(matrices: Array) -> Array:
    """The same, their rows in one piece if they are small."""
    return np.ascontiguousarray(matrices) if matrices[0].size <= SMALL else matrices


def _matrix(weight: Array) -> Array:
    """(O, C, kernel height, kernel width) -> (1, kernel width · kernel height · C, O).

    Where the channels lie side by side, it is the turned view of a copy that leaves them so.
    """
    filters = len(weight)
    if weight.strides[1] < weight.strides[0]:
        return in_rows(weight.transpose(0, 3, 2, 1).reshape(1, filters, -1).swapaxes(1, 2))
    return weight.transpose(3, 2, 1, 0).reshape(1, -1, filters)


def _size(x: Array, down: Axis, along: Axis) -> int:
    """Bytes of one image's rows."""
    return int(down.places * along.span * down.taps * x.shape[3] * x.itemsize)
