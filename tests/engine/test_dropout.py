"""Dropout."""

from typing import Any

import numpy as np
import pytest

from imori.engine import Dropout


@pytest.mark.parametrize("drop", [0.0, 0.25, 0.9], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dropout(checks: Any, drop: float, dtype: str) -> None:
    layer = Dropout(drop, np.random.default_rng(3))
    x = (checks.normal(5, 40, 10, 10) + 5).astype(dtype)  # no value is 0 of itself
    y, dy, dx = checks.run(layer, x)
    stays = y != 0
    assert abs(1 - stays.mean() - drop) < 0.02
    checks.agree(y[stays], x[stays] / (1 - drop), 1e-6, "what stays")
    checks.agree(dx, dy * stays / (1 - drop), 1e-6, "the gradient")
    assert layer.forward(x) is x


def test_the_mask_follows_the_generator(checks: Any) -> None:
    x = checks.normal(5, 4, 10, 10)
    first = Dropout(0.5, np.random.default_rng(3)).forward(x, training=True)
    assert np.array_equal(first, Dropout(0.5, np.random.default_rng(3)).forward(x, training=True))
    assert not np.array_equal(first, Dropout(0.5, np.random.default_rng(4)).forward(x, training=True))
    single = Dropout(0.5, np.random.default_rng(3)).forward(x.astype("float32"), training=True)
    assert np.array_equal(single != 0, first != 0)
