"""`train`: from data and a recipe to a run. It fills in what the recipe leaves open, builds, and starts the loop."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from imori import catalogue, frameworks
from imori import tree as t
from imori.data import Augmentation, Images, Loader, PhotoFiles, Preprocessing, Splits, open_splits, statistics
from imori.errors import RecipeError, RunError, SizeError, TreeError
from imori.frameworks.base import Framework, Setup, Weights
from imori.pretrained.adapting import adapted, in_channels, with_classes
from imori.shapes import Node, flat, resolve
from imori.train.given import A_TREE, Given, given_weights
from imori.train.loop import Job, fit
from imori.train.recipe import Recipe, from_data, read_recipe
from imori.train.report import Report, Silent
from imori.train.run import Progress, Run, claimed, find_run, preprocessing_of
from imori.weights import Card, check, initial_weights, read_card

FEW_PHOTOS = 1000
SHARE = 0.875
"""Of a photo's shorter side that the middle crop keeps, as ImageNet's nets are tested."""


def train(
    data: str | Path | None = None,
    *,
    model: str | os.PathLike[str] | t.Tree | None = None,
    out: str | Path | None = None,
    recipe: Recipe | str | Path | None = None,
    resume: str | Path | None = None,
    weights: str | Path | None = None,
    device: str = "auto",
    workers: int | None = None,
    strict: bool = False,
    report: Report | None = None,
    **choices: Any,
) -> Run:
    """Trains a classifier and returns its run directory.

    Args:
        data: a folder of photos, a CSV or JSON-lines list, a folder with MNIST's four files, or "digits".
        model: a name of the catalogue, "file.py:function", a tree's JSON file, or a tree.
        out: the run directory to make; runs/<model>-<date> unless given.
        recipe: a `Recipe`, or a JSON file with one; `choices` go before it.
        resume: a run to go on with; data and recipe are the run's own.
        weights: what to start from, its preprocessing included: a run or a model.safetensors of the same network; or
            published weights, as a file or by name (see `imori.pretrained.reading.pretrained`). A classifier for other
            classes starts anew, and other `channels` are taken by the first convolution.
        device: "auto", "cpu", "cuda", "mps".
        workers: threads that load photos; as many as there are processors unless given.
        strict: stop at the first photo that cannot be read, where otherwise it is named and left out.
        report: a listener.
        choices: fields of `Recipe`.

    Raises:
        ImoriError: for anything that is wrong with the data, the choices, the weights or the directory.
        KeyboardInterrupt: on Ctrl-C, after the step was finished and saved.
    """
    report = report or Silent()
    if workers is not None and workers < 0:
        raise RecipeError(f"workers is {workers}; it must be a whole number from 1, or 0 for one a processor")
    workers = len(os.sched_getaffinity(0)) if workers is None and hasattr(os, "sched_getaffinity") else workers
    machine = _Machine(device, workers or os.cpu_count() or 1, strict, report)
    if resume is not None:
        others = {"DATA": data, "model": model, "out": out, "recipe": recipe, "weights": weights, **choices}
        given = [name for name, value in others.items() if value is not None]
        if given:
            raise RecipeError(
                f"--resume goes on with a run as it was started, with no other choices; leave out {', '.join(given)}"
            )
        return _resume(find_run(resume), machine)
    if data is None or not str(data):
        raise RecipeError('there are no data to train on; name a folder of photos, or "digits"')
    wanted = read_recipe(recipe) if isinstance(recipe, (str, Path)) else recipe or Recipe()
    model = os.fspath(model) if isinstance(model, os.PathLike) else model
    tree = None if model is None or isinstance(model, str) else model
    if model is None and wanted.model == A_TREE and isinstance(recipe, (str, Path)):
        tree = _tree_beside(Path(recipe))
    named = {"model": model} if isinstance(model, str) else {"model": A_TREE} if tree else {}
    wanted = from_data({**wanted.to_data(), **choices, **named}, "these choices")
    return _start(str(data), wanted, tree, out, weights, machine)


@dataclass(frozen=True)
class _Machine:
    device: str
    workers: int
    strict: bool
    report: Report


def _start(
    data: str,
    recipe: Recipe,
    tree: t.Tree | None,
    out: str | Path | None,
    start_from: str | Path | None,
    machine: _Machine,
) -> Run:
    chosen = frameworks.trainer(recipe.framework)
    chosen.device(machine.device)
    framework = frameworks.name_of(chosen)
    recipe = replace(recipe, framework=framework, engine=frameworks.engine_of(framework, recipe.engine))
    recipe, given = given_weights(recipe, tree, start_from, machine.report)
    name = recipe.model
    if tree is None and name in (None, A_TREE):
        if name == A_TREE and not given:
            raise RecipeError(
                "the network of this recipe was given as a tree, which a recipe does not hold; name one by --model, or"
                " its run by --weights"
            )
        name, tree = (given.card.model or A_TREE, given.card.tree) if given else ("resnet18", None)
        recipe = replace(recipe, model=name)
    assert name is not None, "it is None beside a tree that has the name A_TREE"
    _check_early(recipe, tree, given.card if given else None)
    progress = Progress()
    with claimed([Path(out)] if out else _usual_paths(name)) as run:
        try:
            fit(_begun(data, recipe, tree, given, start_from, run, progress, machine), progress)
        except BaseException:
            if not progress.step:
                run.clear()
            raise
    return run


def _tree_beside(recipe: Path) -> t.Tree | None:
    """The network of the run whose recipe it is; None where that run is not there."""
    file = Run(recipe.parent).last_file
    return read_card(file).tree if file.exists() else None


def _check_early(recipe: Recipe, tree: t.Tree | None, given: Card | None) -> None:
    """Refuses what no photos could mend, before every photo is looked at."""
    assert recipe.model is not None
    size, channels = _size(recipe, given), recipe.channels or 3
    try:
        tree = tree or catalogue.model(recipe.model, 2, channels, recipe.variant, recipe.width)
        resolve(tree, (channels, *size))
    except SizeError:
        raise
    except TreeError:
        return  # perhaps of these numbers of classes and channels alone: the photos have yet to tell theirs


def _begun(
    data: str,
    recipe: Recipe,
    tree: t.Tree | None,
    given: Given | None,
    start_from: str | Path | None,
    run: Run,
    progress: Progress,
    machine: _Machine,
) -> Job:
    """Opens the data, fills in what the recipe leaves open, builds, and writes the beginning of the run."""
    chosen, name = frameworks.get(recipe.framework), recipe.model
    assert name is not None
    recipe = replace(recipe, channels=recipe.channels or (given.card.input[0] if given else None))
    splits = _open(data, recipe, machine)
    classes = tuple(splits.classes)
    recipe = replace(recipe, channels=splits.channels)
    if tree is None:
        tree = catalogue.model(name, len(classes), splits.channels, recipe.variant, recipe.width)
    elif given and tree == given.card.tree:
        tree = with_classes(tree, len(classes))
    recipe, preprocessing = _preprocessing(recipe, splits, given.card if given else None)
    shape = (preprocessing.channels, *preprocessing.size)
    root = resolve(tree, shape)
    if root.output != (len(classes),):
        raise RecipeError(
            f"{name} ends in {root.output}, and the data have {len(classes)} classes: {', '.join(classes[:10])};"
            " a function that takes `classes` is called with their number"
        )
    recipe = _filled(recipe, root, splits)
    if given:
        anew = given.card.classes != classes
        weights = adapted(given.weights, tree, shape, recipe.seed, anew)
        check(weights, root, str(start_from))
        if anew:
            machine.report.note(f"the classifier starts anew: {start_from} was trained on other classes")
    else:
        weights = initial_weights(tree, shape, recipe.seed, recipe.precision)
        if isinstance(splits.train, PhotoFiles) and len(splits.train) < FEW_PHOTOS:
            machine.report.note(
                f"{len(splits.train)} photos train this network from nothing; with fewer than {FEW_PHOTOS}, expect"
                " modest accuracy, and more from more photos or from --weights of a trained model"
            )
    card = Card(tree, shape, classes, preprocessing.to_data(), model=name, framework=frameworks.name_of(chosen))
    job = _job(chosen, recipe, root, weights, card, splits, run, machine)
    progress.fingerprint = _fingerprint(splits)
    run.save_last(weights, job.step.state(), progress, card)
    began = str(given.file.resolve()) if given else None
    run.start(recipe, data if data == "digits" else str(Path(data).resolve()), _parts(splits), began)
    return job


def _resume(run: Run, machine: _Machine) -> Run:
    recipe = run.recipe
    run.sweep()
    weights, memory, progress, card = run.read_last()
    root = resolve(card.tree, card.input)
    check(weights, root, str(run.last_file))
    preprocessing_of(card, run.last_file)
    splits = _open(run.data, recipe, machine)
    if _fingerprint(splits) != progress.fingerprint or tuple(splits.classes) != card.classes:
        raise RunError(
            f"the data in {run.data} are not those that {run.path} was started on (photos were added, removed or"
            " changed); put them back, or start a new run with --weights " + str(run.model_file)
        )
    chosen = frameworks.get(recipe.framework)
    job = _job(chosen, recipe, root, weights, card, splits, run, machine)
    job.step.restore(memory)
    if progress.finished:
        machine.report.note(f"{run.path} is finished: there is nothing left to train")
    fit(job, progress)
    return run


def _usual_paths(model: str) -> Iterator[Path]:
    """Where a run lies that is given no directory: the names to try, one after the other."""
    name = Path(model.partition(":")[0]).stem.replace(" ", "-")
    path = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.name}-{number}")


def _open(data: str, recipe: Recipe, machine: _Machine) -> Splits:
    splits = open_splits(
        data,
        channels=recipe.channels,
        val=recipe.val,
        test=recipe.test,
        seed=recipe.seed,
        strict=machine.strict,
        workers=machine.workers,
        progress=machine.report.scan,
    )
    for note in splits.notes:
        machine.report.note(note)
    for skipped in splits.skipped:
        machine.report.note(f"left out {skipped.path}: {skipped.reason}")
    if splits.skipped:
        machine.report.note(f"{len(splits.skipped)} photos could not be read and were left out")
    return splits


def _size(recipe: Recipe, given: Card | None) -> tuple[int, int]:
    """(height, width) of the input: as chosen, as the given weights have it, or as the network's paper has it."""
    assert recipe.model is not None
    if recipe.size is not None:
        return recipe.size if isinstance(recipe.size, tuple) else (recipe.size, recipe.size)
    if given is not None:
        return given.input[1], given.input[2]
    usual = catalogue.DEFAULT_SIZE if recipe.model == A_TREE else catalogue.size_of(recipe.model)
    return usual, usual


def _preprocessing(recipe: Recipe, splits: Splits, given: Card | None) -> tuple[Recipe, Preprocessing]:
    """How a photo becomes the input: as the given weights want it, or fitted to the training photos."""
    assert recipe.model is not None
    size = _size(recipe, given)
    if given is not None:
        old = in_channels(Preprocessing.from_data(given.preprocessing), splits.channels)
        new = replace(old, size=size)
        kind = old.resize if recipe.resize == "crop" != old.resize != "stretch" else recipe.resize or old.resize
    else:
        kind = recipe.resize or ("crop" if _colour_photos(splits) else "stretch")
        channels = splits.channels
        new = Preprocessing(
            size=size,
            channels=channels,
            share=SHARE,
            mean=(0.0,) * channels,
            std=(1.0,) * channels,
        )
    new = replace(new, resize=kind)
    if given is None:
        mean, std = statistics(splits.train, new)
        new = replace(new, mean=tuple(mean), std=tuple(std))
    return replace(recipe, size=new.size, resize="stretch" if kind == "stretch" else "crop"), new


def _filled(recipe: Recipe, root: Node, splits: Splits) -> Recipe:
    """The recipe with a rate and an augmentation, where it left them open."""
    layers = [node.layer for node in flat(root)]
    normalised = any(isinstance(layer, t.BatchNorm) for layer in layers)
    shallow = sum(isinstance(layer, (t.Conv, t.Depthwise, t.Linear)) for layer in layers) <= 6
    adaptive = recipe.opt in ("adam", "adamw", "rmsprop")
    if normalised or shallow:
        lr = 1e-3 if adaptive else 1e-2 if recipe.opt == "adagrad" else 0.1 * recipe.batch_size / 256
    else:
        lr = 1e-4 if adaptive else 1e-3 if recipe.opt == "adagrad" else 0.01
    return replace(
        recipe,
        lr=lr if recipe.lr is None else recipe.lr,
        crop=(0.35 if _colour_photos(splits) else 1.0) if recipe.crop is None else recipe.crop,
        flip=(0.5 if _colour_photos(splits) else 0.0) if recipe.flip is None else recipe.flip,
    )


def _colour_photos(splits: Splits) -> bool:
    return isinstance(splits.train, PhotoFiles) and splits.channels == 3


def _job(
    chosen: Framework,
    recipe: Recipe,
    root: Node,
    weights: Weights,
    card: Card,
    splits: Splits,
    run: Run,
    machine: _Machine,
) -> Job:
    device = chosen.device(machine.device)
    native = frameworks.build(
        card.tree, card.input, recipe.framework, weights, recipe.precision, device, engine=recipe.engine
    )
    trainable = frozenset(name for name in weights if name.rpartition(".")[2] in ("weight", "bias"))
    setup = Setup(
        recipe.optimizer(),
        trainable,
        decayed=frozenset(name for name in trainable if weights[name].ndim > 1),
        precision=recipe.precision,
        clip=recipe.clip,
    )
    preprocessing = Preprocessing.from_data(card.preprocessing)
    assert recipe.crop is not None
    assert recipe.flip is not None
    augmentation = Augmentation(
        shift=recipe.shift,
        rotate=recipe.rotate,
        crop=recipe.crop,
        flip=recipe.flip,
        colour=recipe.colour,
        erase=recipe.erase,
    )

    def loader(images: Images, augmented: Augmentation) -> Loader:
        return Loader(
            images,
            preprocessing,
            augmented,
            batch=recipe.batch_size,
            seed=recipe.seed,
            workers=machine.workers,
            dtype=recipe.precision,
        )

    return Job(
        recipe=recipe,
        framework=chosen,
        native=native,
        step=chosen.prepare(native, setup),
        training=loader(splits.train, augmentation),
        validation=loader(splits.val, Augmentation()),
        test=None if splits.test is None else loader(splits.test, Augmentation()),
        class_weights=_class_weights(recipe, splits),
        card=card,
        run=run,
        report=machine.report,
    )


def _class_weights(recipe: Recipe, splits: Splits) -> npt.NDArray[np.floating[Any]]:
    classes = tuple(splits.classes)
    weights = np.ones(len(classes), recipe.precision)
    if recipe.class_weights == "balanced":
        counts = np.bincount(splits.train.labels, minlength=len(classes))
        weights[:] = len(splits.train) / (len(classes) * np.maximum(counts, 1))
    elif not isinstance(recipe.class_weights, str):
        unknown = sorted(set(recipe.class_weights) - set(classes))
        if unknown:
            raise RecipeError(f"class_weights names {', '.join(unknown)}; the classes are {', '.join(classes)}")
        for i, name in enumerate(classes):
            weights[i] = recipe.class_weights.get(name, 1.0)
        if not weights.any():
            raise RecipeError("class_weights are all 0; give at least one class a weight above 0")
    return weights


def _parts(splits: Splits) -> Iterator[tuple[str, str, str]]:
    for part, images in (("train", splits.train), ("val", splits.val), ("test", splits.test)):
        if images is not None:
            files = isinstance(images, PhotoFiles)
            for name, label in zip(images.names, images.labels, strict=True):
                yield str(Path(name).absolute()) if files else name, splits.classes[label], part


def _fingerprint(splits: Splits) -> str:
    return f"{splits.train.fingerprint()}-{splits.val.fingerprint()}"
