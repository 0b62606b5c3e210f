"""`data.Preprocessing` as a part of the graph: photos of any size in, the network's images out, the same numbers.

ONNX has an antialiased `Resize`, but ONNX Runtime's is neither Pillow's at the edges nor for a part of a photo (see
docs/limits.md). So a photo is multiplied by two matrices, as Pillow does it: along its rows, rounded to grey levels,
then along its columns, rounded again; the other way round where its height shrinks much more than its width, as
`data.preprocessing.resized` has it. The matrices are computed where the graph runs, in float64, by the formulas of
Pillow's Resample.c, their numbers rounded to 22 bits behind the point as there. The resized photo is Pillow's, bit for
bit.
"""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np

from imori.data import Preprocessing
from imori.frameworks.onnx.formula import Formula, Value
from imori.frameworks.onnx.graph import Graph

SUPPORT = {"box": 0.5, "bilinear": 1.0, "bicubic": 2.0, "lanczos": 3.0}
"""How far each filter reaches, in pixels of the smaller of both images."""
BITS = 22
Span: TypeAlias = tuple[Value, Value]
"""Where what is kept of an axis begins and ends, in pixels."""
LUMA = (19595, 38470, 7471)
"""Shares of red, green and blue in a grey value, of 65536: Pillow's whole numbers for ITU-R 601-2."""


def add_preprocessing(graph: Graph, photos: str, how: Preprocessing) -> str:
    """Adds what makes of uint8 photos (N, H, W, 3), red first, float32 images (N, channels, *size)."""
    f = Formula(graph, f"/{photos}/step")
    x = _numbers(f, _resized(f, _in_channels(f, f.given(photos, "uint8"), how.channels), how), how)
    return graph.add("Identity", [x.name], f"/{photos}/images")


def _in_channels(f: Formula, photos: Value, channels: int) -> Value:
    """uint8 (N, H, W, 3) -> uint8 (N, channels, H, W), channels 1 or 3."""
    if channels == 1:  # every sum stays below 2^24, and so is exact
        luma = photos.to("float32") @ f.number(np.array(LUMA)[:, None], "float32")
        photos = ((luma + 2.0**15) * 2.0**-16).floor().to("uint8")
    return photos.transpose(0, 3, 1, 2)


def _numbers(f: Formula, pixels: Value, how: Preprocessing) -> Value:
    """`Preprocessing.normalise`, step by step."""
    if how.order == "bgr":
        pixels = pixels.take([*range(how.channels)][::-1], axis=1)
    x = pixels.to("float32") * how.scale
    if any(how.mean):
        x = x - f.number(np.array(how.mean)[:, None, None], "float32")
    if any(deviation != 1 for deviation in how.std):
        x = x / f.number(np.array(how.std)[:, None, None], "float32")
    return x


# --- resizing --------------------------------------------------------------------------------------------------------


def _resized(f: Formula, photos: Value, how: Preprocessing) -> Value:
    """(N, C, H, W) -> (N, C, *size), whole numbers from 0 to 255."""
    high, wide = f.length(photos, 2), f.length(photos, 3)
    rows, columns = _box(f, high, wide, how)
    if how.interpolation == "nearest":
        at_rows, at_columns = _nearest(f, rows, how.size[0]), _nearest(f, columns, how.size[1])
        return photos.take(at_rows, axis=2).take(at_columns, axis=3)
    across = _shares(f, wide, columns, how.size[1], how.interpolation).transpose(1, 0)
    down = _shares(f, high, rows, how.size[0], how.interpolation)
    x = photos.to("float64")
    higher = high - how.size[0]
    tall = (higher > 0) & (higher > (wide - how.size[1]) * 2)
    return f.either(tall, _columns_first, _rows_first, x, across, down)


def _rows_first(x: Value, across: Value, down: Value) -> Value:
    return _rounded(down @ _rounded(x @ across))


def _columns_first(x: Value, across: Value, down: Value) -> Value:
    return _rounded(_rounded(down @ x) @ across)


def _rounded(x: Value) -> Value:
    return (x + 0.5).floor().at_least(0.0).at_most(255.0)


def _box(f: Formula, high: Value, wide: Value, how: Preprocessing) -> tuple[Span, Span]:
    """`Preprocessing.box`: what is kept of the rows and of the columns, (from, to) in float32 as Pillow takes it."""
    sides = high.to("float64"), wide.to("float64")
    if how.resize == "stretch":
        zero = f.number(0, "float32")
        return (zero, sides[0].to("float32")), (zero, sides[1].to("float32"))
    if how.resize == "torchvision":
        return _between_pixels(how, *sides)
    scale = (sides[0] / how.size[0]).at_most(sides[1] / how.size[1]) * how.share
    spans = []
    for size, side in zip(how.size, sides, strict=True):
        kept = (scale * size).at_most(side)
        start = (side - kept) / 2
        spans.append((start.to("float32"), (start + kept).to("float32")))
    return spans[0], spans[1]


def _between_pixels(how: Preprocessing, high: Value, wide: Value) -> tuple[Span, Span]:
    """As `Preprocessing` has it: of the photo resized to whole pixels, the middle between pixels."""
    height, width = how.whole
    by_width = (wide / width) <= (high / height)
    resized = (
        (high * width / wide).floor().where(by_width, height),
        (wide * height / high).floor().where(by_width.opposite(), width),
    )
    spans = []
    for size, side, pixels in zip(how.size, (high, wide), resized, strict=True):
        start = ((pixels - size) / 2).rounded()
        spans.append(((start * side / pixels).to("float32"), ((start + size) * side / pixels).to("float32")))
    return spans[0], spans[1]


def _shares(f: Formula, n: Value, span: Span, size: int, interpolation: str) -> Value:
    """(size, n): how much each of n pixels counts in each of `size` new ones that lie evenly in the span."""
    start, end = span
    scale = (end - start).to("float64") / size
    stretch = scale.at_least(1.0)
    reach = stretch * SUPPORT[interpolation]
    middle = f.number(np.arange(size)[:, None] + 0.5, "float64") * scale + start.to("float64")
    place = f.places(n)
    first, last = (middle - reach + 0.5).to("int64"), (middle + reach + 0.5).to("int64")
    inside = ((place >= first) & (place < last)).to("float64")
    distance = (place.to("float64") - middle + 0.5) * (f.number(1, "float64") / stretch)
    shares = _filter(interpolation, distance) * inside
    shares = shares / f.step("ReduceSum", shares, f.number([1], "int64"), dtype="float64")
    return (shares * 2.0**BITS + 0.5).floor() * 2.0**-BITS


def _filter(interpolation: str, x: Value) -> Value:
    match interpolation:
        case "box":
            return ((x > -0.5) & (x <= 0.5)).to("float64")
        case "bilinear":
            return (1.0 - x.absolute()).at_least(0.0)
        case "bicubic":
            x, a = x.absolute(), -0.5
            near = (x * (a + 2) - (a + 3)) * x * x + 1.0
            far = (((x - 5.0) * x + 8.0) * x - 4.0) * a
            return near.where(x < 1.0, far.where(x < 2.0, 0.0))
        case _:
            return (_sinc(x) * _sinc(x / 3.0)).where((x >= -3.0) & (x < 3.0), 0.0)


def _sinc(x: Value) -> Value:
    turned = x * math.pi
    return (turned.sin() / turned).where(x.absolute() > 0.0, 1.0)


def _nearest(f: Formula, span: Span, size: int) -> Value:
    """The pixel that each new one is. Pillow adds up the steps between them, and its rounding with it."""
    start, end = span
    step = (end - start).to("float64") / size
    first = f.step("Unsqueeze", start.to("float64") + step * 0.5, f.number([0], "int64"), dtype="float64")
    steps = f.step("Expand", step, f.number([size - 1], "int64"), dtype="float64")
    places = f.step("Concat", first, steps, dtype="float64", axis=0)
    return f.step("CumSum", places, f.number(0, "int64"), dtype="float64").to("int64")
