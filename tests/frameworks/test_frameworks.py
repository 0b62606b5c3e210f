"""The frameworks by name: which there are, which is taken, whose a model is, and what building refuses."""

import copy
import inspect
import pickle
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

import imori
from imori import frameworks
from imori.errors import FrameworkMissing, ImoriError, NameUnknown, TreeError, WeightsError
from imori.frameworks.base import Framework
from imori.tree import BatchNorm, Chain, Conv, Flatten, Linear, MaxPool
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


def test_a_dtype_is_what_numpy_calls_so(framework: str) -> None:
    for dtype in frameworks.get(framework).DTYPES:
        for given in (np.dtype(dtype), getattr(np, dtype), np.dtype(dtype).newbyteorder(">"), np.dtype(dtype).str):
            native = imori.build(NET, SHAPE, framework, dtype=given)
            assert {value.dtype.name for value in imori.dump_weights(native).values()} == {dtype}
    for wrong, said in ((np.float16, "'float16'"), ("Float32", "'Float32'"), ("bfloat16", "'bfloat16'")):
        with pytest.raises(ImoriError, match=f"{framework} does not build in {said}; it builds in float32"):
            imori.build(NET, SHAPE, framework, dtype=wrong)


def test_weights_of_two_dtypes_are_built_in_the_wider(framework: str) -> None:
    weights = initial_weights(NET, SHAPE)
    weights["fc.bias"] = weights["fc.bias"].astype("float64")
    if framework == "onnx":
        with pytest.raises(ImoriError, match="'float64'; it builds in float32"):
            imori.build(NET, SHAPE, framework, weights)
    else:
        assert imori.logits(imori.build(NET, SHAPE, framework, weights), np.zeros((1, *SHAPE))).dtype == np.float64


def test_the_order_of_bytes_changes_nothing(framework: str) -> None:
    weights = initial_weights(NET, SHAPE)
    images = np.random.default_rng(0).standard_normal((2, *SHAPE), dtype=np.float32)
    native = imori.build(NET, SHAPE, framework, weights)
    expected = imori.logits(native, images)
    swapped = {name: value.astype(">f4") for name, value in weights.items()}
    np.testing.assert_array_equal(
        imori.logits(imori.build(NET, SHAPE, framework, swapped), images.astype(">f4")), expected
    )
    frameworks.get(framework).load(native, swapped)
    np.testing.assert_array_equal(imori.logits(native, images), expected)


@pytest.mark.parametrize("kind", ["uint8", "int64", "bool", "complex64"])
def test_images_are_preprocessed_floats(framework: str, kind: str) -> None:
    native, photos = imori.build(NET, SHAPE, framework), np.full((2, *SHAPE), 200).astype(kind)
    refused = pytest.raises(
        ImoriError, match=rf"are {kind}, .*preprocessed.*imori\.load\(\.\.\.\)\.predict.*Preprocessing"
    )
    with refused:
        imori.logits(native, photos)
    with refused:
        imori.outputs(native, photos, ["conv"])


def test_no_images_have_no_logits(framework: str) -> None:
    tree = Chain(conv=Conv(3, 3), bn=BatchNorm(), pool=MaxPool(2), flatten=Flatten(), fc=Linear(5))
    none = np.zeros((0, *SHAPE), np.float32)
    for engine in frameworks.ENGINES.get(framework, (None,)):
        native = imori.build(tree, SHAPE, framework, engine=engine)
        logits = imori.logits(native, none)
        assert (logits.shape, logits.dtype) == ((0, 5), np.float32)
        assert imori.outputs(native, none, ["conv", ""])["conv"].shape == (0, 3, 3, 4)
        with pytest.raises(TreeError, match="3×5×6"):
            imori.logits(native, np.zeros((0, 3, 5, 6)))


def test_a_copy_is_a_model_too(framework: str) -> None:
    native = imori.build(NET, SHAPE, framework, seed=1)
    images = np.random.default_rng(0).standard_normal((2, *SHAPE), dtype=np.float32)
    expected = imori.logits(native, images)
    twins = [copy.deepcopy(native)]
    if framework != "flax":  # see docs/limits.md
        twins.append(pickle.loads(pickle.dumps(native)))  # noqa: S301
    for twin in twins:
        if framework == "keras":  # Keras's own by now: see docs/limits.md
            with pytest.raises(ImoriError, match=r"imori\.build\(tree, .*imori convert FILE --model NAME"):
                imori.dump_weights(twin)
            continue
        np.testing.assert_array_equal(imori.logits(twin, images), expected)
        frameworks.get(framework).load(twin, initial_weights(NET, SHAPE, seed=2))
        assert not np.allclose(imori.logits(twin, images), expected)
        np.testing.assert_array_equal(imori.logits(native, images), expected)


def test_threads_may_predict_at_once(framework: str) -> None:
    native = imori.build(NET, SHAPE, framework)
    images = np.random.default_rng(0).standard_normal((2, *SHAPE), dtype=np.float32)
    alone = imori.logits(native, images)
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda _: imori.logits(native, images), range(100)))
    assert all(np.abs(one - alone).max() <= 1e-5 * np.abs(alone).max() for one in found)


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
