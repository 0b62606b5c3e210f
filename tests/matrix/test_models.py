"""Every net of the catalogue in every framework, beside the NumPy engine: the same weights give the same numbers."""

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
DEEPER = {"vgg19", "vgg19_bn", "resnet34", "resnet101", "resnet152"}
"""More of the same blocks as a smaller net: only the logits of their default are compared."""
LARGE = {("alexnet", "torchvision"), ("vgg16", "torchvision"), ("vgg16_bn", "torchvision")}
"""Up to 120 million weights, nearly all in dense layers like the default's: only their logits are compared."""


def small_input(name: str, variant: str, odd: bool) -> Shape:
    """An input about as small as the net takes: even and square, or odd and not square."""
    for size in range(32, 256, 8):
        try:
            resolve(imori.model(name, CLASSES, variant=variant), (3, size, size))
        except TreeError:
            continue
        return (3, size + 1, size + 13) if odd else (3, size, size)
    raise AssertionError(f"{name} takes no input below 256")


# Defaults at both sizes, other variants at the odd one.
FORWARD = [
    pytest.param(
        name,
        variant,
        odd,
        framework,
        id="-".join([name, variant, "odd" if odd else "even", framework]),
        marks=[pytest.mark.slow] if variant == "torchvision" or name in DEEPER else [],
    )
    for name in list_models()
    for variant in (["default"] if name in DEEPER else variants(name))
    for odd in ([False, True] if variant == "default" else [True])
    for framework in FRAMEWORKS
]
STEPS = [
    pytest.param(name, variant, framework, id=f"{name}-{variant}-{framework}")
    for name in list_models()
    for variant in variants(name)
    if name not in DEEPER and (name, variant) not in LARGE
    for framework in FRAMEWORKS
]


@pytest.mark.parametrize(("name", "variant", "odd", "framework"), FORWARD)
def test_logits_agree(matrix: Any, name: str, variant: str, odd: bool, framework: str) -> None:
    tree, shape = imori.model(name, CLASSES, variant=variant), small_input(name, variant, odd)
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


@pytest.mark.parametrize(("name", "variant", "framework"), STEPS)
def test_a_training_step_agrees(matrix: Any, name: str, variant: str, framework: str) -> None:
    tree = matrix.without_dropout(imori.model(name, CLASSES, variant=variant))
    matrix.same_step(tree, small_input(name, variant, odd=True), framework, CLASSES)
