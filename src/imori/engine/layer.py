"""What every layer of the engine is: `forward` and `backward`, and the weights between them. Imports NumPy alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy.typing as npt

Array: TypeAlias = npt.NDArray[Any]
Shape: TypeAlias = tuple[int, ...]


class Layer:
    """A function with weights, and its gradient.

    The channels come first and the images second: a map is (C, N, H, W), a flat vector (F, N). So a map is a matrix
    of a row a channel, and the product of im2col's matrix with the filters is the next map as it stands.

    A layer never writes into an array that it was given: the same array may be another layer's as well.
    """

    def __init__(self, weights: dict[str, Array] | None = None) -> None:
        self.weights: dict[str, Array] = weights or {}
        """Role ("weight", "bias", "mean", "var") -> array, in the canonical layout."""
        self.gradients: dict[str, Array] = {}
        """Role -> the loss's gradient by that weight, from the last `backward`; for the roles in `trained`."""
        self.trained: frozenset[str] = frozenset(self.weights) & {"weight", "bias"}
        """The roles whose gradients `backward` works out."""
        self.passes = True
        """Whether `backward` owes the gradient by the input; it does not where nothing before this layer trains."""
        self.hook: Callable[[Array], None] | None = None
        """Is handed every output that the layer gives inside a network."""
        self._kept: tuple[Any, ...] = ()

    @property
    def learns(self) -> bool:
        """Whether `backward` has anything to do."""
        return self.passes or bool(self.trained)

    def __call__(self, x: Array, training: bool = False) -> Array:
        """`forward`, of which the hook learns."""
        y = self.forward(x, training)
        if self.hook is not None:
            self.hook(y)
        return y

    def forward(self, x: Array, training: bool = False) -> Array:
        """The output for input `x`. In training, what `backward` will need is kept until then; else nothing is."""
        raise NotImplementedError

    def backward(self, dy: Array) -> Array | None:
        """The gradient by the input (None unless `passes`), from `dy`, that by the output; fills `gradients`."""
        raise NotImplementedError

    def plan(self, before: bool) -> bool:
        """Settles `passes`: `before` is whether anything before this layer trains. Returns the same of what follows."""
        self.passes = before
        return self.learns

    def keep(self, training: bool, *values: Any) -> None:
        """Keeps values for `backward`, if there will be one."""
        self._kept = values if training and self.learns else ()

    def recall(self) -> tuple[Any, ...]:
        """The values kept by the last `forward`, which are then let go."""
        kept, self._kept = self._kept, ()
        return kept

    def give(self, role: str, gradient: Array) -> None:
        """Stores the gradient by one weight in the weight's own shape."""
        self.gradients[role] = gradient.reshape(self.weights[role].shape)


def rows(x: Array) -> Array:
    """A map as a matrix of a row a channel: (C, N, H, W) -> (C, N·H·W). A flat vector stays as it is."""
    return x.reshape(len(x), -1)
