"""`imori explain`: pictures of what a trained network has learned, and of what it gets wrong."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from imori.cli import trained
from imori.cli.output import counted, percent, warn, write, write_table
from imori.cli.parsing import Parser
from imori.errors import ImoriError, RunError

if TYPE_CHECKING:
    from PIL.Image import Image

    from imori.classifier import Classifier, Predictor

LISTED = 10


def declare(parser: Parser, command: str) -> None:
    """The flags of `explain`."""
    parser.describe(
        "RUN --filters --features IMAGE --mistakes [flags]",
        "Draws what a trained network has learned, into PNG files: the filters of its first layer before and after"
        " training, what each stage responds to in a photo, and the test photos that it gets wrong.",
        "imori explain runs/latest --filters --mistakes",
        "imori explain runs/latest --features holiday.jpg --out pictures",
        "imori explain runs/latest --mistakes --data photos_test/",
        "imori explain runs/digits --features digits/test/9",
    )
    trained.declare(parser)
    parser.add_argument("--filters", action="store_true", help="filters.png: the first layer before and after training")
    parser.add_argument(
        "--features",
        metavar="IMAGE",
        help="features-IMAGE.png: what each stage responds to in a photo, or in a test image of the run",
    )
    parser.add_argument("--mistakes", action="store_true", help="mistakes.png: what was taken for another class")
    parser.add_argument(
        "--data", metavar="DATA", help="of --mistakes: labelled photos (default: the test part that the run held back)"
    )
    parser.add_argument(
        "--out", "--output", metavar="FOLDER", help="where to (default: explain, beside the model's file)"
    )


def run(arguments: argparse.Namespace, command: str) -> int:
    """Runs `explain`."""
    names = {
        "filters": "filters.png" if arguments.filters else None,
        "features": f"features-{Path(arguments.features).stem}.png" if arguments.features else None,
        "mistakes": "mistakes.png" if arguments.mistakes else None,
    }
    if not any(names.values()):
        raise ImoriError("nothing to look at was named; give one or more of --filters, --features IMAGE, --mistakes")
    if arguments.data is not None and not arguments.mistakes:
        raise ImoriError("--data names the photos of --mistakes; give both, or neither")
    from imori.classifier import located

    folder = Path(arguments.out) if arguments.out else located(arguments.model)[0].parent / "explain"
    files = {what: folder / name for what, name in names.items() if name}
    for file in files.values():
        if file.exists():
            raise RunError(f"{file} is there already, and would be overwritten; choose another --out")
    model = trained.load(arguments)
    if arguments.features or arguments.mistakes:
        _warn_of_letters(model)
    for what, file in files.items():
        image = _drawn(what, model, arguments)
        if image is not None:
            _save(image, file)
            write(f"{what:9} {file}")
    return 0


def _drawn(what: str, model: Predictor, arguments: argparse.Namespace) -> Image | None:
    from imori import explain

    if what == "filters":
        return explain.filters(_one(model, arguments))
    if what == "features":
        return explain.features(_one(model, arguments), arguments.features)
    images = model.test_images(arguments.data, arguments.strict)
    trained.warn_of_photos(images.skipped, model.seen(images), len(images))
    found = explain.mistakes(model, images)
    if not found:
        write(f"mistakes  none among {counted(len(images), 'image')}")
        return None
    rows = [(one.name, one.truth, one.answer, percent(one.probability)) for one in found[:LISTED]]
    write_table(("photo", "true class", "answer", "probability"), rows, numbers=("probability",))
    return explain.draw_mistakes(model, images, found)


def _one(model: Predictor, arguments: argparse.Namespace) -> Classifier:
    from imori.classifier import Classifier

    if not isinstance(model, Classifier):
        raise RunError(
            f"{arguments.model} is an ensemble, and --filters and --features look into one network; name the run of one"
            " member"
        )
    return model


def _warn_of_letters(model: Predictor) -> None:
    """Says which classes cannot be called by their names in a picture."""
    from imori.explain import labels_of

    unnamed = {name: label for name, label in labels_of(model.classes)[1].items() if name != label}
    if unnamed:
        said = ", ".join(f"{label} is {name}" for name, label in unnamed.items())
        warn(f"note: no font on this machine has all letters of the classes' names: in the pictures {said}")


def _save(image: Image, file: Path) -> None:
    """Writes the picture, whole or not at all."""
    from imori.weights.file import written

    with written(file) as beside:
        image.save(beside, "PNG", optimize=True)
