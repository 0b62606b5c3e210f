"""Every net of the catalogue, each variant, in every framework beside the NumPy engine: equal weights, equal numbers.

At an even, square input, and at an odd one that is not square: padding on the wrong side shows at one of them.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import pytest

import imori
from imori import frameworks
from imori.catalogue import list_models, variants
from imori.errors import TreeError
from imori.shapes import Shape, resolve

FRAMEWORKS = [name for name in frameworks.names() if name != "numpy" and frameworks.installed(name)]
CLASSES = 7
NETS = [(name, variant) for name in list_models() for variant in variants(name)]
DEEP = {
    "vgg19", "vgg19_bn", "resnet34", "resnet101", "resnet152", "resnext101_32x4d", "resnext101_32x8d",
    "resnext101_64x4d", "densenet161", "densenet169", "densenet201", "densenet264",
}  # fmt: skip
"""More of the same blocks as another net."""
WIDE = {"alexnet": 4, "zfnet": 4, "vgg16": 4, "vgg19": 4, "vgg16_bn": 4, "vgg19_bn": 4, "resnext101_32x8d": 2}
WIDE |= {"resnext101_64x4d": 2}
"""They train with this part of their filters, and their larger forms compute with it: the same layers, less work."""
LARGER = ("torchvision", "timm")
NEEDLESS = {("vgg16", "keras"), ("vgg19", "keras")}
"""They differ from the default in dropout alone, which has no part in what is compared here."""


@lru_cache
def small_input(name: str, variant: str, odd: bool) -> Shape:
    """An input about as small as the net takes: even and square, or odd and not square."""
    # Batch norms over a few values magnify every rounding, layer by layer: the deepest nets need maps of some size.
    for size in range(64 if name.startswith("densenet") else 32, 256, 8):
        try:
            resolve(imori.model(name, CLASSES, variant=variant), (3, size, size))
        except TreeError:
            continue
        return (3, size + 1, size + 13) if odd else (3, size, size)
    raise AssertionError(f"{name} takes no input below 256")


def cases(slow: set[str]) -> list[Any]:
    """A case for every net, variant and framework; those of the nets in `slow` are marked so."""
    return [
        pytest.param(
            name,
            variant,
            framework,
            id=f"{name}-{variant}-{framework}",
            marks=[pytest.mark.slow] if name in slow or (variant != "default" and name in WIDE) else [],
        )
        for name, variant in NETS
        if (name, variant) not in NEEDLESS
        for framework in FRAMEWORKS
    ]


def test_nothing_needful_is_left_out(matrix: Any) -> None:
    for name, variant in NEEDLESS:
        whole, other = (matrix.without_dropout(imori.model(name, variant=each)) for each in ("default", variant))
        assert [layer for layer in imori.walk(whole, (3, 64, 64)) if layer.weights] == [
            layer for layer in imori.walk(other, (3, 64, 64)) if layer.weights
        ]


@pytest.mark.parametrize(("name", "variant", "framework"), cases(slow=DEEP))
def test_logits_agree(matrix: Any, name: str, variant: str, framework: str) -> None:
    tree, shape = imori.model(name, CLASSES, variant=variant), small_input(name, variant, odd=False)
    tree = matrix.thinned(tree, WIDE.get(name, 1) if variant in LARGER else 1)
    weights = matrix.randomised(tree, shape)
    images, _, _ = matrix.batch(shape, CLASSES, count=2)
    logits = {
        (each, dtype): imori.logits(imori.build(tree, shape, each, weights, dtype), images.astype(dtype))
        for each in ("numpy", framework)
        for dtype in ("float64", "float32")
    }
    assert np.abs(logits[framework, "float64"]).max() > 0.1, "logits near zero would hide a difference"
    assert matrix.difference(logits[framework, "float64"], logits["numpy", "float64"]) <= 1e-9
    assert matrix.difference(logits[framework, "float32"], logits["numpy", "float32"]) <= 1e-4
    assert matrix.difference(logits[framework, "float32"].astype(float), logits["numpy", "float64"]) <= 1e-4


@pytest.mark.parametrize(("name", "variant", "framework"), cases(slow=DEEP | {"googlenet", "xception", "nin"}))
def test_a_training_step_agrees(matrix: Any, name: str, variant: str, framework: str) -> None:
    tree = matrix.without_dropout(imori.model(name, CLASSES, variant=variant))
    tree = matrix.thinned(tree, WIDE.get(name, 1))
    matrix.same_step(tree, small_input(name, variant, odd=True), framework, CLASSES, count=3)
