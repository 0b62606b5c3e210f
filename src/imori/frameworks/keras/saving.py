"""The files that Keras's users load: the whole model as .keras, and its weights as .weights.h5."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import ops

from imori.frameworks.base import Array
from imori.frameworks.keras.backend import placed
from imori.frameworks.keras.model import Plan

FORMS = {
    ".keras": "keras.saving.load_model({})",
    ".weights.h5": "model.load_weights({})",
}


def save(native: Any, path: Path, about: Mapping[str, str]) -> None:
    """Writes the model, without auxiliary heads. A .keras has a member of its own that says what it is.

    A .weights.h5 is taken out of a .keras beside it: Keras builds that one in memory, where HDF5 by itself goes on
    after the disk is full, and reports so from destructors.
    """
    if path.suffix == ".keras":
        native.save(path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("imori.json", json.dumps(dict(about)))
        return
    whole = path.with_name("whole.keras")
    try:
        native.save(whole)
        with zipfile.ZipFile(whole) as archive, archive.open("model.weights.h5") as held, open(path, "wb") as file:
            shutil.copyfileobj(held, file)
    finally:
        whole.unlink(missing_ok=True)


def answers(twin: Any, path: Path, images: Array) -> Array:
    """Logits (N, classes) by a file."""
    plan: Plan = twin._imori
    with placed(plan.device):
        if path.suffix == ".keras":
            twin = keras.saving.load_model(path)
        else:
            twin.load_weights(path)
        return np.array(ops.convert_to_numpy(twin.predict_on_batch(plan.images(images))))
