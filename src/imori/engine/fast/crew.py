"""The processes that learn a network together, and what they have in common."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from imori.engine.dropout import Dropout
from imori.engine.fast.batch import Batch
from imori.engine.fast.forks import Forks, is_shared, shared
from imori.engine.fast.norm import BatchNorm
from imori.engine.fast.team import share
from imori.engine.layer import Array, Layer
from imori.engine.network import Aux, every, seed

KEYS = 2**63
"""Keys are below."""


class Crew:
    """The process that trains, which is worker 0, and forks of it. Part p of a batch is done by worker p mod `workers`.

    OSError where the system has no process to give.
    """

    def __init__(self, body: Layer, batch: Batch, workers: int) -> None:
        layers = list(every(body))
        self._body, self._kind, self._weights = body, _kind(body, batch, workers), _weights(body)
        self._x, self._targets, self._of_images, self._logits, *self._heads = (
            shared(like.shape, like.dtype)
            for like in [batch.x, batch.targets, batch.weights, batch.targets]
            + [batch.targets for layer in layers if isinstance(layer, Aux)]
        )
        self._about = shared((3,), np.int64)
        """How many images and parts a batch has, and the key of its masks."""
        self._losses = shared((len(batch.parts),), np.float64)
        self._gradients = {
            part: [{role: _room_for(layer.weights[role]) for role in layer.trained} for layer in layers]
            for part in range(len(batch.parts))
            if part % workers
        }
        most = max((len(layer.weights["mean"]) for layer in layers if isinstance(layer, BatchNorm)), default=0)
        self.forks = Forks(workers, 2 * most + 1, self._work)

    @staticmethod
    def can(body: Layer, batch: Batch, key: int | None) -> bool:
        """Whether forks would do what threads do: all that changes is shared, and nobody looks on."""
        layers = list(every(body))
        seen = all(map(is_shared, _weights(body))) and not any(layer.hook for layer in layers)
        alike = batch.x.dtype == batch.targets.dtype == batch.weights.dtype
        drawn = any(isinstance(layer, Dropout) for layer in layers)
        return seen and alike and (not drawn or (key is not None and key < KEYS))

    def has(self, body: Layer, batch: Batch, workers: int) -> bool:
        """Whether the forks' network is this one still, and the batch finds room."""
        return (
            self._kind == _kind(body, batch, workers)
            and all(ours is theirs for ours, theirs in zip(self._weights, _weights(body), strict=True))
            and batch.count <= len(self._targets)
            and len(batch.parts) <= len(self._losses)
        )

    @contextlib.contextmanager
    def at_work(self, batch: Batch, key: int | None) -> Iterator[None]:
        """Inside, the forks learn their parts; when it ends, they have."""
        self._about[:] = batch.count, len(batch.parts), key or 0
        mine = self._batch()
        mine.x[...], mine.targets[...], mine.weights[...] = batch.x, batch.targets, batch.weights
        with self.forks.step():
            yield

    def collect(self, copies: Sequence[Layer], losses: list[float], logits: list[Array]) -> None:
        """Puts what the forks have found where that of their parts belongs."""
        parts = self._batch().parts
        for number in set(self._gradients) & set(range(len(copies))):
            losses[number], logits[number] = float(self._losses[number]), self._logits[parts[number]]
            for layer, found in zip(every(copies[number]), self._gradients[number], strict=True):
                layer.gradients = dict(found)
            for head, found_logits in zip(_heads(copies[number]), self._heads, strict=True):
                head.logits = found_logits[parts[number]]

    def _batch(self) -> Batch:
        """The batch that lies in the shared memory."""
        count, parts, _ = self._about.tolist()
        return Batch(self._x[:, :count], self._targets[:count], self._of_images[:count], share(count, parts))

    def _work(self, forks: Forks) -> None:
        """What a fork does."""
        batch = self._batch()
        seed(self._body, int(self._about[2]))
        for number in range(forks.worker, len(batch.parts), forks.workers):
            part, twin = batch.parts[number], batch.copied(self._body, forks, number)
            self._losses[number], self._logits[part] = batch.learn(twin, number)
            for layer, found in zip(every(twin), self._gradients[number], strict=True):
                for role, gradient in layer.gradients.items():
                    found[role][...] = gradient
            for head, found_logits in zip(_heads(twin), self._heads, strict=True):
                found_logits[part] = head.logits


def _kind(body: Layer, batch: Batch, workers: int) -> list[Any]:
    """All that a fork has a copy of, and that is not shared: settings of the layers, and shapes."""
    plain = (bool, int, float, str, frozenset)
    settings = [[value for value in vars(layer).values() if isinstance(value, plain)] for layer in every(body)]
    return [workers, batch.x.dtype, len(batch.x), *batch.x.shape[2:], *batch.targets.shape[1:], settings]


def _room_for(weight: Array) -> Array:
    """A gradient's, which lies as its weight does."""
    return shared(weight.shape, weight.dtype, weight.strides)


def _weights(body: Layer) -> list[Array]:
    return [array for layer in every(body) for array in layer.weights.values()]


def _heads(body: Layer) -> list[Aux]:
    return [layer for layer in every(body) if isinstance(layer, Aux)]
