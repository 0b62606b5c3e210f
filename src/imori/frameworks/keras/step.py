"""One step of training: a function of the state and the batch, which the backend differentiates and compiles."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers as k
from keras import ops

from imori import tree as t
from imori.errors import ImoriError
from imori.frameworks.base import Array, Setup, Weights, check_setup, times
from imori.frameworks.keras.backend import Tensor, compiled, placed, value_and_gradients
from imori.frameworks.keras.graph import name_of
from imori.frameworks.keras.model import Plan
from imori.shapes import Shape, flat, resolve
from imori.weights.names import compare


@dataclass(frozen=True)
class Trained:
    """A variable that trains, and how."""

    variable: Any
    slots: dict[str, Any]
    rate: float
    decayed: bool


class KerasStep:
    """One step of training: `base.Step`. One function of the state, compiled once for each shape of a batch."""

    def __init__(self, native: Any, setup: Setup) -> None:
        plan: Plan = native._imori
        check_setup("keras", setup, plan.weights, plan.dtype)
        self._plan, self._setup, self._time = plan, setup, 0
        self._norms = {
            node.path: plan.layers[name_of(node)] for node in flat(plan.root) if isinstance(node.layer, t.BatchNorm)
        }
        self._moving = [norm for path, norm in self._norms.items() if path not in setup.frozen]
        self._bessel: dict[Shape, Array] = {}
        self._seeds = [
            layer.seed_generator.state
            for layer in plan.layers.values()
            if isinstance(layer, k.Dropout) and layer.rate > 0
        ]
        with placed(plan.device):
            self._trained = {
                name: [self._member(name, variable) for variable in weight.variables]
                for name, weight in plan.weights.items()
                if name in setup.trainable
            }
            self._state = self._variables()
            self._run = compiled(self._step, self._state)

    def _member(self, name: str, variable: Any) -> Trained:
        slots = {
            slot: keras.Variable("zeros", variable.shape, self._plan.dtype, trainable=False, name=slot)
            for slot in self._setup.optimizer.slots
        }
        return Trained(variable, slots, self._setup.rates.get(name, 1.0), name in self._setup.decayed)

    def _members(self) -> list[Trained]:
        return [member for members in self._trained.values() for member in members]

    def _variables(self) -> list[list[Any]]:
        """The variables that a step reads: what trains, the optimizer's memory, the statistics, and what stays."""
        trained = [member.variable for member in self._members()]
        slots = [slot for member in self._members() for slot in member.slots.values()]
        statistics = [variable for norm in self._moving for variable in (norm.moving_mean, norm.moving_variance)]
        changing = {id(variable) for variable in trained + statistics}
        every = [variable for weight in self._plan.weights.values() for variable in weight.variables]
        return [trained, slots, statistics, [variable for variable in every if id(variable) not in changing]]

    def __call__(self, images: Array, targets: Array, weights: Array, rate: float, key: int) -> tuple[float, Array]:
        """The loss before the step, and the logits that gave it. A loss that is not finite changes nothing.

        ImoriError where a batch norm gets a single value a channel.
        """
        plan, images = self._plan, np.asarray(images)
        batch = plan.images(images, training=True)
        drawn = np.random.SeedSequence(key).generate_state(len(self._seeds)) >> 1
        seeds = np.stack([drawn, np.zeros_like(drawn)], axis=1).astype(np.int32)
        with np.errstate(invalid="ignore"):  # what is not finite shows in the loss
            importance = np.asarray(weights, float) / (np.sum(weights, dtype=float) or 1.0)
        numbers = (targets, importance, rate, self._time + 1, self._corrections(images.shape))
        with placed(plan.device):
            given = [ops.convert_to_tensor(np.asarray(number, plan.dtype)) for number in numbers]
            loss, logits = self._run(ops.convert_to_tensor(batch), *given, ops.convert_to_tensor(seeds))
            value = float(ops.convert_to_numpy(loss))
            self._time += math.isfinite(value)
            return value, np.array(ops.convert_to_numpy(logits))

    def _corrections(self, shape: Shape) -> Array:
        """1 / (N - 1) for each batch norm that moves, N values of a channel: what makes its variance unbiased."""
        if shape not in self._bessel:
            nodes = [node for node in flat(resolve(self._plan.root.layer, shape[1:])) if node.path in self._norms]
            counts = [shape[0] * math.prod(node.input[1:]) for node in nodes if node.path not in self._setup.frozen]
            if 1 in counts:
                raise ImoriError(
                    f"a batch norm cannot train on one value a channel, and a batch of {shape[0]} images"
                    f" {times(shape[1:])} leaves it no more; use a larger batch, or larger images"
                )
            self._bessel[shape] = np.array([1 / (count - 1) for count in counts])
        return self._bessel[shape]

    def _step(
        self, values: list[list[Tensor]], images: Tensor, targets: Tensor, importance: Tensor, rate: Tensor,
        time: Tensor, bessel: Tensor, seeds: Tensor,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:  # fmt: skip
        """The values of the state, and the batch -> the loss, the logits, and the new values of what changes.

        `importance` sums to 1, or is 0 throughout.
        """
        trained, slots, statistics, fixed = values

        def losses(trained: list[Tensor]) -> tuple[Tensor, tuple[Tensor, list[Tensor]]]:
            outputs, moved = self._forward([trained, statistics, fixed], images, seeds)
            total = 0.0
            for share, out in zip(self._plan.shares, outputs, strict=True):
                each = -ops.sum(targets * ops.log_softmax(out, axis=-1), axis=-1)
                total = total + share * ops.sum(importance * each)
            return total, (outputs[0], moved)

        (loss, (logits, moved)), gradients = value_and_gradients(losses, trained)
        if self._setup.clip is not None:
            norm = ops.sqrt(sum(ops.sum(ops.square(gradient)) for gradient in gradients))
            scale = ops.minimum(self._setup.clip / (norm + 1e-6), 1.0)
            gradients = [gradient * scale for gradient in gradients]
        new_trained, new_slots = [], []
        memory = iter(slots)
        for member, value, gradient in zip(self._members(), trained, gradients, strict=True):
            own = {slot: next(memory) for slot in member.slots}
            own_rate = rate if member.rate == 1 else rate * member.rate
            value, own = self._setup.optimizer.update(value, gradient, own, own_rate, time, member.decayed)
            new_trained.append(value)
            new_slots += [own[slot] for slot in member.slots]
        for i, (norm, share) in enumerate(zip(self._moving, ops.unstack(bessel, len(self._moving)), strict=True)):
            before, after = statistics[2 * i + 1], moved[2 * i + 1]  # Keras moved it towards the batch's biased one
            moved[2 * i + 1] = after + (after - norm.momentum * before) * share
        return loss, logits, [*new_trained, *new_slots, *moved]

    def _forward(self, values: list[list[Tensor]], images: Tensor, seeds: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """The outputs in training, and the moved statistics. No variable changes, nor any layer's own seed."""
        trained, _, statistics, fixed = self._state
        pairs = [
            pair
            for variables, given in zip((trained, statistics, fixed), values, strict=True)
            for pair in zip(variables, given, strict=True)
        ]
        pairs += [(seed, ops.cast(seeds[i], seed.dtype)) for i, seed in enumerate(self._seeds)]
        with keras.StatelessScope(pairs) as scope, self._modes():
            outputs = keras.tree.flatten(self._plan.training(images, training=True))
            return outputs, [scope.get_current_value(variable) for variable in statistics]

    @contextlib.contextmanager
    def _modes(self) -> Iterator[None]:
        """Inside, the batch norms train that are not frozen, and no other: Keras's `trainable` decides both."""
        before = {path: norm.trainable for path, norm in self._norms.items()}
        try:
            for path, norm in self._norms.items():
                norm.trainable = path not in self._setup.frozen
            yield
        finally:
            for path, norm in self._norms.items():
                norm.trainable = before[path]

    def state(self) -> Weights:
        """The optimizer's memory under our names: copies."""
        slots = {
            f"{name}/{slot}": self._plan.weights[name].canonical(member.slots[slot] for member in members)
            for name, members in self._trained.items()
            for slot in self._setup.optimizer.slots
        }
        return {**slots, "time": np.array(self._time, np.int64)}

    def restore(self, state: Weights) -> None:
        """Goes on from a state of any framework. WeightsError if its names or shapes are others."""
        shapes = {
            f"{name}/{slot}": self._plan.weights[name].shape
            for name in self._trained
            for slot in self._setup.optimizer.slots
        }
        compare(state, {**shapes, "time": ()}, "the optimizer's memory")
        with placed(self._plan.device):
            for name, members in self._trained.items():
                for slot in self._setup.optimizer.slots:
                    values = self._plan.weights[name].native(state[f"{name}/{slot}"])
                    for member, value in zip(members, values, strict=True):
                        member.slots[slot].assign(value.astype(self._plan.dtype))
        self._time = int(state["time"])
