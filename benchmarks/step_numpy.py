"""How long a training step takes in imori's NumPy engine, beside PyTorch and beside im2col as textbooks write it.

    python benchmarks/step_numpy.py                                    # every case, some ten minutes
    python benchmarks/step_numpy.py --case deep_convnet --rounds 5 --steps 15 --threads 2
    python benchmarks/step_numpy.py --profile                          # where the time goes, on one thread

A step takes a batch of float32 arrays through forward, backward and the optimizer, and gives the loss as a number.
Each candidate runs in a process of its own, one after the other, over several rounds that begin with another of them:
threads of one that are still awake would hold up the other. A candidate's time is the median over the rounds of its
medians over the steps; a ratio is the median of the rounds' ratios, each of two runs of one round, so that what else
the machine does for longer falls on both. With one thread it is processor time, which a busy machine lengthens little.
BLAS's share is that of the products of matrices and of the dense layers, measured in one more run with one thread; its
peak is that of a product of two matrices of 1024×1024 on this machine. Memory is the most that a process had, its
interpreter included, which does a step and nothing else, and its forks (what they share is counted for each); for VGG16
at 224×224 too.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from turns import machine

import imori
import imori.engine
from imori import frameworks
from imori.comparison import peak_memory
from imori.frameworks.base import Array, Setup
from imori.optimizers import SGD, Adam, Optimizer

Step: TypeAlias = Callable[[], float]
CLASSES, RATE = 10, 0.001


class Case(NamedTuple):
    """A network and its batch."""

    model: str
    channels: int
    size: int
    batch: int
    optimizer: Optimizer
    steps: int
    """Of a round."""
    at_most: float
    """The ratio to PyTorch's step that is the aim."""


CASES = {
    "deep_convnet": Case("deep_convnet", 1, 28, 100, Adam(), 15, 1.15),
    "lenet": Case("lenet", 1, 28, 64, SGD(), 50, 2.0),
    "resnet18": Case("resnet18", 3, 32, 32, SGD(), 9, 1.4),
    "mobilenet_v2": Case("mobilenet_v2", 3, 96, 8, SGD(), 9, 3.0),
    "vgg16": Case("vgg16", 3, 112, 8, SGD(), 3, 1.5),
}
CANDIDATES = ("imori, fast", "torch", "torch, channels_last", "imori, plain", "imori, threads", "textbook")
"""Of imori's engine the fast face, whose workers are processes where there are forks; the plain one; and the fast one
with threads as workers."""
OURS = "imori, fast"


# --- the candidates ---------------------------------------------------------------------------------------------------


def data(case: Case) -> tuple[Array, Array]:
    """Images (N, C, H, W) and labels."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((case.batch, case.channels, case.size, case.size), dtype=np.float32)
    return images, rng.integers(0, CLASSES, case.batch)


def built_step(case: Case, candidate: str) -> Step:
    """The step of a model that imori builds, in its own engine or in PyTorch."""
    tree, (images, labels) = imori.model(case.model, CLASSES, case.channels), data(case)
    shape = images.shape[1:]
    if candidate.startswith("torch"):
        import torch

        torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
        native = imori.build(tree, shape, "torch")
        native.to(memory_format=torch.channels_last if "last" in candidate else torch.contiguous_format)
    else:
        native = imori.build(tree, shape, "numpy", engine="plain" if candidate == "imori, plain" else "fast")
        native.processes = candidate == OURS and getattr(native, "processes", False)
    names = frozenset(name for name in imori.dump_weights(native) if name.endswith(("weight", "bias")))
    step = frameworks.of(native).prepare(native, Setup(case.optimizer, names))
    targets, weights = np.eye(CLASSES, dtype=np.float32)[labels], np.ones(case.batch, np.float32)
    return lambda: step(images, targets, weights, RATE, 0)[0]


def step_of(name: str, candidate: str) -> Step:
    """What a process times."""
    case = CASES[name]
    if candidate == "textbook":
        from textbook import DeepConvNet

        network, (images, labels) = DeepConvNet(), data(case)
        return lambda: network.step(images, labels, RATE)
    return built_step(case, candidate)


# --- in a process of its own ------------------------------------------------------------------------------------------


def timed(step: Step, steps: int) -> float:
    """The median of some steps in seconds, after three that are not counted."""
    clock = time.process_time if os.environ["OMP_NUM_THREADS"] == "1" else time.perf_counter
    taken = []
    for _ in range(3 + steps):
        began = clock()
        assert np.isfinite(step()), "training went astray"
        taken.append(clock() - began)
    return statistics.median(taken[3:])


def share_of_blas(step: Step, steps: int) -> float:
    """The share of processor time that is spent in products of matrices."""
    step()
    spent = [0.0]

    def watched(really: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            began = time.thread_time()
            y = really(*arguments, **options)
            spent[0] += time.thread_time() - began
            return y

        return call

    dense = imori.engine.Affine
    for owner, name in ((np, "matmul"), (dense, "forward"), (dense, "backward")):
        setattr(owner, name, watched(getattr(owner, name)))
    began = time.thread_time()
    for _ in range(steps):
        step()
    return spent[0] / (time.thread_time() - began)


def peak() -> float:
    """Multiply-adds of BLAS on one thread, in 10⁹ floating-point operations a second."""
    a, n = np.random.default_rng(0).random((1024, 1024), dtype=np.float32), 1024
    fastest = min(timed(lambda: float((a @ a)[0, 0]), 5) for _ in range(5))
    return 2 * n**3 / fastest / 1e9


def profile(step: Step, steps: int) -> None:
    """Prints the share of the time that the functions take which take most, what they call not included."""
    step()
    profiler = cProfile.Profile()
    profiler.enable()
    for _ in range(steps):
        step()
    profiler.disable()
    entries = sorted(profiler.getstats(), key=lambda entry: -entry.inlinetime)
    total = sum(entry.inlinetime for entry in entries)
    for entry in entries[:16]:
        code = entry.code
        name = code if isinstance(code, str) else f"{Path(code.co_filename).stem}.{code.co_qualname}"
        print(f"  {100 * entry.inlinetime / total:5.1f} %  {name}")


def fresh(task: str, threads: int, *arguments: object) -> float:
    """What a fresh process finds."""
    return float(said(task, threads, *arguments).split()[-1])


def said(task: str, threads: int, *arguments: object) -> str:
    """What a fresh process prints."""
    environment = os.environ | {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    command = [sys.executable, __file__, "--run", json.dumps([task, *arguments])]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return done.stdout


def run(task: str, *arguments: Any) -> float | None:
    """The task of a fresh process."""
    if task == "peak":
        return peak()
    if task == "memory":
        name, candidate, size = arguments
        CASES[name] = CASES[name]._replace(size=size)
        step = step_of(name, candidate)
        step()
        return (peak_memory() or float("nan")) / 2**30  # while its forks are there
    name, candidate, steps = arguments
    return {"time": timed, "share": share_of_blas, "profile": profile}[task](step_of(name, candidate), steps)


# --- the table --------------------------------------------------------------------------------------------------------


def measure(name: str, rounds: int, steps: int | None, threads: int) -> None:
    """Times the candidates of one case in turn, and prints."""
    case = CASES[name]
    steps = steps or case.steps
    candidates = [each for each in CANDIDATES if each != "textbook" or name == "deep_convnet"]
    taken: dict[str, list[float]] = {candidate: [] for candidate in candidates}
    for i in range(rounds):
        first = i % len(candidates)
        for candidate in candidates[first:] + candidates[:first]:
            taken[candidate].append(fresh("time", threads, name, candidate, steps))
    print(f"{name}, {case.size}×{case.size}, batch {case.batch}, {type(case.optimizer).__name__}, {threads} threads")
    for candidate, seconds in taken.items():
        ratio = statistics.median(ours / theirs for ours, theirs in zip(taken[OURS], seconds, strict=True))
        aim = f", at most {case.at_most}" if candidate == "torch" else ""
        share = f"{ratio:.2f}" if ratio > 0.5 else f"1/{1 / ratio:.1f}"
        beside = "" if candidate == OURS else f"   imori takes {share} of its time{aim}"
        print(f"  {candidate:24}{1000 * statistics.median(seconds):9.1f} ms{beside}")
    print(f"  {100 * fresh('share', 1, name, OURS, steps):.0f} % of imori's step is inside BLAS")
    for size in dict.fromkeys((case.size, 224) if name == "vgg16" else (case.size,)):
        had = [
            f"{each} {fresh('memory', threads, name, each, size):.2f} GiB" for each in candidates if each != "textbook"
        ]
        print(f"  memory at {size}×{size}: {'; '.join(had)}", flush=True)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=tuple(CASES), action="append")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--profile", action="store_true", help="print where a step's time goes, on one thread")
    parser.add_argument("--run", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        found = run(*arguments.run)
        if found is not None:
            print(found)
        return
    print(f"{machine('numpy', 'torch')}; a median over {arguments.rounds} rounds")
    print(f"BLAS does {fresh('peak', 1):.0f} GFLOP/s on one thread")
    for name in arguments.case or CASES:
        if arguments.profile:
            print(f"{name}\n{said('profile', 1, name, OURS, CASES[name].steps)}", end="", flush=True)
            continue
        measure(name, arguments.rounds, arguments.steps, arguments.threads)


if __name__ == "__main__":
    main()
