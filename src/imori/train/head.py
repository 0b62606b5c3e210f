"""The first phase: a head trained on features, which takes seconds, for they are computed once a photo."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from threadpoolctl import ThreadpoolController

from imori import frameworks
from imori import tree as t
from imori.errors import RunError
from imori.frameworks.base import Array, Setup, Weights
from imori.shapes import Shape
from imori.train.metrics import Tally, soft_targets
from imori.train.recipe import Recipe
from imori.train.schedules import rate_at, step_key
from imori.transfer import Features
from imori.transfer.features import as_images
from imori.weights import restrict

EPOCHS, LEAST_STEPS = 15, 200
"""Of few photos an epoch is a step or two; the head is shown them more often then."""


@dataclass(frozen=True)
class Labelled:
    """Features with their classes."""

    passes: Sequence[Features]
    """Of the same photos: as they are, and then augmented ones."""
    labels: Array
    """int64 (N,)."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, indices: Array) -> Labelled:
        """Those of these indices."""
        passes = [Features(one.segments, one.places[indices]) for one in self.passes]
        return Labelled(passes, self.labels[indices])


@dataclass(frozen=True)
class TrainedHead:
    """What the first phase comes to: the weights of its best epoch, and a row of metrics an epoch.

    The best has the least validation loss: of a few dozen photos, it says more than how many of them are right.
    """

    weights: Weights
    rows: tuple[dict[str, Any], ...]
    best: dict[str, Any]
    """The row of the best epoch."""


class HeadTrainer:
    """Trains heads of one form: the native model and its step are made once, and begin anew for each."""

    def __init__(self, recipe: Recipe, tree: t.Tree, shape: Shape, weights: Weights, device: str) -> None:
        """The head `tree` for features of `shape` (C, H, W) starts from `weights`, which may be a whole network's."""
        self.recipe = recipe
        self._framework = frameworks.get(recipe.framework)
        self._start = restrict(weights, tree)
        self._native = frameworks.build(
            tree, shape, recipe.framework, self._start, recipe.precision, device, engine=recipe.engine
        )
        trainable = frozenset(name for name in self._start if name.rpartition(".")[2] in ("weight", "bias"))
        decayed = frozenset(name for name in trainable if self._start[name].ndim > 1)
        setup = Setup(recipe.optimizer(), trainable, decayed, precision=recipe.precision, clip=recipe.clip)
        self._step = self._framework.prepare(self._native, setup)
        self._memory = self._step.state()
        self._threads = ThreadpoolController()

    def train(self, training: Labelled, validation: Labelled, class_weights: Array) -> TrainedHead:
        """The head of the epoch with the least validation loss. RunError where the loss is not finite."""
        with self._threads.limit(limits=1):  # a head is so small that two threads wait for each other
            return self._trained(training, validation, class_weights)

    def _trained(self, training: Labelled, validation: Labelled, class_weights: Array) -> TrainedHead:
        self._framework.load(self._native, self._start)
        self._step.restore(self._memory)
        batch = min(self.recipe.batch_size, len(training))
        steps = math.ceil(len(training) / batch)
        epochs = self.recipe.head_epochs or max(EPOCHS, math.ceil(LEAST_STEPS / steps))
        rows: list[dict[str, Any]] = []
        least, weights, found = math.inf, self._start, 0
        for epoch in range(epochs):
            began = time.perf_counter()
            row = self._epoch(epoch, training, class_weights, batch, steps, epochs * steps)
            tally = self.tally(validation, len(class_weights))
            row |= {"val_loss": tally.loss, "val_accuracy": tally.accuracy}
            rows.append(row | {"seconds": round(time.perf_counter() - began, 3)})
            if tally.loss < least:
                least, weights, found = tally.loss, self._framework.dump(self._native), epoch
        return TrainedHead(weights, tuple(rows), rows[found])

    def _epoch(
        self, epoch: int, training: Labelled, class_weights: Array, batch: int, steps: int, total: int
    ) -> dict[str, Any]:
        """Every photo once, in batches of one size; the last one begins the order again where photos are lacking."""
        recipe, classes = self.recipe, len(class_weights)
        plan = replace(recipe, lr=recipe.head_lr, warmup_epochs=0.0)
        order = np.random.default_rng([recipe.seed, epoch]).permutation(len(training))
        features = training.passes[epoch % len(training.passes)]
        rate, loss_sum, correct = 0.0, 0.0, 0
        for number in range(steps):
            chosen = np.take(order, np.arange(number * batch, (number + 1) * batch), mode="wrap")
            labels, step = training.labels[chosen], epoch * steps + number
            targets = soft_targets(labels, classes, recipe.label_smoothing, recipe.precision)
            rate, key = rate_at(plan, step, total, steps), step_key(recipe.seed, step)
            loss, logits = self._step(as_images(features.take(chosen)), targets, class_weights[labels], rate, key)
            if not np.isfinite(loss):
                raise RunError(f"the loss of the head is {loss}: use a lower --head-lr (it was {recipe.head_lr:g})")
            loss_sum += loss
            correct += int((logits.argmax(axis=1) == labels).sum())
        return {
            "phase": "head",
            "epoch": epoch + 1,
            "step": (epoch + 1) * steps,
            "lr": rate,
            "train_loss": loss_sum / steps,
            "train_accuracy": correct / (steps * batch),
        }

    def logits(self, features: Features, weights: Weights | None = None) -> Array:
        """The answers (N, classes) of the head as it is, or with other weights."""
        if weights is not None:
            self._framework.load(self._native, weights)
        size = self.recipe.batch_size
        found = []
        for first in range(0, len(features), size):  # batches of one size, as compiled
            chosen = np.minimum(np.arange(first, first + size), len(features) - 1)
            found.append(self._framework.logits(self._native, as_images(features.take(chosen))))
        return np.concatenate(found)[: len(features)]

    def tally(self, images: Labelled, classes: int, weights: Weights | None = None) -> Tally:
        """How the head does on images that are not augmented."""
        tally = Tally(classes)
        tally.add(self.logits(images.passes[0], weights), images.labels, np.ones(len(images)))
        return tally
