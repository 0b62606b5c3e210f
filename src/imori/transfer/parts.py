"""Where a trained network is cut: the body that stays as it is, and the head that is trained anew on its features."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

from imori import tree as t
from imori.errors import RecipeError
from imori.pretrained.adapting import classifiers
from imori.shapes import Node, Shape, flat, resolve
from imori.weights import initial_weights
from imori.weights.names import Weights

HIDDEN, DROP = (256, 128), 0.5
"""Of the head "mlp": the filters of its hidden layers, and the share that is dropped after each."""


SMALL = 0.01
"""The deviation of a new last layer's start: for few photos, that of He et al. is large beside what they teach."""


@dataclass(frozen=True)
class Parts:
    """A network in two parts; the paths of both are those of the whole, so that weights fit."""

    body: t.Tree
    """From an image to features, as at inference."""
    head: t.Tree
    """From features to logits, for an input of `shape`."""
    cut: str
    """The path of the body's last node."""
    output: Shape
    """What the body gives: (C, H, W), or (F,)."""

    @property
    def shape(self) -> Shape:
        """The head's input: the body's output, as maps (F, 1, 1) where it is flat, as every framework takes images."""
        return self.output if len(self.output) == 3 else (*self.output, 1, 1)

    def start(self, seed: int, precision: str) -> Weights:
        """What the head starts from: its last layer from small numbers, as wide features would make it sure at once."""
        at = _classifier(self.head)
        last = dict(t.leaves(self.head))[at]
        assert isinstance(last, (t.Conv, t.Linear)), "only these can have a class each"
        small = replace(last, init=SMALL)
        return initial_weights(_replaced(self.head, at.split("."), small), self.shape, seed, precision)


def parted(tree: t.Tree, shape: Shape) -> Parts:
    """The network at input `shape` (C, H, W), cut before its last layer with weights and the dropout before that.

    Auxiliary heads are in neither part. RecipeError where there is no such layer, or nothing before it.
    """
    tree = t.without_heads(tree)
    found = _divided(tree, _classifier(tree).split("."))
    if found is None:
        raise RecipeError("nothing of this network comes before its classifier, and so nothing is kept; train it whole")
    cut, head = found
    body = t.cut(tree, cut)
    output = resolve(body, shape).output
    if len(output) == 1:
        head = t.Chain.of(((None, t.Flatten()), *head.children))  # type: ignore[assignment]
    return Parts(body, head, cut, output)


def _classifier(tree: t.Tree) -> str:
    """The path of the layer that gives the logits."""
    main = classifiers(t.without_heads(tree))
    if len(main) != 1:
        raise RecipeError("this network has no last layer of its own that gives the logits; choose phases none")
    return main.pop()


def _divided(tree: t.Tree, segments: list[str]) -> tuple[str, t.Chain] | None:
    """The path before which everything is the body's, and the rest; None where nothing is before it."""
    if not isinstance(tree, t.Chain):
        return None
    first, *rest = segments
    children = list(tree.segments())
    at = next(i for i, (segment, _) in enumerate(children) if segment == first)
    if inner := _divided(children[at][1], rest):
        path, head = inner
        return f"{first}.{path}", t.Chain.of(((first, head), *children[at + 1 :]))  # type: ignore[return-value]
    while at and isinstance(children[at - 1][1], t.Dropout):
        at -= 1
    return (children[at - 1][0], t.Chain.of(tuple(children[at:]))) if at else None  # type: ignore[return-value]


def with_mlp(tree: t.Tree) -> t.Tree:
    """The network, or its head, with two hidden layers, ReLU and dropout before the last one, whose path they take.

    RecipeError where the last one is not linear.
    """
    path = _classifier(tree)
    last = dict(t.leaves(tree))[path]
    if not isinstance(last, t.Linear):
        raise RecipeError(f"the head mlp takes the place of a linear layer, and this network ends in {last}")
    layers: dict[str, t.Tree] = {}
    for i, out in enumerate(HIDDEN, 1):
        layers |= {f"fc{i}": t.Linear(out), f"relu{i}": t.ReLU(), f"drop{i}": t.Dropout(DROP)}
    return _replaced(tree, path.split("."), t.Chain(**layers, **{f"fc{len(HIDDEN) + 1}": last}))


def _replaced(tree: t.Tree, segments: list[str], new: t.Tree) -> t.Tree:
    if not segments or not segments[0]:
        return new
    assert isinstance(tree, t.Chain), "a classifier stands in chains alone"
    first, *rest = segments
    children = (
        (name, _replaced(child, rest, new) if segment == first else child)
        for (name, child), (segment, _) in zip(tree.children, tree.segments(), strict=True)
    )
    return t.Chain.of(tuple(children))  # type: ignore[return-value]


def stages(root: Node) -> list[list[str]]:
    """The paths of the layers with weights, by stage, the first one first; an auxiliary head is of its place's stage.

    A stage is what gives maps of one height and width, among the nodes that the network is a chain of; what gives flat
    vectors is the last one.
    """
    nodes = root.children if isinstance(root.layer, t.Chain) else (root,)
    nodes = tuple(node for node in nodes if isinstance(node.layer, t.Aux) or node.layer.weighted)
    groups = itertools.groupby(nodes, key=lambda node: node.output[1:])
    return [[leaf.path for node in group for leaf in flat(node) if leaf.weights] for _, group in groups]
