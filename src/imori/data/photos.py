"""Photos as Pillow reads them: found, checked, and opened upright as 8-bit grey ("L") or "RGB".

One way of decoding serves training, testing and prediction.

- What a camera noted about its position (EXIF) is applied; of an animation the first frame is taken.
- Transparent parts are laid on white, as viewers show them.
- 16-bit grey is divided by 257, so that 65535 is white; floats run from 0 (black) to 1 (white).
- A JPEG that is larger than needed is decoded at 1/2, 1/4 or 1/8 of its size, which costs a fraction of the time.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import os
import re
import threading
import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from imori.data.duplicates import SEEN, look
from imori.errors import DataError

MODES = {1: "L", 3: "RGB"}
GREY = ("1", "L", "LA", "I", "F")
HIDDEN = ("__macosx", "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "$recycle.bin")
NOT_PHOTOS = ("EPS", "MPEG", "WMF", "HDF5", "GRIB", "BUFR")
"""Formats that Pillow knows but cannot decode by itself; for EPS it would run another program."""

ORIENTATION = 0x0112
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = (5, 6, 7, 8)


@dataclass(frozen=True)
class Skipped:
    """A photo that was left out when its set was opened, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Checked:
    """A photo that was decoded once: its size in bytes and whether it is grey, or why it cannot be used."""

    path: str
    bytes: int = 0
    grey: bool = False
    look: int = 0
    """See `duplicates.look`."""
    reason: str = ""


# --- finding ---------------------------------------------------------------------------------------------------------


def formats() -> list[str]:
    """The names of the formats that are opened: Pillow's, and those that other packages have registered with it."""
    Image.init()
    return [name for name in Image.ID if name not in NOT_PHOTOS]


def extensions() -> frozenset[str]:
    """The extensions of photos in small letters, with their dots."""
    allowed = set(formats())
    return frozenset(extension for extension, name in Image.registered_extensions().items() if name in allowed)


def is_hidden(name: str) -> bool:
    """Whether a file or folder is the system's own and no part of a data set: .DS_Store, __MACOSX, Thumbs.db, …"""
    return name.startswith(".") or name.lower() in HIDDEN


def walk(folder: Path, own: Collection[str] = ()) -> tuple[list[Path], list[Path], list[Path]]:
    """All photos under a folder, all files that are none, and the links left out, each sorted. Hidden ones are in none.

    Symbolic links are followed, but not to what is there already: the folder itself, the `own` folders (real paths) and
    what another link led to. So nothing is found twice, and never without end.
    """
    known, seen = extensions(), {*own, os.path.realpath(folder)}
    above = folders_above(seen)
    photos: list[Path] = []
    others: list[Path] = []
    links: list[Path] = []

    def enter(place: Path) -> None:
        for entry in sorted(entries(place), key=lambda entry: entry.name):
            if entry.is_symlink() and entry.exists():
                real = os.path.realpath(entry)
                if leads_to(real, seen, above):
                    links.append(entry)
                    continue
                seen.add(real)
                above.update(folders_above([real]))
            if entry.is_dir():
                enter(entry)
            elif entry.suffix.lower() in known and (entry.is_file() or not entry.exists()):
                photos.append(entry)  # a broken link too: opening it says by name that it is one
            else:
                others.append(entry)

    enter(folder)
    return photos, others, links


def folders_above(places: Iterable[str]) -> set[str]:
    """All folders that contain one of the places."""
    return {str(above) for place in places for above in Path(place).parents}


def leads_to(place: str, folders: Collection[str], above: Collection[str]) -> bool:
    """Whether a real path is one of the folders, lies in one, or is one of those `above` them."""
    return place in above or any(str(part) in folders for part in (Path(place), *Path(place).parents))


def entries(folder: Path) -> list[Path]:
    """What lies in a folder and is not hidden. DataError where the folder may not be read."""
    try:
        return [entry for entry in folder.iterdir() if not is_hidden(entry.name)]
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}; check its permissions") from error


def left_out(others: list[Path], where: str = "") -> tuple[str, ...]:
    """The note on files that are no photos: their number, their kinds and the first of them. Empty without any."""
    if not others:
        return ()
    kinds = Counter(path.suffix.lower() or "no extension" for path in others)
    listed = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
    number = f"{len(others)} files that are no photos were" if len(others) > 1 else "1 file that is no photo was"
    return (f"{where}{number} left out: {listed} (the first is {others[0]})",)


def left_out_links(links: list[Path], where: str = "") -> tuple[str, ...]:
    """The note on links that were not followed. Empty without any."""
    if not links:
        return ()
    number = f"{len(links)} links that lead back to photos" if len(links) > 1 else "1 link that leads back to photos"
    verb = "were" if len(links) > 1 else "was"
    return (f"{where}{number} of the data set {verb} left out (the first is {links[0]})",)


def find_images(paths: Iterable[str | os.PathLike[str]]) -> list[str]:
    """The photos that files, folders (searched to the bottom) and patterns (*, ?, [], **) name, each once, in order.

    A file that is named itself is taken whatever its extension. DataError names what leads to no photo.
    """
    found: dict[str, None] = {}
    for given in paths:
        if not os.fspath(given):
            raise DataError("the path of a photo is empty; give photos, folders or patterns like *.jpg")
        path = Path(given).expanduser()
        matches = [path] if path.exists() else [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207
        if not matches:
            raise DataError(f"{given} does not exist and matches no file; give photos, folders or patterns like *.jpg")
        matches = [match for match in matches if not {*filter(is_hidden, match.parts)} - {*path.parts}]
        photos = [photo for match in matches for photo in (walk(match)[0] if match.is_dir() else [match])]
        if not path.is_file():
            known = extensions()
            photos = [photo for photo in photos if photo.suffix.lower() in known]
        if not photos:
            raise DataError(f"there is no photo in {given}; photos end in .jpg, .png and the like")
        found.update(dict.fromkeys(map(str, photos)))
    if not found:
        raise DataError("no photo was given; give photos, folders or patterns like *.jpg")
    return list(found)


# --- opening ---------------------------------------------------------------------------------------------------------


def open_photo(path: str | os.PathLike[str], channels: int = 3, least: tuple[int, int] | None = None) -> Image.Image:
    """A photo, upright, its first frame, in mode "L" for 1 channel and "RGB" for 3.

    `least` (height, width) allows a smaller picture than the file's own, no side of it below `least`, where that is
    cheaper to decode. DataError names the file and what is wrong with it.
    """
    check_channels(channels)
    try:
        return _decode(os.fspath(path), channels, least)[0]
    except Exception as error:  # a broken file can make a decoder raise anything
        raise unusable(os.fspath(path), reason(error)) from error


def content(path: str) -> bytes:
    """The sha256 of a photo's file. DataError names one that cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").digest()
    except OSError as error:
        raise unusable(path, reason(error)) from error


def check(path: str) -> Checked:
    """Decodes a photo once, as cheaply as its format allows, to learn whether it can be used at all."""
    try:
        picture, grey = _decode(path, 3, SEEN)
        return Checked(path, Path(path).stat().st_size, grey, look(picture))
    except Exception as error:  # as in open_photo
        return Checked(path, reason=reason(error))


def unusable(path: str, why: str) -> DataError:
    """The error that a photo cannot be used."""
    return DataError(f"{path} cannot be used as a photo: {why}; replace it or remove it")


def check_channels(channels: int) -> None:
    """DataError unless photos can have so many channels."""
    if channels not in MODES:
        raise DataError(f"photos cannot have {channels!r} channels; choose 1 (grey) or 3 (RGB)")


def reason(error: BaseException) -> str:
    """What is wrong with a photo, in words, from what opening it raised."""
    if isinstance(error, DataError):
        return str(error)
    if isinstance(error, Image.DecompressionBombError):
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        return f"it has more than {limit:,} pixels, Pillow's limit against decompression bombs"
    if isinstance(error, UnidentifiedImageError):
        return "it is empty or no picture in a format that Pillow knows"
    if isinstance(error, MemoryError):
        return "it does not fit in memory"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[0].lower() + error.strerror[1:]
    return str(error) or type(error).__name__


def _decode(path: str, channels: int, least: tuple[int, int] | None) -> tuple[Image.Image, bool]:
    """The upright 8-bit picture, and whether the file itself is grey."""
    if Path(path).is_fifo():
        raise DataError("it is a pipe, from which a program would wait for ever")
    with _quiet(), Image.open(path, formats=formats()) as image:
        grey = _is_grey(image)
        if image.format in ("JPEG", "MPO"):
            sideways = _orientation(image) in SIDEWAYS
            image.draft(MODES[channels], least if least is None or sideways else (least[1], least[0]))
        image.load()
        picture = in_channels(image, channels)
        turn = UPRIGHT.get(_orientation(image))  # only now: a TIFF is turned by Pillow itself while it is loaded
        return (picture if turn is None else picture.transpose(turn)), grey


def _is_grey(image: Image.Image) -> bool:
    """Whether the file holds grey values only: by its mode, or by its palette."""
    if image.mode == "P":
        palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)
        return bool((palette == palette[:, :1]).all())
    return image.mode in GREY or image.mode.startswith("I;16")


def _orientation(image: Image.Image) -> int:
    """The EXIF tag, 1 to 8; 1 where there is none or where it cannot be read, as viewers have it."""
    try:
        return int(image.getexif().get(ORIENTATION, 1))
    except Exception:  # broken EXIF data are no reason to refuse good pixels
        return 1


def in_channels(image: Image.Image, channels: int) -> Image.Image:
    """Any Pillow image as 8-bit "L" (1 channel) or "RGB" (3). DataError where its values have no clear meaning."""
    check_channels(channels)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _eight_bits(image)
    try:
        if image.has_transparency_data:
            above = image.convert("RGBA")
            image = Image.new("RGBA", above.size, "white")
            image.alpha_composite(above)
        elif image.mode == "LAB":
            image = image.convert("RGB")
        return image if image.mode == MODES[channels] else image.convert(MODES[channels])
    except ValueError as error:
        raise DataError(f"its colour mode {image.mode} cannot be converted; save it as RGB or grey") from error


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits, or in floats, as 8-bit grey."""
    values = np.asarray(image)
    low, high = (values.min(), values.max()) if values.size else (0, 0)
    if image.mode == "F":
        if not 0 <= low <= high <= 1:  # so is NaN refused
            raise DataError(f"its floats run from {low:g} to {high:g} where 0 is black and 1 white; save it in 8 bits")
        return Image.fromarray(np.rint(values * 255).astype(np.uint8))
    if not 0 <= low <= high <= 65535:
        raise DataError(f"its values run from {low} to {high} where 65535 is white; save it in 8 or 16 bits")
    eight = ((values.astype(np.int64) + 128) // 257).astype(np.uint8)
    if "transparency" in image.info:  # the one grey value that a 16-bit PNG declares transparent
        eight[values == image.info["transparency"]] = 255
    return Image.fromarray(eight)


# Pillow warns of odd metadata and of very large pictures. That says nothing which `check` does not, and must not become
# an error where warnings are. Python's own way to silence a block of code is not safe in threads: it puts back filters
# that another thread has changed. So one filter stands in the list while any thread decodes, and the last takes it out.
_SILENCE = ("ignore", None, Warning, re.compile(r"PIL\b"), 0)
_LOCK = threading.Lock()
_decoding = 0


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    global _decoding
    filters: list[object] = warnings.filters  # type: ignore[assignment]
    with _LOCK:
        _decoding += 1
        if _SILENCE not in filters:
            filters.insert(0, _SILENCE)
    try:
        yield
    finally:
        with _LOCK:
            _decoding -= 1
            if not _decoding and _SILENCE in filters:
                filters.remove(_SILENCE)
