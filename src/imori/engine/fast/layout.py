"""Channels last in memory, channels first by name.

A map's axes are (C, N, H, W) in the whole engine. The fast layers keep the same axes over memory in another order: the
channels of a pixel lie side by side, as (N, H, W, C). NumPy's elementwise functions work in the order of memory and
keep it, so that the plain layers run on such maps unchanged; the products of matrices, which need the order, ask for it
here.

A product of W pixels by C channels then has its rows in place: BLAS reads them where they lie, and what it writes is
the next map. The order is cuDNN's and oneDNN's too ("NHWC"; https://arxiv.org/abs/1410.0759, section 3).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from imori.engine.im2col import Window
from imori.engine.layer import Array

BLOCK = 3 * 2**18
"""Bytes that one step of a layer works on: what it writes is read again while it lies in a core's second cache."""


def last(x: Array) -> Array:
    """A map (C, N, H, W) as contiguous (N, H, W, C): a view where its memory has that order."""
    return np.ascontiguousarray(x.transpose(1, 2, 3, 0))


def first(y: Array) -> Array:
    """(N, H, W, C) as a map (C, N, H, W): a view."""
    return y.transpose(3, 0, 1, 2)


def arranged(weight: Array) -> Array:
    """(O, C, kernel height, kernel width) over memory in the order (kernel height, O, kernel width, C).

    A row of a kernel is then one stretch, as what it meets of a map is, and Winograd's transforms take it as it lies.
    """
    return np.ascontiguousarray(weight.transpose(2, 0, 3, 1)).transpose(1, 3, 0, 2)


def shift(y: Array, bias: Array | None) -> None:
    """y (N, H, W, C) + bias (C,), in place: a row of the map at a time, which is longer than a pixel."""
    if bias is not None:
        rows = y.reshape(*y.shape[:2], -1)
        rows += np.tile(bias, y.shape[2])


def sums(rows: Array) -> Array:
    """The sum of each column of (rows, C): a product by ones, which BLAS works out."""
    return np.asarray(np.ones(len(rows), rows.dtype) @ rows)


def blocks(count: int, size: int) -> Iterator[slice]:
    """`count` things of `size` bytes, as many at a time as fit into a block."""
    step = max(1, BLOCK // max(1, size))
    for start in range(0, count, step):
        yield slice(start, min(start + step, count))


@dataclass(frozen=True)
class Axis:
    """A window along one axis: its place p meets with its tap i the pixel stride · p + dilation · i - pad."""

    length: int
    """Pixels."""
    taps: int
    places: int
    stride: int = 1
    pad: int = 0
    dilation: int = 1

    @property
    def span(self) -> int:
        """The pixels from the first place's first tap to the last place's last."""
        return self.stride * (self.places - 1) + self.dilation * (self.taps - 1) + 1

    @property
    def inside(self) -> slice:
        """The part of the span that lies on the map; the rest is padding."""
        return slice(min(max(self.pad, 0), self.span), max(0, min(self.span, self.pad + self.length)))

    @functools.cache  # noqa: B019  # axes are few, and equal ones are one
    def pixels(self, tap: int) -> tuple[slice, slice]:
        """The places at which the tap meets the map, and the pixels that it meets there."""
        start = self.dilation * tap - self.pad
        low = max(0, -(start // self.stride))
        high = max(low, min(self.places, (self.length - 1 - start) // self.stride + 1))
        begin, end = start + self.stride * low, start + self.stride * high
        return slice(low, high), slice(begin, end if high > low else begin, self.stride)

    @functools.cache  # noqa: B019
    def seen(self) -> tuple[int, int]:
        """From the first tap to behind the last that meets the map anywhere."""
        met = [tap for tap in range(self.taps) if self.pixels(tap)[0].stop > self.pixels(tap)[0].start]
        return (met[0], met[-1] + 1) if met else (0, 1)


@functools.cache
def axes(shape: tuple[int, int], window: Window) -> tuple[Axis, Axis]:
    """The window over a map of `shape` (H, W), down and along."""
    places = window.places(*shape)
    top, _, left, _ = window.pads
    down, along = zip(shape, window.kernel, places, window.stride, (top, left), window.dilation, strict=True)
    return Axis(*down), Axis(*along)
