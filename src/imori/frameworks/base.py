"""What a framework file offers, and what a training step is prepared with.

A framework is one module of this package, named as the framework is imported ("torch", "numpy"), that fits the
`Framework` protocol. Nothing lists them: a new file is found by its name. It sees resolved nodes (`shapes.Node`:
paths, shapes, padding in whole numbers) and canonical weights, and hands out the framework's own objects.

Arrays at the boundary are NumPy's, images (N, C, H, W), already preprocessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

import numpy.typing as npt

from imori.optimizers import Optimizer
from imori.shapes import Node
from imori.weights.names import Weights, weight_name

Array: TypeAlias = npt.NDArray[Any]
Native: TypeAlias = Any

__all__ = ["Array", "Framework", "Native", "Setup", "Step", "Weights", "weight_name"]


@dataclass(frozen=True)
class Setup:
    """Everything that a training step is prepared with. Names are canonical: path + "." + role."""

    optimizer: Optimizer
    trainable: frozenset[str]
    """The names that train; every other weight stays as it is."""
    decayed: frozenset[str] = frozenset()
    """The names that the optimizer's weight decay acts on."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """A multiplier of the rate by name; 1 where a name is absent."""
    frozen: frozenset[str] = frozenset()
    """Paths of the batch norms that run as at inference: their statistics are used and not updated."""
    precision: str = "float32"
    """What the step computes in: the dtype that the model was built in."""
    clip: float | None = None
    """The largest L2 norm of the whole gradient; a longer one is scaled down to it."""
    rank: int = 0
    world: int = 1
    """This process among those that train together, and how many they are."""


class Step(Protocol):
    """One step of training, and the optimizer's memory between steps.

    The loss is sum(wᵢ CEᵢ) / sum(wᵢ), the cross-entropy of softmax(logits) against soft targets, plus the same loss
    of each auxiliary head times the head's weight. Then the gradient is clipped, then the optimizer acts.
    """

    def __call__(self, images: Array, targets: Array, weights: Array, rate: float, key: int) -> tuple[float, Array]:
        """Images (N, C, H, W), targets (N, classes) summing to 1, sample weights (N,), the rate, and a seed for
        this step's dropout -> the loss before the step, and the logits (N, classes) that gave it."""
        ...

    def state(self) -> Weights:
        """The optimizer's memory: "<weight's name>/<slot>" for `optimizer.slots`, and "time" (int64, steps taken)."""
        ...

    def restore(self, state: Weights) -> None:
        """Goes on from what `state` gave, in this framework or another one."""
        ...


class Framework(Protocol):
    """A module of this package."""

    @property
    def DTYPES(self) -> tuple[str, ...]:  # noqa: N802
        """The dtypes that it builds in: "float32", "float64"."""
        ...

    def device(self, name: str) -> str:
        """The device that `name` means here: "auto" is the fastest that is there. ImoriError for one that is not."""
        ...

    def build(self, root: Node, weights: Weights, dtype: str, device: str) -> Native:
        """The framework's own model, with `weights` (complete and checked) cast to `dtype`."""
        ...

    def owns(self, native: Native) -> bool:
        """Whether the object is one of this framework's models."""
        ...

    def load(self, native: Native, weights: Weights) -> None:
        """Copies canonical weights into the model; WeightsError if names or shapes differ."""
        ...

    def dump(self, native: Native) -> Weights:
        """The model's weights under canonical names, in canonical layouts, in its dtype: copies."""
        ...

    def logits(self, native: Native, images: Array) -> Array:
        """Inference: images (N, C, H, W) -> logits (N, classes) in the model's dtype; the model is left as it was."""
        ...

    def prepare(self, native: Native, setup: Setup) -> Step:
        """A training step that changes the model in place."""
        ...
