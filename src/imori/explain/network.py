"""Looking into a network: the filters of its first layer before and after training, and the maps of its stages."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from imori import frameworks
from imori import tree as t
from imori.classifier import Classifier
from imori.data import open_photo
from imori.errors import ImoriError, TreeError
from imori.explain.drawing import FAINT, TITLE, Array, column, framed, grid, heat, row, signed, square, text
from imori.explain.labels import labels_of
from imori.pretrained.reading import is_published, pretrained
from imori.shapes import Node, flat, resolve
from imori.train.metrics import softmax
from imori.weights import initial_weights, read_model
from imori.weights.names import weight_name

PANEL, FILTER, MAP, PHOTO = 320, 96, 64, 240
"""Pixels of the filters side by side, of one at most, of a map, and of the photo beside them."""
MAPS, COLUMNS = 24, 12
"""Of a stage, so many maps are drawn, the strongest; in rows of so many."""
ANSWERS, GAP = 3, 4


def filters(model: Classifier) -> Image.Image:
    """The filters of the first convolution, as they began and as they are, side by side, and what training changed.

    A run's start is drawn again from its seed, or read from the model that it went on from. TreeError for a network
    without a convolution.
    """
    nodes = flat(resolve(t.without_heads(model.card.tree), model.card.input))
    node = next((node for node in nodes if isinstance(node.layer, (t.Conv, t.Depthwise))), None)
    if node is None:
        raise TreeError(f"{model.file}: this network has no convolution, and so no filters to look at")
    after = model.framework.dump(model.native)[weight_name(node.path, "weight")]
    before, how = _start(model, node.path)
    weights = {"after training": after}
    if before is not None:
        weights = {how: before, **weights, "the change": after - before}
    largest = max(np.abs(weight).max() for weight in (after, before) if weight is not None)
    scales = {"the change": np.abs(weights["the change"]).max()} if before is not None else {}
    panels = [_panel(weight, title, model, float(scales.get(title, largest))) for title, weight in weights.items()]
    count, kernel = after.shape[0], " x ".join(map(str, after.shape[2:]))
    said = [text(f"{node.path}: {count} filters of {kernel}", height=TITLE)]
    said += [text(how, colour=FAINT)] if before is None else []
    return framed(column([*said, row(panels, 32)], 12))


def _start(model: Classifier, path: str) -> tuple[Array | None, str]:
    """The weight of the layer before training, and what it is in words; or why it is not known."""
    name = weight_name(path, "weight")
    if model.run is None or not model.run.recipe_file.exists():
        return None, "how they began is not known: a model file alone does not say from which seed"
    began = model.run.began_from
    if began is None:
        begun = initial_weights(t.cut(model.card.tree, path), model.card.input, model.run.recipe.seed)
        return begun[name], "before training"
    recipe = model.run.recipe
    try:
        if is_published(began):
            held = pretrained(str(recipe.model), began, variant=recipe.variant, width=recipe.width).weights
        else:
            held, _ = read_model(began)
        return held[name], "before training, as in the model it went on from"
    except (ImoriError, KeyError):
        return None, f"how they began is not known: the model that training went on from is gone from {began}"


def _panel(weight: Array, title: str, model: Classifier, largest: float) -> Image.Image:
    """Filters (out, in, height, width) on a scale up to `largest`, in colours where they see red, green and blue."""
    pixels = signed(weight, largest)
    if weight.shape[1] == 3:
        order = slice(None, None, -1) if model.preprocessing.order == "bgr" else slice(None)
        tiles = list(pixels[:, order].transpose(0, 2, 3, 1))
        scale = f"grey is 0, full colour ±{largest:.2g}"
    else:
        tiles = list(pixels.reshape(-1, *weight.shape[2:]))
        scale = f"white is +{largest:.2g}, grey 0, black -{largest:.2g}"
    columns = math.ceil(math.sqrt(len(tiles)))
    side = max(max(weight.shape[2:]), min(FILTER, PANEL // columns - GAP))
    drawn = grid([square(tile, side) for tile in tiles], columns, GAP)
    return column([text(title), drawn, text(scale, colour=FAINT)], 8)


def features(model: Classifier, path: str | Path) -> Image.Image:
    """What each stage of the network responds to in a photo: the maps at its end that vary most.

    A stage is what computes maps of one height and width. The photo may be called as the run's test part calls it, as
    "mnist/test/8". DataError for one that cannot be read.
    """
    how, photo = model.preprocessing, _photo(model, path)
    images = how(photo)[np.newaxis]
    stages = [node for node in _stages(resolve(t.without_heads(model.card.tree), model.card.input)) if node.path]
    if not stages:
        raise TreeError(f"{model.file}: this network has no maps, only numbers, and so no features to look at")
    maps = frameworks.outputs(model.native, images, [node.path for node in stages])
    font, labels = labels_of(model.classes)
    shares = softmax(model.answers([images], [str(path)])[0])[0]
    said = [
        text(f"{100 * shares[i]:.1f} %  {labels[model.classes[i]]}", font, width=PHOTO)
        for i in np.argsort(-shares, kind="stable")[:ANSWERS]
    ]
    size = text(f"{how.size[0]} x {how.size[1]}, as the network sees it", colour=FAINT)
    seen = column([square(how.pixels(photo), PHOTO), size, *said], 6)
    legend = text(
        "each map from its least value (dark) to its largest (bright), those that vary most first", colour=FAINT
    )
    return framed(row([seen, column([legend, *(_responses(node, maps[node.path][0]) for node in stages)], 14)], 32))


def _photo(model: Classifier, path: str | Path) -> Image.Image:
    how, name = model.preprocessing, str(path)
    if model.run is None or Path(path).exists() or name not in (tested for tested, _ in model.run.part("test")):
        return open_photo(path, how.channels, how.least)
    images = model.test_images()
    return images.open(images.names.index(name), how.least)


def _stages(root: Node) -> Iterator[Node]:
    """The last node at each height and width of the maps, in the order in which they run."""
    sized = (node for node in _along(root) if len(node.output) == 3 and math.prod(node.output[1:]) > 1)
    for _, together in itertools.groupby(sized, lambda node: node.output[1:]):
        yield list(together)[-1]


def _along(node: Node) -> Iterator[Node]:
    """The nodes of a chain, and of the chains in it, each chain after its own; what branches is one node."""
    if isinstance(node.layer, t.Chain):
        for child in node.children:
            yield from _along(child)
    yield node


def _responses(node: Node, maps: Array) -> Image.Image:
    """The maps (C, H, W) of a stage, the one that varies most first, each on a scale of its own."""
    order = np.argsort(-maps.std(axis=(1, 2)), kind="stable")[:MAPS]
    few = f"{len(order)} of " if len(order) < len(maps) else ""
    title = text(f"{node.path}: {few}{len(maps)} maps of {maps.shape[1]} x {maps.shape[2]}")
    return column([title, grid([square(heat(maps[i]), MAP) for i in order], COLUMNS, GAP)], 6)
