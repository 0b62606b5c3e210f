"""Convolutions, each a product with im2col's matrix: y = W · im2col(x) + b.

With G groups, W is G matrices, and each meets the columns of its own channels. The matrix of columns is some nine times
as large as the maps (for 3×3), so it is made for a few images at a time: the rest of the work then finds it in the
processor's cache, and no batch is too large for the memory.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from imori.engine.im2col import Window, col2im, crop, im2col, pad, taps
from imori.engine.layer import Array, Layer, Shape, rows

BLOCK = 2**22
"""Bytes of columns at a time."""


def correlate(x: Array, weight: Array, window: Window, groups: int = 1) -> Array:
    """W · im2col(x): maps (C, N, H, W) and weight (O, C / groups, kernel) -> (O, N, OH, OW)."""
    filters = len(weight)
    matrix = weight.reshape(groups, filters // groups, -1)
    down, along = window.places(*x.shape[2:])
    y = np.empty((groups, filters // groups, x.shape[1] * down * along), x.dtype)
    for images, places in _blocks(x.shape, window):
        columns = im2col(x[:, images], window)
        np.matmul(matrix, columns.reshape(groups, -1, columns.shape[1]), out=y[:, :, places])
    return y.reshape(filters, x.shape[1], down, along)


def spread(dy: Array, weight: Array, window: Window, groups: int, shape: Shape) -> Array:
    """col2im(Wᵀ · dy), the gradient of `correlate` by x: maps of `shape` (C, N, H, W)."""
    filters = len(weight)
    matrix = weight.reshape(groups, filters // groups, -1).transpose(0, 2, 1)
    products = dy.reshape(groups, filters // groups, -1)
    if window.plain:
        return (matrix @ products).reshape(shape)
    dx = np.empty(shape, dy.dtype)
    for images, places in _blocks(shape, window):
        part = dx[:, images]
        part[...] = col2im(matrix @ products[:, :, places], window, part.shape)
    return dx


def weigh(dy: Array, x: Array, window: Window, groups: int = 1) -> Array:
    """dy · im2col(x)ᵀ, the gradient of `correlate` by the weight: (groups, O / groups, C / groups · kernel)."""
    products = dy.reshape(groups, len(dy) // groups, -1)
    total: Array | None = None
    for images, places in _blocks(x.shape, window):
        columns = im2col(x[:, images], window)
        part = products[:, :, places] @ columns.reshape(groups, -1, columns.shape[1]).transpose(0, 2, 1)
        total = part if total is None else np.add(total, part, out=total)
    assert total is not None
    return total


def _blocks(shape: Shape, window: Window) -> Iterator[tuple[slice, slice]]:
    """The images of one block at a time, and the columns that belong to them."""
    channels, images, height, width = shape
    down, along = window.places(height, width)
    step = max(1, images if window.plain else BLOCK // (channels * window.area * down * along * 4))
    for first in range(0, images, step):
        last = min(first + step, images)
        yield slice(first, last), slice(first * down * along, last * down * along)


def _shift(y: Array, bias: Array | None) -> Array:
    """y + b, in place: y was made here."""
    if bias is not None:
        y += bias[:, None, None, None]
    return y


class Convolution(Layer):
    """weight (O, C / groups, kernel height, kernel width), bias (O,) or None; map -> map of O channels."""

    def __init__(self, weight: Array, bias: Array | None, window: Window, groups: int = 1) -> None:
        super().__init__({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
        self.window, self.groups = window, groups

    def forward(self, x: Array, training: bool = False) -> Array:
        """W · im2col(x) + b."""
        self.keep(training, x)
        return _shift(correlate(x, self.weights["weight"], self.window, self.groups), self.weights.get("bias"))

    def backward(self, dy: Array) -> Array | None:
        """dW = dy · im2col(x)ᵀ, db = Σ dy, dx = col2im(Wᵀ · dy)."""
        (x,) = self.recall()
        if "weight" in self.trained:
            self.give("weight", weigh(dy, x, self.window, self.groups))
        if "bias" in self.trained:
            self.give("bias", rows(dy).sum(axis=1))
        return spread(dy, self.weights["weight"], self.window, self.groups, x.shape) if self.passes else None


class ConvTranspose(Layer):
    """A convolution run backwards: each value of x lays its filters down, `stride` apart, and they add up.

    weight (C, O / groups, kernel height, kernel width), bias (O,) or None; map -> map of O channels. The window slides
    over the output: its pads are cut off there, and `output_pad` rows and columns are added after that.
    """

    def __init__(
        self,
        weight: Array,
        bias: Array | None,
        window: Window,
        groups: int = 1,
        output_pad: tuple[int, int] = (0, 0),
    ) -> None:
        super().__init__({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
        self.window, self.groups, self.output_pad = window, groups, output_pad

    def size(self, height: int, width: int) -> tuple[int, int]:
        """The output's height and width."""
        (top, bottom, left, right), (down, along) = self.window.pads, self.window.stride
        return (
            (height - 1) * down + self.window.kernel[0] - top - bottom + self.output_pad[0],
            (width - 1) * along + self.window.kernel[1] - left - right + self.output_pad[1],
        )

    def forward(self, x: Array, training: bool = False) -> Array:
        """col2im(Wᵀ · x) + b: what a convolution does to a gradient."""
        self.keep(training, x)
        weight = self.weights["weight"]
        shape = (weight.shape[1] * self.groups, x.shape[1], *self.size(*x.shape[2:]))
        return _shift(spread(x, weight, self.window, self.groups, shape), self.weights.get("bias"))

    def backward(self, dy: Array) -> Array | None:
        """dW = x · im2col(dy)ᵀ, db = Σ dy, dx = W · im2col(dy): a convolution's formulas, their ends swapped."""
        (x,) = self.recall()
        if "weight" in self.trained:
            self.give("weight", weigh(x, dy, self.window, self.groups))
        if "bias" in self.trained:
            self.give("bias", rows(dy).sum(axis=1))
        return correlate(dy, self.weights["weight"], self.window, self.groups) if self.passes else None


class Depthwise(Layer):
    """A convolution of each channel by itself. weight (C · M, 1, kernel height, kernel width), bias (C · M,) or None.

    A matrix product of one row would gain nothing, so the window's values are taken one after the other: y = Σ w · tap.
    Channel c gives the outputs c · M to c · M + M - 1.
    """

    def __init__(self, weight: Array, bias: Array | None, window: Window) -> None:
        super().__init__({"weight": weight} if bias is None else {"weight": weight, "bias": bias})
        self.window = window

    def forward(self, x: Array, training: bool = False) -> Array:
        """Σ over the window of w · tap, + b."""
        self.keep(training, x)
        weight = self.weights["weight"].reshape(len(x), -1, self.window.area)
        y = np.zeros((*weight.shape[:2], x.shape[1], *self.window.places(*x.shape[2:])), x.dtype)
        for part in _channels(y.shape):
            for i, tap in enumerate(taps(pad(x[part], self.window.pads), self.window)):
                for m in range(weight.shape[1]):
                    y[part, m] += weight[part, m, i, None, None, None] * tap
        return _shift(y.reshape(-1, *y.shape[2:]), self.weights.get("bias"))

    def backward(self, dy: Array) -> Array | None:
        """dw = Σ dy · tap, db = Σ dy, and in dx each tap gets its w · dy back."""
        (x,) = self.recall()
        if "bias" in self.trained:
            self.give("bias", rows(dy).sum(axis=1))
        weight = self.weights["weight"].reshape(len(x), -1, self.window.area)
        dy = dy.reshape(*weight.shape[:2], *dy.shape[1:])
        dw = np.empty_like(weight)
        dx = np.empty_like(x)
        for part in _channels(dy.shape):
            if "weight" in self.trained:
                for i, tap in enumerate(taps(pad(x[part], self.window.pads), self.window)):
                    for m in range(weight.shape[1]):
                        dw[part, m, i] = (dy[part, m] * tap).sum(axis=(1, 2, 3))
            if self.passes:
                padded = np.zeros_like(pad(x[part], self.window.pads))
                for i, tap in enumerate(taps(padded, self.window)):
                    for m in range(weight.shape[1]):
                        tap += weight[part, m, i, None, None, None] * dy[part, m]
                dx[part] = crop(padded, self.window.pads)
        if "weight" in self.trained:
            self.give("weight", dw)
        return dx if self.passes else None


def _channels(shape: Shape) -> Iterator[slice]:
    """A few channels at a time, so that what they need stays in the processor's cache."""
    channels, _, *rest = shape
    step = max(1, BLOCK // (16 * int(np.prod(rest))))
    for first in range(0, channels, step):
        yield slice(first, first + step)
