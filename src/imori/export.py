"""A model as a file that needs imori no more: photos in, probabilities out, wherever ONNX runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from imori import frameworks
from imori import tree as t
from imori.data import Preprocessing
from imori.data.photos import MODES, check_channels
from imori.errors import ConversionError, WeightsError
from imori.train.run import preprocessing_of
from imori.weights import Card, check, restrict
from imori.weights.ensemble import metadata_of
from imori.weights.file import network_of, path_of, written
from imori.weights.names import Weights

DECODE = "decode"
"""In the metadata of an ONNX file: how its user has Pillow decode a photo as imori does."""


def export_onnx(path: str | Path, weights: Weights, card: Card, preprocessing: bool = True) -> None:
    """Writes a model as ONNX, in float32 and without auxiliary heads. An existing file is replaced.

    With `preprocessing` the input is `photos`, uint8 (N, H, W, 3), red first, upright and of any size, and the output
    `probabilities` (N, classes): what the card says of preprocessing is done inside. Without it the input is `images`,
    float32 (N, C, H, W), already preprocessed, and the output `logits` (N, classes). N is free, and H and W of images
    are where no layer is bound to them. The metadata hold what a model.safetensors says of itself, and of a file that
    takes photos how imori decodes them, in `decode`: the mode and (width, height) for `PIL.Image.Image.draft`, as JSON.

    ConversionError for a name that does not end in .onnx, or for a folder that is not there; WeightsError if weights,
    classes and tree are not of one network, if the card has no preprocessing, or for more than 2 GB; RunError where the
    file cannot be written; FrameworkMissing names the extra.
    """
    path = _file(path)
    model = onnx_model(weights, card, path, preprocessing)
    from imori.frameworks.onnx.saving import write

    metadata = replace(card, tree=t.without_heads(card.tree)).metadata()
    with written(path) as beside:
        write(model, beside, metadata | (_decoding([card], path) if preprocessing else {}))


def export_members(path: str | Path, members: Sequence[tuple[Weights, Card]]) -> None:
    """Writes an ensemble as ONNX: `photos` to `probabilities`, which are the mean of what each member's file gives.

    The members' classes are the same; those of the first set the order. Errors as `export_onnx`.
    """
    path = _file(path)
    models = [onnx_model(weights, card, path, preprocessing=True) for weights, card in members]
    from imori.frameworks.onnx.model import averaged
    from imori.frameworks.onnx.saving import write

    cards = [replace(card, tree=t.without_heads(card.tree)) for _, card in members]
    orders = [[card.classes.index(name) for name in cards[0].classes] for card in cards]
    with written(path) as beside:
        write(averaged(models, orders), beside, metadata_of(cards) | _decoding(cards, path))


def _decoding(cards: Sequence[Card], path: Path) -> dict[str, str]:
    """What a JPEG is decoded as, for the metadata: grey where no member sees colours, and no smaller than any needs."""
    known = [_preprocessing(card, path) for card in cards]
    height, width = (max(sides) for sides in zip(*(how.least for how in known), strict=True))
    mode = MODES[max(how.channels for how in known)]
    return {DECODE: json.dumps([mode, [width, height]])}


def _file(path: str | Path) -> Path:
    """ConversionError for a name that does not end in .onnx, or where no folder is there."""
    file = path_of("path", path)
    if file.suffix != ".onnx":
        raise ConversionError(f"{file} is no file for onnx, which takes .onnx; name it so")
    check_folder(file)
    return file


def check_folder(file: Path) -> None:
    """ConversionError where there is no folder to write the file to."""
    if not file.parent.is_dir():
        raise ConversionError(f"{file.parent} is no folder; make it first, or choose another place")


def onnx_model(weights: Weights, card: Card, path: Path, preprocessing: bool) -> Any:
    """The ModelProto that `export_onnx` writes, but for the metadata; errors name `path`."""
    frameworks.get("onnx")  # before it is imported
    from imori.frameworks.onnx.graph import Graph
    from imori.frameworks.onnx.model import from_images, from_photos

    check(weights, network_of(card, str(path)), "the weights to export")
    tree = t.without_heads(card.tree)
    root, weights = network_of(replace(card, tree=tree), str(path)), restrict(weights, tree)
    if preprocessing:
        return from_photos(Graph(), root, weights, _preprocessing(card, path))
    return from_images(Graph(), root, weights)


def _preprocessing(card: Card, path: Path) -> Preprocessing:
    """The card's. WeightsError where it has none, DataError for channels that photos have not."""
    if not card.preprocessing:
        raise WeightsError(f"{path}: nothing is known of this model's preprocessing; leave it out: preprocessing=False")
    how = preprocessing_of(card, path)
    check_channels(how.channels)
    return how
