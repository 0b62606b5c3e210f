"""The photos that a network takes for another class, the surest mistake first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from imori.classifier import Predictor
from imori.data import Images
from imori.explain.drawing import FAINT, RED, TITLE, column, framed, grid, square, text
from imori.explain.labels import labels_of
from imori.train.metrics import averaged, softmax

TILE, COLUMNS, MOST = 128, 8, 64
"""Pixels of a photo, and how many are drawn, in rows of so many."""


@dataclass(frozen=True)
class Mistake:
    """A photo that was taken for another class than its own."""

    index: int
    """Of the photo in the set."""
    name: str
    truth: str
    answer: str
    probability: float
    """Of the answer."""
    of_truth: float
    """The probability that the true class was given."""


def mistakes(model: Predictor, images: Images) -> list[Mistake]:
    """Every labelled image whose likeliest class is not its own, the surest answer first."""
    found = []
    for logits, batch in model.answered(images):
        shares = softmax(averaged(logits))
        for share, label, index, weight in zip(shares, batch.labels, batch.indices, batch.weights, strict=True):
            answer = int(share.argmax())
            if weight and answer != label:
                truth, taken_for = model.classes[label], model.classes[answer]
                mistake = Mistake(
                    int(index), images.names[index], truth, taken_for, float(share[answer]), float(share[label])
                )
                found.append(mistake)
    return sorted(found, key=lambda mistake: -mistake.probability)


def draw_mistakes(model: Predictor, images: Images, found: Sequence[Mistake]) -> Image.Image:
    """The photos as the network sees them, or the first of several, under each the answer and the truth with their
    probabilities.
    """
    how, shown = model.networks()[0].preprocessing, found[:MOST]
    font, labels = labels_of(model.classes)
    tiles = []
    for mistake in shown:
        photo = square(how.pixels(images.open(mistake.index, how.least)), TILE)
        answer = text(f"{100 * mistake.probability:.1f} %  {labels[mistake.answer]}", font, colour=RED, width=TILE)
        truth = text(f"{100 * mistake.of_truth:.1f} %  {labels[mistake.truth]}", font, width=TILE)
        tiles.append(column([photo, answer, truth], 3))
    few = f"the {len(shown)} surest of " if len(shown) < len(found) else ""
    title = text(f"{few}{len(found):,} mistakes among {len(images):,} images", height=TITLE)
    legend = text("under each: the answer with its probability, in red, then the true class with its own", colour=FAINT)
    return framed(column([title, legend, grid(tiles, COLUMNS, 14)], 10))
