"""Every field of every layer counts, in every framework.

A `match` proves that a framework forgets no kind of layer, but not that it looks at every field of it. So each field is
given two values, and the built networks must differ. A new field fails here until it has its two values.
"""

import zlib
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

import imori
from imori import frameworks
from imori.frameworks.base import Setup
from imori.optimizers import SGD
from imori.shapes import Shape, resolve
from imori.tree import (
    KINDS,
    LRN,
    AdaptiveAvgPool,
    Aux,
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

INPUT = (2, 8, 7)

FIELDS: dict[str, tuple[Tree, Tree]] = {
    "Conv.out": (Conv(4, 3), Conv(2, 3)),
    "Conv.kernel": (Conv(4, 3), Conv(4, (2, 3))),
    "Conv.stride": (Conv(4, 3), Conv(4, 3, (1, 2))),
    "Conv.pad": (Conv(4, 3, pad=1), Conv(4, 3, pad=(2, 0, 1, 1))),
    "Conv.groups": (Conv(4, 3), Conv(4, 3, groups=2)),
    "Conv.dilation": (Conv(4, 3), Conv(4, 3, dilation=(2, 1))),
    "Conv.bias": (Conv(4, 3), Conv(4, 3, bias=False)),
    "Conv.init": (Conv(4, 3), Conv(4, 3, init="xavier")),
    "Depthwise.kernel": (Depthwise(3), Depthwise((2, 3))),
    "Depthwise.stride": (Depthwise(3), Depthwise(3, 2)),
    "Depthwise.pad": (Depthwise(3), Depthwise(3, pad=(0, 2, 0, 0))),
    "Depthwise.multiplier": (Depthwise(3), Depthwise(3, multiplier=2)),
    "Depthwise.dilation": (Depthwise(3), Depthwise(3, dilation=2)),
    "Depthwise.bias": (Depthwise(3), Depthwise(3, bias=False)),
    "Depthwise.init": (Depthwise(3), Depthwise(3, init=0.01)),
    "ConvTranspose.out": (ConvTranspose(4, 3), ConvTranspose(2, 3)),
    "ConvTranspose.kernel": (ConvTranspose(4, 3), ConvTranspose(4, 2)),
    "ConvTranspose.stride": (ConvTranspose(4, 3), ConvTranspose(4, 3, 2)),
    "ConvTranspose.pad": (ConvTranspose(4, 3), ConvTranspose(4, 3, pad=(0, 1, 0, 0))),
    "ConvTranspose.output_pad": (ConvTranspose(4, 3, 2), ConvTranspose(4, 3, 2, output_pad=(0, 1))),
    "ConvTranspose.groups": (ConvTranspose(4, 3), ConvTranspose(4, 3, groups=2)),
    "ConvTranspose.bias": (ConvTranspose(4, 3), ConvTranspose(4, 3, bias=False)),
    "ConvTranspose.init": (ConvTranspose(4, 3), ConvTranspose(4, 3, init=0.5)),
    "Linear.out": (Linear(4), Linear(5)),
    "Linear.bias": (Linear(4), Linear(4, bias=False)),
    "Linear.init": (Linear(4), Linear(4, init="xavier")),
    "BatchNorm.eps": (BatchNorm(), BatchNorm(eps=1e-2)),
    "BatchNorm.momentum": (BatchNorm(), BatchNorm(momentum=0.2)),
    "MaxPool.kernel": (MaxPool(3, 2), MaxPool(2, 2)),
    "MaxPool.stride": (MaxPool(3, 2), MaxPool(3, 1)),
    "MaxPool.pad": (MaxPool(3, 2), MaxPool(3, 2, 1)),
    "MaxPool.ceil": (MaxPool(3, 2), MaxPool(3, 2, ceil=True)),
    "AvgPool.kernel": (AvgPool(3, 2), AvgPool(2, 2)),
    "AvgPool.stride": (AvgPool(3, 2), AvgPool(3, 1)),
    "AvgPool.pad": (AvgPool(3, 2), AvgPool(3, 2, 1)),
    "AvgPool.ceil": (AvgPool(3, 2), AvgPool(3, 2, ceil=True)),
    "AvgPool.count_include_pad": (AvgPool(3, 2, 1), AvgPool(3, 2, 1, count_include_pad=False)),
    "AdaptiveAvgPool.size": (AdaptiveAvgPool(2), AdaptiveAvgPool((2, 3))),
    "LRN.size": (LRN(), LRN(size=1)),
    "LRN.alpha": (LRN(), LRN(alpha=1e-2)),
    "LRN.beta": (LRN(), LRN(beta=0.5)),
    "LRN.k": (LRN(), LRN(k=1.0)),
    "ReLU.max": (ReLU(), ReLU(max=0.5)),
    "LeakyReLU.slope": (LeakyReLU(), LeakyReLU(0.2)),
    "Dropout.drop": (Dropout(0.5), Dropout(0.2)),
    "Subsample.stride": (Subsample(2), Subsample((2, 1))),
    "PadChannels.out": (PadChannels(4), PadChannels(5)),
    "Select.channels": (Select((0, 1)), Select((1, 0))),
    "Chain.children": (Chain(Sigmoid(), Tanh()), Chain(Tanh(), Sigmoid())),
    "Sum.children": (Sum(Sigmoid(), Tanh()), Sum(Sigmoid(), Identity())),
    "Concat.children": (Concat(Sigmoid(), Tanh()), Concat(Tanh(), Sigmoid())),
    "Aux.head": (Aux(Chain(GlobalAvgPool(), Linear(3))), Aux(Chain(GlobalAvgPool(), Tanh(), Linear(3)))),
    "Aux.weight": (Aux(Chain(GlobalAvgPool(), Linear(3)), 0.3), Aux(Chain(GlobalAvgPool(), Linear(3)), 0.5)),
}
"""Two values of every field. All else about the two trees is equal, so that a difference comes from the field."""


def build(tree: Tree, framework: str, shape: Shape = INPUT) -> Any:
    """With every weight at random by its name, so that trees that differ in a field have the same weights."""
    weights = {}
    for name, size in shapes_of(resolve(tree, shape)).items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        weights[name] = rng.random(size) + 0.5 if name.endswith("var") else rng.standard_normal(size) / 2
    return imori.build(tree, shape, framework, weights, frameworks.get(framework).DTYPES[-1])


def images(shape: Shape = INPUT) -> Any:
    return np.random.default_rng(1).standard_normal((5, *shape))


def step(native: Any, trained: str, rate: float) -> float:
    targets = np.eye(3)[[0, 2, 1, 1, 0]]
    setup = Setup(SGD(), frozenset({trained}), precision="float64")
    return float(frameworks.of(native).prepare(native, setup)(images(), targets, np.full(5, 0.7), rate, 3)[0])


def at_inference(tree: Tree, framework: str) -> Any:
    shape = (12,) if isinstance(tree, Linear) else INPUT
    return imori.logits(build(tree, framework, shape), images(shape))


def in_training(tree: Tree, framework: str) -> Any:
    whole = Chain(before=Chain(Conv(3, 1)), it=tree, after=Chain(Flatten(), Linear(3)))
    return step(build(whole, framework), "before.0.weight", 0.1)


def after_training(tree: Tree, framework: str) -> Any:
    native = build(Chain(it=tree, after=Chain(Flatten(), Linear(3))), framework)
    step(native, "it.weight", 0.0)
    return imori.dump_weights(native)["it.var"]


def at_the_start(tree: Tree, framework: str) -> Any:
    return imori.initial_weights(tree, (12,) if isinstance(tree, Linear) else INPUT)["weight"]


SEEN: dict[str, Callable[[Tree, str], Any]] = {
    "BatchNorm.momentum": after_training,
    "Dropout.drop": in_training,
    "Aux.head": in_training,
    "Aux.weight": in_training,
    "Conv.init": at_the_start,
    "Depthwise.init": at_the_start,
    "ConvTranspose.init": at_the_start,
    "Linear.init": at_the_start,
}
"""Where a field shows, if not at inference."""


@pytest.mark.parametrize("name", [f"{kind}.{part.name}" for kind in KINDS for part in fields(KINDS[kind])])
def test_every_field_changes_what_is_computed(name: str, framework: str) -> None:
    one, other = FIELDS[name]
    kind, _, part = name.partition(".")
    differing = {field.name for field in fields(one) if getattr(one, field.name) != getattr(other, field.name)}
    assert type(one) is type(other) is KINDS[kind]
    assert differing == {part}
    if kind == "Aux":  # alone it is no network
        one, other = Chain(it=one), Chain(it=other)
    seen = SEEN.get(name, at_inference)
    if framework in frameworks.PREDICTING and seen in (in_training, after_training):
        assert np.array_equal(at_inference(one, framework), at_inference(other, framework))
        return
    assert np.array_equal(seen(one, framework), seen(one, framework)), "this is no measure of anything"
    assert not np.array_equal(seen(one, framework), seen(other, framework))


PLAIN: dict[str, Tree] = {
    kind.__name__: kind() for kind in (GlobalAvgPool, Flatten, ReLU, Sigmoid, Tanh, Softmax, Identity)
}


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_gives_the_shape_that_the_walk_says(kind: str, framework: str) -> None:
    tree = PLAIN.get(kind) or next(pair[0] for name, pair in FIELDS.items() if name.startswith(f"{kind}."))
    whole = Chain(flat=Flatten(), it=tree) if isinstance(tree, Linear) else Chain(it=tree)
    assert imori.logits(build(whole, framework), images()).shape == (5, *resolve(whole, INPUT).output)
