"""What a training step promises in every framework."""

from typing import Any

import numpy as np
import pytest

import imori
from imori import frameworks
from imori import tree as t
from imori.errors import ImoriError
from imori.frameworks.base import Array, Setup, Step, Weights
from imori.optimizers import SGD
from imori.weights import initial_weights

pytestmark = pytest.mark.trains

SHAPE = (2, 6, 7)
NET = t.Chain(
    conv=t.Conv(4, 3),
    aux=t.Aux(t.Chain(gap=t.GlobalAvgPool(), fc=t.Linear(3)), 0.3),
    bn=t.BatchNorm(),
    relu=t.ReLU(),
    gap=t.GlobalAvgPool(),
    fc=t.Linear(3),
)
TRAINED = frozenset(name for name in initial_weights(NET, SHAPE) if name.rpartition(".")[2] in ("weight", "bias"))


def prepared(framework: str, **choices: Any) -> tuple[Any, Step]:
    native = imori.build(NET, SHAPE, framework, initial_weights(NET, SHAPE, dtype="float64"))
    setup = Setup(SGD(momentum=0.9, weight_decay=0.1), TRAINED, decayed=TRAINED, precision="float64")
    return native, frameworks.get(framework).prepare(native, Setup(**{**vars(setup), **choices}))


def batch(seed: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((4, *SHAPE)), np.eye(3)[rng.integers(0, 3, 4)]


def test_a_batch_of_weight_0_has_no_loss_and_momentum_and_decay_act_on(framework: str) -> None:
    def trained(framework: str) -> tuple[list[float], Weights]:
        native, step = prepared(framework)
        losses = [step(*batch(i), np.full(4, weight), 0.1, i)[0] for i, weight in enumerate((1.0, 0.0, 1.0))]
        return losses, imori.dump_weights(native)

    losses, weights = trained(framework)
    assert losses[0] > losses[1] == 0.0
    expected, rule = trained("numpy")
    assert losses == pytest.approx(expected, rel=1e-9)
    for name, value in rule.items():
        np.testing.assert_allclose(weights[name], value, rtol=1e-9, atol=1e-12, err_msg=name)


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "precision": ({"precision": "float32"}, r"built in float64, not in 'float32'"),
    "world": ({"world": 2}, r"one process, and there are 2"),
    "unknown": ({"trainable": frozenset({"fc.weights"})}, r"no weight 'fc\.weights'; its first is 'conv\.weight'"),
    "decayed": ({"decayed": frozenset({"fc2.weight"})}, r"no weight 'fc2\.weight'"),
    "rates": ({"rates": {"fc2.weight": 2.0}}, r"no weight 'fc2\.weight'"),
    "statistic": ({"trainable": frozenset({"bn.mean"})}, r"bn\.mean is a running statistic"),
    "frozen": ({"frozen": frozenset({"fc"})}, r"'fc' is no batch norm"),
    "nothing": ({"trainable": frozenset()}, r"nothing trains"),
}


@pytest.mark.parametrize(("choices", "message"), list(REFUSALS.values()), ids=list(REFUSALS))
def test_a_setup_that_does_not_fit_is_refused(framework: str, choices: dict[str, Any], message: str) -> None:
    with pytest.raises(ImoriError, match=message):
        prepared(framework, **choices)
