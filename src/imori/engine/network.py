"""Layers put together: one after the other, side by side, and the network as a whole."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from imori.engine.dropout import Dropout
from imori.engine.layer import Array, Layer, Shape
from imori.engine.loss import SoftmaxWithLoss

Change: TypeAlias = Callable[[float, int, int, int], None]
"""change(rate, time, worker, workers): a worker's share of a change of the weights by their gradients."""


class Container(Layer):
    """A layer made of layers, in `children`."""

    def __init__(self, children: Sequence[Layer]) -> None:
        super().__init__()
        self.children = tuple(children)
        self._learns = True

    @property
    def learns(self) -> bool:
        """Whether `backward` has anything to do."""
        return self._learns

    def plan(self, before: bool) -> bool:
        """As in a layer; all the children have the same input."""
        self.passes = before
        plans = [child.plan(before) for child in self.children]
        self._learns = any(plans)
        return self._learns


class Chain(Container):
    """One after the other."""

    def forward(self, x: Array, training: bool = False) -> Array:
        """Through the children in order."""
        for child in self.children:
            x = child(x, training)
        return x

    def backward(self, dy: Array) -> Array | None:
        """Back through them, as far as anything trains."""
        for child in reversed(self.children):
            if not child.learns:
                return None
            dx = child.backward(dy)
            if dx is None:
                return None
            dy = dx
        return dy

    def plan(self, before: bool) -> bool:
        """As in a layer: a child's gradient is owed where a child before it trains."""
        self.passes = before
        for child in self.children:
            before = child.plan(before)
        self._learns = before
        return before


class Sum(Container):
    """The same input to every child; their outputs are added."""

    def forward(self, x: Array, training: bool = False) -> Array:
        """Σ child(x)."""
        return _add([child(x, training) for child in self.children])

    def backward(self, dy: Array) -> Array | None:
        """The same dy to every child; their gradients are added."""
        gradients = [child.backward(dy) for child in self.children if child.learns]
        return _add([dx for dx in gradients if dx is not None]) if self.passes else None


def _add(arrays: list[Array]) -> Array:
    total = arrays[0] if len(arrays) == 1 else arrays[0] + arrays[1]
    for array in arrays[2:]:
        total += array
    return total


class Concat(Container):
    """The same input to every child; their outputs are joined along the channels."""

    def forward(self, x: Array, training: bool = False) -> Array:
        """child(x) after child(x)."""
        parts = [child(x, training) for child in self.children]
        self.keep(training, np.cumsum([len(part) for part in parts])[:-1])
        return np.concatenate(parts)

    def backward(self, dy: Array) -> Array | None:
        """To every child its own channels of dy; their gradients are added."""
        (ends,) = self.recall()
        parts = np.split(dy, ends)
        gradients = [child.backward(part) for child, part in zip(self.children, parts, strict=True) if child.learns]
        return _add([dx for dx in gradients if dx is not None]) if self.passes else None


class Aux(Container):
    """An auxiliary classifier beside the network: passes its input through, and in training runs its head on it.

    The training step reads `logits` (N, classes) and sets `gradient`, that of the loss by them, before `backward`.
    """

    def __init__(self, head: Layer, weight: float) -> None:
        super().__init__([head])
        self.weight = weight
        self.logits: Array | None = None
        self.gradient: Array | None = None

    def forward(self, x: Array, training: bool = False) -> Array:
        """x; in training the head's logits are worked out too."""
        self.logits = self.children[0](x, training).T if training else None
        return x

    def backward(self, dy: Array) -> Array | None:
        """dy and the head's own gradient, added."""
        assert self.gradient is not None, "the step sets the gradient of every auxiliary head"
        own = self.children[0].backward(self.gradient.T) if self.children[0].learns else None
        return dy + own if own is not None else dy


def nothing(rate: float, time: int, worker: int, workers: int) -> None:
    """The change of weights that do not train."""


class Network:
    """A whole network: images (N, C, H, W) -> logits (N, classes).

    `layers` names the layers by their paths. A weight's name is its layer's path, a dot, and its role.
    `check` is called with the images' shape (N, C, H, W) and `training` before anything runs, and raises where they
    do not fit. `threads` is how many threads its products are best shared among; None for all.
    """

    def __init__(
        self,
        body: Layer,
        layers: Mapping[str, Layer],
        dtype: str,
        check: Callable[[Shape, bool], None] | None = None,
        threads: int | None = None,
    ) -> None:
        self.body, self.layers, self.dtype, self.check, self.threads = body, dict(layers), dtype, check, threads
        self.changes: Change = nothing
        """What `change` does."""
        self.body.plan(False)

    @property
    def weights(self) -> dict[str, Array]:
        """Every weight by name: the arrays themselves, not copies."""
        return {name: layer.weights[role] for name, (layer, role) in self.places().items()}

    def places(self) -> dict[str, tuple[Layer, str]]:
        """The layer and the role behind every name."""
        return {
            f"{path}.{role}" if path else role: (layer, role)
            for path, layer in self.layers.items()
            for role in layer.weights
        }

    def train(self, names: Collection[str]) -> None:
        """Only these weights train from now on; `backward` goes no further down than it must for them."""
        for path, layer in self.layers.items():
            prefix = f"{path}." if path else ""
            layer.trained = frozenset(role for role in ("weight", "bias") if prefix + role in names)
            layer.gradients.clear()
        self.body.plan(False)

    def seed(self, key: int) -> None:
        """Dropout draws its next masks from this key."""
        seed(self.body, key)

    def forward(self, images: Array, training: bool = False) -> Array:
        """images (N, C, H, W) -> logits (N, classes)."""
        if self.check is not None:
            self.check(images.shape, training)
        if len(images) == 0 and not training:
            return self.forward(np.zeros((1, *images.shape[1:]), self.dtype))[:0]  # so that no layer has to think of it
        return self._through(self._input(images), training).swapaxes(0, 1)

    def _through(self, x: Array, training: bool) -> Array:
        """x (C, N, H, W) -> logits (classes, N)."""
        return self.body(x, training)

    def change(self, rate: float, time: int) -> None:
        """Changes the weights by the gradients, at some learning rate and for the time-th time, by `changes`."""
        self.changes(rate, time, 0, 1)

    def settle(self) -> None:
        """Before weights are written: they are this process's own."""

    def zeros_like(self, array: Array) -> Array:
        """Zeros for what `change` keeps of a weight."""
        return np.zeros_like(array)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"changes": nothing}  # a copy is not in training

    def _input(self, images: Array) -> Array:
        """images (N, C, H, W), or (N, F), as the layers take them."""
        return np.ascontiguousarray(images.swapaxes(0, 1), dtype=self.dtype)

    def backward(self, dy: Array) -> None:
        """From the gradient by the logits (N, classes): fills the layers' `gradients`."""
        if self.body.learns:
            self.body.backward(dy.swapaxes(0, 1))

    def learn(self, images: Array, targets: Array, weights: Array) -> tuple[float, Array]:
        """Forward and backward: the loss and the logits, (N, classes), of images (N, C, H, W); fills `gradients`.

        targets (N, classes) sum to 1, weights are (N,). The loss is the network's and, times their weights, its heads'.
        A loss that is not finite is not worth its gradients: there may be none, or wrong ones.
        """
        logits = self.forward(images, training=True)
        loss, gradient = judge(self.body, logits, targets, weights, weights.sum())
        if math.isfinite(loss):
            self.backward(gradient)
        return loss, logits


def judge(body: Layer, logits: Array, targets: Array, weights: Array, total: float) -> tuple[float, Array]:
    """The loss of a network and of its heads after a forward pass, and its gradient by the logits (N, classes).

    The heads are told theirs. `total` is the sum of the weights of all images, of which these may be a part.
    """
    last = SoftmaxWithLoss()
    loss, gradient = last.forward(logits, targets, weights, total), last.backward()
    for head in every(body):
        if isinstance(head, Aux):
            assert head.logits is not None, "a forward pass in training leaves every head's logits"
            loss += head.weight * last.forward(head.logits, targets, weights, total)
            head.gradient = last.backward() * head.weight
    return loss, gradient


def seed(body: Layer, key: int) -> None:
    """All the dropouts of a network draw their next masks from this key, one after the other."""
    rng = np.random.default_rng(key)
    for layer in every(body):
        if isinstance(layer, Dropout):
            layer.rng = rng


def every(layer: Layer) -> Iterator[Layer]:
    """A layer and all that it is made of, in the order in which they run."""
    yield layer
    if isinstance(layer, Container):
        for child in layer.children:
            yield from every(child)
