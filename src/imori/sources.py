"""A model as someone has it: a run, a model file of ours, or weights in a framework's or a publisher's file."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import SupportsIndex

from imori import catalogue
from imori import tree as t
from imori.classifier import located
from imori.errors import ConversionError, ImoriWarning, WeightsError
from imori.pretrained.reading import is_published, pretrained
from imori.shapes import resolve
from imori.train.run import Run, preprocessing_of
from imori.weights import Card, read_weights, restrict
from imori.weights.file import is_text
from imori.weights.names import Weights
from imori.weights.native import ENDS, native_card, no_weights, read_native
from imori.weights.reading import check_source

OF_A_PUBLISHER = "If the file is of torchvision, timm or keras, say so, as --source keras"


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
    check_source(source)
    if (path / "saved_model.pb").exists():
        raise ConversionError(f"{path} is a SavedModel, which is a program; name the run or file that it was made from")
    theirs = None if source == "imori" else source
    if model is not None and classes is None and channels in (None, 3) and is_published(path):
        made = pretrained(model, path, source=theirs, size=size, note=_note)
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
    if not file.name.lower().endswith((*ENDS, ".h5")):
        raise no_weights(file)
    if model is None or classes is None:
        raise ConversionError(
            f"{file} holds weights and does not say of what: give the model and its classes, as --model resnet18"
            " --classes 10; of a published file the model alone"
        )
    card = card_of(model, classes, channels, size, None if "@" in model else theirs)
    root = resolve(card.tree, card.input)
    if theirs:
        return Source(card, read_weights(file, card.tree, source, card.input), file)
    try:
        return Source(card, read_native(file, root), file)
    except WeightsError as error:
        if not is_published(file):
            raise
        raise WeightsError(f"{error}. {OF_A_PUBLISHER}") from error


def _note(text: str) -> None:
    warnings.warn(text, ImoriWarning, stacklevel=2)


def card_of(
    model: str,
    classes: int | Sequence[str],
    channels: int | None,
    size: int | tuple[int, int] | None,
    variant: str | None = None,
) -> Card:
    """What a network of the catalogue is, without its auxiliary heads, for these classes and images."""
    names = _names(classes)
    wide = catalogue.whole("channels", 3 if channels is None else channels)
    side = catalogue.size_of(model.partition("@")[0]) if size is None else size
    tree = t.without_heads(catalogue.model(model, len(names), wide, variant))
    return Card(tree, (wide, *(side if isinstance(side, tuple) else (side, side))), names, {}, model=model)


def _names(classes: object) -> tuple[str, ...]:
    """Of the classes; "0", "1" and so on where only their number is given."""
    if isinstance(classes, SupportsIndex):
        return tuple(map(str, range(catalogue.whole("classes", classes))))
    names = tuple(classes) if isinstance(classes, Iterable) and not isinstance(classes, str) else (None,)
    if not all(isinstance(name, str) for name in names):
        raise ConversionError(f"classes is {classes!r:.80}; it must be their number, or a list of their names")
    twice = next((name for name, count in Counter(names).items() if count > 1), None)
    if twice is not None:
        raise ConversionError(f"{twice!r} names two of the classes; each must have its own name")
    half = next((name for name in names if not is_text(name)), None)
    if half is not None:
        raise ConversionError(f"{half!r:.80} holds half of a character, which is no text; give the class another name")
    return names
