"""What `test` and `predict` share: the flags that name a trained model, and loading it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from imori.cli.output import warn
from imori.cli.parsing import Parser, number, size

if TYPE_CHECKING:
    from imori.classifier import Classifier


def declare(parser: Parser) -> None:
    """RUN, --framework, the flags of published weights, and those of the machine."""
    parser.add_argument(
        "model", metavar="RUN", help="a run, runs/latest for the newest, a .safetensors or .onnx; with --weights a name"
    )
    parser.add_argument("--framework", metavar="NAME", help="as torch, numpy, onnx (default: the one that trained it)")
    parser.machine()
    add = parser.add_argument_group("a network of imori models with published weights").add_argument
    add("--weights", metavar="FILE|NAME", help="a file of torchvision, timm or Keras, or one of these names")
    add("--size", type=size, metavar="N|HxW", help="the input's pixels (default: the publisher's)")
    add("--width", type=number, metavar="X", help="of mobilenet_v1 and mobilenet_v2 (default: 1, or the file's)")


def load(arguments: argparse.Namespace) -> Classifier:
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
    trained_in = model.card.framework
    if arguments.framework is None and trained_in not in ("", model.framework_name):
        warn(f"note: {trained_in} trained this model and is not installed; {model.framework_name} runs it")
    return model
