"""TensorFlow: a tree becomes a `tf.Module` on `tf.nn`, which needs imori no more.

Call it as `model(images, training=False)` with images (N, H, W, C): inside and out it is channels last, as TensorFlow
has it; only `imori.logits` and `imori.outputs` take (N, C, H, W), as from every framework. Sub-modules are attributes
called by the segments of the canonical paths ("0" and the like are read by `getattr`), and variables have TensorFlow's
layouts and Keras's names. With auxiliary heads (`Aux`) it returns (logits, logits of each head, ...) in training.

`tf.saved_model.save(model, folder)` saves `model.serve` too, the signature for serving: "images" in, "logits" out, for
batches of any size, and for images of any size if no layer is bound to one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from imori.frameworks.base import quiet

with quiet():
    import tensorflow as tf

from imori import tree as t
from imori.errors import ImoriError, TreeError
from imori.frameworks.base import Array, Setup, Weights, check_paths
from imori.frameworks.tensorflow.layers import network_of
from imori.frameworks.tensorflow.modules import Network, Run, as_array, as_batch, computing
from imori.frameworks.tensorflow.saving import FORMS, answers, save
from imori.frameworks.tensorflow.step import TensorFlowStep
from imori.shapes import Node
from imori.weights.names import compare

__all__ = [
    "DTYPES",
    "FORMS",
    "answers",
    "build",
    "device",
    "dump",
    "load",
    "logits",
    "outputs",
    "owns",
    "prepare",
    "save",
]

DTYPES = ("float32", "float64")


def device(name: str) -> str:
    """The device that `name` means; "auto" is the first GPU, else "cpu". ImoriError if it is not there."""
    gpus = [f"gpu:{i}" for i in range(len(tf.config.list_physical_devices("GPU")))]
    there = [*gpus, "cpu"]
    if name == "auto":
        return there[0]
    if name not in there:
        raise ImoriError(f"tensorflow has no device {name!r} here; it has {', '.join(there)}, and auto is the fastest")
    return name


def build(root: Node, weights: Weights, dtype: str, device: str) -> Network:
    """The module, its variables on `device`. TreeError for a lone Aux."""
    if isinstance(root.layer, t.Aux):
        raise TreeError("the root is an Aux, which only passes its input through; put it into a Chain with the rest")
    cast = {name: np.asarray(value, dtype) for name, value in weights.items()}
    return network_of(root, cast, dtype, device)


def owns(native: object) -> bool:
    """Whether `build` made the module."""
    return isinstance(native, Network)


def load(native: Network, weights: Weights) -> None:
    """Copies canonical weights into the module's own variables; an optimizer of yours keeps hold of them."""
    places = native._places()
    compare(weights, {name: place.shape for name, place in places.items()})
    for name, place in places.items():
        place.write(weights[name])


def dump(native: Network) -> Weights:
    """Canonical weights, as arrays: copies."""
    return {name: place.read() for name, place in native._places().items()}


def logits(native: Network, images: Array) -> Array:
    """Inference on images (N, C, H, W) -> (N, classes), by the module's own `serve`."""
    batch = as_batch(images, native, training=False)
    with computing(native):
        return as_array(native.serve(batch)["logits"])


def outputs(native: Network, images: Array, paths: Sequence[str]) -> dict[str, Array]:
    """Inference on images (N, C, H, W): path -> a copy of that node's output, (N, C, H, W) or (N, F)."""
    check_paths(paths, native._awake())
    batch, run = as_batch(images, native, training=False), Run(watched=frozenset(paths))
    with computing(native):
        native._run(batch, run)
    return {path: as_array(run.outputs[path]) for path in paths}


def prepare(native: Network, setup: Setup) -> TensorFlowStep:
    """A training step that changes the module in place; it is compiled once for each shape of batch."""
    return TensorFlowStep(native, setup)
