"""The file that Chainer's users load: a .npz of `chainer.serializers`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from imori.frameworks.base import Array
from imori.frameworks.chainer.shims import chainer
from imori.frameworks.chainer.weights import as_array, as_variable, running

FORMS = {".npz": "chainer.serializers.load_npz({}, model)"}


def save(native: chainer.Link, path: Path, about: Mapping[str, str]) -> None:
    """Writes what `save_npz` does, and an entry "imori" that says what it is: `load_npz` does not ask for it."""
    serializer = chainer.serializers.DictionarySerializer()
    serializer.save(native)
    np.savez_compressed(path, **serializer.target, imori=np.array(json.dumps(dict(about))))


def answers(twin: chainer.Link, path: Path, images: Array) -> Array:
    """Logits (N, classes) by a file."""
    chainer.serializers.load_npz(path, twin)
    with running(twin, train=False):
        return as_array(twin(as_variable(twin, images)).array)
