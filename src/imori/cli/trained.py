"""What the commands that use trained models share: their flags, loading a model, and what is said beside a score."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from imori.cli.output import counted, warn
from imori.cli.parsing import Parser, number, size

if TYPE_CHECKING:
    from imori.classifier import Predictor
    from imori.data import Skipped

RUN = "a run, runs/latest for the newest, or a .safetensors or .onnx"


def declare(parser: Parser) -> None:
    """RUN, --framework, the flags of published weights, and those of the machine."""
    parser.add_argument("model", metavar="RUN", help=f"{RUN}; with --weights a name")
    declare_machine(parser)
    add = parser.add_argument_group("a network of imori models with published weights").add_argument
    add("--weights", metavar="FILE|NAME", help="a file of torchvision, timm or Keras, or one of these names")
    add("--size", type=size, metavar="N|HxW", help="the input's pixels (default: the publisher's)")
    add("--width", type=number, metavar="X", help="of mobilenet_v1 and mobilenet_v2 (default: 1, or the file's)")


def declare_machine(parser: Parser) -> None:
    """--framework and the flags of the machine."""
    parser.add_argument("--framework", metavar="NAME", help="as torch, numpy, onnx (default: the one that trained it)")
    parser.machine()


def load(arguments: argparse.Namespace) -> Predictor:
    """The model that was asked for; where it had to be built in another framework than trained it, that is said."""
    from imori import classifier
    from imori.cli.progress import downloading

    with downloading() as progress:
        model = classifier.load(
            arguments.model,
            arguments.framework,
            arguments.device,
            weights=arguments.weights,
            width=arguments.width,
            size=arguments.size,
            note=lambda text: warn(f"note: {text}"),
            progress=progress,
        )
    if arguments.framework is None:
        warn_of_frameworks(model)
    return model


def warn_of_frameworks(model: Predictor) -> None:
    """Says which networks run in another framework than trained them."""
    for one in model.networks():
        if one.card.framework not in ("", one.framework_name):
            warn(f"note: {one.card.framework} trained this model and is not installed; {one.framework_name} runs it")


def warn_of_photos(skipped: Sequence[Skipped], seen: int, images: int) -> None:
    """Says which photos were left out, and how many of the others the model was trained on."""
    for one in skipped:
        warn(f"left out {one.path}: {one.reason}")
    if skipped:
        warn(f"{counted(len(skipped), 'photo')} could not be read and not scored")
    if seen:
        warn(f"note: the model was trained on {seen} of these {counted(images, 'image')}: use others")
