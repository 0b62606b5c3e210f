"""Trained weights for the same network with other classes or other channels.

A classifier for other classes starts anew. A first convolution gives one channel the sum of its three kernels, and
three channels a third of its one each, so that a grey photo is answered alike in either form.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from imori import tree as t
from imori.data import Preprocessing
from imori.shapes import Shape
from imori.weights import initial_weights
from imori.weights.names import Weights


def with_classes(tree: t.Tree, classes: int) -> t.Tree:
    """The tree with another number of classes: in its last layer with weights, and in that of each auxiliary head."""
    return _with_classes(tree, classes, main=True)


def _with_classes(tree: t.Tree, classes: int, main: bool) -> t.Tree:
    """`main`: whether the tree ends in logits."""
    match tree:
        case t.Chain() | t.Sum() | t.Concat():
            weighted = [
                i for i, (_, child) in enumerate(tree.children) if child.weighted and not isinstance(child, t.Aux)
            ]
            last = weighted[-1] if weighted and main and isinstance(tree, t.Chain) else None
            children = (
                (name, _with_classes(child, classes, i == last)) for i, (name, child) in enumerate(tree.children)
            )
            return type(tree).of(tuple(children))  # type: ignore[return-value]
        case t.Aux(head, weight):
            return t.Aux(_with_classes(head, classes, main=True), weight)
        case t.Conv() | t.Linear() if main:
            return replace(tree, out=classes)
        case _:
            return tree


def classifiers(tree: t.Tree) -> set[str]:
    """The paths of the layers whose size is the number of classes: the last one with weights, and each head's."""
    pairs = zip(t.leaves(with_classes(tree, 1)), t.leaves(with_classes(tree, 2)), strict=True)
    return {path for (path, one), (_, two) in pairs if one != two}


def adapted(weights: Weights, tree: t.Tree, shape: Shape, seed: int = 0, anew: bool = True) -> Weights:
    """The weights for `tree` at input `shape`, which may differ in its classes and channels from what they are of.

    With `anew` the classifiers start from the seed, as `initial_weights` has it. What else does not fit is left as it
    is.
    """
    dtype = next(iter(weights.values())).dtype.name
    start = initial_weights(tree, shape, seed, dtype)
    renewed = classifiers(tree) if anew else set()
    made = weights | {name: value for name, value in start.items() if name.rpartition(".")[0] in renewed}
    first = next(iter(start))
    if first in made and made[first].ndim == 4 == start[first].ndim:
        made[first] = _with_channels(made[first], start[first].shape[1])
    return made


def _with_channels(kernels: npt.NDArray[Any], channels: int) -> npt.NDArray[Any]:
    """(out, in, height, width) for another `in`: repeated in turn, and divided so that equal channels add up alike."""
    known = kernels.shape[1]
    if channels == known:
        return kernels
    shared: npt.NDArray[Any] = kernels[:, np.arange(channels) % known] * kernels.dtype.type(known / channels)
    return kernels.sum(axis=1, keepdims=True, dtype=kernels.dtype) if channels == 1 else shared


def in_channels(how: Preprocessing, channels: int) -> Preprocessing:
    """The preprocessing for other channels, each with the mean and the deviation that all have together."""
    if channels == how.channels:
        return how
    mean, std = (sum(each) / len(each) for each in (how.mean, how.std))
    return replace(how, channels=channels, mean=(mean,) * channels, std=(std,) * channels)
