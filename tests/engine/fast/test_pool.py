"""The fast max pool beside the plain one: windows that overlap or leave gaps, padding, ties and blank maps."""

from itertools import product
from typing import Any

import numpy as np
import pytest

from imori.engine import Window, fast
from imori.engine.fast import layout

PADS = {"unpadded": (0, 0, 0, 0), "padded": (1, 1, 1, 1), "uneven": (0, 1, 1, 0)}
WINDOWS = {
    f"{kernel[0]}x{kernel[1]}-by{stride[0]}{stride[1]}-{pads}": Window(kernel, stride, PADS[pads])
    for kernel, stride, pads in product([(2, 2), (3, 2)], [(1, 1), (2, 2), (2, 3)], PADS)
} | {"2x2-by22-beyond": Window((2, 2), (2, 2), (0, 1, 0, 1)), "3x3-d2": Window((3, 3), dilation=(2, 2))}
MAPS = {
    "random": np.random.default_rng(4).standard_normal((3, 4, 7, 6)) - 3,
    "even": np.random.default_rng(4).standard_normal((3, 4, 8, 6)) - 3,
    "blank": np.zeros((3, 4, 7, 6)),
    "constant": np.full((3, 4, 7, 6), -1.5),
    "few-values": np.random.default_rng(5).integers(0, 3, (3, 4, 7, 6)).astype(float),
    "few-values-even": np.random.default_rng(6).integers(0, 2, (3, 4, 8, 8)).astype(float),
}


@pytest.mark.parametrize("block", [1, 2**20], ids=["image-by-image", "at-once"])
@pytest.mark.parametrize("window", list(WINDOWS.values()), ids=list(WINDOWS))
@pytest.mark.parametrize("x", list(MAPS.values()), ids=list(MAPS))
def test_max_pool(checks: Any, window: Window, x: Any, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "BLOCK", block)
    checks.against_plain(lambda module: module.MaxPool(window), x)


def test_what_is_no_number_is_not_hidden() -> None:
    x = np.array([0.5, np.nan, 2.0, 1.0]).reshape(1, 1, 2, 2)
    assert np.isnan(fast.MaxPool(Window((2, 2))).forward(x)).all()
