"""Labelled images, whatever holds them: files on a disk, or arrays in memory."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image

from imori.data.photos import Skipped, content, in_channels, open_photo

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Images(ABC):
    """A labelled set. Image i is of class `classes[labels[i]]` and is called `names[i]`."""

    classes: tuple[str, ...]
    labels: Array
    """int64 (N,)."""
    names: tuple[str, ...]
    """One for each image: its path as it was given, or as in "mnist/train/17"."""
    channels: int = 3
    """1: `open` gives grey images; 3: RGB."""
    skipped: tuple[Skipped, ...] = ()
    """The photos that were left out when the set was opened; empty for a part that `take` cut from a larger set."""
    notes: tuple[str, ...] = ()
    """What else was noticed, in sentences."""

    def __len__(self) -> int:
        return len(self.labels)

    @abstractmethod
    def open(self, index: int, least: tuple[int, int] | None = None) -> Image.Image:
        """Image `index`, upright, in mode "L" or "RGB" by `channels`.

        `least` (height, width) allows a smaller one than the file holds, no side of it below `least`.
        DataError names a photo that cannot be read.
        """

    @abstractmethod
    def content(self, index: int) -> bytes:
        """The sha256 of what image `index` is made of now: of its file, or of its pixels. DataError as `open`."""

    @abstractmethod
    def joined(self, other: Self) -> Self:
        """These images and then the other ones, of the same data."""

    @abstractmethod
    def take(self, indices: Array) -> Self:
        """The images of these indices, as a set of its own."""

    @abstractmethod
    def fingerprint(self) -> str:
        """A sha256 in hex of names, labels, classes and sizes or pixels: equal for equal data, wherever they lie."""

    def counts(self) -> Array:
        """The number of images of each class, int64 (classes,)."""
        return np.bincount(self.labels, minlength=len(self.classes))


@dataclass(frozen=True, eq=False)
class PhotoFiles(Images):
    """Photos in files, opened when asked for."""

    sizes: tuple[int, ...] = ()
    """Each file's size in bytes."""
    root: str = ""
    """What all names begin with; left out of the fingerprint, so that a set may be moved."""
    looks: tuple[int, ...] = ()
    """Each photo's `duplicates.look`: near duplicates differ in few bits."""

    def open(self, index: int, least: tuple[int, int] | None = None) -> Image.Image:
        """See `Images.open`."""
        return open_photo(self.names[index], self.channels, least)

    def content(self, index: int) -> bytes:
        """See `Images.content`."""
        return content(self.names[index])

    def joined(self, other: Self) -> Self:
        """See `Images.joined`."""
        return replace(
            self,
            labels=np.concatenate([self.labels, other.labels]),
            names=self.names + other.names,
            sizes=self.sizes + other.sizes,
            looks=self.looks + other.looks,
        )

    def take(self, indices: Array) -> Self:
        """See `Images.take`."""
        return replace(
            self,
            labels=self.labels[indices],
            names=tuple(self.names[index] for index in indices),
            sizes=tuple(self.sizes[index] for index in indices),
            looks=tuple(self.looks[index] for index in indices),
            skipped=(),
            notes=(),
        )

    def fingerprint(self) -> str:
        """See `Images.fingerprint`."""
        names = (name.removeprefix(self.root).replace("\\", "/").lstrip("/") for name in self.names)
        return _sha256(self.classes, names, map(str, self.sizes), [self.labels])


@dataclass(frozen=True, eq=False)
class PixelArrays(Images):
    """Images of one size in memory."""

    pixels: Array = field(default_factory=lambda: np.empty((0, 1, 1), np.uint8))
    """uint8 (N, H, W), grey."""

    def open(self, index: int, least: tuple[int, int] | None = None) -> Image.Image:
        """See `Images.open`."""
        return in_channels(Image.fromarray(self.pixels[index]), self.channels)

    def content(self, index: int) -> bytes:
        """See `Images.content`."""
        pixels = self.pixels[index]
        return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()

    def joined(self, other: Self) -> Self:
        """See `Images.joined`."""
        return replace(
            self,
            labels=np.concatenate([self.labels, other.labels]),
            names=self.names + other.names,
            pixels=np.concatenate([self.pixels, other.pixels]),
        )

    def take(self, indices: Array) -> Self:
        """See `Images.take`."""
        return replace(
            self,
            labels=self.labels[indices],
            names=tuple(self.names[index] for index in indices),
            pixels=self.pixels[indices],
            skipped=(),
            notes=(),
        )

    def fingerprint(self) -> str:
        """See `Images.fingerprint`."""
        return _sha256(self.classes, self.names, [], [self.labels, self.pixels])


def _sha256(classes: Sequence[str], names: Iterable[str], sizes: Iterable[str], arrays: list[Array]) -> str:
    digest = hashlib.sha256()
    for texts in (classes, names, sizes):
        digest.update("\0".join(texts).encode("utf-8", "surrogateescape") + b"\0\0")
    for array in arrays:
        digest.update(repr((array.shape, array.dtype.str)).encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
