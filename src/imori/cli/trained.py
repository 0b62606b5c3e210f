"""What `test` and `predict` share: the flags that name a trained model, and loading it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from imori.cli.output import warn
from imori.cli.parsing import Parser

if TYPE_CHECKING:
    from imori.classifier import Classifier


def declare(parser: Parser) -> None:
    """RUN, --framework and the flags of the machine."""
    parser.add_argument("model", metavar="RUN", help="a run, runs/latest for the newest, or a .safetensors or .onnx")
    parser.add_argument("--framework", metavar="NAME", help="as torch, numpy, onnx (default: the one that trained it)")
    parser.machine()


def load(arguments: argparse.Namespace) -> Classifier:
    """The model that was asked for; where it had to be built in another framework than trained it, that is said."""
    from imori import classifier

    model = classifier.load(arguments.model, arguments.framework, arguments.device)
    if arguments.framework is None and model.card.framework != model.framework_name:
        warn(f"note: {model.card.framework} trained this model and is not installed; {model.framework_name} runs it")
    return model
