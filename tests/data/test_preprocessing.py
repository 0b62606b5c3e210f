"""From a photo to numbers: which part of it, at which size, in which order and scale; and back from JSON."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from imori.data import PixelArrays, Preprocessing, open_splits, statistics
from imori.data import preprocessing as module
from imori.data.preprocessing import INTERPOLATIONS, RESIZES
from imori.errors import DataError

NOISE = np.random.default_rng(11).integers(0, 256, (40, 80, 3), dtype=np.uint8)


def blocks(values: np.ndarray, down: int, across: int) -> np.ndarray:
    """The mean of each block of down x across pixels: what Pillow's "box" filter gives at whole factors."""
    height, width = values.shape[0] // down, values.shape[1] // across
    return values.reshape(height, down, width, across, -1).mean((1, 3))


@pytest.mark.parametrize(
    ("size", "resize", "share", "expected"),
    [
        ((10, 10), "crop", 1.0, blocks(NOISE[:, 20:60], 4, 4)),
        ((10, 10), "crop", 0.5, blocks(NOISE[10:30, 30:50], 2, 2)),
        ((10, 5), "crop", 1.0, blocks(NOISE[:, 30:50], 4, 4)),
        ((5, 20), "crop", 1.0, blocks(NOISE[10:30], 4, 4)),
        ((20, 10), "stretch", 1.0, blocks(NOISE, 2, 8)),
        ((20, 10), "stretch", 0.5, blocks(NOISE, 2, 8)),
        ((40, 80), "crop", 1.0, NOISE),
    ],
)
def test_the_part_that_is_kept(size: tuple[int, int], resize: str, share: float, expected: np.ndarray) -> None:
    preprocessing = Preprocessing(size, resize=resize, share=share, interpolation="box")
    pixels = preprocessing.pixels(Image.fromarray(NOISE))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (*size, 3)
    assert np.abs(pixels - expected).max() <= 1.01, "Pillow rounds after each direction"


def test_the_usual_share_is_the_usual_crop() -> None:
    photo = Image.fromarray(np.random.default_rng(1).integers(0, 256, (256, 256, 3), dtype=np.uint8))
    kept = Preprocessing((224, 224), share=0.875).pixels(photo)
    assert np.array_equal(kept, np.asarray(photo.crop((16, 16, 240, 240))))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("shape", [(300, 400), (401, 300), (256, 257), (500, 500), (37, 90), (1000, 333)])
def test_torchvision_resizes_to_whole_pixels_and_cuts_between_them(shape: tuple[int, int], interpolation: str) -> None:
    """As its Resize(256) and CenterCrop(224) are; a level or two off where Pillow takes rows and columns in turn."""
    height, width = shape
    patches = np.random.default_rng(1).integers(60, 196, (height // 5, width // 5, 3), dtype=np.uint8)
    photo = Image.fromarray(patches).resize((width, height), Image.Resampling.BICUBIC)
    high, wide = (256, int(256 * width / height)) if height < width else (int(256 * height / width), 256)
    top, left = round((high - 224) / 2.0), round((wide - 224) / 2.0)
    resized = photo.resize((wide, high), getattr(Image.Resampling, interpolation.upper()))
    expected = np.asarray(resized.crop((left, top, left + 224, top + 224))).astype(int)
    how = Preprocessing((224, 224), resize="torchvision", share=0.875, interpolation=interpolation)
    difference = np.abs(how.pixels(photo) - expected)
    assert difference.max() <= 2
    assert difference.mean() < 0.3, "half a pixel more would be some 5"


def test_torchvision_cuts_a_shape_too() -> None:
    how = Preprocessing((100, 200), resize="torchvision", share=0.5)
    assert how.whole == (200, 400)
    assert how.box(400, 200) == (100, 50, 300, 150)
    assert how.box(401, 200) == (100, 50, 300, 150)
    assert how.box(403, 200) == (102, 50, 302, 150) == how.box(405, 200), "half a pixel goes to the even side"
    assert how.box(800, 405) == pytest.approx((200, 51 * 405 / 202, 600, 151 * 405 / 202))


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("shape", [(90, 33), (33, 90), (61, 33), (60, 33), (90, 10), (21, 21)])
def test_pixels_are_the_same_by_every_release_of_pillow(
    monkeypatch: pytest.MonkeyPatch, interpolation: str, shape: tuple[int, int]
) -> None:
    """The passes in the order of the older releases' code are those of Pillow 13, where that is there."""
    photo = Image.fromarray(np.random.default_rng(2).integers(0, 256, (*shape, 3), dtype=np.uint8))
    how = Preprocessing((20, 13), share=0.8, interpolation=interpolation)
    found = how.pixels(photo)
    monkeypatch.setattr(module, "PILLOW", 12)
    assert np.array_equal(how.pixels(photo), found)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_interpolations_are_pillows(interpolation: str) -> None:
    small = Preprocessing((7, 14), interpolation=interpolation).pixels(Image.fromarray(NOISE))
    expected = Image.fromarray(NOISE).resize((14, 7), getattr(Image.Resampling, interpolation.upper()))
    assert np.array_equal(small, np.asarray(expected))


@given(
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    share=st.floats(0.05, 1),
    more=st.tuples(st.integers(0, 200), st.integers(0, 200)),
    resize=st.sampled_from(RESIZES),
)
@example(size=(10, 7), share=0.3, more=(0, 1), resize="torchvision")
@example(size=(10, 7), share=0.3, more=(0, 0), resize="crop")
def test_an_image_of_the_least_size_is_not_enlarged(size, share: float, more, resize: str) -> None:
    preprocessing = Preprocessing(size, resize=resize, share=share)
    height, width = (least + extra for least, extra in zip(preprocessing.least, more, strict=True))
    left, top, right, bottom = preprocessing.box(width, height)
    assert 0 <= left < right <= width + 1e-9
    assert 0 <= top < bottom <= height + 1e-9
    assert right - left >= size[1] - 1e-6
    assert bottom - top >= size[0] - 1e-6
    if resize == "crop":
        assert (right - left) / (bottom - top) == pytest.approx(size[1] / size[0])
        assert left == pytest.approx(width - right)
        assert top == pytest.approx(height - bottom)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_normalise(order: str, dtype: str) -> None:
    mean, std, scale = (0.4, 0.5, 0.6), (0.2, 0.3, 0.7), 1 / 200
    preprocessing = Preprocessing((4, 5), order=order, scale=scale, mean=mean, std=std)
    pixels = np.random.default_rng(2).integers(0, 256, (2, 3, 4, 5, 3), dtype=np.uint8)
    numbers = preprocessing.normalise(pixels, dtype)
    assert numbers.shape == (2, 3, 3, 4, 5)
    assert numbers.dtype == dtype
    assert numbers.flags.c_contiguous
    for channel in range(3):
        source = pixels[..., 2 - channel if order == "bgr" else channel].astype(np.float64)
        expected = (source * scale - mean[channel]) / std[channel]
        assert np.abs(numbers[:, :, channel] - expected).max() < (1e-6 if dtype == "float32" else 1e-14)


def test_published_forms() -> None:
    """Caffe's BGR with means in pixels, and x / 127.5 - 1, as Keras' models want them."""
    pixels = NOISE[:4, :6]
    caffe = Preprocessing((4, 6), order="bgr", scale=1.0, mean=(103.939, 116.779, 123.68)).normalise(pixels, "float64")
    assert np.allclose(caffe, (pixels[..., ::-1] - [103.939, 116.779, 123.68]).transpose(2, 0, 1))
    inception = Preprocessing((4, 6), scale=1 / 127.5, mean=(1, 1, 1)).normalise(pixels, "float64")
    assert np.allclose(inception, (pixels / 127.5 - 1).transpose(2, 0, 1))


def test_any_image_is_converted(paint) -> None:
    photo = paint(20, 20)
    three, one = Preprocessing((20, 20)), Preprocessing((20, 20), channels=1)
    assert np.array_equal(three.pixels(photo.convert("RGBA")), np.asarray(photo))
    assert np.array_equal(one.pixels(photo)[..., 0], np.asarray(photo.convert("L")))
    assert three(photo).dtype == np.float32
    assert three(photo).shape == (3, 20, 20)
    assert one(photo).shape == (1, 20, 20)
    five = Preprocessing((2, 3), channels=5, mean=(1, 2, 3, 4, 5))
    assert five.normalise(np.zeros((2, 3, 5), np.uint8))[4].tolist() == [[-5] * 3] * 2
    with pytest.raises(DataError, match="photos cannot have 5 channels"):
        five.pixels(photo)


@given(
    st.builds(
        Preprocessing,
        size=st.tuples(st.integers(1, 500), st.integers(1, 500)),
        channels=st.just(3),
        resize=st.sampled_from(RESIZES),
        share=st.floats(0.01, 1),
        interpolation=st.sampled_from(sorted(INTERPOLATIONS)),
        order=st.sampled_from(["rgb", "bgr"]),
        scale=st.floats(1e-6, 10),
        mean=st.tuples(*[st.floats(-200, 200)] * 3),
        std=st.tuples(*[st.floats(1e-6, 200)] * 3),
    )
)
def test_round_trip(preprocessing: Preprocessing) -> None:
    assert Preprocessing.from_data(json.loads(json.dumps(preprocessing.to_data()))) == preprocessing


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", [224]), ("size", [0, 224]), ("size", [224, 10**6]), ("size", [2.5, 3]), ("size", 224), ("size", "22"),
        ("channels", 0), ("channels", True), ("channels", 10**9), ("channels", "3"), ("resize", "squash"),
        ("resize", []), ("share", 0), ("share", 1.5), ("share", None), ("interpolation", "magic"),
        ("interpolation", {}), ("order", "rbg"),
        ("scale", 0), ("scale", float("inf")), ("scale", 1e308), ("scale", 1e-30), ("mean", [0, 0, 1e308]),
        ("std", [1e-30, 1, 1]), ("std", [1, 1, 1e30]), ("share", 1e-300),
        ("scale", "1"), ("mean", [0.5]), ("mean", [0, 0, float("nan")]),
        ("mean", 0.5), ("std", [1, 0, 1]), ("std", [1, -1, 1]), ("std", [1, "1", 1]),
    ],
)  # fmt: skip
def test_bad_fields_are_named(field: str, value: object) -> None:
    data = Preprocessing((8, 8)).to_data() | {field: value}
    with pytest.raises(DataError, match=rf"preprocessing: {field} is .*; it must be "):
        Preprocessing.from_data(data)


def test_missing_and_unknown_fields_are_named() -> None:
    data = Preprocessing((8, 8)).to_data()
    with pytest.raises(
        DataError, match="preprocessing: mean missing, gamma unknown; it was written by another version"
    ):
        Preprocessing.from_data({**{name: value for name, value in data.items() if name != "mean"}, "gamma": 2})


# --- statistics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", ["rgb", "bgr"])
def test_statistics_of_photos(folder, order: str) -> None:
    splits = open_splits(folder({"a": 15, "b": 15}))
    preprocessing = Preprocessing((8, 6), order=order, scale=1 / 100)
    photos = [splits.train.open(index) for index in range(len(splits.train))]
    everything = np.stack([preprocessing.normalise(preprocessing.pixels(photo), "float64") for photo in photos])
    mean, deviation = statistics(splits.train, preprocessing)
    assert mean == pytest.approx(everything.mean((0, 2, 3)))
    assert deviation == pytest.approx(everything.std((0, 2, 3)))
    assert statistics(splits.train, preprocessing, workers=1) == statistics(splits.train, preprocessing, workers=4)
    fitted = replace(preprocessing, mean=mean, std=deviation)
    assert statistics(splits.train, fitted) == (mean, deviation), "of the scaled pixels, whatever mean and std are"


def test_statistics_take_an_even_sample() -> None:
    pixels = np.repeat(np.arange(100, dtype=np.uint8), 6).reshape(100, 2, 3)
    images = PixelArrays(("a", "b"), np.arange(100) % 2, tuple(map(str, range(100))), 1, pixels=pixels)
    preprocessing = Preprocessing((2, 3), channels=1, scale=1.0)
    assert statistics(images, preprocessing, limit=12)[0] == (49.5,), "0, 9, 18, … 99"
    assert statistics(images, preprocessing, limit=1) == ((0.0,), (1.0,)), "nothing is divided by 0"


def test_statistics_decode_cheaply(folder, paint, monkeypatch) -> None:
    root = folder({"a": 0, "b": 0})
    for name in "ab":
        for index in range(3):
            paint(640, 480, index).save(root / name / f"{index}.jpg")
    splits = open_splits(root)
    sizes = []
    plain = Preprocessing.pixels
    monkeypatch.setattr(Preprocessing, "pixels", lambda self, image: (sizes.append(image.size), plain(self, image))[1])
    statistics(splits.train, Preprocessing((60, 60)))
    assert set(sizes) == {(80, 60)}, "1/8 of the file's size"
    assert Path(splits.train.names[0]).suffix == ".jpg"
