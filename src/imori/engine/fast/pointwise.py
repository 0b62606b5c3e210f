"""1×1 convolutions: each pixel by itself, so that the map is the matrix of columns already.

The product of (N·H·W, C) by (C, O) is the whole convolution. Nothing is copied, but for a stride, which leaves pixels
out. Network in network (https://arxiv.org/abs/1312.4400) put these layers first; they are most of a MobileNet's work.
Arrays are channels last.
"""

from __future__ import annotations

import numpy as np

from imori.engine.fast.layout import Axis
from imori.engine.layer import Array


def fits(down: Axis, along: Axis) -> bool:
    """Whether the window is one pixel, and never lies on padding."""
    return all(axis.taps == 1 and axis.inside == slice(0, axis.span) for axis in (down, along))


def correlate(x: Array, weight: Array, down: Axis, along: Axis) -> Array:
    """(N, H, W, C) by (O, C, 1, 1) -> (N, OH, OW, O)."""
    pixels = _pixels(x, down, along)
    y = np.matmul(pixels.reshape(-1, pixels.shape[3]), weight[:, :, 0, 0].T)
    return np.asarray(y).reshape(*pixels.shape[:3], len(weight))


def weigh(dy: Array, x: Array, down: Axis, along: Axis) -> Array:
    """The gradient by the weight, (O, C, 1, 1)."""
    pixels = _pixels(x, down, along)
    product = np.matmul(dy.reshape(-1, dy.shape[3]).T, pixels.reshape(-1, pixels.shape[3]))
    return np.asarray(product)[:, :, None, None]


def _pixels(x: Array, down: Axis, along: Axis) -> Array:
    """Those that the window meets."""
    return x[:, down.pixels(0)[1], along.pixels(0)[1]]
