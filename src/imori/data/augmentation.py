"""Random changes of the training images, each image's drawn from its own generator.

One resize takes the random crop out of the image; where it is shifted or rotated too, one affine transform follows.
What lies outside the image becomes the mean colour, which is 0 after normalising.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from PIL import Image, ImageStat

from imori.data.images import Array
from imori.data.photos import in_channels
from imori.data.preprocessing import INTERPOLATIONS, Preprocessing, resized
from imori.errors import RecipeError

ASPECT = 4 / 3
"""A random crop is at most so much wider or higher than the image that it becomes (arXiv:1409.4842, section 6)."""
ERASED_AREA = (0.02, 0.33)
ERASED_ASPECT = 3.3
"""Of the erased rectangle (arXiv:1708.04896)."""
LUMA = (0.299, 0.587, 0.114)
"""Red, green and blue in the grey value (ITU-R BT.601), as Pillow has it."""
DRAWS = 16

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Augmentation:
    """What is changed and how much; the default changes nothing. RecipeError where a field is impossible."""

    shift: float = 0.0
    """The largest shift in each direction, as a share of the size; 0 to 1."""
    rotate: float = 0.0
    """The largest rotation in degrees, either way; 0 to 180."""
    crop: float | None = None
    """The smallest share of the image's area that a random crop keeps; None or 1: no random crop."""
    flip: float = 0.0
    """The probability of a mirror image."""
    colour: float = 0.0
    """Brightness, contrast and saturation are each multiplied by a factor from 1 - colour to 1 + colour; 0 to 1."""
    erase: float = 0.0
    """The probability that a rectangle is erased to the mean colour."""

    def __post_init__(self) -> None:
        for part in fields(self):
            value, most = getattr(self, part.name), 180 if part.name == "rotate" else 1
            if part.name == "crop" and value is None:
                continue
            number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not number or not 0 <= value <= most or (part.name == "crop" and not value):
                raise RecipeError(f"augmentation: {part.name} is {value!r}; it must be a number from 0 to {most}")

    @property
    def none(self) -> bool:
        """Whether nothing is changed."""
        crops = self.crop is not None and self.crop < 1
        return not (self.shift or self.rotate or crops or self.flip or self.colour or self.erase)

    def to_data(self) -> dict[str, Any]:
        """Every field, in what JSON can hold."""
        return asdict(self)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Augmentation:
        """What `to_data` gave. RecipeError on a missing, unknown or impossible field."""
        names = {part.name for part in fields(cls)}
        if set(data) != names:
            odd = ", ".join(sorted(names ^ set(data)))
            raise RecipeError(f"augmentation: {odd} missing or unknown; its fields are {', '.join(sorted(names))}")
        return cls(**data)

    def least(self, preprocessing: Preprocessing) -> tuple[int, int]:
        """(height, width) of the smallest image of which the smallest crop is not enlarged (but for its aspect)."""
        if self.crop is None or self.crop >= 1:
            return preprocessing.least
        height, width = (math.ceil(side / math.sqrt(self.crop)) for side in preprocessing.size)
        return height, width

    def __call__(self, image: Image.Image, preprocessing: Preprocessing, rng: np.random.Generator) -> Array:
        """An image in mode "L" or "RGB" -> uint8 (height, width, channels), as `Preprocessing.pixels` would give.

        So many numbers are drawn, whatever is switched on: switching one change on leaves the others as they were.
        """
        draw = rng.random(DRAWS)
        height, width = preprocessing.size
        image = in_channels(image, preprocessing.channels)
        box = self._box(image.size, preprocessing, *draw[0:4].tolist())
        fill = _mean_colour(preprocessing)
        motion = None
        if self.shift or self.rotate:
            right, down = (self.shift * (2 * draw[4:6] - 1) * (width, height)).tolist()
            picture, motion = _scaled(image, box, preprocessing, right, down, self.rotate * (2 * draw[6] - 1))
        else:
            picture = resized(image, (width, height), INTERPOLATIONS[preprocessing.interpolation], box)
        if self.colour:
            picture = _recoloured(picture, *(1 + self.colour * (2 * draw[7:10] - 1)).tolist())
        if motion is not None:
            method = Image.Resampling.NEAREST if preprocessing.interpolation == "nearest" else Image.Resampling.BILINEAR
            picture = picture.transform((width, height), Image.Transform.AFFINE, motion, method, fillcolor=fill)
        pixels = np.asarray(picture).reshape(height, width, preprocessing.channels)
        if draw[10] < self.flip:
            pixels = pixels[:, ::-1]
        if draw[11] < self.erase:
            pixels = _erased(pixels, fill, *draw[12:16].tolist())
        return pixels

    def _box(
        self, size: tuple[int, int], preprocessing: Preprocessing, area: float, aspect: float, x: float, y: float
    ) -> Box:
        """The part of an image of `size` (width, height) that is taken; area, aspect, x and y from 0 to 1 choose it."""
        width, height = size
        if self.crop is None or self.crop >= 1:
            return preprocessing.box(width, height)
        natural = width / height if preprocessing.resize == "stretch" else preprocessing.size[1] / preprocessing.size[0]
        ratio = natural * ASPECT ** (2 * aspect - 1)
        pixels = (self.crop + (1 - self.crop) * area) * width * height
        across, down = math.sqrt(pixels * ratio), math.sqrt(pixels / ratio)
        fit = min(1.0, width / across, height / down)  # the largest that fits, where it is too wide or too high
        across, down = min(across * fit, width), min(down * fit, height)
        left, top = x * (width - across), y * (height - down)
        return left, top, left + across, top + down


def _mean_colour(preprocessing: Preprocessing) -> tuple[int, ...]:
    """The pixel that is nearest to 0 after normalising, in the image's order."""
    values = tuple(min(255, max(0, round(mean / preprocessing.scale))) for mean in preprocessing.mean)
    return values[::-1] if preprocessing.order == "bgr" else values


def _scaled(
    image: Image.Image, box: Box, preprocessing: Preprocessing, right: float, down: float, degrees: float
) -> tuple[Image.Image, tuple[float, ...]]:
    """What is seen of an image when the part in `box` is shifted (pixels of the output) and rotated, in the output's
    scale; and the affine map from the output's coordinates into it, for Pillow's `transform`.
    """
    height, width = preprocessing.size
    scale_x, scale_y = (box[2] - box[0]) / width, (box[3] - box[1]) / height
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
    into_box = _shift(width / 2, height / 2) @ turn @ _shift(-width / 2 - right, -height / 2 - down)
    into_image = _shift(box[0], box[1]) @ np.diag([scale_x, scale_y, 1]) @ into_box
    corners = into_image @ np.array([[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]])
    left, top = np.maximum(corners[:2].min(1), 0).tolist()
    right_most, bottom = np.minimum(corners[:2].max(1), image.size).tolist()
    if right_most <= left or bottom <= top:  # shifted out of sight: any picture will do
        left, top, right_most, bottom = box
    across, along = max(1, round((right_most - left) / scale_x)), max(1, round((bottom - top) / scale_y))
    method = INTERPOLATIONS[preprocessing.interpolation]
    small = resized(image, (across, along), method, (left, top, right_most, bottom))
    into_small = np.diag([across / (right_most - left), along / (bottom - top), 1]) @ _shift(-left, -top)
    return small, tuple((into_small @ into_image)[:2].ravel().tolist())


def _shift(x: float, y: float) -> Array:
    return np.array([[1, 0, x], [0, 1, y], [0, 0, 1]])


def _recoloured(image: Image.Image, brightness: float, contrast: float, saturation: float) -> Image.Image:
    """Pixels times `brightness`, then blended with the mean grey by `contrast`, then with their own by `saturation`."""
    gain = brightness * contrast
    offset = brightness * (1 - contrast) * ImageStat.Stat(image.convert("L")).mean[0]
    if image.mode == "L":
        return image.point([min(255, max(0, round(gain * value + offset))) for value in range(256)])
    matrix = []
    for row in range(3):
        own = [saturation * (column == row) + (1 - saturation) * LUMA[column] for column in range(3)]
        matrix += [*(gain * part for part in own), offset]
    return image.convert("RGB", tuple(matrix))


def _erased(pixels: Array, fill: tuple[int, ...], area: float, aspect: float, x: float, y: float) -> Array:
    """A copy with one rectangle in the colour `fill`; area, aspect, x and y from 0 to 1 choose it."""
    height, width = pixels.shape[:2]
    share = ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * area
    ratio = ERASED_ASPECT ** (2 * aspect - 1)
    down = min(height, max(1, round(math.sqrt(share * height * width / ratio))))
    across = min(width, max(1, round(math.sqrt(share * height * width * ratio))))
    top, left = int(y * (height - down + 1)), int(x * (width - across + 1))
    pixels = pixels.copy()
    pixels[top : top + down, left : left + across] = fill
    return pixels
