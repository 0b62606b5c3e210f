"""Weights out of HDF5, and out of the archives in which Keras keeps it, as plain data.

HDF5 can lead to other files, ask for filters that are loaded from elsewhere, and declare more than any memory holds.
Here a file is a dictionary of datasets by path, all of them floats that stand in the file itself, and none is read
before its reader knows its shape.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import mmap
import shutil
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from imori.errors import FrameworkMissing, ImoriError, WeightsError
from imori.weights.archive import members, unpacked
from imori.weights.checkpoint import computable, widened

File: TypeAlias = Any
"""An open h5py.File."""
Dataset: TypeAlias = Any
"""An h5py.Dataset: its shape and dtype are known, its values are read when they are asked for."""

WEIGHTS, CONFIG = "model.weights.h5", "config.json"
"""What of an archive is read; the rest could describe code, and is not looked at."""
FILTERS = (1, 2, 3)
"""gzip, shuffle and a checksum: filters of HDF5 itself. Keras uses none."""
CHECKSUM = 4
"""Bytes that a checksum adds to a chunk."""
HEAP = b"GCOL\1\0\0\0"
MOST_OBJECTS, MOST_NAME = 2**15, 2**10
MOST_SPARE = 2**16
"""Values of a chunk that is larger than its dataset, as of one that was made to grow."""
MOST_TEXT = 2**24
"""Bytes of a config.json, or of an attribute."""


@contextlib.contextmanager
def opened(path: Path, most: int) -> Iterator[tuple[File, bytes]]:
    """A file of HDF5, and the config.json beside it in an archive. WeightsError where it is none, or damaged.

    Of an archive, at most so many bytes are unpacked. FrameworkMissing without h5py.
    """
    if importlib.util.find_spec("h5py") is None:
        raise FrameworkMissing(
            f"{path} is read by h5py, which is not installed; install it by: pip install 'imori[hdf5]'"
        )
    import h5py

    try:
        with contextlib.ExitStack() as stack:
            place, config = path, b""
            if not h5py.is_hdf5(path) and zipfile.is_zipfile(path):
                place, config = stack.enter_context(_unpacked(path, most))
            _check_heaps(place)
            # by its name: h5py that fails at an open file crashes at the end of the process
            yield stack.enter_context(h5py.File(place, "r", locking=False)), config
    except ImoriError:
        raise
    except FileNotFoundError:
        raise WeightsError(f"{path} is not there; name a .keras, .weights.h5 or .h5") from None
    except Exception as error:  # HDF5 raises nearly anything at a damaged file
        said = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        raise WeightsError(
            f"{path} cannot be read as a .keras, .weights.h5 or .h5 of Keras ({said}); it may be cut short or another"
            " kind of file"
        ) from error


@contextlib.contextmanager
def _unpacked(path: Path, most: int) -> Iterator[tuple[Path, bytes]]:
    """The weights in an archive, as a file, and its config.json. Nothing is unpacked to a place it names."""
    with zipfile.ZipFile(path) as archive, tempfile.TemporaryDirectory(prefix="imori-") as folder:
        held = members(archive, path)
        for name in held:
            if "\\" in name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise WeightsError(f"{path} holds {name!r:.80}, which leads out of it, and was not read")
        if WEIGHTS not in held:
            raise WeightsError(f"{path} is no archive of Keras: it holds no {WEIGHTS}; save it by model.save")
        for name, limit in ((WEIGHTS, most), (CONFIG, MOST_TEXT)):
            if name in held and (size := held[name].file_size) > limit:
                raise WeightsError(
                    f"{path}: its {name} declares {size} bytes, and those of this network need {limit} at most; it is"
                    " of a larger network, or damaged"
                )
        place = Path(folder, "weights.h5")
        with archive.open(WEIGHTS) as packed, place.open("wb") as copy:
            shutil.copyfileobj(packed, copy)
        yield place, unpacked(archive, held[CONFIG], MOST_TEXT, path) if CONFIG in held else b""


def _check_heaps(path: Path) -> None:
    """ValueError for a heap of strings that does not add up: HDF5 1.14 would walk in it for ever.

    HDF5 file format specification 3.0, section III.E: a collection has 16 bytes of header, of which the last 8 are its
    size; an object has a number, 16 bytes of header too, and its data in eights. Number 0 is what is left.
    """
    with path.open("rb") as raw, mmap.mmap(raw.fileno(), 0, access=mmap.ACCESS_READ) as data:
        at = data.find(HEAP)
        while at >= 0:
            (size,) = struct.unpack_from("<8xQ", data, at)
            here, end = at + 16, at + size
            while here + 16 <= end <= len(data):
                number, length = struct.unpack_from("<H6xQ", data, here)
                here += 16 + (length + 7) // 8 * 8 if number else length or size
            if not here <= end <= len(data):
                raise ValueError("a heap of strings is damaged")
            at = data.find(HEAP, at + 1)


def objects(file: File, path: Path, ignored: tuple[str, ...]) -> dict[str, Any]:
    """Place in the file -> dataset, or with a slash at its end -> group; "" is the file. The `ignored` are left out.

    WeightsError for a link, for values that stand elsewhere or nowhere, and for anything but floats.
    """
    import h5py

    found = {"": file}
    places = [""]
    for place in places:
        for name in found[place]:
            if name in ignored:
                continue
            at = f"{place}{name}"
            if len(at) > MOST_NAME:
                raise WeightsError(f"{path} holds a group in itself, or too deep, and was not read; it may be damaged")
            if len(found) > MOST_OBJECTS:
                raise WeightsError(f"{path} holds more groups than any network, and was not read; it may be damaged")
            link = found[place].get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                kind = "no link" if link is None else f"a {type(link).__name__}, which leads elsewhere"
                raise WeightsError(
                    f"{path}: {at} is {kind}, and was not read; save the weights in one file, or fetch it again"
                )
            held = found[place][name]
            if isinstance(held, h5py.Group):
                at += "/"
                places.append(at)
            else:
                _check(held, at, path)
            found[at] = held
    return found


def _check(held: Any, at: str, path: Path) -> None:
    import h5py

    if (
        not isinstance(held, h5py.Dataset)
        or held.dtype.kind not in "fV"
        or not (_is_short(held) or held.dtype.kind == "f")
    ):
        what = getattr(held, "dtype", type(held).__name__)
        raise WeightsError(
            f"{path}: {at} holds {what}, and weights are floats; save the float model, before it is quantised"
        )
    made = held.id.get_create_plist()
    filters = [made.get_filter(i)[0] for i in range(made.get_nfilters())]
    if held.is_virtual or held.external or not set(filters) <= set(FILTERS) or len(set(filters)) < len(filters):
        raise WeightsError(f"{path}: {at} keeps its values in another file or form, and was not read; save it by Keras")
    if held.chunks and (piece := math.prod(held.chunks)) > max(held.size, MOST_SPARE):
        raise WeightsError(
            f"{path}: {at} keeps {held.size} values in chunks of {piece}, and was not read; save it anew"
        )
    if held.size and not held.id.get_storage_size():
        raise WeightsError(f"{path}: {at} declares values and holds none; it was not written to its end")


def _is_short(held: Dataset) -> bool:
    """Whether it holds bfloat16, which Keras writes as two bytes that HDF5 knows no more of."""
    return bool(held.dtype.str == "|V2" and held.dtype.names is None)


def values(held: Dataset) -> npt.NDArray[Any]:
    """The values of a dataset, in a dtype that frameworks have; bfloat16 as float32."""
    if held.compression == "gzip":
        _check_packed(held)
    raw = held[()]
    if _is_short(held):
        return widened(raw.tobytes(), held.shape)
    return computable(np.asarray(raw))


def _check_packed(held: Dataset) -> None:
    """ValueError for a chunk that unpacks to more than its values: HDF5 would follow it into any memory."""
    most = math.prod(held.chunks) * held.dtype.itemsize + CHECKSUM
    for part in held.iter_chunks():
        _, packed = held.id.read_direct_chunk(tuple(axis.start for axis in part))
        if len(zlib.decompressobj().decompress(packed, most + 1)) > most:
            raise ValueError(f"a chunk of {held.name} holds more than its values")


def strings(group: Any, name: str) -> list[str]:
    """The strings of an attribute. ValueError where it holds anything else, or too much."""
    import h5py

    attribute = group.attrs.get_id(name)
    count, dtype = math.prod(attribute.shape), attribute.dtype
    if not count:
        return []
    if h5py.check_string_dtype(dtype) is None or count * dtype.itemsize > MOST_TEXT:
        raise ValueError(f"{name} is no list of names")
    return [text.decode() if isinstance(text, bytes) else str(text) for text in np.atleast_1d(group.attrs[name])]
