"""The frameworks by name: which there are, which is taken, whose a model is, and what building refuses."""

import inspect
import re
from typing import Any

import numpy as np
import pytest

import imori
from imori import frameworks
from imori.errors import FrameworkMissing, ImoriError, NameUnknown, TreeError, WeightsError
from imori.frameworks.base import Framework
from imori.tree import Chain, Conv, Flatten, Linear, MaxPool
from imori.weights import initial_weights

NET = Chain(conv=Conv(3, 3), flatten=Flatten(), fc=Linear(2))
SHAPE = (2, 5, 6)


def test_names_are_found_the_preferred_first() -> None:
    names = frameworks.names()
    assert names[0] == "torch"
    assert names[-2:] == ("numpy", "onnx"), "one that only predicts is the last, and is never taken unasked"
    assert "base" not in names


def test_a_framework_offers_what_the_protocol_asks(framework: str) -> None:
    module = frameworks.get(framework)
    assert frameworks.name_of(module) == framework
    assert set(module.DTYPES) >= ({"float32"} if framework in frameworks.PREDICTING else {"float32", "float64"})
    for method, asked in inspect.getmembers(Framework, inspect.isfunction):
        if method.startswith("_"):
            continue
        arguments = [part for part in inspect.signature(asked).parameters if part != "self"]
        offered = inspect.signature(getattr(module, method)).parameters.values()
        assert [part.name for part in offered if part.default is part.empty] == arguments, method


def test_an_unknown_framework_lists_the_known() -> None:
    with pytest.raises(NameUnknown, match=r"'pytorch'.*torch.*numpy"):
        frameworks.get("pytorch")


def test_a_missing_framework_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frameworks, "installed", lambda name: name == "numpy")
    with pytest.raises(FrameworkMissing, match=re.escape("pip install 'imori[torch]'")):
        frameworks.get("torch")
    with pytest.raises(FrameworkMissing, match=re.escape("--no-build-isolation 'imori[chainer]'")):
        frameworks.get("chainer")
    assert frameworks.name_of(frameworks.get()) == "numpy"


def test_a_framework_without_what_it_needs_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(missing: str) -> None:
        raise ModuleNotFoundError(f"No module named {missing!r}", name=missing)

    monkeypatch.setattr(frameworks.importlib, "import_module", lambda name: fail("jax"))
    with pytest.raises(FrameworkMissing, match=r"torch needs jax, which is not installed.*'imori\[torch\]'"):
        frameworks.get("torch")
    monkeypatch.setattr(frameworks.importlib, "import_module", lambda name: fail("imori.nothing"))
    with pytest.raises(ModuleNotFoundError, match=r"No module named 'imori\.nothing'"):
        frameworks.get("torch")


def test_without_a_name_the_preferred_framework_is_taken() -> None:
    assert frameworks.name_of(frameworks.get()) == "torch"
    assert frameworks.name_of(frameworks.of(imori.build(NET, SHAPE))) == "torch"


def test_a_model_is_known_by_its_own_framework_alone(framework: str) -> None:
    native = imori.build(NET, SHAPE, framework)
    assert frameworks.name_of(frameworks.of(native)) == framework
    assert [other for other in {framework, "numpy"} if frameworks.get(other).owns(native)] == [framework]


@pytest.mark.parametrize("stranger", [np.zeros(3), NET, None, "model", object], ids=lambda thing: type(thing).__name__)
def test_a_stranger_is_refused(stranger: Any) -> None:
    with pytest.raises(ImoriError, match=r"no model of torch, .*imori\.build"):
        imori.logits(stranger, np.zeros((1, *SHAPE)))


def test_the_same_seed_is_the_same_start_everywhere(framework: str) -> None:
    weights = imori.dump_weights(imori.build(NET, SHAPE, framework, seed=4))
    expected = initial_weights(NET, SHAPE, seed=4)
    assert list(weights) == list(expected)
    for key, value in expected.items():
        assert weights[key].dtype == np.float32
        np.testing.assert_array_equal(weights[key], value)
    other = imori.dump_weights(imori.build(NET, SHAPE, framework, seed=5))
    assert np.abs(other["fc.weight"] - weights["fc.weight"]).max() > 0.1


def test_the_dtype_is_the_weights_own_unless_given(framework: str) -> None:
    weights = initial_weights(NET, SHAPE, dtype="float64")
    images = np.random.default_rng(0).standard_normal((2, *SHAPE))
    for dtype, expected in ((None, "float64"), ("float32", "float32"), ("float64", "float64")):
        if expected not in frameworks.get(framework).DTYPES:
            with pytest.raises(ImoriError, match=f"{framework} does not build in 'float64'; it builds in float32"):
                imori.build(NET, SHAPE, framework, weights, dtype)
            continue
        native = imori.build(NET, SHAPE, framework, weights, dtype)
        assert {str(value.dtype) for value in imori.dump_weights(native).values()} == {expected}
        assert str(imori.logits(native, images).dtype) == expected


def test_a_network_without_weights_computes_in_the_dtype_that_was_asked_for(framework: str) -> None:
    images = np.random.default_rng(0).standard_normal((2, *SHAPE))
    for dtype in frameworks.get(framework).DTYPES:
        native = imori.build(MaxPool(2), SHAPE, framework, dtype=dtype)
        logits = imori.logits(native, images)
        assert logits.dtype == dtype
        assert logits[0, 0, 0, 0] == images[0, 0, :2, :2].max().astype(dtype)


def test_building_refuses_what_does_not_fit(framework: str) -> None:
    weights = initial_weights(NET, SHAPE)
    fewer = {key: value for key, value in weights.items() if key != "fc.bias"}
    turned = {**weights, "fc.weight": weights["fc.weight"].T}
    for wrong, message in (
        (fewer, "missing: fc.bias"),
        ({**weights, "fc2.bias": weights["fc.bias"]}, r"unexpected: fc2\.bias"),
        (turned, r"misshaped: fc\.weight is 36×2 and must be 2×36"),
    ):
        with pytest.raises(WeightsError, match=message):
            imori.build(NET, SHAPE, framework, wrong)
    with pytest.raises(ImoriError, match=f"{framework} does not build in 'int8'.*float32"):
        imori.build(NET, SHAPE, framework, dtype="int8")
    with pytest.raises(ImoriError, match=r"no device 'gpu'.*cpu"):
        imori.build(NET, SHAPE, framework, device="gpu")
    with pytest.raises(TreeError, match="kernel"):
        imori.build(NET, (2, 2, 2), framework)
    assert frameworks.get(framework).device("cpu") == "cpu"
