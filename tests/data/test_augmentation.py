"""Each change does what it says, where it says, and nothing else; drawn numbers stand in for a generator."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imori.data import Augmentation, Preprocessing
from imori.data.augmentation import DRAWS
from imori.errors import RecipeError

NOISE = np.random.default_rng(21).integers(0, 256, (100, 100, 3), dtype=np.uint8)
PLAIN = Preprocessing((25, 25), interpolation="box", mean=(0.1, 0.5, 0.8))
MEAN = (26, 128, 204)


class Drawn:
    """A generator that gives 0.5 (no shift, no rotation, no colour; in the middle), but what is asked for elsewhere."""

    def __init__(self, **given: float) -> None:
        places = {
            "area": 0, "aspect": 1, "x": 2, "y": 3, "right": 4, "down": 5, "turn": 6,
            "brightness": 7, "contrast": 8, "saturation": 9, "flip": 10,
            "erase": 11, "erase_area": 12, "erase_aspect": 13, "erase_x": 14, "erase_y": 15,
        }  # fmt: skip
        self.numbers = np.full(DRAWS, 0.5)
        for name, value in given.items():
            self.numbers[places[name]] = value

    def random(self, count: int) -> np.ndarray:
        assert count == DRAWS
        return self.numbers


def changed(
    augmentation: Augmentation, preprocessing: Preprocessing = PLAIN, values=NOISE, **given: float
) -> np.ndarray:
    return augmentation(Image.fromarray(values), preprocessing, Drawn(**given)).astype(int)


def blocks(values: np.ndarray, factor: int) -> np.ndarray:
    height, width = values.shape[0] // factor, values.shape[1] // factor
    return values.reshape(height, factor, width, factor, -1).mean((1, 3))


def test_nothing_is_nothing() -> None:
    for none in (Augmentation(), Augmentation(crop=1.0)):
        assert none.none
        assert np.array_equal(changed(none), PLAIN.pixels(Image.fromarray(NOISE)))
    for some in ({"shift": 0.1}, {"rotate": 1}, {"crop": 0.5}, {"flip": 0.1}, {"colour": 0.1}, {"erase": 0.1}):
        assert not Augmentation(**some).none


def test_flip() -> None:
    plain = PLAIN.pixels(Image.fromarray(NOISE))
    assert np.array_equal(changed(Augmentation(flip=0.5), flip=0.49), plain[:, ::-1])
    assert np.array_equal(changed(Augmentation(flip=0.5), flip=0.51), plain)


def test_shift() -> None:
    plain = PLAIN.pixels(Image.fromarray(NOISE))
    right = changed(Augmentation(shift=0.2), right=1.0)
    assert np.array_equal(right[:, 5:], plain[:, :-5])
    assert np.array_equal(right[:, :5], np.broadcast_to(MEAN, (25, 5, 3)))
    up = changed(Augmentation(shift=0.2), down=0.0)
    assert np.array_equal(up[:-5], plain[5:])
    assert np.array_equal(up[-5:], np.broadcast_to(MEAN, (5, 25, 3)))
    assert np.array_equal(changed(Augmentation(shift=1.0), right=1.0, down=1.0), np.broadcast_to(MEAN, (25, 25, 3)))
    assert np.array_equal(changed(Augmentation(shift=0.2)), plain)


def test_rotate() -> None:
    plain = PLAIN.pixels(Image.fromarray(NOISE))
    assert np.abs(changed(Augmentation(rotate=90), turn=1.0) - np.rot90(plain, -1)).max() <= 1, "clockwise"
    assert np.abs(changed(Augmentation(rotate=90), turn=0.0) - np.rot90(plain)).max() <= 1
    wide = Preprocessing((10, 25), interpolation="box")
    assert (
        np.abs(changed(Augmentation(rotate=180), wide, turn=1.0) - changed(Augmentation(), wide)[::-1, ::-1]).max() <= 1
    )
    slanted = changed(Augmentation(rotate=45), turn=1.0)
    for corner in (slanted[0, 0], slanted[0, -1], slanted[-1, 0], slanted[-1, -1]):
        assert corner.tolist() == list(MEAN), "outside the photo"
    flat = np.full_like(NOISE, 77)
    assert np.all(changed(Augmentation(rotate=45), values=flat, turn=1.0)[6:19, 6:19] == 77)


def test_crop() -> None:
    quarter = Augmentation(crop=0.25)
    for x, y in ((0, 0), (1, 0), (0, 1), (0.5, 0.5)):
        left, top = round(50 * x), round(50 * y)
        expected = blocks(NOISE[top : top + 50, left : left + 50], 2)
        assert np.abs(changed(quarter, area=0, x=x, y=y) - expected).max() <= 1.01
    assert np.array_equal(changed(quarter, area=1), changed(Augmentation()))
    assert np.array_equal(
        changed(Augmentation(crop=0.25), Preprocessing((25, 25), share=0.5), area=1).shape, (25, 25, 3)
    )


def test_around_a_crop_the_photo_goes_on() -> None:
    """A crop of the middle that is shifted shows the photo beyond it, not the mean colour."""
    moved = changed(Augmentation(crop=0.25, shift=0.2), area=0, right=1.0)
    assert np.abs(moved - blocks(NOISE[25:75, 15:65], 2)).max() <= 1.01
    turned = changed(Augmentation(crop=0.25, rotate=45), area=0, turn=1.0, values=np.full_like(NOISE, 77))
    assert np.all(turned == 77)


@given(
    photo=st.tuples(st.integers(1, 300), st.integers(1, 300)),
    size=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    smallest=st.floats(0.05, 0.99),
    draws=st.tuples(*[st.floats(0, 1)] * 4),
    resize=st.sampled_from(["crop", "stretch"]),
)
def test_a_random_crop_lies_in_the_photo(photo, size, smallest: float, draws, resize: str) -> None:
    width, height = photo
    preprocessing = Preprocessing(size, resize=resize)
    left, top, right, bottom = Augmentation(crop=smallest)._box(photo, preprocessing, *draws)
    assert -1e-9 <= left < right <= width + 1e-6
    assert -1e-9 <= top < bottom <= height + 1e-6
    across, down = right - left, bottom - top
    natural = width / height if resize == "stretch" else size[1] / size[0]
    assert 3 / 4 - 1e-6 <= across / down / natural <= 4 / 3 + 1e-6
    share = across * down / (width * height)
    touches = across >= width - 1e-6 or down >= height - 1e-6
    assert share <= 1 + 1e-9
    assert share >= smallest - 1e-9 or touches


@pytest.mark.parametrize("smallest", [0.08, 0.25, 0.5])
def test_the_least_size_for_a_crop(smallest: float) -> None:
    augmentation, preprocessing = Augmentation(crop=smallest), Preprocessing((48, 64), share=0.875)
    height, width = augmentation.least(preprocessing)
    left, top, right, bottom = augmentation._box((width, height), preprocessing, 0.0, 0.5, 0.3, 0.7)
    assert right - left >= 64
    assert bottom - top >= 48
    assert Augmentation(flip=0.5).least(preprocessing) == preprocessing.least == (55, 74)


def test_colour() -> None:
    strong = Augmentation(colour=0.5)
    plain = changed(Augmentation())
    assert np.abs(changed(strong) - plain).max() <= 1
    assert np.abs(changed(strong, brightness=0.0) - plain * 0.5).max() <= 1
    assert np.abs(changed(strong, brightness=1.0) - np.minimum(plain * 1.5, 255)).max() <= 1
    grey = (plain @ [0.299, 0.587, 0.114])[..., None]
    assert np.abs(changed(strong, contrast=0.0) - (plain + grey.mean()) / 2).max() <= 1.5
    assert np.abs(changed(strong, saturation=0.0) - (plain + grey) / 2).max() <= 1
    assert np.ptp(changed(Augmentation(colour=1.0), saturation=0.0), axis=2).max() <= 1, "no colour is left"
    one = Preprocessing((25, 25), channels=1, interpolation="box")
    single = changed(Augmentation(), one)
    assert np.abs(changed(strong, one, brightness=0.0) - single * 0.5).max() <= 1
    assert np.abs(changed(strong, one, contrast=0.0) - (single + single.mean()) / 2).max() <= 1
    assert np.abs(changed(strong, one, saturation=0.0) - single).max() <= 1, "grey has no saturation"


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_erase_to_the_mean_colour(order: str) -> None:
    mean = (0.1, 0.5, 0.8)
    preprocessing = Preprocessing((20, 20), order=order, mean=mean, interpolation="box")
    plain = changed(Augmentation(), preprocessing)
    kept = changed(Augmentation(erase=0.5), preprocessing, erase=0.6)
    assert np.array_equal(kept, plain)
    erased = changed(Augmentation(erase=0.5), preprocessing, erase=0.4, erase_area=1, erase_x=0, erase_y=0.999)
    side = round((0.33 * 400) ** 0.5)
    rectangle = erased[20 - side :, :side].astype(np.uint8)
    assert np.abs(preprocessing.normalise(rectangle)).max() < 0.003, "0 after normalising"
    rest = np.ones((20, 20), bool)
    rest[20 - side :, :side] = False
    assert np.array_equal(erased[rest], plain[rest])


def test_one_change_leaves_the_others_as_they_were() -> None:
    photo = Image.fromarray(NOISE)
    fewer, more = Augmentation(crop=0.3, rotate=20), Augmentation(crop=0.3, rotate=20, flip=0.999999, erase=0.5)
    for seed in range(20):
        one = fewer(photo, PLAIN, np.random.default_rng(seed))
        two = more(photo, PLAIN, np.random.default_rng(seed))[:, ::-1]
        same = (one == two).all(2)
        assert same.mean() > 0.6
        assert np.abs(two[~same].astype(int) - MEAN).max(initial=0) == 0


def test_the_generator_decides_and_the_photo_stays() -> None:
    photo = Image.fromarray(NOISE)
    augmentation = Augmentation(0.1, 20, 0.3, 0.5, 0.3, 0.5)
    one, same, other = (augmentation(photo, PLAIN, np.random.default_rng([7, 0, seed])) for seed in (1, 1, 2))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert np.array_equal(np.asarray(photo), NOISE)


@settings(deadline=None)
@given(
    photo=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    size=st.tuples(st.integers(1, 33), st.integers(1, 33)),
    channels=st.sampled_from([1, 3]),
    augmentation=st.builds(
        Augmentation,
        shift=st.floats(0, 1),
        rotate=st.floats(0, 180),
        crop=st.none() | st.floats(0.01, 1),
        flip=st.floats(0, 1),
        colour=st.floats(0, 1),
        erase=st.floats(0, 1),
    ),
    resize=st.sampled_from(["crop", "stretch"]),
    seed=st.integers(0, 1000),
)
def test_whatever_is_switched_on_the_shape_holds(photo, size, channels, augmentation, resize, seed) -> None:
    values = np.random.default_rng(seed).integers(0, 256, (*photo, 3), dtype=np.uint8)
    preprocessing = Preprocessing(size, channels=channels, resize=resize, share=0.8)
    pixels = augmentation(Image.fromarray(values), preprocessing, np.random.default_rng(seed))
    assert pixels.shape == (*size, channels)
    assert pixels.dtype == np.uint8
    assert Augmentation.from_data(json.loads(json.dumps(augmentation.to_data()))) == augmentation


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("shift", -0.1), ("shift", 1.1), ("rotate", 181), ("crop", 0), ("crop", 1.1), ("flip", 2), ("flip", True),
        ("colour", float("nan")), ("erase", "often"), ("erase", None),
    ],
)  # fmt: skip
def test_bad_fields_are_named(field: str, value: object) -> None:
    with pytest.raises(RecipeError, match=rf"augmentation: {field} is .*; it must be a number from 0 to 1"):
        Augmentation.from_data(Augmentation().to_data() | {field: value})


def test_unknown_fields_are_named() -> None:
    with pytest.raises(RecipeError, match="augmentation: flip, mirror missing or unknown; its fields are colour, crop"):
        Augmentation.from_data({"mirror": 0.5, "shift": 0, "rotate": 0, "crop": None, "colour": 0, "erase": 0})
