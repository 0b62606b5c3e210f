"""Every net of the catalogue, each variant, in every framework beside the NumPy engine: equal weights, equal numbers.

At an even, square input, and at an odd one that is not square: padding on the wrong side shows at one of them.
PyTorch has every net and variant; the others the smaller members of each family, and the rest with -m exhaustive.
"""

from functools import lru_cache
from typing import Any

import pytest

import imori
from imori.catalogue import list_models, variants
from imori.errors import TreeError
from imori.shapes import Shape, resolve

CLASSES = 7
NEEDLESS = {("vgg16", "keras"), ("vgg19", "keras")}
"""They differ from the default in dropout alone, which has no part in what is compared here."""
NETS = [(name, variant) for name in list_models() for variant in variants(name) if (name, variant) not in NEEDLESS]
DEEPER = {
    "vgg19", "vgg19_bn", "resnet34", "resnet101", "resnet152", "resnext101_32x4d", "resnext101_32x8d",
    "resnext101_64x4d", "densenet161", "densenet169", "densenet201", "densenet264",
}  # fmt: skip
"""More of the same blocks as a smaller net."""
THIN = dict.fromkeys(("alexnet", "zfnet", "vgg16", "vgg19", "vgg16_bn", "vgg19_bn", "resnext101_32x8d"), 4)
THIN |= {"resnext101_32x4d": 2, "resnext101_64x4d": 4}
"""They train with this part of their filters, and their larger forms compute with it: the same layers, less work."""
LARGER = ("torchvision", "timm")


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


def cases(without: set[str], slow: set[str]) -> list[Any]:
    """A case for every other net and variant; those of the nets in `slow`, and all but the defaults, are marked so."""
    return [
        pytest.param(
            name,
            variant,
            id=f"{name}-{variant}",
            marks=[pytest.mark.slow] if name in slow or variant != "default" else [],
        )
        for name, variant in NETS
        if name not in without
    ]


def test_nothing_needful_is_left_out(matrix: Any) -> None:
    for name, variant in NEEDLESS:
        with_it, without = (matrix.without_dropout(imori.model(name, variant=each)) for each in ("default", variant))
        layers = [[(node.path, node.layer) for node in imori.walk(tree, (3, 64, 64))] for tree in (with_it, without)]
        assert [pair for pair in layers[0] if not pair[0].startswith("drop")] == layers[1]


@pytest.mark.parametrize(("name", "variant"), cases(DEEPER, slow=set()))
def test_logits_agree(matrix: Any, name: str, variant: str, peer: str) -> None:
    same_logits(matrix, name, variant, peer)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "variant"), cases(set(list_models()) - DEEPER, slow=set()))
def test_a_deeper_nets_logits_agree(matrix: Any, name: str, variant: str, peer: str) -> None:
    same_logits(matrix, name, variant, peer)


def same_logits(matrix: Any, name: str, variant: str, peer: str) -> None:
    tree, shape = imori.model(name, CLASSES, variant=variant), small_input(name, variant, odd=False)
    tree = matrix.thinned(tree, THIN.get(name, 1) if variant in LARGER else 1)
    matrix.same_logits(tree, shape, peer, CLASSES)


@pytest.mark.parametrize(("name", "variant"), cases(DEEPER, slow={"googlenet", "xception", "nin"}))
def test_a_training_step_agrees(matrix: Any, name: str, variant: str, peer: str) -> None:
    same_step(matrix, name, variant, peer)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "variant"), cases(set(list_models()) - DEEPER, slow=set()))
def test_a_deeper_nets_training_step_agrees(matrix: Any, name: str, variant: str, peer: str) -> None:
    same_step(matrix, name, variant, peer)


def same_step(matrix: Any, name: str, variant: str, peer: str) -> None:
    tree = matrix.without_dropout(imori.model(name, CLASSES, variant=variant))
    tree = matrix.thinned(tree, THIN.get(name, 1))
    matrix.same_step(tree, small_input(name, variant, odd=True), peer, CLASSES, count=3)
