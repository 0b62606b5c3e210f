"""Does it help? Learning-rate decay, augmentations and ensembles on MNIST, each on paired seeds.

    python benchmarks/raising_accuracy.py path/to/mnist
    python benchmarks/raising_accuracy.py path/to/mnist --models simple_convnet --images 2000 --epochs 10

Each network is trained once with each measure and once without any, from the same seed: the same start, the same images
held back, the same order. The table has the mean accuracy on the 10,000 test images, and the mean of the differences
with its 95 % interval (Student's t). A measure helps where the whole interval is above 0. The measures were fixed
beforehand: nothing is chosen on the test images. What a run came to is kept in --out: a script that was stopped goes on
from there.
"""

from __future__ import annotations

import argparse
import math
import platform
import shutil
import statistics
import struct
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import imori
from imori.data import idx
from imori.train import Run

RECIPES: dict[str, dict[str, Any]] = {
    "simple_convnet": {"batch_size": 32, "lr": 0.001, "schedule": "constant"},
    "deep_convnet": {"batch_size": 32, "lr": 0.001, "schedule": "constant"},
}
ALL = "decay, shift and rotation"
MEASURES: dict[str, dict[str, Any]] = {
    "decay (cosine)": {"schedule": "cosine"},
    "decay (step)": {"schedule": "step"},
    "shift": {"shift": 0.1},
    "rotation": {"rotate": 15.0},
    "crop": {"crop": 0.7},
    "flip": {"flip": 0.5},
    ALL: {"schedule": "cosine", "shift": 0.1, "rotate": 15.0},
}
MEMBERS = 3
OTHERS = 1000
"""Is added to a seed for each further member of its ensemble."""
T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""Of Student's distribution the 97.5 % points, for 1, 2, ... degrees of freedom."""


def first(data: Path, images: int, folder: Path) -> Path:
    """MNIST with the first `images` of its training images, and all that test."""
    folder.mkdir(parents=True, exist_ok=True)
    training = idx.parts(data, 1)["train"]
    for name, values in (("images-idx3", training.pixels[:images]), ("labels-idx1", training.labels[:images])):
        header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
        (folder / f"train-{name}-ubyte").write_bytes(header + values.astype(np.uint8).tobytes())
    for file in data.glob("t10k-*"):
        shutil.copy(file, folder)
    return folder


def trained(data: Path, out: Path, seed: int, **choices: Any) -> Path:
    """A finished run: the one that is there, gone on with if it was stopped, or a new one."""
    run = Run(out)
    if not run.recipe_file.exists():
        imori.train(data, out=out, seed=seed, **choices)
    elif not (run.model_file.exists() and "test_accuracy" in run.metrics):
        imori.train(resume=out)
    return out


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """The mean, and half the width of its 95 % interval."""
    half = T[len(differences) - 2] * statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.mean(differences), half


def compare(data: Path, model: str, seeds: Sequence[int], out: Path, shared: dict[str, Any]) -> None:
    """Trains one network with and without each measure, and prints the table."""
    recipe = {**RECIPES[model], **shared}
    print(f"\n{model} {recipe}\n")
    print("| measure | accuracy | difference in points | it helps |")
    print("| --- | --- | --- | --- |")

    def run(name: str, seed: int, **changes: Any) -> Path:
        return trained(
            data, out / f"{model}-{name.replace(' ', '-')}-{seed}", seed, **{"model": model, **recipe, **changes}
        )

    def accuracies(name: str, **changes: Any) -> list[float]:
        return [100 * Run(run(name, seed, **changes)).metrics["test_accuracy"] for seed in seeds]

    plain = accuracies("none")
    print(f"| none | {statistics.mean(plain):.2f} % | | |", flush=True)
    for name, changes in MEASURES.items():
        say(name, accuracies(name, **changes), plain)
    for name, changes in (("none", {}), (ALL, MEASURES[ALL])):
        members = [[run(name, seed + OTHERS * i, **changes) for i in range(MEMBERS)] for seed in seeds]
        together = [100 * imori.ensemble(each).score().accuracy for each in members]
        say(f"ensemble of {MEMBERS}" + (f", each with {name}" if changes else ""), together, plain)


def say(name: str, found: Sequence[float], plain: Sequence[float]) -> None:
    """A row of the table."""
    mean, half = interval([one - other for one, other in zip(found, plain, strict=True)])
    verdict = "yes" if mean - half > 0 else "no, it harms" if mean + half < 0 else "not shown"
    print(f"| {name} | {statistics.mean(found):.2f} % | {mean:+.2f} ± {half:.2f} | {verdict} |", flush=True)


def main() -> None:
    """Trains and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--models", nargs="+", choices=tuple(RECIPES), default=list(RECIPES))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--images", type=int, help="train on the first so many images alone")
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--framework", default="torch")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "imori-raising-accuracy")
    arguments = parser.parse_args()
    if not 2 <= len(set(arguments.seeds)) == len(arguments.seeds) <= len(T) + 1 or max(arguments.seeds) >= OTHERS:
        parser.error(f"--seeds must be from 2 to {len(T) + 1} different ones below {OTHERS}")
    print(f"{platform.machine()}; Python {platform.python_version()}, {arguments.framework}", end=" ")
    print(f"{version(arguments.framework)}, imori {imori.__version__}; seeds {arguments.seeds}")
    data, out = arguments.data, arguments.out / f"{arguments.images or 'all'}-{arguments.epochs}-{arguments.framework}"
    if arguments.images is not None:
        data = first(data, arguments.images, out / "mnist")
    for model in arguments.models:
        compare(data, model, arguments.seeds, out, {"epochs": arguments.epochs, "framework": arguments.framework})


if __name__ == "__main__":
    main()
