"""What is said of a classifier's answers: loss, accuracy, top-5, and who was taken for whom."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def soft_targets(labels: Array, classes: int, smoothing: float, dtype: str = "float32") -> Array:
    """Labels (N,) -> (N, classes): 1 - smoothing at the label, and smoothing spread evenly over all classes."""
    targets = np.full((len(labels), classes), smoothing / classes, dtype)
    targets[np.arange(len(labels)), labels] += 1 - smoothing
    return targets


def log_softmax(logits: Array) -> Array:
    """(N, classes) -> the logarithms of the probabilities, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def softmax(logits: Array) -> Array:
    """(N, classes) -> probabilities that sum to 1, in float64."""
    return np.asarray(np.exp(log_softmax(logits)))


def averaged(logits: Sequence[Array]) -> Array:
    """Logits of several networks, each (N, classes) -> those whose probabilities are the mean of theirs."""
    if len(logits) == 1:
        return logits[0]
    return np.asarray(np.logaddexp.reduce([log_softmax(each) for each in logits]))


def wilson(share: float, of: int) -> tuple[float, float]:
    """The 95 % interval of a share that was seen in `of` cases (E. B. Wilson 1927, JASA 22:209-212).

    It holds for few cases and for shares near 1, as Brown, Cai and DasGupta show (2001, Statistical Science 16:101).
    """
    z = 1.959964
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass
class Tally:
    """Adds up answers batch by batch; images of weight 0 (padding) count as nothing."""

    classes: int
    images: int = 0
    loss_sum: float = 0.0
    top5_hits: int = 0
    confusion: Array = field(init=False)
    """(classes, classes): row the true class, column the answer."""

    def __post_init__(self) -> None:
        self.confusion = np.zeros((self.classes, self.classes), np.int64)

    def add(self, logits: Array, labels: Array, weights: Array) -> None:
        """Logits (N, classes), labels (N,), weights (N,)."""
        real = weights > 0
        logits, labels = logits[real], labels[real]
        if not len(labels):
            return
        own = logits[np.arange(len(labels)), labels]
        self.images += len(labels)
        self.loss_sum -= float(log_softmax(logits)[np.arange(len(labels)), labels].sum())
        self.top5_hits += int(((logits > own[:, None]).sum(axis=1) < 5).sum())
        np.add.at(self.confusion, (labels, logits.argmax(axis=1)), 1)

    @property
    def loss(self) -> float:
        """The mean cross-entropy."""
        return self.loss_sum / self.images

    @property
    def accuracy(self) -> float:
        """The share whose largest logit is the label's."""
        return float(np.trace(self.confusion)) / self.images

    @property
    def top5(self) -> float:
        """The share whose label is among the five largest logits."""
        return self.top5_hits / self.images


@dataclass(frozen=True)
class ClassScore:
    """One class: precision is the share of its answers that are right, recall the share of its images found.

    None where there is nothing to divide by: no answer, or no image.
    """

    name: str
    precision: float | None
    recall: float | None
    images: int


def per_class(confusion: Array, classes: Iterable[str]) -> tuple[ClassScore, ...]:
    """A score for each class from the confusion matrix (true class, answer)."""
    right, answered, there = np.diag(confusion), confusion.sum(axis=0), confusion.sum(axis=1)
    return tuple(
        ClassScore(
            name,
            float(right[i] / answered[i]) if answered[i] else None,
            float(right[i] / there[i]) if there[i] else None,
            int(there[i]),
        )
        for i, name in enumerate(classes)
    )
