"""Real sets: every photo is in a part or named as skipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from imori.data import Preprocessing, open_labelled, open_splits, statistics


def test_mnist(real: Path) -> None:
    splits = open_splits(real / "mnist")
    assert splits.test is not None
    assert splits.classes == tuple("0123456789")
    assert (len(splits.train) + len(splits.val), len(splits.test)) == (60_000, 10_000)
    counts = splits.train.counts() + splits.val.counts()
    assert counts.tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert splits.test.counts().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.array_equal(open_labelled(real / "mnist", splits.classes, channels=1).labels, splits.test.labels)
    mean, deviation = statistics(splits.train, Preprocessing((28, 28), channels=1), limit=6000)
    assert abs(mean[0] - 0.1307) < 2e-3, "the usual figures of MNIST, from a sample"
    assert abs(deviation[0] - 0.3081) < 2e-3


def test_cats_and_dogs(real: Path) -> None:
    splits = open_splits(real / "cats_dogs", seed=5)
    assert splits.test is not None
    assert splits.classes == ("cat", "dog")
    assert splits.channels == 3
    parts = [set(part.names) for part in (splits.train, splits.val, splits.test)]
    parts.append({one.path for one in splits.skipped})
    assert sum(map(len, parts)) == len(set.union(*parts)) == 999
    assert set.union(*parts) == set(map(str, (real / "cats_dogs").glob("*/*.jpg")))
    assert [part.counts().tolist() for part in (splits.train, splits.val, splits.test)] == [
        [400, 399],
        [50, 50],
        [50, 50],
    ]


def test_newts(real: Path) -> None:
    splits = open_splits(real / "newts")
    assert splits.classes == ("akahara", "madara")
    assert (len(splits.train), len(splits.val), splits.test) == (14, 2, None)
    assert splits.val.counts().tolist() == [1, 1]
