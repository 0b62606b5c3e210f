"""Folds: every photo once, each class alike, groups whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imori.data.folds import folds


@given(st.lists(st.integers(0, 3), min_size=6, max_size=60), st.integers(2, 6), st.integers(0, 5))
def test_each_class_is_alike_in_every_fold(labels: list[int], count: int, seed: int) -> None:
    given_labels = np.array(labels)
    found = folds(given_labels, np.arange(len(labels)), count, seed)
    for label in set(labels):
        held = np.bincount(found[given_labels == label], minlength=count)
        assert held.max() - held.min() <= 1
    sizes = np.bincount(found, minlength=count)
    assert sizes.max() - sizes.min() <= 4


@given(st.lists(st.integers(0, 4), min_size=8, max_size=40), st.integers(2, 4))
def test_a_group_is_in_one_fold(grouped: list[int], count: int) -> None:
    groups = np.array(grouped)
    found = folds(np.arange(len(groups)) % 2, groups, count, 0)
    assert all(len(set(found[groups == group].tolist())) == 1 for group in grouped)


def test_folds_are_drawn_from_the_seed() -> None:
    labels, alone = np.arange(40) % 2, np.arange(40)
    one, again, other = (folds(labels, alone, 5, seed) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("count", [7, 16])
def test_so_many_folds_as_photos_leave_each_out_once(count: int) -> None:
    found = folds(np.arange(count) % 2, np.arange(count), count, 0)
    assert sorted(found.tolist()) == list(range(count))
