"""`imori train`: flags for every choice of a recipe, and what is said of the run at its end."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from imori.cli.parsing import DEVICES, Parser, class_weights, folds, number, size, whole

if TYPE_CHECKING:
    from imori.train import Run

OPTIMIZERS = ("sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw")
FRAMEWORKS = ("torch", "keras", "tensorflow", "flax", "chainer", "numpy")
"""That train; written here too, for the help is there at once."""
PHASES = ("both", "head", "tune", "none")
HEADS = ("linear", "mlp")
DUPLICATES = ("together", "apart")
SCHEDULES = ("constant", "step", "cosine", "onecycle")


def declare(parser: Parser, command: str) -> None:
    """The flags of `train`. Their names are those of the recipe's fields; what is not given is None."""
    parser.describe(
        "DATA [flags]",
        "Trains an image classifier and leaves a run directory: recipe.json (every choice), split.csv (which photo"
        " was used for what), metrics.csv (a row an epoch), model.safetensors (the best weights by validation, with"
        " all that is needed to use them) and last.safetensors (what --resume goes on from).",
        "imori train photos/ --model resnet18 --epochs 30 --out runs/first",
        "imori train photos/ --model resnet18 --weights torchvision",
        "imori train photos/ --model mobilenet_v2 --weights keras --phases head --folds 5",
        "imori train photos/ --weights runs/first --lr 0.0001",
        "imori train photos/ --recipe runs/first/recipe.json --seed 1",
        "imori train digits --model lenet --framework numpy",
        "imori train mnist/ --model resnet_mnist_plain --iterations 2000",
        "imori train photos/ --model my_net.py:net --size 64",
        "imori train --resume runs/first",
    )
    parser.add_argument(
        "data",
        nargs="?",
        metavar="DATA",
        help="a folder with a folder of photos for each class (under train/, val/ and test/, or not), a .csv or .jsonl"
        " list of photos and classes, a folder with MNIST's four files, or the word digits",
    )
    _network(parser)
    _length(parser)
    _phases(parser)
    _rule(parser)
    _augmentation(parser)
    _files(parser)
    _machine(parser)


def _network(parser: Parser) -> None:
    add = parser.add_argument_group("the network").add_argument
    add("--model", metavar="NAME", help="imori models lists them; or my_net.py:function (default: resnet18)")
    add("--variant", metavar="NAME", help="a published form of it, as paper (default: imori's own)")
    add("--width", type=number, metavar="X", help="multiplies the filters of mobilenet_v1 and mobilenet_v2")
    add("--framework", metavar="NAME", help=f"{', '.join(FRAMEWORKS)} (default: the first that is installed)")
    add("--engine", metavar="NAME", help="of numpy: fast, or plain, which is written to be read (default: fast)")
    add(
        "--weights",
        metavar="FILE|NAME",
        help="start from a run, a model.safetensors or a .onnx, a file of torchvision, timm or Keras, or one of these"
        " names, not from nothing",
    )
    add("--size", type=size, metavar="N|HxW", help="the input's pixels (default: the paper's)")
    add("--channels", type=whole, metavar="N", help="1 for grey, 3 for colour (default: the photos' own)")
    add(
        "--resize",
        choices=("crop", "stretch"),
        help="the middle of each photo, or all of it out of proportion (default: crop for colour photos)",
    )


def _length(parser: Parser) -> None:
    add = parser.add_argument_group("how long, and on which photos").add_argument
    add("--epochs", type=whole, metavar="N", help="passes over the training photos (default: 20; 5 of fine-tuning)")
    add("--iterations", type=whole, metavar="N", help="steps in all, in place of --epochs")
    add("--patience", type=whole, metavar="N", help="stop after N epochs without a better validation")
    add("--val", type=number, metavar="SHARE", help="held back to choose the best epoch (default: 0.1)")
    add("--test", type=number, metavar="SHARE", help="of an unsplit folder, held back for the test (default: 0.1)")


def _phases(parser: Parser) -> None:
    add = parser.add_argument_group("from --weights: a head on the features of the rest, then fine-tuning").add_argument
    add("--phases", choices=PHASES, metavar="NAME", help="both, head, tune, or none: train everything as from nothing")
    add("--head", choices=HEADS, metavar="NAME", help="linear, or mlp, with two hidden layers (default: linear)")
    add("--head-epochs", type=whole, metavar="N", help="passes over the features (default: 15, more of few photos)")
    add("--head-lr", type=number, metavar="RATE", help="the head's highest learning rate (default: 0.001)")
    add("--feature-passes", type=whole, metavar="N", help="features of N augmented photos each, too (default: 0)")
    add("--unfreeze-at", metavar="PATH", help="fine-tuning trains from there on, or all (default: the last stage)")
    add("--freeze", metavar="WHAT", help="norms, none, or paths as norms,conv1* that stay (default: norms)")
    add("--stage-rate", type=number, metavar="X", help="multiplies the rate at each stage down (default: 0.5)")
    add = parser.add_argument_group("what to expect of new photos").add_argument
    add("--folds", type=folds, metavar="N", help="try the training in N folds first, or loo: leave each photo out once")
    add("--repeats", type=whole, metavar="N", help="so many times, in other folds (default: 1)")
    add(
        "--duplicates",
        choices=DUPLICATES,
        metavar="WHERE",
        help="near copies in one fold, or apart (default: together)",
    )


def _rule(parser: Parser) -> None:
    add = parser.add_argument_group("the training rule").add_argument
    add("-b", "--batch-size", type=whole, metavar="N", help="photos a step (default: 32)")
    add("--opt", choices=OPTIMIZERS, metavar="NAME", help=f"{', '.join(OPTIMIZERS)} (default: adamw)")
    add("--lr", type=number, metavar="RATE", help="the highest learning rate (default: by optimizer and net)")
    add("--momentum", type=number, metavar="X", help="of sgd, momentum and nesterov (default: 0.9)")
    add("--weight-decay", type=number, metavar="X", help="(default: 0.01 for adamw, 0 for the others)")
    add("--schedule", choices=SCHEDULES, metavar="NAME", help=f"{', '.join(SCHEDULES)} (default: cosine)")
    add("--warmup-epochs", type=number, metavar="N", help="epochs in which the rate rises (default: 0)")
    add("--step-epochs", type=number, metavar="N", help="of --schedule step: epochs between two drops")
    add("--step-factor", type=number, metavar="X", help="of --schedule step: the drop (default: 0.1)")
    add("--label-smoothing", type=number, metavar="SHARE", help="spread over all classes (default: 0)")
    add(
        "--class-weights",
        type=class_weights,
        metavar="WEIGHTS",
        help="none, balanced, or weights such as cat=2,dog=1 (default: none)",
    )
    add("--clip", type=number, metavar="NORM", help="the largest L2 norm of the gradient (default: none)")
    add("--precision", choices=("float32", "float64"), help="(default: float32)")
    add("--seed", type=whole, metavar="N", help="of everything that is random (default: 0)")


def _augmentation(parser: Parser) -> None:
    add = parser.add_argument_group("augmentation: training photos changed at random, anew in every epoch").add_argument
    add("--crop", type=number, metavar="SHARE", help="smallest area kept (default: 0.35 for colour photos)")
    add("--flip", type=number, metavar="CHANCE", help="mirrored (default: 0.5 for colour photos, else 0)")
    add("--shift", type=number, metavar="SHARE", help="moved by up to this share of the size (default: 0)")
    add("--rotate", type=number, metavar="DEGREES", help="turned by up to so much (default: 0)")
    add("--colour", type=number, metavar="X", help="brightness, contrast, saturation (default: 0)")
    add("--erase", type=number, metavar="CHANCE", help="a rectangle is blotted out (default: 0)")


def _files(parser: Parser) -> None:
    add = parser.add_argument_group("files").add_argument
    add("--out", "--output", metavar="RUN", help="the run directory (default: runs/MODEL-DATE)")
    add("--recipe", metavar="FILE", help="choices from a run's recipe.json; flags given here go before it")
    add("--resume", metavar="RUN", help="go on with a run that was stopped, as it was started")
    add("--checkpoint-steps", type=whole, metavar="N", help="steps between two savings for --resume (default: 500)")


def _machine(parser: Parser) -> None:
    add = parser.add_argument_group("this machine").add_argument
    add("--device", default="auto", metavar="NAME", help=DEVICES)
    add("-j", "--workers", type=whole, metavar="N", help="threads that load photos (default: one a core)")
    add("--strict", action="store_true", help="stop at a photo that cannot be read (default: leave it out)")


def run(arguments: argparse.Namespace, command: str) -> int:
    """Runs `train`."""
    from imori.cli.progress import reporting
    from imori.train import train

    given: dict[str, Any] = {name: value for name, value in vars(arguments).items() if value is not None}
    with reporting() as report:
        done = train(**given, report=report)
    _say_how_it_went(done)
    return 0


def _say_how_it_went(done: Run) -> None:
    from imori.cli.output import percent, write

    said = done.metrics
    line = f"best: epoch {said.get('epoch')}"
    if "phase" in said:
        line += " of the head" if said["phase"] == "head" else " of fine-tuning"
    if "val_accuracy" in said:
        line += f", validation {percent(said['val_accuracy'])}"
    write(line)
    if "test_accuracy" in said:
        write(f"test: {percent(said['test_accuracy'])} of {said['test_images']} images that training never saw")
    write(f"saved in {done.path}")
    write(f"next: imori test {done.path} DATA, imori predict {done.path} PHOTOS")
