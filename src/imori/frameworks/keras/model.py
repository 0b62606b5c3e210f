"""The model: what imori knows of it, its weights in both layouts, and inference."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
from keras import layers as k
from keras import ops

from imori import tree as t
from imori.errors import ImoriError, TreeError
from imori.frameworks.base import Array, InputCheck, Weights, check_paths, weight_name
from imori.frameworks.keras.backend import DOUBLE, Tensor, placed
from imori.frameworks.keras.graph import Graph, group_names, name_of
from imori.shapes import Node, Shape, flat
from imori.weights.names import compare
from imori.weights.tables import KERAS_NORM_ROLES, KERAS_ROLES


@dataclass(frozen=True)
class Weight:
    """A canonical weight, and Keras's variables that hold it: one, or one a group of a transposed convolution."""

    variables: tuple[Any, ...]
    shape: Shape
    depthwise: bool = False

    def canonical(self, variables: Iterable[Any]) -> Array:
        """From the layouts of its variables, or of others like them: a contiguous copy."""
        turned = []
        for value in map(ops.convert_to_numpy, variables):
            if self.depthwise:
                turned.append(value.transpose(2, 3, 0, 1).reshape(self.shape))
            else:  # (height, width, in, out) of a convolution, (in, out) of a dense layer
                turned.append(value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T)
        return np.ascontiguousarray(np.concatenate(turned))

    def native(self, value: Array) -> list[Array]:
        """In the layouts of the variables."""
        if self.depthwise:
            high, wide, channels, multiplier = self.variables[0].shape
            return [value.reshape(channels, multiplier, high, wide).transpose(2, 3, 0, 1)]
        parts = np.split(value, len(self.variables))
        return [part.transpose(2, 3, 1, 0) if part.ndim == 4 else part.T for part in parts]


@dataclass(frozen=True, eq=False)
class Plan:
    """What imori knows of a model that it built. The model holds it, and Keras neither tracks nor saves it."""

    root: Node
    dtype: str
    device: str
    check: InputCheck
    layers: Mapping[str, Any]
    """Keras's layers by name, the heads' included."""
    weights: Mapping[str, Weight]
    outputs: Mapping[str, Tensor]
    """Path -> the node's output in the model's graph."""
    training: Any
    """The model that trains: it gives (logits, logits of each head, ...)."""
    shares: tuple[float, ...]
    """The weights of these outputs' losses."""

    def images(self, batch: Array, training: bool = False) -> Array:
        """Images (N, C, H, W) -> (N, H, W, C) in the model's dtype; TreeError if it was not built for them."""
        batch = np.asarray(batch, self.dtype)
        self.check(batch.shape, training)
        return np.ascontiguousarray(np.moveaxis(batch, 1, -1))


def build(root: Node, weights: Weights, dtype: str, device: str) -> Any:
    """The `keras.Model` of one input and one output, in float32 or float64 whatever Keras's default dtype is."""
    if isinstance(root.layer, t.Aux):
        raise TreeError("the root is an Aux, which has no output of its own; put it into a Chain")
    if dtype == "float64" and keras.config.backend() not in DOUBLE:
        raise ImoriError(
            f"on {keras.config.backend()} Keras computes batch norms and more in float32, whatever their dtype; use"
            " dtype='float32', or KERAS_BACKEND=tensorflow"
        )
    root = _binding(root)
    layers: dict[str, Any] = {}
    with placed(device):
        native, graph = _model(root, layers, dtype, training=False)
        outputs, shares, training = graph.outputs, [1.0], native
        if any(node.training_only for node in flat(root)):
            training, graph = _model(root, layers, dtype, training=True)
            shares += graph.shares
    held = {
        weight_name(node.path, role): _weight(node, role, shape, layers)
        for node in flat(root)
        for role, shape in node.weights.items()
    }
    plan = Plan(root, dtype, device, InputCheck(root), layers, held, outputs, training, tuple(shares))
    native._imori = plan
    load(native, weights)
    return native


def _binding(node: Node) -> Node:
    """The same nodes, where an adaptive pool binds the network to its input size too."""
    children = tuple(_binding(child) for child in node.children)
    return replace(node, children=children, sized=node.sized or isinstance(node.layer, t.AdaptiveAvgPool))


def _model(root: Node, layers: dict[str, Any], dtype: str, training: bool) -> tuple[Any, Graph]:
    channels, *size = root.input
    bound = any(node.sized and (training or not node.training_only) for node in flat(root))
    shape = (*(size if bound else [None] * len(size)), channels)
    x = keras.Input(shape, name="input", dtype=dtype)  # no child of a tree may be called "input", or "output"
    graph = Graph(layers, dtype, training)
    y = graph.run(root, x)
    if y is x:
        y = graph.apply(y, "output", k.Identity)
    return keras.Model(x, [y, *graph.heads] if graph.heads else y), graph


def _weight(node: Node, role: str, shape: Shape, layers: Mapping[str, Any]) -> Weight:
    names = group_names(node) if isinstance(node.layer, t.ConvTranspose) else [name_of(node)]
    own = [layers[name] for name in names]
    called = (KERAS_NORM_ROLES if isinstance(own[0], k.BatchNormalization) else KERAS_ROLES)[role]
    depthwise = isinstance(own[0], k.DepthwiseConv2D) and role == "weight"
    return Weight(tuple(getattr(layer, called) for layer in own), shape, depthwise)


def owns(native: object) -> bool:
    """Whether `build` made the model, be it compiled and trained since; one that was loaded from a file is Keras's."""
    return isinstance(getattr(native, "_imori", None), Plan)


def load(native: Any, weights: Weights) -> None:
    """Copies canonical weights into the model's own variables, those of its heads too."""
    plan: Plan = native._imori
    compare(weights, {name: weight.shape for name, weight in plan.weights.items()})
    with placed(plan.device):
        for name, weight in plan.weights.items():
            for variable, value in zip(weight.variables, weight.native(weights[name]), strict=True):
                variable.assign(value.astype(plan.dtype))


def dump(native: Any) -> Weights:
    """Canonical weights, as arrays: copies. Those of the heads are among them."""
    plan: Plan = native._imori
    with placed(plan.device):
        return {name: weight.canonical(weight.variables) for name, weight in plan.weights.items()}


def logits(native: Any, images: Array) -> Array:
    """Inference on images (N, C, H, W) -> (N, classes)."""
    plan: Plan = native._imori
    with placed(plan.device):
        return _canonical(native.predict_on_batch(plan.images(images)))


def outputs(native: Any, images: Array, paths: Sequence[str]) -> dict[str, Array]:
    """Inference on images (N, C, H, W): path -> that node's output, (N, C, H, W) or (N, F). It is not compiled."""
    plan: Plan = native._imori
    check_paths(paths, plan.outputs)
    batch = plan.images(images)
    if not paths:
        return {}
    with placed(plan.device):
        model = keras.Model(native.input, [plan.outputs[path] for path in paths])
        found = keras.tree.flatten(model(batch, training=False))
    return {path: _canonical(value) for path, value in zip(paths, found, strict=True)}


def _canonical(value: Tensor) -> Array:
    """A map with its channels first, or a flat output: a contiguous copy."""
    return np.array(np.moveaxis(ops.convert_to_numpy(value), -1, 1), order="C")
