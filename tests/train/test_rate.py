"""The learning rate that a network gets where the recipe names none."""

import pytest

import imori
from imori.shapes import resolve
from imori.train.choices import filled
from imori.train.recipe import Recipe


@pytest.mark.parametrize(
    ("model", "size", "rate"),
    [
        ("lenet", 28, 1e-3),
        ("simple_convnet", 28, 1e-3),
        ("deep_convnet", 28, 1e-3),
        ("alexnet", 224, 1e-4),
        ("vgg16", 224, 1e-4),
        ("googlenet", 224, 1e-4),
        ("resnet18", 224, 1e-3),
        ("mobilenet_v2", 224, 1e-3),
    ],
)
def test_a_deep_network_without_norms_gets_a_tenth(model: str, size: int, rate: float) -> None:
    recipe = Recipe(model=model, framework="numpy", crop=1.0, flip=0.0)
    root = resolve(imori.model(model, 10, 3), (3, size, size))
    assert filled(recipe, root, None).lr == rate  # type: ignore[arg-type]
    assert filled(Recipe(model=model, framework="numpy", crop=1.0, flip=0.0, lr=0.3), root, None).lr == 0.3  # type: ignore[arg-type]
