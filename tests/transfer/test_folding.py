"""Folded batch norms: the same numbers, and no norm is left where a layer stands before it."""

import numpy as np
import pytest

import imori
from imori import tree as t
from imori.transfer.folding import folded
from imori.weights import initial_weights

SHAPE = (3, 9, 11)
NET = t.Chain(
    bn0=t.BatchNorm(1e-2),
    conv1=t.Conv(6, 3, bias=False), bn1=t.BatchNorm(1e-3), relu1=t.ReLU(),
    block=t.Sum(
        body=t.Chain(t.Depthwise(3, pad=1, multiplier=1), t.BatchNorm(), t.ReLU(), t.Conv(6, 1), t.BatchNorm()),
        shortcut=t.Chain(t.Conv(6, 1, groups=2, bias=False), t.BatchNorm(0.1)),
    ),
    bn2=t.BatchNorm(), flatten=t.GlobalAvgPool(), fc=t.Linear(5, bias=False), bn3=t.BatchNorm(),
)  # fmt: skip


def drawn(seed: int) -> dict[str, np.ndarray]:
    """Weights of which none is at its start."""
    rng = np.random.default_rng(seed)
    start = initial_weights(NET, SHAPE, seed, "float64")
    return {name: value + rng.uniform(0.1, 0.9, value.shape) for name, value in start.items()}


@pytest.mark.parametrize("seed", [1, 2])
def test_the_numbers_are_the_same(seed: int) -> None:
    weights = drawn(seed)
    before = {name: value.copy() for name, value in weights.items()}
    tree, made = folded(NET, weights)
    images = np.random.default_rng(seed).standard_normal((4, *SHAPE))
    expected = imori.logits(imori.build(NET, SHAPE, "numpy", weights), images)
    found = imori.logits(imori.build(tree, SHAPE, "numpy", made), images)
    assert abs(found - expected).max() < 1e-12 * abs(expected).max()
    assert all(np.array_equal(weights[name], before[name]) for name in before), "the given weights are left alone"


def test_norms_stay_where_no_layer_is_before_them() -> None:
    tree, _ = folded(NET, drawn(1))
    assert [path for path, layer in t.leaves(tree) if isinstance(layer, t.BatchNorm)] == ["bn0", "bn2"]
    assert [path for path, _ in t.leaves(tree)] == [path for path, _ in t.leaves(NET)]
