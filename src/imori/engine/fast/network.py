"""The network whose batch goes through it in parts: small ones that stay in the cache, and as many at once as cores.

Each part has a copy of every layer, which shares the weights and has its own gradients and what is kept for them. Where
a batch norm needs the whole batch there is a part for each worker, and these go through the network at one pace.
Otherwise a part goes down to the loss and back at once, while its maps are in the cache, and so no batch is too large
for the memory: the gradients of all parts add up to the batch's.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np

from imori.engine.fast import memory
from imori.engine.fast.norm import BatchNorm
from imori.engine.fast.team import Member, Shared, Team, each, run, share
from imori.engine.layer import Array, Layer, Shape
from imori.engine.network import Aux, Container, Network, every, judge


class FastNetwork(Network):
    """The plain network's results, in parts.

    `images` is how many images a part had best have, `workers` how many parts of a batch of so many images run at once.
    """

    def __init__(
        self,
        body: Layer,
        layers: Mapping[str, Layer],
        dtype: str,
        check: Callable[[Shape, bool], None] | None = None,
        workers: Callable[[int], int] = lambda batch: 1,
        images: int = 2**30,
    ) -> None:
        super().__init__(body, layers, dtype, check, threads=1)
        self.workers, self.images = workers, images
        self._at_work = 1
        """How many workers the last batch had."""
        memory.keep()

    def _through(self, x: Array, training: bool) -> Array:
        """As in the plain network; in training, and where a hook looks on, in one part."""
        if training or any(layer.hook for layer in self.layers.values()):
            return super()._through(x, training)
        parts = self._parts(x.shape[1], whole=False)
        found: list[Array] = [x] * len(parts)

        def infer(number: int) -> None:
            found[number] = self.body(x[:, parts[number]])

        self._run(infer, len(parts), Team())
        return np.concatenate(found, axis=1)

    def learn(self, images: Array, targets: Array, weights: Array) -> tuple[float, Array]:
        """As in the plain network."""
        if self.check is not None:
            self.check(images.shape, True)
        x, batch, total = self._input(images), len(images), weights.sum()
        norms = any(isinstance(layer, BatchNorm) and not layer.frozen for layer in every(self.body))
        parts = self._parts(batch, whole=norms)
        team = Team(len(parts))
        copies = [replica(self.body, Member(team, number, part, batch)) for number, part in enumerate(parts)]
        losses, logits = [0.0] * len(parts), [x] * len(parts)

        def pass_through(number: int) -> None:
            body, part = copies[number], parts[number]
            logits[number] = body(x[:, part], True).T
            losses[number], gradient = judge(body, logits[number], targets[part], weights[part], total)
            if body.learns:
                body.backward(gradient.T)

        self._run(pass_through, len(parts), team)
        self._gather(copies)
        return math.fsum(losses), np.concatenate(logits)

    def each(self, task: Callable[[str], None], names: Iterable[str]) -> None:
        """As in the plain network; a worker that is free takes the next."""
        each(task, names, self._at_work)

    def _parts(self, batch: int, whole: bool) -> list[slice]:
        """The parts of a batch for the workers that it has; where they are to be `whole` they all run at once.

        Where there are several, their number is even: two workers then have as many each, and one has the same parts.
        """
        self._at_work, parts = min(self.workers(batch), batch), -(-batch // self.images)
        if whole:
            return share(batch, self._at_work)
        return share(batch, max(self._at_work, min(batch, parts + parts % 2 if parts > 1 else 1)))

    def _run(self, task: Callable[[int], None], count: int, team: Team) -> None:
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

        each(gather, zip(every(self.body), *map(every, copies), strict=True), self._at_work)


def replica(layer: Layer, member: Member) -> Layer:
    """A copy of a layer and all below it, for one worker: the weights are the same arrays."""
    twin = copy.copy(layer)
    twin.gradients = {}
    if isinstance(twin, Container):
        twin.children = tuple(replica(child, member) for child in twin.children)
    if isinstance(twin, Shared):
        twin.member = member
    return twin
