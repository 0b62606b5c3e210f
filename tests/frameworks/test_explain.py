"""What `imori explain` draws is the same in every framework."""

from pathlib import Path

import numpy as np

import imori
from imori.explain import features, filters, mistakes


def test_the_pictures_are_the_same_in_every_framework(framework: str, digits_run: Path, pets_run: Path) -> None:
    own, model = imori.load(digits_run, "numpy"), imori.load(digits_run, framework)
    photo = pets_run.parent / "photos" / "dog" / "dog1.png"
    for draw in (filters, lambda model: features(model, photo)):
        one, two = (np.asarray(draw(each), int) for each in (own, model))
        assert one.shape == two.shape
        assert np.abs(one - two).max() <= 2, "two of 256 shades, where a value lies between them"
    names = [{one.name for one in mistakes(each, each.test_images())} for each in (own, model)]
    assert names[0] == names[1]
