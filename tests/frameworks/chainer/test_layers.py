"""Every layer as a link, forward and backward, beside PyTorch's module and the NumPy engine."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import imori
from imori.frameworks.base import Weights
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

framework = pytest.importorskip("imori.frameworks.chainer", reason="chainer is not installed")
chainer = framework.chainer
L = chainer.links

Agree = Callable[[Weights, Weights, float], None]

MAP, FLAT = (4, 7, 8), (6,)
# name -> the layer, its input, and the class of its link.
CASES: dict[str, tuple[Tree, Shape, str]] = {
    "conv": (Conv(6, (3, 2), (2, 1), (2, 1), groups=2, dilation=(1, 2)), MAP, "Convolution2D"),
    "conv-no-bias": (Conv(3, 3, bias=False), MAP, "Convolution2D"),
    "conv-asymmetric": (Conv(3, 3, pad=(0, 3, 2, 1)), MAP, "PaddedConvolution2D"),
    "conv-same": (Conv(3, (4, 3), stride=2, pad="same"), MAP, "PaddedConvolution2D"),
    "depthwise": (Depthwise((3, 2), (1, 2), pad=(1, 0)), MAP, "DepthwiseConvolution2D"),
    "depthwise-no-bias": (Depthwise(3, bias=False), MAP, "DepthwiseConvolution2D"),
    "depthwise-multiplied": (Depthwise(3, stride=2, pad=1, multiplier=2), MAP, "Convolution2D"),
    "depthwise-dilated": (Depthwise(3, dilation=(2, 1)), MAP, "Convolution2D"),
    "depthwise-same": (Depthwise((2, 3), stride=2, pad="same"), MAP, "PaddedConvolution2D"),
    "transposed": (ConvTranspose(6, (3, 2), (2, 3), pad=(1, 0), groups=2), MAP, "Deconvolution2D"),
    "transposed-grown": (ConvTranspose(6, 3, (2, 3), pad=1, output_pad=(1, 2)), MAP, "CroppedDeconvolution2D"),
    "transposed-asymmetric": (ConvTranspose(3, 4, 2, (0, 2, 1, 0), bias=False), MAP, "CroppedDeconvolution2D"),
    "transposed-asymmetric-grown": (
        ConvTranspose(4, (4, 5), 2, pad=(3, 1, 0, 2), output_pad=(0, 1), groups=2),
        MAP,
        "CroppedDeconvolution2D",
    ),
    "linear": (Linear(3), FLAT, "Linear"),
    "linear-no-bias": (Linear(3, bias=False), FLAT, "Linear"),
    "batchnorm": (BatchNorm(eps=0.1, momentum=0.3), MAP, "BatchNormalization"),
    "batchnorm-flat": (BatchNorm(eps=0.01), FLAT, "BatchNormalization"),
    "max": (MaxPool((3, 2), (2, 3), pad=(1, 0)), MAP, "max_pooling_2d"),
    "max-wide-pad": (MaxPool(3, 1, pad=2), MAP, "max_pooling_2d"),
    "max-floor": (MaxPool(2, 2), (4, 7, 9), "max_pooling_2d"),
    "max-asymmetric": (MaxPool((2, 3), (1, 2), pad=(1, 0, 0, 2)), MAP, "padded_max_pooling_2d"),
    "max-ceil": (MaxPool(2, ceil=True), MAP, "padded_max_pooling_2d"),
    "average": (AvgPool((3, 2), 2), MAP, "average_pooling_2d"),
    "average-counted": (AvgPool((3, 2), 2, pad=(1, 0)), MAP, "average_pooling_2d"),
    "average-counted-asymmetric": (AvgPool(3, 2, pad=(0, 2, 1, 0)), MAP, "counted_average_pooling_2d"),
    "average-uncounted": (AvgPool(3, 2, pad=1, count_include_pad=False), MAP, "counted_average_pooling_2d"),
    "average-same": (AvgPool(3, 2, pad="same"), MAP, "counted_average_pooling_2d"),
    "average-ceil": (AvgPool(3, 2, pad=(1, 0), ceil=True), MAP, "counted_average_pooling_2d"),
    "adaptive": (AdaptiveAvgPool((3, 5)), MAP, "adaptive_average_pooling_2d"),
    "adaptive-larger": (AdaptiveAvgPool((9, 3)), MAP, "adaptive_average_pooling_2d"),
    "global": (GlobalAvgPool(), MAP, "average"),
    "flatten": (Flatten(), MAP, "flatten"),
    "flatten-flat": (Flatten(), FLAT, "flatten"),
    "lrn": (LRN(size=3, alpha=0.7, beta=0.6, k=1.3), MAP, "local_response_normalization"),
    "relu": (ReLU(), MAP, "relu"),
    "relu-max": (ReLU(max=0.8), MAP, "clipped_relu"),
    "leaky": (LeakyReLU(0.2), MAP, "leaky_relu"),
    "sigmoid": (Sigmoid(), MAP, "sigmoid"),
    "tanh": (Tanh(), FLAT, "tanh"),
    "softmax": (Softmax(), MAP, "softmax"),
    "dropout": (Dropout(0.0), MAP, "Dropout"),
    "identity": (Identity(), MAP, "identity"),
    "subsample": (Subsample((2, 3)), MAP, "subsample"),
    "padchannels": (PadChannels(7), MAP, "pad"),
    "select": (Select((3, 0)), MAP, "select"),
    "chain": (Chain(ReLU(), Linear(2)), FLAT, "Chain"),
    "sum": (Sum(Tanh(), Identity(), ReLU()), MAP, "Sum"),
    "sum-of-one": (Sum(Tanh()), MAP, "Sum"),
    "concat": (Concat(Tanh(), Identity(), ReLU()), MAP, "Concat"),
}


def random_weights(tree: Tree, shape: Shape) -> Weights:
    rng = np.random.default_rng(5)
    return {
        name: rng.uniform(0.5, 1.5, size) if name.endswith("var") else rng.standard_normal(size) / 2
        for name, size in shapes_of(resolve(tree, shape)).items()
    }


def torch_results(tree: Tree, weights: Weights, x: Any, dy: Any, dtype: str) -> Weights:
    """The output in training, the gradient by the input "dx", and those by the weights by their names."""
    native = imori.build(tree, x.shape[1:], "torch", weights, dtype)
    given = torch.tensor(x.astype(dtype), requires_grad=True)
    own = dict(native.named_parameters())
    y = native(given)
    dx, *gradients = torch.autograd.grad(y, [given, *own.values()], torch.tensor(dy.astype(dtype)))
    results = {"y": y.detach(), "dx": dx, **dict(zip(own, gradients, strict=True))}
    return {name: value.numpy() for name, value in results.items()}


def chainer_results(tree: Tree, weights: Weights, x: Any, dy: Any, dtype: str) -> Weights:
    """The same, with Chainer's own backward pass."""
    native = imori.build(tree, x.shape[1:], "chainer", weights, dtype)
    given = chainer.Variable(x.astype(dtype))
    y = native(given)
    y.grad = dy.astype(dtype)
    native.cleargrads()
    y.backward()
    results = {"y": y.array, "dx": given.grad}
    for path, parameter in native.namedparams():
        *parents, role = path[1:].split("/")
        gradient = parameter.grad
        if isinstance(native, L.DepthwiseConvolution2D) and role == "W":
            gradient = gradient.transpose(1, 0, 2, 3)
        results[".".join([*parents, "weight" if role in ("W", "gamma") else "bias"])] = gradient
    return results


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-11), ("float32", 1e-4)])
@pytest.mark.parametrize(("layer", "shape", "kind"), CASES.values(), ids=CASES)
def test_a_layer_and_its_gradients_equal_torch(
    agree: Agree, layer: Tree, shape: Shape, kind: str, dtype: str, tolerance: float
) -> None:
    weights, rng = random_weights(layer, shape), np.random.default_rng(6)
    x = rng.standard_normal((3, *shape)) + 0.1
    dy = rng.standard_normal((3, *resolve(layer, shape).output))
    agree(*(of(layer, weights, x, dy, dtype) for of in (chainer_results, torch_results)), tolerance)


@pytest.mark.parametrize(("layer", "shape", "kind"), CASES.values(), ids=CASES)
def test_a_layer_is_chainers_own_and_equals_the_engine(agree: Agree, layer: Tree, shape: Shape, kind: str) -> None:
    native, other = (
        imori.build(layer, shape, name, random_weights(layer, shape), "float64") for name in ("chainer", "numpy")
    )
    function = getattr(native, "function", None)
    assert (type(native).__name__ if function is None else function.__name__) == kind
    x = np.random.default_rng(7).standard_normal((3, *shape))
    agree({"y": imori.logits(native, x)}, {"y": imori.logits(other, x)}, 1e-12)


def test_every_kind_has_a_case() -> None:
    assert {type(layer).__name__ for layer, _, _ in CASES.values()} == set(KINDS) - {"Aux"}  # test_build.py


@pytest.mark.parametrize("shape", [MAP, FLAT], ids=["map", "flat"])
def test_the_running_statistics_equal_torchs(agree: Agree, shape: Shape) -> None:
    layer = BatchNorm(eps=0.01, momentum=0.3)
    weights = random_weights(layer, shape)
    x = np.random.default_rng(7).standard_normal((3, *shape))
    after = []
    for name, batch in (("chainer", x), ("torch", torch.tensor(x))):
        native = imori.build(layer, shape, name, weights)
        native(batch)
        after.append(imori.dump_weights(native))
    agree(*after, 1e-12)
    assert np.abs(after[0]["mean"] - weights["mean"]).max() > 0.01


def test_dropout_scales_what_it_keeps() -> None:
    native = imori.build(Dropout(0.75), FLAT, "chainer")
    x = np.random.default_rng(8).uniform(1, 2, (2000, *FLAT)).astype(np.float32)
    for rng in (None, np.random.default_rng(9)):
        native.rng = rng
        y = native(x).array
        assert y.dtype == np.float32
        assert (y != 0).mean() == pytest.approx(0.25, abs=0.02)
        np.testing.assert_allclose(y[y != 0], 4 * x[y != 0], rtol=1e-6)
        with chainer.using_config("train", False):
            np.testing.assert_array_equal(native(x).array, x)
