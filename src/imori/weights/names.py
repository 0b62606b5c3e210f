"""Canonical names, their shapes, and the one seeded start that every framework shares."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from imori import tree as t
from imori.errors import WeightsError
from imori.shapes import Node, Shape, flat, resolve

Weights: TypeAlias = dict[str, npt.NDArray[Any]]

SAME_NETWORK = "Use weights of the same model, variant and number of classes and channels"


def weight_name(path: str, role: str) -> str:
    """The canonical name of a layer's weight: its path and its role."""
    return f"{path}.{role}" if path else role


def shapes_of(root: Node) -> dict[str, Shape]:
    """Canonical name -> shape of every weight of a resolved tree, in the order in which the layers run."""
    return {weight_name(node.path, role): shape for node in flat(root) for role, shape in node.weights.items()}


def restrict(weights: Weights, tree: t.Tree) -> Weights:
    """Those of the weights whose layers are in the tree: of a whole network, what one that was cut off it needs."""
    paths = {path for path, _ in t.leaves(tree)}
    return {name: value for name, value in weights.items() if name.rpartition(".")[0] in paths}


def check(weights: Weights, root: Node, source: str = "these weights") -> None:
    """WeightsError unless `weights` hold exactly the names and shapes of the resolved tree: all three lists given."""
    compare(weights, shapes_of(root), source)


def compare(
    weights: Weights, expected: Mapping[str, Shape], source: str = "these weights", remedy: str = SAME_NETWORK
) -> None:
    """WeightsError unless `weights` hold exactly the `expected` names and shapes."""
    if not _are_arrays(weights):
        raise WeightsError(
            f"{source} must be a dictionary of NumPy arrays by name; imori.read_weights makes one of a file, and"
            " imori.dump_weights of a model"
        )
    compare_shapes({name: value.shape for name, value in weights.items()}, expected, source, remedy)


def compare_shapes(found: Mapping[str, Shape], expected: Mapping[str, Shape], source: str, remedy: str) -> None:
    """WeightsError unless the names and shapes that were `found` are exactly the `expected` ones."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    misshaped = [
        f"{name} is {_show(found[name])} and must be {_show(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    problems = [
        f"{what} {_few(listed)}"
        for what, listed in (("missing:", missing), ("unexpected:", unexpected), ("misshaped:", misshaped))
        if listed
    ]
    if problems:
        error = WeightsError(f"{source} do not fit this network; {'; '.join(problems)}. {remedy}")
        error.names = len(missing) + len(unexpected) + len(misshaped)
        raise error


def _are_arrays(given: object) -> bool:
    return isinstance(given, Mapping) and all(isinstance(value, (np.ndarray, np.generic)) for value in given.values())


def _show(shape: Shape) -> str:
    return "×".join(map(str, shape)) or "a scalar"


def _few(listed: list[str]) -> str:
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")


def initial_weights(tree: t.Tree, shape: Shape, seed: int = 0, dtype: str = "float32") -> Weights:
    """The start of training at input `shape` (C, H, W): the same numbers in every framework.

    Each weight is drawn in float32 from (seed, its name), as its layer's `init` says, so that no other layer changes
    it; biases and means are 0, batch norms' weights and variances 1. A float64 start holds the same numbers.
    """
    if type(seed) is not int or seed < 0:
        raise WeightsError(f"the seed is {seed!r:.80}; it must be a whole number from 0")
    start: Weights = {}
    for node in flat(resolve(tree, shape)):
        for role, size in node.weights.items():
            name = weight_name(node.path, role)
            rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
            start[name] = _first(node, role, size, rng).astype(dtype, copy=False)
    return start


def _first(node: Node, role: str, size: Shape, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    match node.layer:
        case t.Conv(init=init) | t.Depthwise(init=init) | t.ConvTranspose(init=init) | t.Linear(init=init):
            return _draw(init, node.fans, size, rng) if role == "weight" else np.zeros(size, np.float32)
        case _:
            return np.full(size, role in ("weight", "var"), np.float32)


def _draw(init: t.Init, fans: tuple[int, int], size: Shape, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Uniform for "xavier", normal otherwise; the scaling is in place, for the largest weights are hundreds of MB."""
    if init == "xavier":
        bound = (6 / sum(fans)) ** 0.5
        values = rng.random(size, dtype=np.float32)
        values *= np.float32(2 * bound)
        values -= np.float32(bound)
        return values
    deviation = (2 / fans[0]) ** 0.5 if init == "he" else init
    values = rng.standard_normal(size, dtype=np.float32)
    values *= np.float32(deviation)
    return values
