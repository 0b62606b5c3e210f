"""Features on disk: append-only files of records that are mapped into memory, and never trusted unread.

A folder holds the features of one frozen network, in segments: each process that computes some writes a file of its
own, so that two at once do not meet. A segment is a header and records of one size: a row's name, the CRC-32 of name
and row, and the row. A process that is killed leaves at most one record unfinished, which has no effect; a record that
is damaged fails its check, and is computed anew; a segment with another header is none of ours, and is left alone.
"""

from __future__ import annotations

import contextlib
import os
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from imori.data.images import Array
from imori.errors import RunError
from imori.shapes import Shape
from imori.weights.file import remedy

MAGIC = "imori features 1"
HEADER = 128
"""Bytes before the first record."""
NAME = 32
"""Bytes of a row's name, a sha256."""
SUFFIX = ".features"


@dataclass(frozen=True)
class Features:
    """Rows of a cache, in an order of their own: (N, *shape), mapped and not in memory."""

    segments: Sequence[Array]
    places: Array
    """int64 (N, 2): the segment and the record of each row."""

    def __len__(self) -> int:
        return len(self.places)

    def take(self, indices: Array) -> Array:
        """The rows of these indices: a copy (n, *shape)."""
        places = self.places[indices]
        first = self.segments[0]["row"]
        rows = np.empty((len(places), *first.shape[1:]), first.dtype)
        for number in np.unique(places[:, 0]).tolist():
            here = places[:, 0] == number
            rows[here] = self.segments[number]["row"][places[here, 1]]
        return rows


class FeatureCache:
    """The rows in `folder` of the network that `key` (a sha256 in hex) stands for, each of `shape` and `dtype`."""

    def __init__(self, folder: Path, key: str, shape: Shape, dtype: str) -> None:
        self.folder = folder
        self._header = f"{MAGIC}\n{key}\n".encode().ljust(HEADER, b"\0")
        kind = np.dtype(dtype).newbyteorder("<")
        self._record = np.dtype([("name", "u1", (NAME,)), ("crc", "<u4"), ("unused", "<u4"), ("row", kind, shape)])
        self._places: dict[bytes, list[tuple[int, int]]] = {}
        self._segments: list[Array] = []
        for path in sorted(folder.glob(f"*{SUFFIX}")):
            self._map(path)

    def _map(self, path: Path) -> None:
        """Notes what a segment holds; nothing where it is none, or empty."""
        with contextlib.suppress(OSError), open(path, "rb") as file:
            self._hold(file)

    def _hold(self, file: IO[bytes]) -> None:
        """The same of an open file, whose rows stay readable where it is removed."""
        with contextlib.suppress(OSError):
            count = (os.fstat(file.fileno()).st_size - HEADER) // self._record.itemsize
            file.seek(0)
            if file.read(HEADER) == self._header and count > 0:
                records = np.memmap(file, self._record, "r", HEADER, (count,))
                for place, name in enumerate(np.ascontiguousarray(records["name"])):
                    self._places.setdefault(name.tobytes(), []).append((len(self._segments), place))
                self._segments.append(np.asarray(records))  # the same memory, and quicker to index than a memmap

    def find(self, name: bytes) -> tuple[int, int] | None:
        """Where an undamaged row of that name is; None where there is none."""
        for segment, place in self._places.get(name, ()):
            record = self._segments[segment][place]
            if _crc(name, record["row"]) == record["crc"]:
                return segment, place
        return None

    def features(self, names: Sequence[bytes]) -> Features:
        """The rows of these names, all of which are there."""
        places = [self.find(name) for name in names]
        assert None not in places, "a row was asked for that was not computed"
        return Features(tuple(self._segments), np.array(places, np.int64).reshape(-1, 2))

    @contextlib.contextmanager
    def adding(self) -> Iterator[Adding]:
        """What new rows are given to. RunError where they cannot be written, as on a full disk."""
        path = self.folder / f"{time.time_ns():016x}-{os.getpid():x}{SUFFIX}"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(path, "x+b") as file:
                file.write(self._header)
                try:
                    yield Adding(file, self._record)
                finally:
                    try:
                        file.flush()
                    finally:
                        self._hold(file)
        except OSError as error:
            raise RunError(
                f"features could not be kept in {self.folder}: {error.strerror or error}; {remedy(error, path)}"
                " (IMORI_CACHE names one)"
            ) from error


@dataclass(frozen=True)
class Adding:
    """A segment that is being written."""

    file: IO[bytes]
    record: np.dtype[Any]

    def __call__(self, names: Sequence[bytes], rows: Array) -> None:
        """Appends rows (n, *shape); when it returns, they outlive the process."""
        records = np.zeros(len(names), self.record)
        records["row"] = rows
        for record, name in zip(records, names, strict=True):
            record["name"] = np.frombuffer(name, np.uint8)
            record["crc"] = _crc(name, record["row"])
        self.file.write(records.tobytes())
        self.file.flush()


def _crc(name: bytes, row: Array) -> int:
    return zlib.crc32(row.tobytes(), zlib.crc32(name))
