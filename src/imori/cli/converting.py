"""`imori convert`: a trained model into another framework's own files."""

from __future__ import annotations

import argparse
from pathlib import Path

from imori.cli.parsing import Parser, size, whole
from imori.errors import DataError

FORMS = """\
forms:
  torch        .pth and .safetensors (a state dict), .pt2 (a program that runs without imori)
  keras        .keras (the whole model), .weights.h5
  tensorflow   a folder (a SavedModel)
  flax         .safetensors (the variables of an nnx.Module by path, as conv1.kernel)
  chainer      .npz
  numpy        .npz (canonical names), .safetensors (as a run's model.safetensors)
  onnx         .onnx: photos in, probabilities out (with --no-preprocessing: preprocessed images in, logits out)

"""


DIGITS = 18
"""What is longer is no number of classes: Python itself reads no number of thousands of digits."""


def declare(parser: Parser, command: str) -> None:
    """The flags of `convert`."""
    parser.describe(
        "MODEL --to FRAMEWORK FILE [flags]",
        "Writes a model for another framework, in the file that the framework's own users load. The file is opened"
        " again, and its logits must be those of the model within 1e-4 of the largest, on test images of the run or"
        " on random ones; if they are not, nothing is written. An existing FILE is never overwritten. Class names and"
        " preprocessing go along, except into .pth and .weights.h5, which have no place for them.",
        "imori convert runs/latest --to keras pets.keras",
        "imori convert runs/latest --to onnx pets.onnx",
        "imori convert runs/latest --to torch pets.pth",
        "imori convert pets.keras --to tensorflow pets",
        "imori convert pets.pth --model resnet18 --classes names.txt --to flax pets.safetensors",
        "imori convert resnet50.pth --model resnet50 --to keras resnet50.keras",
        "imori convert torchvision --model resnet50 --to onnx resnet50.onnx",
    )
    parser.epilog = FORMS + (parser.epilog or "")
    parser.add_argument(
        "model_file",
        metavar="MODEL",
        help="a run, runs/latest for the newest, a model.safetensors, or weights: .pth, .safetensors, .keras,"
        " .weights.h5, .npz, .onnx; or torchvision, timm, keras for published ones",
    )
    parser.add_argument("file", metavar="FILE", help="what to write; its end says the form")
    parser.add_argument("--to", required=True, metavar="FRAMEWORK", help="see the forms below")
    parser.add_argument(
        "--no-preprocessing", action="store_true", help="of onnx: leave it out of the graph, and give logits"
    )
    add = parser.add_argument_group("a file that does not say what it is").add_argument
    add("--model", metavar="NAME", help="its network, as resnet18 or resnet50@paper")
    add(
        "--classes",
        metavar="N|FILE",
        help="how many, or a text file with a name a line (of published weights: ImageNet's)",
    )
    add("--channels", type=whole, metavar="N", help="1 for grey, 3 for colour (default: 3)")
    add("--size", type=size, metavar="N|HxW", help="the input's pixels (default: the paper's)")
    add(
        "--source",
        default="imori",
        metavar="NAME",
        help="torchvision, timm or keras, whose file it is (default: as its names say)",
    )


def run(arguments: argparse.Namespace, command: str) -> int:
    """Runs `convert`."""
    from imori.cli.output import write
    from imori.conversion import convert

    done = convert(
        arguments.model_file,
        arguments.to,
        arguments.file,
        model=arguments.model,
        classes=_classes(arguments.classes),
        source=arguments.source,
        channels=arguments.channels,
        size=arguments.size,
        preprocessing=not arguments.no_preprocessing,
    )
    both = f"{done.reference} against {done.framework}"
    write(f"largest difference  {done.difference:.1e} of the largest {done.values}, {both}")
    write(f"on                  {done.images}")
    write(f"written             {done.file}")
    write(f"open it by          {done.opening}")
    return 0


def _classes(asked: str | None) -> int | list[str] | None:
    """A number of classes, or the names in a file. DataError for a file that cannot be read."""
    if asked is None:
        return None
    if asked.isascii() and asked.isdigit() and len(asked) <= DIGITS:
        return int(asked)
    try:
        return [line.strip() for line in Path(asked).read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"--classes {asked:.80} is no number, and cannot be read as a file of names: {error!s:.120}"
        ) from error
