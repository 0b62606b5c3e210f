"""One step of training in TensorFlow: a `tf.function` around the formulas of `imori.optimizers`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import tensorflow as tf

from imori.frameworks.base import Array, Setup, Weights, check_setup
from imori.frameworks.tensorflow.modules import Network, Place, Run, Tensor, as_array, as_batch, computing
from imori.weights.names import compare


class TensorFlowStep:
    """One step of training: `base.Step`."""

    def __init__(self, native: Network, setup: Setup) -> None:
        places = native._places()
        check_setup("tensorflow", setup, places, native._dtype)
        self._native, self._setup = native, setup
        self._trained = {name: place for name, place in places.items() if name in setup.trainable}
        self._statistics = [place.variable for place in places.values() if place.role in ("mean", "var")]
        with tf.device(native._device):
            self._time = tf.Variable(0, trainable=False, dtype=tf.int64)
            self._slots: dict[str, dict[str, tf.Variable]] = {
                name: {
                    slot: tf.Variable(tf.zeros_like(place.variable), trainable=False) for slot in setup.optimizer.slots
                }
                for name, place in self._trained.items()
            }
        self._step = tf.function(self._traced, autograph=False)

    def __call__(self, images: Array, targets: Array, weights: Array, rate: float, key: int) -> tuple[float, Array]:
        """The loss before the step, and the logits that gave it. A loss that is not finite changes nothing."""
        batch = as_batch(images, self._native, training=True)
        with computing(self._native):
            given = (tf.constant(value, batch.dtype) for value in (targets, weights, rate))
            loss, logits = self._step(batch, *given, tf.constant(key, tf.int64))
            return float(loss), as_array(logits)

    def _traced(
        self, images: Tensor, targets: Tensor, weights: Tensor, rate: Tensor, key: Tensor
    ) -> tuple[Tensor, Tensor]:
        before = [variable.read_value() for variable in self._statistics]
        variables = [place.variable for place in self._trained.values()]
        run = Run(training=True, key=key, frozen=self._setup.frozen)
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            logits = self._native._run(images, run)
            loss = tf.add_n([share * _loss(output, targets, weights) for share, output in ((1.0, logits), *run.heads)])
        gradients = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        tf.cond(tf.math.is_finite(loss), lambda: self._update(gradients, rate), lambda: self._undo(before))
        return loss, logits

    def _update(self, gradients: list[Tensor], rate: Tensor) -> None:
        setup = self._setup
        if setup.clip is not None:
            scale = tf.minimum(setup.clip / (tf.linalg.global_norm(gradients) + 1e-6), 1.0)
            gradients = [gradient * scale for gradient in gradients]
        time = tf.cast(self._time.assign_add(1), rate.dtype)
        for (name, place), gradient in zip(self._trained.items(), gradients, strict=True):
            multiplied, decayed, slots = rate * setup.rates.get(name, 1.0), name in setup.decayed, self._slots[name]
            weight, updated = setup.optimizer.update(place.variable, gradient, slots, multiplied, time, decayed)
            place.variable.assign(weight)
            for slot, variable in slots.items():
                variable.assign(updated[slot])

    def _undo(self, before: list[Tensor]) -> None:
        """The running statistics as they were."""
        for variable, value in zip(self._statistics, before, strict=True):
            variable.assign(value)

    def _memory(self) -> dict[str, Place]:
        return {
            f"{name}/{slot}": replace(self._trained[name], variable=variable)
            for name, slots in self._slots.items()
            for slot, variable in slots.items()
        }

    def state(self) -> Weights:
        """The optimizer's memory: copies."""
        memory = {name: place.read() for name, place in self._memory().items()}
        return {**memory, "time": np.array(self._time.numpy(), np.int64)}

    def restore(self, state: Weights) -> None:
        """Goes on from a state of any framework. WeightsError if its names or shapes are others."""
        memory = self._memory()
        shapes = {name: place.shape for name, place in memory.items()}
        compare(state, {**shapes, "time": ()}, "the optimizer's memory")
        for name, place in memory.items():
            place.write(state[name])
        self._time.assign(int(state["time"]))


def _loss(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """The mean of the cross-entropies by the weights; 0 where all weights are 0."""
    each = tf.nn.softmax_cross_entropy_with_logits(targets, logits)
    return tf.math.divide_no_nan(tf.reduce_sum(weights * each), tf.reduce_sum(weights))
