"""The four MNIST files, raw or gzipped, and other sets in their format (Fashion-MNIST, Kuzushiji-MNIST, EMNIST).

The format, as Y. LeCun, C. Cortes and C. Burges describe it: two zero bytes, the type of the values (8 is an unsigned
byte), the number of dimensions, each dimension as a big-endian 32-bit number, then the values in C order.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import BinaryIO

import numpy as np

from imori.data.images import Array, PixelArrays
from imori.data.photos import entries
from imori.errors import DataError

STEMS = {"train": "train", "test": "t10k"}
MAX_BYTES = 2**30
BLOCK = 2**20


def find(folder: Path) -> dict[tuple[str, str], Path]:
    """The MNIST files of a folder by (part, "images" or "labels"); a raw file stands before a gzipped one."""
    present = {entry.name.lower(): entry for entry in entries(folder)}
    found: dict[tuple[str, str], Path] = {}
    for part, stem in STEMS.items():
        for kind, dimensions in (("images", 3), ("labels", 1)):
            names = [f"{stem}-{kind}{dot}idx{dimensions}-ubyte" for dot in "-."]
            for name in (*names, *(f"{name}.gz" for name in names)):
                if name in present and present[name].is_file():
                    found.setdefault((part, kind), present[name])
    return found


def parts(folder: Path, channels: int) -> dict[str, PixelArrays]:
    """The parts whose two files are both there: "train" and "test" (t10k). DataError names a missing or bad file."""
    found = find(folder)
    sets = {}
    for part, stem in STEMS.items():
        missing = [kind for kind in ("images", "labels") if (part, kind) not in found]
        if len(missing) == 1:
            raise DataError(f"{folder} has no {stem}-{missing[0]} file beside the other one; add it, raw or as .gz")
        if not missing:
            sets[part] = _part(part, found[part, "images"], found[part, "labels"], channels)
    first = next(iter(sets.values()))
    known = sorted(set(first.labels.tolist()))
    for part, images in sets.items():
        unknown = sorted(set(images.labels.tolist()) - set(known))
        if unknown:
            raise DataError(f"{folder}: the {part} labels {unknown} do not occur in training; it has {known}")
    return {part: _classed(images, known) for part, images in sets.items()}


def _part(part: str, image_file: Path, label_file: Path, channels: int) -> PixelArrays:
    pixels, labels = read(image_file, 3), read(label_file, 1)
    if len(pixels) != len(labels):
        raise DataError(f"{image_file} has {len(pixels)} images, {label_file} {len(labels)} labels; they must be equal")
    names = tuple(f"mnist/{part}/{index}" for index in range(len(labels)))
    return PixelArrays((), labels.astype(np.int64), names, channels, pixels=pixels)


def _classed(images: PixelArrays, known: list[int]) -> PixelArrays:
    """The same images, their labels numbered through the known ones: EMNIST's letters begin at 1."""
    labels = np.searchsorted(known, images.labels).astype(np.int64)
    return PixelArrays(tuple(map(str, known)), labels, images.names, images.channels, pixels=images.pixels)


def read(path: Path, dimensions: int) -> Array:
    """An IDX file of unsigned bytes with so many dimensions. DataError names the file and what is wrong with it.

    The header is checked before anything is allocated, and no more is unpacked than it declares.
    """
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            return _read(path, file, dimensions)  # type: ignore[arg-type]
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}; it is damaged or cut off: fetch it again") from error


def _read(path: Path, file: BinaryIO, dimensions: int) -> Array:
    header = file.read(4 + 4 * dimensions)
    magic = bytes((0, 0, 8, dimensions))
    if header[:4] != magic:
        raise DataError(
            f"{path} begins with {header[:4].hex(' ') or 'nothing'} where an IDX file of bytes with {dimensions} "
            f"dimensions begins with {magic.hex(' ')}; it is another kind of file or damaged"
        )
    if len(header) < 4 + 4 * dimensions:
        raise DataError(f"{path} ends within its header; it is cut off: fetch it again")
    shape = struct.unpack(f">{dimensions}I", header[4:])
    size = math.prod(shape)
    if not 0 < size <= MAX_BYTES:
        raise DataError(f"{path} declares {'x'.join(map(str, shape))} values; from 1 to {MAX_BYTES:,} are accepted")
    values = bytearray()
    while len(values) <= size and (block := file.read(min(BLOCK, size + 1 - len(values)))):
        values += block
    if len(values) != size:
        held = f"only {len(values):,}" if len(values) < size else "more"
        raise DataError(f"{path} declares {size:,} values and holds {held}; it is cut off or damaged: fetch it again")
    return np.frombuffer(values, np.uint8).reshape(shape)
