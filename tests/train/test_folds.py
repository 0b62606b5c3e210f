"""What a fold trains on, and what its answers are worth."""

import numpy as np
import pytest

from imori.data.folds import folds
from imori.errors import RecipeError
from imori.train.folds import _answers
from imori.train.metrics import wilson
from imori.train.recipe import Recipe

LABELS = np.arange(30) % 3


def test_a_fold_is_answered_by_a_training_that_never_saw_it() -> None:
    seen: list[tuple[set[int], ...]] = []

    def procedure(train: np.ndarray, val: np.ndarray, held: np.ndarray) -> np.ndarray:
        seen.append(tuple(set(part.tolist()) for part in (train, val, held)))
        return np.stack([np.eye(3)[LABELS[i]] * (i + 1) for i in held])

    heard: list[tuple[int, int]] = []
    fold_of = folds(LABELS, np.arange(30), 5, 0)
    answers = _answers(procedure, LABELS, fold_of, Recipe(folds=5, repeats=2), lambda *told: heard.append(told), (1, 5))
    for number, (train, val, held) in enumerate(seen):
        assert held == set(np.flatnonzero(fold_of == number).tolist())
        assert train | val | held == set(range(30))
        assert len(train) + len(val) + len(held) == 30
        assert {LABELS[i] for i in val} == {0, 1, 2}
    assert len(seen) == 5
    assert np.array_equal(answers, np.eye(3)[LABELS] * np.arange(1, 31)[:, np.newaxis]), "each photo has its own"
    assert heard == [(number, 10) for number in range(5, 11)]


def test_folds_that_leave_nothing_to_validate_with_are_refused() -> None:
    with pytest.raises(
        RecipeError,
        match=r"a fold holds 1 of 2 photos, which leaves too few .* or let them lie anywhere, by --duplicates apart",
    ):
        _answers(lambda *parts: np.zeros((1, 2)), np.arange(2), np.arange(2), Recipe(), lambda *told: None, (0, 2))


@pytest.mark.parametrize(
    ("share", "of", "low", "high"),
    # Newcombe 1998 (Statistics in Medicine 17:857), table I, method 3; of all 16, the lower end is 16 / (16 + z²)
    [(81 / 263, 263, 0.2553, 0.3662), (1.0, 16, 0.8064, 1.0), (0.0, 20, 0.0, 0.1611), (15 / 148, 148, 0.0624, 0.1605)],
)
def test_wilsons_interval(share: float, of: int, low: float, high: float) -> None:
    assert wilson(share, of) == pytest.approx((low, high), abs=5e-5)
