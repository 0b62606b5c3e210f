"""The processes that learn a network together, and what they have in common.

They do three things together. Each learns its parts of a batch, and leaves the gradients where all see them. Each adds
up its share of these, and changes its share of the weights by the sum: every second stretch of every weight if they are
two. Whatever they do, part p of a batch and stretch s of a weight are done by the same formula on the same numbers.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import numpy as np

from imori.engine.dropout import Dropout
from imori.engine.fast.batch import Batch
from imori.engine.fast.forks import Forks, is_shared, shared
from imori.engine.fast.norm import BatchNorm
from imori.engine.fast.team import share
from imori.engine.layer import Array, Layer
from imori.engine.network import Aux, Change, every, seed

Kind = TypeVar("Kind", bound=Layer)

TASKS = ("learn", "add", "change")
"""What workers do, by the number that they are told."""
KEYS = 2**63
"""Keys that can be told are below."""
STRETCH = 2**15
"""Values of a gradient that are added up at a time."""
LARGE = 2**22
"""Bytes of gradients, for fewer of which nobody is called."""


class Places(dict[str, Array]):
    """Gradients by their roles, each of which has its place: what is put here is copied there."""

    def __setitem__(self, role: str, gradient: Array) -> None:
        self[role][...] = gradient


class Crew:
    """The process that trains, which is worker 0, and forks of it. Part p of a batch is done by worker p mod `workers`.

    `change` is `Network.changes`. OSError where the system has no process to give.
    """

    def __init__(self, body: Layer, batch: Batch, workers: int, change: Change) -> None:
        layers, parts = list(every(body)), len(batch.parts)
        self._body, self._change, self._weights, self._kind = body, change, _weights(body), _kind(body, batch, workers)
        x, targets, weights = (shared(like.shape, like.dtype) for like in (batch.x, batch.targets, batch.weights))
        self._batch = Batch(x, targets, weights, [])
        self._losses = shared((parts,), np.float64)
        self._logits, *self._heads = (shared(batch.targets.shape, batch.x.dtype) for _ in [None, *_of(Aux, body)])
        self._gradients = [
            [Places({role: _place(layer.weights[role]) for role in layer.trained}) for layer in layers]
            for _ in range(parts)
        ]
        self._lines = [[_line(place) for places in part for place in places.values()] for part in self._gradients]
        self._give_gradients()
        self._alone = sum(line.nbytes for line in self._lines[0]) < LARGE
        self._task, self._about, self._by = shared((1,), np.int64), shared((3,), np.int64), shared((2,), np.float64)
        """The number of the task; of a batch how many images and parts it has, and the key; the rate and the time."""
        most = max((len(norm.weights["mean"]) for norm in _of(BatchNorm, body)), default=0)
        self._forks = Forks(workers, 2 * most + 1, self._work)

    @staticmethod
    def can(body: Layer, batch: Batch, key: int | None) -> bool:
        """Whether forks would do what threads do: all that changes is shared, and nobody looks on."""
        seen = all(map(is_shared, _weights(body))) and not any(layer.hook for layer in every(body))
        alike = batch.x.dtype == batch.targets.dtype == batch.weights.dtype
        return seen and alike and (not _of(Dropout, body) or (key is not None and key < KEYS))

    def has(self, body: Layer, batch: Batch, workers: int) -> bool:
        """Whether the forks' network is this one still, and the batch finds room."""
        return (
            self._forks.alive
            and self._kind == _kind(body, batch, workers)
            and all(ours is theirs for ours, theirs in zip(self._weights, _weights(body), strict=True))
            and batch.count <= self._batch.count
            and len(batch.parts) <= len(self._losses)
        )

    def learn(self, batch: Batch, key: int | None) -> tuple[float, Array]:
        """The loss and the logits (N, classes) of a batch. The layers have its gradients until the next one."""
        self._about[:] = batch.count, len(batch.parts), key if key is not None and key < KEYS else 0
        here = self._present()
        here.x[...], here.targets[...], here.weights[...] = batch.x, batch.targets, batch.weights
        self._do("learn")
        self._do("add", alone=self._alone)
        self._give_gradients()
        for head, logits in zip(_of(Aux, self._body), self._heads, strict=True):
            head.logits = logits[: batch.count].copy()
        return math.fsum(self._losses[: len(batch.parts)]), self._logits[: batch.count].copy()

    def change(self, rate: float, time: int) -> None:
        """Changes the weights by the gradients of the last batch."""
        self._by[:] = rate, time
        self._do("change", alone=self._alone)

    def _do(self, task: str, alone: bool = False) -> None:
        """A task is done by all workers, or by this one alone."""
        self._task[0] = TASKS.index(task)
        if alone:
            self._work(self._forks, alone)
        else:
            with self._forks.step():
                self._work(self._forks)

    def _work(self, forks: Forks, alone: bool = False) -> None:
        """A worker's share of the task."""
        worker, workers = (0, 1) if alone else (forks.worker, forks.workers)
        match TASKS[self._task[0]]:
            case "learn":
                self._learn(worker, workers, forks)
            case "add":
                self._add(worker, workers)
            case "change":
                self._change(float(self._by[0]), int(self._by[1]), worker, workers)

    def _learn(self, worker: int, workers: int, forks: Forks) -> None:
        """A worker's parts of the batch."""
        batch = self._present()
        seed(self._body, int(self._about[2]))
        for number in range(worker, len(batch.parts), workers):
            twin, part = batch.copied(self._body, forks, number), batch.parts[number]
            for layer, places in zip(every(twin), self._gradients[number], strict=True):
                layer.gradients = places
            self._losses[number], self._logits[part] = batch.learn(twin, number)
            for head, logits in zip(_of(Aux, twin), self._heads, strict=True):
                logits[part] = head.logits

    def _add(self, worker: int, workers: int) -> None:
        """A worker's share of the sums of the parts' gradients, which take the place of the first part's."""
        for total, *others in zip(*self._lines[: self._about[1]], strict=True):
            for first in range(worker * STRETCH, total.size, workers * STRETCH):
                stretch = slice(first, first + STRETCH)
                for other in others:
                    total[stretch] += other[stretch]

    def _present(self) -> Batch:
        """The batch that lies in the shared memory."""
        count, parts, _ = self._about.tolist()
        x, targets, weights = self._batch.x[:, :count], self._batch.targets[:count], self._batch.weights[:count]
        return Batch(x, targets, weights, share(count, parts))

    def _give_gradients(self) -> None:
        """The network's own layers have the sums."""
        for layer, totals in zip(every(self._body), self._gradients[0], strict=True):
            layer.gradients = dict(totals)


def _kind(body: Layer, batch: Batch, workers: int) -> list[Any]:
    """All that a fork has a copy of, and that is not shared: settings of the layers, and shapes."""
    plain = (bool, int, float, str, frozenset)
    settings = [[value for value in vars(layer).values() if isinstance(value, plain)] for layer in every(body)]
    return [workers, batch.x.dtype, len(batch.x), *batch.x.shape[2:], *batch.targets.shape[1:], settings]


def _weights(body: Layer) -> list[Array]:
    return [array for layer in every(body) for array in layer.weights.values()]


def _of(kind: type[Kind], body: Layer) -> list[Kind]:
    """The layers of a kind."""
    return [layer for layer in every(body) if isinstance(layer, kind)]


def _place(weight: Array) -> Array:
    """Room for the gradient by a weight, in which it lies as the weight does."""
    return shared(weight.shape, weight.dtype, weight.strides)


def _line(place: Array) -> Array:
    """Its values one after the other, as they lie there: a view."""
    return np.ndarray(place.size, place.dtype, place.base)
