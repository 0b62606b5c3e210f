"""`imori predict`: what is in these photos."""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imori.cli import trained
from imori.cli.output import counted, percent, warn, write_json, write_table
from imori.cli.parsing import Parser, whole
from imori.errors import DataError

if TYPE_CHECKING:
    from imori.classifier import Prediction

FORMATS = ("table", "csv", "json")
SAVED = FORMATS[1:]


def declare(parser: Parser, command: str) -> None:
    """The flags of `predict`."""
    parser.describe(
        "RUN IMAGES... [flags]",
        "Says what is in photos: the likeliest classes, with their probabilities. A photo that cannot be read is named"
        " and counted, and does not stop the others.",
        "imori predict runs/latest holiday.jpg",
        "imori predict runs/latest photos/ 'more/*.png' --top 3",
        "imori predict runs/latest photos/ --output answers.csv",
        "imori predict resnet50 --weights torchvision photo.jpg",
    )
    trained.declare(parser)
    parser.add_argument("images", nargs="+", metavar="IMAGES", help="photos, folders of photos, or patterns as '*.jpg'")
    parser.add_argument("--top", type=whole, default=3, metavar="N", help="classes named for each photo (default: 3)")
    parser.add_argument(
        "--format", choices=FORMATS, help="table, csv or json (default: by the extension of --output, else table)"
    )
    parser.add_argument(
        "--output", metavar="FILE", help="write there, not to the screen: a .csv or .json, or any name with --format"
    )


def run(arguments: argparse.Namespace, command: str) -> int:
    """Runs `predict`. DataError where not one photo could be read."""
    from imori.data import find_images

    if arguments.top < 1:
        raise DataError(f"--top is {arguments.top}; it must be a whole number from 1")
    form = _format(arguments.format, arguments.output)
    model = trained.load(arguments)
    photos = find_images(arguments.images)
    answers = list(_watched(model.predictions(photos, arguments.top, arguments.strict), len(photos)))
    bad = [answer.error for answer in answers if answer.error is not None]
    for reason in bad:
        warn(reason)
    _write(answers, form, min(arguments.top, len(model.classes)), arguments.output)
    if len(bad) == len(answers):
        raise DataError(f"{counted(len(bad), 'photo')} given, and none could be read; give some that a viewer opens")
    if bad:
        warn(f"{len(bad)} of {counted(len(answers), 'photo')} could not be read")
    return 0


def _watched(answers: Iterator[Prediction], total: int) -> Iterable[Prediction]:
    """The answers; while they come, a bar on standard error where that is a terminal."""
    if not sys.stderr.isatty():
        return answers
    from rich.console import Console
    from rich.progress import track

    return track(answers, "looking", total, console=Console(stderr=True), transient=True)


def _format(asked: str | None, output: str | None) -> str:
    """The form of the answers: as asked, or by the file's extension. DataError where a file could not be so written."""
    if output is None:
        return asked or "table"
    form = asked or Path(output).suffix.lower().removeprefix(".")
    if asked == "table":
        raise DataError(f"--format table is for the screen; write {output} as {' or '.join(SAVED)}")
    if form not in SAVED:
        raise DataError(
            f"--output {output} does not end in .{' or .'.join(SAVED)}; name it so, or choose by"
            f" --format {' or '.join(SAVED)}"
        )
    return form


def _write(answers: Sequence[Prediction], form: str, top: int, output: str | None) -> None:
    if output is None and form == "json":
        write_json([_data(answer) for answer in answers])
    elif output is None and form == "csv":
        sys.stdout.write(_csv(answers, top))
    elif output is None:
        heads = ("photo", *("class", "probability") * top)
        write_table(heads, (_cells(answer, top) for answer in answers), numbers=("probability",))
    else:
        _save(answers, form, top, Path(output))


def _save(answers: Sequence[Prediction], form: str, top: int, path: Path) -> None:
    """Writes the file, whole or not at all."""
    from imori.weights.file import written

    text = json.dumps([_data(answer) for answer in answers], indent=2, ensure_ascii=False) + "\n"
    with written(path) as beside:
        beside.write_text(text if form == "json" else _csv(answers, top), encoding="utf-8", errors="backslashreplace")


def _data(answer: Prediction) -> dict[str, Any]:
    top = [{"class": name, "probability": probability} for name, probability in answer.top]
    return {"photo": answer.path, "top": top, "error": answer.error}


def _csv(answers: Sequence[Prediction], top: int) -> str:
    """A row a photo, with columns class_1, probability_1, class_2, and so on, and the reason where there are none."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["photo", *(f"{what}_{i}" for i in range(1, top + 1) for what in ("class", "probability")), "error"])
    for answer in answers:
        pairs = [cell for name, probability in answer.top for cell in (name, f"{probability:.6f}")]
        table.writerow([answer.path, *pairs, *[""] * (2 * top - len(pairs)), answer.error or ""])
    return text.getvalue()


def _cells(answer: Prediction, top: int) -> list[str]:
    pairs = [cell for name, probability in answer.top for cell in (name, percent(probability))]
    return [answer.path, *(pairs or ["could not be read", *["-"] * (2 * top - 1)])]
