"""Depthwise convolutions: sums of the shifted map, each channel times its own weight, in one pass.

A product of matrices would have one row a channel, and BLAS nothing to gain. The window's values of every place are a
view of the padded map with two axes more, and the convolution is Einstein's sum over them,

    y[n, h, w, c] = Σᵢⱼ x[n, h + i, w + j, c] · weight[i, j, c]

which NumPy's `einsum` goes through with a row of y in the first cache, multiplying and adding in one go. Channels last,
that row is W·C values long where the stride is 1, if the weights are laid out W times. MobileNet
(https://arxiv.org/abs/1704.04861) is made of such layers. Arrays are channels last.
"""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import as_strided

from imori.engine.fast.layout import Axis, blocks
from imori.engine.layer import Array


def correlate(x: Array, weight: Array, down: Axis, along: Axis) -> Array:
    """(N, H, W, C) by (C, 1, kernel height, kernel width) -> (N, OH, OW, C)."""
    images, _, _, channels = x.shape
    y = np.empty((images, down.places, along.places, channels), x.dtype)
    matrix = weight[:, 0].transpose(1, 2, 0)
    for part in blocks(images, down.span * along.span * channels * x.itemsize):
        taps = _taps(x[part], down, along)
        out = y[part].reshape(taps.shape[2:])
        wide = np.tile(matrix, taps.shape[-1] // channels)
        np.einsum("ijnhwk,ijk->nhwk", taps, wide, out=out)
    return y


def weigh(dy: Array, x: Array, down: Axis, along: Axis) -> Array:
    """The gradient by the weight, (C, 1, kernel height, kernel width)."""
    images, _, _, channels = x.shape
    total = np.zeros((down.taps, along.taps, channels), x.dtype)
    for part in blocks(images, down.span * along.span * channels * x.itemsize):
        taps = _taps(x[part], down, along)
        found = np.einsum("ijnhwk,nhwk->ijk", taps, dy[part].reshape(taps.shape[2:]))
        total += found.reshape(down.taps, along.taps, -1, channels).sum(axis=2)
    return total.transpose(2, 0, 1)[:, None]


def _taps(x: Array, down: Axis, along: Axis) -> Array:
    """(kernel height, kernel width, N, OH, OW, C), a view of the padded map; (..., OH, 1, OW · C) without a stride."""
    padded = _pad(x, down, along)
    images, _, _, channels = padded.shape
    image, row, pixel, value = padded.strides
    taps = (down.taps, along.taps, images, down.places)
    steps = (row * down.dilation, pixel * along.dilation, image, row * down.stride)
    if along.stride == 1:
        return as_strided(padded, (*taps, 1, along.places * channels), (*steps, 0, value), writeable=False)
    return as_strided(padded, (*taps, along.places, channels), (*steps, pixel * along.stride, value), writeable=False)


def _pad(x: Array, down: Axis, along: Axis) -> Array:
    """The pixels that the window passes over, zeros where they are padding."""
    images, _, _, channels = x.shape
    padded = np.zeros((images, down.span, along.span, channels), x.dtype)
    rows, columns = down.inside, along.inside
    padded[:, rows, columns] = x[
        :, rows.start - down.pad : rows.stop - down.pad, columns.start - along.pad : columns.stop - along.pad
    ]
    return padded
