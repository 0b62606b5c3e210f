"""Activations."""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from imori import engine as e

KINDS: dict[str, tuple[Any, Any]] = {
    "relu": (e.ReLU, F.relu),
    "relu6": (lambda: e.ReLU(6.0), F.relu6),
    "relu-to-one": (lambda: e.ReLU(1.0), lambda x: F.hardtanh(x, 0.0, 1.0)),
    "leaky": (lambda: e.LeakyReLU(0.2), lambda x: F.leaky_relu(x, 0.2)),
    "leaky-downwards": (lambda: e.LeakyReLU(-0.5), lambda x: F.leaky_relu(x, -0.5)),
    "sigmoid": (e.Sigmoid, torch.sigmoid),
    "tanh": (e.Tanh, torch.tanh),
    "softmax": (e.Softmax, lambda x: F.softmax(x, 1)),
}
ALL = pytest.mark.parametrize(("make", "theirs"), list(KINDS.values()), ids=list(KINDS))


@ALL
@pytest.mark.parametrize("shape", [(4, 3, 2, 5), (6, 3)], ids=["map", "flat"])
def test_activation(checks: Any, make: Any, theirs: Any, shape: tuple[int, ...]) -> None:
    x = checks.normal(*shape) * 3
    checks.against_torch(lambda w: make(), theirs, x)
    checks.against_differences(make(), x)


@ALL
def test_the_kinks_are_where_torch_has_them(checks: Any, make: Any, theirs: Any) -> None:
    x = np.array([0.0, -0.0, 1.0, 6.0, -1.0, 7.0]).reshape(2, 3, 1, 1)
    checks.against_torch(lambda w: make(), theirs, x)


@ALL
def test_large_values_overflow_nowhere(checks: Any, make: Any, theirs: Any) -> None:
    x = np.array([1e4, -1e4, 800.0, -800.0, 90.0, -90.0], "float32").reshape(6, 1)
    y = make().forward(x)
    assert np.isfinite(y).all()
    checks.agree(y, theirs(torch.tensor(x.T)).numpy().T, 1e-6, "the output")
