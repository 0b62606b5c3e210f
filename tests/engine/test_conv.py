"""Convolutions, over a grid of strides, pads, groups and dilations."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from imori.engine import Convolution, ConvTranspose, Depthwise, Window, conv

PADS = {"valid": (0, 0, 0, 0), "even": (1, 1, 1, 1), "uneven": (0, 1, 2, 0)}
WINDOWS = {
    f"{kernel[0]}x{kernel[1]}-by{stride[0]}{stride[1]}-{pads}-d{dilation[0]}{dilation[1]}": Window(
        kernel, stride, PADS[pads], dilation
    )
    for kernel, stride, pads, dilation in product([(3, 2)], [(1, 1), (2, 3)], PADS, [(1, 1), (2, 1)])
} | {
    "1x1": Window((1, 1)),
    "1x1-by22": Window((1, 1), (2, 2)),
    "1x1-padded": Window((1, 1), (1, 1), (1, 0, 0, 1)),
    "5x1-wider-than-half": Window((5, 1), (1, 1), (4, 3, 0, 0)),
}
GRID = pytest.mark.parametrize("window", list(WINDOWS.values()), ids=list(WINDOWS))


def torch_pad(x: torch.Tensor, pads: tuple[int, int, int, int]) -> torch.Tensor:
    return F.pad(x, (pads[2], pads[3], pads[0], pads[1]))


@pytest.fixture(params=[1, 300, 2**22], ids=["image-by-image", "some-at-a-time", "at-once"])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns are made for so many bytes at a time."""
    monkeypatch.setattr(conv, "BLOCK", request.param)


@GRID
@pytest.mark.parametrize("groups", [1, 2])
def test_convolution_equals_torch(checks: Any, window: Window, groups: int, block: None) -> None:
    weights = {"weight": checks.normal(6, 4 // groups, *window.kernel), "bias": checks.normal(6)}
    checks.against_torch(
        lambda w: Convolution(w["weight"], w["bias"], window, groups),
        lambda x, weight, bias: F.conv2d(
            torch_pad(x, window.pads), weight, bias, window.stride, 0, window.dilation, groups
        ),
        checks.normal(4, 3, 6, 7),
        weights,
    )


@GRID
@pytest.mark.parametrize("groups", [1, 2])
def test_convolution_has_the_gradients_of_finite_differences(checks: Any, window: Window, groups: int) -> None:
    layer = Convolution(checks.normal(2, 2 // groups, *window.kernel), checks.normal(2), window, groups)
    checks.against_differences(layer, checks.normal(2, 2, 5, 4))


def test_convolution_of_blank_images(checks: Any) -> None:
    layer = Convolution(checks.normal(2, 2, 3, 3), checks.normal(2), Window((3, 3), pads=(1, 1, 1, 1)))
    checks.against_differences(layer, np.zeros((2, 2, 4, 4)))


def test_convolution_without_bias(checks: Any) -> None:
    window = Window((2, 2))
    layer = Convolution(checks.normal(3, 2, 2, 2), None, window)
    assert set(layer.weights) == {"weight"}
    checks.against_differences(layer, checks.normal(2, 2, 3, 3))


@GRID
@pytest.mark.parametrize("multiplier", [1, 3])
def test_depthwise_equals_torch(checks: Any, window: Window, multiplier: int, block: None) -> None:
    weights = {"weight": checks.normal(4 * multiplier, 1, *window.kernel), "bias": checks.normal(4 * multiplier)}
    checks.against_torch(
        lambda w: Depthwise(w["weight"], w["bias"], window),
        lambda x, weight, bias: F.conv2d(torch_pad(x, window.pads), weight, bias, window.stride, 0, window.dilation, 4),
        checks.normal(4, 3, 6, 7),
        weights,
    )


@GRID
def test_depthwise_has_the_gradients_of_finite_differences(checks: Any, window: Window) -> None:
    layer = Depthwise(checks.normal(4, 1, *window.kernel), checks.normal(4), window)
    checks.against_differences(layer, checks.normal(2, 2, 5, 4))


def test_depthwise_without_bias(checks: Any) -> None:
    checks.against_differences(Depthwise(checks.normal(2, 1, 2, 2), None, Window((2, 2))), checks.normal(2, 2, 3, 3))


TRANSPOSED = {
    "stride1": (Window((3, 2)), (0, 0)),
    "stride2": (Window((3, 3), (2, 2)), (0, 0)),
    "cropped": (Window((3, 4), (2, 3), (1, 1, 2, 2)), (0, 0)),
    "cropped-unevenly": (Window((3, 3), (2, 2), (0, 1, 2, 0)), (0, 0)),
    "longer": (Window((3, 3), (2, 3), (1, 1, 1, 1)), (1, 2)),
    "smaller-than-stride": (Window((1, 2), (2, 3)), (1, 0)),
    "1x1": (Window((1, 1)), (0, 0)),
}
TRANSPOSED_GRID = pytest.mark.parametrize(("window", "more"), list(TRANSPOSED.values()), ids=list(TRANSPOSED))


@TRANSPOSED_GRID
@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_equals_torch(checks: Any, window: Window, more: tuple[int, int], groups: int, block: None) -> None:
    def theirs(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        # torch crops evenly alone: the whole result is cropped here, and grows by what `more` asks beyond it
        top, bottom, left, right = window.pads
        whole = F.conv_transpose2d(x, weight, None, window.stride, 0, more, groups)
        height, width = whole.shape[2:]
        return whole[:, :, top : height - bottom, left : width - right] + bias[:, None, None]

    weights = {"weight": checks.normal(4, 6 // groups, *window.kernel), "bias": checks.normal(6)}
    checks.against_torch(
        lambda w: ConvTranspose(w["weight"], w["bias"], window, groups, more),
        theirs,
        checks.normal(4, 3, 4, 3),
        weights,
    )


@TRANSPOSED_GRID
@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_has_the_gradients_of_finite_differences(
    checks: Any, window: Window, more: tuple[int, int], groups: int
) -> None:
    layer = ConvTranspose(checks.normal(2, 4 // groups, *window.kernel), checks.normal(4), window, groups, more)
    checks.against_differences(layer, checks.normal(2, 2, 3, 4))


def test_transposed_is_the_gradient_of_the_convolution(checks: Any) -> None:
    window = Window((3, 2), (2, 1), (1, 0, 0, 1))
    weight = checks.normal(4, 3, 3, 2)
    forward = Convolution(weight, None, window)
    x = checks.normal(3, 2, 7, 5)
    _, dy, dx = checks.run(forward, x)
    back = ConvTranspose(weight, None, window, output_pad=(1, 0)).forward(dy)
    checks.agree(back, dx, 1e-12, "the transposed convolution")


LAYERS = {
    "Convolution": lambda w, b, window: Convolution(w, b, window),
    "Depthwise": lambda w, b, window: Depthwise(w.reshape(-1, 1, 2, 2)[:4], b, window),
    "ConvTranspose": lambda w, b, window: ConvTranspose(w, b, window),
}


@pytest.mark.parametrize("make", list(LAYERS.values()), ids=list(LAYERS))
def test_what_is_not_needed_is_not_worked_out(checks: Any, make: Any) -> None:
    layer = make(checks.normal(2, 2, 2, 2), checks.normal(4)[: 4 if make is LAYERS["Depthwise"] else 2], Window((2, 2)))
    x = checks.normal(2, 2, 4, 4)
    y, dy, dx = checks.run(layer, x)
    whole = dict(layer.gradients)
    for trained, passes in product(({"weight"}, {"bias"}, set()), (True, False)):
        layer.trained, layer.passes = frozenset(trained), passes
        layer.gradients.clear()
        assert np.array_equal(layer.forward(x, training=True), y)
        if not layer.learns:
            assert layer.recall() == ()
            continue
        again = layer.backward(dy)
        assert set(layer.gradients) == trained
        assert all(np.array_equal(layer.gradients[role], whole[role]) for role in trained)
        assert np.array_equal(again, dx) if passes else again is None
