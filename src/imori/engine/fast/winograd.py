"""Winograd's minimal filtering, along the height: two rows of a 3×3 convolution by four products in place of six.

    y = Aᵀ (G g ⊙ Bᵀ d)

gives m neighbouring outputs of a filter g of three taps from m + 2 inputs d, by m + 2 multiplications where the formula
takes 3m (S. Winograd 1980; A. Lavin, S. Gray, https://arxiv.org/abs/1509.09308). Here d are rows of a map, channels
last, and ⊙ is a convolution along the width with the channels summed: the products of `rows`, on a third of the window.
The transforms B and A are small products of matrices too, which BLAS does faster than sums of rows.

F(2, 3) serves forward. Its outputs are exactly 0 where all that they see is 0, as the formula's are, because they are
sums of terms that hold nothing else than what the output sees. F(4, 3) halves the products, but its terms hold more,
which then cancels: what should be an exact 0 comes out as rounding, and a ReLU behind it would let half of it pass. It
serves the gradient by the input, where no ReLU follows, unless F(2, 3) fits the rows better. Its rounding is some ten
times that of the formula. Where a value is infinite or NaN, NaN comes out, in the other rows of its tiles too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import as_strided

from imori.engine.fast.layout import Axis, blocks
from imori.engine.fast.rows import contract, in_rows, multiply, windows
from imori.engine.layer import Array


@dataclass(frozen=True)
class Transforms:
    """F(m, 3): m outputs at a time."""

    m: int
    inputs: Array
    """Bᵀ, (m + 2, m + 2)."""
    filters: Array
    """G, (m + 2, 3)."""
    outputs: Array
    """Aᵀ, (m, m + 2)."""


F2 = Transforms(
    2,
    np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]),
    np.array([[2, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 2]]) / 2,
    np.array([[1, 1, 1, 0], [0, 1, -1, -1]]),
)
F4 = Transforms(
    4,
    np.array(
        [
            [4, 0, -5, 0, 1, 0],
            [0, -4, -4, 1, 1, 0],
            [0, 4, -4, -1, 1, 0],
            [0, -2, -1, 2, 1, 0],
            [0, 2, -1, -2, 1, 0],
            [0, 4, 0, -5, 0, 1],
        ]
    ),
    np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24,
    np.array([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]),
)
LEAST = 8
"""Channels, fewer than which the transforms cost more than they save."""


def fits(x: Array, filters: int, down: Axis, along: Axis) -> bool:
    """Whether it is a 3×3 convolution of enough channels, without strides, over more than one row."""
    plain = all(axis.taps == 3 and axis.stride == axis.dilation == 1 for axis in (down, along))
    return plain and down.places > 1 and x.shape[3] >= LEAST and filters >= LEAST


def fewest(rows: int) -> Transforms:
    """Those that take the fewest products for so many rows of outputs; F(2, 3) where both take as many."""
    return min((F2, F4), key=lambda by: (by.m + 2) * -(-rows // by.m))


def correlate(x: Array, weight: Array, down: Axis, along: Axis, by: Transforms = F2) -> Array:
    """(N, H, W, C) by (O, C, 3, 3) -> (N, OH, OW, O)."""
    filters, tiles = len(weight), -(-down.places // by.m)
    matrices, outputs = _matrices(weight, by), by.outputs.astype(x.dtype)
    y = np.empty((len(x), tiles, by.m, along.places * filters), x.dtype)
    for part, seen in transformed(x, down, along, by):
        products = np.empty((*seen.shape[:2], along.places, filters), x.dtype)
        multiply(windows(seen, along), matrices, products)
        rows = products.reshape(by.m + 2, -1, tiles, along.places * filters)
        np.matmul(outputs, rows.transpose(1, 2, 0, 3), out=y[part])
    return y.reshape(len(x), tiles * by.m, along.places, filters)[:, : down.places]


def weigh(dy: Array, x: Array, down: Axis, along: Axis, by: Transforms = F2) -> Array:
    """The gradient by the weight, (O, C, 3, 3): Gᵀ (Bᵀ d ⊙ A dy), which takes four products for two rows as well."""
    filters, tiles = dy.shape[3], -(-down.places // by.m)
    total = np.zeros((by.m + 2, filters, 3 * x.shape[3]), x.dtype)
    for part, seen in transformed(x, down, along, by):
        total += contract(windows(seen, along), _spread(dy[part], tiles, by))
    taps = by.filters.T.astype(x.dtype) @ total.reshape(by.m + 2, -1)
    return taps.reshape(3, filters, 3, -1).transpose(1, 3, 0, 2)


def transformed(x: Array, down: Axis, along: Axis, by: Transforms) -> Iterator[tuple[slice, Array]]:
    """Bᵀ d for every tile of some images at a time, (m + 2, n · tiles, span, C); it holds until the next are made.

    The images are copied to between zeros, which are the padding. Every part has the memory of the one before, which is
    in the cache.
    """
    channels, tiles, matrix = x.shape[3], -(-down.places // by.m), by.inputs.astype(x.dtype)
    width = along.span * channels
    parts = list(blocks(len(x), tiles * (by.m + 2) * width * x.itemsize))
    most = parts[0].stop if parts else 0
    room = np.zeros((most, tiles * by.m + 2, along.span, channels), x.dtype)
    seen = np.empty((by.m + 2) * most * tiles * width, x.dtype)
    image, row, _, value = room.strides
    overlapping = as_strided(room, (most, tiles, by.m + 2, width), (image, by.m * row, row, value))
    low, high = max(0, -down.pad), min(down.length, room.shape[1] - down.pad)
    inside = along.inside
    columns = slice(inside.start - along.pad, inside.stop - along.pad)
    for part in parts:
        count = part.stop - part.start
        room[:count, low + down.pad : high + down.pad, inside] = x[part, low:high, columns]
        found = seen[: (by.m + 2) * count * tiles * width].reshape(by.m + 2, count, tiles, width)
        np.matmul(matrix, overlapping[:count], out=found.transpose(1, 2, 0, 3))
        yield part, found.reshape(by.m + 2, count * tiles, along.span, channels)


def _matrices(weight: Array, by: Transforms) -> Array:
    """G g, from filters (O, C, 3, 3) that are `arranged`, or swapped ones: for each row of a tile a matrix (3 C, O)."""
    filters, channels = weight.shape[:2]
    transform = by.filters.astype(weight.dtype)
    if weight.strides[1] < weight.strides[0]:
        matrices = transform @ weight.transpose(2, 0, 3, 1).reshape(3, -1)
        return in_rows(np.asarray(matrices).reshape(by.m + 2, filters, -1).swapaxes(1, 2))
    matrices = transform @ weight.transpose(2, 3, 1, 0).reshape(3, -1)
    return np.asarray(matrices).reshape(by.m + 2, 3 * channels, filters)


def _spread(dy: Array, tiles: int, by: Transforms) -> Array:
    """A dy, (m + 2, N · tiles, OW, O); the last tile may have fewer than m rows."""
    images, height, width, filters = dy.shape
    given = np.empty((by.m + 2, images, tiles, width * filters), dy.dtype)
    matrix, whole = by.outputs.T.astype(dy.dtype), height // by.m
    rows, target = dy.reshape(images, height, -1), given.transpose(1, 2, 0, 3)
    np.matmul(matrix, rows[:, : whole * by.m].reshape(images, whole, by.m, rows.shape[2]), out=target[:, :whole])
    if whole < tiles:
        np.matmul(matrix[:, : height - whole * by.m], rows[:, whole * by.m :], out=target[:, whole])
    return given.reshape(by.m + 2, -1, width, filters)
