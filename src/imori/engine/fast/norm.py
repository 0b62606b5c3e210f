"""Batch normalisation of pixels that lie side by side, with the statistics of all workers' images.

Channels last, a row of the map is one line of W·C values, and each number of a channel is laid out W times beside it.
The map is gone through by blocks that stay in the cache, and of it x alone is kept: what the plain layer keeps, x̂ = (x
- mean) / √(var + eps), is as quickly worked out again. Each worker's mean and sum of squares are of its own images.
They are put together by the formula of T. Chan, G. Golub, R. LeVeque (1979, "Updating formulae and a pairwise algorithm
for computing sample variances"), which loses no digits, as mean(x²) - mean(x)² would.
"""

from __future__ import annotations

import numpy as np

from imori.engine import norm as plain
from imori.engine.fast.layout import blocks, first, last, sums
from imori.engine.fast.team import Shared
from imori.engine.layer import Array, Shape


class BatchNorm(Shared, plain.BatchNorm):
    """The plain layer, of which each worker has a copy."""

    def forward(self, x: Array, training: bool = False) -> Array:
        """w (x - mean) / √(var + eps) + b; SingleValueError where a batch has one value a channel."""
        lines, wide = _lines(x)
        of_batch = training and not self.frozen
        count, mean, var = self._statistics(lines, wide) if of_batch else (0, self.weights["mean"], self.weights["var"])
        scale = 1 / np.sqrt(var + self.eps)
        self.keep(training, lines, count, mean, scale)
        means, factors, biases = (
            np.tile(of_channel, wide) for of_channel in (mean, scale * self.weights["weight"], self.weights["bias"])
        )
        y = np.empty_like(lines)
        for part in blocks(len(lines), lines[:1].nbytes):
            np.subtract(lines[part], means, out=y[part])
            y[part] *= factors
            y[part] += biases
        return _map(y, x.shape)

    def _statistics(self, lines: Array, wide: int) -> tuple[int, Array, Array]:
        """How many values a channel of the whole batch has, their mean and variance; the running ones follow."""
        told = [(own[0], *np.split(own[1:], 2)) for own in self.tell("forward", np.hstack(_moments(lines, wide)))]
        count = int(sum(each for each, _, _ in told))
        if count == 1:
            raise plain.SingleValueError("a batch norm cannot train on one value a channel")
        mean = sum(each * mean for each, mean, _ in told) / count
        squares = sum(squares + each * (own_mean - mean) ** 2 for each, own_mean, squares in told)
        if self.leads:
            self._follow("mean", mean)
            self._follow("var", squares / (count - 1))
        dtype = lines.dtype
        return count, mean.astype(dtype), (squares / count).astype(dtype)

    def backward(self, dy: Array) -> Array | None:
        """dw = Σ dy x̂, db = Σ dy; dx = w / √(var + eps) · (dy - mean of dy - x̂ · mean of dy x̂).

        dw and db are those of the worker's own images; the means are the batch's.
        """
        lines, count, mean, scale = self.recall()
        given, wide = _lines(dy)
        means = np.tile(mean, wide)
        dw, db = _by_weights(lines, given, means, scale)
        for role, gradient in (("weight", dw), ("bias", db)):
            if role in self.trained:
                self.give(role, gradient.astype(dy.dtype))
        if count:
            dw, db = np.split(sum(self.tell("backward", np.hstack([dw, db]))) / count, 2)
        if not self.passes:
            return None
        factors = np.tile(scale * self.weights["weight"], wide)
        if not count:
            return _map(given * factors, dy.shape)
        slopes, shifts = (np.tile(each.astype(dy.dtype), wide) for each in (-dw * scale, -db))
        dx = np.empty_like(given)
        for part in blocks(len(lines), 2 * lines[:1].nbytes):
            np.subtract(lines[part], means, out=dx[part])
            dx[part] *= slopes
            dx[part] += shifts
            dx[part] += given[part]
            dx[part] *= factors
        return _map(dx, dy.shape)


def _lines(x: Array) -> tuple[Array, int]:
    """A map (C, N, H, W) as lines (N·H, W·C), and W; a flat vector (C, N) as (N, C), and 1."""
    if x.ndim == 2:
        return np.ascontiguousarray(x.T), 1
    pixels = last(x)
    return pixels.reshape(-1, x.shape[3] * len(x)), x.shape[3]


def _map(lines: Array, shape: Shape) -> Array:
    """Lines as a map, or a flat vector, of this shape (C, N, ...)."""
    return lines.T if len(shape) == 2 else first(lines.reshape(*shape[1:], shape[0]))


def _moments(lines: Array, wide: int) -> tuple[int, Array, Array]:
    """Of each channel: how many values it has, their mean, and the sum of the squares of their distances from it."""
    count = len(lines) * wide
    total, squares = np.zeros(lines.shape[1]), np.zeros(lines.shape[1])
    for part in blocks(len(lines), lines[:1].nbytes):
        total += sums(lines[part])
    mean = total.reshape(wide, -1).sum(axis=0) / count
    means = np.tile(mean.astype(lines.dtype), wide)
    for part in blocks(len(lines), 2 * lines[:1].nbytes):
        distances = lines[part] - means
        squares += np.einsum("rk,rk->k", distances, distances)
    return count, mean, squares.reshape(wide, -1).sum(axis=0)


def _by_weights(lines: Array, given: Array, means: Array, scale: Array) -> tuple[Array, Array]:
    """Σ dy x̂ and Σ dy of each channel."""
    dw, db = np.zeros(lines.shape[1]), np.zeros(lines.shape[1])
    for part in blocks(len(lines), 2 * lines[:1].nbytes):
        dw += np.einsum("rk,rk->k", lines[part] - means, given[part])
        db += sums(given[part])
    return dw.reshape(-1, len(scale)).sum(axis=0) * scale, db.reshape(-1, len(scale)).sum(axis=0)
