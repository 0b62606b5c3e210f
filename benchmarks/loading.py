"""How fast photos become batches: imori's loader beside torch.utils.data.DataLoader, in one run.

    python benchmarks/loading.py PHOTOS [rounds] [workers]

PHOTOS is a folder of class folders. Both load the same photos in batches of 32 at 224 x 224, each photo opened,
augmented and normalised by the same code; torch's loader with as many processes as imori has threads, kept from round
to round, and once without any. The loaders take turns, `rounds` times (5 unless given) after one round that is not
counted. `workers` is the number of cores unless given.

Then, on photos made here: what decoding large JPEGs small saves, and how fast a set in memory is.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL
from PIL import Image, features

import imori
from imori.data import Augmentation, Images, Loader, Preprocessing, open_photo, open_splits
from imori.data.threads import workers_or_cores

BATCH = 32
USUAL = Preprocessing((224, 224), share=0.875, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
CHANGES = {"as in testing": Augmentation(), "random crop and flip": Augmentation(crop=0.25, flip=0.5)}


class Dataset:
    """For torch's loader: what imori's workers do with one photo, word for word."""

    def __init__(self, images: Images, augmentation: Augmentation) -> None:
        self.images, self.augmentation = images, augmentation

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        picture = self.images.open(index, self.augmentation.least(USUAL))
        if self.augmentation.none:
            pixels = USUAL.pixels(picture)
        else:
            pixels = self.augmentation(picture, USUAL, np.random.default_rng([0, 0, index]))
        return USUAL.normalise(pixels), int(self.images.labels[index])


def our_epoch(loader: Loader) -> int:
    """The images of one epoch."""
    return sum(len(batch.labels) for batch in loader.training(0, loader.steps_per_epoch))


def their_epoch(loader: Any) -> int:
    """The images of one epoch."""
    return sum(len(labels) for _, labels in loader)


def loaders(images: Images, augmentation: Augmentation, workers: int) -> dict[str, Callable[[], int]]:
    """What takes turns: each call loads one epoch and returns the number of its images."""
    ours = Loader(images, USUAL, augmentation, batch=BATCH, workers=workers)
    turns: dict[str, Callable[[], int]] = {f"imori, {workers} threads": functools.partial(our_epoch, ours)}
    if importlib.util.find_spec("torch") is None:
        print("torch is not installed: only imori's loader is measured")
        return turns
    from torch.utils.data import DataLoader

    for processes in (workers, 0):
        theirs: Any = DataLoader(
            Dataset(images, augmentation),  # type: ignore[arg-type]
            batch_size=BATCH,
            shuffle=True,
            num_workers=processes,
            persistent_workers=processes > 0,
        )
        turns[f"torch DataLoader, {processes} processes"] = functools.partial(their_epoch, theirs)
    return turns


def rate(turn: Callable[[], int]) -> float:
    """Images a second."""
    began = time.perf_counter()
    count = turn()
    return count / (time.perf_counter() - began)


def compare(turns: dict[str, Callable[[], int]], rounds: int, what: str) -> None:
    """Takes turns, and prints the median of each, the slowest and the fastest, and the ratio to the first."""
    rates: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds + 1):
        for name, turn in turns.items():
            once = rate(turn)
            if number:
                rates[name].append(once)
    first = statistics.median(next(iter(rates.values())))
    print(f"\n{what:38}{'images/s':>10}{'slowest':>9}{'fastest':>9}{'ratio':>7}")
    for name, each in rates.items():
        median = statistics.median(each)
        print(f"{name:38}{median:10.0f}{min(each):9.0f}{max(each):9.0f}{median / first:7.2f}")


def large_photos(place: Path, count: int = 8) -> list[Path]:
    """Photos of 12 million pixels with detail at every scale, as a camera gives them."""
    rng = np.random.default_rng(0)
    paths = []
    for number in range(count):
        picture = np.zeros((3000, 4000, 3), np.float32)
        for cells in (4, 40, 400, 2000):
            grid = rng.integers(0, 256, (cells * 3 // 4, cells, 3), dtype=np.uint8)
            picture += np.asarray(Image.fromarray(grid).resize((4000, 3000), Image.Resampling.BILINEAR)) / 4
        paths.append(place / f"{number}.jpg")
        Image.fromarray(picture.astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def open_all(paths: list[Path], least: tuple[int, int] | None) -> int:
    """Opens and preprocesses photos one after the other."""
    for path in paths:
        USUAL.pixels(open_photo(path, 3, least))
    return len(paths)


def main() -> None:
    """Measures and prints."""
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    workers = int(sys.argv[3]) if len(sys.argv) > 3 else workers_or_cores(0)
    images = open_splits(sys.argv[1], channels=3).train
    versions = f"Pillow {PIL.__version__} (libjpeg-turbo {features.version('libjpeg_turbo')}), NumPy {np.__version__}"
    if importlib.util.find_spec("torch") is not None:
        versions += f", torch {importlib.import_module('torch').__version__}"
    print(f"imori {imori.__version__}, Python {platform.python_version()}, {versions}")
    print(f"{platform.machine()}, {os.cpu_count()} cores, {workers} workers, {len(images)} photos, {rounds} rounds")
    for what, augmentation in CHANGES.items():
        compare(loaders(images, augmentation, workers), rounds, what)
    with tempfile.TemporaryDirectory() as place:
        paths = large_photos(Path(place))
        turns: dict[str, Callable[[], int]] = {
            "decoded as small as is needed": functools.partial(open_all, paths, USUAL.least),
            "decoded whole": functools.partial(open_all, paths, None),
        }
        compare(turns, rounds, "JPEGs of 4000 x 3000, 1 thread")
    memory = Loader(
        open_splits("digits").train, Preprocessing((32, 32), channels=1, mean=(0.3,), std=(0.4,)), batch=100
    )
    compare({"imori": functools.partial(our_epoch, memory)}, rounds, "digits in memory, 32 x 32")


if __name__ == "__main__":
    main()
