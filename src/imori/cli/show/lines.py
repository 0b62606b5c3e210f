"""Layers that follow each other without a branch between them: where separable convolutions and stacks are found."""

from __future__ import annotations

from collections.abc import Iterator

from imori import tree as t
from imori.shapes import Node

BETWEEN = (t.BatchNorm, t.LRN, t.Dropout, t.Identity, *t.ACTIVATIONS)
"""What may stand between two convolutions without changing what each of them sees and costs."""


def lines(root: Node) -> list[list[Node]]:
    """The layers that run at inference, as stretches between which the network branches, meets or is tapped."""
    found: list[list[Node]] = [[]]
    for node in _marked(root):
        if node is None:
            found.append([])
        else:
            found[-1].append(node)
    return [line for line in found if line]


def _marked(node: Node) -> Iterator[Node | None]:
    """The layers in order, None where a stretch ends."""
    match node.layer:
        case t.Chain():
            for child in node.children:
                yield from _marked(child)
        case t.Sum() | t.Concat():
            for child in node.children:
                yield None
                yield from _marked(child)
            yield None
        case t.Aux():
            yield None
        case _:
            yield node
