"""Pools, over a grid of strides, pads and what ceil and "same" come to."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from imori import engine as e
from imori import tree as t
from imori.shapes import resolve

CASES = {
    f"{kernel[0]}x{kernel[1]}-by{stride[0]}{stride[1]}-pad{pad}{'-ceil' * ceil}": (kernel, stride, pad, ceil)
    for kernel, stride, pad, ceil in product([(2, 2), (3, 2)], [(1, 1), (2, 3)], [(0, 0), (1, 1)], [False, True])
}
GRID = pytest.mark.parametrize(("kernel", "stride", "pad", "ceil"), list(CASES.values()), ids=list(CASES))
SIZE = (7, 6)


def max_pool(layer: t.MaxPool, size: tuple[int, int] = SIZE) -> e.MaxPool:
    window = resolve(layer, (2, *size)).window
    return e.MaxPool(e.Window(window.kernel, window.stride, window.pads))


def avg_pool(layer: t.AvgPool, size: tuple[int, int] = SIZE) -> e.AvgPool:
    window = resolve(layer, (2, *size)).window
    return e.AvgPool(e.Window(window.kernel, window.stride, window.pads), window.counts)


@GRID
def test_max_pool(checks: Any, kernel: Any, stride: Any, pad: Any, ceil: bool) -> None:
    layer = max_pool(t.MaxPool(kernel, stride, pad, ceil))
    x = checks.normal(2, 3, *SIZE) - 3  # padding by zeros would win
    checks.against_torch(lambda w: layer, lambda x: F.max_pool2d(x, kernel, stride, pad, ceil_mode=ceil), x)
    checks.against_differences(layer, x)


@GRID
@pytest.mark.parametrize("include", [True, False], ids=["pads-counted", "pads-not-counted"])
def test_average_pool(checks: Any, kernel: Any, stride: Any, pad: Any, ceil: bool, include: bool) -> None:
    layer = avg_pool(t.AvgPool(kernel, stride, pad, ceil, include))
    x = checks.normal(2, 3, *SIZE)
    checks.against_torch(
        lambda w: layer, lambda x: F.avg_pool2d(x, kernel, stride, pad, ceil_mode=ceil, count_include_pad=include), x
    )
    checks.against_differences(layer, x)


@pytest.mark.parametrize("pad", ["same", (0, 2, 1, 0)], ids=["same", "uneven"])
def test_uneven_padding(checks: Any, pad: Any) -> None:
    x = checks.normal(2, 3, *SIZE) - 3
    window = resolve(t.MaxPool(3, 2, pad), (2, *SIZE)).window
    top, bottom, left, right = window.pads
    assert (top, left) != (bottom, right), "this case is about uneven padding"
    sides = (left, right, top, bottom)
    checks.against_torch(
        lambda w: max_pool(t.MaxPool(3, 2, pad)), lambda x: F.max_pool2d(F.pad(x, sides, value=-torch.inf), 3, 2), x
    )

    def average(x: torch.Tensor) -> torch.Tensor:
        inside = F.pad(torch.ones_like(x), sides)
        return F.avg_pool2d(F.pad(x, sides), 3, 2) / F.avg_pool2d(inside, 3, 2)

    layer = avg_pool(t.AvgPool(3, 2, pad, count_include_pad=False))
    checks.against_torch(lambda w: layer, average, x)
    checks.against_differences(layer, x)


TIES = {
    "blank": np.zeros((2, 3, *SIZE)),
    "constant": np.full((2, 3, *SIZE), -1.5),
    "few-values": np.random.default_rng(5).integers(0, 3, (2, 3, *SIZE)).astype(float),
}


@GRID
@pytest.mark.parametrize("x", list(TIES.values()), ids=list(TIES))
def test_of_equal_values_the_first_wins(checks: Any, kernel: Any, stride: Any, pad: Any, ceil: bool, x: Any) -> None:
    layer = max_pool(t.MaxPool(kernel, stride, pad, ceil))
    checks.against_torch(lambda w: layer, lambda x: F.max_pool2d(x, kernel, stride, pad, ceil_mode=ceil), x)


def test_a_window_of_many_values(checks: Any) -> None:
    layer = e.MaxPool(e.Window((17, 16)))
    x = checks.normal(1, 2, 18, 17)
    checks.against_torch(lambda w: layer, lambda x: F.max_pool2d(x, (17, 16), 1), x)


def test_what_is_no_number_is_not_hidden() -> None:
    x = np.array([0.5, np.nan, 2.0, 1.0]).reshape(1, 1, 2, 2)
    assert np.isnan(e.MaxPool(e.Window((2, 2))).forward(x)).all()


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 4), (7, 6), (8, 9)], ids=str)
def test_adaptive_pool(checks: Any, size: tuple[int, int]) -> None:
    x = checks.normal(2, 3, *SIZE)
    checks.against_torch(lambda w: e.AdaptiveAvgPool(size), lambda x: F.adaptive_avg_pool2d(x, size), x)
    checks.against_differences(e.AdaptiveAvgPool(size), checks.normal(1, 2, 5, 4))


def test_global_pool(checks: Any) -> None:
    checks.against_torch(lambda w: e.GlobalAvgPool(), lambda x: x.mean((2, 3)), checks.normal(2, 3, *SIZE))
    checks.against_differences(e.GlobalAvgPool(), checks.normal(2, 3, 4, 3))
