"""A trained model, ready to use: the network, its class names and its preprocessing, from one file."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from imori import catalogue, frameworks
from imori.data import (
    Augmentation,
    Images,
    Loader,
    Preprocessing,
    Skipped,
    find_images,
    open_labelled,
    open_listed,
    open_photo,
)
from imori.errors import DataError, RunError, WeightsError
from imori.export import export_onnx
from imori.frameworks.base import Array, Framework, Native
from imori.pretrained.downloads import Progress
from imori.pretrained.reading import pretrained
from imori.train.loop import evaluate
from imori.train.metrics import ClassScore, per_class, softmax
from imori.train.run import Run, find_run, preprocessing_of
from imori.weights import Card, read_model

BATCH = 32


@dataclass(frozen=True)
class Prediction:
    """What a photo shows: the likeliest classes with their probabilities, or why it could not be read."""

    path: str
    top: tuple[tuple[str, float], ...] = ()
    """(class, probability), the likeliest first."""
    error: str | None = None

    @property
    def label(self) -> str | None:
        """The likeliest class; None for a photo that could not be read."""
        return self.top[0][0] if self.top else None

    @property
    def probability(self) -> float | None:
        """The likeliest class's probability."""
        return self.top[0][1] if self.top else None


@dataclass(frozen=True)
class Score:
    """How a classifier did on labelled photos."""

    accuracy: float
    top5: float
    loss: float
    images: int
    classes: tuple[str, ...]
    per_class: tuple[ClassScore, ...]
    confusion: npt.NDArray[np.int64]
    """(classes, classes): row the true class, column the answer."""
    skipped: tuple[Skipped, ...] = ()
    """Photos that could not be read, and so were not scored."""
    seen: int = 0
    """Scored photos that the model was trained on: their answers say nothing about new photos."""

    def to_data(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "accuracy": self.accuracy,
            "top5": self.top5,
            "loss": self.loss,
            "images": self.images,
            "classes": list(self.classes),
            "per_class": [vars(one) for one in self.per_class],
            "confusion": self.confusion.tolist(),
            "skipped": [vars(one) for one in self.skipped],
            "seen": self.seen,
        }


@dataclass(frozen=True)
class Classifier:
    """A model in a framework, with all that its file says."""

    native: Native
    card: Card
    framework: Framework
    device: str
    file: Path
    run: Run | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits."""
        return self.card.classes

    @property
    def preprocessing(self) -> Preprocessing:
        """How a photo becomes the network's input."""
        return Preprocessing.from_data(dict(self.card.preprocessing))

    @property
    def framework_name(self) -> str:
        """The framework that it was built in."""
        return frameworks.name_of(self.framework)

    def predict(self, paths: str | Path | Iterable[str | Path], top: int = 5, strict: bool = False) -> list[Prediction]:
        """The `top` likeliest classes of each photo; folders and globs are searched.

        A photo that cannot be read has its reason in `error`, or with `strict` raises DataError.
        """
        return list(self.predictions(find_images([paths] if isinstance(paths, (str, Path)) else paths), top, strict))

    def predictions(self, photos: list[str], top: int = 5, strict: bool = False) -> Iterator[Prediction]:
        """As `predict` does, for photos named one by one, batch by batch."""
        preprocessing = self.preprocessing

        def load(path: str) -> npt.NDArray[np.float32] | DataError:
            try:
                return preprocessing(open_photo(path, preprocessing.channels, preprocessing.least))
            except DataError as error:
                return error

        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            for first in range(0, len(photos), BATCH):
                names = photos[first : first + BATCH]
                loaded = list(pool.map(load, names))
                for one in loaded:
                    if strict and isinstance(one, DataError):
                        raise one
                good = [(name, one) for name, one in zip(names, loaded, strict=True) if not isinstance(one, DataError)]
                answers = iter(
                    softmax(self._logits(np.stack([one for _, one in good]), [name for name, _ in good]))
                    if good
                    else ()
                )
                for name, one in zip(names, loaded, strict=True):
                    if isinstance(one, DataError):
                        yield Prediction(name, error=str(one))
                    else:
                        yield Prediction(name, self._best(next(answers), top))

    def export_onnx(self, path: str | Path, preprocessing: bool = True) -> None:
        """Writes the model as a file of ONNX: see `imori.export_onnx`."""
        export_onnx(path, self.framework.dump(self.native), self.card, preprocessing)

    def _logits(self, images: Array, names: Sequence[str] = ()) -> Array:
        """(N, C, H, W) -> (N, classes). WeightsError where a logit is not finite."""
        logits = self.framework.logits(self.native, images)
        finite = np.isfinite(logits).all(axis=1)
        if not finite.all():
            photo = names[int(finite.argmin())] if names else "a photo"
            raise WeightsError(
                f"{self.file} answers {photo} with logits that are not finite; training went astray, or the file is"
                " damaged: use another run"
            )
        return logits

    def _labelled(self, path: str | Path, strict: bool) -> Images:
        return open_labelled(
            path, self.classes, channels=self.preprocessing.channels, strict=strict, workers=os.cpu_count() or 1
        )

    def _held_back(self, strict: bool) -> Images:
        if self.run is None:
            raise RunError("a model file alone has no test part; name the photos to score")
        return held_back(self.run, self.card, strict)

    def _best(self, probabilities: npt.NDArray[np.float64], top: int) -> tuple[tuple[str, float], ...]:
        order = np.argsort(-probabilities, kind="stable")[:top]
        return tuple((self.classes[i], float(probabilities[i])) for i in order)

    def score(self, path: str | Path | None = None, strict: bool = False) -> Score:
        """Accuracy and more on labelled photos: a folder's test part where it has one, every photo otherwise.

        The folder's classes must be the model's. Without a path, the test part that the model's run held back.
        """
        images = self._held_back(strict) if path is None else self._labelled(path, strict)
        loader = Loader(images, self.preprocessing, Augmentation(), batch=BATCH, seed=0, workers=os.cpu_count() or 1)
        tally = evaluate(self._logits, loader, len(self.classes))
        trained_on = self.run.trained_on() if self.run else set()
        return Score(
            tally.accuracy,
            tally.top5,
            tally.loss,
            tally.images,
            self.classes,
            per_class(tally.confusion, self.classes),
            tally.confusion,
            tuple(images.skipped),
            sum(os.path.realpath(name) in trained_on for name in images.names),
        )


def held_back(run: Run, card: Card, strict: bool = False) -> Images:
    """The test part of a run. RunError where it held none back, DataError where the photos cannot be read any more."""
    data, photos = run.data, run.part("test")
    if not photos:
        raise RunError(f"{run.path} held back no test part of {data}; name the photos to score")
    channels, workers = card.input[0], os.cpu_count() or 1
    if not Path(photos[0][0]).is_absolute():  # digits and MNIST, whose parts are fixed
        return open_labelled(data, card.classes, channels=channels, part="test", workers=workers)
    place = str(run.split_file)
    return open_listed(photos, card.classes, channels=channels, place=place, strict=strict, workers=workers)


def located(path: str | Path) -> tuple[Path, Run | None]:
    """The file of a model, given as a run ("runs/latest" is the newest) or as the file, and its run if it has one."""
    path = Path(path)
    if not path.is_dir() and path.name != "latest":
        return path, Run(path.parent) if (path.parent / "split.csv").exists() else None
    run = find_run(path)
    if not run.model_file.exists() and not run.recipe_file.exists():
        raise RunError(f"{run.path} is no run; name the directory that `imori train` wrote, or a model.safetensors")
    if not run.model_file.exists():
        raise RunError(f"{run.path} has no model.safetensors: no epoch was finished; go on with it by --resume")
    return run.model_file, run


def load(
    path: str | Path,
    framework: str | None = None,
    device: str = "auto",
    *,
    weights: str | Path | None = None,
    width: float | None = None,
    size: int | tuple[int, int] | None = None,
    note: Callable[[str], None] = lambda text: None,
    progress: Progress = lambda done, total: None,
) -> Classifier:
    """A trained model from a run ("runs/latest" is the newest), from a model.safetensors or a .onnx of imori's.

    With `weights`, `path` is a network of the catalogue, and they are published ones, as a file or by name; see
    `imori.pretrained.reading.pretrained`, also for the rest. It is built in `framework`, or in the one that trained it
    where that is installed, or in another one that is.
    """
    run = None
    if weights is not None:
        made = pretrained(str(path), weights, width=width, size=size, note=note, progress=progress)
        path, held, card = made.file, made.weights, made.card
    elif (width, size) != (None, None):
        raise RunError(f"{path} has its own size and width; they are chosen for published weights alone")
    elif str(path) in catalogue.CATALOGUE and not Path(path).exists():
        raise RunError(f"{path} is a network without weights; name some: torchvision, timm, keras or a file of theirs")
    else:
        path, run = located(path)
        held, card = read_model(path)
        preprocessing_of(card, path)
    trained_in = card.framework if card.framework in frameworks.names() else None
    if framework is None and trained_in and frameworks.installed(trained_in):
        framework = trained_in
    chosen = frameworks.get(framework)
    place = chosen.device(device)
    native = frameworks.build(card.tree, card.input, frameworks.name_of(chosen), held, device=place)
    return Classifier(native, card, chosen, place, path, run)
