"""Small networks with the names of published ones, and files of their weights."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from imori.shapes import Shape, resolve
from imori.tree import (
    Aux,
    BatchNorm,
    Chain,
    Concat,
    Conv,
    Depthwise,
    Flatten,
    GlobalAvgPool,
    Identity,
    Linear,
    MaxPool,
    ReLU,
    Sum,
    Tree,
)
from imori.weights.names import Weights
from imori.weights.published import their_shapes
from imori.weights.tables import PUBLISHERS, names_in

STEM = {"conv1": Conv(4, 3, bias=False), "bn1": BatchNorm()}
LAYER = Concat(
    shortcut=Identity(),
    body=Chain(bn1=BatchNorm(), conv1=Conv(8, 1, bias=False), bn2=BatchNorm(), conv2=Conv(2, 3, pad=1, bias=False)),
)


def vgg(convolutional: bool) -> Tree:
    """A VGG of one convolution and a map of 2×2; timm slides its dense layers over the map."""
    dense = (Conv(6, 2), Conv(5, 1)) if convolutional else (Linear(6), Linear(5))
    flatten, gap = ({}, {"gap": GlobalAvgPool()}) if convolutional else ({"flatten": Flatten()}, {})
    return Chain(
        conv1_1=Conv(4, 3, pad=1), relu1_1=ReLU(), pool1=MaxPool(2), **flatten,
        fc6=dense[0], relu6=ReLU(), fc7=dense[1], relu7=ReLU(), **gap, fc8=Linear(3),
    )  # fmt: skip


def xception() -> Tree:
    """An Xception of ten blocks, each wider than the one before: its shortcuts are what Keras leaves unnamed."""
    blocks = {
        f"block{i}": Sum(
            body=Chain(sepconv1=Chain(depthwise=Depthwise(3, pad=1, bias=False), pointwise=Conv(i + 3, 1, bias=False))),
            shortcut=Chain(conv=Conv(i + 3, 1, bias=False), bn=BatchNorm()),
        )
        for i in range(2, 12)
    }
    return Chain(**STEM, **blocks, gap=GlobalAvgPool(), fc=Linear(3))


def googlenet(heads: bool) -> Tree:
    aux = Aux(
        Chain(conv=Conv(4, 1, bias=False), conv_bn=BatchNorm(), gap=GlobalAvgPool(), fc1=Linear(5), fc2=Linear(3))
    )
    return Chain(
        conv1=Conv(4, 3, bias=False), conv1_bn=BatchNorm(), **({"aux1": aux} if heads else {}), gap=GlobalAvgPool(),
        fc=Linear(3),
    )  # fmt: skip


SMALL: dict[str, Tree] = {
    "resnet": Chain(
        conv1=Conv(4, 3, bias=False),
        bn1=BatchNorm(),
        conv2=Chain(
            Sum(
                body=Chain(conv1=Conv(6, 1, bias=False), bn1=BatchNorm()),
                shortcut=Chain(conv=Conv(6, 1, bias=False), bn=BatchNorm()),
            )
        ),
        gap=GlobalAvgPool(),
        fc=Linear(3),
    ),
    "densenet": Chain(**STEM, dense1=Chain(LAYER), bn5=BatchNorm(), gap=GlobalAvgPool(), fc=Linear(3)),
    "googlenet": googlenet(heads=True),
    "googlenet-headless": googlenet(heads=False),
    "vgg": vgg(convolutional=False),
    "vgg-convolutional": vgg(convolutional=True),
    "xception": xception(),
}
SHAPE = (3, 4, 4)


def state_of(tree: Tree, publisher: str, shape: Shape = SHAPE, dtype: str = "float32") -> Weights:
    """A state dict of the publisher's names and shapes, every number random."""
    root = resolve(tree, shape)
    (names,) = (found for table in PUBLISHERS[publisher].values() if (found := names_in(table, root)) is not None)
    rng = np.random.default_rng(7)
    return {name: rng.standard_normal(size).astype(dtype) for name, size in their_shapes(root, names).items()}


@pytest.fixture
def small() -> Callable[[str], Tree]:
    """A small network of a published family: `small("resnet")`."""
    return SMALL.__getitem__


@pytest.fixture
def state() -> Callable[..., Weights]:
    """Its weights under a publisher's names: `state(tree, "timm")`."""
    return state_of


@pytest.fixture
def saved(tmp_path: Path) -> Callable[..., Path]:
    """A .safetensors file: `saved(weights)`."""

    def save(tensors: Weights, name: str = "checkpoint.safetensors") -> Path:
        safetensors.numpy.save_file(tensors, tmp_path / name)
        return tmp_path / name

    return save
