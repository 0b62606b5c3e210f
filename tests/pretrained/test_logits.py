"""Real ImageNet weights give, in every framework, the logits that Keras gives with them.

keras_logits.json holds Keras's own, in float64, of the first 40 classes for two images of noise: what `noise` below
makes. tests/frameworks/keras/test_applications.py shows that Keras gives them.
"""

import json
from pathlib import Path

import numpy as np
import pytest

import imori
from imori import frameworks
from imori.pretrained.reading import pretrained

#  file of Keras -> our name of the network, its width, the input's size
FILES = {
    "mobilenet_v2_1.0_224_imagenet": ("mobilenet_v2", 1.0, 224),
    "mobilenet_0.5_160_imagenet": ("mobilenet_v1", 0.5, 160),
    "mobilenet_0.25_128_imagenet": ("mobilenet_v1", 0.25, 128),
}
PUBLISHED = json.loads(Path(__file__).with_name("keras_logits.json").read_text(encoding="utf-8"))
TOLERANCE = {"float64": 1e-9, "float32": 1e-4}


def noise(count: int, size: int) -> np.ndarray:
    """Images (count, 3, size, size); Keras rounds what it is given to float32, whatever it computes in."""
    return np.random.default_rng(0).uniform(-1, 1, (count, 3, size, size)).astype(np.float32)


@pytest.mark.parametrize(
    "file", [file if "0.25" in file else pytest.param(file, marks=pytest.mark.slow) for file in FILES]
)
def test_every_framework_gives_keras_s_logits(framework: str, file: str, data_root: Path) -> None:
    model, width, size = FILES[file]
    made = pretrained(model, data_root / "pretrained" / f"{file}.weights.h5", size=size)
    assert (made.width, made.card.input) == (width, (3, size, size))
    expected = np.array(PUBLISHED[file])
    images = noise(len(expected), size)
    for dtype in frameworks.get(framework).DTYPES:
        native = imori.build(made.card.tree, made.card.input, framework, made.weights, dtype)
        found = imori.logits(native, images.astype(dtype))[:, : expected.shape[1]]
        assert np.abs(found - expected).max() <= TOLERANCE[dtype] * np.abs(expected).max(), dtype
