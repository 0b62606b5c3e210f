"""Layers that only move values."""

from typing import Any

import pytest
import torch.nn.functional as F  # noqa: N812

from imori import engine as e

KINDS: dict[str, tuple[Any, Any]] = {
    "identity": (e.Identity(), lambda x: x * 1),
    "flatten": (e.Flatten(), lambda x: x.flatten(1)),
    "subsample": (e.Subsample((2, 3)), lambda x: x[:, :, ::2, ::3]),
    "pad-channels": (e.PadChannels(5), lambda x: F.pad(x, (0, 0, 0, 0, 0, 2))),
    "select": (e.Select((2, 0)), lambda x: x[:, [2, 0]]),
    "pad-nothing": (e.PadChannels(3), lambda x: x * 1),
}


@pytest.mark.parametrize(("layer", "theirs"), list(KINDS.values()), ids=list(KINDS))
def test_movement(checks: Any, layer: e.Layer, theirs: Any) -> None:
    x = checks.normal(3, 2, 5, 7)
    checks.against_torch(lambda w: layer, theirs, x)
    checks.against_differences(layer, checks.normal(3, 2, 3, 4))


def test_a_flat_vector_stays_flat(checks: Any) -> None:
    checks.against_torch(lambda w: e.Flatten(), lambda x: x.flatten(1), checks.normal(6, 3))
