"""What the matrix would notice: a framework that is handed something a little wrong fails its checks.

Each mutation is a mistake that is easily made, or another library's habit. NumPy computes what is right, the framework
what is wrong. Where both compute what is right the same check passes, so that it is the mutation that is seen.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from imori import frameworks
from imori.frameworks.base import Array, Native, Weights
from imori.optimizers import SGD, Adam, AdamW
from imori.shapes import Node, resolve
from imori.tree import (
    LRN,
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
    LeakyReLU,
    Linear,
    MaxPool,
    PadChannels,
    ReLU,
    Select,
    Sum,
    Tree,
)

SHAPE, CLASSES, COUNT = (3, 8, 7), 3, 4


def net(it: Tree) -> Chain:
    """A small network around it, which gets six channels."""
    return Chain(stem=Conv(6, 1), it=it, pool=GlobalAvgPool(), fc=Linear(CLASSES))


def build_otherwise(
    monkeypatch: pytest.MonkeyPatch,
    peer: str,
    tree: Tree | None = None,
    weights: Callable[[Weights], Weights] | None = None,
) -> None:
    """From here on the framework builds another tree than it is asked for, or from other weights."""
    module = frameworks.get(peer)
    build = module.build

    def mutated(root: Node, given: Weights, dtype: str, device: str) -> Native:
        return build(resolve(tree or root.layer, root.input), weights(given) if weights else given, dtype, device)

    monkeypatch.setattr(module, "build", mutated)


# --- what a layer computes -------------------------------------------------------------------------------------------

LAYERS: dict[str, tuple[Tree, Tree]] = {
    "same-conv-at-the-top-left": (Conv(6, 3, 2, pad="same"), Conv(6, 3, 2, pad=(1, 0, 1, 1))),
    "dilation-dropped": (Conv(6, 3, pad=2, dilation=2), Conv(6, 3, pad=1)),
    "transposed-cropped-at-the-end": (
        ConvTranspose(6, 3, 2, pad=1, output_pad=1),
        ConvTranspose(6, 3, 2, pad=(0, 1, 0, 1)),
    ),
    "eps-1e-3": (BatchNorm(eps=1e-5), BatchNorm(eps=1e-3)),
    "eps-1.001e-5": (BatchNorm(eps=1e-5), BatchNorm(eps=1.001e-5)),
    "relu-before-batch-norm": (Chain(bn=BatchNorm(), relu=ReLU()), Chain(relu=ReLU(), bn=BatchNorm())),
    "max-pool-floors": (MaxPool(2, ceil=True), MaxPool(2)),
    "same-max-pool-at-the-top-left": (MaxPool(3, 2, pad="same"), MaxPool(3, 2, pad=(1, 0, 1, 1))),
    "average-counts-its-pads": (AvgPool(3, 2, 1, count_include_pad=False), AvgPool(3, 2, 1)),
    "lrn-alpha-of-the-mean": (LRN(size=3, alpha=0.5), LRN(size=3, alpha=0.5 / 3)),
    "lrn-k": (LRN(size=3, alpha=0.5), LRN(size=3, alpha=0.5, k=1.0)),
    "relu-without-limit": (ReLU(max=1.5), ReLU()),
    "dropout-halves-at-inference": (Dropout(0.5), LRN(size=1, alpha=0.0, beta=1.0, k=2.0)),
    "leaky-slope": (LeakyReLU(0.2), LeakyReLU(0.01)),
    "zero-channels-first": (PadChannels(9), Chain(PadChannels(9), Select((6, 7, 8, *range(6))))),
    "concat-order": (Concat(a=Conv(3, 1), b=Conv(3, 3, pad=1)), Concat(b=Conv(3, 3, pad=1), a=Conv(3, 1))),
}
"""What is right, and what a framework makes of it. At a height that is even and a width that is odd."""
HIDDEN = {"eps-1.001e-5"}
"""Mistakes that float32 does not show."""
SEEN = r"<= (5e-10|0\.0001)"
"""What the check of logits says where they are others: in float64, or where a framework has none, in float32."""


@pytest.mark.parametrize("name", LAYERS)
def test_another_layer_shows_in_the_logits(matrix: Any, peer: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right, wrong = map(net, LAYERS[name])
    matrix.same_logits(right, SHAPE, peer, CLASSES)
    build_otherwise(monkeypatch, peer, tree=wrong)
    if name in HIDDEN and "float64" not in frameworks.get(peer).DTYPES:
        matrix.same_logits(right, SHAPE, peer, CLASSES)
        return
    with pytest.raises(AssertionError, match=SEEN):
        matrix.same_logits(right, SHAPE, peer, CLASSES)


# --- how weights are laid out ----------------------------------------------------------------------------------------


def turned(name: str, how: Callable[[Array], Array]) -> Callable[[Weights], Weights]:
    """One weight, laid out in another way."""
    return lambda weights: {**weights, name: np.ascontiguousarray(how(weights[name]))}


def swapped(one: str, two: str) -> Callable[[Weights], Weights]:
    """Two weights, each in the other's place."""
    return lambda weights: {**weights, one: weights[two], two: weights[one]}


def interleaved(blocks: int) -> Callable[[Array], Array]:
    """The lines of a weight, of which each block has several: the first of every block, the second of every block, …"""
    return lambda array: array.reshape(blocks, -1, *array.shape[1:]).swapaxes(0, 1).reshape(array.shape)


def height_width_channel(rows: Array) -> Array:
    """The rows of a `Linear` after a `Flatten`, in the order of a map that has its channels last."""
    maps = rows.reshape(len(rows), 6, *SHAPE[1:])
    return maps.transpose(0, 2, 3, 1).reshape(rows.shape)


SQUARE, NORM = net(Conv(6, 3)), net(BatchNorm())
LAYOUTS: dict[str, tuple[Tree, Callable[[Weights], Weights]]] = {
    "kernel-width-by-height": (SQUARE, turned("it.weight", lambda kernel: kernel.swapaxes(2, 3))),
    "kernel-upside-down": (SQUARE, turned("it.weight", lambda kernel: kernel[:, :, ::-1, ::-1])),
    "kernel-in-by-out": (SQUARE, turned("it.weight", lambda kernel: kernel.swapaxes(0, 1))),
    "colours-reversed": (SQUARE, turned("stem.weight", lambda kernel: kernel[:, ::-1])),
    "groups-interleaved": (net(Conv(6, 3, groups=3)), turned("it.weight", interleaved(3))),
    "multipliers-first": (net(Depthwise(3, multiplier=2)), turned("it.weight", interleaved(6))),
    "transposed-in-by-out": (net(ConvTranspose(6, 3, 2)), turned("it.weight", lambda kernel: kernel.swapaxes(0, 1))),
    "flat-height-width-channel": (
        Chain(stem=Conv(6, 1), flatten=Flatten(), fc=Linear(CLASSES)),
        turned("fc.weight", height_width_channel),
    ),
    "dense-in-by-out": (
        Chain(stem=Conv(6, 1), pool=GlobalAvgPool(), it=Linear(6), relu=ReLU(), fc=Linear(CLASSES)),
        turned("it.weight", lambda weight: weight.T),
    ),
    "gamma-and-variance-swapped": (NORM, swapped("it.weight", "it.var")),
    "beta-and-mean-swapped": (NORM, swapped("it.bias", "it.mean")),
    "deviation-for-variance": (NORM, turned("it.var", np.sqrt)),
    "shortcut-and-body-swapped": (
        net(Sum(body=Chain(conv=Conv(6, 1), relu=ReLU()), shortcut=Conv(6, 1))),
        swapped("it.body.conv.weight", "it.shortcut.weight"),
    ),
}
"""A network, and what a framework makes of its weights."""


@pytest.mark.parametrize("name", LAYOUTS)
def test_another_layout_shows_in_the_logits(matrix: Any, peer: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tree, wrong = LAYOUTS[name]
    matrix.same_logits(tree, SHAPE, peer, CLASSES)
    build_otherwise(monkeypatch, peer, weights=wrong)
    with pytest.raises(AssertionError, match=SEEN):
        matrix.same_logits(tree, SHAPE, peer, CLASSES)


# --- how a step trains -----------------------------------------------------------------------------------------------


def trained(momentum: float = 0.1, share: float = 0.3) -> Chain:
    """A small network with a head, and with what a step treats in its own way."""
    head = Aux(Chain(pool=GlobalAvgPool(), fc=Linear(CLASSES)), share)
    norms = BatchNorm(momentum=momentum), BatchNorm()
    return Chain(bn=norms[0], aux=head, conv=Conv(6, 1), bn2=norms[1], pool=GlobalAvgPool(), fc=Linear(CLASSES))


DIFFERS = r"is off by|±|<= 5e-10"
"""What the check of a step says where a value is another one."""
DECAYED = frozenset({"bn.weight", "conv.weight", "fc.weight"})
SETUP: dict[str, Any] = {
    "optimizer": AdamW(0.1),
    "decayed": DECAYED,
    "rates": {"fc.weight": 3.0},
    "frozen": frozenset({"bn2"}),
    "clip": 0.01,
}
SETUPS: dict[str, dict[str, Any]] = {
    "decay-in-the-gradient": {"optimizer": Adam(0.1)},
    "decay-of-biases": {"decayed": DECAYED | {"bn.bias", "conv.bias", "fc.bias"}},
    "rates-ignored": {"rates": {}},
    "frozen-norm-trains": {"frozen": frozenset()},
    "clipping-dropped": {"clip": None},
}
"""What a framework makes of the setup above."""


def prepare_otherwise(monkeypatch: pytest.MonkeyPatch, framework: str, **changes: Any) -> None:
    """From here on the framework prepares its steps with some things that it is not asked for."""
    module = frameworks.get(framework)
    prepare = module.prepare
    monkeypatch.setattr(module, "prepare", lambda native, setup: prepare(native, replace(setup, **changes)))


@pytest.mark.trains
@pytest.mark.parametrize("changed", [{}, SETUP], ids=["plain", "setup"])
def test_what_is_right_trains_alike(
    matrix: Any, peer: str, changed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("IMORI_MATRIX", raising=False)  # what is kept there is of the plain setup
    for framework in ("numpy", peer):
        prepare_otherwise(monkeypatch, framework, **changed)
    matrix.same_step(trained(), SHAPE, peer, CLASSES, COUNT)


@pytest.mark.trains
@pytest.mark.parametrize("name", SETUPS)
def test_another_setup_shows_in_a_step(matrix: Any, peer: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMORI_MATRIX", raising=False)
    prepare_otherwise(monkeypatch, "numpy", **SETUP)
    prepare_otherwise(monkeypatch, peer, **SETUP | SETUPS[name])
    with pytest.raises(AssertionError, match=DIFFERS):
        matrix.same_step(trained(), SHAPE, peer, CLASSES, COUNT)


@pytest.mark.trains
def test_nesterov_shows_in_a_step(matrix: Any, peer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare_otherwise(monkeypatch, peer, optimizer=SGD(nesterov=True))
    with pytest.raises(AssertionError, match=r"\.(weight|bias) is off by"):
        matrix.same_step(trained(), SHAPE, peer, CLASSES, COUNT)


@pytest.mark.trains
@pytest.mark.parametrize(
    "wrong",
    [{"momentum": 0.9}, {"share": 0.4}, {"share": 0.0}],
    ids=["momentum-of-the-old", "head-of-another-share", "head-unheard"],
)
def test_another_layer_shows_in_a_step(
    matrix: Any, peer: str, wrong: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    build_otherwise(monkeypatch, peer, tree=trained(**wrong))
    with pytest.raises(AssertionError, match=DIFFERS):
        matrix.same_step(trained(), SHAPE, peer, CLASSES, COUNT)


@pytest.mark.trains
def test_a_biased_running_variance_shows_in_a_step(matrix: Any, peer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Keras and Flax have it: the batch's share of the new variance is smaller by (N - 1) / N."""
    kept = 0.9 * matrix.randomised(trained(), SHAPE)["bn.var"]
    values = COUNT * SHAPE[1] * SHAPE[2]
    module = frameworks.get(peer)
    dump = module.dump

    def biased(native: Native) -> Weights:
        weights = dump(native)
        return {**weights, "bn.var": kept + (weights["bn.var"] - kept) * (values - 1) / values}

    monkeypatch.setattr(module, "dump", biased)
    with pytest.raises(AssertionError, match=r"bn\.var is off by"):
        matrix.same_step(trained(), SHAPE, peer, CLASSES, COUNT)
