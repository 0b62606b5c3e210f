"""A module's variables under canonical names, and where and how exactly JAX computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx

from imori import tree as t
from imori.frameworks.base import Array, Weights, weight_name
from imori.frameworks.flax.layers import Combinator, Origin, Tensor
from imori.shapes import Node, flat
from imori.weights.native import from_flax, stands_in, swapped


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """Inside, float64 is float64, also of the few scalars in a float32 model, and float32 is no TF32 or bfloat16.

    JAX's own settings go on as they were outside, and in other threads.
    """
    with jax.enable_x64(True), jax.default_matmul_precision("highest"):
        yield


def origin(native: Combinator) -> Origin:
    """What the module was built from."""
    assert native._origin is not None, "only a root is handed out"
    return native._origin


def module_at(native: Combinator, path: str) -> Any:
    """The module at a canonical path."""
    module: Any = native
    for segment in path.split(".") if path else ():
        module = getattr(module, segment)
    return module


def places(native: Combinator) -> dict[str, tuple[Node, nnx.Variable[Tensor]]]:
    """Canonical name -> the node, and the module's own variable, in the order in which the layers run."""
    found = {}
    for node in flat(origin(native).root):
        attributes = {"weight": "scale" if isinstance(node.layer, t.BatchNorm) else "kernel"}
        for role in node.weights:
            module = module_at(native, node.path or "layer")
            found[weight_name(node.path, role)] = node, getattr(module, attributes.get(role, role))
    return found


def fill(native: Combinator, weights: Weights, device: jax.Device | None = None) -> None:
    """Sets every variable, on `device` or where it is."""
    dtype = origin(native).dtype
    for name, (node, variable) in places(native).items():
        variable.set_value(jax.device_put(inward(node, weights[name], dtype), device or variable[...].sharding))


def inward(node: Node, array: Array, dtype: str) -> Array:
    """From the canonical layout, out × in × high × wide, to Flax's, high × wide × in × out: a copy.

    `nnx.ConvTranspose` has in and out the other way round, as our own transposed convolution has. The kernel of the
    convolution that stands in for one in groups is turned by 180°.
    """
    if array.ndim == 4 and (groups := stands_in(node)):
        array = swapped(array, groups)[:, :, ::-1, ::-1]
    return np.array(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T, dtype, order="C")


def outward(node: Node, tensor: Any) -> Array:
    """From Flax's layout to the canonical one: a copy."""
    return from_flax(node, np.asarray(tensor))
