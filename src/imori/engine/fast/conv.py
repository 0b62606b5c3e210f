"""Convolutions: the plain layers' formulas, each worked out in the way that is fastest for its window.

- `pointwise`: a pixel by itself.
- `winograd`: 3×3 without strides.
- `rows`: any other, if its channels lie side by side; else
- the plain layer's im2col, as for the few channels of an image.

Three things are common to them. Taps of the kernel that meet nothing but padding are left out, as eight of nine where a
3×3 window lies on a map of one pixel. The gradient by the input is a convolution itself, so that nothing is scattered:
of dy by the kernel, turned by half a turn. And where the convolution has a stride s, its gradient falls apart into s²
ordinary ones, because every s-th pixel has met the same taps, and those alone (W. Shi et al.,
https://arxiv.org/abs/1609.07009).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TypeAlias

import numpy as np

from imori.engine import conv as plain
from imori.engine.fast import columns, depthwise, pointwise, rows, winograd
from imori.engine.fast.layout import Axis, arranged, axes, first, last, shift, sums
from imori.engine.im2col import Window
from imori.engine.layer import Array

Convolve: TypeAlias = Callable[[Array, Array, Axis, Axis], Array]
FEW = 4
"""Channels, fewer than which lie too close to be copied as windows."""


def correlate(x: Array, weight: Array, down: Axis, along: Axis, zeros: bool = True) -> Array:
    """(N, H, W, C) by (O, C, kernel height, kernel width) -> (N, OH, OW, O), with exact `zeros`: see `winograd`."""
    taps, down, along = _seen(down, along)
    weight = weight[:, :, *taps]
    if pointwise.fits(down, along):
        return pointwise.correlate(x, weight, down, along)
    if winograd.fits(x, len(weight), down, along):
        return winograd.correlate(x, weight, down, along, winograd.F2 if zeros else winograd.fewest(down.places))
    return rows.correlate(x, weight, down, along)


def weigh(dy: Array, x: Array, down: Axis, along: Axis) -> Array:
    """The gradient of `correlate` by the weight, (O, C, kernel height, kernel width); 0 for taps that meet no pixel."""
    taps, met_down, met_along = _seen(down, along)
    made = _weigh(dy, x, met_down, met_along)
    if made.shape[2:] == (down.taps, along.taps):
        return made
    whole = np.zeros((down.taps, dy.shape[3], along.taps, x.shape[3]), dy.dtype).transpose(1, 3, 0, 2)
    whole[:, :, *taps] = made
    return whole


def _weigh(dy: Array, x: Array, down: Axis, along: Axis) -> Array:
    """The same, where all taps meet pixels."""
    if pointwise.fits(down, along):
        return pointwise.weigh(dy, x, down, along)
    if winograd.fits(x, dy.shape[3], down, along):
        return winograd.weigh(dy, x, down, along)
    return rows.weigh(dy, x, down, along)


def _seen(down: Axis, along: Axis) -> tuple[tuple[slice, slice], Axis, Axis]:
    """The taps that meet a pixel somewhere, and the axes without the others."""
    (top, bottom), (left, right) = down.seen(), along.seen()
    return (
        (slice(top, bottom), slice(left, right)),
        replace(down, taps=bottom - top, pad=down.pad - top * down.dilation),
        replace(along, taps=right - left, pad=along.pad - left * along.dilation),
    )


def spread(dy: Array, weight: Array, down: Axis, along: Axis, convolve: Convolve) -> Array:
    """The gradient by x, (N, H, W, C), of a convolution over these axes, from dy (N, OH, OW, O).

    `convolve` works out convolutions, and takes weights as `weight` is: (C, O, kernel height, kernel width) for
    `correlate`, the ends of the layer's swapped, and (C, 1, kernel height, kernel width) for a depthwise one.
    """
    if down.stride == along.stride == 1:
        return convolve(dy, weight[:, :, ::-1, ::-1], _turned(down), _turned(along))
    dx = np.zeros((len(dy), down.length, along.length, len(weight)), dy.dtype)
    for row in range(min(down.stride, down.length)):
        for column in range(min(along.stride, along.length)):
            (first_row, part_down), (first_column, part_along) = _phase(down, row), _phase(along, column)
            part = weight[:, :, first_row :: down.stride, first_column :: along.stride]
            if part.size:
                dx[:, row :: down.stride, column :: along.stride] = spread(dy, part, part_down, part_along, convolve)
    return dx


def _turned(axis: Axis) -> Axis:
    """The axis of the convolution that is the gradient of one without strides."""
    pad = axis.dilation * (axis.taps - 1) - axis.pad
    return Axis(axis.places, axis.taps, axis.length, pad=pad, dilation=axis.dilation)


def _phase(axis: Axis, start: int) -> tuple[int, Axis]:
    """The first tap that meets every stride-th pixel from `start`, and the axis over these pixels alone."""
    tap = (start + axis.pad) % axis.stride
    pixels, taps = len(range(start, axis.length, axis.stride)), len(range(tap, axis.taps, axis.stride))
    return tap, Axis(pixels, taps, axis.places, pad=(start + axis.pad - tap) // axis.stride)


def simple(window: Window, groups: int = 1) -> bool:
    """Whether the functions above take the window: not where it has gaps along, or gaps down and strides, or groups."""
    gaps = window.dilation[1] > 1 or (window.dilation[0] > 1 and max(window.stride) > 1)
    return groups == 1 and not gaps


class Convolution(plain.Convolution):
    """The plain layer, for windows that are `simple`; its weight is `arranged`."""

    def __init__(self, weight: Array, bias: Array | None, window: Window) -> None:
        super().__init__(arranged(weight), bias, window)

    def forward(self, x: Array, training: bool = False) -> Array:
        """W · im2col(x) + b."""
        weight = self.weights["weight"]
        if self._few(x):
            self.keep(training, x)
            y = columns.correlate(x, weight, self.window)
        else:
            pixels = last(x)
            self.keep(training, pixels)
            y = correlate(pixels, weight, *axes(x.shape[2:], self.window))
        shift(y, self.weights.get("bias"))
        return first(y)

    def backward(self, dy: Array) -> Array | None:
        """dW = dy · im2col(x)ᵀ, db = Σ dy, and dx is a convolution of dy."""
        (x,) = self.recall()
        few, pixels = self._few(x), last(dy)
        down, along = axes(x.shape[2:] if few else x.shape[1:3], self.window)
        if "weight" in self.trained:
            self.give("weight", columns.weigh(pixels, x, self.window) if few else weigh(pixels, x, down, along))
        if "bias" in self.trained:
            self.give("bias", sums(pixels.reshape(-1, pixels.shape[3])))
        if not self.passes:
            return None
        backward = partial(correlate, zeros=False)
        return first(spread(pixels, self.weights["weight"].swapaxes(0, 1), down, along, backward))

    def _few(self, x: Array) -> bool:
        return self.weights["weight"].shape[1] < FEW and self.window.area > 1


class ConvTranspose(plain.ConvTranspose):
    """The plain layer, for windows that are `simple`."""

    def forward(self, x: Array, training: bool = False) -> Array:
        """col2im(Wᵀ · x) + b: what a convolution does to a gradient."""
        pixels = last(x)
        self.keep(training, pixels)
        down, along = axes(self.size(*x.shape[2:]), self.window)
        y = spread(pixels, self.weights["weight"].swapaxes(0, 1), down, along, correlate)
        shift(y, self.weights.get("bias"))
        return first(y)

    def backward(self, dy: Array) -> Array | None:
        """dW = x · im2col(dy)ᵀ, db = Σ dy, dx = W · im2col(dy)."""
        (x,) = self.recall()
        pixels = last(dy)
        down, along = axes(dy.shape[2:], self.window)
        if "weight" in self.trained:
            self.give("weight", weigh(x, pixels, down, along))
        if "bias" in self.trained:
            self.give("bias", sums(pixels.reshape(-1, pixels.shape[3])))
        return first(correlate(pixels, self.weights["weight"], down, along, False)) if self.passes else None


class Depthwise(plain.Depthwise):
    """The plain layer, for one filter a channel."""

    def forward(self, x: Array, training: bool = False) -> Array:
        """Σ over the window of w · tap, + b."""
        pixels = last(x)
        self.keep(training, pixels)
        y = depthwise.correlate(pixels, self.weights["weight"], *axes(x.shape[2:], self.window))
        shift(y, self.weights.get("bias"))
        return first(y)

    def backward(self, dy: Array) -> Array | None:
        """dw = Σ dy · tap, db = Σ dy, and dx is a depthwise convolution of dy."""
        (x,) = self.recall()
        pixels = last(dy)
        down, along = axes(x.shape[1:3], self.window)
        if "weight" in self.trained:
            self.give("weight", depthwise.weigh(pixels, x, down, along))
        if "bias" in self.trained:
            self.give("bias", sums(pixels.reshape(-1, pixels.shape[3])))
        if not self.passes:
            return None
        return first(spread(pixels, self.weights["weight"], down, along, depthwise.correlate))
