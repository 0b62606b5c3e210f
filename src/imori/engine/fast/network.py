"""The network whose batch goes through it in parts: small ones that stay in the cache, and as many at once as cores.

Each part has a copy of every layer, which shares the weights and has its own gradients and what is kept for them. Where
a batch norm needs the whole batch there is a part for each worker, and these go through the network at one pace.
Otherwise a part goes down to the loss and back at once, while its maps are in the cache, and so no batch is too large
for the memory: the gradients of all parts add up to the batch's.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

import numpy as np

from imori.engine.fast import forks, memory
from imori.engine.fast.batch import Batch
from imori.engine.fast.crew import LARGE, Crew
from imori.engine.fast.norm import BatchNorm
from imori.engine.fast.team import Threads, each, run, share
from imori.engine.layer import Array, Layer, Shape
from imori.engine.network import Aux, Network, every


class FastNetwork(Network):
    """The plain network's results, in parts.

    `images` is how many images a part had best have, `workers` how many parts of a batch of so many images run at once,
    in processes or in threads.
    """

    def __init__(
        self,
        body: Layer,
        layers: Mapping[str, Layer],
        dtype: str,
        check: Callable[[Shape, bool], None] | None = None,
        workers: Callable[[int, bool], int] = lambda batch, processes: 1,
        images: int = 2**30,
    ) -> None:
        super().__init__(body, layers, dtype, check, threads=1)
        self.workers, self.images = workers, images
        self.processes = forks.possible()
        """Whether the workers of a training are processes, or threads."""
        self._crew: Crew | None = None
        self._trainer: int | None = None
        """The process that `train` was called in, which has the shared weights."""
        self._learned: Crew | None = None
        """Who learned the last batch, if not threads."""
        self._key: int | None = None
        """What the masks of the next batch are drawn from; None where they go on from the last."""
        self._size = sum(array.nbytes for array in self.weights.values())
        self._at_work = 1
        """How many workers the last batch had."""
        memory.keep()

    def _through(self, x: Array, training: bool) -> Array:
        """As in the plain network; in training, and where a hook looks on, in one part."""
        if training or any(layer.hook for layer in self.layers.values()):
            return super()._through(x, training)
        parts = self._parts(x.shape[1], whole=False, processes=False)
        found: list[Array] = [x] * len(parts)

        def infer(number: int) -> None:
            found[number] = self.body(x[:, parts[number]])

        self._run(infer, len(parts), Threads())
        return np.concatenate(found, axis=1)

    def train(self, names: Collection[str]) -> None:
        """As in the plain network; the weights move to memory that other workers see."""
        super().train(names)
        self.settle()
        self._crew = self._learned = None
        self._trainer = os.getpid()
        if self.processes:
            for layer in every(self.body):
                layer.weights.update({role: forks.moved(array) for role, array in layer.weights.items()})

    def settle(self) -> None:
        """As in the plain network; in a process that somebody else has forked since `train`, the weights are copied."""
        if self._trainer not in (None, os.getpid()):
            self._crew = self._learned = self._trainer = None
            for layer in every(self.body):
                layer.weights.update({role: np.copy(array, order="K") for role, array in layer.weights.items()})

    def seed(self, key: int) -> None:
        """As in the plain network."""
        super().seed(key)
        self._key = key

    def learn(self, images: Array, targets: Array, weights: Array) -> tuple[float, Array]:
        """As in the plain network."""
        if self.check is not None:
            self.check(images.shape, True)
        self.settle()
        x, key = self._input(images), self._key
        self._key = None  # from where masks have been drawn, they go on in a way that only this process knows
        norms = any(isinstance(layer, BatchNorm) and not layer.frozen for layer in every(self.body))
        batch = Batch(x, targets, weights, self._parts(len(images), norms, self.processes))
        self._learned = crew = self._crew_for(batch, key)
        if crew:
            return crew.learn(batch, key)
        team = Threads(len(batch.parts))
        copies = [batch.copied(self.body, team, number) for number in range(len(batch.parts))]
        losses, logits = [0.0] * len(copies), [x] * len(copies)

        def learn(number: int) -> None:
            losses[number], logits[number] = batch.learn(copies[number], number)

        self._run(learn, len(copies), team)
        self._gather(copies)
        return math.fsum(losses), np.concatenate(logits)

    def change(self, rate: float, time: int) -> None:
        """As in the plain network, by the workers who learned the last batch, each a share."""
        if self._learned:
            self._learned.change(rate, time)
            return
        hands = self._hands()
        run([partial(self.changes, rate, time, worker, hands) for worker in range(hands)], Threads(hands))

    def zeros_like(self, array: Array) -> Array:
        """As in the plain network; other workers see them."""
        return forks.shared(array.shape, array.dtype, array.strides) if self.processes else super().zeros_like(array)

    def _crew_for(self, batch: Batch, key: int | None) -> Crew | None:
        """The processes that learn with this one; None where threads do."""
        workers = min(self._at_work, len(batch.parts))
        if not self.processes or not 1 < workers <= forks.MOST or not Crew.can(self.body, batch, key):
            return None
        if self._crew is None or not self._crew.has(self.body, batch, workers):
            self._crew = self._learned = None  # ends it
            try:
                self._crew = Crew(self.body, batch, workers, self.changes)
            except (OSError, RuntimeError, MemoryError):  # none is to be had, or it ends at once
                self.processes = False
        return self._crew

    def __getstate__(self) -> dict[str, Any]:
        return super().__getstate__() | {"_crew": None, "_learned": None, "_trainer": None}

    def _parts(self, batch: int, whole: bool, processes: bool) -> list[slice]:
        """The parts of a batch for the workers that it has; where they are to be `whole` they all run at once.

        Where there are several, their number is even: two workers then have as many each, and one has the same parts.
        """
        self._at_work, parts = min(self.workers(batch, processes), batch), -(-batch // self.images)
        if whole:
            return share(batch, self._at_work)
        return share(batch, max(self._at_work, min(batch, parts + parts % 2 if parts > 1 else 1)))

    def _run(self, task: Callable[[int], None], count: int, team: Threads) -> None:
        """task(0) to task(count - 1), every worker its share of them."""
        workers = min(self._at_work, count)

        def work(worker: int) -> None:
            for number in range(worker, count, workers):
                task(number)

        run([partial(work, worker) for worker in range(workers)], team)

    def _gather(self, copies: list[Layer]) -> None:
        """The copies' gradients, added up in their order; the heads' logits, one after the other."""

        def gather(alike: tuple[Any, ...]) -> None:
            layer, *others = alike
            for role, total in others[0].gradients.items():
                for other in others[1:]:
                    total += other.gradients[role]
                layer.gradients[role] = total
            if isinstance(layer, Aux):
                layer.logits = np.concatenate([other.logits for other in others])

        each(gather, zip(every(self.body), *map(every, copies), strict=True), self._hands())

    def _hands(self) -> int:
        """How many threads go through the weights: the last batch's workers, unless the weights are soon done."""
        return self._at_work if self._size >= LARGE else 1
