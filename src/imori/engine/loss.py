"""The loss at the end of a network."""

from __future__ import annotations

import numpy as np

from imori.engine.layer import Array


class SoftmaxWithLoss:
    """Cross-entropy of softmax(logits) against soft targets, averaged by the images' weights: Σ wᵢ CEᵢ / Σ wᵢ.

    CE = -Σ t log p, p = exp(logit) / Σ exp(logit). Where all weights are 0 the loss is 0.
    """

    def forward(self, logits: Array, targets: Array, weights: Array, total: float | None = None) -> float:
        """logits and targets (N, classes), weights (N,) -> the loss; `total` is Σ wᵢ, if there are more images."""
        p = logits - logits.max(axis=1, keepdims=True)
        logs = p.copy()
        np.exp(p, out=p)
        whole = p.sum(axis=1, keepdims=True)
        p /= whole
        logs -= np.log(whole)
        share = weights / ((weights.sum() if total is None else total) or 1)
        self._kept = p, targets, share
        return -float(share @ np.vecdot(targets, logs))

    def backward(self) -> Array:
        """The gradient by the logits: share · (p Σ t - t), which is p - t where the targets sum to 1.

        What is so small that its square would underflow is 0. It moves no weight, but it would go down the network as
        denormal numbers, with which some processors work a hundred times as long.
        """
        p, targets, share = self._kept
        dy = p * targets.sum(axis=1, keepdims=True)
        dy -= targets
        dy *= share[:, None]
        dy[np.abs(dy) < np.finfo(dy.dtype).tiny ** 0.5] = 0
        return np.asarray(dy)
