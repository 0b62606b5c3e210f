"""What the frozen part of a network gives of photos, computed once a photo and kept."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imori import frameworks
from imori import tree as t
from imori.data import Augmentation, Images, Preprocessing
from imori.data.images import Array
from imori.data.threads import ahead, ordered
from imori.errors import DataError
from imori.frameworks.base import Native, Weights
from imori.pretrained.downloads import cache
from imori.shapes import Shape
from imori.transfer.cache import FeatureCache, Features
from imori.transfer.folding import folded
from imori.transfer.parts import Parts
from imori.weights import restrict

BATCH = 32
PLAIN = Augmentation()


def place() -> Path:
    """The folder of all features, beside what was downloaded; whatever is in it may be removed."""
    return cache() / "features"


@dataclass(frozen=True)
class Extractor:
    """Gives the features of photos: from the cache, and those that are not there by the network."""

    parts: Parts
    weights: Weights
    """Of the whole network or of the body."""
    shape: Shape
    """The network's input (C, H, W)."""
    preprocessing: Preprocessing
    framework: str
    precision: str = "float32"
    device: str = "cpu"
    engine: str | None = None
    workers: int = 0
    """Threads that decode photos; 0 is one a core."""
    progress: Callable[[int, int], None] = lambda done, total: None
    """Hears of the photos whose features are there, and of all that are asked for."""

    @functools.cached_property
    def _held(self) -> FeatureCache:
        key = self.key
        return FeatureCache(place() / key[:32], key, self.parts.output, self.precision)

    @property
    def key(self) -> str:
        """A sha256 in hex of all that features depend on beside the photo."""
        body = self.parts.body
        said = [t.to_data(body), self.shape, self.preprocessing.to_data(), self.framework, self.precision, self.engine]
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
        for path, layer in t.leaves(body):
            if layer.weighted:
                for role in t.ROLES:
                    name = f"{path}.{role}"
                    if name in self.weights:
                        value = np.ascontiguousarray(self.weights[name])
                        digest.update(f"{name} {value.dtype} {value.shape}\0".encode())
                        digest.update(value.data)
        return digest.hexdigest()

    def features(self, images: Images, augmentation: Augmentation = PLAIN, number: int = 0, seed: int = 0) -> Features:
        """The features of every image, in order.

        With an augmentation, of pass `number`, which is drawn from the seed, the number and the photo. What was
        computed is kept at once, whatever happens after. DataError for a photo that cannot be read.
        """
        drawn = None if augmentation.none else json.dumps([augmentation.to_data(), number, seed], sort_keys=True)
        contents = ordered(images.content, range(len(images)), self.workers)
        names = [_name(content, drawn) for content in contents]
        wanted = {name: index for index, name in enumerate(names) if self._held.find(name) is None}
        if wanted:
            self._compute(images, contents, wanted, augmentation, drawn)
        return self._held.features(names)

    def _compute(
        self, images: Images, contents: Sequence[bytes], wanted: dict[bytes, int], augmentation: Augmentation,
        drawn: str | None,
    ) -> None:  # fmt: skip
        preprocessing = self.preprocessing
        least = preprocessing.least if drawn is None else augmentation.least(preprocessing)

        def load(index: int) -> Array:
            image = images.open(index, least)
            if drawn is None:
                pixels = preprocessing.pixels(image)
            else:
                digest = hashlib.sha256(contents[index] + drawn.encode()).digest()
                pixels = augmentation(image, preprocessing, np.random.default_rng(list(digest)))
            if images.content(index) != contents[index]:
                raise DataError(f"{images.names[index]} changed while it was read; start again")
            return preprocessing.normalise(pixels, self.precision)

        names, done = list(wanted), len(images) - len(wanted)
        loading = ahead(load, list(wanted.values()), self.workers)
        with contextlib.closing(loading), self._held.adding() as add:
            self.progress(done, len(images))
            for first in range(0, len(names), BATCH):
                chunk = names[first : first + BATCH]
                rows = self._outputs(np.stack([next(loading) for _ in chunk]))
                add(chunk, rows)
                done += len(chunk)
                self.progress(done, len(images))

    def _outputs(self, inputs: Array) -> Array:
        """Images (n, C, H, W), at most a batch -> features (n, *output); always run as a full batch, as compiled."""
        filled = np.concatenate([inputs, np.repeat(inputs[-1:], BATCH - len(inputs), axis=0)])
        return frameworks.get(self.framework).logits(self._native, filled)[: len(inputs)]

    @functools.cached_property
    def _native(self) -> Native:
        body, weights = folded(self.parts.body, restrict(self.weights, self.parts.body))
        return frameworks.build(
            body, self.shape, self.framework, weights, self.precision, self.device, engine=self.engine
        )


def _name(content: bytes, drawn: str | None) -> bytes:
    """What a photo's row is called: by the sha256 of the photo, and by how it was augmented."""
    return content if drawn is None else hashlib.sha256(content + drawn.encode()).digest()


def as_images(rows: Array) -> Array:
    """Features (n, C, H, W), or (n, F) -> maps (n, F, 1, 1): what a head takes."""
    return rows if rows.ndim == 4 else rows[:, :, np.newaxis, np.newaxis]
