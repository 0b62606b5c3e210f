"""The loss."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from imori.engine import SoftmaxWithLoss


def soft(checks: Any, images: int, classes: int) -> Any:
    targets = checks.rng.random((images, classes))
    return targets / targets.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_loss_equals_torch(checks: Any, dtype: str) -> None:
    logits = (checks.normal(5, 4) * 5).astype(dtype)
    targets, weights = soft(checks, 5, 4).astype(dtype), checks.rng.random(5).astype(dtype)
    weights[2] = 0
    last = SoftmaxWithLoss()
    loss = last.forward(logits, targets, weights)
    theirs = torch.tensor(logits, requires_grad=True)
    each = F.cross_entropy(theirs, torch.tensor(targets), reduction="none")
    expected = (torch.tensor(weights) * each).sum() / weights.sum()
    expected.backward()
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    gradient = last.backward()
    assert loss == pytest.approx(expected.item(), rel=tolerance)
    checks.agree(gradient, theirs.grad.numpy(), tolerance, "the gradient")
    assert gradient.dtype == dtype
    assert not gradient[2].any()


def test_loss_has_the_gradient_of_finite_differences(checks: Any) -> None:
    logits, targets, weights = checks.normal(4, 3), checks.rng.random((4, 3)), checks.rng.random(4)
    last = SoftmaxWithLoss()
    last.forward(logits, targets, weights)
    gradient, expected = last.backward(), np.empty((4, 3))
    for index in np.ndindex(4, 3):
        ends = []
        for step in (1e-6, -1e-6):
            moved = logits.copy()
            moved[index] += step
            ends.append(SoftmaxWithLoss().forward(moved, targets, weights))
        expected[index] = (ends[0] - ends[1]) / 2e-6
    checks.agree(gradient, expected, 1e-8, "the gradient")


def test_a_certain_mistake_has_a_finite_loss() -> None:
    last = SoftmaxWithLoss()
    logits = np.array([[1000.0, -1000.0]], "float32")
    assert last.forward(logits, np.array([[0, 1]], "float32"), np.array([0.5], "float32")) == 2000
    assert last.backward().tolist() == [[1, -1]]


def test_images_without_weight_have_no_loss() -> None:
    last = SoftmaxWithLoss()
    assert last.forward(np.array([[1.0, 2.0]]), np.array([[0.0, 1.0]]), np.zeros(1)) == 0
    assert not last.backward().any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_denormal_number_goes_down_the_network(dtype: str) -> None:
    """What would become one on its way is 0 from the start, and all else is the formula's."""
    least = np.finfo(dtype).tiny ** 0.5
    logits = -np.linspace(0, -3 * np.log(least), 400).astype(dtype).reshape(2, 200)
    targets = np.zeros((2, 200), dtype)
    targets[:, 0] = 1
    loss = SoftmaxWithLoss()
    loss.forward(logits, targets, np.ones(2, dtype))
    dy = loss.backward()
    exact = np.exp(logits.astype(np.longdouble) - logits.max(axis=1, keepdims=True))
    exact = exact / exact.sum(axis=1, keepdims=True) - targets
    assert np.abs(dy - exact / 2).max() < 4 * np.finfo(dtype).eps
    kept = np.abs(exact / 2) > 1.01 * least
    assert 60 < kept.sum() < 300
    assert np.abs(dy[kept]).min() >= least
    assert not dy[np.abs(exact / 2) < 0.99 * least].any()
