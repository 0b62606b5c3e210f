"""The embedded digits are scikit-learn's, in its order, with a fixed test part."""

from __future__ import annotations

from importlib import resources

import numpy as np
from sklearn.datasets import load_digits

from imori.data import PixelArrays, digits, open_labelled, open_splits


def test_they_are_scikit_learns() -> None:
    parts = digits.parts(1)
    truth = load_digits()
    seen = []
    for part, images in parts.items():
        for index, name in enumerate(images.names):
            number = int(name.removeprefix(f"digits/{part}/"))
            seen.append(number)
            assert images.labels[index] == truth.target[number]
            assert np.array_equal(np.asarray(images.open(index)), np.rint(truth.images[number] * 255 / 16))
            assert (number % 5 == 4) == (part == "test")
    assert sorted(seen) == list(range(1797))
    assert images.open(0).mode == "L"
    assert images.open(0).size == (8, 8)


def test_the_test_part_is_fixed() -> None:
    one, two = open_splits("digits", seed=1), open_splits("digits", seed=2, val=0.2)
    assert one.test is not None
    assert two.test is not None
    assert one.classes == tuple("0123456789")
    assert (one.channels, len(one.train) + len(one.val), len(one.test)) == (1, 1438, 359)
    assert one.test.names == two.test.names
    assert set(one.test.names).isdisjoint({*one.train.names, *one.val.names, *two.train.names, *two.val.names})
    assert one.val.names != two.val.names
    assert one.val.counts().min() >= 13
    scored = open_labelled("digits", one.classes[::-1], channels=3)
    assert isinstance(scored, PixelArrays)
    assert scored.names == one.test.names
    assert [scored.classes[label] for label in scored.labels] == [one.classes[label] for label in one.test.labels]


def test_the_licence_is_beside_them() -> None:
    text = resources.files("imori.data").joinpath("digits.LICENSE.txt").read_text("utf-8")
    for needed in (
        "Alpaydin",
        "Kaynak",
        "10.24432/C50P49",
        "CC BY 4.0",
        "creativecommons.org/licenses/by/4.0",
        "Changes",
    ):
        assert needed in text
