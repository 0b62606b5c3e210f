"""`imori ensemble`: several trained models as one, beside each of them by itself."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from imori.cli import trained
from imori.cli.output import counted, percent, write, write_json, write_table
from imori.cli.parsing import Parser
from imori.errors import RunError

if TYPE_CHECKING:
    from imori.classifier import Ensemble, Score

END = ".safetensors"


def declare(parser: Parser, command: str) -> None:
    """The flags of `ensemble`."""
    parser.describe(
        "RUN RUN... [flags]",
        "Averages the probabilities of several trained models, which may differ in network, framework and input size,"
        " but not in the classes. Each is tested by itself and all together, on the same photos: --data, or the test"
        " part that the runs held back, which must be one and the same. --out keeps them as one model, which imori"
        " predict, test and convert --to onnx take as any other.",
        "imori ensemble runs/a runs/b runs/c --out pets.safetensors",
        "imori ensemble runs/a runs/b --data photos_test/",
        "imori predict pets.safetensors holiday.jpg",
    )
    parser.add_argument("models", nargs="+", metavar="RUN", help=f"two or more, each {trained.RUN}")
    parser.add_argument("--data", metavar="DATA", help="labelled photos, in any form that imori train takes")
    parser.add_argument("--out", "--output", metavar="FILE", help=f"write the ensemble there; its name ends in {END}")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    trained.declare_machine(parser)


def run(arguments: argparse.Namespace, command: str) -> int:
    """Runs `ensemble`."""
    out = None if arguments.out is None else _free(Path(arguments.out))
    from imori.classifier import ensemble

    model = ensemble(arguments.models, arguments.framework, arguments.device)
    if arguments.framework is None:
        trained.warn_of_frameworks(model)
    scores = model.scores(arguments.data, arguments.strict)
    trained.warn_of_photos(scores[-1].skipped, scores[-1].seen, scores[-1].images)
    if arguments.json:
        write_json({"members": [score.to_data() for score in scores[:-1]], "ensemble": scores[-1].to_data()})
    else:
        _write(model, scores)
    if out is not None:
        model.save(out)
        if not arguments.json:
            write(f"saved in {out}\nnext: imori predict {out} PHOTOS")
    return 0


def _free(path: Path) -> Path:
    """RunError where the ensemble cannot go, before anything is computed."""
    if path.suffix != END:
        raise RunError(f"--out {path} does not end in {END}; name it so")
    if path.exists():
        raise RunError(f"{path} is there already, and would be overwritten; choose another --out")
    return path


def _write(model: Ensemble, scores: list[Score]) -> None:
    places = [str(one.run.path if one.run else one.file) for one in model.members]
    names = [f"{place} ({i})" if places.count(place) > 1 else place for i, place in enumerate(places)]
    frameworks = [one.framework_name for one in model.members]
    write_table(
        ("model", "framework", "accuracy", "mistakes", "loss"),
        (
            (name, by, percent(score.accuracy), score.images - int(score.confusion.trace()), f"{score.loss:.4f}")
            for name, by, score in zip((*names, "ensemble"), (*frameworks, ""), scores, strict=True)
        ),
        numbers=("accuracy", "mistakes", "loss"),
    )
    write(f"of {counted(scores[-1].images, 'image')}")
