"""Normalisation: of each channel over the batch, and of each value by its neighbours."""

from __future__ import annotations

import numpy as np

from imori.engine.layer import Array, Layer, rows


class SingleValueError(ValueError):
    """A batch norm met one value a channel in training: its variance would be 0, and say nothing."""


class BatchNorm(Layer):
    """y = w (x - mean) / √(var + eps) + b, channel by channel (arXiv:1502.03167); map or flat, the shape stays.

    In training mean and var are the batch's (var biased: / N), and the running ones move towards them by `momentum`
    (var unbiased: / (N - 1)). At inference, and where `frozen`, they are the running ones. All weights are (C,).
    """

    def __init__(
        self, weight: Array, bias: Array, mean: Array, var: Array, eps: float = 1e-5, momentum: float = 0.1
    ) -> None:
        super().__init__({"weight": weight, "bias": bias, "mean": mean, "var": var})
        self.eps, self.momentum = eps, momentum
        self.frozen = False
        """Whether it runs in training as at inference."""

    def forward(self, x: Array, training: bool = False) -> Array:
        """w x̂ + b with x̂ = (x - mean) / √(var + eps); SingleValueError where a batch has one value a channel."""
        flat, of_batch = rows(x), training and not self.frozen
        count = flat.shape[1]
        mean, var = self.weights["mean"], self.weights["var"]
        if of_batch:
            if count == 1:
                raise SingleValueError("a batch norm cannot train on one value a channel")
            mean = flat.mean(axis=1)
        normal = flat - mean[:, None]
        if of_batch:
            var = np.vecdot(normal, normal) / count
            self._follow("mean", mean)
            self._follow("var", var * (count / (count - 1)))
        scale = 1 / np.sqrt(var + self.eps)
        normal *= scale[:, None]
        self.keep(training, normal, scale, of_batch)
        y: Array = np.multiply(normal, self.weights["weight"][:, None], out=None if training else normal)
        y += self.weights["bias"][:, None]
        return y.reshape(x.shape)

    def _follow(self, role: str, new: Array) -> None:
        running = self.weights[role]
        running *= 1 - self.momentum
        running += self.momentum * new

    def backward(self, dy: Array) -> Array | None:
        """dw = Σ dy x̂, db = Σ dy; dx = w / √(var + eps) · (dy - mean of dy - x̂ · mean of dy x̂).

        The last two terms are what the batch's own mean and variance contribute; running ones contribute nothing.
        """
        normal, scale, of_batch = self.recall()
        flat = rows(dy)
        dw, db = np.vecdot(flat, normal), flat.sum(axis=1)
        for role, gradient in (("weight", dw), ("bias", db)):
            if role in self.trained:
                self.give(role, gradient)
        if not self.passes:
            return None
        count = flat.shape[1]
        if of_batch:
            normal *= -(dw / count)[:, None]
            normal += flat
            normal -= (db / count)[:, None]
        dx: Array = (normal if of_batch else flat) * (scale * self.weights["weight"])[:, None]
        return dx.reshape(dy.shape)


class LRN(Layer):
    """y = x / (k + alpha · S)^beta, S the sum of squares over `size` neighbouring channels (Krizhevsky et al. 2012)."""

    def __init__(self, size: int, alpha: float, beta: float, k: float) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, x: Array, training: bool = False) -> Array:
        """x · base^-beta, base = k + alpha · S."""
        base = self._neighbours(x * x)
        base *= self.alpha
        base += self.k
        power = base**-self.beta
        self.keep(training, x, base, power)
        return x * power

    def backward(self, dy: Array) -> Array:
        """dx = dy · base^-beta - 2 alpha beta x · (sum over the neighbours of dy · x · base^(-beta - 1))."""
        x, base, power = self.recall()
        dx: Array = dy * power
        around = self._neighbours(dx * x / base)
        around *= x
        around *= 2 * self.alpha * self.beta
        dx -= around
        return dx

    def _neighbours(self, x: Array) -> Array:
        """The sum over each channel's neighbours, itself included."""
        total = x.copy()
        for distance in range(1, self.size // 2 + 1):
            total[distance:] += x[:-distance]
            total[:-distance] += x[distance:]
        return total
