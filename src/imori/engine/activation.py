"""Activations: functions of each value by itself, and softmax."""

from __future__ import annotations

import numpy as np

from imori.engine.layer import Array, Layer


class ReLU(Layer):
    """max(x, 0), and no more than `limit` where it is given. The gradient at 0 and at the limit is 0."""

    def __init__(self, limit: float | None = None) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x: Array, training: bool = False) -> Array:
        """min(max(x, 0), limit)."""
        y = np.maximum(x, 0)
        if self.limit is not None:
            np.minimum(y, self.limit, out=y)
        self.keep(training, y)
        return y

    def backward(self, dy: Array) -> Array:
        """dy where x passed unchanged."""
        (y,) = self.recall()
        passed = y > 0
        if self.limit is not None:
            passed &= y < self.limit
        return np.asarray(dy * passed)


class LeakyReLU(Layer):
    """x where positive, slope · x elsewhere."""

    def __init__(self, slope: float = 0.01) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Array, training: bool = False) -> Array:
        """x or slope · x."""
        positive = x > 0
        self.keep(training, positive)
        return np.where(positive, x, self.slope * x)

    def backward(self, dy: Array) -> Array:
        """dy or slope · dy."""
        (positive,) = self.recall()
        return np.where(positive, dy, self.slope * dy)


class Sigmoid(Layer):
    """1 / (1 + exp(-x))."""

    def forward(self, x: Array, training: bool = False) -> Array:
        """1 / (1 + exp(-x)), which is 0 where exp overflows."""
        y = np.negative(x)
        with np.errstate(over="ignore"):
            np.exp(y, out=y)
        y += 1
        np.divide(1, y, out=y)
        self.keep(training, y)
        return y

    def backward(self, dy: Array) -> Array:
        """dy · y · (1 - y)."""
        (y,) = self.recall()
        return np.asarray(dy * y * (1 - y))


class Tanh(Layer):
    """The hyperbolic tangent."""

    def forward(self, x: Array, training: bool = False) -> Array:
        """tanh x."""
        y: Array = np.tanh(x)
        self.keep(training, y)
        return y

    def backward(self, dy: Array) -> Array:
        """dy · (1 - y²)."""
        (y,) = self.recall()
        return np.asarray(dy * (1 - y * y))


class Softmax(Layer):
    """exp(x) over its sum along the channels."""

    def forward(self, x: Array, training: bool = False) -> Array:
        """exp(x - max) / Σ exp(x - max): the same, and it cannot overflow."""
        y: Array = x - x.max(axis=0)
        np.exp(y, out=y)
        y /= y.sum(axis=0)
        self.keep(training, y)
        return y

    def backward(self, dy: Array) -> Array:
        """y · (dy - Σ dy y)."""
        (y,) = self.recall()
        weighted = dy * y
        return np.asarray(weighted - y * weighted.sum(axis=0))
