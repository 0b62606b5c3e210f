"""What a network gets wrong."""

from pathlib import Path

import numpy as np

import imori
from imori.explain import draw_mistakes, mistakes
from imori.explain.drawing import square
from imori.explain.mistakes import MOST, TILE
from imori.train.metrics import softmax


def test_every_mistake_is_found_the_surest_first(digits_run: Path) -> None:
    model = imori.load(digits_run)
    images, score = model.test_images(), model.score()
    found = mistakes(model, images)
    assert len(found) == score.images - score.confusion.trace() > MOST
    assert all(one.answer != one.truth and one.probability > one.of_truth for one in found)
    assert [one.probability for one in found] == sorted((one.probability for one in found), reverse=True)
    for one in found[:3]:
        assert images.names[one.index] == one.name
        assert images.classes[images.labels[one.index]] == one.truth
        shares = softmax(model.answers([model.preprocessing(images.open(one.index))[None]])[0])[0]
        assert np.allclose((one.probability, one.of_truth), (shares.max(), shares[int(one.truth)]), atol=1e-6)


def test_they_are_drawn_as_the_network_sees_them(digits_run: Path) -> None:
    model = imori.load(digits_run)
    images = model.test_images()
    found = mistakes(model, images)
    picture = np.asarray(draw_mistakes(model, images, found))
    first = np.asarray(square(model.preprocessing.pixels(images.open(found[0].index)), TILE))
    top = next(y for y in range(len(picture)) if np.array_equal(picture[y, 16 : 16 + TILE], first[0]))
    assert np.array_equal(picture[top : top + TILE, 16 : 16 + TILE], first)
    assert draw_mistakes(model, images, found[:MOST]).size == picture.shape[1::-1], "no more than so many are drawn"
