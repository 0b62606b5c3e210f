"""im2col for the first layer, whose images have one channel or three.

The columns are the plain layer's, and so is their number: three channels side by side are no stretch to speak of, so
that rows of pixels are copied, not windows. Only the product is turned, (places, window) by (window, O), to give a map
whose channels are last. x is (C, N, H, W), as it comes into the network.
"""

from __future__ import annotations

import numpy as np

from imori.engine.fast.layout import blocks
from imori.engine.im2col import Window, im2col
from imori.engine.layer import Array


def correlate(x: Array, weight: Array, window: Window) -> Array:
    """(C, N, H, W) by (O, C, kernel height, kernel width) -> (N, OH, OW, O)."""
    places = window.places(*x.shape[2:])
    y = np.empty((x.shape[1], *places, len(weight)), x.dtype)
    matrix = weight.reshape(len(weight), -1).T
    for part in blocks(x.shape[1], _size(x, window)):
        np.matmul(im2col(x[:, part], window).T, matrix, out=y[part].reshape(-1, len(weight)))
    return y


def weigh(dy: Array, x: Array, window: Window) -> Array:
    """The gradient by the weight, (O, C · window); dy is (N, OH, OW, O)."""
    total = np.zeros((len(x) * window.area, dy.shape[3]), dy.dtype)
    for part in blocks(x.shape[1], _size(x, window)):
        total += np.matmul(im2col(x[:, part], window), dy[part].reshape(-1, dy.shape[3]))
    return total.T


def _size(x: Array, window: Window) -> int:
    """Bytes of one image's columns."""
    down, along = window.places(*x.shape[2:])
    return len(x) * window.area * down * along * x.itemsize
