"""A model as someone has it: a run, a model file of ours, or weights in a framework's or a publisher's file."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from imori import catalogue
from imori import tree as t
from imori.classifier import located
from imori.errors import ConversionError
from imori.pretrained.reading import is_published, pretrained
from imori.shapes import Shape, resolve
from imori.train.run import Run, preprocessing_of
from imori.weights import Card, read_weights, restrict
from imori.weights.names import Weights
from imori.weights.native import native_card, read_native


@dataclass(frozen=True)
class Source:
    """A model as it was given."""

    card: Card
    weights: Weights
    file: Path
    run: Run | None = None


def source_of(
    path: Path,
    model: str | None,
    classes: int | Sequence[str] | None,
    source: str,
    channels: int | None,
    size: int | tuple[int, int] | None,
) -> Source:
    """The model of a path. A file that does not say what it is needs `model` and `classes`; see `imori.convert`.

    A publisher's file without `classes`, or "torchvision", "timm" or "keras" in place of a path, has ImageNet's, and
    its preprocessing.

    ConversionError where something is missing or too much, or for a path that is no model; WeightsError for a file that
    cannot be read or is of another network.
    """
    if (path / "saved_model.pb").exists():
        raise ConversionError(f"{path} is a SavedModel, which is a program; name the run or file that it was made from")
    theirs = None if source == "imori" else source
    if model is not None and classes is None and channels in (None, 3) and is_published(path):
        made = pretrained(model, path, source=theirs, size=size, note=warnings.warn)
        tree = t.without_heads(made.card.tree)
        return Source(replace(made.card, tree=tree), restrict(made.weights, tree), made.file)
    file, run = located(path)
    if not file.is_file():
        raise ConversionError(f"{file} is not there; name a run, or a file of weights")
    settled = {"model": model, "classes": classes, "channels": channels, "size": size, "source": theirs}
    card = native_card(file)
    if card is not None:
        wrong = [name for name, value in settled.items() if value is not None]
        if wrong:
            raise ConversionError(f"{file} says itself what network it is; leave out {', '.join(wrong)}")
        if card.preprocessing:
            preprocessing_of(card, file)
        return Source(card, read_native(file, resolve(card.tree, card.input)), file, run)
    if model is None or classes is None:
        raise ConversionError(
            f"{file} holds weights and does not say of what: give the model and its classes, as --model resnet18"
            " --classes 10; of a published file the model alone"
        )
    names = tuple(map(str, range(classes))) if isinstance(classes, int) else tuple(classes)
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConversionError(f"{twice!r} names two of the classes; each must have its own name")
    tree = t.without_heads(catalogue.model(model, len(names), channels or 3, None if "@" in model else theirs))
    side = size or catalogue.size_of(model.partition("@")[0])
    shape: Shape = (channels or 3, *(side if isinstance(side, tuple) else (side, side)))
    weights = read_weights(file, tree, source, shape) if theirs else read_native(file, resolve(tree, shape))
    return Source(Card(tree, shape, names, {}, model=model), weights, file)
