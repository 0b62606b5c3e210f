"""The MNIST files: raw and gzipped, and everything that can be wrong with one."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from imori.data import PixelArrays, idx, open_labelled, open_splits
from imori.errors import DataError

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def packed(values: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape)
    return header + values.astype(np.uint8).tobytes()


def sets(first: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {
        FILES[0]: rng.integers(0, 256, (60, 6, 5)),
        FILES[1]: np.arange(60) % 4 + first,
        FILES[2]: rng.integers(0, 256, (10, 6, 5)),
        FILES[3]: np.arange(10) % 3 + first,
    }


def write(place: Path, values: dict[str, np.ndarray], zipped: bool = False, dots: bool = False) -> Path:
    for name, array in values.items():
        name = name.replace("-idx", ".idx") if dots else name
        content = packed(array)
        (place / (f"{name}.gz" if zipped else name)).write_bytes(gzip.compress(content) if zipped else content)
    return place


@pytest.mark.parametrize("dots", [False, True], ids=["dashes", "dots"])
@pytest.mark.parametrize("zipped", [False, True], ids=["raw", "gz"])
def test_four_files(tmp_path: Path, zipped: bool, dots: bool) -> None:
    values = sets()
    splits = open_splits(write(tmp_path, values, zipped, dots), val=0.25)
    assert splits.classes == ("0", "1", "2", "3")
    assert splits.channels == 1
    assert splits.test is not None
    assert (len(splits.train), len(splits.val), len(splits.test)) == (44, 16, 10)
    assert splits.test.names[7] == "mnist/test/7"
    for part, images, labels in ((splits.train, FILES[0], FILES[1]), (splits.test, FILES[2], FILES[3])):
        for index, name in enumerate(part.names):
            number = int(name.rpartition("/")[2])
            assert np.array_equal(np.asarray(part.open(index)), values[images][number])
            assert part.labels[index] == values[labels][number]
    assert {*splits.train.names, *splits.val.names} == {f"mnist/train/{index}" for index in range(60)}
    assert open_splits(tmp_path, channels=3).train.open(0).mode == "RGB"


def test_a_raw_file_stands_before_a_gzipped_one(tmp_path: Path) -> None:
    write(tmp_path, sets(), zipped=True)
    values = sets() | {FILES[0]: 255 - sets()[FILES[0]]}
    write(tmp_path, values)
    assert np.array_equal(idx.parts(tmp_path, 1)["train"].pixels, values[FILES[0]])


def test_labels_may_begin_anywhere(tmp_path: Path) -> None:
    """EMNIST's letters are numbered from 1, and beyond 9 labels sort as numbers."""
    splits = open_splits(write(tmp_path, sets(first=8)))
    assert splits.classes == ("8", "9", "10", "11")
    assert splits.train.labels.max() == 3
    assert isinstance(splits.test, PixelArrays)
    assert splits.test.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert "the test part has no photo of 11" in splits.notes


def test_scoring_takes_the_test_files(tmp_path: Path) -> None:
    values = sets()
    write(tmp_path, {name: values[name] for name in FILES[2:]})
    images = open_labelled(tmp_path, ("2", "0", "1"), channels=3)
    assert images.labels.tolist() == [1, 2, 0, 1, 2, 0, 1, 2, 0, 1]
    assert images.open(4).mode == "RGB"
    with pytest.raises(
        DataError, match=r"has the test files but not the training files \(train-images, train-labels\)"
    ):
        open_splits(tmp_path)


def cut(content: bytes) -> bytes:
    return content[:-7]


@pytest.mark.parametrize(
    ("name", "spoil", "says"),
    [
        (FILES[0], cut, r"declares 1,800 values and holds only 1,793; it is cut off or damaged: fetch it again"),
        (FILES[0], lambda content: content + b"x", r"declares 1,800 values and holds more"),
        (
            FILES[0],
            lambda content: b"",
            r"begins with nothing where an IDX file of bytes with 3 dimensions begins with",
        ),
        (FILES[0], lambda content: content[:9], r"ends within its header; it is cut off: fetch it again"),
        (
            FILES[1],
            lambda content: packed(sets()[FILES[0]]),
            r"begins with 00 00 08 03 .* 1 dimensions begins with 00 00 08 01",
        ),
        (FILES[0], lambda content: b"\0\0\x0d\x03" + content[4:], r"begins with 00 00 0d 03 where"),
        (
            FILES[0],
            lambda content: content[:4] + b"\xff" * 12,
            r"declares 4294967295x4294967295x4294967295 values; from 1 to",
        ),
        (FILES[0], lambda content: content[:4] + b"\0" * 12, r"declares 0x0x0 values; from 1 to 1,073,741,824 are"),
        (FILES[1], lambda content: packed(np.arange(59)), r"has 60 images, \S+ 59 labels; they must be equal"),
        (
            FILES[3],
            lambda content: packed(np.arange(10)),
            r"the test labels \[4, 5, 6, 7, 8, 9\] do not occur in training",
        ),
        (FILES[3], None, r"has no t10k-labels file beside the other one; add it, raw or as \.gz"),
    ],
)
@pytest.mark.parametrize("zipped", [False, True], ids=["raw", "gz"])
def test_bad_files_are_named(tmp_path: Path, name: str, spoil, says: str, zipped: bool) -> None:
    write(tmp_path, sets(), zipped)
    path = tmp_path / (f"{name}.gz" if zipped else name)
    if spoil is None:
        path.unlink()
    else:
        content = spoil(packed(sets()[name]))
        path.write_bytes(gzip.compress(content) if zipped else content)
    with pytest.raises(DataError, match=says) as raised:
        open_splits(tmp_path)
    assert (str(tmp_path) if spoil is None or "labels [" in str(raised.value) else path.name) in str(raised.value)


@pytest.mark.parametrize("spoil", [cut, lambda content: content[:40], lambda content: b"PK" + content, lambda _: b""])
def test_bad_gzip_files_are_named(tmp_path: Path, spoil) -> None:
    write(tmp_path, sets(), zipped=True)
    path = tmp_path / f"{FILES[0]}.gz"
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DataError, match=rf"{path} (cannot be read: .*; it is damaged|begins with nothing)"):
        open_splits(tmp_path)


def test_a_gzip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch) -> None:
    """A file that declares 10 bytes and unpacks to 64 million: no more than 11 are read."""
    path = tmp_path / f"{FILES[1]}.gz"
    path.write_bytes(gzip.compress(packed(np.arange(10)) + bytes(64_000_000)))
    asked: list[int] = []
    read = gzip.GzipFile.read

    def counted(self: gzip.GzipFile, size: int = -1) -> bytes:
        asked.append(size)
        return read(self, size)

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    with pytest.raises(DataError, match="declares 10 values and holds more"):
        idx.read(path, 1)
    assert min(asked) > 0
    assert sum(asked) == 8 + 11
