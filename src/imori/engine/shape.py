"""Layers that only move values."""

from __future__ import annotations

import numpy as np

from imori.engine.layer import Array, Layer


class Identity(Layer):
    """Passes its input through."""

    def forward(self, x: Array, training: bool = False) -> Array:
        """x."""
        return x

    def backward(self, dy: Array) -> Array:
        """dy."""
        return dy


class Flatten(Layer):
    """Map (C, N, H, W) -> flat (C · H · W, N), in that order. A flat vector stays as it is."""

    def forward(self, x: Array, training: bool = False) -> Array:
        """The channels, rows and columns of an image in one line."""
        self.keep(training, x.shape)
        if x.ndim == 2:
            return x
        channels, images, height, width = x.shape
        return x.swapaxes(0, 1).reshape(images, channels * height * width).T

    def backward(self, dy: Array) -> Array:
        """The line back into channels, rows and columns."""
        (shape,) = self.recall()
        if len(shape) == 2:
            return dy
        channels, images, *size = shape
        return dy.T.reshape(images, channels, *size).swapaxes(0, 1)


class Subsample(Layer):
    """Every stride-th row and column, from the first."""

    def __init__(self, stride: tuple[int, int]) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Array, training: bool = False) -> Array:
        """x[::down, ::along]."""
        self.keep(training, x.shape)
        return x[:, :, :: self.stride[0], :: self.stride[1]]

    def backward(self, dy: Array) -> Array:
        """dy where a value was taken, 0 elsewhere."""
        (shape,) = self.recall()
        dx = np.zeros(shape, dy.dtype)
        dx[:, :, :: self.stride[0], :: self.stride[1]] = dy
        return dx


class PadChannels(Layer):
    """Appends channels of zeros up to `out`."""

    def __init__(self, out: int) -> None:
        super().__init__()
        self.out = out

    def forward(self, x: Array, training: bool = False) -> Array:
        """x, then zeros."""
        self.keep(training, len(x))
        y = np.zeros((self.out, *x.shape[1:]), x.dtype)
        y[: len(x)] = x
        return y

    def backward(self, dy: Array) -> Array:
        """dy of the channels that were there."""
        (channels,) = self.recall()
        return dy[:channels]


class Select(Layer):
    """Some of the channels, in the order given."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.channels = list(channels)

    def forward(self, x: Array, training: bool = False) -> Array:
        """x[channels]."""
        self.keep(training, x.shape)
        return x[self.channels]

    def backward(self, dy: Array) -> Array:
        """dy where a channel was taken, 0 elsewhere."""
        (shape,) = self.recall()
        dx = np.zeros(shape, dy.dtype)
        dx[self.channels] = dy
        return dx
