"""The fast convolutions beside the plain ones: every way of working them out, at sizes where it could go wrong."""

from itertools import product
from typing import Any

import numpy as np
import pytest

from imori import engine as e
from imori.engine import Window, fast
from imori.engine.fast import columns, depthwise, layout, pointwise, rows, winograd

PADS = {"valid": (0, 0, 0, 0), "even": (1, 1, 1, 1), "uneven": (0, 1, 2, 0), "wide": (3, 2, 2, 3)}
WINDOWS = {
    f"{kernel[0]}x{kernel[1]}-by{stride[0]}{stride[1]}-{pads}": Window(kernel, stride, PADS[pads])
    for kernel, stride, pads in product([(1, 1), (3, 3), (5, 2)], [(1, 1), (2, 2), (3, 1)], PADS)
} | {
    "3x3-d21": Window((3, 3), (1, 1), (2, 2, 1, 1), (2, 1)),
    "3x3-d31-valid": Window((3, 3), (1, 1), (0, 0, 1, 1), (3, 1)),
    "1x7": Window((1, 7), pads=(0, 0, 3, 3)),
    "7x7-by22": Window((7, 7), (2, 2), (3, 3, 3, 3)),
    "2x2-by33": Window((2, 2), (3, 3)),
}
GRID = pytest.mark.parametrize("window", list(WINDOWS.values()), ids=list(WINDOWS))
SIZES = [(8, 7), (7, 10), (9, 9)]
IN, OUT = 9, 8


@pytest.fixture(params=[1, 2, 3], ids=["image-by-image", "two-and-one", "at-once"])
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """So many of the three images are worked on at a time."""
    monkeypatch.setattr(layout, "BLOCK", request.param)
    for module in (columns, depthwise, rows, winograd):
        monkeypatch.setattr(module, "blocks", lambda count, size: layout.blocks(count, 1))


@pytest.fixture(params=[0, 10**9], ids=["in-place", "gathered"])
def few(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer rows than this are gathered."""
    monkeypatch.setattr(rows, "FEW", request.param)


@GRID
@pytest.mark.parametrize("channels", [2, IN], ids=["few-channels", "channels"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_convolution(checks: Any, window: Window, channels: int, size: tuple[int, int], block: None, few: None) -> None:
    weight, bias = checks.normal(OUT, channels, *window.kernel), checks.normal(OUT)
    checks.against_plain(lambda module: module.Convolution(weight, bias, window), checks.normal(channels, 3, *size))


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 1), (2, 2), (3, 2)], ids=str)
@pytest.mark.parametrize("stride", [(1, 1), (2, 2)], ids=str)
@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (2, 1, 1, 2)], ids=str)
def test_maps_smaller_than_the_window(checks: Any, size: Any, stride: Any, pads: Any) -> None:
    weight, window = checks.normal(OUT, IN, 3, 3), Window((3, 3), stride, pads)
    for count in (1, 40):
        checks.against_plain(lambda module: module.Convolution(weight, None, window), checks.normal(IN, count, *size))


@GRID
def test_depthwise(checks: Any, window: Window, block: None) -> None:
    weight, bias = checks.normal(IN, 1, *window.kernel), checks.normal(IN)
    for size in SIZES:
        checks.against_plain(lambda module: module.Depthwise(weight, bias, window), checks.normal(IN, 3, *size))


@pytest.mark.parametrize(
    ("window", "more"),
    [
        (Window((3, 3)), (0, 0)),
        (Window((3, 3), pads=(1, 1, 1, 1)), (0, 0)),
        (Window((3, 4), (2, 3), (1, 1, 2, 2)), (0, 0)),
        (Window((3, 3), (2, 3), (1, 1, 1, 1)), (1, 2)),
        (Window((1, 2), (2, 3)), (1, 0)),
    ],
    ids=["stride1", "padded", "cropped", "longer", "smaller-than-stride"],
)
def test_transposed(checks: Any, window: Window, more: tuple[int, int], block: None) -> None:
    weight, bias = checks.normal(IN, OUT, *window.kernel), checks.normal(OUT)
    checks.against_plain(lambda module: module.ConvTranspose(weight, bias, window, 1, more), checks.normal(IN, 3, 5, 4))


@pytest.mark.parametrize(
    ("name", "arguments"), [("Convolution", (OUT, IN)), ("Depthwise", (IN, 1)), ("ConvTranspose", (IN, OUT))]
)
@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_are_those_of_finite_differences(checks: Any, name: str, arguments: Any, stride: int) -> None:
    window = Window((3, 3), (stride, stride), (1, 1, 1, 1))
    weight = checks.normal(*arguments, 3, 3)
    bias = checks.normal(OUT if name != "Depthwise" else IN)
    checks.against_differences(getattr(fast, name)(weight, bias, window), checks.normal(IN, 2, 4, 3))


def test_what_is_not_needed_is_not_worked_out(checks: Any) -> None:
    window, x = Window((3, 3), pads=(1, 1, 1, 1)), checks.normal(IN, 2, 6, 6)
    for layer in (
        fast.Convolution(checks.normal(OUT, IN, 3, 3), checks.normal(OUT), window),
        fast.ConvTranspose(checks.normal(IN, OUT, 3, 3), checks.normal(OUT), window),
        fast.Depthwise(checks.normal(IN, 1, 3, 3), checks.normal(IN), window),
    ):
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


# --- which way is taken ----------------------------------------------------------------------------------------------


def test_each_window_is_worked_out_in_its_own_way(checks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[str] = []
    for module in (pointwise, rows, winograd):

        def spy(*arguments: Any, module: Any = module, really: Any = module.correlate) -> Any:
            taken.append(module.__name__.rpartition(".")[2])
            return really(*arguments)

        monkeypatch.setattr(module, "correlate", spy)

    def way(kernel: int, stride: int, pad: int, size: int, channels: int = IN) -> str:
        taken.clear()
        window = Window((kernel, kernel), (stride, stride), (pad,) * 4)
        fast.Convolution(checks.normal(OUT, channels, kernel, kernel), None, window).forward(
            checks.normal(channels, 2, size, size)
        )
        return "".join(taken)

    assert way(1, 1, 0, 6) == way(1, 2, 0, 6) == "pointwise"
    assert way(3, 1, 1, 6) == "winograd"
    assert way(3, 2, 1, 6) == way(5, 1, 2, 6) == way(1, 1, 1, 6) == "rows"
    assert way(3, 1, 1, 1) == "pointwise", "of nine taps one meets the map"
    assert way(3, 1, 1, 6, channels=3) == "", "the columns of the first layer"


# --- Winograd's rounding ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", [winograd.F2, winograd.F4], ids=["F2", "F4"])
def test_the_transforms_are_the_filter(by: winograd.Transforms) -> None:
    """Aᵀ (G g ⊙ Bᵀ d) is y, exactly, for every unit of g and d."""
    for g, d in product(np.eye(3), np.eye(by.m + 2)):
        expected = np.correlate(d, g)
        assert by.outputs @ ((by.filters @ g) * (by.inputs @ d)) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(
    ("rows", "by"),
    [(2, winograd.F2), (3, winograd.F4), (4, winograd.F4), (5, winograd.F2), (6, winograd.F2), (7, winograd.F4)],
)
def test_the_transforms_of_the_fewest_products_are_taken(rows: int, by: winograd.Transforms) -> None:
    assert winograd.fewest(rows) is by


def test_forward_what_sees_nothing_is_exactly_nothing(checks: Any) -> None:
    """A ReLU would let half of a rounding error pass."""
    x = checks.normal(IN, 2, 12, 11).astype("float32")
    x[:, :, 3:8, 2:9] = 0
    layer = fast.Convolution(checks.normal(OUT, IN, 3, 3).astype("float32"), None, Window((3, 3)))
    y = layer.forward(x)
    assert not y[:, :, 3:6, 2:7].any()
    assert y[:, :, :3].all()


def test_float32_rounds_little_more_than_the_formula(checks: Any) -> None:
    window = Window((3, 3), pads=(1, 1, 1, 1))
    weight, x, dy = checks.normal(64, 64, 3, 3), checks.normal(64, 2, 14, 14), checks.normal(64, 2, 14, 14)
    exact = e.Convolution(weight, None, window)
    y, _, dx = checks.run(exact, x, dy)
    quick = fast.Convolution(weight.astype("float32"), None, window)
    found, _, back = checks.run(quick, x.astype("float32"), dy.astype("float32"))
    checks.agree(found, y, 1e-6, "the output")
    checks.agree(back, dx, 3e-6, "the gradient by x")
    checks.agree(quick.gradients["weight"], exact.gradients["weight"], 1e-6, "the gradient by the weight")
