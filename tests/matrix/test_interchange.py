"""A training that begins in one framework goes on in another as if nothing had happened."""

from typing import Any

import pytest

import imori
from imori import frameworks
from imori.frameworks.base import Setup, Step
from imori.optimizers import optimizer
from imori.tree import BatchNorm, Chain, Conv, Flatten, Linear, MaxPool, ReLU, Sum

OPTIMIZERS = {
    "sgd": optimizer("sgd", momentum=0.0),
    "momentum": optimizer("momentum", weight_decay=0.1),
    "nesterov": optimizer("nesterov"),
    "adagrad": optimizer("adagrad", weight_decay=0.1),
    "rmsprop": optimizer("rmsprop"),
    "adam": optimizer("adam", weight_decay=0.1),
    "adamw": optimizer("adamw", weight_decay=0.1),
}
SHAPE, CLASSES = (2, 9, 8), 3
TREE = Chain(
    conv1=Conv(6, 3, pad=1, bias=False),
    bn1=BatchNorm(),
    relu1=ReLU(),
    block=Sum(Conv(6, 3, pad=1), Conv(6, 1, bias=False)),
    pool=MaxPool(2),
    flatten=Flatten(),
    fc=Linear(CLASSES),
)


def prepared(framework: str, native: Any, how: Any) -> Step:
    names = frozenset(name for name in imori.dump_weights(native) if name.rpartition(".")[2] in ("weight", "bias"))
    setup = Setup(how, names, decayed=names - {"bn1.weight"}, rates={"fc.weight": 3.0}, precision="float64", clip=0.9)
    return frameworks.get(framework).prepare(native, setup)


@pytest.mark.trains
@pytest.mark.parametrize("away", [True, False], ids=["from-numpy", "to-numpy"])
@pytest.mark.parametrize("how", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_going_on_elsewhere_changes_nothing(matrix: Any, how: Any, peer: str, away: bool) -> None:
    first, second = ("numpy", peer) if away else (peer, "numpy")
    weights = matrix.randomised(TREE, SHAPE)
    moved = imori.build(TREE, SHAPE, first, weights)
    stayed = imori.build(TREE, SHAPE, second, weights)
    steps = [prepared(first, moved, how), prepared(second, stayed, how)]
    for time, rate in enumerate((0.05, 0.05, 0.01, 0.03, 0.03, 0.02, 0.02, 0.04, 0.01, 0.01)):
        if time == 2:
            state = steps[0].state()
            moved = imori.build(TREE, SHAPE, second, imori.dump_weights(moved))
            steps[0] = prepared(second, moved, how)
            steps[0].restore(state)
        losses = [step(*matrix.batch(SHAPE, CLASSES, 6, seed=time), rate, key=time)[0] for step in steps]
        assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    matrix.agree(imori.dump_weights(moved), imori.dump_weights(stayed), 1e-9)
    matrix.agree(steps[0].state(), steps[1].state(), 1e-9)
