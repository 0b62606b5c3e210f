"""Every layer as a TensorFlow module, forward and backward, beside the NumPy engine."""

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import imori
from imori.errors import ImoriError, TreeError
from imori.frameworks.base import Array, Weights
from imori.shapes import Shape, resolve
from imori.tree import (
    KINDS,
    LRN,
    AdaptiveAvgPool,
    AvgPool,
    BatchNorm,
    Chain,
    Concat,
    Conv,
    ConvTranspose,
    Depthwise,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Identity,
    LeakyReLU,
    Linear,
    MaxPool,
    PadChannels,
    ReLU,
    Select,
    Sigmoid,
    Softmax,
    Subsample,
    Sum,
    Tanh,
    Tree,
)
from imori.weights import shapes_of

MAP, FLAT = (4, 7, 8), (6,)
CASES: dict[str, tuple[Tree, Shape]] = {
    "conv": (Conv(6, (3, 2), stride=(2, 1), pad=(2, 1)), MAP),
    "conv-asymmetric": (Conv(3, 3, pad=(0, 3, 2, 1), bias=False), MAP),
    "conv-same": (Conv(3, (4, 3), pad="same"), MAP),
    "conv-same-strided": (Conv(3, (4, 3), stride=2, pad="same"), MAP),
    "conv-nearly-same": (Conv(3, (4, 3), pad=(2, 1, 1, 1)), MAP),
    "conv-grouped": (Conv(6, 3, stride=2, pad=1, groups=2), MAP),
    "conv-groups-of-one": (Conv(8, 3, groups=4, bias=False), MAP),
    "conv-dilated": (Conv(6, (3, 2), stride=(2, 1), pad=(2, 1, 0, 3), groups=2, dilation=(2, 3)), MAP),
    "conv-sparse": (Conv(3, 2, stride=4), MAP),
    "depthwise": (Depthwise(3, stride=2, pad=1, multiplier=2), MAP),
    "depthwise-unequal": (Depthwise((3, 2), stride=(1, 3), pad=(0, 1, 2, 0), bias=False), MAP),
    "depthwise-dilated": (Depthwise(3, stride=2, pad="same", multiplier=3, dilation=(1, 2)), MAP),
    "transposed": (ConvTranspose(6, (3, 2), stride=(2, 3), pad=(1, 0), output_pad=(1, 2), groups=2), MAP),
    "transposed-asymmetric": (ConvTranspose(3, 4, stride=2, pad=(3, 1, 0, 0), output_pad=1, bias=False), MAP),
    "transposed-same": (ConvTranspose(3, 3, stride=2, pad="same"), MAP),
    "transposed-sparse": (ConvTranspose(3, 2, stride=4, output_pad=3), MAP),
    "linear": (Linear(3), FLAT),
    "linear-no-bias": (Linear(3, bias=False), FLAT),
    "batchnorm": (BatchNorm(eps=0.1), MAP),
    "batchnorm-flat": (BatchNorm(eps=0.01), FLAT),
    "max": (MaxPool((3, 2), 2, pad=1), MAP),
    "max-asymmetric": (MaxPool((2, 3), (1, 2), pad=(1, 0, 0, 2)), MAP),
    "max-ceil": (MaxPool(2, 2, pad=1, ceil=True), MAP),
    "average": (AvgPool(3, 2, pad=1, count_include_pad=False), MAP),
    "average-counted": (AvgPool((3, 2), 2, pad=(0, 2, 1, 0)), MAP),
    "average-same": (AvgPool(3, 2, pad="same"), MAP),
    "average-ceil": (AvgPool(3, 2, pad=(1, 0), ceil=True), MAP),
    "adaptive": (AdaptiveAvgPool((3, 5)), MAP),
    "adaptive-larger": (AdaptiveAvgPool((9, 8)), MAP),
    "global": (GlobalAvgPool(), MAP),
    "flatten": (Flatten(), MAP),
    "flatten-flat": (Flatten(), FLAT),
    "lrn": (LRN(size=3, alpha=0.7, beta=0.6, k=1.3), MAP),
    "lrn-wide": (LRN(size=9, alpha=0.7), MAP),
    "relu": (ReLU(), MAP),
    "relu-max": (ReLU(max=0.8), MAP),
    "leaky": (LeakyReLU(0.2), MAP),
    "sigmoid": (Sigmoid(), MAP),
    "tanh": (Tanh(), FLAT),
    "softmax": (Softmax(), MAP),
    "dropout": (Dropout(0.0), MAP),
    "identity": (Identity(), MAP),
    "subsample": (Subsample((2, 3)), MAP),
    "padchannels": (PadChannels(7), MAP),
    "select": (Select((3, 0)), MAP),
    "chain": (Chain(ReLU(), Linear(2)), FLAT),
    "sum": (Sum(Tanh(), Identity(), ReLU()), MAP),
    "concat": (Concat(Tanh(), Identity(), ReLU()), MAP),
}


def whole(tree: Tree, shape: Shape) -> Tree:
    """The layer after one with weights, whose gradients are then by the layer's input."""
    return Chain(before=Conv(shape[0], 1) if len(shape) == 3 else Linear(shape[0]), it=tree)


def random_weights(tree: Tree, shape: Shape) -> Weights:
    rng = np.random.default_rng(5)
    return {
        name: rng.uniform(0.5, 1.5, size) if name.endswith("var") else rng.standard_normal(size) / 2
        for name, size in shapes_of(resolve(tree, shape)).items()
    }


def first(array: Array) -> Array:
    """Channels first."""
    return np.moveaxis(array, -1, 1)


def by_numpy(tree: Tree, shape: Shape, x: Array) -> tuple[Array, Weights, Array]:
    """The output in training, the gradients of the weights for a random gradient of it, and that."""
    native = imori.build(tree, shape, "numpy", random_weights(tree, shape))
    trained = [name for name in native.weights if name.endswith(("weight", "bias"))]
    native.train(trained)
    y = native.forward(x, training=True)
    dy = np.random.default_rng(6).standard_normal(y.shape)
    native.backward(dy.copy())
    places = native.places()
    return y, {name: places[name][0].gradients[places[name][1]] for name in trained}, dy


def by_tensorflow(tree: Tree, shape: Shape, x: Array, dy: Array, dtype: str, **compiled: Any) -> tuple[Array, Weights]:
    """The output in training, and the gradients of the weights."""
    native = imori.build(tree, shape, "tensorflow", random_weights(tree, shape), dtype)
    places = {name: place for name, place in native._places().items() if place.variable.trainable}

    def run(x: Any, dy: Any) -> Any:
        with tf.GradientTape() as tape:
            y = native(x, training=True)
        return y, tape.gradient(y, [place.variable for place in places.values()], dy)

    run = tf.function(run, **compiled) if compiled else run
    y, gradients = run(*(tf.constant(np.moveaxis(array, 1, -1), dtype) for array in (x, dy)))
    named = zip(places.items(), gradients, strict=True)
    return first(y.numpy()), {
        name: place.layer._canonical(place.role, tf.convert_to_tensor(gradient).numpy())
        for (name, place), gradient in named
    }


def off(ours: Array, theirs: Array, floor: float = 1e-300) -> float:
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / max(np.abs(theirs).max(), floor))


def compare(tree: Tree, shape: Shape, dtype: str = "float64", **compiled: Any) -> None:
    x = np.random.default_rng(6).standard_normal((3, *shape)) + 0.1
    tree = whole(tree, shape)
    y, gradients, dy = by_numpy(tree, shape, x)
    ours, own = by_tensorflow(tree, shape, x, dy, dtype, **compiled)
    tolerance = 1e-9 if dtype == "float64" else 1e-4
    assert off(ours, y) <= tolerance
    assert own.keys() == gradients.keys()
    floor = max(float(np.abs(gradient).max()) for gradient in gradients.values()) / 1000
    for name, gradient in gradients.items():
        assert off(own[name], gradient, floor) <= tolerance, name


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("tree", "shape"), CASES.values(), ids=CASES)
def test_a_layer_and_its_gradients_are_those_of_the_engine(tree: Tree, shape: Shape, dtype: str) -> None:
    compare(tree, shape, dtype)


def test_every_kind_has_a_case() -> None:
    assert {type(tree).__name__ for tree, _ in CASES.values()} == set(KINDS) - {"Aux"}  # test_build.py


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("tree", "shape"), CASES.values(), ids=CASES)
def test_a_layer_compiles_with_xla(tree: Tree, shape: Shape, dtype: str) -> None:
    compare(tree, shape, dtype, jit_compile=True)


@pytest.mark.parametrize("kind", [Conv, Depthwise, ConvTranspose, MaxPool, AvgPool], ids=lambda kind: kind.__name__)
def test_any_window(kind: type[Tree]) -> None:
    """Kernels, strides, dilations and four sides at random, at sizes even and odd."""
    rng = np.random.default_rng(4)
    tried = 0
    while tried < 15:
        shape = (2, *map(int, rng.integers(3, 10, 2)))
        kernel, stride, dilation = (tuple(map(int, rng.integers(1, most, 2))) for most in (5, 4, 3))
        pads = tuple(map(int, rng.integers(0, 4, 4)))
        try:
            match kind.__name__:
                case "Conv":
                    tree: Tree = Conv(4, kernel, stride, pads, int(rng.integers(1, 3)), dilation)
                case "Depthwise":
                    tree = Depthwise(kernel, stride, pads, int(rng.integers(1, 3)), dilation)
                case "ConvTranspose":
                    tree = ConvTranspose(4, kernel, stride, pads, int(rng.integers(0, 2)), int(rng.integers(1, 3)))
                case "MaxPool":
                    tree = MaxPool(kernel, stride, pads, bool(rng.integers(2)))
                case _:
                    tree = AvgPool(kernel, stride, pads, bool(rng.integers(2)), bool(rng.integers(2)))
            resolve(tree, shape)
        except TreeError:
            continue
        compare(tree, shape)
        tried += 1


FREE = Chain(
    dilated=Conv(4, 3, dilation=2, pad=(1, 0, 2, 1)),
    up=ConvTranspose(3, 3, stride=2, pad=1, output_pad=1),
    average=AvgPool(3, 2, 1),
    pool=MaxPool(2, 2, 1),
    cells=AdaptiveAvgPool((3, 2)),
    bn=BatchNorm(),
    gap=GlobalAvgPool(),
)


@pytest.mark.parametrize("size", [(9, 12), (10, 7), (21, 16)], ids=str)
def test_layers_that_are_bound_to_no_size_run_at_any(size: tuple[int, int]) -> None:
    """One trace of `serve` serves all sizes."""
    weights = random_weights(FREE, (2, 9, 12))
    native = imori.build(FREE, (2, 9, 12), "tensorflow", weights)
    x = np.random.default_rng(3).standard_normal((2, 2, *size))
    expected = imori.logits(imori.build(FREE, (2, 9, 12), "numpy", weights), x)
    assert off(imori.logits(native, x), expected) <= 1e-9
    assert native.serve.experimental_get_tracing_count() == 1


def test_no_images_have_no_logits() -> None:
    native = imori.build(Chain(FREE, Linear(3)), (2, 9, 12), "tensorflow")
    none = tf.zeros((0, 9, 12, 2))
    assert native(none).shape == (0, 3)
    assert tf.function(native)(none).shape == (0, 3)


def test_the_mode_may_be_a_tensor_whose_value_is_known() -> None:
    native = imori.build(Chain(FREE, Dropout(0.5), Linear(3)), (2, 9, 12), "tensorflow")
    images = tf.random.stateless_normal((2, 9, 12, 2), (1, 2))
    expected = native(images)
    assert np.array_equal(native(images, training=tf.constant(False)), expected)
    assert not np.array_equal(native(images, training=tf.constant(True)), expected)
    with pytest.raises(ImoriError, match="give True or False"):
        tf.function(native)(images, training=tf.constant(False))


def test_batch_norm_in_evaluation_and_its_statistics() -> None:
    layer = BatchNorm(eps=0.01, momentum=0.3)
    weights = random_weights(layer, MAP)
    x = np.random.default_rng(7).standard_normal((3, *MAP))
    for dtype, tolerance in (("float64", 1e-10), ("float32", 1e-5)):
        native = imori.build(layer, MAP, "tensorflow", weights, dtype)
        role = {name: value.reshape(1, -1, 1, 1) for name, value in weights.items()}
        expected = (x - role["mean"]) / np.sqrt(role["var"] + 0.01) * role["weight"] + role["bias"]
        np.testing.assert_allclose(imori.logits(native, x), expected, rtol=tolerance, atol=tolerance)
        native(tf.constant(np.moveaxis(x, 1, -1), dtype), training=True)
        after = imori.dump_weights(native)
        mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), ddof=1)
        np.testing.assert_allclose(after["mean"], 0.7 * weights["mean"] + 0.3 * mean, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(after["var"], 0.7 * weights["var"] + 0.3 * var, rtol=tolerance)


def test_a_small_eps_is_kept() -> None:
    """TensorFlow's own function for float32 would make it 1.001e-5."""
    weights = {"weight": np.ones(1), "bias": np.zeros(1), "mean": np.zeros(1), "var": np.full(1, 1e-9)}
    native = imori.build(BatchNorm(eps=1e-9), (1, 1, 1), "tensorflow", weights, "float32")
    assert imori.logits(native, np.full((1, 1, 1, 1), 1e-4))[0, 0, 0, 0] == pytest.approx(1e-4 / 2e-9**0.5, rel=1e-4)


def test_dropout_scales_what_it_keeps() -> None:
    native = imori.build(Dropout(0.75), FLAT, "tensorflow")
    x = np.random.default_rng(8).uniform(1, 2, (2000, *FLAT)).astype(np.float32)
    y = native(x, training=True).numpy()
    kept = y != 0
    assert kept.mean() == pytest.approx(0.25, abs=0.02)
    np.testing.assert_allclose(y[kept], 4 * x[kept], rtol=1e-6)
    np.testing.assert_array_equal(native(x), x)


@pytest.mark.parametrize("layer", [ReLU(), ReLU(max=6.0), LeakyReLU()], ids=str)
def test_what_is_no_number_stays_none(layer: Tree) -> None:
    native = imori.build(layer, FLAT, "tensorflow")
    assert np.isnan(imori.logits(native, np.full((1, *FLAT), np.nan))).all()


def test_convolutions_train_without_onednn(tmp_path: Any) -> None:
    """As it is on other processors: TensorFlow then lacks the gradients of groups, dilation and unequal strides."""
    script = tmp_path / "train.py"
    script.write_text(
        "import numpy as np, tensorflow as tf, imori\n"
        "from imori.tree import Chain, Conv, Depthwise\n"
        "net = Chain(a=Conv(4, 3, pad=2, groups=2, dilation=2), b=Depthwise(3, (1, 2), pad=(0, 1, 1, 0)))\n"
        "native = imori.build(net, (2, 8, 7), 'tensorflow')\n"
        "with tf.GradientTape() as tape:\n"
        "    y = native(tf.random.normal((2, 8, 7, 2)), training=True)\n"
        "gradients = tape.gradient(y, native.trainable_variables)\n"
        "assert len(gradients) == 4 and all(np.abs(g.numpy()).max() > 0 for g in gradients)\n"
    )
    done = subprocess.run(
        [sys.executable, str(script)],
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": "0"},
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
