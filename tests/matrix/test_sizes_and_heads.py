"""Networks that take any size with the same weights, and auxiliary heads, which work in training alone."""

from typing import Any

import numpy as np
import pytest

import imori
from imori.catalogue import model, variants
from imori.shapes import summary
from imori.tree import Aux, Chain, leaves


@pytest.mark.parametrize("name", ["zfnet_gap", "nin", "resnet18", "densenet121", "mobilenet_v1", "mobilenet_v2"])
def test_any_size_takes_the_same_weights(matrix: Any, name: str) -> None:
    tree = model(name, 5)
    assert summary(tree, (3, 96, 96)).sized == ()
    weights = matrix.randomised(tree, (3, 96, 96))
    once = imori.build(tree, (3, 96, 96), "numpy", weights)
    for shape in ((3, 96, 96), (3, 75, 110), (3, 131, 68)):
        images, _, _ = matrix.batch(shape, 5, count=2)
        anew = imori.build(tree, shape, "numpy", weights)
        assert matrix.difference(imori.logits(once, images), imori.logits(anew, images)) <= 1e-12


def headless(tree: Chain) -> Chain:
    """The network without its auxiliary heads, under the same names."""
    return Chain.of(tuple((name, child) for name, child in tree.children if not isinstance(child, Aux)))  # type: ignore[return-value]


@pytest.mark.parametrize("variant", variants("googlenet"))
def test_googlenets_heads_work_in_training_alone(matrix: Any, variant: str) -> None:
    """They change the gradients of all that lies before them, and of nothing behind; and no logit at inference.

    The other frameworks have NumPy's logits and gradients.
    """
    shape = (3, 80, 93)
    with_heads = matrix.without_dropout(model("googlenet", 5, variant=variant))
    without = headless(with_heads)
    weights = matrix.randomised(with_heads, shape)
    images, _, _ = matrix.batch(shape, 5, count=2)
    one = imori.logits(imori.build(with_heads, shape, "numpy", weights), images)
    two = imori.logits(imori.build(without, shape, "numpy", imori.restrict(weights, without)), images)
    assert np.array_equal(one, two)
    ours, theirs = (matrix.one_step(tree, shape, "numpy", 5, count=2)["gradients"] for tree in (with_heads, without))
    assert {name.partition(".")[0] for name in set(ours) - set(theirs)} == {"aux1", "aux2"}
    assert all(np.abs(ours[name]).max() > 0 for name in set(ours) - set(theirs))
    order = [path.partition(".")[0] for path, _ in leaves(with_heads)]
    behind = set(order[order.index("inception4e") :])
    for name, gradient in theirs.items():
        same = np.abs(ours[name] - gradient).max() <= 1e-9 * max(np.abs(gradient).max(), 1e-6)
        noise = name.endswith("bias/velocity") and "bn" not in name and variant != "default"
        assert same == (name.partition(".")[0] in behind) or noise, name
