"""Data sets opened whole: the split, the scan of every photo, the channels, and scoring sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from imori.data import PhotoFiles, open_labelled, open_splits
from imori.data.splits import check_classes, stratify
from imori.errors import DataError, RecipeError

# --- the split -------------------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=6),
    shares=st.sampled_from([(0.1,), (0.1, 0.1), (0.3, 0.05), (0.5, 0.45), (0.02, 0.9)]),
    seed=st.integers(0, 2**32),
)
def test_stratify(counts: list[int], shares: tuple[float, ...], seed: int) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    np.random.default_rng(seed).shuffle(labels)
    parts = stratify(labels, shares, seed)
    assert len(parts) == 1 + len(shares)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels))), "disjoint and complete"
    assert all(np.array_equal(part, np.sort(part)) for part in parts)
    assert all(np.array_equal(one, two) for one, two in zip(parts, stratify(labels, shares, seed), strict=True))
    for label, count in enumerate(counts):
        sizes = [int((labels[part] == label).sum()) for part in parts]
        if count > len(shares):
            assert min(sizes) >= 1, "each part has the class"
        else:
            assert sizes == [1] * count + [0] * (len(parts) - count), "training comes first, then validation"
        for size, share in zip(sizes[1:], shares, strict=True):
            assert size <= max(1, share * count + 0.5)
            if share * count >= 1 and sizes[0] > 1:
                assert size >= share * count - 0.5


def test_the_seed_decides_and_classes_do_not_disturb_each_other() -> None:
    labels = np.repeat([0, 1], [30, 40])
    one, two = stratify(labels, (0.2, 0.2), 1), stratify(labels, (0.2, 0.2), 2)
    alike = stratify(np.repeat([0, 1], 50), (0.2,), 1)[1]
    assert not np.array_equal(alike[:10], alike[10:] - 50), "each class has its own shuffle"
    assert not np.array_equal(one[1], two[1])
    more = stratify(np.repeat([0, 1], [30, 55]), (0.2, 0.2), 1)
    for before, after in zip(one, more, strict=True):
        assert np.array_equal(before[before < 30], after[after < 30])


@pytest.mark.parametrize(("val", "test"), [(0, 0.1), (1, 0), (0.5, 0.5), (-0.1, 0.1), (0.1, -0.1), (0.1, 1.0)])
def test_impossible_shares(val: float, test: float) -> None:
    with pytest.raises(
        RecipeError, match=f"val is {val} and test {test}; they are shares: val above 0, together below 1"
    ):
        open_splits("digits", val=val, test=test)


# --- opening ---------------------------------------------------------------------------------------------------------


def test_an_undivided_folder_is_divided(folder) -> None:
    root = folder({"dog": 20, "cat": 10})
    splits = open_splits(root, val=0.2, test=0.1, seed=3)
    assert splits.classes == ("cat", "dog")
    assert splits.channels == 3
    assert splits.test is not None
    assert [part.counts().tolist() for part in (splits.train, splits.val, splits.test)] == [[7, 14], [2, 4], [1, 2]]
    everything = [*splits.train.names, *splits.val.names, *splits.test.names]
    assert sorted(everything) == sorted(map(str, root.glob("*/*.png")))
    for part in (splits.train, splits.val, splits.test):
        assert part.classes == splits.classes
        assert part.labels.dtype == np.int64
        for index, name in enumerate(part.names):
            assert part.classes[part.labels[index]] == Path(name).parent.name
            with Image.open(name) as image:
                assert part.open(index).tobytes() == image.convert("RGB").tobytes()
    assert open_splits(root, val=0.2, test=0.1, seed=3).val.names == splits.val.names
    assert open_splits(root, val=0.2, test=0.1, seed=4).val.names != splits.val.names
    assert open_splits(root, test=0).test is None


def test_validation_is_held_back_from_training_alone(folder) -> None:
    root = folder({"train/a": 10, "train/b": 20, "test/a": 3, "test/b": 2})
    splits = open_splits(root, val=0.2)
    assert splits.test is not None
    assert [part.counts().tolist() for part in (splits.train, splits.val, splits.test)] == [[8, 16], [2, 4], [3, 2]]
    assert all("train" in Path(name).parts for name in (*splits.train.names, *splits.val.names))
    root = folder({"train/a": 10, "train/b": 20, "validation/a": 3, "validation/b": 0}, "given")
    splits = open_splits(root, val=0.2)
    assert splits.test is None
    assert [part.counts().tolist() for part in (splits.train, splits.val)] == [[10, 20], [3, 0]]
    assert splits.notes == ("the val part has no photo of b",)


def test_small_classes_are_noted(folder) -> None:
    splits = open_splits(folder({"many": 9, "one": 1, "three": 3, "two": 2}))
    assert splits.test is not None
    assert [part.counts().tolist() for part in (splits.train, splits.val, splits.test)] == [
        [7, 1, 1, 1],
        [1, 0, 1, 1],
        [1, 0, 1, 0],
    ]
    assert splits.notes == ("the val part has no photo of one", "the test part has no photo of one, two")
    pairs = open_splits(folder({"a": 2, "b": 2}, "pairs"))
    assert (len(pairs.train), len(pairs.val), pairs.test) == (2, 2, None)
    assert "there is no test part: no class has a third photo to hold back" in pairs.notes
    with pytest.raises(DataError, match="no class has a second photo to validate with; add photos, at least 3"):
        open_splits(folder({"a": 1, "b": 1}, "single"))


# --- the scan --------------------------------------------------------------------------------------------------------


def test_bad_photos_are_named_and_skipped_before_the_split(folder) -> None:
    root = folder({"cat": 10, "dog": 10})
    (root / "cat/3.png").write_bytes((root / "cat/3.png").read_bytes()[:60])
    (root / "dog/5.png").write_bytes(b"")
    seen: list[tuple[int, int]] = []
    splits = open_splits(root, val=0.2, test=0.2, progress=lambda done, total: seen.append((done, total)))
    assert splits.test is not None
    assert [part.counts().tolist() for part in (splits.train, splits.val, splits.test)] == [[5, 5], [2, 2], [2, 2]]
    assert [Path(one.path).parts[-2:] for one in splits.skipped] == [("cat", "3.png"), ("dog", "5.png")]
    assert all(one.reason for one in splits.skipped)
    assert seen[-1] == (20, 20)
    assert seen == sorted(seen)
    with pytest.raises(DataError, match=r"cat/3\.png cannot be used as a photo: .*; replace it or remove it"):
        open_splits(root, strict=True)
    kept = {*splits.train.names, *splits.val.names, *splits.test.names, *(one.path for one in splits.skipped)}
    assert kept == set(map(str, root.glob("*/*.png"))), "no photo is lost silently"


def test_the_order_of_what_is_skipped_is_the_same_for_any_workers(folder) -> None:
    root = folder({"cat": 40, "dog": 40})
    for index in range(0, 40, 3):
        (root / f"dog/{index}.png").write_bytes(b"bad")
    opened = [open_splits(root, workers=workers) for workers in (1, 2, 5)]
    assert len(opened[0].skipped) == 14
    assert opened[0].skipped == opened[1].skipped == opened[2].skipped
    assert opened[0].train.names == opened[1].train.names == opened[2].train.names


def test_no_good_photo_left(folder) -> None:
    root = folder({"cat": 3, "dog": 3})
    for index in range(3):
        (root / f"dog/{index}.png").write_bytes(b"bad")
    with pytest.raises(
        DataError, match=r"class dog can be used: of \S+, 3 photos .* the first \S*0\.png: it is empty or"
    ):
        open_splits(root)
    for index in range(3):
        (root / f"cat/{index}.png").write_bytes(b"bad")
    with pytest.raises(DataError, match=r"none of the 6 photos of \S+ can be used \(the first, \S*0\.png: it is empty"):
        open_splits(root)


def test_bombs_are_skipped_by_name_and_stop_a_strict_run(folder, monkeypatch) -> None:
    root = folder({"cat": 5, "dog": 5})
    Image.new("RGB", (40, 30)).save(root / "cat/bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 300)
    splits = open_splits(root)
    assert [(Path(one.path).name, "600 pixels" in one.reason) for one in splits.skipped] == [("bomb.png", True)]
    with pytest.raises(DataError, match=r"bomb\.png cannot be used as a photo: it has more than 600 pixels"):
        open_splits(root, strict=True)


@pytest.mark.parametrize(
    ("modes", "channels"),
    [(("L", "L"), 1), (("1", "LA"), 1), (("L", "RGB"), 3), (("RGB", "RGB"), 3), (("I;16", "L"), 1), (("L", "RGBA"), 3)],
)
def test_channels_are_inferred(folder, paint, modes: tuple[str, str], channels: int) -> None:
    root = folder({"a": 0, "b": 0})
    for name, mode in zip("ab", modes, strict=True):
        for index in range(3):
            picture = Image.new("I;16", (9, 7), 40000 + index) if mode == "I;16" else paint(9, 7, index).convert(mode)
            picture.save(root / name / f"{index}.png")
    splits = open_splits(root)
    assert splits.channels == splits.train.channels == channels
    assert splits.train.open(0).mode == {1: "L", 3: "RGB"}[channels]
    for wanted, mode in ((1, "L"), (3, "RGB")):
        assert open_splits(root, channels=wanted).val.open(1).mode == mode
    with pytest.raises(DataError, match="photos cannot have 4 channels"):
        open_splits(root, channels=4)


def test_the_fingerprint_tells_data_apart_and_not_their_place(folder, tmp_path: Path, monkeypatch) -> None:
    counts = {"cat": 4, "dog": 4}
    one, two = folder(counts, "one"), folder(counts, "two")
    first = open_splits(one).train.fingerprint()
    assert open_splits(two).train.fingerprint() == first
    monkeypatch.chdir(tmp_path)
    assert open_splits("one").train.fingerprint() == first
    assert open_splits(one, seed=1).train.fingerprint() != first
    for name in ("0", "1", "2", "3"):
        Image.new("RGB", (99, 99)).save(two / f"dog/{name}.png")
    assert open_splits(two).train.fingerprint() != first
    digits = open_splits("digits")
    assert len({part.fingerprint() for part in (digits.train, digits.val, digits.test)}) == 3


# --- scoring ---------------------------------------------------------------------------------------------------------


def test_scoring_takes_the_test_part_or_everything(folder) -> None:
    root = folder({f"{part}/{name}": count for part, count in (("train", 4), ("val", 2), ("test", 3)) for name in "ab"})
    assert len(open_labelled(root, ("a", "b"), channels=3)) == 6
    assert len(open_labelled(root, ("a", "b"), channels=3, part="val")) == 4
    whole = folder({"a": 3, "b": 4}, "whole")
    (whole / "a/0.png").write_bytes(b"bad")
    (whole / "a/x.txt").write_bytes(b"text")
    images = open_labelled(whole, ("b", "a"), channels=1)
    assert images.classes == ("b", "a"), "numbered as the model numbers them"
    assert [images.classes[label] for label in images.labels] == [Path(name).parent.name for name in images.names]
    assert (len(images), len(images.skipped), len(images.notes)) == (6, 1, 1)
    assert images.open(0).mode == "L"
    with pytest.raises(DataError, match=r"0\.png cannot be used"):
        open_labelled(whole, ("a", "b"), channels=3, strict=True)
    with pytest.raises(DataError, match=r"whole has no test part; it has none"):
        open_labelled(whole, ("a", "b"), channels=3, part="test")
    with pytest.raises(DataError, match=r"there is no part 'practice'; there are train, val, test"):
        open_labelled(whole, ("a", "b"), channels=3, part="practice")
    alone = folder({"test/a": 2, "test/b": 0}, "alone")
    assert open_labelled(alone, ("a", "b"), channels=3).counts().tolist() == [2, 0]
    divided = folder({"train/a": 2, "train/b": 3, "val/a": 1, "val/b": 1}, "divided")
    assert len(open_labelled(divided, ("a", "b"), channels=3)) == 7


def test_scoring_other_classes_lists_both_sides(folder) -> None:
    root = folder({"cat": 2, "newt": 2})
    with pytest.raises(
        DataError,
        match=r"the model has cat, dog; \S+ has cat, newt; only the model has dog; only \S+ has newt\. Rename",
    ):
        open_labelled(root, ("cat", "dog"), channels=3)
    with pytest.raises(DataError, match="the model has cat, dog; digits has 0, 1"):
        open_labelled("digits", ("cat", "dog"), channels=1)


def test_long_lists_of_classes_are_cut() -> None:
    with pytest.raises(DataError, match=r"c019 and 80 more; there has x; only here"):
        check_classes("here", [f"c{index:03}" for index in range(100)], "there", ["x"])


def test_a_photo_that_vanishes_is_named(folder) -> None:
    root = folder({"a": 3, "b": 3})
    splits = open_splits(root)
    assert isinstance(splits.train, PhotoFiles)
    Path(splits.train.names[0]).unlink()
    with pytest.raises(DataError, match=f"{splits.train.names[0]} cannot be used as a photo: no such file"):
        splits.train.open(0)
