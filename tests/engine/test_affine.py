"""The dense layer."""

from typing import Any

import numpy as np
import torch.nn.functional as F  # noqa: N812

from imori.engine import Affine


def test_affine_equals_torch(checks: Any) -> None:
    weights = {"weight": checks.normal(4, 7), "bias": checks.normal(4)}
    checks.against_torch(lambda w: Affine(w["weight"], w["bias"]), F.linear, checks.normal(7, 3), weights)


def test_affine_has_the_gradients_of_finite_differences(checks: Any) -> None:
    checks.against_differences(Affine(checks.normal(4, 5), checks.normal(4)), checks.normal(5, 3))
    checks.against_differences(Affine(checks.normal(4, 5), None), checks.normal(5, 1))
    checks.against_differences(Affine(checks.normal(4, 5), checks.normal(4)), np.zeros((5, 2)))


def test_what_is_not_needed_is_not_worked_out(checks: Any) -> None:
    layer = Affine(checks.normal(4, 5), checks.normal(4))
    x = checks.normal(5, 3)
    _, dy, _ = checks.run(layer, x)
    whole = layer.gradients.pop("bias")
    layer.trained, layer.passes = frozenset({"bias"}), False
    layer.gradients.clear()
    layer.forward(x, training=True)
    assert layer.backward(dy) is None
    assert list(layer.gradients) == ["bias"]
    assert np.array_equal(layer.gradients["bias"], whole)
