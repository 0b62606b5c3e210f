"""The dense layer."""

from __future__ import annotations

import numpy as np

from imori.engine.layer import Array, Layer


class Affine(Layer):
    """y = W x + b: flat (F, N) -> flat (O, N). weight (O, F), bias (O,) or None."""

    def __init__(self, weight: Array, bias: Array | None) -> None:
        super().__init__({"weight": weight} if bias is None else {"weight": weight, "bias": bias})

    def forward(self, x: Array, training: bool = False) -> Array:
        """W x + b."""
        self.keep(training, x)
        y: Array = self.weights["weight"] @ x
        if "bias" in self.weights:
            y += self.weights["bias"][:, None]
        return y

    def backward(self, dy: Array) -> Array | None:
        """dW = dy xᵀ, db = Σ dy, dx = Wᵀ dy."""
        (x,) = self.recall()
        if "weight" in self.trained:
            self.give("weight", dy @ x.T)
        if "bias" in self.trained:
            self.give("bias", dy.sum(axis=1))
        return np.asarray(self.weights["weight"].T @ dy) if self.passes else None
