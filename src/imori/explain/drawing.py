"""Pictures laid out by Pillow alone: squares of numbers, captions under them, and grids of both.

Each function returns an image on white, so that they nest. Nothing is blurred: what is small is enlarged by a whole
number, each value a square of its own, and what is large is averaged over whole squares.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

Array: TypeAlias = npt.NDArray[Any]
Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

PAPER, INK, FAINT, RED = "white", "#1a1a1a", "#6b6b6b", "#b3261e"
TITLE, TEXT = 18, 13
"""Heights of letters in pixels."""
MARGIN = 16
HEAT = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))
"""From the least to the most: matplotlib's colours "inferno", at every quarter. Brightness rises evenly."""
FONTS = (
    "NotoSansCJK-Regular.ttc", "NotoSansJP-Regular.otf", "ipaexg.ttf", "ipagp.ttf", "TakaoPGothic.ttf",
    "YuGothM.ttc", "meiryo.ttc", "msgothic.ttc", "Hiragino Sans GB.ttc", "Arial Unicode.ttf", "DejaVuSans.ttf",
)  # fmt: skip
"""What is looked for on the system where Pillow's own letters do not do: those of Linux, Windows and macOS."""


# --- letters ----------------------------------------------------------------------------------------------------------


@functools.cache
def _font(name: str | None, height: int) -> Font | None:
    """Pillow's own letters, or those of a font of the system; None where it is not there."""
    try:
        return ImageFont.load_default(height) if name is None else ImageFont.truetype(name, height)
    except OSError:
        return None


def font_for(words: Iterable[str]) -> str | None:
    """The first font that can draw all of the words: None is Pillow's own, which is taken where none can."""
    letters = set("".join(words))
    return next((name for name in (None, *FONTS) if not _undrawn(name, letters)), None)


def drawable(word: str, name: str | None) -> bool:
    """Whether a font has every letter of the word."""
    return not _undrawn(name, set(word))


def _undrawn(name: str | None, letters: set[str]) -> set[str]:
    """The letters that a font has not: it draws them all as the one that no font has."""
    font = _font(name, TEXT)
    if font is None:
        return {*letters, ""}  # "" so that it never does, whatever the words
    if not isinstance(font, ImageFont.FreeTypeFont):  # a Pillow without FreeType
        return {letter for letter in letters if not letter.isascii()}
    nothing = font.getmask("\uffff")
    return {
        letter
        for letter in letters
        if (mask := font.getmask(letter)).size == nothing.size and bytes(mask) == bytes(nothing)
    }


def text(
    words: str, font: str | None = None, height: int = TEXT, colour: str = INK, width: int | None = None
) -> Image.Image:
    """One line. What is wider than `width` is cut, with dots at its end."""
    letters = _font(font, height)
    assert letters is not None
    fitting = words
    while width is not None and len(fitting) > 1 and letters.getbbox(fitting)[2] > width:
        fitting = fitting.removesuffix("...")[:-1] + "..."
    image = Image.new("RGB", (width or max(1, round(letters.getbbox(fitting)[2])), round(height * 1.4)), PAPER)
    ImageDraw.Draw(image).text((0, 0), fitting, fill=colour, font=letters)
    return image


# --- numbers ----------------------------------------------------------------------------------------------------------


def heat(values: Array) -> Array:
    """A map (H, W) -> uint8 (H, W, 3): dark where it is least, bright where it is most; dark where all is alike."""
    low, high = values.min(), values.max()
    share = (values - low) / (high - low or 1)
    places = np.linspace(0, 1, len(HEAT))
    channels = [np.interp(share, places, [colour[i] for colour in HEAT]) for i in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def signed(values: Array, largest: float) -> Array:
    """-largest to largest -> uint8 0 to 255: 0 is the grey in the middle."""
    return np.rint(127.5 + 127.5 * values / (largest or 1)).astype(np.uint8)


def square(pixels: Array, side: int) -> Image.Image:
    """uint8 (H, W), (H, W, 1) or (H, W, 3) in about `side` pixels: enlarged or averaged by a whole number."""
    image = Image.fromarray(pixels.squeeze(-1) if pixels.ndim == 3 and pixels.shape[-1] == 1 else pixels).convert("RGB")
    longest = max(image.size)
    if longest > side:
        return image.reduce(-(-longest // side))
    zoom = side // longest
    return image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)


# --- laying out -------------------------------------------------------------------------------------------------------


def column(parts: Sequence[Image.Image], gap: int = 0) -> Image.Image:
    """One under the other, each at the left."""
    size = max(part.width for part in parts), sum(part.height for part in parts) + gap * (len(parts) - 1)
    whole, top = Image.new("RGB", size, PAPER), 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height + gap
    return whole


def row(parts: Sequence[Image.Image], gap: int = 0) -> Image.Image:
    """One beside the other, each at the top."""
    size = sum(part.width for part in parts) + gap * (len(parts) - 1), max(part.height for part in parts)
    whole, left = Image.new("RGB", size, PAPER), 0
    for part in parts:
        whole.paste(part, (left, 0))
        left += part.width + gap
    return whole


def grid(tiles: Sequence[Image.Image], columns: int, gap: int) -> Image.Image:
    """Rows of so many tiles of one size."""
    return column([row(tiles[i : i + columns], gap) for i in range(0, len(tiles), columns)], gap)


def framed(image: Image.Image) -> Image.Image:
    """With a margin around it."""
    whole = Image.new("RGB", (image.width + 2 * MARGIN, image.height + 2 * MARGIN), PAPER)
    whole.paste(image, (MARGIN, MARGIN))
    return whole
