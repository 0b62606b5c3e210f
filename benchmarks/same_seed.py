"""The same recipe and seed in every framework: how far their losses part, and the accuracies that they end in.

    python benchmarks/same_seed.py path/to/mnist
    python benchmarks/same_seed.py path/to/mnist --frameworks numpy torch keras:jax --models lenet --seeds 0 1 2

First the losses of the first 50 steps in float64, beside NumPy's (or those of the first framework named); then an epoch
in float32 for each seed, and the accuracy on the 10,000 test images. Each training runs in a process of its own. What
it came to is kept in --out: a script that was stopped goes on from there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import imori
from imori.train.report import Silent

STEPS = 50
FRAMEWORKS = ("numpy", "torch", "tensorflow", "keras", "flax", "chainer")
RECIPES: dict[str, dict[str, Any]] = {
    "lenet": {"epochs": 1, "batch_size": 128, "lr": 0.005, "schedule": "onecycle"},
    "resnet_mnist_plain": {"epochs": 1, "batch_size": 128, "lr": 0.003, "schedule": "onecycle"},
}


class EnoughSteps(Exception):
    """The losses that are compared are all there."""


class Losses(Silent):
    """Keeps the loss of every step, and ends the training after the last that is compared."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def step(self, done: int, total: int, images_per_second: float, loss: float) -> None:
        """One loss more."""
        self.losses.append(loss)
        if done == STEPS:
            raise EnoughSteps


def train(data: str, framework: str, model: str, precision: str, seed: int) -> list[float]:
    """In float64 the first losses; in float32 the test accuracy of a whole epoch."""
    report = Losses() if precision == "float64" else Silent()
    with tempfile.TemporaryDirectory() as folder:
        try:
            run = imori.train(
                data, model=model, framework=framework, seed=seed, precision=precision, out=Path(folder, "run"),
                device="cpu", report=report, **RECIPES[model],
            )  # fmt: skip
        except EnoughSteps:
            assert isinstance(report, Losses)
            return report.losses
        return [run.metrics["test_accuracy"]]


def apart(data: str, framework: str, model: str, precision: str, seed: int, out: Path) -> list[float]:
    """`train` in a process of its own, where it has not run before. Keras on another backend is "keras:jax"."""
    name, _, backend = framework.partition(":")
    kept = out / f"{model}-{framework.replace(':', '-')}-{precision}-{seed}.json"
    if not kept.exists():
        command = [sys.executable, __file__, data, "--one", name, model, precision, str(seed)]
        environment = {**os.environ, **({"KERAS_BACKEND": backend} if backend else {})}
        done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        out.mkdir(parents=True, exist_ok=True)
        kept.write_text(done.stdout.splitlines()[-1])
    return list(json.loads(kept.read_text()))


def compare(data: str, model: str, frameworks: list[str], seeds: list[int], out: Path) -> None:
    """Trains, and prints a row for each framework."""
    print(f"{model} {RECIPES[model]}")
    first: list[float] = []
    rows = []
    for framework in frameworks:
        parted = "-"
        if ":" not in framework:  # Keras has float64 on TensorFlow alone
            losses = apart(data, framework, model, "float64", seeds[0], out)
            first = first or losses
            parted = f"{max(abs(one / other - 1) for one, other in zip(losses, first, strict=True)):.1e}"
        accuracies = [apart(data, framework, model, "float32", seed, out)[0] for seed in seeds]
        rows.append(statistics.mean(accuracies))
        each = "  ".join(f"{accuracy:.2%}" for accuracy in accuracies)
        print(f"  {framework:12} losses part by {parted:8} accuracies {each}  mean {rows[-1]:.2%}", flush=True)
    print(f"  the means part by {100 * (max(rows) - min(rows)):.2f} points", flush=True)


def main() -> None:
    """Trains and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--models", nargs="+", choices=tuple(RECIPES), default=list(RECIPES))
    parser.add_argument("--frameworks", nargs="+", default=list(FRAMEWORKS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "imori-same-seed")
    parser.add_argument("--one", nargs=4, metavar=("FRAMEWORK", "MODEL", "PRECISION", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        framework, model, precision, seed = arguments.one
        print(json.dumps(train(arguments.data, framework, model, precision, int(seed))))
        return
    names = sorted({framework.partition(":")[0] for framework in arguments.frameworks})
    versions = ", ".join(f"{name} {version('tensorflow-cpu' if name == 'tensorflow' else name)}" for name in names)
    print(f"imori {imori.__version__}, Python {platform.python_version()}, {platform.machine()}; {versions}")
    for model in arguments.models:
        compare(arguments.data, model, arguments.frameworks, arguments.seeds, arguments.out)


if __name__ == "__main__":
    main()
