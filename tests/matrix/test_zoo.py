"""One network with every kind of layer and combinator, and every way to pad: forward and backward agree."""

from typing import Any

import numpy as np
import pytest

import imori
from imori import frameworks
from imori.shapes import walk
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
    leaves,
    to_data,
)

CLASSES = 4

ZOO = Chain(
    conv1=Conv(8, (3, 2), stride=(1, 2), pad=(0, 2, 1, 0), bias=False),
    bn1=BatchNorm(eps=1e-3, momentum=0.3),
    leaky=LeakyReLU(0.2),
    mixed=Concat(
        dilated=Conv(4, 3, pad=2, groups=2, dilation=2),
        strips=Chain(tall=Conv(4, (3, 1), pad="same"), wide=Conv(6, (1, 4), pad="same", groups=2), tanh=Tanh()),
        pooled=Chain(pool=MaxPool(3, 1, pad=2), conv=Conv(2, (5, 5), pad=1, bias=False)),
        averaged=AvgPool((3, 5), 1, pad=(1, 2), count_include_pad=False),
    ),
    seen=Select((16, *range(15))),
    lrn=LRN(size=3, alpha=0.5, beta=0.6, k=1.5),
    aux1=Aux(Chain(pool=AvgPool(4, 3, ceil=True), flatten=Flatten(), fc=Linear(CLASSES)), 0.4),
    down=Sum(
        body=Chain(
            depthwise=Depthwise(3, stride=2, pad="same", multiplier=2, dilation=(1, 2)),
            relu=ReLU(max=1.1),
            point=Conv(24, 1),
        ),
        shortcut=Chain(subsample=Subsample(2), pad=PadChannels(24)),
    ),
    pool=MaxPool(2, 2, pad=(0, 1, 1, 0), ceil=True),
    up=ConvTranspose(12, (3, 4), stride=(2, 3), pad=(1, 0, 0, 2), output_pad=(1, 2), groups=3),
    sigmoid=Sigmoid(),
    up2=ConvTranspose(6, 3, stride=2, pad=1, output_pad=1, bias=False),
    drop=Dropout(0.0),
    average=AvgPool(3, 2, pad="same"),
    average2=AvgPool((2, 3), (2, 1), pad=(1, 0, 1, 1)),
    same=MaxPool(3, 2, pad="same"),
    inner=Sum(Chain(aux=Aux(Chain(GlobalAvgPool(), Linear(CLASSES)), 0.7), conv=Conv(6, 3, pad=1)), Identity()),
    ends=Concat(
        grid=Chain(pool=AdaptiveAvgPool((3, 2)), flatten=Flatten(), bn=BatchNorm(), relu=ReLU()),
        shares=Chain(softmax=Softmax(), pool=GlobalAvgPool()),
    ),
    side=Aux(Linear(CLASSES), 0.2),
    fc=Linear(CLASSES),
)
# Even, odd and mixed sizes: "same" and ceil pad differently at each.
SHAPES = [(5, 18, 24), (5, 17, 23), (5, 20, 33)]


def kinds(tree: Tree) -> set[str]:
    """The kinds of layers and combinators in a tree, itself included."""
    inside: list[Any] = [child for _, child in getattr(tree, "children", ())]
    inside += [tree.head] if isinstance(tree, Aux) else []
    return {to_data(tree)["kind"]}.union(*(kinds(child) for child in inside))


def test_the_zoo_has_every_kind() -> None:
    assert kinds(ZOO) == set(KINDS)
    assert len(list(leaves(ZOO))) == len([node for node in walk(ZOO, SHAPES[0]) if not node.children])


@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_logits_agree(matrix: Any, peer: str, shape: tuple[int, int, int]) -> None:
    weights = matrix.randomised(ZOO, shape)
    images, _, _ = matrix.batch(shape, CLASSES, count=3)
    for dtype in frameworks.get(peer).DTYPES:
        ours, theirs = (imori.logits(imori.build(ZOO, shape, each, weights, dtype), images) for each in (peer, "numpy"))
        assert np.abs(theirs).max() > 0.1
        assert matrix.difference(ours, theirs) <= {"float64": 1e-12, "float32": 1e-5}[dtype]


@pytest.mark.trains
@pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "x".join(map(str, shape)))
def test_a_training_step_agrees(matrix: Any, peer: str, shape: tuple[int, int, int]) -> None:
    matrix.same_step(ZOO, shape, peer, CLASSES)
