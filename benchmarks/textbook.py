"""DeepConvNet as "Deep learning from scratch" (K. Saitoh, 2016) writes it: what `step_numpy.py` is measured against.

Plain im2col and col2im over a whole batch in (N, C, H, W), its columns as rows, the max pool by im2col and argmax, and
Adam by dictionaries of arrays. Written anew from the book's description, layer by layer, and as slow as it is there.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]


def im2col(images: Array, height: int, width: int, stride: int = 1, pad: int = 0) -> Array:
    """(N, C, H, W) -> (N · OH · OW, C · height · width)."""
    n, c, h, w = images.shape
    out_h, out_w = (h + 2 * pad - height) // stride + 1, (w + 2 * pad - width) // stride + 1
    padded = np.pad(images, [(0, 0), (0, 0), (pad, pad), (pad, pad)])
    columns = np.zeros((n, c, height, width, out_h, out_w), images.dtype)
    for y in range(height):
        for x in range(width):
            columns[:, :, y, x] = padded[:, :, y : y + stride * out_h : stride, x : x + stride * out_w : stride]
    return columns.transpose(0, 4, 5, 1, 2, 3).reshape(n * out_h * out_w, -1)


def col2im(columns: Array, shape: tuple[int, ...], height: int, width: int, stride: int = 1, pad: int = 0) -> Array:
    """The columns added up where they came from."""
    n, c, h, w = shape
    out_h, out_w = (h + 2 * pad - height) // stride + 1, (w + 2 * pad - width) // stride + 1
    columns = columns.reshape(n, out_h, out_w, c, height, width).transpose(0, 3, 4, 5, 1, 2)
    images = np.zeros((n, c, h + 2 * pad + stride - 1, w + 2 * pad + stride - 1), columns.dtype)
    for y in range(height):
        for x in range(width):
            images[:, :, y : y + stride * out_h : stride, x : x + stride * out_w : stride] += columns[:, :, y, x]
    return images[:, :, pad : h + pad, pad : w + pad]


class Convolution:
    """3×3, stride 1."""

    def __init__(self, channels: int, filters: int, pad: int, rng: np.random.Generator) -> None:
        scale = np.sqrt(2 / (9 * channels))
        self.weight = (scale * rng.standard_normal((filters, channels, 3, 3))).astype(np.float32)
        self.bias, self.pad = np.zeros(filters, np.float32), pad

    def forward(self, x: Array) -> Array:
        """im2col, a product, and the axes back in order."""
        n, _, h, w = x.shape
        self.shape = x.shape
        self.columns = im2col(x, 3, 3, 1, self.pad)
        out = np.dot(self.columns, self.weight.reshape(len(self.weight), -1).T) + self.bias
        return np.asarray(out.reshape(n, h + 2 * self.pad - 2, w + 2 * self.pad - 2, -1).transpose(0, 3, 1, 2))

    def backward(self, dy: Array) -> Array:
        """The gradients, and col2im."""
        filters = len(self.weight)
        dy = dy.transpose(0, 2, 3, 1).reshape(-1, filters)
        self.gradients = {"weight": np.dot(self.columns.T, dy).T.reshape(self.weight.shape), "bias": np.sum(dy, axis=0)}
        return col2im(np.dot(dy, self.weight.reshape(filters, -1)), self.shape, 3, 3, 1, self.pad)


class ReLU:
    """max(x, 0)."""

    def forward(self, x: Array) -> Array:
        """A copy, its negative values set to 0."""
        self.mask = x <= 0
        out = x.copy()
        out[self.mask] = 0
        return out

    def backward(self, dy: Array) -> Array:
        """0 where x was negative."""
        dy[self.mask] = 0
        return dy


class Pooling:
    """2×2, stride 2."""

    def forward(self, x: Array) -> Array:
        """im2col, and the largest of every four."""
        n, c, h, w = x.shape
        columns = im2col(x, 2, 2, 2).reshape(-1, 4)
        self.shape, self.winner = x.shape, np.argmax(columns, axis=1)
        return np.asarray(np.max(columns, axis=1).reshape(n, h // 2, w // 2, c).transpose(0, 3, 1, 2))

    def backward(self, dy: Array) -> Array:
        """Each dy at the place of its winner among zeros, and col2im."""
        dy = dy.transpose(0, 2, 3, 1)
        dmax = np.zeros((dy.size, 4), dy.dtype)
        dmax[np.arange(dy.size), self.winner] = dy.flatten()
        return col2im(dmax.reshape(dy.shape[0] * dy.shape[1] * dy.shape[2], -1), self.shape, 2, 2, 2)


class Affine:
    """x W + b, of a map as of a flat vector."""

    def __init__(self, inputs: int, out: int, rng: np.random.Generator) -> None:
        self.weight = (np.sqrt(2 / inputs) * rng.standard_normal((inputs, out))).astype(np.float32)
        self.bias = np.zeros(out, np.float32)

    def forward(self, x: Array) -> Array:
        """A product."""
        self.shape, self.x = x.shape, x.reshape(len(x), -1)
        return np.asarray(np.dot(self.x, self.weight) + self.bias)

    def backward(self, dy: Array) -> Array:
        """Two more."""
        self.gradients = {"weight": np.dot(self.x.T, dy), "bias": np.sum(dy, axis=0)}
        return np.asarray(np.dot(dy, self.weight.T).reshape(self.shape))


class Dropout:
    """A half of the values, at random."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng

    def forward(self, x: Array) -> Array:
        """By the mask."""
        self.mask = (self.rng.random(x.shape) > 0.5).astype(np.float32)
        return x * self.mask

    def backward(self, dy: Array) -> Array:
        """By the same mask."""
        return dy * self.mask


class DeepConvNet:
    """Six convolutions and two dense layers for 28×28 digits, with Adam."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.layers: list[Any] = []
        channels = 1
        for i, (filters, pad) in enumerate(((16, 1), (16, 1), (32, 1), (32, 2), (64, 1), (64, 1))):
            self.layers += [Convolution(channels, filters, pad, rng), ReLU(), *([Pooling()] if i % 2 else [])]
            channels = filters
        self.layers += [Affine(64 * 4 * 4, 50, rng), ReLU(), Dropout(rng), Affine(50, 10, rng)]
        self.trained = [layer for layer in self.layers if hasattr(layer, "weight")]
        self.memory = [
            {role: np.zeros((2, *getattr(layer, role).shape), np.float32) for role in ("weight", "bias")}
            for layer in self.trained
        ]
        self.time = 0

    def step(self, images: Array, labels: Array, rate: float) -> float:
        """Forward, backward, Adam; the loss before it."""
        x = images
        for layer in self.layers:
            x = layer.forward(x)
        p = np.exp(x - x.max(axis=1, keepdims=True))
        p /= p.sum(axis=1, keepdims=True)
        rows = np.arange(len(labels))
        loss = -np.log(p[rows, labels] + 1e-7).mean()
        p[rows, labels] -= 1
        dy = p / len(labels)
        for layer in reversed(self.layers):
            dy = layer.backward(dy)
        self._adam(rate)
        return float(loss)

    def _adam(self, rate: float) -> None:
        self.time += 1
        rate *= np.sqrt(1 - 0.999**self.time) / (1 - 0.9**self.time)
        for layer, memory in zip(self.trained, self.memory, strict=True):
            for role, (mean, square) in memory.items():
                gradient = layer.gradients[role]
                mean += 0.1 * (gradient - mean)
                square += 0.001 * (gradient**2 - square)
                setattr(layer, role, getattr(layer, role) - rate * mean / (np.sqrt(square) + 1e-7))
