"""A data set opened: found, checked photo by photo, and divided into training, validation and test."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from imori.data import digits, idx, listing
from imori.data.images import Array, Images, PhotoFiles
from imori.data.listing import WHOLE, Listing, Part
from imori.data.photos import Checked, Skipped, check, check_channels, unusable
from imori.data.threads import Progress, ordered
from imori.errors import DataError, RecipeError

Kind = TypeVar("Kind")
ORDER = ("train", "val", "test")


@dataclass(frozen=True)
class Splits:
    """The parts of a data set. Every photo that was found is in one part, in `skipped`, or counted in `notes`."""

    train: Images
    val: Images
    test: Images | None
    """None where the data bring none and none was to be held back: a test part chooses nothing, it is read last."""
    classes: tuple[str, ...]
    channels: int
    skipped: tuple[Skipped, ...]
    notes: tuple[str, ...]


def open_splits(
    path: str | os.PathLike[str],
    *,
    channels: int | None = None,
    val: float = 0.1,
    test: float = 0.1,
    seed: int = 0,
    strict: bool = False,
    workers: int = 0,
    progress: Progress | None = None,
) -> Splits:
    """Opens a data set for training.

    `path`: a folder of class folders, as it is or within train/, val/ and test/; a CSV or JSON-lines list; a folder
    with the four MNIST files; or the word "digits". Each photo is decoded once to see that it can be: one that cannot
    is left out and named in `skipped`, or raises DataError at once where `strict`. `progress` hears of it.

    What the data do not bring is held back by `seed`, of each class alike: shares `val` and `test` of a whole folder,
    share `val` of a training part that comes alone. A test part that the data bring is never trained on.
    `channels` is 1 where every photo is grey, else 3, unless given. `workers` threads read; 0 is one a core.

    DataError says what is wrong with the data; RecipeError refuses impossible shares.
    """
    if not (0 < val < 1 and 0 <= test < 1 and val + test < 1):
        raise RecipeError(f"val is {val} and test {test}; they are shares: val above 0, together below 1")
    notes: tuple[str, ...] = ()
    found = _in_memory(path, channels)
    if found is None:
        read = listing.read(_path(path))
        _check_trainable(read)
        found, notes = (
            _photos(read.root, read.parts, _train(read).classes, channels, strict, workers, progress),
            read.notes,
        )
    skipped = tuple(one for images in found.values() for one in images.skipped)
    pool = _pool(found, path)
    if "val" not in found:
        shares = {"val": val} | ({"test": test} if WHOLE in found and test else {})
        cut = stratify(pool.labels, tuple(shares.values()), seed)
        found |= {name: pool.take(indices) for name, indices in zip(("train", *shares), cut, strict=True)}
    if not len(found["val"]):
        raise DataError(f"{path}: no class has a second photo to validate with; add photos, at least 3 for each class")
    if "test" in found and not len(found["test"]):
        del found["test"]
        notes += ("there is no test part: no class has a third photo to hold back",)
    parts = {name: found[name] for name in ORDER if name in found}
    for name, images in parts.items():
        if not images.counts().all():
            absent = (label for label, count in zip(images.classes, images.counts(), strict=True) if not count)
            notes += (f"the {name} part has no photo of {_listed(absent)}",)
    return Splits(parts["train"], parts["val"], parts.get("test"), pool.classes, pool.channels, skipped, notes)


def open_labelled(
    path: str | os.PathLike[str],
    classes: Sequence[str],
    *,
    channels: int,
    strict: bool = False,
    part: str | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> Images:
    """Opens labelled images to score a model that knows `classes`, which number the labels.

    Taken is the `part` ("train", "val", "test") that is named; without a name the test part where the data have one,
    and every image otherwise. The digits and MNIST have a fixed test part.
    DataError lists both sides where the data's classes are not the model's.
    """
    if part not in (None, *ORDER):
        raise DataError(f"there is no part {part!r}; there are {', '.join(ORDER)}")
    stored = _in_memory(path, channels)
    if stored is not None:
        images = _chosen(stored, part, path)[0]
        check_classes("the model", classes, str(path), images.classes)
        numbers = np.array([list(classes).index(name) for name in images.classes])
        return replace(images, classes=tuple(classes), labels=numbers[images.labels])
    read = listing.read(_path(path))
    chosen = _chosen(read.parts, part, path)
    for one in chosen:
        check_classes("the model", classes, one.place, one.classes)
    merged = Part(chosen[0].place, tuple(classes), tuple(photo for one in chosen for photo in one.photos))
    found = _photos(read.root, {WHOLE: merged}, tuple(classes), channels, strict, workers, progress)
    return replace(found[WHOLE], notes=read.notes)


def open_listed(
    photos: Sequence[tuple[str, str]],
    classes: Sequence[str],
    *,
    channels: int,
    place: str,
    strict: bool = False,
    workers: int = 0,
) -> Images:
    """Opens photos that are given as (path, class), to score a model that knows `classes`; `place` lists them.

    DataError where a class is none of the model's, or no photo can be used.
    """
    strange = {label for _, label in photos} - set(classes)
    if strange:
        raise DataError(f"{place} has photos of {_listed(strange)}; the model knows {_listed(classes)}")
    part = Part(place, tuple(classes), tuple(photos))
    return _photos("", {WHOLE: part}, part.classes, channels, strict, workers, None)[WHOLE]


def stratify(labels: Array, shares: Sequence[float], seed: int) -> list[Array]:
    """Indices of a first part and of one part for each share, disjoint, complete, each in ascending order.

    Of every class each share is taken alike (rounded), at least one image for each part where the class has enough;
    the first part has one before the others, and an earlier share before a later one. A class is shuffled by
    (seed, class), so that photos added to one class leave the others where they were.
    """
    parts: list[list[Array]] = [[] for _ in range(1 + len(shares))]
    by_class = np.argsort(labels, kind="stable")
    counts = np.bincount(labels) if len(labels) else np.zeros(0, np.int64)
    for label, members in enumerate(np.split(by_class, np.cumsum(counts)[:-1])):
        taken = [max(1, round(share * len(members))) for share in shares]
        while sum(taken) >= max(1, len(members)) and any(taken):
            largest = max(range(len(taken)), key=lambda index: (taken[index], index))
            taken[largest] -= 1
        shuffled = np.random.default_rng([seed, label]).permutation(members)
        *held, rest = np.split(shuffled, np.cumsum(taken))
        for part, piece in zip(parts, (rest, *held), strict=True):
            part.append(piece)
    return [np.sort(np.concatenate([np.zeros(0, np.int64), *pieces])) for pieces in parts]


def check_classes(here: str, mine: Iterable[str], there: str, theirs: Iterable[str]) -> None:
    """DataError that lists both sides unless the two sets of classes are one."""
    mine, theirs = set(mine), set(theirs)
    if mine == theirs:
        return
    only = [f"only {here} has {_listed(mine - theirs)}"] if mine - theirs else []
    only += [f"only {there} has {_listed(theirs - mine)}"] if theirs - mine else []
    raise DataError(
        f"the classes differ: {here} has {_listed(mine)}; {there} has {_listed(theirs)}; {'; '.join(only)}. "
        "Rename, add or remove the class folders (or labels) so that both have the same"
    )


def _listed(names: Iterable[str]) -> str:
    names = sorted(names)
    shown = ", ".join(names[:20])
    return f"{shown} and {len(names) - 20} more" if len(names) > 20 else shown or "none"


def _path(path: str | os.PathLike[str]) -> Path:
    if not os.fspath(path):
        raise DataError("the path of the data is empty; name a folder of photos, a list, or digits")
    return Path(path).expanduser()


def _in_memory(path: str | os.PathLike[str], channels: int | None) -> dict[str, Images] | None:
    """The fixed parts of the digits or of a folder of MNIST files; None for anything else."""
    if channels is not None:
        check_channels(channels)
    if path == digits.NAME:
        return dict(digits.parts(channels or 1))
    folder = _path(path)
    if not folder.is_dir() or not idx.find(folder):
        return None
    return dict(idx.parts(folder, channels or 1))


def _train(read: Listing) -> Part:
    """The part that sets the classes."""
    if WHOLE in read.parts:
        return read.parts[WHOLE]
    if "train" not in read.parts:
        has = " and ".join(read.parts)
        raise DataError(
            f"{read.root} has {has} but no train part; add train/, or rename a folder that is meant as a class"
        )
    return read.parts["train"]


def _check_trainable(read: Listing) -> None:
    """DataError unless there are two classes or more, each has photos, and all parts have the same."""
    train = _train(read)
    if len(train.classes) < 2:
        name = "".join(train.classes)
        raise DataError(
            f"{train.place} has one class only ({name}); a classifier needs two or more. "
            f"If the folders inside {name} are the classes, give that folder instead"
        )
    shown = {label for _, label in train.photos}
    for name in train.classes:
        if name not in shown:
            other = f" ({'; '.join(read.notes)})" if read.notes else ""
            raise DataError(
                f"{train.place}: the class folder {name} has no photos{other}; put photos in or remove the folder"
            )
    for part in read.parts.values():
        check_classes(train.place, train.classes, part.place, part.classes)


def _pool(found: Mapping[str, Images], path: str | os.PathLike[str]) -> Images:
    """The part that trains, or is to be divided. DataError where no photo of it, or of a class of it, is left."""
    pool = found.get(WHOLE, found.get("train"))
    if pool is None:
        raise DataError(f"{path} has the test files but not the training files (train-images, train-labels); add them")
    for name, count in zip(pool.classes, pool.counts(), strict=True):
        if not count:
            left, first = len(pool.skipped), pool.skipped[0]
            raise DataError(
                f"no photo of the class {name} can be used: of {path}, {left} photos were left out, the first "
                f"{first.path}: {first.reason}; put good photos in or remove the class"
            )
    return pool


def _chosen(parts: Mapping[str, Kind], part: str | None, path: str | os.PathLike[str]) -> list[Kind]:
    """The named part, or the test part, or all of them."""
    name = part or ("test" if "test" in parts else None)
    if name is None:
        return list(parts.values())
    if name not in parts:
        raise DataError(f"{path} has no {name} part; it has {_listed(set(parts) - {WHOLE})}")
    return [parts[name]]


def _photos(
    root: str,
    parts: Mapping[str, Part],
    classes: tuple[str, ...],
    channels: int | None,
    strict: bool,
    workers: int,
    progress: Progress | None,
) -> dict[str, Images]:
    """Every photo of the parts decoded once; the good ones as sets that skip the bad ones by name."""

    def checked(path: str) -> Checked:
        result = check(path)
        if strict and result.reason:
            raise unusable(path, result.reason)
        return result

    found = iter(ordered(checked, [path for part in parts.values() for path, _ in part.photos], workers, progress))
    results = {name: [(next(found), label) for _, label in part.photos] for name, part in parts.items()}
    every = [photo for part in results.values() for photo, _ in part]
    for name, part in results.items():
        place = parts[name].place
        if not part:
            raise DataError(f"{place} has no photos; put photos into its class folders, or remove it")
        if all(photo.reason for photo, _ in part):
            first = part[0][0]
            raise DataError(
                f"none of the {len(part)} photos of {place} can be used (the first, {first.path}: {first.reason}); "
                "put good photos in"
            )
    if channels is None:
        channels = 1 if all(photo.grey for photo in every if not photo.reason) else 3
    number = {name: index for index, name in enumerate(classes)}
    sets: dict[str, Images] = {}
    for name, part in results.items():
        good = [(photo, label) for photo, label in part if not photo.reason]
        sets[name] = PhotoFiles(
            classes=classes,
            labels=np.array([number[label] for _, label in good], np.int64),
            names=tuple(photo.path for photo, _ in good),
            channels=channels,
            skipped=tuple(Skipped(photo.path, photo.reason) for photo, _ in part if photo.reason),
            sizes=tuple(photo.bytes for photo, _ in good),
            root=root,
            looks=tuple(photo.look for photo, _ in good),
        )
    return sets
