"""Preprocessing inside the graph: Pillow's pixels and our numbers, bit for bit."""

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from PIL import Image

from imori.data import Preprocessing
from imori.data.preprocessing import INTERPOLATIONS, RESIZES
from imori.frameworks.onnx import photos, session
from imori.frameworks.onnx.graph import Graph, tensor

SIZES = [(64, 64), (33, 50), (5, 200), (120, 7), (1, 1)]
PHOTOS = [(300, 400), (37, 53), (731, 499), (64, 64), (1, 1), (3, 1000), (400, 3), (50, 33), (97, 31)]
"""(height, width): larger and smaller than what they become, and of its very size."""


def inside(how: Preprocessing) -> Any:
    """What the graph makes of photos, before the network."""
    graph = Graph()
    graph.add("Identity", [photos.add_preprocessing(graph, "photos", how)], "images")
    model = graph.model(
        [tensor("photos", TensorProto.UINT8, ["N", "H", "W", 3])],
        [tensor("images", TensorProto.FLOAT, ["N", how.channels, *how.size])],
    )
    onnx.checker.check_model(model, full_check=True)
    made = session(model)
    return lambda pixels: made.run(None, {"photos": pixels})[0]


def noise(height: int, width: int, count: int = 1) -> np.ndarray:
    return np.random.default_rng([height, width]).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("resize", RESIZES)
@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_a_resized_photo_is_pillows(interpolation: str, resize: str) -> None:
    for i, size in enumerate(SIZES):
        share = 1.0 if resize == "stretch" else (1.0, 0.875)[i % 2]
        how = Preprocessing(size, (3, 1)[i % 2], resize, share, interpolation, scale=1.0)
        images = inside(how)
        for photo in PHOTOS:
            pixels = noise(*photo)
            expected = how(Image.fromarray(pixels[0]))
            np.testing.assert_array_equal(images(pixels)[0], expected, err_msg=f"{photo} to {size}")


@pytest.mark.parametrize(
    "fields",
    [
        {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
        {"order": "bgr", "scale": 1.0, "mean": (103.939, 116.779, 123.68)},
        {"scale": 1 / 127.5, "mean": (1.0, 1.0, 1.0)},
        {"std": (0.5, 1.0, 2.0)},
        {"channels": 1, "mean": (0.13,), "std": (0.31,)},
        {},
    ],
    ids=str,
)
def test_numbers_are_scaled_as_ours(fields: dict[str, Any]) -> None:
    how = Preprocessing((20, 30), **fields)
    pixels = noise(61, 83, count=3)
    expected = np.stack([how(Image.fromarray(each)) for each in pixels])
    np.testing.assert_array_equal(inside(how)(pixels), expected)


def test_grey_values_are_pillows() -> None:
    """Every sum of the three shares that rounds one way or the other."""
    pixels = np.random.default_rng(0).integers(0, 256, (1, 512, 512, 3), dtype=np.uint8)
    pixels[0, 0, :256] = np.arange(256)[:, None]
    how = Preprocessing((512, 512), 1, "stretch", scale=1.0)
    expected = np.asarray(Image.fromarray(pixels[0]).convert("L"))
    np.testing.assert_array_equal(inside(how)(pixels)[0, 0], expected)
