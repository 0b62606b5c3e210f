"""Every layer as a Flax module, forward and backward, beside PyTorch and beside its definition written by hand."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx

import imori
from imori.errors import ImoriError
from imori.frameworks.base import Array, Weights
from imori.frameworks.flax.layers import BatchNorm as FlaxBatchNorm
from imori.frameworks.flax.weights import exact, outward, places
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
    "conv": (Conv(6, (3, 2), stride=(2, 1), pad=(2, 1), groups=2, dilation=(1, 2)), MAP),
    "conv-asymmetric": (Conv(3, 3, pad=(0, 3, 2, 1), bias=False), MAP),
    "conv-same": (Conv(3, (4, 3), stride=2, pad="same"), MAP),
    "depthwise": (Depthwise(3, stride=2, pad=1, multiplier=2, dilation=2), MAP),
    "depthwise-same": (Depthwise((2, 3), stride=2, pad="same", bias=False), MAP),
    "transposed": (ConvTranspose(6, (3, 2), stride=(2, 3), pad=(1, 0), output_pad=(1, 2)), MAP),
    "transposed-groups": (ConvTranspose(6, (3, 2), stride=(2, 3), pad=(1, 0), output_pad=(1, 2), groups=2), MAP),
    "transposed-asymmetric": (ConvTranspose(3, 4, stride=2, pad=(0, 2, 1, 0), bias=False), MAP),
    "transposed-cropped-widely": (ConvTranspose(3, (3, 2), stride=2, pad=(4, 0, 0, 5), output_pad=1), MAP),
    "transposed-groups-same": (ConvTranspose(8, 3, stride=2, pad="same", groups=4, bias=False), MAP),
    "linear": (Linear(3), FLAT),
    "linear-no-bias": (Linear(3, bias=False), FLAT),
    "batchnorm": (BatchNorm(eps=0.1), MAP),
    "batchnorm-flat": (BatchNorm(eps=0.01), FLAT),
    "max": (MaxPool(3, 2, pad=1), MAP),
    "max-wide-pad": (MaxPool((3, 4), 1, pad=(2, 1)), MAP),
    "max-asymmetric": (MaxPool((2, 3), (1, 2), pad=(1, 0, 0, 2)), MAP),
    "max-ceil": (MaxPool(2, ceil=True), MAP),
    "average": (AvgPool(3, 2, pad=1, count_include_pad=False), MAP),
    "average-counted": (AvgPool((3, 4), 1, pad=(2, 1)), MAP),
    "average-asymmetric": (AvgPool(3, 2, pad=(0, 2, 1, 0)), MAP),
    "average-ceil": (AvgPool(3, 2, pad=(1, 0), ceil=True), MAP),
    "adaptive": (AdaptiveAvgPool((3, 5)), MAP),
    "adaptive-more-cells": (AdaptiveAvgPool((9, 8)), MAP),
    "global": (GlobalAvgPool(), MAP),
    "flatten": (Flatten(), MAP),
    "flatten-flat": (Flatten(), FLAT),
    "lrn": (LRN(size=3, alpha=0.7, beta=0.6, k=1.3), MAP),
    "lrn-wider-than-the-channels": (LRN(size=7, alpha=0.7), MAP),
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
    "select": (Select((2, 0)), MAP),
    "chain": (Chain(ReLU(), Linear(2)), FLAT),
    "sum": (Sum(Tanh(), Identity(), ReLU()), MAP),
    "concat": (Concat(Tanh(), Identity(), ReLU()), MAP),
}


def random_weights(tree: Tree, shape: Shape) -> Weights:
    rng = np.random.default_rng(5)
    return {
        name: rng.uniform(0.5, 1.5, size) if name.endswith("var") else rng.standard_normal(size) / 2
        for name, size in shapes_of(resolve(tree, shape)).items()
    }


def channels_first(x: Any) -> Array:
    array = np.asarray(x)
    return array.transpose(0, 3, 1, 2) if array.ndim == 4 else array


def by_flax(native: Any, x: Array, dy: Array) -> tuple[Array, Array, Weights]:
    """The module's output in training, and what dy becomes by its input and its parameters, in our layouts."""

    @jax.jit
    def run(params: Any, x: Any, dy: Any) -> Any:
        y, pull = jax.vjp(lambda params, x: nnx.merge(graph, params, rest, copy=True)(x), params, x)
        return y, *pull(dy)

    with exact():
        graph, params, rest = nnx.split(native, nnx.Param, ...)
        y, by_params, by_x = run(params, np.moveaxis(x, 1, -1), np.moveaxis(dy, 1, -1))
        own = places(nnx.merge(graph, by_params, rest))
    gradients = {name: outward(node, v[...]) for name, (node, v) in own.items() if isinstance(v, nnx.Param)}
    return channels_first(y), channels_first(by_x), gradients


@pytest.mark.parametrize(("layer", "shape"), CASES.values(), ids=CASES)
def test_a_layer_and_its_gradients_are_pytorchs(layer: Tree, shape: Shape) -> None:
    weights = random_weights(layer, shape)
    ours, theirs = (imori.build(layer, shape, each, weights, "float64") for each in ("flax", "torch"))
    rng = np.random.default_rng(6)
    x = torch.tensor(rng.standard_normal((3, *shape)) + 0.1, requires_grad=True)
    expected = theirs(x)
    dy = torch.tensor(rng.standard_normal(expected.shape))
    trained = dict(theirs.named_parameters())
    by_x, *by_weights = torch.autograd.grad(expected, [x, *trained.values()], dy)
    y, gradient, gradients = by_flax(ours, x.detach().numpy(), dy.numpy())
    np.testing.assert_allclose(y, expected.detach(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gradient, by_x, rtol=1e-9, atol=1e-12)
    assert gradients.keys() == trained.keys()
    for name, value in zip(trained, by_weights, strict=True):
        np.testing.assert_allclose(gradients[name], value, rtol=1e-9, atol=1e-12, err_msg=name)


def test_every_kind_has_a_case() -> None:
    assert {type(layer).__name__ for layer, _ in CASES.values()} == set(KINDS) - {"Aux"}  # test_build.py


@pytest.mark.parametrize(
    ("layer", "x", "expected"),
    [(ReLU(), 0.0, 0.0), (ReLU(max=6), 0.0, 0.0), (ReLU(max=6), 6.0, 0.0), (LeakyReLU(0.2), 0.0, 0.2)],
    ids=["relu", "relu-max", "relu-max-above", "leaky"],
)
def test_the_gradient_at_a_kink_is_the_engines(layer: Tree, x: float, expected: float) -> None:
    _, gradient, _ = by_flax(imori.build(layer, (1,), "flax", dtype="float64"), np.full((1, 1), x), np.ones((1, 1)))
    assert gradient == expected


@pytest.mark.parametrize("layer", [ReLU(), ReLU(max=6), LeakyReLU(0.2)], ids=str)
def test_what_is_no_number_stays_none(layer: Tree) -> None:
    assert np.isnan(imori.logits(imori.build(layer, (1,), "flax"), np.full((1, 1), np.nan)))


def test_ties_of_a_max_pool_go_to_the_first() -> None:
    native = imori.build(MaxPool(2), (1, 2, 2), "flax", dtype="float64")
    _, gradient, _ = by_flax(native, np.ones((1, 1, 2, 2)), np.ones((1, 1, 1, 1)))
    np.testing.assert_array_equal(gradient[0, 0], [[1, 0], [0, 0]])


def test_dropout_scales_what_it_keeps() -> None:
    native = imori.build(Dropout(0.75), FLAT, "flax")
    x = np.random.default_rng(8).uniform(1, 2, (2000, *FLAT)).astype(np.float32)
    y = np.asarray(native(jnp.asarray(x)))
    kept = y != 0
    assert kept.mean() == pytest.approx(0.25, abs=0.02)
    np.testing.assert_allclose(y[kept], 4 * x[kept], rtol=1e-6)
    native.eval()
    np.testing.assert_array_equal(native(jnp.asarray(x)), x)


# --- batch norm -------------------------------------------------------------------------------------------------------


def pair_of_norms(**options: Any) -> tuple[Any, Any]:
    """Ours, and Flax's own, with the same numbers."""
    made = []
    for kind in (FlaxBatchNorm, nnx.BatchNorm):
        layer = kind(4, momentum=0.7, epsilon=0.01, use_fast_variance=False, rngs=nnx.Rngs(0), **options)
        layer.mean[...] = jnp.arange(4.0)
        layer.var[...] = jnp.arange(1.0, 5.0)
        layer.scale[...] = jnp.arange(2.0, 6.0)
        made.append(layer)
    return made[0], made[1]


def images(count: int = 3) -> Any:
    return jnp.asarray(np.random.default_rng(7).standard_normal((count, 5, 6, 4)), "float32")


def test_batch_norm_keeps_an_unbiased_variance_and_is_else_flaxs() -> None:
    ours, theirs = pair_of_norms()
    x = images()
    np.testing.assert_array_equal(ours(x), theirs(x))
    np.testing.assert_array_equal(ours.mean[...], theirs.mean[...])
    unbiased = 0.7 * np.arange(1, 5) + 0.3 * np.var(x, (0, 1, 2), ddof=1)
    np.testing.assert_allclose(ours.var[...], unbiased, rtol=1e-5)
    assert np.abs(theirs.var[...] - unbiased).min() > 1e-3
    for layer in (ours, theirs):
        layer.var[...] = jnp.asarray(unbiased, "float32")
    before = ours.var[...]
    np.testing.assert_array_equal(ours(x, use_running_average=True), theirs(x, use_running_average=True))
    ours.use_running_average = True
    np.testing.assert_array_equal(ours(x), theirs(x, use_running_average=True))
    np.testing.assert_array_equal(ours.var[...], before)
    ours(x, use_running_average=False)
    assert np.abs(ours.var[...] - before).max() > 0


def test_batch_norm_counts_what_a_mask_leaves() -> None:
    ours, theirs = pair_of_norms()
    x, mask = images(), jnp.asarray([1, 0, 1], bool).reshape(3, 1, 1, 1)
    np.testing.assert_array_equal(ours(x, mask=mask), theirs(x, mask=mask))
    kept = np.asarray(x)[[0, 2]]
    np.testing.assert_allclose(ours.var[...], 0.7 * np.arange(1, 5) + 0.3 * np.var(kept, (0, 1, 2), ddof=1), rtol=1e-5)


def test_batch_norm_counts_over_a_named_axis() -> None:
    ours, _ = pair_of_norms(axis_name="batch")
    x = images(4)

    @nnx.vmap(in_axes=(None, 0), out_axes=(0, 0), axis_name="batch")
    def run(layer: Any, x: Any) -> Any:
        layer = nnx.clone(layer)
        return layer(x), layer.var[...]

    _, var = run(ours, x.reshape(2, 2, 5, 6, 4))
    expected = 0.7 * np.arange(1, 5) + 0.3 * np.var(x, (0, 1, 2), ddof=1)
    np.testing.assert_allclose(var, [expected, expected], rtol=1e-5)


def test_batch_norm_refuses_one_value_a_channel() -> None:
    ours, _ = pair_of_norms()
    with pytest.raises(ImoriError, match="one value a channel"):
        ours(jnp.zeros((1, 4)))
    assert ours(jnp.zeros((1, 4)), use_running_average=True).shape == (1, 4)


def test_batch_norm_far_from_zero_is_exact() -> None:
    tree = BatchNorm()
    native = imori.build(tree, MAP, "flax")
    x = np.random.default_rng(9).standard_normal((3, *MAP)).astype(np.float32) + 1000
    y = np.asarray(native(jnp.asarray(np.moveaxis(x, 1, -1))))
    assert np.abs(y.std((0, 1, 2)) - 1).max() < 1e-2
