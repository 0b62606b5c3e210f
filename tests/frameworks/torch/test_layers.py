"""Every layer as a torch module, forward and backward, against its definition written by hand."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

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

Tensors = dict[str, Tensor]


def random_weights(tree: Tree, shape: Shape) -> Weights:
    rng = np.random.default_rng(5)
    return {
        name: rng.uniform(0.5, 1.5, size) if name.endswith("var") else rng.standard_normal(size) / 2
        for name, size in shapes_of(resolve(tree, shape)).items()
    }


def windows(x: Tensor, kernel: tuple[int, int], stride: tuple[int, int], pads: tuple[int, int, int, int]) -> Any:
    """The rows and columns of x that each window of a padded pool sees, padding left out; a list of rows of slices."""
    size, before = x.shape[2:], (pads[0], pads[2])
    spans = []
    for axis in (0, 1):
        last = size[axis] + pads[2 * axis + 1] - kernel[axis]
        starts = range(-before[axis], last + 1, stride[axis])
        spans.append([(max(start, 0), min(start + kernel[axis], size[axis])) for start in starts])
    return [[x[:, :, top:bottom, left:right] for left, right in spans[1]] for top, bottom in spans[0]]


def pooled(x: Tensor, reduce: Callable[[Tensor], Tensor], *window: Any) -> Tensor:
    rows = [torch.stack([reduce(part) for part in row], -1) for row in windows(x, *window)]
    return torch.stack(rows, -2)


def largest(part: Tensor) -> Tensor:
    return part.flatten(2).max(-1).values


def mean(part: Tensor) -> Tensor:
    return part.flatten(2).mean(-1)


def lrn(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    reach, channels = size // 2, x.shape[1]
    sums = [(x[:, max(c - reach, 0) : min(c + reach, channels - 1) + 1] ** 2).sum(1) for c in range(channels)]
    return x / (k + alpha * torch.stack(sums, 1)) ** beta


def batch_norm(x: Tensor, w: Tensors, eps: float, axes: tuple[int, ...]) -> Tensor:
    """In training."""
    centred = x - x.mean(axes, keepdim=True)
    weight, bias = (w[role].reshape(1, -1, *(1,) * (x.ndim - 2)) for role in ("weight", "bias"))
    return centred / ((centred**2).mean(axes, keepdim=True) + eps) ** 0.5 * weight + bias


def cropped(x: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
    return x[:, :, top : x.shape[2] - bottom, left : x.shape[3] - right]


MAP, FLAT = (4, 7, 8), (6,)
CELLS = list(np.ndindex(3, 5))
# name -> the layer, its input, and its definition: x, weights -> y. F.pad's order is left, right, top, bottom.
CASES: dict[str, tuple[Tree, Shape, Callable[[Tensor, Tensors], Tensor]]] = {
    "conv": (
        Conv(6, (3, 2), stride=(2, 1), pad=(2, 1), groups=2, dilation=(1, 2)),
        MAP,
        lambda x, w: F.conv2d(x, w["weight"], w["bias"], (2, 1), (2, 1), (1, 2), 2),
    ),
    "conv-asymmetric": (
        Conv(3, 3, pad=(0, 3, 2, 1), bias=False),
        MAP,
        lambda x, w: F.conv2d(F.pad(x, (2, 1, 0, 3)), w["weight"]),
    ),
    "conv-same": (
        Conv(3, (4, 3), stride=2, pad="same"),  # 7 rows want 3 more, 8 columns 1 more
        MAP,
        lambda x, w: F.conv2d(F.pad(x, (0, 1, 1, 2)), w["weight"], w["bias"], 2),
    ),
    "depthwise": (
        Depthwise(3, stride=2, pad=1, multiplier=2, dilation=2),
        MAP,
        lambda x, w: torch.stack(
            [
                F.conv2d(x[:, i // 2 : i // 2 + 1], w["weight"][i : i + 1], w["bias"][i : i + 1], 2, 1, 2)[:, 0]
                for i in range(8)
            ],
            1,
        ),
    ),
    "depthwise-same": (
        Depthwise((2, 3), stride=2, pad="same", bias=False),
        MAP,
        lambda x, w: F.conv2d(F.pad(x, (0, 1, 0, 1)), w["weight"], None, 2, groups=4),
    ),
    "transposed": (
        ConvTranspose(6, (3, 2), stride=(2, 3), pad=(1, 0), output_pad=(1, 2), groups=2),
        MAP,
        lambda x, w: F.conv_transpose2d(x, w["weight"], w["bias"], (2, 3), (1, 0), (1, 2), 2),
    ),
    "transposed-asymmetric": (
        ConvTranspose(3, 4, stride=2, pad=(0, 2, 1, 0), bias=False),
        MAP,
        lambda x, w: cropped(F.conv_transpose2d(x, w["weight"], None, 2), 0, 2, 1, 0),
    ),
    "transposed-asymmetric-grown": (
        ConvTranspose(3, 4, stride=2, pad=(3, 1, 0, 0), output_pad=1),
        MAP,
        lambda x, w: cropped(F.conv_transpose2d(x, w["weight"], w["bias"], 2, 0, 1), 3, 1, 0, 0),
    ),
    "transposed-same": (
        ConvTranspose(3, 3, stride=2, pad="same"),
        MAP,
        lambda x, w: cropped(F.conv_transpose2d(x, w["weight"], w["bias"], 2), 0, 1, 0, 1),
    ),
    "linear": (Linear(3), FLAT, lambda x, w: x @ w["weight"].T + w["bias"]),
    "linear-no-bias": (Linear(3, bias=False), FLAT, lambda x, w: x @ w["weight"].T),
    "batchnorm": (BatchNorm(eps=0.1), MAP, lambda x, w: batch_norm(x, w, 0.1, (0, 2, 3))),
    "batchnorm-flat": (BatchNorm(eps=0.01), FLAT, lambda x, w: batch_norm(x, w, 0.01, (0,))),
    "max": (MaxPool(3, 2, pad=1), MAP, lambda x, w: pooled(x, largest, (3, 3), (2, 2), (1, 1, 1, 1))),
    "max-wide-pad": (MaxPool(3, 1, pad=2), MAP, lambda x, w: pooled(x, largest, (3, 3), (1, 1), (2, 2, 2, 2))),
    "max-tall-pad": (
        MaxPool((3, 4), 1, pad=(2, 1)),
        MAP,
        lambda x, w: pooled(x, largest, (3, 4), (1, 1), (2, 2, 1, 1)),
    ),
    "max-broad-pad": (
        MaxPool((4, 3), 1, pad=(1, 2)),
        MAP,
        lambda x, w: pooled(x, largest, (4, 3), (1, 1), (1, 1, 2, 2)),
    ),
    "max-asymmetric": (
        MaxPool((2, 3), (1, 2), pad=(1, 0, 0, 2)),
        MAP,
        lambda x, w: pooled(x, largest, (2, 3), (1, 2), (1, 0, 0, 2)),
    ),
    "max-same": (MaxPool(3, 2, pad="same"), MAP, lambda x, w: pooled(x, largest, (3, 3), (2, 2), (1, 1, 0, 1))),
    "max-ceil": (MaxPool(2, ceil=True), MAP, lambda x, w: pooled(x, largest, (2, 2), (2, 2), (0, 1, 0, 0))),
    # 7 rows padded by 1: a fourth window over rows 5 and 6, and no fifth that would begin in the padding.
    "max-ceil-drops": (
        MaxPool(2, 2, pad=1, ceil=True),
        MAP,
        lambda x, w: pooled(x, largest, (2, 2), (2, 2), (1, 0, 1, 1)),
    ),
    "average": (
        AvgPool(3, 2, pad=1, count_include_pad=False),
        MAP,
        lambda x, w: pooled(x, mean, (3, 3), (2, 2), (1, 1, 1, 1)),
    ),
    "average-counted": (
        AvgPool((3, 2), 2, pad=(1, 0)),
        MAP,
        lambda x, w: pooled(F.pad(x, (0, 0, 1, 1)), mean, (3, 2), (2, 2), (0, 0, 0, 0)),
    ),
    "average-counted-asymmetric": (
        AvgPool(3, 2, pad=(0, 2, 1, 0)),
        MAP,
        lambda x, w: pooled(F.pad(x, (1, 0, 0, 2)), mean, (3, 3), (2, 2), (0, 0, 0, 0)),
    ),
    "average-counted-tall-pad": (
        AvgPool((3, 4), 1, pad=(2, 1)),
        MAP,
        lambda x, w: pooled(F.pad(x, (1, 1, 2, 2)), mean, (3, 4), (1, 1), (0, 0, 0, 0)),
    ),
    "average-same": (AvgPool(3, 2, pad="same"), MAP, lambda x, w: pooled(x, mean, (3, 3), (2, 2), (1, 1, 0, 1))),
    # What ceil adds is never counted, the written padding is.
    "average-ceil": (
        AvgPool(3, 2, pad=(1, 0), ceil=True),
        MAP,
        lambda x, w: pooled(F.pad(x, (0, 0, 1, 1)), mean, (3, 3), (2, 2), (0, 0, 0, 1)),
    ),
    "adaptive": (
        AdaptiveAvgPool((3, 5)),
        MAP,
        lambda x, w: torch.stack(
            [mean(x[:, :, i * 7 // 3 : -(-(i + 1) * 7 // 3), j * 8 // 5 : -(-(j + 1) * 8 // 5)]) for i, j in CELLS], -1
        ).reshape(3, 4, 3, 5),
    ),
    "global": (GlobalAvgPool(), MAP, lambda x, w: x.sum((2, 3)) / 56),
    "flatten": (Flatten(), MAP, lambda x, w: torch.stack([x[:, c, i, j] for c, i, j in np.ndindex(MAP)], 1)),
    "flatten-flat": (Flatten(), FLAT, lambda x, w: x),
    "lrn": (LRN(size=3, alpha=0.7, beta=0.6, k=1.3), MAP, lambda x, w: lrn(x, 3, 0.7, 0.6, 1.3)),
    "relu": (ReLU(), MAP, lambda x, w: torch.where(x > 0, x, 0)),
    "relu-max": (ReLU(max=0.8), MAP, lambda x, w: torch.where(x > 0.8, 0.8, torch.where(x > 0, x, 0))),
    "leaky": (LeakyReLU(0.2), MAP, lambda x, w: torch.where(x > 0, x, 0.2 * x)),
    "sigmoid": (Sigmoid(), MAP, lambda x, w: 1 / (1 + torch.exp(-x))),
    "tanh": (Tanh(), FLAT, lambda x, w: (torch.exp(2 * x) - 1) / (torch.exp(2 * x) + 1)),
    "softmax": (Softmax(), MAP, lambda x, w: torch.exp(x) / torch.exp(x).sum(1, keepdim=True)),
    "dropout": (Dropout(0.0), MAP, lambda x, w: x),
    "identity": (Identity(), MAP, lambda x, w: x),
    "subsample": (
        Subsample((2, 3)),
        MAP,
        lambda x, w: torch.stack([torch.stack([x[:, :, i, j] for j in (0, 3, 6)], -1) for i in (0, 2, 4, 6)], -2),
    ),
    "padchannels": (PadChannels(7), MAP, lambda x, w: torch.cat([x, torch.zeros(3, 3, 7, 8)], 1)),
    "select": (Select((3, 0)), MAP, lambda x, w: torch.stack([x[:, 3], x[:, 0]], 1)),
    "chain": (Chain(ReLU(), Linear(2)), FLAT, lambda x, w: torch.relu(x) @ w["0.weight"].T + w["0.bias"]),
    "sum": (Sum(Tanh(), Identity(), ReLU()), MAP, lambda x, w: torch.tanh(x) + x + torch.relu(x)),
    "concat": (Concat(Tanh(), Identity(), ReLU()), MAP, lambda x, w: torch.cat([torch.tanh(x), x, torch.relu(x)], 1)),
}  # fmt: skip


@pytest.mark.parametrize(("layer", "shape", "definition"), CASES.values(), ids=CASES)
def test_a_layer_and_its_gradients_follow_the_definition(
    layer: Tree, shape: Shape, definition: Callable[[Tensor, Tensors], Tensor]
) -> None:
    weights = random_weights(layer, shape)
    native = imori.build(layer, shape, "torch", weights, "float64")
    rng = np.random.default_rng(6)
    x = torch.tensor(rng.standard_normal((3, *shape)) + 0.1, requires_grad=True)
    own = {name: torch.tensor(value, requires_grad=True) for name, value in weights.items()}
    expected = definition(x, own)
    dy = torch.tensor(rng.standard_normal(expected.shape))
    trained = dict(native.named_parameters())
    expected_gradients = torch.autograd.grad(expected, [x, *(own[name] for name in trained)], dy)
    y = native(x)
    gradients = torch.autograd.grad(y, [x, *trained.values()], dy)
    torch.testing.assert_close(y, expected, rtol=1e-10, atol=1e-12)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, rtol=1e-10, atol=1e-12)


def test_every_kind_has_a_case() -> None:
    assert {type(layer).__name__ for layer, _, _ in CASES.values()} == set(KINDS) - {"Aux"}  # test_build.py


def test_batch_norm_in_evaluation_and_its_statistics() -> None:
    layer = BatchNorm(eps=0.01, momentum=0.3)
    weights = random_weights(layer, MAP)
    native = imori.build(layer, MAP, "torch", weights, "float64")
    x = np.random.default_rng(7).standard_normal((3, *MAP))
    role = {name: value.reshape(1, -1, 1, 1) for name, value in weights.items()}
    expected = (x - role["mean"]) / np.sqrt(role["var"] + 0.01) * role["weight"] + role["bias"]
    np.testing.assert_allclose(imori.logits(native, x), expected, rtol=1e-10)
    native(torch.tensor(x))
    after = imori.dump_weights(native)
    np.testing.assert_allclose(after["mean"], 0.7 * weights["mean"] + 0.3 * x.mean((0, 2, 3)), rtol=1e-10)
    np.testing.assert_allclose(after["var"], 0.7 * weights["var"] + 0.3 * x.var((0, 2, 3), ddof=1), rtol=1e-10)


def test_dropout_scales_what_it_keeps() -> None:
    native = imori.build(Dropout(0.75), FLAT, "torch")
    x = torch.tensor(np.random.default_rng(8).uniform(1, 2, (2000, *FLAT)))
    y = native(x)
    kept = y != 0
    assert kept.double().mean().item() == pytest.approx(0.25, abs=0.02)
    torch.testing.assert_close(y[kept], 4 * x[kept])
    assert torch.equal(native.eval()(x), x)
