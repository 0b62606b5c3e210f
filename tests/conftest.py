"""Fixtures that every test may ask for."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real photos, MNIST and published references that some tests read."""
    root = os.environ.get("IMORI_DATA")
    if not root:
        pytest.skip("IMORI_DATA is not set: it names the folder with mnist/, cats_dogs/ and newts/")
    assert Path(root).is_dir(), f"IMORI_DATA is {root}, which is no folder"
    return Path(root)
