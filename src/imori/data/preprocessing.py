"""How a photo becomes a network's input: one frozen value, saved with the model and used wherever it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import PIL
from PIL import Image

from imori.data.images import Array, Images
from imori.data.photos import in_channels
from imori.data.threads import ordered
from imori.errors import DataError

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
"""Pillow's filters; all but "nearest" average over the pixels that one output pixel covers (antialiasing)."""
PILLOW = int(PIL.__version__.partition(".")[0])
RESIZES = ("crop", "torchvision", "stretch")
ORDERS = ("rgb", "bgr")
MAX_SIZE = 8192
MAX_CHANNELS = 1024
LEAST, LARGEST = 1e-9, 1e6
"""Of scale, mean and std: what float32 computes with, whatever the pixels are."""


@dataclass(frozen=True)
class Preprocessing:
    """From an image to an array (channels, *size): resized, its channels ordered, scaled, then (x - mean) / std.

    DataError where a field is impossible.
    """

    size: tuple[int, int]
    """(height, width) in pixels."""
    channels: int = 3
    resize: str = "crop"
    """ "crop": the middle of the image, as large as fits in the shape of `size`, of which the middle `share` is kept.
    "torchvision": the same, of the image resized to whole pixels and cut between pixels, as torchvision and timm do.
    "stretch": the whole image, whatever its shape."""
    share: float = 1.0
    """Of each side, what is kept unless stretched; 0.875 is the resize to 256 and crop of 224 usual on ImageNet."""
    interpolation: str = "bilinear"
    order: str = "rgb"
    """ "bgr" reverses the channels; mean and std are then in that order too."""
    scale: float = 1 / 255
    """Multiplies the pixels, 0 to 255, before mean and std."""
    mean: tuple[float, ...] = ()
    """One for each channel; () is 0."""
    std: tuple[float, ...] = ()
    """One for each channel; () is 1."""

    def __post_init__(self) -> None:
        self._must("channels", _whole(self.channels, MAX_CHANNELS), f"a whole number from 1 to {MAX_CHANNELS}")
        for name, default in (("size", ()), ("mean", (0.0,)), ("std", (1.0,))):
            value = getattr(self, name)
            if isinstance(value, (list, tuple)):
                object.__setattr__(self, name, tuple(value) or default * self.channels)
        sides: object = self.size
        pair = isinstance(sides, tuple) and len(sides) == 2 and all(_whole(side, MAX_SIZE) for side in sides)
        self._must("size", pair, f"(height, width), each from 1 to {MAX_SIZE}")
        self._must("resize", self.resize in RESIZES, " or ".join(RESIZES))
        self._must("share", _number(self.share, LEAST) and self.share <= 1, "above 0 and at most 1")
        self._must("interpolation", self.interpolation in tuple(INTERPOLATIONS), " or ".join(INTERPOLATIONS))
        self._must("order", self.order in ORDERS, " or ".join(ORDERS))
        self._must("scale", _number(self.scale, LEAST), f"a number from {LEAST} to {LARGEST:g}")
        each = f"{self.channels} numbers, one for each channel, from"
        self._must("mean", _numbers(self.mean, self.channels, -LARGEST), f"{each} -{LARGEST:g} to {LARGEST:g}")
        self._must("std", _numbers(self.std, self.channels, LEAST), f"{each} {LEAST} to {LARGEST:g}")

    def _must(self, name: str, right: bool, should: str) -> None:
        if not right:
            raise DataError(f"preprocessing: {name} is {getattr(self, name)!r}; it must be {should}")

    def to_data(self) -> dict[str, Any]:
        """Every field, in what JSON can hold."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Preprocessing:
        """What `to_data` gave. DataError on a missing, unknown or impossible field."""
        names = {part.name for part in fields(cls)}
        if set(data) != names:
            lacks, has = sorted(names - set(data)), sorted(set(data) - names)
            raise DataError(
                f"preprocessing: {', '.join(lacks) or 'nothing'} missing, {', '.join(has) or 'nothing'} unknown; "
                "it was written by another version, or changed by hand"
            )
        return cls(**data)

    @property
    def least(self) -> tuple[int, int]:
        """(height, width) of the smallest image that is not enlarged."""
        share = 1.0 if self.resize == "stretch" else self.share
        height, width = (math.ceil(side / share - 1e-9) for side in self.size)
        return height, width

    def box(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part (left, top, right, bottom) of an image of this size that is kept."""
        if self.resize == "stretch":
            return 0.0, 0.0, float(width), float(height)
        if self.resize == "torchvision":
            return self._between_pixels(width, height)
        scale = min(height / self.size[0], width / self.size[1]) * self.share
        kept_height, kept_width = (
            min(side * scale, whole) for side, whole in zip(self.size, (height, width), strict=True)
        )
        left, top = (width - kept_width) / 2, (height - kept_height) / 2
        return left, top, left + kept_width, top + kept_height

    @property
    def whole(self) -> tuple[int, int]:
        """(height, width) that "torchvision" resizes to before it cuts; one of them grows with the image's shape."""
        height, width = (round(side / self.share) for side in self.size)
        return height, width

    def _between_pixels(self, width: int, height: int) -> tuple[float, float, float, float]:
        """The part of the image that becomes `size` where all of it is resized, and then the middle cut out."""
        high, wide = self.whole
        if width / wide <= height / high:
            high = int(wide * height / width)
        else:
            wide = int(high * width / height)
        top, left = round((high - self.size[0]) / 2), round((wide - self.size[1]) / 2)
        right, bottom = left + self.size[1], top + self.size[0]
        return left * width / wide, top * height / high, right * width / wide, bottom * height / high

    def pixels(self, image: Image.Image) -> Array:
        """Any Pillow image -> uint8 (height, width, channels): converted and resized, before numbers are changed."""
        image = in_channels(image, self.channels)
        small = resized(image, self.size[::-1], INTERPOLATIONS[self.interpolation], self.box(*image.size))
        return np.asarray(small).reshape(*self.size, self.channels)

    def normalise(self, pixels: Array, dtype: str = "float32") -> Array:
        """uint8 (…, height, width, channels), red first -> floats (…, channels, height, width)."""
        ordered = pixels[..., ::-1] if self.order == "bgr" else pixels
        numbers = np.moveaxis(ordered, -1, -3).astype(dtype, order="C")
        kind = numbers.dtype.type
        numbers *= kind(self.scale)
        if any(self.mean):
            numbers -= np.array(self.mean, kind)[:, None, None]
        if any(deviation != 1 for deviation in self.std):
            numbers /= np.array(self.std, kind)[:, None, None]
        return numbers

    def __call__(self, image: Image.Image) -> Array:
        """Any Pillow image -> float32 (channels, height, width)."""
        return self.normalise(self.pixels(image))


def resized(
    image: Image.Image, size: tuple[int, int], method: Image.Resampling, box: tuple[float, float, float, float]
) -> Image.Image:
    """A part of an image at another size (width, height), in the same pixels whatever release of Pillow is there.

    Pillow resizes along the rows, rounds, then along the columns, and rounds. Since Pillow 13 it begins with the
    columns where the height shrinks by much more than the width; before, it is made to.
    """
    (wide, high), (width, height) = image.size, size
    if PILLOW < 13 and method != Image.Resampling.NEAREST and high > height and high - height > 2 * (wide - width):
        image = image.resize((wide, height), method, (0, box[1], wide, box[3]))
        box = (box[0], 0, box[2], height)
    return image.resize(size, method, box)


def statistics(
    images: Images, preprocessing: Preprocessing, limit: int = 1000, workers: int = 0
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, in the preprocessing's size, scale and channel order.

    Over `limit` images, spaced evenly through the set; the same for the same data, whatever the workers. The deviation
    of a channel that is the same everywhere is given as 1.
    """
    chosen = np.unique(np.linspace(0, len(images) - 1, min(limit, len(images))).round().astype(np.int64))

    def sums(index: int) -> Array:
        pixels = preprocessing.pixels(images.open(index, preprocessing.least)).reshape(-1, preprocessing.channels)
        squares = np.square(pixels, dtype=np.uint16)  # 255² fits
        return np.stack([pixels.sum(0, dtype=np.int64), squares.sum(0, dtype=np.int64)])

    total, squared = sum(ordered(sums, chosen.tolist(), workers), np.zeros((2, preprocessing.channels), np.int64))
    count = len(chosen) * math.prod(preprocessing.size)
    means, deviations = [], []
    for one, two in zip(total.tolist(), squared.tolist(), strict=True):  # whole numbers: exact, in any order
        means.append(one / count * preprocessing.scale)
        deviations.append(math.sqrt(two * count - one * one) / count * preprocessing.scale or 1.0)
    step = -1 if preprocessing.order == "bgr" else 1
    return tuple(means[::step]), tuple(deviations[::step])


def _whole(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _number(value: object, least: float) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and least <= value <= LARGEST


def _numbers(value: object, count: int, least: float) -> bool:
    return isinstance(value, tuple) and len(value) == count and all(_number(each, least) for each in value)
