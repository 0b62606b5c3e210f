"""Trains the small networks on the digits and on MNIST, several seeds each, and prints every test accuracy.

    python benchmarks/accuracy.py digits lenet
    python benchmarks/accuracy.py path/to/mnist lenet resnet_mnist_plain resnet_mnist_bottleneck

The recipes below were chosen on held-back training digits. The test digits are read once, when a run ends, with the
weights that were best on the held-back digits. --seeds 0 1 2 unless given; --framework torch or numpy.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import imori

RECIPES: dict[tuple[str, str], dict[str, Any]] = {
    ("digits", "lenet"): {"epochs": 40, "lr": 0.005, "schedule": "onecycle", "shift": 0.08, "rotate": 10.0},
    ("mnist", "lenet"): {"epochs": 10, "batch_size": 64, "lr": 0.005, "schedule": "onecycle"},
    ("mnist", "resnet_mnist_plain"): {"epochs": 3, "batch_size": 64, "lr": 0.003, "schedule": "onecycle"},
    ("mnist", "resnet_mnist_bottleneck"): {"epochs": 2, "batch_size": 64, "lr": 0.003, "schedule": "onecycle"},
}


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
        accuracies = []
        for seed in arguments.seeds:
            began = time.perf_counter()
            out = arguments.out / f"{name}-{arguments.framework}-{seed}"
            run = imori.train(arguments.data, model=name, framework=arguments.framework, seed=seed, out=out, **recipe)
            said = run.metrics
            accuracies.append(said["test_accuracy"])
            minutes = (time.perf_counter() - began) / 60
            print(
                f"  seed {seed}: test {said['test_accuracy']:.2%} of {said['test_images']}, held back"
                f" {said['val_accuracy']:.2%} (epoch {said['epoch']}), {minutes:.1f} minutes",
                flush=True,
            )
        print(f"  mean of {len(accuracies)}: {statistics.mean(accuracies):.2%}", flush=True)


if __name__ == "__main__":
    main()
