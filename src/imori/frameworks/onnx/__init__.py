"""ONNX: a tree becomes a `ModelProto`, written node by node without another framework, and ONNX Runtime predicts by it.

It predicts only: to train, build in another framework and take its weights. ONNX Runtime has no convolution in
float64, so all is float32. Like the other frameworks it takes as many threads as OMP_NUM_THREADS says.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
from onnx import ModelProto, TensorProto, helper

from imori import tree as t
from imori.errors import ImoriError, TreeError
from imori.frameworks.base import Array, Setup, Step, Weights, check_paths
from imori.frameworks.onnx.graph import weights_in
from imori.frameworks.onnx.runtime import PROVIDERS, OnnxModel, session
from imori.frameworks.onnx.saving import FORMS, answers, save
from imori.shapes import Node
from imori.weights.names import check

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

DTYPES = ("float32",)


def device(name: str) -> str:
    """The device that `name` means; "auto" is CUDA where this ONNX Runtime has it. ImoriError if it is not there."""
    there = [known for known, provider in PROVIDERS.items() if provider in ort.get_available_providers()]
    if name == "auto":
        return there[0]
    if name not in there:
        raise ImoriError(f"onnx has no device {name!r} here; it has {', '.join(there)}, and auto is the fastest")
    return name


def build(root: Node, weights: Weights, dtype: str, device: str) -> OnnxModel:
    """The model. TreeError for a lone Aux, WeightsError for a network that is too large for a file."""
    if isinstance(root.layer, t.Aux):
        raise TreeError("the root is an Aux, which only passes its input through; put it into a Chain with the rest")
    return OnnxModel(root, weights, device)


def owns(native: object) -> bool:
    """Whether `build` made the model."""
    return isinstance(native, OnnxModel)


def load(native: OnnxModel, weights: Weights) -> None:
    """Takes canonical weights in place of the model's own."""
    check(weights, native.check.root)
    native.fill(weights)


def dump(native: OnnxModel) -> Weights:
    """Canonical weights, as arrays: copies."""
    return weights_in(native.proto)


def logits(native: OnnxModel, images: Array) -> Array:
    """Inference on images (N, C, H, W) -> (N, classes)."""
    return _run(native, native.session, images)[0]


def _run(native: OnnxModel, session: ort.InferenceSession, images: Array) -> list[Array]:
    images = np.ascontiguousarray(images, "float32")
    native.check(images.shape, False)
    found: list[Array] = session.run(None, {"images": images})
    return found


def outputs(native: OnnxModel, images: Array, paths: Sequence[str]) -> dict[str, Array]:
    """Inference on images (N, C, H, W): path -> a copy of that node's output, (N, C, H, W) or (N, F).

    ONNX Runtime gives outputs alone, so a session is made that has these.
    """
    check_paths(paths, native.values)
    wanted = list(dict.fromkeys(paths))
    proto = ModelProto()
    proto.CopyFrom(native.proto)
    for i, path in enumerate(wanted):
        proto.graph.node.append(helper.make_node("Identity", [native.values[path]], [f"output-{i}"]))
        proto.graph.output.append(helper.make_tensor_value_info(f"output-{i}", TensorProto.FLOAT, None))
    return dict(zip(wanted, _run(native, session(proto, native.device), images)[1:], strict=True))


def prepare(native: OnnxModel, setup: Setup) -> Step:
    """ImoriError: ONNX Runtime does not train."""
    raise ImoriError("onnx predicts and does not train; train in another framework, and build here with its weights")
