"""Features of photos: computed once, anew only for what changed, and the same however they were interrupted."""

import math
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import imori
from imori import tree as t
from imori.data import Augmentation, Images, Preprocessing, open_labelled
from imori.errors import DataError
from imori.transfer import Extractor, parted
from imori.transfer import features as module
from imori.weights import initial_weights, restrict

SHAPE = (3, 12, 10)
NET = t.Chain(conv1=t.Conv(5, 3), relu1=t.ReLU(), gap=t.GlobalAvgPool(), fc=t.Linear(2))
PARTS = parted(NET, SHAPE)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IMORI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of photos in each batch that a network computes."""
    batches: list[int] = []
    usual = Extractor._outputs

    def outputs(self: Extractor, inputs: np.ndarray) -> np.ndarray:
        batches.append(len(inputs))
        return usual(self, inputs)

    monkeypatch.setattr(Extractor, "_outputs", outputs)
    return batches


def photo(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (24, 30, 3), np.uint8)).save(path)


def images(folder: Path, count: int = 5) -> Images:
    for i in range(count):
        photo(folder / "photos" / ("cat", "dog")[i % 2] / f"{i}.png", i)
    return open_labelled(folder / "photos", ("cat", "dog"), channels=3)


def extractor(**changes: object) -> Extractor:
    how = Preprocessing(SHAPE[1:], mean=(0.5, 0.4, 0.5), std=(0.3, 0.2, 0.25))
    made = Extractor(PARTS, initial_weights(NET, SHAPE, seed=2), SHAPE, how, "numpy", workers=2)
    return replace(made, **changes)  # type: ignore[arg-type]


def test_they_are_what_the_network_gives(tmp_path: Path) -> None:
    photos, made = images(tmp_path), extractor()
    features = made.features(photos).take(np.arange(5))
    body = imori.build(PARTS.body, SHAPE, "numpy", restrict(made.weights, PARTS.body))
    expected = imori.logits(body, np.stack([made.preprocessing(photos.open(i)) for i in range(5)]))
    assert abs(features - expected).max() < 1e-6 * abs(expected).max()


def test_they_are_computed_once(tmp_path: Path, computed: list[int]) -> None:
    photos = images(tmp_path)
    first = extractor().features(photos).take(np.arange(5))
    again = extractor().features(photos).take(np.arange(5))
    assert computed == [5]
    assert np.array_equal(first, again)


def test_a_changed_photo_is_computed_anew(tmp_path: Path, computed: list[int]) -> None:
    photos = images(tmp_path)
    before = extractor().features(photos).take(np.arange(5))
    path = Path(photos.names[3])
    stat = path.stat()
    photo(path, 99)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    after = extractor().features(photos).take(np.arange(5))
    assert computed == [5, 1]
    assert [np.array_equal(one, two) for one, two in zip(before, after, strict=True)] == [True] * 3 + [False, True]


def test_a_photo_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = images(tmp_path)
    usual = type(photos).open

    def changing(self: Images, index: int, least: tuple[int, int] | None = None) -> Image.Image:
        picture = usual(self, index, least)
        if index == 2:
            photo(Path(self.names[2]), 77)
        return picture

    monkeypatch.setattr(type(photos), "open", changing)
    with pytest.raises(DataError, match="changed while it was read"):
        extractor().features(photos)


def test_an_interrupted_computation_goes_on(
    tmp_path: Path, computed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", 2)
    photos, done = images(tmp_path, 7), []

    def stop(number: int, total: int) -> None:
        done.append((number, total))
        if number == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        extractor(progress=stop).features(photos)
    assert done == [(0, 7), (2, 7), (4, 7)]
    resumed = extractor().features(photos).take(np.arange(7))
    assert computed == [2, 2, 2, 1]
    monkeypatch.setenv("IMORI_CACHE", str(tmp_path / "another"))
    assert np.array_equal(resumed, extractor().features(photos).take(np.arange(7)))


def changed(weights: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {**weights, name: weights[name] + np.float32(1e-3)}


def test_all_that_features_depend_on_is_in_their_key() -> None:
    made = extractor()
    other = t.Chain(conv1=t.Conv(5, 3), relu1=t.LeakyReLU(), gap=t.GlobalAvgPool(), fc=t.Linear(2))
    keys = [
        made.key,
        extractor(weights=changed(made.weights, "conv1.weight")).key,
        extractor(weights=changed(made.weights, "conv1.bias")).key,
        extractor(preprocessing=replace(made.preprocessing, share=0.5)).key,
        extractor(shape=(3, 14, 10)).key,
        extractor(precision="float64").key,
        extractor(framework="torch").key,
        extractor(parts=parted(other, SHAPE)).key,
    ]
    assert len(set(keys)) == len(keys)
    assert extractor(weights=changed(made.weights, "fc.weight")).key == made.key, "the head is no part of it"


def test_augmented_passes_differ_and_are_drawn_from_their_numbers(tmp_path: Path, computed: list[int]) -> None:
    photos, changes = images(tmp_path), Augmentation(crop=0.5, flip=0.5)
    every = np.arange(5)
    plain = extractor().features(photos).take(every)
    first, second = (extractor().features(photos, changes, number, 3).take(every) for number in (1, 2))
    assert len({rows.tobytes() for rows in (plain, first, second)}) == 3
    assert np.array_equal(extractor().features(photos, changes, 1, 3).take(every), first)
    assert computed == [5, 5, 5]
    turned = extractor().features(photos.take(np.array([4, 3])), changes, 1, 3).take(np.array([1, 0]))
    assert np.array_equal(turned, first[3:]), "of the photo, not of its place"
    assert not np.array_equal(extractor().features(photos, changes, 1, 4).take(every), first)


def test_maps_are_features_too(tmp_path: Path) -> None:
    net = t.Chain(conv1=t.Conv(4, 3), relu1=t.ReLU(), conv2=t.Conv(2, 1), gap=t.GlobalAvgPool())
    parts = parted(net, SHAPE)
    rows = extractor(parts=parts, weights=initial_weights(net, SHAPE)).features(images(tmp_path)).take(np.arange(5))
    assert rows.shape == (5, 4, 10, 8)
    assert math.isfinite(rows.sum())
