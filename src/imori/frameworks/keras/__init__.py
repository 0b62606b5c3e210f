"""Keras 3: a tree becomes an ordinary functional `keras.Model`, on Keras's TensorFlow, JAX or PyTorch backend.

Its layers are Keras's own, called by the canonical paths, so that it compiles, fits, and saves to files that load
without imori. Like every Keras model of images it takes them channels last, (N, H, W, C), of any size where no layer
binds it to one; `imori.logits` takes (N, C, H, W), as in every framework. A map is turned to channels first before it
is flattened: then a dense layer's rows stand in the order of the other frameworks whatever lies between the two, and
an optimizer's memory needs no care of its own. Auxiliary heads belong to a second model of the same layers, which
imori's training step runs; the model handed out has one output, and saves without them.

Two things differ from the other frameworks. An `AdaptiveAvgPool` binds the model to its size, for a Keras graph knows
no others. And `fit` keeps Keras's biased running variance, where imori's own step keeps the unbiased one.

The backend is the one that Keras is configured for (KERAS_BACKEND, keras.json). In float64 it is TensorFlow.
"""

from __future__ import annotations

from typing import Any

from imori.frameworks.base import Setup
from imori.frameworks.keras.backend import device
from imori.frameworks.keras.model import build, dump, load, logits, outputs, owns
from imori.frameworks.keras.saving import FORMS, answers, save
from imori.frameworks.keras.step import KerasStep

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


def prepare(native: Any, setup: Setup) -> KerasStep:
    """A training step that changes the model in place."""
    return KerasStep(native, setup)
