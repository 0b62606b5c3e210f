"""One step of training in JAX: the model's forward and backward pass and the optimizer's formulas, compiled as one."""

from __future__ import annotations

import math
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from imori import tree as t
from imori.errors import ImoriError
from imori.frameworks.base import Array, Setup, Weights, check_setup, times
from imori.frameworks.flax.layers import Combinator, SingleValueError, Tensor, channels_last
from imori.frameworks.flax.weights import exact, inward, module_at, origin, outward, places
from imori.shapes import Node, Shape
from imori.weights.names import compare

Tensors: TypeAlias = dict[str, Tensor]
Memory: TypeAlias = dict[str, Tensors]
"""Weight's name -> slot -> array, laid out as the weight is."""


class FlaxStep:
    """Changes the model in place; its modes and its own random numbers stay as they are: `base.Step`."""

    def __init__(self, native: Combinator, setup: Setup) -> None:
        self._native, self._setup, self._dtype = native, setup, origin(native).dtype
        self._places = places(native)
        check_setup("flax", setup, self._places, self._dtype)
        self._trained = {name: place for name, place in self._places.items() if name in setup.trainable}
        # The weights are not donated: a user may hold on to them, since JAX's arrays never change.
        self._advance = jax.jit(partial(_advance, setup), donate_argnames="memory")
        self._time, self._memory = 0, Memory()
        self.restore({name: np.zeros(shape) for name, shape in self._shapes().items()})

    def __call__(self, images: Array, targets: Array, weights: Array, rate: float, key: int) -> tuple[float, Array]:
        """The loss before the step, and the logits that gave it. A loss that is not finite changes nothing.

        ImoriError where a batch norm gets a single value a channel.
        """
        with np.errstate(invalid="ignore"):  # what is not finite shows in the loss
            shares = np.asarray(weights, float) / (np.sum(weights, dtype=float) or 1.0)
        batch = [np.asarray(array, self._dtype) for array in (images, targets, shares)]
        origin(self._native).check(batch[0].shape, True)
        with exact():
            try:
                loss, logits, changed, self._memory = self._advance(
                    self._native, self._memory, *batch, float(rate), self._time + 1, key
                )
            except SingleValueError as error:
                raise ImoriError(
                    f"a batch norm cannot train on one value a channel, and a batch of {len(images)} images"
                    f" {times(images.shape[1:])} leaves it no more; use a larger batch, or larger images"
                ) from error
            value = float(loss)
        for name, tensor in changed.items():
            _, variable = self._places[name]
            variable.set_value(tensor)
        self._time += math.isfinite(value)
        return value, np.array(logits)

    def _shapes(self) -> dict[str, Shape]:
        """The names and shapes of the state."""
        slots = {
            f"{name}/{slot}": node.weights[name.rpartition(".")[2]]
            for name, (node, _) in self._trained.items()
            for slot in self._setup.optimizer.slots
        }
        return {**slots, "time": ()}

    def state(self) -> Weights:
        """The optimizer's memory under our names: copies."""
        slots = {
            f"{name}/{slot}": outward(node, self._memory[name][slot])
            for name, (node, _) in self._trained.items()
            for slot in self._setup.optimizer.slots
        }
        return {**slots, "time": np.array(self._time, np.int64)}

    def restore(self, state: Weights) -> None:
        """Goes on from a state of any framework. WeightsError if its names or shapes are others."""
        compare(state, self._shapes(), "the optimizer's memory")
        self._time = int(state["time"])
        with exact():
            self._memory = {
                name: {
                    slot: jax.device_put(inward(node, state[f"{name}/{slot}"], self._dtype), variable[...].sharding)
                    for slot in self._setup.optimizer.slots
                }
                for name, (node, variable) in self._trained.items()
            }


def _advance(
    setup: Setup,
    native: Combinator,
    memory: Memory,
    images: Tensor,
    targets: Tensor,
    importance: Tensor,
    rate: Any,
    time: Any,
    key: Tensor,
) -> tuple[Tensor, Tensor, Tensors, Memory]:
    """The loss, the logits, all weights and statistics that may have changed, and the new memory.

    `importance` sums to 1, or is 0 throughout. `rate` and `time` are weakly typed numbers of 64 bits: 1 - betaᵗ is as
    exact in a float32 model, whose arrays stay float32.
    """
    shares = (1.0, *_head_weights(origin(native).root))

    def loss_of(trained: Tensors) -> tuple[Tensor, tuple[Tensor, Tensors]]:
        outputs, statistics = _train(native, trained, setup.frozen, images, key)
        losses = [
            share * (importance * optax.softmax_cross_entropy(out, targets)).sum()
            for out, share in zip(outputs, shares, strict=True)
        ]
        return sum(losses, jnp.zeros((), images.dtype)), (outputs[0], statistics)

    weights = {name: variable[...] for name, (_, variable) in places(native).items()}
    trained = {name: tensor for name, tensor in weights.items() if name in setup.trainable}
    (loss, (logits, statistics)), gradients = jax.value_and_grad(loss_of, has_aux=True)(trained)
    if setup.clip is not None:
        norm = jnp.sqrt(sum(jnp.vdot(gradient, gradient) for gradient in gradients.values()))
        scale = jnp.minimum(setup.clip / (norm + 1e-6), 1)
        gradients = {name: gradient * scale for name, gradient in gradients.items()}
    updated = {
        name: setup.optimizer.update(
            trained[name], gradient, memory[name], rate * setup.rates.get(name, 1.0), time, name in setup.decayed
        )
        for name, gradient in gradients.items()
    }
    changed = {name: weight for name, (weight, _) in updated.items()} | statistics
    old = {name: weights[name] for name in changed}, memory
    new = changed, {name: slots for name, (_, slots) in updated.items()}
    return loss, logits, *jax.tree.map(partial(jnp.where, jnp.isfinite(loss)), new, old)


def _train(
    native: Combinator, trained: Tensors, frozen: frozenset[str], images: Tensor, key: Tensor
) -> tuple[tuple[Tensor, ...], Tensors]:
    """The model's outputs in training with the weights `trained`, and the running statistics after it."""
    model = jax.tree.map(lambda leaf: leaf, native)  # a copy, which may be changed
    own = places(model)
    for name, tensor in trained.items():
        own[name][1].set_value(tensor)
    model.train()
    for path in frozen:
        module_at(model, path or "layer").use_running_average = True
    nnx.reseed(model, dropout=jax.random.key(key))  # another key for each layer, all of them from this one
    outputs = model(channels_last(images))
    statistics = {name: variable[...] for name, (_, variable) in own.items() if isinstance(variable, nnx.BatchStat)}
    return outputs if isinstance(outputs, tuple) else (outputs,), statistics


def _head_weights(node: Node) -> tuple[float, ...]:
    """The weights of the auxiliary heads' losses, in the order in which the heads' logits come."""
    own = (node.layer.weight,) if isinstance(node.layer, t.Aux) else ()
    return own + tuple(weight for child in node.children for weight in _head_weights(child))
