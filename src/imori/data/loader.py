"""Batches for training and evaluation: the same ones whatever the number of workers, from any step on.

A training batch depends on the seed, the epoch and the step alone, never on what came before it: a run that goes on in
mid-epoch sees the batches that it would have seen. The workers are threads, which Pillow and NumPy let run side by
side; nothing is pickled and no process is started, so loading is the same on every system.
"""

from __future__ import annotations

import functools
import itertools
import math
import threading
from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from imori.data.augmentation import Augmentation
from imori.data.images import Array, Images, PixelArrays
from imori.data.preprocessing import Preprocessing
from imori.data.threads import ordered, workers_or_cores
from imori.errors import DataError, RecipeError

AHEAD = 3
"""So many batches are begun before the one that is waited for is handed out."""
STORED_BYTES = 2**30
"""A set in memory is kept preprocessed up to this size."""
DTYPES = ("float32", "float64")


@dataclass(frozen=True, eq=False)
class Batch:
    """Images ready for a network, with what is known of them."""

    images: Array
    """float32 or float64 (N, C, H, W)."""
    labels: Array
    """int64 (N,)."""
    weights: Array
    """(N,) in the images' dtype: 1, or 0 for a row that only fills the last batch of an evaluation."""
    indices: Array
    """int64 (N,), into the set. A row that only fills repeats the set's last image."""


@dataclass(frozen=True)
class _Plan:
    """What one batch of this process will hold."""

    indices: Array
    weights: Array
    epoch: int | None
    """The epoch to augment for; None to leave the images as they are."""


@dataclass
class Loader:
    """Loads one set in batches of `batch` images, or of the whole set where that is smaller.

    Of `world` processes that train together, each loads its own `batch` / `world` rows of every batch: those of `rank`.
    RecipeError where the numbers do not fit together, DataError where the channels do not.
    """

    images: Images
    preprocessing: Preprocessing
    augmentation: Augmentation = field(default_factory=Augmentation)
    batch: int = 32
    seed: int = 0
    workers: int = 0
    """Threads; 0 is one a core."""
    rank: int = 0
    world: int = 1
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.batch < 1 or self.world < 1 or self.batch % self.world:
            raise RecipeError(f"batch is {self.batch}; it must be a multiple of the {self.world} processes, from 1 on")
        if not 0 <= self.rank < self.world:
            raise RecipeError(f"rank is {self.rank}; of {self.world} processes it must be from 0 to {self.world - 1}")
        if len(self.images) < self.world:
            raise RecipeError(f"{len(self.images)} images cannot be shared by {self.world} processes; use fewer")
        if self.workers < 0:
            raise RecipeError(f"workers is {self.workers}; it must be from 1, or 0 for one a core")
        if self.dtype not in DTYPES:
            raise RecipeError(f"dtype is {self.dtype!r}; it must be {' or '.join(DTYPES)}")
        if self.images.channels != self.preprocessing.channels:
            raise DataError(
                f"the images have {self.images.channels} channels and the preprocessing {self.preprocessing.channels}; "
                "open the data with the channels of the model"
            )

    @property
    def global_batch(self) -> int:
        """The images of a batch over all processes: `batch`, or what the set has, in whole shares."""
        return min(self.batch, len(self.images) // self.world * self.world)

    @property
    def steps_per_epoch(self) -> int:
        """The batches that show every image; the last begins the epoch's order again where images are lacking."""
        return math.ceil(len(self.images) / self.global_batch)

    def training(self, start: int, stop: int) -> Generator[Batch, None, None]:
        """The batches of the run's steps `start` to `stop` - 1; step s is of epoch s // steps_per_epoch.

        Closing the iterator stops its threads: use `contextlib.closing`, so that an error or Ctrl-C does so at once.
        An image that cannot be read raises its DataError at its own batch.
        """
        return self._batches(self._training_plans(start, stop), not self.augmentation.none)

    def evaluation(self) -> Generator[Batch, None, None]:
        """Every image once, in order and not augmented; the last batch is filled up with rows of weight 0."""
        return self._batches(self._evaluation_plans(), False)

    def _training_plans(self, start: int, stop: int) -> Iterator[_Plan]:
        size, share = self.global_batch, self.global_batch // self.world
        steps = range(start, stop)
        for epoch, of_epoch in itertools.groupby(steps, lambda step: step // self.steps_per_epoch):
            order = np.random.default_rng([self.seed, epoch]).permutation(len(self.images))
            for step in of_epoch:
                first = step % self.steps_per_epoch * size + self.rank * share
                indices = np.take(order, np.arange(first, first + share), mode="wrap")
                yield _Plan(indices, np.ones(share, self.dtype), None if self.augmentation.none else epoch)

    def _evaluation_plans(self) -> Iterator[_Plan]:
        size, share = self.global_batch, self.global_batch // self.world
        for first in range(self.rank * share, self.steps_per_epoch * size, size):
            indices = np.arange(first, first + share)
            weights = (indices < len(self.images)).astype(self.dtype)
            yield _Plan(np.minimum(indices, len(self.images) - 1), weights, None)

    @functools.cached_property
    def _stored(self) -> Array | None:
        """All images preprocessed, uint8 (N, H, W, C), where the set is in memory and this is not too large."""
        size = len(self.images) * math.prod(self.preprocessing.size) * self.preprocessing.channels
        if not isinstance(self.images, PixelArrays) or size > STORED_BYTES:
            return None
        stored = np.empty((len(self.images), *self.preprocessing.size, self.preprocessing.channels), np.uint8)

        def store(index: int) -> None:
            stored[index] = self.preprocessing.pixels(self.images.open(index))

        ordered(store, range(len(self.images)), self.workers)
        return stored

    def _batches(self, plans: Iterator[_Plan], augmented: bool) -> Generator[Batch, None, None]:
        stored = None if augmented else self._stored
        if stored is not None:
            for plan in plans:
                images = self.preprocessing.normalise(stored[plan.indices], self.dtype)
                yield Batch(images, self.images.labels[plan.indices], plan.weights, plan.indices)
            return
        workers = workers_or_cores(self.workers)
        stopped = threading.Event()
        pool = ThreadPoolExecutor(workers, thread_name_prefix="imori-loader")
        begun: deque[tuple[Batch, list[Future[None]]]] = deque()

        def begin(plan: _Plan) -> None:
            shape = (len(plan.indices), self.preprocessing.channels, *self.preprocessing.size)
            batch = Batch(np.empty(shape, self.dtype), self.images.labels[plan.indices], plan.weights, plan.indices)
            rows = np.array_split(np.arange(_needed(plan.weights)), workers)
            begun.append((batch, [pool.submit(self._fill, batch, part, plan.epoch, stopped) for part in rows]))

        try:
            for plan in itertools.islice(plans, AHEAD):
                begin(plan)
            while begun:
                batch, futures = begun.popleft()
                for future in futures:
                    future.result()
                needed = _needed(batch.weights)
                batch.images[needed:] = batch.images[needed - 1]
                for plan in itertools.islice(plans, 1):
                    begin(plan)
                yield batch
        finally:
            stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)

    def _fill(self, batch: Batch, rows: Array, epoch: int | None, stopped: threading.Event) -> None:
        """One worker's share of a batch."""
        least = self.preprocessing.least if epoch is None else self.augmentation.least(self.preprocessing)
        for row in rows.tolist():
            if stopped.is_set():
                return
            index = int(batch.indices[row])
            image = self.images.open(index, least)
            if epoch is None:
                pixels = self.preprocessing.pixels(image)
            else:
                rng = np.random.default_rng([self.seed, epoch, index])
                pixels = self.augmentation(image, self.preprocessing, rng)
            batch.images[row] = self.preprocessing.normalise(pixels, self.dtype)


def _needed(weights: Array) -> int:
    """The rows to decode: those that count, or one. The rows after them repeat the last."""
    return max(1, int(np.count_nonzero(weights)))
