"""Batches: the same for any workers, from any step, over any processes; and threads that end when they should."""

from __future__ import annotations

import _thread
import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imori.data import Augmentation, Batch, Images, Loader, PixelArrays, Preprocessing, loader, open_splits
from imori.errors import DataError, RecipeError

SMALL = Preprocessing((6, 8), channels=1, mean=(0.3,), std=(0.2,))
CHANGES = Augmentation(shift=0.1, rotate=20, crop=0.5, flip=0.5, colour=0.3, erase=0.5)


def in_memory(count: int = 23) -> PixelArrays:
    rng = np.random.default_rng(count)
    pixels = rng.integers(0, 256, (count, 9, 7), dtype=np.uint8)
    return PixelArrays(
        ("a", "b", "c"), rng.integers(0, 3, count), tuple(f"x/{i}" for i in range(count)), 1, pixels=pixels
    )


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Images:
    """Ten RGB photos in files."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(3)
    for name in ("cat", "dog"):
        (root / name).mkdir()
        for index in range(7):
            corners = Image.fromarray(rng.integers(0, 256, (3, 3, 3), dtype=np.uint8))
            corners.resize((40, 30), Image.Resampling.BILINEAR).save(root / name / f"{index}.jpg")
    return open_splits(root).train


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("imori-loader")]


def same(one: Batch, two: Batch) -> bool:
    pairs = ((one.images, two.images), (one.labels, two.labels), (one.weights, two.weights), (one.indices, two.indices))
    return all(left.dtype == right.dtype and np.array_equal(left, right) for left, right in pairs)


def by_hand(images: Images, preprocessing: Preprocessing, augmentation, size: int, seed: int, step: int) -> Batch:
    """A training batch, written out from its definition."""
    epoch, place = divmod(step, -(-len(images) // size))
    order = np.random.default_rng([seed, epoch]).permutation(len(images))
    indices = np.array([order[(place * size + row) % len(images)] for row in range(size)])
    rows = []
    for index in indices.tolist():
        if augmentation.none:
            rows.append(preprocessing.pixels(images.open(index, preprocessing.least)))
        else:
            rng = np.random.default_rng([seed, epoch, index])
            rows.append(augmentation(images.open(index, augmentation.least(preprocessing)), preprocessing, rng))
    values = preprocessing.normalise(np.stack(rows))
    return Batch(values, images.labels[indices], np.ones(size, np.float32), indices)


# --- what a batch is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("augmentation", [Augmentation(), CHANGES], ids=["plain", "augmented"])
@pytest.mark.parametrize("kind", ["memory", "files"])
def test_any_workers_and_any_start_give_the_same_batches(photos: Images, kind: str, augmentation: Augmentation) -> None:
    images = photos if kind == "files" else in_memory()
    preprocessing = replace(SMALL, channels=3, mean=(), std=()) if kind == "files" else SMALL

    @settings(max_examples=25, deadline=None)
    @given(
        size=st.integers(1, len(images)),
        workers=st.integers(1, 6),
        start=st.integers(0, 40),
        count=st.integers(0, 6),
        seed=st.integers(0, 2**31),
    )
    def check(size: int, workers: int, start: int, count: int, seed: int) -> None:
        made = Loader(images, preprocessing, augmentation, batch=size, seed=seed, workers=workers)
        batches = list(made.training(start, start + count))
        assert len(batches) == count
        for step, batch in enumerate(batches, start):
            assert same(batch, by_hand(images, preprocessing, augmentation, size, seed, step))

    check()
    assert not threads()


def test_an_epoch_shows_every_image_and_wraps_around() -> None:
    images = in_memory(23)
    made = Loader(images, SMALL, batch=5, seed=4)
    assert made.steps_per_epoch == 5
    for epoch in range(3):
        indices = np.concatenate([batch.indices for batch in made.training(epoch * 5, epoch * 5 + 5)])
        assert sorted(indices[:23].tolist()) == list(range(23))
        assert np.array_equal(indices[23:], indices[:2]), "the last batch is filled from the epoch's beginning"
    orders = [[batch.indices.tolist() for batch in made.training(epoch * 5, epoch * 5 + 5)] for epoch in (0, 1)]
    assert orders[0] != orders[1]
    other = Loader(images, SMALL, batch=5, seed=5)
    assert [batch.indices.tolist() for batch in other.training(0, 5)] != orders[0]


def test_a_batch_is_never_larger_than_the_data() -> None:
    made = Loader(in_memory(7), SMALL, batch=64)
    assert (made.global_batch, made.steps_per_epoch) == (7, 1)
    assert sorted(next(made.training(0, 1)).indices.tolist()) == list(range(7))
    shared = Loader(in_memory(7), SMALL, batch=64, world=2)
    assert (shared.global_batch, shared.steps_per_epoch) == (6, 2)


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("augmentation", [Augmentation(), CHANGES], ids=["plain", "augmented"])
def test_processes_share_each_batch(world: int, augmentation: Augmentation) -> None:
    alone = Loader(in_memory(), SMALL, augmentation, batch=6)
    shares = [Loader(in_memory(), SMALL, augmentation, batch=6, rank=rank, world=world) for rank in range(world)]
    for whole, *parts in zip(alone.training(2, 9), *(share.training(2, 9) for share in shares), strict=True):
        assert np.array_equal(whole.images, np.concatenate([part.images for part in parts]))
        assert np.array_equal(whole.indices, np.concatenate([part.indices for part in parts]))
    for whole, *parts in zip(alone.evaluation(), *(share.evaluation() for share in shares), strict=True):
        for field in ("images", "labels", "weights", "indices"):
            assert np.array_equal(getattr(whole, field), np.concatenate([getattr(part, field) for part in parts]))


@pytest.mark.parametrize("kind", ["memory", "files"])
@pytest.mark.parametrize("size", [1, 4, 10, 100])
def test_evaluation_is_in_order_and_padded(photos: Images, kind: str, size: int) -> None:
    images = photos if kind == "files" else in_memory(10)
    preprocessing = replace(SMALL, channels=3, mean=(), std=()) if kind == "files" else SMALL
    made = Loader(images, preprocessing, CHANGES, batch=size, seed=9)
    batches = list(made.evaluation())
    assert len(batches) == made.steps_per_epoch == -(-10 // min(size, 10))
    assert {batch.images.shape for batch in batches} == {(min(size, 10), preprocessing.channels, 6, 8)}, "one shape"
    counted = np.concatenate([batch.indices[batch.weights > 0] for batch in batches])
    assert counted.tolist() == list(range(10))
    for batch in batches:
        assert set(batch.weights.tolist()) <= {0.0, 1.0}
        assert np.array_equal(batch.labels, images.labels[batch.indices])
        for row, index in enumerate(batch.indices.tolist()):
            expected = preprocessing(images.open(index, preprocessing.least))
            assert np.array_equal(batch.images[row], expected), "not augmented; padding repeats the last image"
        assert set(batch.indices[batch.weights == 0].tolist()) <= {9}


@pytest.mark.parametrize("augmentation", [Augmentation(), CHANGES], ids=["plain", "augmented"])
def test_float64(augmentation: Augmentation) -> None:
    made = Loader(in_memory(), SMALL, augmentation, batch=4, dtype="float64")
    single = Loader(in_memory(), SMALL, augmentation, batch=4)
    for one, two in zip(made.training(0, 3), single.training(0, 3), strict=True):
        assert (one.images.dtype, one.weights.dtype, one.labels.dtype) == (np.float64, np.float64, np.int64)
        assert two.images.dtype == two.weights.dtype == np.float32
        assert 0 < np.abs(one.images - two.images).max() < 1e-5


def test_a_set_in_memory_is_preprocessed_once(monkeypatch) -> None:
    calls: list[int] = []
    plain = PixelArrays.open
    monkeypatch.setattr(
        PixelArrays, "open", lambda self, index, least=None: (calls.append(index), plain(self, index, least))[1]
    )
    made = Loader(in_memory(), SMALL, batch=5, workers=3)
    first = [*made.training(0, 10), *made.evaluation()]
    assert sorted(calls) == list(range(23))
    monkeypatch.setattr(loader, "STORED_BYTES", 10)
    again = Loader(in_memory(), SMALL, batch=5, workers=3)
    assert all(same(one, two) for one, two in zip(first, [*again.training(0, 10), *again.evaluation()], strict=True))
    assert len(calls) > 2 * 23, "a set that is too large to keep is loaded image by image"


def test_large_photos_are_decoded_small_enough_for_the_smallest_crop(tmp_path: Path, paint, monkeypatch) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for index in range(3):
            paint(800, 600, index).save(tmp_path / name / f"{index}.jpg")
    images, sizes = open_splits(tmp_path).train, set()
    plain = type(images).open

    def opened(self: Images, index: int, least: tuple[int, int] | None = None) -> Image.Image:
        picture = plain(self, index, least)
        sizes.add(picture.size)
        return picture

    monkeypatch.setattr(type(images), "open", opened)
    list(Loader(images, Preprocessing((70, 70)), Augmentation(flip=0.5), batch=2).training(0, 1))
    assert sizes == {(100, 75)}
    sizes.clear()
    list(Loader(images, Preprocessing((70, 70)), Augmentation(crop=0.25), batch=2).training(0, 1))
    assert sizes == {(200, 150)}, "a quarter of its area is as large as the crop"


# --- threads ---------------------------------------------------------------------------------------------------------


class Scripted(PixelArrays):
    """Counts what is opened, and does at one image what a test wants."""

    def open(self, index: int, least: tuple[int, int] | None = None) -> Image.Image:
        """See `Images.open`."""
        OPENED.append(index)
        HAPPENS(index)
        return super().open(index, least)


OPENED: list[int] = []
HAPPENS: Callable[[int], None] = lambda index: None  # noqa: E731


@pytest.fixture
def scripted(monkeypatch) -> Iterator[Callable[..., Loader]]:
    """A loader over images that run a script as they are opened."""
    monkeypatch.setattr(loader, "STORED_BYTES", 0)
    OPENED.clear()

    def make(happens: Callable[[int], None] = lambda index: None, count: int = 400, **given: int) -> Loader:
        monkeypatch.setitem(globals(), "HAPPENS", happens)
        plain = in_memory(count)
        images = Scripted(plain.classes, plain.labels, plain.names, 1, pixels=plain.pixels)
        return Loader(images, SMALL, **{"batch": 8, "workers": 3, **given})

    yield make
    assert not threads(), "no thread outlives its iterator"


def test_no_more_is_loaded_than_a_few_batches_ahead(scripted) -> None:
    batches = scripted().evaluation()
    for taken in range(1, 6):
        next(batches)
        time.sleep(0.02)
        assert len(OPENED) <= (taken + loader.AHEAD) * 8
    assert threads()
    batches.close()


def test_nothing_is_begun_before_the_first_batch_is_asked_for(scripted) -> None:
    batches = scripted().training(0, 10)
    assert not OPENED
    assert not threads()
    del batches


def test_closing_stops_the_threads_between_two_images(scripted) -> None:
    started, go = threading.Event(), threading.Event()

    def wait(index: int) -> None:
        if index >= 8:
            started.set()
            go.wait(10)

    batches = scripted(wait).evaluation()
    next(batches)
    assert started.wait(10)
    closing = threading.Thread(target=batches.close)
    closing.start()
    before = len(OPENED)
    go.set()
    closing.join(10)
    assert not closing.is_alive()
    assert len(OPENED) <= before + 3, "each worker ends the image that it has in hand, and no more"


def test_leaving_a_loop_stops_the_threads(scripted) -> None:
    for batch in scripted().training(0, 50):
        assert len(batch.labels) == 8
        break
    assert not threads()


def test_ctrl_c_while_waiting_stops_the_threads(scripted) -> None:
    def interrupt(index: int) -> None:
        if index == 30:
            _thread.interrupt_main()
        if index >= 30:
            time.sleep(0.005)

    def run() -> None:
        with contextlib.closing(scripted(interrupt).evaluation()) as batches:
            for _ in batches:
                pass

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background is started without
    try:
        with pytest.raises(KeyboardInterrupt):
            run()
    finally:
        signal.signal(signal.SIGINT, before)
    assert len(OPENED) < 100, "the run ends at once, not after the 400 images"
    assert not threads()


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_an_error_is_raised_as_it_is_at_its_own_batch(scripted, workers: int) -> None:
    def fail(index: int) -> None:
        if index == 21:
            raise DataError("photo 21 cannot be used")

    batches = scripted(fail, workers=workers).evaluation()
    assert [int(next(batches).indices[0]) for _ in range(2)] == [0, 8]
    with pytest.raises(DataError, match="photo 21 cannot be used"):
        next(batches)
    assert not threads()
    with pytest.raises(StopIteration):
        next(batches)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"batch": 0}, RecipeError, r"batch is 0; it must be a multiple of the 1 processes, from 1 on"),
        ({"batch": 10, "world": 4}, RecipeError, r"batch is 10; it must be a multiple of the 4 processes"),
        ({"world": 2, "rank": 2}, RecipeError, r"rank is 2; of 2 processes it must be from 0 to 1"),
        ({"batch": 64, "world": 32}, RecipeError, r"23 images cannot be shared by 32 processes; use fewer"),
        ({"workers": -1}, RecipeError, r"workers is -1; it must be from 1, or 0 for one a core"),
        ({"dtype": "float16"}, RecipeError, r"dtype is 'float16'; it must be float32 or float64"),
        ({"preprocessing": Preprocessing((4, 4))}, DataError, r"images have 1 channels and the preprocessing 3; open"),
    ],
)
def test_impossible_loaders_are_refused(given: dict, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        Loader(**{"images": in_memory(), "preprocessing": SMALL, **given})
