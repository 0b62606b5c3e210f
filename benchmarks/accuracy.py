"""Trains the small networks on the digits and on MNIST, several seeds each, and prints every test accuracy.

    python benchmarks/accuracy.py digits lenet
    python benchmarks/accuracy.py path/to/mnist lenet resnet_mnist_plain resnet_mnist_bottleneck
    python benchmarks/accuracy.py path/to/mnist deep_convnet deep_convnet+augmented --framework numpy

The recipes below were chosen on held-back training digits. The test digits are read once, when a run ends, with the
weights that were best on the held-back digits. The seeds' runs together are an ensemble, which reads them once more.
--seeds 0 1 2 unless given; --framework torch or numpy. A script that was stopped goes on from what is in --out.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import imori
from imori.train import Run

RECIPES: dict[tuple[str, str], dict[str, Any]] = {
    ("digits", "lenet"): {"epochs": 40, "lr": 0.005, "schedule": "onecycle", "shift": 0.08, "rotate": 10.0},
    ("mnist", "lenet"): {"epochs": 10, "batch_size": 64, "lr": 0.005, "schedule": "onecycle"},
    ("mnist", "simple_convnet"): {"epochs": 10, "batch_size": 100, "lr": 0.002, "schedule": "onecycle"},
    ("mnist", "deep_convnet"): {
        "epochs": 20,
        "batch_size": 100,
        "lr": 0.002,
        "schedule": "onecycle",
        "label_smoothing": 0.1,
    },
    ("mnist", "deep_convnet+augmented"): {
        "epochs": 25,
        "batch_size": 100,
        "lr": 0.002,
        "schedule": "onecycle",
        "shift": 0.08,
        "rotate": 10.0,
    },
    ("mnist", "resnet_mnist_plain"): {"epochs": 3, "batch_size": 64, "lr": 0.003, "schedule": "onecycle"},
    ("mnist", "resnet_mnist_bottleneck"): {"epochs": 2, "batch_size": 64, "lr": 0.003, "schedule": "onecycle"},
}


def finished(data: str, out: Path, seed: int, choices: dict[str, Any]) -> Run:
    """The run that is there, gone on with if it was stopped, or a new one."""
    if Run(out).recipe_file.exists():
        return imori.train(resume=out)
    return imori.train(data, out=out, seed=seed, **choices)


def main() -> None:
    """Trains and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("models", nargs="+")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--framework", default="torch")
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "imori-accuracy")
    arguments = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} processors; Python {platform.python_version()},", end=" ")
    print(f"{arguments.framework} {version(arguments.framework)}, imori {imori.__version__}")
    for name in arguments.models:
        recipe = RECIPES[("digits" if arguments.data == "digits" else "mnist", name)]
        print(name, recipe, flush=True)
        choices = {"model": name.partition("+")[0], "framework": arguments.framework, **recipe}
        accuracies, runs = [], []
        for seed in arguments.seeds:
            run = finished(arguments.data, arguments.out / f"{name}-{arguments.framework}-{seed}", seed, choices)
            said = run.metrics
            accuracies.append(said["test_accuracy"])
            runs.append(run.path)
            minutes = sum(float(row["seconds"]) for row in run.history) / 60
            print(
                f"  seed {seed}: test {said['test_accuracy']:.2%} of {said['test_images']}, held back"
                f" {said['val_accuracy']:.2%} (epoch {said['epoch']}), {minutes:.1f} minutes of training",
                flush=True,
            )
        print(f"  mean of {len(accuracies)}: {statistics.mean(accuracies):.2%}", flush=True)
        if len(runs) > 1:
            print(f"  all of them as an ensemble: {imori.ensemble(runs).score().accuracy:.2%}", flush=True)


if __name__ == "__main__":
    main()
