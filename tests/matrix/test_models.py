"""Every net of the catalogue, each variant, in every framework beside the NumPy engine: equal weights, equal numbers.

At an even, square input, and at an odd one that is not square: padding on the wrong side shows at one of them. Every
run compares the logits of every net and variant in float64, some with a part of their filters; and of the smallest of
each family and for each kind of block, a training step and the logits in float32. With -m exhaustive it is all of them,
with all of their filters, and compiled.
"""

import os
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
import pytest

import imori
from imori import frameworks
from imori import tree as t
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
STEPPED = [(name, "default") for name in list_models() if name not in DEEPER] + [
    ("lenet", "original"), ("alexnet", "paper"), ("zfnet", "paper"), ("googlenet", "batch_norm"),
    ("resnet18", "option_a"),
]  # fmt: skip
"""The smallest of every family, and every kind of block: every run compares their training steps and float32."""
LONG = {"googlenet", "xception", "nin", "resnet50", "resnext50_32x4d", "densenet121"}
"""Nets that take long to compile."""
THIN = dict.fromkeys(DEEPER - {"densenet161"}, 4)
THIN |= dict.fromkeys(("alexnet", "zfnet", "vgg16", "vgg16_bn", "googlenet", "resnext50_32x4d", "xception"), 4)
THIN |= {"densenet161": 3, "resnext50_32x4d": 2, "resnext101_32x4d": 2}
"""In every run they have one in so many of their filters: the same layers, less work."""


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


def cases(nets: list[tuple[str, str]], fast: set[str] | None = None) -> list[Any]:
    """A case for each; the defaults of the nets in `fast`, by default those that are no deeper form, are not slow."""
    quick = set(list_models()) - DEEPER if fast is None else fast
    return [
        pytest.param(
            name,
            variant,
            id=f"{name}-{variant}",
            marks=[pytest.mark.long] * (name in LONG)
            + [pytest.mark.slow] * (name not in quick or variant != "default"),
        )
        for name, variant in nets
    ]


@pytest.fixture
def by_operation(request: pytest.FixtureRequest, name: str, variant: str, peer: str) -> Iterator[None]:
    """In every run TensorFlow does the larger nets operation by operation: it compiles for longer than all else takes.

    The smaller ones it compiles, and with -m exhaustive all of them.
    """
    larger = {"slow", "long"} & {mark.name for mark in request.node.iter_markers()}
    if not larger or not runs_on_tensorflow(peer) or grouped(name, variant):
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def runs_on_tensorflow(peer: str) -> bool:
    return peer == "tensorflow" or (peer == "keras" and os.environ.get("KERAS_BACKEND") in (None, "tensorflow"))


def grouped(name: str, variant: str) -> bool:
    """Whether the net has convolutions in groups, whose gradients TensorFlow has on a CPU where it compiles alone."""
    layers = [layer for _, layer in t.leaves(imori.model(name, CLASSES, variant=variant))]
    return any(isinstance(layer, t.Conv) and layer.groups > 1 for layer in layers)


def test_nothing_needful_is_left_out(matrix: Any) -> None:
    for name, variant in NEEDLESS:
        with_it, without = (matrix.without_dropout(imori.model(name, variant=each)) for each in ("default", variant))
        layers = [[(node.path, node.layer) for node in imori.walk(tree, (3, 64, 64))] for tree in (with_it, without)]
        assert [pair for pair in layers[0] if not pair[0].startswith("drop")] == layers[1]


def test_every_family_takes_a_step() -> None:
    """A net that no run steps is a deeper or wider form of one that every run steps."""
    stepped = {kind for name, _ in STEPPED for kind in blocks(name)}
    assert all(blocks(name) <= stepped for name in DEEPER)
    assert {name for name, _ in STEPPED} | DEEPER == set(list_models())


def blocks(name: str) -> set[str]:
    """The kinds of a net's layers, with what tells one kind of block from another."""
    nodes = imori.walk(imori.model(name, CLASSES), (3, 96, 96))
    return {f"{type(node.layer).__name__} {node.window and node.window.kernel}" for node in nodes if not node.children}


@pytest.mark.usefixtures("by_operation")
@pytest.mark.parametrize(("name", "variant"), cases(NETS))
def test_logits_agree(matrix: Any, name: str, variant: str, peer: str) -> None:
    tree, shape = imori.model(name, CLASSES, variant=variant), small_input(name, variant, odd=False)
    only = None if (name, variant) in STEPPED else "float64"
    matrix.same_logits(matrix.thinned(tree, THIN.get(name, 1)), shape, peer, CLASSES, only)


@pytest.mark.trains
@pytest.mark.usefixtures("by_operation")
@pytest.mark.parametrize(("name", "variant"), cases(STEPPED, set(list_models()) - LONG))
def test_a_training_step_agrees(matrix: Any, name: str, variant: str, peer: str) -> None:
    tree = matrix.thinned(imori.model(name, CLASSES, variant=variant), THIN.get(name, 1))
    matrix.same_step(matrix.without_dropout(tree), small_input(name, variant, odd=True), peer, CLASSES, count=3)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize(("name", "variant"), cases(NETS))
def test_all_of_it_agrees(matrix: Any, name: str, variant: str, peer: str) -> None:
    tree = imori.model(name, CLASSES, variant=variant)
    even, odd = (small_input(name, variant, odd) for odd in (False, True))
    figures = matrix.same_logits(tree, even, peer, CLASSES)
    if peer not in frameworks.PREDICTING:
        figures |= matrix.same_step(matrix.without_dropout(tree), odd, peer, CLASSES, count=3)
    matrix.keep(f"{name}@{variant}", peer, figures)


# --- NumPy's fast engine beside its plain one -------------------------------------------------------------------------


@pytest.fixture(params=[1, 2], ids=["one-worker", "two-workers"])
def workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as the machine is said to have cores for."""
    monkeypatch.setattr(frameworks.get("numpy"), "workers", lambda *_: request.param)


@pytest.mark.parametrize(("name", "variant"), cases(NETS))
def test_the_fast_engines_logits_agree(matrix: Any, name: str, variant: str, workers: None) -> None:
    tree = matrix.thinned(imori.model(name, CLASSES, variant=variant), THIN.get(name, 1))
    matrix.same_logits(tree, small_input(name, variant, odd=False), "numpy", CLASSES)


@pytest.mark.parametrize(("name", "variant"), cases(STEPPED, set(list_models()) - LONG))
def test_the_fast_engines_training_step_agrees(matrix: Any, name: str, variant: str, workers: None) -> None:
    tree = matrix.thinned(imori.model(name, CLASSES, variant=variant), THIN.get(name, 1))
    matrix.same_step(tree, small_input(name, variant, odd=True), "numpy", CLASSES, count=3)


# --- in float32 ------------------------------------------------------------------------------------------------------
# ReLU and max pooling have kinks, at which rounding sends a deep net's gradients another way in any correct framework:
# the weights after a step are compared where there are none, and elsewhere the loss.


@pytest.mark.trains
@pytest.mark.parametrize("variant", variants("lenet"))
def test_a_shallow_nets_step_agrees_in_float32(matrix: Any, variant: str, peer: str) -> None:
    same_step_in_float32(matrix, imori.model("lenet", CLASSES, variant=variant), (3, 32, 32), peer)


@pytest.mark.slow
@pytest.mark.trains
def test_a_smooth_nets_step_agrees_in_float32(matrix: Any, peer: str) -> None:
    same_step_in_float32(matrix, matrix.smooth(imori.model("resnet18", CLASSES)), (3, 64, 64), peer)


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.trains
@pytest.mark.parametrize("name", [name for name, variant in STEPPED if variant == "default"])
def test_every_familys_step_agrees_in_float32(matrix: Any, name: str, peer: str) -> None:
    tree = matrix.without_dropout(imori.model(name, CLASSES))
    shape = (3, 96, 96)  # smaller ones leave batch norms few values, over which float32 is no measure
    theirs = matrix.numpy_step(tree, shape, CLASSES, 4)
    assert matrix.one_step(tree, shape, peer, CLASSES, 4, "float32")["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    same_step_in_float32(matrix, matrix.smooth(tree), shape, peer, of_gradients=1e-3)


def same_step_in_float32(matrix: Any, tree: Any, shape: Shape, peer: str, of_gradients: float = 1e-4) -> None:
    """A step's loss, weights and running statistics are those of NumPy's in float64, to 1e-4, and its gradients."""
    tree = matrix.without_dropout(tree)
    ours, theirs = matrix.one_step(tree, shape, peer, CLASSES, 4, "float32"), matrix.numpy_step(tree, shape, CLASSES, 4)
    assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
    matrix.agree(ours["weights"], theirs["weights"], 1e-4)
    largest = max(np.abs(gradient).max() for gradient in theirs["gradients"].values())
    matrix.agree(ours["gradients"], theirs["gradients"], of_gradients, floor=0.1 * largest)
