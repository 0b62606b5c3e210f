"""The file that Flax's users load: the state of the module, a tensor a variable, as .safetensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from imori.frameworks.base import Array
from imori.frameworks.flax.layers import Combinator, channels_last
from imori.frameworks.flax.weights import exact, origin
from imori.weights.file import FORM, read_tensors, write_tensors

FORMS = {".safetensors": "safetensors.flax.load_file({})"}
SAVED = nnx.Any(nnx.Param, nnx.BatchStat)
"""The variables that are weights: all but the counts of random streams."""


def save(native: Combinator, path: Path, about: Mapping[str, str]) -> None:
    """Writes each variable in Flax's layout, under its path with dots, as "conv1.kernel"."""
    state = nnx.to_flat_state(nnx.state(native, SAVED))
    tensors = {".".join(map(str, at)): np.asarray(variable[...]) for at, variable in state}
    write_tensors(path, tensors, {**about, FORM: "flax"})


def answers(twin: Combinator, path: Path, images: Array) -> Array:
    """Logits (N, classes) by a file."""
    held, _ = read_tensors(path)
    with exact():
        state = nnx.state(twin, SAVED)
        for at, variable in nnx.to_flat_state(state):
            variable.set_value(jax.numpy.asarray(held[".".join(map(str, at))]))
        nnx.update(twin, state)
        twin.eval()
        return np.array(twin(channels_last(jax.numpy.asarray(images, origin(twin).dtype))))
