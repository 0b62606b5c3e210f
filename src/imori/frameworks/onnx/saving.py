"""The file that ONNX Runtime's users open: from images to logits, or from photos to probabilities."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from onnx import ModelProto

from imori.frameworks.base import Array
from imori.frameworks.onnx.graph import describe
from imori.frameworks.onnx.runtime import OnnxModel, session

FORMS = {".onnx": "onnxruntime.InferenceSession({})"}


def save(native: OnnxModel, path: Path, about: Mapping[str, str]) -> None:
    """Writes the model from images to logits, with what it says of itself in its metadata."""
    proto = ModelProto()
    proto.CopyFrom(native.proto)
    write(proto, path, about)


def write(proto: ModelProto, path: Path, about: Mapping[str, str]) -> None:
    """Writes a model; equal ones are equal files."""
    describe(proto, about)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def answers(twin: OnnxModel, path: Path, images: Array) -> Array:
    """Logits (N, classes) by a file."""
    images = np.ascontiguousarray(images, "float32")
    found: Array = session(path, twin.device).run(None, {"images": images})[0]
    return found


def probabilities(path: Path, photo: Array) -> Array:
    """Of a uint8 photo (H, W, 3), by a file with the preprocessing inside: (classes,)."""
    found: Array = session(path).run(None, {"photos": photo[np.newaxis]})[0][0]
    return found
