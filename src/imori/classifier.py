"""A trained model, ready to use: a network with its class names and its preprocessing, or several as one."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from imori import catalogue, frameworks
from imori.data import (
    Images,
    Loader,
    Preprocessing,
    Skipped,
    check_classes,
    find_images,
    open_labelled,
    open_listed,
    open_photo,
)
from imori.data.loader import Batch
from imori.errors import DataError, RunError, WeightsError
from imori.export import export_members, export_onnx
from imori.frameworks.base import Array, Framework, Native, Weights
from imori.pretrained.downloads import Progress
from imori.pretrained.reading import pretrained
from imori.train.metrics import ClassScore, Tally, averaged, per_class, softmax
from imori.train.run import Run, find_run, preprocessing_of
from imori.weights import Card, read_members, save_members

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


class Predictor(ABC):
    """What says what is in a photo, and is scored on labelled ones: a `Classifier`, or an `Ensemble` of several."""

    @abstractmethod
    def networks(self) -> tuple[Classifier, ...]:
        """The networks that answer; where they are several, their probabilities are averaged."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of the logits: the first network's."""
        return self.networks()[0].card.classes

    @property
    def framework_name(self) -> str:
        """The framework that it was built in, or those of its networks."""
        return " and ".join(dict.fromkeys(frameworks.name_of(one.framework) for one in self.networks()))

    def predict(self, paths: str | Path | Iterable[str | Path], top: int = 5, strict: bool = False) -> list[Prediction]:
        """The `top` likeliest classes of each photo; folders and globs are searched.

        A photo that cannot be read has its reason in `error`, or with `strict` raises DataError.
        """
        return list(self.predictions(find_images([paths] if isinstance(paths, (str, Path)) else paths), top, strict))

    def predictions(self, photos: list[str], top: int = 5, strict: bool = False) -> Iterator[Prediction]:
        """As `predict` does, for photos named one by one, batch by batch."""
        each = [one.preprocessing for one in self.networks()]

        def load(path: str) -> list[Array] | DataError:
            opened = functools.cache(functools.partial(open_photo, path))
            try:
                return [preprocessing(opened(preprocessing.channels, preprocessing.least)) for preprocessing in each]
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
                answers: Iterator[Array] = iter(())
                if good:
                    inputs = [np.stack(images) for images in zip(*(one for _, one in good), strict=True)]
                    answers = iter(softmax(averaged(self.answers(inputs, [name for name, _ in good]))))
                for name, one in zip(names, loaded, strict=True):
                    if isinstance(one, DataError):
                        yield Prediction(name, error=str(one))
                    else:
                        yield Prediction(name, self._best(next(answers), top))

    def score(self, path: str | Path | None = None, strict: bool = False) -> Score:
        """Accuracy and more on labelled photos: a folder's test part where it has one, every photo otherwise.

        The folder's classes must be the model's. Without a path, the test part that the model's run held back.
        """
        return self.scores(path, strict)[-1]

    def scores(self, path: str | Path | None = None, strict: bool = False) -> list[Score]:
        """As `score`, of each network by itself, in their order, and last of all together; in one pass."""
        images = self.test_images(path, strict)
        tallies, seen = self._tallied(images), self.seen(images)
        return [
            Score(
                tally.accuracy,
                tally.top5,
                tally.loss,
                tally.images,
                self.classes,
                per_class(tally.confusion, self.classes),
                tally.confusion,
                tuple(images.skipped),
                seen,
            )
            for tally in tallies
        ]

    def test_images(self, path: str | Path | None = None, strict: bool = False) -> Images:
        """The images that `score` scores."""
        return self._held_back(strict) if path is None else self._labelled(path, strict)

    def seen(self, images: Images) -> int:
        """How many of these images the model was trained on, as far as its runs keep a list."""
        trained_on = set().union(*(one.run.trained_on() for one in self.networks() if one.run))
        return sum(os.path.realpath(name) in trained_on for name in images.names)

    def _tallied(self, images: Images) -> list[Tally]:
        """A tally of each network, and last of all together."""
        tallies = [Tally(len(self.classes)) for _ in (*self.networks(), self)]
        for logits, batch in self.answered(images):
            for tally, answers in zip(tallies, (*logits, averaged(logits)), strict=True):
                tally.add(answers, batch.labels, batch.weights)
        return tallies

    def answered(self, images: Images) -> Iterator[tuple[list[Array], Batch]]:
        """Batch by batch the logits (N, classes) of each network, with the batch as the first network sees it.

        An image of weight 0 only fills the last batch.
        """
        with contextlib.ExitStack() as stack:
            streams = []
            for one in self.networks():
                how = one.preprocessing
                loader = Loader(replace(images, channels=how.channels), how, batch=BATCH, workers=os.cpu_count() or 1)
                streams.append(stack.enter_context(contextlib.closing(loader.evaluation())))
            for batches in zip(*streams, strict=True):
                names = [images.names[i] for i in batches[0].indices]
                yield self.answers([batch.images for batch in batches], names), batches[0]

    def answers(self, inputs: Sequence[Array], names: Sequence[str] = ()) -> list[Array]:
        """For each network its preprocessed images (N, C, H, W) -> its logits (N, classes), in the order of `classes`.

        WeightsError where one is not finite; it calls the images by their names.
        """
        found = []
        for one, images in zip(self.networks(), inputs, strict=True):
            logits = one._logits(images, names)
            same = one.classes == self.classes
            found.append(logits if same else logits[:, [one.classes.index(name) for name in self.classes]])
        return found

    def _labelled(self, path: str | Path, strict: bool) -> Images:
        channels = self.networks()[0].preprocessing.channels
        return open_labelled(path, self.classes, channels=channels, strict=strict, workers=os.cpu_count() or 1)

    def _held_back(self, strict: bool) -> Images:
        """The test part of the runs. RunError where a network has no run, or where two held back different photos."""
        runs = [one.run for one in self.networks() if one.run]
        if len(runs) < len(self.networks()):
            raise RunError(
                "a model file alone has no test part; name the photos to score (for imori explain by --data)"
            )
        first, *others = runs
        for other in others:
            if other.tested_on() != first.tested_on():
                raise RunError(
                    f"{first.path} and {other.path} held back different test photos, and so each may have trained on"
                    " the other's; name photos that none of them has seen, or train them on one split, as by: imori"
                    f" train {first.split_file} --seed 1"
                )
        return held_back(first, self.networks()[0].card, strict)

    def _best(self, probabilities: npt.NDArray[np.float64], top: int) -> tuple[tuple[str, float], ...]:
        order = np.argsort(-probabilities, kind="stable")[:top]
        return tuple((self.classes[i], float(probabilities[i])) for i in order)


@dataclass(frozen=True)
class Classifier(Predictor):
    """A model in a framework, with all that its file says."""

    native: Native
    card: Card
    framework: Framework
    device: str
    file: Path
    run: Run | None = None

    def networks(self) -> tuple[Classifier, ...]:
        """Itself alone."""
        return (self,)

    @property
    def preprocessing(self) -> Preprocessing:
        """How a photo becomes the network's input."""
        return Preprocessing.from_data(dict(self.card.preprocessing))

    def _logits(self, images: Array, names: Sequence[str]) -> Array:
        logits = self.framework.logits(self.native, images)
        finite = np.isfinite(logits).all(axis=1)
        if not finite.all():
            photo = names[int(finite.argmin())] if names else "a photo"
            raise WeightsError(
                f"{self.file} answers {photo} with logits that are not finite; training went astray, or the file is"
                " damaged: use another run"
            )
        return logits

    def export_onnx(self, path: str | Path, preprocessing: bool = True) -> None:
        """Writes the model as a file of ONNX: see `imori.export_onnx`."""
        export_onnx(path, self.framework.dump(self.native), self.card, preprocessing)


@dataclass(frozen=True)
class Ensemble(Predictor):
    """Several classifiers as one, whose probabilities are the mean of theirs. They may differ in all but the classes.

    DataError where the classes differ.
    """

    members: tuple[Classifier, ...]

    def __post_init__(self) -> None:
        first = self.members[0]
        for member in self.members[1:]:
            check_classes(str(first.file), first.classes, str(member.file), member.classes)

    def networks(self) -> tuple[Classifier, ...]:
        """The members."""
        return self.members

    def save(self, path: str | Path) -> None:
        """Writes all members into one model file, which `imori.load` reads. An existing file is replaced."""
        save_members(Path(path), self._kept())

    def export_onnx(self, path: str | Path) -> None:
        """Writes the ensemble as one file of ONNX, from photos to probabilities: see `imori.export_onnx`."""
        export_members(path, self._kept())

    def _kept(self) -> list[tuple[Weights, Card]]:
        return [(one.framework.dump(one.native), one.card) for one in self.members]


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
) -> Classifier | Ensemble:
    """A trained model from a run ("runs/latest" is the newest), from a model.safetensors or a .onnx of imori's.

    It is built in `framework`, or in the one that trained it where that is installed, or in another one that is. A file
    that `Ensemble.save` wrote gives an Ensemble, each of whose members is built so. With `weights`, `path` is a network
    of the catalogue, and they are published ones, as a file or by name; see `imori.pretrained.reading.pretrained`, also
    for the rest.
    """
    if weights is not None:
        made = pretrained(str(path), weights, width=width, size=size, note=note, progress=progress)
        return _built(made.weights, made.card, made.file, None, framework, device)
    if (width, size) != (None, None):
        raise RunError(f"{path} has its own size and width; they are chosen for published weights alone")
    if str(path) in catalogue.CATALOGUE and not Path(path).exists():
        raise RunError(f"{path} is a network without weights; name some: torchvision, timm, keras or a file of theirs")
    file, run = located(path)
    held = read_members(file)
    run = run if len(held) == 1 else None  # an ensemble that lies in a run's directory is not what that run trained
    members = [_built(weights, card, file, run, framework, device) for weights, card in held]
    return members[0] if len(members) == 1 else Ensemble(tuple(members))


def ensemble(paths: Sequence[str | Path], framework: str | None = None, device: str = "auto") -> Ensemble:
    """Several runs or model files as one; see `load`. An ensemble among them counts by its members.

    DataError where their classes differ, RunError for fewer than two, or for one that is named twice.
    """
    if isinstance(paths, (str, Path)) or len(paths) < 2:
        raise RunError(f"an ensemble is of two models or more, and {paths!r:.80} is not; name several runs")
    files = [located(path)[0].resolve() for path in paths]
    twice = next((path for path, file in zip(paths, files, strict=True) if files.count(file) > 1), None)
    if twice is not None:
        raise RunError(f"{twice} is named twice; each model of an ensemble counts once")
    found: dict[str, Classifier] = {}
    for path in paths:
        for one in load(path, framework, device).networks():
            known = found.setdefault(_fingerprint(one), one)
            if known is not one:
                raise RunError(f"{path} has the weights of {known.file}; each model of an ensemble counts once")
    return Ensemble(tuple(found.values()))


def _fingerprint(model: Classifier) -> str:
    """The same for models that give the same answers: of equal weights, classes and preprocessing."""
    card = model.card
    digest = hashlib.sha256(repr((card.input, card.classes, card.preprocessing)).encode())
    for name, array in sorted(model.framework.dump(model.native).items()):
        digest.update(f"{name} {array.shape} ".encode() + np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _built(weights: Weights, card: Card, file: Path, run: Run | None, framework: str | None, device: str) -> Classifier:
    trained_in = card.framework if card.framework in frameworks.names() else None
    if framework is None and trained_in and frameworks.installed(trained_in):
        framework = trained_in
    chosen = frameworks.get(framework)
    preprocessing_of(card, file)
    place = chosen.device(device)
    native = frameworks.build(card.tree, card.input, frameworks.name_of(chosen), weights, device=place)
    return Classifier(native, card, chosen, place, file, run)
