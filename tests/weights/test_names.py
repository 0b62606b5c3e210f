"""Canonical names, strictness, and the one seeded start."""

from math import sqrt

import numpy as np
import pytest

import imori
from imori.catalogue import model
from imori.errors import WeightsError
from imori.shapes import resolve
from imori.tree import (
    Aux,
    BatchNorm,
    Chain,
    Conv,
    ConvTranspose,
    Depthwise,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Init,
    Linear,
    ReLU,
    Tree,
)
from imori.weights import check, initial_weights, shapes_of

SHAPE = (3, 20, 24)
NET = Chain(
    conv=Conv(6, 3, bias=False),
    bn=BatchNorm(),
    aux=Aux(Chain(pool=GlobalAvgPool(), fc=Linear(4))),
    pool=GlobalAvgPool(),
    fc=Linear(4),
)


DRAWN = {"conv.weight", "aux.fc.weight", "fc.weight"}

# --- names -----------------------------------------------------------------------------------------------------------


def test_a_name_is_the_path_and_the_role() -> None:
    assert shapes_of(resolve(NET, SHAPE)) == {
        "conv.weight": (6, 3, 3, 3),
        "bn.weight": (6,),
        "bn.bias": (6,),
        "bn.mean": (6,),
        "bn.var": (6,),
        "aux.fc.weight": (4, 6),
        "aux.fc.bias": (4,),
        "fc.weight": (4, 6),
        "fc.bias": (4,),
    }
    assert shapes_of(resolve(Linear(2), (3,))) == {"weight": (2, 3), "bias": (2,)}


def test_what_is_missing_unexpected_and_misshaped_is_listed() -> None:
    weights = initial_weights(NET, SHAPE)
    check(weights, resolve(NET, SHAPE))
    del weights["bn.mean"], weights["bn.var"]
    weights["extra"] = np.zeros(3)
    weights["conv.weight"] = weights["conv.weight"][:5]
    weights["fc.bias"] = np.float32(0)
    with pytest.raises(WeightsError) as refused:
        check(weights, resolve(NET, SHAPE), "a.safetensors")
    assert str(refused.value) == (
        "a.safetensors do not fit this network; missing: bn.mean, bn.var; unexpected: extra; misshaped: conv.weight is"
        " 5×3×3×3 and must be 6×3×3×3, fc.bias is a scalar and must be 4. Use weights of the same model, variant and"
        " number of classes and channels"
    )


def test_long_lists_are_cut_short() -> None:
    with pytest.raises(WeightsError, match=r"missing: conv1\.weight, (\S+, ){3}\S+ and 97 more\. Use"):
        check({}, resolve(model("resnet18"), (3, 64, 64)))


# --- the start -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "shape", "fan_in", "fan_out"),
    [
        (Conv(96, 5, init="he"), (64, 9, 9), 64 * 25, 96 * 25),
        (Conv(96, 5, groups=4, init="he"), (64, 9, 9), 16 * 25, 24 * 25),
        (Depthwise(7, multiplier=3, init="he"), (700, 9, 9), 49, 3 * 49),
        (ConvTranspose(96, 5, groups=2, init="he"), (64, 9, 9), 32 * 25, 48 * 25),
        (Linear(300, init="he"), (400,), 400, 300),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int | tuple) else "",
)
def test_deviations(layer: Tree, shape: tuple[int, ...], fan_in: int, fan_out: int) -> None:
    def drawn(init: Init) -> np.ndarray:
        fields = {name: value for name, value in vars(layer).items() if name != "init"}
        return initial_weights(type(layer)(**fields, init=init), shape, seed=3)["weight"].ravel()

    he, xavier, fixed = drawn("he"), drawn("xavier"), drawn(0.01)
    error = 5 / sqrt(he.size)
    for values, deviation, kurtosis in (
        (he, sqrt(2 / fan_in), 3),
        (xavier, sqrt(2 / (fan_in + fan_out)), 1.8),
        (fixed, 0.01, 3),
    ):
        assert values.std() == pytest.approx(deviation, rel=error)
        assert abs(values.mean()) < error * deviation
        assert ((values / values.std()) ** 4).mean() == pytest.approx(kurtosis, rel=8 * error)
    bound = sqrt(6 / (fan_in + fan_out))
    assert bound * 0.999 < np.abs(xavier).max() <= bound * (1 + 1e-6)


def test_all_else_starts_at_nought_or_one() -> None:
    start = initial_weights(NET, SHAPE)
    assert {name: {*values.ravel().tolist()} for name, values in start.items() if name not in DRAWN} == {
        "bn.weight": {1.0},
        "bn.bias": {0.0},
        "bn.mean": {0.0},
        "bn.var": {1.0},
        "aux.fc.bias": {0.0},
        "fc.bias": {0.0},
    }
    assert list(start) == list(shapes_of(resolve(NET, SHAPE)))


def test_the_seed_decides() -> None:
    first, again, other = (initial_weights(NET, SHAPE, seed)["conv.weight"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.isclose(first, other).any()


def test_layers_of_one_shape_differ() -> None:
    start = initial_weights(NET, SHAPE)
    assert not np.isclose(start["fc.weight"], start["aux.fc.weight"]).any()


def test_a_layer_more_changes_no_other() -> None:
    before = Chain(conv=Conv(6, 3), fc=Chain(Flatten(), Linear(4)))
    after = Chain(
        drop=Dropout(), conv=Conv(6, 3), norm=BatchNorm(), act=ReLU(), fc=Chain(Flatten(), Dropout(), Linear(4))
    )
    one, two = initial_weights(before, SHAPE, 5), initial_weights(after, SHAPE, 5)
    for name, values in one.items():
        np.testing.assert_array_equal(values, two[name])


def test_float64_holds_the_same_numbers() -> None:
    single, double = (initial_weights(NET, SHAPE, 5, dtype) for dtype in ("float32", "float64"))
    for name, values in single.items():
        assert (values.dtype, double[name].dtype) == (np.float32, np.float64)
        np.testing.assert_array_equal(values, double[name])


def test_the_start_is_the_same_on_every_machine() -> None:
    """Numbers that were drawn once: another platform or NumPy must draw them too."""
    start = initial_weights(model("lenet", classes=10), (1, 32, 32), seed=0)
    assert start["conv1.weight"][0, 0, 0].tolist() == pytest.approx(CONV1, rel=1e-6)
    assert start["fc3.weight"][9, -3:].tolist() == pytest.approx(FC3, rel=1e-6)


CONV1 = [-0.260751, 0.2073489, -0.4573185, -0.07276335, -0.4468718]
FC3 = [-0.002945594, 0.04954416, -0.1206688]


@pytest.mark.parametrize("seed", [-1, 1.5, True, "a"])
def test_a_seed_is_a_whole_number(seed: object) -> None:
    with pytest.raises(WeightsError, match=r"the seed is .*; it must be a whole number from 0"):
        initial_weights(NET, SHAPE, seed)


def test_the_public_name_is_this() -> None:
    assert imori.initial_weights is initial_weights


@pytest.mark.parametrize("given", [[1], "runs/a", {"conv1.weight": None}], ids=["list", "path", "none"])
def test_what_is_no_dictionary_of_arrays_is_refused(given: object) -> None:
    with pytest.raises(WeightsError, match=r"dictionary of NumPy arrays.*imori\.read_weights"):
        imori.build(NET, SHAPE, "numpy", weights=given)
