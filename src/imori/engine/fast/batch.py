"""A batch in parts, and what learning by one of them is: the same in every worker."""

from __future__ import annotations

import copy
from dataclasses import dataclass

from imori.engine.fast.team import Member, Shared, Team
from imori.engine.layer import Array, Layer
from imori.engine.network import Container, judge


@dataclass(frozen=True)
class Batch:
    """Images x (C, N, H, W) or (F, N), their targets (N, classes) and weights (N,), and the parts of the N."""

    x: Array
    targets: Array
    weights: Array
    parts: list[slice]

    @property
    def count(self) -> int:
        """N."""
        return len(self.targets)

    def copied(self, body: Layer, team: Team, number: int) -> Layer:
        """A copy of the network for one part: it has the same weights, and gradients of its own."""
        return replica(body, Member(team, number, self.parts[number], self.count))

    def learn(self, twin: Layer, number: int) -> tuple[float, Array]:
        """Forward and backward: the part's share of the loss, and its logits (images, classes)."""
        part = self.parts[number]
        logits = twin(self.x[:, part], True).T
        loss, gradient = judge(twin, logits, self.targets[part], self.weights[part], self.weights.sum())
        if twin.learns:
            twin.backward(gradient.T)
        return loss, logits


def replica(layer: Layer, member: Member) -> Layer:
    """A copy of a layer and all below it, for one worker: the weights are the same arrays."""
    twin = copy.copy(layer)
    twin.gradients = {}
    if isinstance(twin, Container):
        twin.children = tuple(replica(child, member) for child in twin.children)
    if isinstance(twin, Shared):
        twin.member = member
    return twin
