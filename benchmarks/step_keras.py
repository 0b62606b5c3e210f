"""How long training and predicting take in the models that imori builds, beside keras.applications' own.

    KERAS_BACKEND=tensorflow python benchmarks/step_keras.py        # the cases below, some ten minutes
    python benchmarks/step_keras.py --model resnet50 --size 96 --batch 16 --rounds 20

A step takes a batch of NumPy arrays, goes through forward, backward and SGD with momentum 0.9, and gives the loss as a
number: imori's own step, and under Keras's `train_on_batch`, imori's model and keras.applications' of the same
network. Predicting is `predict_on_batch`. imori's own step and logits take channels first, and so turn the images that
the others are given channels last.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
from turns import machine, print_medians, take_fresh_turns

import imori
from imori import frameworks
from imori.frameworks.base import Array, Setup
from imori.optimizers import SGD

CLASSES, RATE = 10, 0.001
THEIRS = {
    "resnet50": keras.applications.ResNet50,
    "mobilenet_v2": keras.applications.MobileNetV2,
    "vgg16": keras.applications.VGG16,
    "densenet121": keras.applications.DenseNet121,
}
#        model, size, batch
CASES = (("resnet50", 64, 8), ("mobilenet_v2", 96, 8), ("vgg16", 64, 8), ("densenet121", 64, 8))


def ready(native: Any) -> None:
    """Compiled as Keras users do."""
    loss = keras.losses.CategoricalCrossentropy(from_logits=True)
    native.compile(optimizer=keras.optimizers.SGD(RATE, momentum=0.9), loss=loss)


def measure(model: str, size: int, batch: int, rounds: int) -> None:
    """Times each in turn, and prints."""
    rng = np.random.default_rng(0)
    images: Array = rng.standard_normal((batch, 3, size, size), dtype="float32")
    last = np.ascontiguousarray(np.moveaxis(images, 1, -1))
    targets, weights = np.eye(CLASSES, dtype="float32")[rng.integers(0, CLASSES, batch)], np.ones(batch, "float32")
    tree, shape = imori.model(model, CLASSES, variant="keras"), images.shape[1:]

    def theirs() -> Any:
        return THEIRS[model](weights=None, input_shape=(size, size, 3), classes=CLASSES, classifier_activation=None)

    first = theirs()
    with tempfile.TemporaryDirectory() as folder:
        first.save_weights(Path(folder, "theirs.weights.h5"))
        start = imori.read_weights(Path(folder, "theirs.weights.h5"), tree, "keras", shape)

    def ours() -> Any:
        return imori.build(tree, shape, "keras", start)

    def step() -> Callable[[], float]:
        native = ours()
        trainable = frozenset(name for name in imori.dump_weights(native) if name.endswith(("weight", "bias")))
        run = frameworks.get("keras").prepare(native, Setup(SGD(), trainable))
        return lambda: finite(run(images, targets, weights, RATE, 0)[0])

    def keras_step(native: Any) -> Callable[[], float]:
        ready(native)
        return lambda: finite(native.train_on_batch(last, targets))

    one, other = imori.logits(ours(), images), first.predict_on_batch(last)
    assert np.abs(one - other).max() <= 1e-3 * np.abs(other).max(), "the two networks differ"
    training = {
        "imori": step,
        "keras.applications": lambda: keras_step(theirs()),
        "imori's model, by Keras": lambda: keras_step(ours()),
    }
    where = f"{model}, {size}×{size}, batch {batch}"
    print_medians(f"{where}: a training step", take_fresh_turns(training, rounds))
    predicting: dict[str, Callable[[], Callable[[], Any]]] = {
        "imori": lambda: partial(imori.logits, ours(), images),
        "keras.applications": lambda: partial(theirs().predict_on_batch, last),
        "imori's model, by Keras": lambda: partial(ours().predict_on_batch, last),
    }
    print_medians(f"{where}: predicting", take_fresh_turns(predicting, rounds))


def finite(loss: float) -> float:
    """AssertionError where it is not: training went astray, and its steps are cut short."""
    assert np.isfinite(loss)
    return loss


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=tuple(THEIRS))
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    backend = keras.config.backend()
    print(f"{machine('keras')}; Keras on {backend}; medians of 3 × {arguments.rounds} rounds")
    chosen = [(arguments.model, arguments.size, arguments.batch)] if arguments.model else CASES
    for model, size, batch in chosen:
        measure(model, size, batch, arguments.rounds)


if __name__ == "__main__":
    main()
