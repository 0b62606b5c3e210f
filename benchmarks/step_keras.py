"""How long training and predicting take in the models that imori builds, beside keras.applications' own.

    KERAS_BACKEND=tensorflow python benchmarks/step_keras.py
    python benchmarks/step_keras.py --model resnet50 --size 96 --batch 16 --rounds 20

A step takes a batch of NumPy arrays, and goes through forward, backward and SGD with momentum 0.9: imori's own step,
the same network under Keras's `train_on_batch`, and keras.applications' network under it. Predicting is
`predict_on_batch`. They take turns in one process; medians of the rounds are printed, and the last one's over ours.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

import imori
from imori import frameworks
from imori.frameworks.base import Array, Setup
from imori.optimizers import SGD

CLASSES = 10
THEIRS = {"resnet50": keras.applications.ResNet50, "mobilenet_v2": keras.applications.MobileNetV2}


def ready(native: Any) -> Any:
    """Compiled as Keras users do."""
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    native.compile(optimizer=keras.optimizers.SGD(0.01, momentum=0.9), loss=loss)
    return native


def runs(model: str, size: int, batch: int) -> tuple[dict[str, Callable[[], Any]], dict[str, Callable[[], Any]]]:
    """By name what trains, and what predicts."""
    rng = np.random.default_rng(0)
    images: Array = rng.standard_normal((batch, 3, size, size), dtype="float32")
    last = np.ascontiguousarray(np.moveaxis(images, 1, -1))
    targets, weights = np.eye(CLASSES, dtype="float32")[rng.integers(0, CLASSES, batch)], np.ones(batch, "float32")
    tree = imori.model(model, CLASSES, variant="keras")
    ours, same = (imori.build(tree, (3, size, size), "keras") for _ in range(2))
    theirs = ready(
        THEIRS[model](weights=None, input_shape=(size, size, 3), classes=CLASSES, classifier_activation=None)
    )
    assert ours.count_params() == theirs.count_params(), "the two networks differ"
    same = ready(same)
    trainable = frozenset(name for name in imori.dump_weights(ours) if name.endswith(("weight", "bias")))
    step = frameworks.get("keras").prepare(ours, Setup(SGD(), trainable))
    training = {
        "imori's step": lambda: step(images, targets, weights, 0.01, 0),
        "imori's model, train_on_batch": lambda: same.train_on_batch(last, targets),
        "keras.applications": lambda: theirs.train_on_batch(last, targets),
    }
    predicting = {
        "imori.logits": lambda: imori.logits(ours, images),
        "imori's model, predict_on_batch": lambda: same.predict_on_batch(last),
        "keras.applications": lambda: theirs.predict_on_batch(last),
    }
    return training, predicting


def measure(what: str, chosen: dict[str, Callable[[], Any]], rounds: int) -> None:
    """Times each in turn, and prints."""
    taken: dict[str, list[float]] = {name: [] for name in chosen}
    for i in range(rounds + 2):
        for name, run in chosen.items():
            began = time.perf_counter()
            run()
            if i >= 2:  # the first two rounds compile and warm up
                taken[name].append((time.perf_counter() - began) * 1000)
    medians = {name: statistics.median(times) for name, times in taken.items()}
    print(what)
    for name, median in medians.items():
        speed = medians["keras.applications"] / median
        print(f"  {name:32}{median:8.1f} ms  (least {min(taken[name]):.1f})   {speed:.2f} of its speed", flush=True)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=tuple(THEIRS), default="mobilenet_v2")
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    backend = keras.config.backend()
    print(f"{platform.machine()}, keras {keras.__version__} on {backend}, {arguments.rounds} rounds")
    print(f"imori {imori.__version__}, Python {platform.python_version()}")
    training, predicting = runs(arguments.model, arguments.size, arguments.batch)
    where = f"{arguments.model}, {arguments.size}×{arguments.size}, batch {arguments.batch}"
    measure(f"{where}: a training step", training, arguments.rounds)
    measure(f"{where}: predicting", predicting, arguments.rounds)


if __name__ == "__main__":
    main()
