"""Photos and folders made at test time."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Paint = Callable[..., Image.Image]


def painted(width: int = 48, height: int = 36, seed: int = 0) -> Image.Image:
    """An RGB picture without any symmetry, smooth enough to survive a JPEG: each corner has its own colour."""
    rng = np.random.default_rng([seed, width, height])
    corners = Image.fromarray(rng.integers(20, 236, (2, 2, 3), dtype=np.uint8))
    return corners.resize((width, height), Image.Resampling.BILINEAR)


@pytest.fixture
def paint() -> Paint:
    """`painted`, for tests."""
    return painted


@pytest.fixture
def folder(tmp_path: Path) -> Callable[[dict[str, int]], Path]:
    """Makes a folder from {"train/cat": 4, …}: so many photos named 0.png, 1.png, … in each."""

    def make(counts: dict[str, int], root: str = "photos") -> Path:
        for seed, (name, count) in enumerate(counts.items()):
            place = tmp_path / root / name
            place.mkdir(parents=True, exist_ok=True)
            for index in range(count):
                painted(12, 9, seed * 1000 + index).save(place / f"{index}.png")
        return tmp_path / root

    return make


@pytest.fixture(scope="session")
def real() -> Path:
    """The folder of real data that the environment variable IMORI_DATA names."""
    place = os.environ.get("IMORI_DATA")
    if not place:
        pytest.skip("IMORI_DATA names no folder with mnist, cats_dogs and newts")
    return Path(place)
