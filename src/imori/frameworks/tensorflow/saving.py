"""What TensorFlow's users load: a SavedModel, which is a folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import tensorflow as tf

from imori.frameworks.base import Array
from imori.frameworks.tensorflow.modules import Network, as_array, as_batch, computing

FORMS = {"": 'tf.saved_model.load({}).signatures["serving_default"]'}


def save(native: Network, path: Path, about: Mapping[str, str]) -> None:
    """Writes the folder. Its signature takes preprocessed "images" (N, H, W, C), and gives "logits".

    What the model says of itself is in assets.extra, the folder that a SavedModel has for files of others.
    """
    tf.saved_model.save(native, str(path))
    (path / "assets.extra").mkdir()
    (path / "assets.extra" / "imori.json").write_text(json.dumps(dict(about)), encoding="utf-8")


def answers(twin: Network, path: Path, images: Array) -> Array:
    """Logits (N, classes) by a folder."""
    with computing(twin):
        loaded = tf.saved_model.load(str(path))
        return as_array(loaded.signatures["serving_default"](images=as_batch(images, twin, training=False))["logits"])
