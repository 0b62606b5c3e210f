"""`imori test`: how a trained model does on labelled photos."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from imori.cli import trained
from imori.cli.output import percent, visible, write, write_json, write_table
from imori.cli.parsing import Parser

if TYPE_CHECKING:
    from imori.classifier import Score

TOP5_CLASSES = 6
MATRIX_CLASSES = 20


def declare(parser: Parser, command: str) -> None:
    """The flags of `test`."""
    parser.describe(
        "RUN [DATA] [flags]",
        "Tests a trained model: accuracy, precision and recall of each class, and who was taken for whom. A folder's"
        " test/ is used where it has one, and every photo otherwise; its classes must be the model's. Without DATA,"
        " the test part that the run held back.",
        "imori test runs/latest",
        "imori test runs/latest photos_test/",
        "imori test runs/first/model.safetensors photos_test/ --json",
    )
    trained.declare(parser)
    parser.add_argument("data", nargs="?", metavar="DATA", help="labelled photos, in any form that imori train takes")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(arguments: argparse.Namespace, command: str) -> int:
    """Runs `test`."""
    model = trained.load(arguments)
    score = model.score(arguments.data, strict=arguments.strict)
    trained.warn_of_photos(score.skipped, score.seen, score.images)
    if arguments.json:
        write_json(score.to_data())
    else:
        _write(score, model.framework_name)
    return 0


def _write(score: Score, framework: str) -> None:
    right = int(score.confusion.trace())
    write(f"accuracy  {percent(score.accuracy)}  ({right:,} of {score.images:,} images, with {framework})")
    if len(score.classes) >= TOP5_CLASSES:
        write(f"top-5     {percent(score.top5)}")
    write(f"loss      {score.loss:.4f}\n")
    write_table(
        ("class", "precision", "recall", "images"),
        ((one.name, percent(one.precision), percent(one.recall), one.images) for one in score.per_class),
        numbers=("precision", "recall", "images"),
    )
    write()
    if len(score.classes) <= MATRIX_CLASSES:
        write("confusion matrix: a row for each true class, a column for each answer")
        heads = ("", *(visible(name) for name in score.classes))
        rows = ((name, *counts) for name, counts in zip(score.classes, score.confusion.tolist(), strict=True))
        write_table(heads, rows, numbers=heads[1:])
    else:
        _write_mistakes(score)


def _write_mistakes(score: Score) -> None:
    """The most frequent mistakes, where a matrix would be too wide to read."""
    import numpy as np

    wrong = score.confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:MATRIX_CLASSES]
    pairs = [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, wrong.shape), strict=True) if wrong[i, j]]
    write(f"the {len(pairs)} most frequent mistakes of {int(wrong.sum())} (--json has the whole matrix)")
    if pairs:
        named = ((score.classes[i], score.classes[j], wrong[i, j]) for i, j in pairs)
        write_table(("true class", "answer", "images"), named, numbers=("images",))
