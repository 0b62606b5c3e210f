"""Canonical names, their shapes, and the one seeded start that every framework shares."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from imori import tree as t
from imori.errors import WeightsError
from imori.shapes import Node, Shape, flat, resolve


def shapes_of(root: Node) -> dict[str, Shape]:
    """Canonical name -> shape of every weight of a resolved tree, in the order in which the layers run."""
    return {
        f"{node.path}.{role}" if node.path else role: shape
        for node in flat(root)
        for role, shape in node.weights.items()
    }


def check(weights: dict[str, npt.NDArray[Any]], root: Node, source: str = "these weights") -> None:
    """WeightsError unless `weights` hold exactly the names and shapes of the resolved tree: all three lists given."""
    expected = shapes_of(root)
    missing = [name for name in expected if name not in weights]
    unexpected = [name for name in weights if name not in expected]
    misshaped = [
        f"{name} is {_show(weights[name].shape)} and must be {_show(shape)}"
        for name, shape in expected.items()
        if name in weights and weights[name].shape != shape
    ]
    problems = [
        f"{what} {_few(listed)}"
        for what, listed in (("missing:", missing), ("unexpected:", unexpected), ("misshaped:", misshaped))
        if listed
    ]
    if problems:
        raise WeightsError(
            f"{source} do not fit this network; {'; '.join(problems)}. Use weights of the same model, variant and"
            " number of classes and channels"
        )


def _show(shape: Shape) -> str:
    return "×".join(map(str, shape)) or "a scalar"


def _few(listed: list[str]) -> str:
    return ", ".join(listed[:5]) + (f" and {len(listed) - 5} more" if len(listed) > 5 else "")


def initial_weights(
    tree: t.Tree, shape: Shape, seed: int = 0, dtype: str = "float32"
) -> dict[str, npt.NDArray[np.floating[Any]]]:
    """The start of training: the same numbers in every framework.

    Each weight is drawn in float32 from (seed, its name), as its layer's `init` says; biases and means are 0, batch
    norms' weights and variances 1. A float64 start holds the same numbers.
    """
    start: dict[str, npt.NDArray[np.floating[Any]]] = {}
    for node in flat(resolve(tree, shape)):
        for role, size in node.weights.items():
            name = f"{node.path}.{role}" if node.path else role
            if role == "weight" and not isinstance(node.layer, t.BatchNorm):
                start[name] = _draw(node, size, np.random.default_rng([seed, zlib.crc32(name.encode())])).astype(
                    dtype, copy=False
                )
            else:
                start[name] = (np.ones if role in ("weight", "var") else np.zeros)(size, dtype)
    return start


def _draw(node: Node, size: Shape, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    init = node.layer.init  # type: ignore[union-attr]
    fan_in, fan_out = node.fans
    if init == "xavier":
        bound = (6 / (fan_in + fan_out)) ** 0.5
        values = rng.random(size, dtype=np.float32)
        values *= np.float32(2 * bound)
        values -= np.float32(bound)
        return values
    deviation = (2 / fan_in) ** 0.5 if init == "he" else init
    values = rng.standard_normal(size, dtype=np.float32)
    values *= np.float32(deviation)
    return values
