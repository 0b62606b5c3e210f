"""Heads: each is trained from the same start, whatever was trained before it."""

import numpy as np
import pytest

from imori import tree as t
from imori.errors import RunError
from imori.train.head import HeadTrainer, Labelled
from imori.train.recipe import Recipe
from imori.transfer import Features
from imori.weights import initial_weights

HEAD = t.Chain(flatten=t.Flatten(), drop=t.Dropout(0.2), fc=t.Linear(2, init=0.01))
SHAPE = (6, 1, 1)


def labelled(count: int, seed: int, scale: float = 1.0) -> Labelled:
    """Two classes that one of the features tells apart."""
    rng = np.random.default_rng(seed)
    records = np.zeros(count, [("row", "<f4", (6,))])
    labels = np.arange(count) % 2
    records["row"] = scale * rng.standard_normal((count, 6))
    records["row"][:, 3] += 2 * labels
    places = np.stack([np.zeros(count, np.int64), np.arange(count)], 1)
    return Labelled([Features([records], places)], labels)


def trainer(**choices: object) -> HeadTrainer:
    recipe = Recipe(**{"framework": "numpy", "head_lr": 0.02, "head_epochs": 8, "batch_size": 7, **choices})
    return HeadTrainer(recipe, HEAD, SHAPE, initial_weights(HEAD, SHAPE, seed=3), "cpu")


def test_a_head_learns_and_its_best_epoch_is_kept() -> None:
    made, validation = trainer(), labelled(20, 2)
    head = made.train(labelled(60, 1), validation, np.ones(2, np.float32))
    assert head.rows[-1]["train_loss"] < 0.7 * head.rows[0]["train_loss"]
    assert head.best == min(head.rows, key=lambda row: row["val_loss"])
    assert made.tally(validation, 2, head.weights).loss == pytest.approx(head.best["val_loss"], rel=1e-6)
    assert [row["step"] for row in head.rows] == [9 * n for n in range(1, 9)]


def test_the_same_photos_give_the_same_head_again() -> None:
    made, weights = trainer(), np.ones(2, np.float32)
    first = made.train(labelled(60, 1), labelled(20, 2), weights)
    made.train(labelled(33, 5), labelled(20, 6), weights)
    again = made.train(labelled(60, 1), labelled(20, 2), weights)
    assert all(np.array_equal(first.weights[name], again.weights[name]) for name in first.weights)
    assert [row["train_loss"] for row in first.rows] == [row["train_loss"] for row in again.rows]


def test_few_photos_are_shown_more_often() -> None:
    head = trainer(head_epochs=None).train(labelled(10, 1), labelled(4, 2), np.ones(2, np.float32))
    assert len(head.rows) == 100, "200 steps, two an epoch"


def test_class_weights_weigh() -> None:
    made = trainer()
    even, one = (
        made.train(labelled(60, 1), labelled(20, 2), np.array(weights, np.float32)).rows[-1]["train_accuracy"]
        for weights in ((1, 1), (0, 1))
    )
    assert one == pytest.approx(0.5, abs=0.1), "all are taken for the class that counts"
    assert even > 0.7


def test_a_head_that_goes_astray_is_an_error() -> None:
    with (
        np.errstate(all="ignore"),
        pytest.raises(RunError, match=r"the loss of the head is (nan|inf): use a lower --head-lr"),
    ):
        trainer(head_lr=1000.0, opt="sgd", head_epochs=200).train(
            labelled(60, 1, 1e30), labelled(20, 2), np.ones(2, np.float32)
        )
