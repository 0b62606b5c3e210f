"""What differs between Keras's backends: which is there, its devices, gradients, and how it compiles.

Imported before all else of this package, so that a backend that is missing is named before Keras looks for it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from imori.errors import FrameworkMissing, ImoriError
from imori.frameworks.base import quiet

EXTRAS = {"tensorflow": "keras", "jax": "flax", "torch": "torch"}
"""The backends that can train, and the extra that installs each."""


def _check_backend() -> None:
    """FrameworkMissing where the backend that Keras is going to import is not installed."""
    backend = os.environ.get("KERAS_BACKEND")
    if not backend:
        with contextlib.suppress(OSError, ValueError):
            home = os.environ.get("KERAS_HOME", Path.home() / ".keras")
            backend = json.loads(Path(home, "keras.json").read_text()).get("backend")
    backend = backend or "tensorflow"
    if backend in EXTRAS and importlib.util.find_spec(backend) is None:
        others = [name for name in EXTRAS if importlib.util.find_spec(name) is not None]
        instead = f", or set KERAS_BACKEND={others[0]}, which is" if others else ""
        raise FrameworkMissing(
            f"the backend of keras is {backend}, which is not installed; install it by: pip install"
            f" 'imori[{EXTRAS[backend]}]'{instead}"
        )


if "keras" not in sys.modules:
    _check_backend()

try:
    with quiet():
        import keras
except ValueError as error:  # a backend that Keras does not know
    raise ImoriError(
        f"keras cannot be imported: {error}; set KERAS_BACKEND, or the backend of keras.json, to one of"
        f" {', '.join(EXTRAS)}"
    ) from error
from keras import ops  # noqa: E402

DOUBLE = {"tensorflow"}
"""The backends on which Keras computes in float64: on the others its `result_type` never says so."""

ONE_AT_A_TIME = threading.RLock()
Tensor: TypeAlias = Any
"""Of Keras's graph, or of its backend."""


def device(name: str) -> str:
    """The device that `name` means; "auto" is the fastest that the backend has. ImoriError if it is not there."""
    if keras.config.backend() == "torch":
        import torch

        found = [f"gpu:{i}" for i in range(torch.cuda.device_count())]
    else:
        found = [each for each in keras.distribution.list_devices() if not each.startswith("cpu")]
    there = [*found, "cpu"]
    if name == "auto":
        return there[0]
    if name not in there:
        raise ImoriError(
            f"keras has no device {name!r} here; on {keras.config.backend()} it has {', '.join(there)}, and auto is"
            " the fastest"
        )
    return name


@contextlib.contextmanager
def placed(device: str) -> Iterator[None]:
    """Inside, variables and tensors are made on the device, by one thread after the other.

    On JAX a prediction gives the variables' buffers away while it runs, and another thread would find them gone.
    """
    with ONE_AT_A_TIME, keras.device(device):
        yield


def value_and_gradients(
    f: Callable[[list[Tensor]], tuple[Tensor, Any]], values: list[Tensor]
) -> tuple[Any, list[Tensor]]:
    """What f gives, and the gradient of the first of it by each of the values."""
    match keras.config.backend():
        case "tensorflow":
            import tensorflow as tf

            with tf.GradientTape(watch_accessed_variables=False) as tape:
                tape.watch(values)
                given = f(values)
            return given, tape.gradient(given[0], values, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        case "jax":
            import jax

            return jax.value_and_grad(f, has_aux=True)(values)
        case _:
            import torch

            with torch.enable_grad():
                values = [value.detach().requires_grad_() for value in values]
                given = f(values)
            return given, list(torch.autograd.grad(given[0], values, allow_unused=True, materialize_grads=True))


def compiled(step: Callable[..., Any], state: list[list[Any]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """`step` in the backend's way: it reads the state, and writes what is new into it if the loss is finite."""
    flat_state = [variable for variables in state for variable in variables]

    def adopt(updated: list[Tensor]) -> None:
        for variable, value in zip(flat_state, updated, strict=False):
            variable.assign(value)

    match keras.config.backend():
        case "tensorflow":
            import tensorflow as tf

            def whole(*batch: Tensor) -> tuple[Tensor, Tensor]:
                values = [[tf.convert_to_tensor(variable.value) for variable in variables] for variables in state]
                loss, logits, updated = step(values, *batch)

                def go_on() -> Tensor:
                    adopt(updated)
                    return loss

                tf.cond(tf.math.is_finite(loss), go_on, lambda: loss)
                return loss, logits

            return tf.function(whole, autograph=False)  # type: ignore[no-any-return]
        case "jax":
            import jax

            step = jax.jit(step)
        case "torch":
            import torch

            step = torch.no_grad()(step)
        case backend:
            raise ImoriError(f"keras on {backend} only predicts; set KERAS_BACKEND to one of {', '.join(EXTRAS)}")

    def run(*batch: Tensor) -> tuple[Tensor, Tensor]:
        values = [[variable.value for variable in variables] for variables in state]
        loss, logits, updated = step(values, *batch)
        if np.isfinite(ops.convert_to_numpy(loss)):
            adopt(updated)
        return loss, logits

    return run
