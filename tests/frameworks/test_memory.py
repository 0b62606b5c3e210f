"""The optimizer's memory, over weights that lie in any order in the machine's memory."""

import itertools
from typing import Any

import numpy as np
import pytest

from imori.frameworks.base import Array, Memory, Setup
from imori.optimizers import OPTIMIZERS, optimizer

SHAPE = (4, 3, 2, 5)
ORDERS = list(itertools.permutations(range(4)))[1::5]


def laid(array: Array, order: tuple[int, ...]) -> Array:
    """The same values, with the axes in this order in memory."""
    return np.ascontiguousarray(array.transpose(order)).transpose(np.argsort(order))


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("order", ORDERS)
def test_the_order_in_memory_changes_nothing(name: str, order: tuple[int, ...]) -> None:
    setup = Setup(optimizer(name), frozenset({"w"}), frozenset({"w"}), clip=3.0)
    found: list[dict[str, Any]] = []
    for weights_order, gradients_order in [((0, 1, 2, 3), (0, 1, 2, 3)), (order, order), (order, order[::-1])]:
        rng = np.random.default_rng(0)
        weight = laid(rng.standard_normal(SHAPE), weights_order)
        memory = Memory(setup, {"w": weight})
        for _ in range(3):
            memory.update({"w": laid(rng.standard_normal(SHAPE), gradients_order)}, 0.1)
        found.append({"w": weight, **memory.state()})
        other = Memory(setup, {"w": laid(weight, (0, 1, 2, 3))})
        other.restore(memory.state())
        assert all(np.array_equal(value, memory.state()[slot]) for slot, value in other.state().items())
    for other_found in found[1:]:
        for key, value in found[0].items():
            np.testing.assert_allclose(other_found[key], value, rtol=1e-14, atol=0)
