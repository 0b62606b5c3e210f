"""The measure of agreement."""

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from imori.frameworks.base import Array

Agree = Callable[[Mapping[str, Array], Mapping[str, Array], float], None]


@pytest.fixture(scope="session")
def agree() -> Agree:
    """Checks that each array differs by no more than `tolerance` times the largest value of its counterpart."""

    def check(ours: Mapping[str, Array], theirs: Mapping[str, Array], tolerance: float) -> None:
        assert ours.keys() == theirs.keys()
        for name, reference in theirs.items():
            own = ours[name]
            assert (own.shape, own.dtype) == (reference.shape, reference.dtype), name
            assert np.abs(own - reference).max() <= tolerance * max(np.abs(reference).max(), 1e-3), name

    return check
