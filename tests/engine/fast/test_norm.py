"""Batch norm channels last: alone beside the plain one, and divided among workers."""

from typing import Any

import numpy as np
import pytest

from imori import engine as e
from imori.engine import fast
from imori.engine.fast import layout
from imori.engine.fast.batch import replica
from imori.engine.fast.team import Member, Threads, run, share

SHAPES = {"map": (5, 7, 4, 3), "flat": (5, 7), "one-pixel": (5, 7, 1, 1)}
GRID = pytest.mark.parametrize("shape", list(SHAPES.values()), ids=list(SHAPES))


def weights(checks: Any) -> list[Any]:
    return [checks.normal(5), checks.normal(5), checks.normal(5), checks.normal(5) ** 2]


@GRID
@pytest.mark.parametrize("frozen", [False, True], ids=["trains", "frozen"])
@pytest.mark.parametrize("block", [1, 2**20], ids=["line-by-line", "at-once"])
def test_it_is_the_plain_one(
    checks: Any, shape: Any, frozen: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "BLOCK", block)
    given = weights(checks)

    def make(module: Any) -> e.Layer:
        layer = module.BatchNorm(*(array.copy() for array in given))
        layer.frozen = frozen
        return layer  # type: ignore[no-any-return]

    checks.against_plain(make, checks.normal(*shape) + 3)


@GRID
def test_its_gradients_are_those_of_finite_differences(checks: Any, shape: Any) -> None:
    checks.against_differences(fast.BatchNorm(*weights(checks)), checks.normal(*shape), 1e-6)


def test_a_blank_channel_becomes_its_bias(checks: Any) -> None:
    x = checks.normal(5, 7, 4, 3)
    x[2] = 0
    layer = fast.BatchNorm(*weights(checks))
    assert (layer.forward(x, training=True)[2] == layer.weights["bias"][2]).all()


def test_a_large_mean_costs_no_digits(checks: Any) -> None:
    x = (checks.normal(5, 40, 8, 8) + 1000).astype("float32")
    one, two = (module.BatchNorm(*(np.ones(5, "float32") for _ in range(4))) for module in (e, fast))
    checks.agree(two.forward(x, training=True), one.forward(x.astype(float), training=True), 1e-4, "the output")


@pytest.mark.parametrize("workers", [2, 3])
def test_workers_that_share_a_batch_give_what_one_gives(checks: Any, workers: int) -> None:
    x, dy, given = checks.normal(5, 7, 4, 3) + 2, checks.normal(5, 7, 4, 3), weights(checks)
    alone, whole = (fast.BatchNorm(*(array.copy() for array in given)) for _ in range(2))
    y, _, dx = checks.run(alone, x, dy)
    team, parts = Threads(workers), share(7, workers)
    assert [part.stop - part.start for part in parts] == {2: [3, 4], 3: [2, 2, 3]}[workers]
    copies = [replica(whole, Member(team, worker, part, 7)) for worker, part in enumerate(parts)]
    found, back = [x] * workers, [x] * workers

    def work(worker: int) -> None:
        found[worker] = copies[worker].forward(x[:, parts[worker]], training=True)
        back[worker] = copies[worker].backward(dy[:, parts[worker]])  # type: ignore[assignment]

    run([lambda worker=worker: work(worker) for worker in range(workers)], team)  # type: ignore[misc]
    checks.agree(np.concatenate(found, axis=1), y, 1e-13, "the output")
    checks.agree(np.concatenate(back, axis=1), dx, 1e-13, "the gradient by x")
    for role in ("mean", "var"):
        checks.agree(whole.weights[role], alone.weights[role], 1e-14, f"the running {role}")
    for role, gradient in alone.gradients.items():
        checks.agree(sum(copy.gradients[role] for copy in copies), gradient, 1e-13, f"the gradient by {role}")
