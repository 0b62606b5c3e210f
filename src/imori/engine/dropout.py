"""Dropout."""

from __future__ import annotations

import numpy as np

from imori.engine.layer import Array, Layer, Shape


class Dropout(Layer):
    """In training, sets a share `drop` of the values to 0 and divides the others by 1 - drop; else passes x through."""

    def __init__(self, drop: float = 0.5, rng: np.random.Generator | None = None) -> None:
        super().__init__()
        self.drop = drop
        self.rng = rng or np.random.default_rng(0)
        """Where the masks are drawn from; `Network.seed` gives a new one for each step."""

    def forward(self, x: Array, training: bool = False) -> Array:
        """x · mask / (1 - drop). The mask is the same for float32 and float64."""
        if not training:
            return x
        stays = self.draw(x.shape)
        self.keep(training, stays)
        return self._thin(x, stays)

    def backward(self, dy: Array) -> Array:
        """dy · mask / (1 - drop)."""
        (stays,) = self.recall()
        return self._thin(dy, stays)

    def draw(self, shape: Shape) -> Array:
        """Which values stay."""
        return np.asarray(self.rng.random(shape, np.float32) >= self.drop)

    def _thin(self, x: Array, stays: Array) -> Array:
        thinned = x * stays
        thinned *= 1 / (1 - self.drop)
        return thinned
