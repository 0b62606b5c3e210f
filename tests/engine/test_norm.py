"""Batch normalisation with its running statistics, and local response normalisation."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from imori.engine import LRN, BatchNorm
from imori.engine.norm import SingleValueError

SHAPES = {"map": (3, 4, 2, 5), "flat": (3, 4)}


def statistics(checks: Any, dtype: str = "float64") -> dict[str, Any]:
    return {"mean": checks.normal(3).astype(dtype), "var": (checks.rng.random(3) + 0.5).astype(dtype)}


@pytest.mark.parametrize("shape", list(SHAPES.values()), ids=list(SHAPES))
@pytest.mark.parametrize("frozen", [False, True], ids=["batch", "frozen"])
def test_batch_norm(checks: Any, shape: tuple[int, ...], frozen: bool) -> None:
    running = statistics(checks)

    def make(w: dict[str, Any]) -> BatchNorm:
        own = {role: value.astype(w["weight"].dtype) for role, value in running.items()}
        layer = BatchNorm(w["weight"], w["bias"], own["mean"], own["var"], eps=1e-3)
        layer.frozen = frozen
        return layer

    def theirs(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        mean, var = (torch.tensor(value, dtype=x.dtype) for value in running.values())
        return F.batch_norm(x, mean, var, weight, bias, not frozen, 0.1, 1e-3)

    weights = {"weight": checks.normal(3), "bias": checks.normal(3)}
    x = checks.normal(*shape) * 2 + 3
    checks.against_torch(make, theirs, x, weights)
    checks.against_differences(make(weights), x)


@pytest.mark.parametrize("momentum", [0.1, 0.25, 1.0], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_running_statistics_equal_torch(checks: Any, momentum: float, dtype: str) -> None:
    running = statistics(checks, dtype)
    theirs = torch.nn.BatchNorm2d(3, eps=1e-3, momentum=momentum, dtype=getattr(torch, dtype))
    theirs.running_mean.copy_(torch.tensor(running["mean"]))
    theirs.running_var.copy_(torch.tensor(running["var"]))
    layer = BatchNorm(np.ones(3, dtype), np.zeros(3, dtype), running["mean"], running["var"], 1e-3, momentum)
    tolerance = 1e-12 if dtype == "float64" else 1e-6
    for _ in range(3):
        x = (checks.normal(3, 2, 3, 2) * 3).astype(dtype)
        layer.forward(x, training=True)
        theirs(torch.tensor(x.swapaxes(0, 1).copy()))
        checks.agree(layer.weights["mean"], theirs.running_mean.numpy(), tolerance, "the running mean")
        checks.agree(layer.weights["var"], theirs.running_var.numpy(), tolerance, "the running variance")
    before = {role: value.copy() for role, value in layer.weights.items()}
    y = layer.forward(x)
    out = theirs.eval()(torch.tensor(x.swapaxes(0, 1).copy()))
    checks.agree(y, out.detach().numpy().swapaxes(0, 1), tolerance * 10, "inference")
    layer.frozen = True
    layer.forward(x, training=True)
    assert all(np.array_equal(before[role], value) for role, value in layer.weights.items()), "inference moved them"


def test_batch_norm_of_blank_images(checks: Any) -> None:
    running = statistics(checks)
    layer = BatchNorm(checks.normal(3), checks.normal(3), running["mean"], running["var"], eps=1e-1)
    y, _, dx = checks.run(layer, np.zeros((3, 2, 2, 2)))
    assert np.array_equal(y, np.broadcast_to(layer.weights["bias"][:, None, None, None], y.shape))
    assert np.isfinite(dx).all()
    checks.against_differences(layer, np.zeros((3, 2, 2, 2)))


def test_a_large_mean_costs_no_digits(checks: Any) -> None:
    running = statistics(checks)
    layer = BatchNorm(np.ones(3, "f"), np.zeros(3, "f"), running["mean"].astype("f"), running["var"].astype("f"))
    x = (checks.normal(3, 8, 4, 4) + 1000).astype("f")
    exact = x.astype(float)
    mean, var = exact.mean(axis=(1, 2, 3), keepdims=True), exact.var(axis=(1, 2, 3), keepdims=True)
    checks.agree(layer.forward(x, training=True), (exact - mean) / np.sqrt(var + 1e-5), 3e-4, "the output")


def test_one_value_a_channel_is_refused(checks: Any) -> None:
    layer = BatchNorm(checks.normal(3), checks.normal(3), *statistics(checks).values())
    with pytest.raises(SingleValueError):
        layer.forward(checks.normal(3, 1, 1, 1), training=True)
    assert np.isfinite(layer.forward(checks.normal(3, 1, 1, 1))).all()


@pytest.mark.parametrize("size", [1, 3, 5, 9], ids=str)
def test_lrn(checks: Any, size: int) -> None:
    x = checks.normal(6, 2, 3, 2) * 3
    alpha, beta, k = 0.02, 0.6, 1.5
    layer = LRN(size, alpha, beta, k)
    # torch's alpha multiplies the mean of the squares
    checks.against_torch(lambda w: layer, lambda x: F.local_response_norm(x, size, alpha * size, beta, k), x)
    checks.against_differences(layer, x)
    checks.against_differences(layer, np.zeros((6, 1, 1, 1)))


def test_lrn_by_hand() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0]).reshape(4, 1, 1, 1)
    sums = np.array([1 + 4, 1 + 4 + 9, 4 + 9 + 16, 9 + 16])
    expected = x.ravel() / (2 + 0.1 * sums) ** 0.75
    assert LRN(3, 0.1, 0.75, 2.0).forward(x).ravel() == pytest.approx(expected, rel=1e-14)
