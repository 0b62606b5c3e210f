"""From a few hundred photos and published weights to a classifier: `imori train`, and the two usual scripts.

    python benchmarks/transfer.py PHOTOS WEIGHTS [--rounds N] [--target SHARE] [--only NAME]

PHOTOS is a folder of class folders, WEIGHTS keras.applications' mobilenet_v2_1.0_224 as .weights.h5. A fifth of the
photos, of each class alike, is held back; every way trains on the others, in a process of its own, and the clock runs
from the process's start, imports and first decoding included, until its classifier answers `target` of the held-back
photos rightly (looked at after each of its phases or epochs, off the clock). Medians over the rounds are printed.

- imori: `imori train --phases head`, with an empty cache, and once more with the features of the first time.
- Keras: the recipe of its own guide (https://keras.io/guides/transfer_learning/): the base's outputs once, a dense
  layer on them with Adam for 20 epochs, then the last blocks with Adam at 1e-5.
- PyTorch: the whole network fine-tuned with AdamW at 1e-4, batches of 32, crops and flips, norms as at inference. The
  network is imori's module, in a plain loop.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

SIZE, BATCH, SEED = 224, 32, 0
HEAD_EPOCHS, KERAS_TUNING, TORCH_EPOCHS = 20, 5, 6


def divided(folder: Path) -> tuple[list[tuple[str, int]], list[tuple[str, int]], list[str]]:
    """(path, class) of the photos that train, of those that are held back, and the names of the classes."""
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    train: list[tuple[str, int]] = []
    test: list[tuple[str, int]] = []
    for label, name in enumerate(classes):
        photos = sorted(str(path) for path in (folder / name).iterdir())
        for rank, i in enumerate(np.random.default_rng([SEED, label]).permutation(len(photos))):
            (test if rank % 5 == 0 else train).append((photos[i], label))
    return train, test, classes


class Clock:
    """Runs from the process's start, and stands still while a classifier is looked at."""

    def __init__(self, target: float) -> None:
        self.target, self.away = target, 0.0
        self.began = float(os.environ["BEGAN"])
        self.found: list[tuple[str, float, float]] = []

    def look(self, what: str, accuracy: Callable[[], float]) -> bool:
        """Notes the time and the accuracy; whether that is enough."""
        seconds = time.time() - self.began - self.away
        paused = time.time()
        share = accuracy()
        self.away += time.time() - paused
        self.found.append((what, round(seconds, 2), round(share, 4)))
        return share >= self.target


# --- the ways --------------------------------------------------------------------------------------------------------


def imori_head(folder: Path, weights: Path, clock: Clock) -> None:
    """`imori train --phases head`: the second time, with the features of the first."""
    from imori.cli import main
    from imori.train import find_run

    train, test, classes = divided(folder)
    with tempfile.TemporaryDirectory() as out:
        listed = Path(out, "photos.csv")
        parts = {"train": train, "test": test}
        rows = [f"{path},{classes[label]},{part}" for part, photos in parts.items() for path, label in photos]
        listed.write_text("path,label,split\n" + "\n".join(rows) + "\n")
        run = Path(out, "run")
        chosen = ["--model", "mobilenet_v2", "--weights", str(weights), "--phases", "head", "--framework", "torch"]
        with open(os.devnull, "w") as nowhere:
            usual, sys.stdout = sys.stdout, nowhere
            assert main(["train", str(listed), *chosen, "--out", str(run)]) == 0
            sys.stdout = usual
        clock.look("head", lambda: float(find_run(run).metrics["test_accuracy"]))


def keras_bottleneck(folder: Path, weights: Path, clock: Clock) -> None:
    """As Keras's guide does it."""
    import keras

    train, test, classes = divided(folder)

    def pixels(photos: list[tuple[str, int]]) -> tuple[Any, Any]:
        images = [keras.utils.load_img(path, target_size=(SIZE, SIZE)) for path, _ in photos]
        stacked = np.stack([keras.utils.img_to_array(image) for image in images])
        return keras.applications.mobilenet_v2.preprocess_input(stacked), np.array([label for _, label in photos])

    keras.utils.set_random_seed(SEED)
    whole = keras.applications.MobileNetV2(weights=str(weights))
    base = keras.Model(whole.input, whole.get_layer("global_average_pooling2d").output)
    base.trainable = False
    (images, labels), (held, truth) = pixels(train), pixels(test)
    features = base.predict(images, BATCH, verbose=0)
    head = keras.Sequential([keras.layers.Input(features.shape[1:]), keras.layers.Dense(len(classes))])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    head.compile(keras.optimizers.Adam(1e-3), loss)
    head.fit(features, labels, BATCH, HEAD_EPOCHS, verbose=0)
    joined = keras.Sequential([base, head])
    if clock.look("head", lambda: float((joined.predict(held, verbose=0).argmax(1) == truth).mean())):
        return
    for layer in base.layers:
        layer.trainable = "block_14" in layer.name or "block_15" in layer.name or "block_16" in layer.name
        layer.trainable &= not isinstance(layer, keras.layers.BatchNormalization)
    joined.compile(keras.optimizers.Adam(1e-5), loss)
    for epoch in range(KERAS_TUNING):
        joined.fit(images, labels, BATCH, 1, verbose=0)
        if clock.look(f"tuned {epoch + 1}", lambda: float((joined.predict(held, verbose=0).argmax(1) == truth).mean())):
            return


def torch_whole(folder: Path, weights: Path, clock: Clock) -> None:
    """The whole network in a plain loop."""
    import torch
    from PIL import Image
    from torch import nn

    import imori

    train, test, classes = divided(folder)
    tree = imori.model("mobilenet_v2", classes=1000, variant="keras")
    whole = imori.read_weights(weights, tree, source="keras")
    net = imori.build(tree, (3, SIZE, SIZE), "torch", whole)
    net.fc = nn.Linear(1280, len(classes))
    for hook in list(net._forward_pre_hooks):
        del net._forward_pre_hooks[hook]
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)

    def photo(path: str, changed: bool) -> Any:
        with Image.open(path) as file:
            image = file.convert("RGB")
            width, height = image.size
            side = min(width, height) * (rng.uniform(0.6, 1.0) if changed else 0.875)
            left, top = (
                (rng.uniform(0, whole_side - side) if changed else (whole_side - side) / 2)
                for whole_side in (width, height)
            )
            image = image.resize((SIZE, SIZE), Image.Resampling.BILINEAR, (left, top, left + side, top + side))
            array = np.asarray(image, np.float32).transpose(2, 0, 1) / 127.5 - 1
        return torch.from_numpy(array[:, :, ::-1].copy() if changed and rng.random() < 0.5 else array)

    def accuracy() -> float:
        net.eval()
        right = 0
        with torch.inference_mode():
            for first in range(0, len(test), BATCH):
                chunk = test[first : first + BATCH]
                answers = net(torch.stack([photo(path, False) for path, _ in chunk])).argmax(1)
                right += int((answers == torch.tensor([label for _, label in chunk])).sum())
        return right / len(test)

    optimizer = torch.optim.AdamW(net.parameters(), 1e-4)
    for epoch in range(TORCH_EPOCHS):
        net.eval()  # the norms of these weights are folded: their own batch statistics are other numbers
        order = rng.permutation(len(train))
        for first in range(0, len(order), BATCH):
            chunk = [train[i] for i in order[first : first + BATCH]]
            images = torch.stack([photo(path, True) for path, _ in chunk])
            loss = nn.functional.cross_entropy(net(images), torch.tensor([label for _, label in chunk]))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        if clock.look(f"epoch {epoch + 1}", accuracy):
            return


# --- in processes of their own ---------------------------------------------------------------------------------------

WAYS = {
    "imori, cold": imori_head,
    "imori, features there": imori_head,
    "Keras, bottleneck features": keras_bottleneck,
    "PyTorch, the whole network": torch_whole,
}


def measured(name: str, arguments: argparse.Namespace, cache: str) -> list[tuple[str, float, float]]:
    """(what, seconds, accuracy) of each look, in a fresh process."""
    command = [sys.executable, __file__, str(arguments.photos), str(arguments.weights), "--run", name]
    environment = {**os.environ, "IMORI_CACHE": cache, "BEGAN": str(time.time()), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [*command, "--target", str(arguments.target)], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return [tuple(look) for look in json.loads(done.stdout.splitlines()[-1])]


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--target", type=float, default=0.98)
    parser.add_argument("--only", action="append", choices=WAYS)
    parser.add_argument("--run", choices=WAYS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        clock = Clock(arguments.target)
        WAYS[arguments.run](arguments.photos, arguments.weights, clock)
        print(json.dumps(clock.found))
        return
    from turns import machine

    print(machine("torch", "keras", "tensorflow-cpu"))
    taken: dict[str, list[tuple[float, float]]] = {}
    for number in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as cache:
            for name in arguments.only or WAYS:
                looks = measured(name, arguments, cache)
                print(f"round {number + 1}  {name:28} {looks}", flush=True)
                taken.setdefault(name, []).append(looks[-1][1:])
    ours = statistics.median(seconds for seconds, _ in next(iter(taken.values())))
    for name, found in taken.items():
        seconds, share = (statistics.median(each) for each in zip(*found, strict=True))
        print(f"{name:28} {seconds:8.1f} s  {100 * share:6.2f} %  {seconds / ours:6.2f} times imori's", flush=True)


if __name__ == "__main__":
    main()
