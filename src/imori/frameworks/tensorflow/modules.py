"""What every native model is made of: layers, the blocks that hold them, and the whole network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import numpy as np
import tensorflow as tf

from imori import tree as t
from imori.errors import ImoriError
from imori.frameworks.base import Array, InputCheck, Weights, times, weight_name
from imori.shapes import Node, Shape, flat

Tensor: TypeAlias = Any


@dataclass
class Run:
    """One run through a network: how the layers behave in it, and what comes of it beside the output."""

    training: bool = False
    key: Tensor | None = None
    """The seed of dropout; without one it is drawn from TensorFlow's own generator."""
    frozen: frozenset[str] = frozenset()
    """Paths of the batch norms that run as at inference."""
    watched: frozenset[str] = frozenset()
    """Paths of the nodes whose outputs are kept."""
    outputs: dict[str, Tensor] = field(default_factory=dict)
    heads: list[tuple[float, Tensor]] = field(default_factory=list)
    """The weight of each auxiliary head's loss, and its logits."""

    def keep(self, path: str, output: Tensor) -> Tensor:
        """The output of a node, noted if it is watched."""
        if path in self.watched:
            self.outputs[path] = output
        return output


class SingleValueError(ValueError):
    """A batch norm met one value a channel in training."""


class Layer(tf.Module):
    """A layer, or layers together: `layer(x, training=False)` for maps (N, H, W, C) and flat vectors (N, F).

    Its own attributes begin with an underscore, as no child's name does; variables are in layers without children.
    """

    _VARIABLES: ClassVar[dict[str, str]] = {"weight": "kernel", "bias": "bias"}
    _LAYOUT: ClassVar[str] = "o->o"
    """The axes of "weight", from the canonical order to TensorFlow's."""

    def __init__(self, node: Node, weights: Weights) -> None:
        super().__init__()
        self._node = node
        for role in node.weights:
            variable = tf.Variable(
                self._native(role, weights[weight_name(node.path, role)]),
                trainable=role in ("weight", "bias"),
                name="/".join(filter(None, (*node.path.split("."), self._VARIABLES[role]))),
            )
            setattr(self, self._VARIABLES[role], variable)

    @tf.autograph.experimental.do_not_convert
    def __call__(self, x: Tensor, training: bool = False) -> Any:
        """The output for `x`."""
        return self._run(x, Run(_known(training)))

    def _run(self, x: Tensor, run: Run) -> Tensor:
        raise NotImplementedError

    def _places(self) -> dict[str, Place]:
        """The variables under canonical names, in the order in which the layers run."""
        return {
            weight_name(self._node.path, role): Place(self, role, getattr(self, self._VARIABLES[role]))
            for role in self._node.weights
        }

    def _awake(self) -> list[str]:
        """The paths of the nodes in it, itself included, that run at inference."""
        return [self._node.path]

    def _native(self, role: str, value: Array) -> Array:
        """From canonical axes to TensorFlow's."""
        return np.einsum(self._LAYOUT, value) if role == "weight" else value

    def _canonical(self, role: str, value: Array) -> Array:
        """Back again."""
        return np.einsum("->".join(reversed(self._LAYOUT.split("->"))), value) if role == "weight" else value


@dataclass(frozen=True)
class Place:
    """A variable that holds the weight, or the optimizer's memory of the weight, of one role in a layer."""

    layer: Layer
    role: str
    variable: tf.Variable

    @property
    def shape(self) -> Shape:
        """The canonical one."""
        return self.layer._node.weights[self.role]

    def write(self, value: Array) -> None:
        """Takes the values of a canonical array."""
        self.variable.assign(self.layer._native(self.role, value))

    def read(self) -> Array:
        """A canonical array: a copy."""
        return np.array(self.layer._canonical(self.role, self.variable.numpy()), order="C")


class Block(Layer):
    """A `Chain`, `Sum` or `Concat`: its children are attributes by their names. Of an `Aux`, it is the head."""

    def __init__(self, node: Node, children: Mapping[str, Layer]) -> None:
        super().__init__(node, {})
        for name, child in children.items():
            setattr(self, name, child)

    def _run(self, x: Tensor, run: Run) -> Tensor:
        match self._node.layer:
            case t.Sum():
                return tf.add_n([self._child(node, x, run) for node in self._node.children])
            case t.Concat():
                return tf.concat([self._child(node, x, run) for node in self._node.children], -1)
            case _:
                for node in self._node.children:
                    x = self._child(node, x, run)
                return x

    def _child(self, node: Node, x: Tensor, run: Run) -> Tensor:
        """The output of a child for `x`; an auxiliary head leaves its logits with the run, and passes `x` on."""
        child = getattr(self, node.name)
        if not isinstance(node.layer, t.Aux):
            with tf.name_scope(node.name):
                return run.keep(node.path, child._run(x, run))
        if run.training:
            with tf.name_scope(node.name):
                run.heads.append((node.layer.weight, child._run(x, run)))
        return x

    def _places(self) -> dict[str, Place]:
        children = [getattr(self, node.name) for node in self._node.children]
        return {name: place for child in children for name, place in child._places().items()}

    def _awake(self) -> list[str]:
        awake = [getattr(self, node.name) for node in self._node.children if not isinstance(node.layer, t.Aux)]
        return [self._node.path, *(path for child in awake for path in child._awake())]


class Network(Block):
    """The whole: a block that checks its images, and can be served. A lone layer is its one child."""

    def __init__(self, root: Node, children: Mapping[str, Layer], check: InputCheck, dtype: str, device: str) -> None:
        super().__init__(root, children)
        self._check, self._dtype, self._device = check, dtype, device
        channels, *size = root.input
        bound = any(node.sized and not node.training_only for node in flat(root))
        images = tf.TensorSpec([None, *(size if bound else [None] * len(size)), channels], dtype, "images")
        self.serve = tf.function(self._serve, input_signature=[images], autograph=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copies, and what is unpickled, are built anew: TensorFlow copies no `tf.function` that has been traced."""
        from imori.frameworks.tensorflow.layers import network_of  # which imports this module

        weights = {name: place.read() for name, place in self._places().items()}
        return network_of, (self._check.root, weights, self._dtype, self._device)

    def _serve(self, images: Tensor) -> dict[str, Tensor]:
        return {"logits": self(images)}

    @tf.autograph.experimental.do_not_convert
    def __call__(self, images: Tensor, training: bool = False) -> Any:
        """Images (N, H, W, C) -> logits (N, classes); in training (logits, logits of each head, ...) if it has heads.

        TreeError for images of a size that it was not built for.
        """
        images, run = tf.convert_to_tensor(images, self._dtype), Run(_known(training))
        if images.shape[1:].is_fully_defined():
            count, *size, channels = images.shape
            self._check((count, channels, *size), run.training)
            if count == 0 and not run.training:
                return self(tf.zeros((1, *images.shape[1:]), self._dtype))[:0]
        output = self._run(images, run)
        return (output, *(logits for _, logits in run.heads)) if run.heads else output

    def _run(self, x: Tensor, run: Run) -> Tensor:
        try:
            return run.keep(self._node.path, super()._run(x, run))
        except SingleValueError as error:
            count, *size, channels = x.shape
            raise ImoriError(
                f"a batch norm cannot train on one value a channel, and a batch of {count} images"
                f" {times((channels, *size))} leaves it no more; use a larger batch, or larger images"
            ) from error


def _known(training: Any) -> bool:
    """A mode that may be given as a tensor. ImoriError where the tensor's value is not known yet."""
    value = tf.get_static_value(training) if tf.is_tensor(training) else training
    if value is None:
        raise ImoriError("training is a tensor that a function has no value of while it is traced; give True or False")
    return bool(value)


# --- at the boundary -------------------------------------------------------------------------------------------------


def as_batch(images: Array, native: Network, training: bool) -> Tensor:
    """Images (N, C, H, W), checked, as the network takes them: channels last, in its dtype."""
    batch = np.asarray(images, native._dtype)
    native._check(batch.shape, training)
    return tf.constant(np.moveaxis(batch, 1, -1))


def as_array(output: Tensor) -> Array:
    """(N, H, W, C) or (N, F) -> an array of its own, (N, C, H, W) or (N, F)."""
    return np.array(np.moveaxis(output.numpy(), -1, 1), order="C")


@contextlib.contextmanager
def computing(native: Network) -> Iterator[None]:
    """On the network's device, and without the short floats of TF32."""
    short = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(False)
    try:
        with tf.device(native._device):
            yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(short)
