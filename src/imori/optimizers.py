"""The optimizers, each defined once as a formula over arrays, in PyTorch's definitions. Standard library only.

A formula uses +, -, *, / and ** alone, so that the arrays may be any framework's. `update` takes one weight, its
gradient and its slots (arrays of the weight's shape that start at zero) at step `time`, counted from 1, and returns
the new weight and the new slots. A framework may put its own implementation in place of these where a test proves
that they are equal.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from math import sqrt
from typing import Any, ClassVar, TypeAlias

from imori.errors import RecipeError

Array: TypeAlias = Any
Slots: TypeAlias = dict[str, Array]

CHUNK = 2**15
"""How many values of a weight `update_in_place` works on at a time, so that its terms stay in the cache."""


@dataclass(frozen=True)
class SGD:
    """v = momentum v + g; w -= rate v. With `nesterov`, w -= rate (g + momentum v)."""

    weight_decay: float = 0.0
    momentum: float = 0.9
    nesterov: bool = False

    @property
    def slots(self) -> tuple[str, ...]:
        """The names of the arrays kept for each weight."""
        return ("velocity",) if self.momentum else ()

    def update(
        self, weight: Array, gradient: Array, slots: Slots, rate: float, time: int, decayed: bool
    ) -> tuple[Array, Slots]:
        """The new weight and slots."""
        if decayed and self.weight_decay:
            gradient = gradient + self.weight_decay * weight
        if not self.momentum:
            return weight - rate * gradient, {}
        velocity = self.momentum * slots["velocity"] + gradient
        step = gradient + self.momentum * velocity if self.nesterov else velocity
        return weight - rate * step, {"velocity": velocity}


@dataclass(frozen=True)
class AdaGrad:
    """s += g²; w -= rate g / (√s + eps). Duchi et al. 2011."""

    weight_decay: float = 0.0
    eps: float = 1e-10
    slots: ClassVar[tuple[str, ...]] = ("square",)

    def update(
        self, weight: Array, gradient: Array, slots: Slots, rate: float, time: int, decayed: bool
    ) -> tuple[Array, Slots]:
        """The new weight and slots."""
        if decayed and self.weight_decay:
            gradient = gradient + self.weight_decay * weight
        square = slots["square"] + gradient * gradient
        return weight - rate * gradient / (square**0.5 + self.eps), {"square": square}


@dataclass(frozen=True)
class RMSProp:
    """s = alpha s + (1 - alpha) g²; w -= rate g / (√s + eps). Tieleman and Hinton 2012."""

    weight_decay: float = 0.0
    alpha: float = 0.99
    eps: float = 1e-8
    slots: ClassVar[tuple[str, ...]] = ("square",)

    def update(
        self, weight: Array, gradient: Array, slots: Slots, rate: float, time: int, decayed: bool
    ) -> tuple[Array, Slots]:
        """The new weight and slots."""
        if decayed and self.weight_decay:
            gradient = gradient + self.weight_decay * weight
        square = self.alpha * slots["square"] + (1 - self.alpha) * gradient * gradient
        return weight - rate * gradient / (square**0.5 + self.eps), {"square": square}


@dataclass(frozen=True)
class Adam:
    """Running means of g and g², both divided by 1 - betaᵗ; eps is added after that. arXiv:1412.6980."""

    weight_decay: float = 0.0
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    slots: ClassVar[tuple[str, ...]] = ("mean", "square")
    decoupled: ClassVar[bool] = False

    def update(
        self, weight: Array, gradient: Array, slots: Slots, rate: float, time: int, decayed: bool
    ) -> tuple[Array, Slots]:
        """The new weight and slots."""
        if decayed and self.weight_decay:
            if self.decoupled:
                weight = weight * (1 - rate * self.weight_decay)
            else:
                gradient = gradient + self.weight_decay * weight
        mean = self.beta1 * slots["mean"] + (1 - self.beta1) * gradient
        square = self.beta2 * slots["square"] + (1 - self.beta2) * gradient * gradient
        root = square**0.5 / (1 - self.beta2**time) ** 0.5 + self.eps
        return weight - rate / (1 - self.beta1**time) * mean / root, {"mean": mean, "square": square}


@dataclass(frozen=True)
class AdamW(Adam):
    """Adam, its weight decay apart from the gradient: w *= 1 - rate decay first. arXiv:1711.05101."""

    weight_decay: float = 0.01
    decoupled: ClassVar[bool] = True


Optimizer: TypeAlias = SGD | AdaGrad | RMSProp | Adam | AdamW
OPTIMIZERS: dict[str, type[Optimizer]] = {
    "sgd": SGD,
    "adagrad": AdaGrad,
    "rmsprop": RMSProp,
    "adam": Adam,
    "adamw": AdamW,
}


def optimizer(name: str, **options: float | bool) -> Optimizer:
    """The optimizer called `name` ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw")."""
    if name == "momentum":
        return optimizer("sgd", **{"momentum": 0.9, **options})
    if name == "nesterov":
        return optimizer("sgd", **{"momentum": 0.9, "nesterov": True, **options})
    if name not in OPTIMIZERS:
        known = ", ".join(sorted([*OPTIMIZERS, "momentum", "nesterov"]))
        raise RecipeError(f"there is no optimizer {name!r}; there are {known}")
    kind: Any = OPTIMIZERS[name]
    unknown = sorted(set(options) - {part.name for part in fields(kind)})
    if unknown:
        raise RecipeError(f"{name} has no {', '.join(unknown)}; it has {', '.join(asdict(kind()))}")
    return kind(**options)  # type: ignore[no-any-return]


# --- for arrays that can be changed in place, as NumPy's --------------------------------------------------------------


def clip(gradients: list[Array], longest: float) -> None:
    """Scales the whole gradient, in place, to an L2 norm of at most `longest`."""
    lines = [gradient.reshape(-1) for gradient in gradients]
    scale = longest / (sqrt(sum(float(line @ line) for line in lines)) + 1e-6)
    if scale < 1:
        for gradient in gradients:
            gradient *= scale


def update_in_place(
    optimizer: Optimizer,
    weight: Array,
    gradient: Array,
    slots: Slots,
    rate: float,
    time: int,
    decayed: bool,
    worker: int = 0,
    workers: int = 1,
) -> None:
    """The optimizer's formula, which works on each value by itself, a chunk at a time; all arrays are flat.

    Of several workers, each does the chunks whose number leaves its own, divided by theirs.
    """
    for first in range(worker * CHUNK, weight.size, workers * CHUNK):
        part = slice(first, first + CHUNK)
        memory = {slot: line[part] for slot, line in slots.items()}
        weight[part], updated = optimizer.update(weight[part], gradient[part], memory, rate, time, decayed)
        for slot, line in slots.items():
            line[part] = updated[slot]
