"""What it gives that the command line keeps the memory that was freed: the same work with and without, in turn.

    python benchmarks/memory_kept.py [--framework NAME] [--rounds N]

Each is a process of its own, which times predictions or training steps of one network (random weights and images,
float32) and takes their median; the first two are not counted. Printed are the medians over the rounds, and the most
memory that a process had.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time

import numpy as np
from turns import machine

import imori
from imori import frameworks
from imori.cli import memory
from imori.frameworks.base import Setup
from imori.optimizers import SGD

CASES = {
    "mobilenet_v2 at 224 px predicts 32": ("mobilenet_v2", 224, 32, False),
    "mobilenet_v2 at 128 px, a step of 32": ("mobilenet_v2", 128, 32, True),
    "resnet50 at 128 px, a step of 16": ("resnet50", 128, 16, True),
}
TIMES = 8
PACKAGES = {"tensorflow": "tensorflow-cpu", "flax": "jax"}


def measured(case: str, framework: str, kept: bool) -> None:
    """Prints the median in seconds, and the peak in MiB."""
    if kept:
        memory.keep()
    name, size, count, trains = CASES[case]
    native = imori.build(imori.model(name, classes=10), (3, size, size), framework)
    images = np.random.default_rng(0).standard_normal((count, 3, size, size)).astype(np.float32)
    targets, weights = np.eye(10, dtype=np.float32)[np.arange(count) % 10], np.ones(count, np.float32)
    trained = frozenset(key for key in imori.dump_weights(native) if key.endswith((".weight", ".bias")))
    step = frameworks.get(framework).prepare(native, Setup(SGD(), trained)) if trains else None
    taken = []
    for number in range(TIMES + 2):
        began = time.perf_counter()
        if step:
            step(images, targets, weights, 0.01, number)
        else:
            imori.logits(native, images)
        taken.append(time.perf_counter() - began)
    print(statistics.median(taken[2:]), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--framework", default="torch")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--kept", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    framework = arguments.framework
    if arguments.case:
        measured(arguments.case, framework, arguments.kept)
        return
    print(machine(PACKAGES.get(framework, framework), "numpy"))
    for case in CASES:
        found: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
        for _ in range(arguments.rounds):
            for kept in found:
                command = [sys.executable, __file__, "--framework", framework, "--case", case]
                said = subprocess.run([*command, *["--kept"] * kept], check=True, stdout=subprocess.PIPE, text=True)
                seconds, peak = map(float, said.stdout.split()[-2:])
                found[kept].append((seconds, peak))
        (usual, before), (ours, after) = (
            [statistics.median(each) for each in zip(*found[kept], strict=True)] for kept in found
        )
        print(
            f"{framework:10}  {case:37} {1e3 * usual:7.0f} ms, kept {1e3 * ours:7.0f} ms: {usual / ours:5.2f} times as"
            f" fast; at most {before:5.0f} MiB, kept {after:5.0f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
