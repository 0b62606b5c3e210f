"""`train`: from data and a recipe to a run. It fills in what the recipe leaves open, builds, and starts the loop."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from imori import catalogue, frameworks
from imori import tree as t
from imori.data import PhotoFiles, Splits, open_splits
from imori.data.duplicates import near_pairs
from imori.errors import RecipeError, RunError, SizeError, TreeError
from imori.frameworks.base import Weights
from imori.pretrained.adapting import adapted, with_classes
from imori.pretrained.reading import is_published
from imori.shapes import Shape, resolve
from imori.train.choices import check_phases, filled, preprocessed, size_of, with_phases
from imori.train.folds import Training, try_in_folds
from imori.train.given import A_TREE, Given, given_weights
from imori.train.jobs import Machine, job_of
from imori.train.loop import Job, fit
from imori.train.phases import begin, finish, first_phase, kept_if_stopped
from imori.train.recipe import Recipe, from_data, read_recipe
from imori.train.report import Report, Silent
from imori.train.run import Progress, Run, claimed, find_run, preprocessing_of
from imori.train.tuning import explained
from imori.weights import Card, check, initial_weights, read_card

FEW_PHOTOS = 1000
SHOWN = 3
"""So many pairs of near duplicates are named."""


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
            classes starts anew, and other `channels` are taken by the first convolution. Then training has two phases,
            unless `phases` says otherwise: a head on the features of the rest, and fine-tuning of the last stage.
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
    machine = Machine(device, workers or os.cpu_count() or 1, strict, report)
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


def _start(
    data: str,
    recipe: Recipe,
    tree: t.Tree | None,
    out: str | Path | None,
    start_from: str | Path | None,
    machine: Machine,
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
    if tree is None and given and name == given.card.model and recipe.variant is None and recipe.width is None:
        tree = given.card.tree  # in whatever form it was trained
    _check_early(recipe, tree, given.card if given else None)
    check_phases(recipe, given is not None)
    recipe = replace(recipe, channels=recipe.channels or (given.card.input[0] if given else None))
    progress = Progress()
    with claimed([Path(out)] if out else _usual_paths(name)) as run:
        try:
            splits = _open(data, recipe, machine)
            training = _training(recipe, tree, given, start_from, splits, machine)
            job = _begun(training, splits, data, str(given.file.resolve()) if given else None, run, progress)
            if job is not None:
                fit(job, progress)
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
    size, channels = size_of(recipe, given), recipe.channels or 3
    try:
        tree = tree or catalogue.model(recipe.model, 2, channels, recipe.variant, recipe.width)
        resolve(tree, (channels, *size))
    except SizeError:
        raise
    except TreeError:
        return  # perhaps of these numbers of classes and channels alone: the photos have yet to tell theirs


def _training(
    recipe: Recipe,
    tree: t.Tree | None,
    given: Given | None,
    start_from: str | Path | None,
    splits: Splits,
    machine: Machine,
) -> Training:
    """Fills in what the recipe leaves open, and brings network, weights and photos together."""
    name, classes = recipe.model, tuple(splits.classes)
    assert name is not None
    recipe = replace(recipe, channels=splits.channels)
    if tree is None:
        tree = catalogue.model(name, len(classes), splits.channels, recipe.variant, recipe.width)
    elif given and tree == given.card.tree:
        tree = with_classes(tree, len(classes))
    recipe, preprocessing = preprocessed(recipe, splits, given.card if given else None)
    shape = (preprocessing.channels, *preprocessing.size)
    root = resolve(tree, shape)
    if root.output != (len(classes),):
        raise RecipeError(
            f"{name} ends in {root.output}, and the data have {len(classes)} classes: {', '.join(classes[:10])};"
            " a function that takes `classes` is called with their number"
        )
    anew = given is not None and given.card.classes != classes
    recipe = filled(with_phases(recipe, given is not None, anew), root, splits)
    weights = _first_weights(recipe, tree, shape, given, str(start_from), anew, splits, machine.report)
    phase = None
    if recipe.phases in ("head", "both"):
        phase = first_phase(recipe, tree, shape, weights, anew, preprocessing, machine)
        tree, weights, root = phase.tree, phase.weights, resolve(phase.tree, shape)
    if recipe.phases in ("tune", "both"):
        machine.report.note(explained(recipe, root))
    card = Card(tree, shape, classes, preprocessing.to_data(), model=name, framework=recipe.framework or "")
    return Training(recipe, root, card, weights, machine, phase)


def _begun(
    training: Training, splits: Splits, data: str, began_from: str | None, run: Run, progress: Progress
) -> Job | None:
    """Tries the folds and trains the head, where they are asked for, and writes the beginning of the run.

    None where the run is finished: the head was all of it.
    """
    recipe, weights, card, phase = training.recipe, training.weights, training.card, training.phase
    with kept_if_stopped() if phase else contextlib.nullcontext():
        if recipe.folds is not None:
            try_in_folds(training, splits, run)
        head = phase.trained(splits) if phase else None
    if phase and head:
        weights = phase.with_head(head.weights)
        begin(run, progress, head, weights, card)
    job = None
    if recipe.phases != "head":
        job = job_of(recipe, training.root, weights, card, splits, run, training.machine)
    progress.fingerprint = _fingerprint(splits)
    run.save_last(weights, job.step.state() if job else {}, progress, card)
    if phase and head and not job:
        finish(run, progress, phase, head, card, splits.test)
    run.start(recipe, data if data == "digits" else str(Path(data).resolve()), _parts(splits), began_from)
    return job


def _first_weights(
    recipe: Recipe,
    tree: t.Tree,
    shape: Shape,
    given: Given | None,
    called: str,
    anew: bool,
    splits: Splits,
    report: Report,
) -> Weights:
    """The given weights, with a classifier for these classes; or a start from the seed."""
    if given:
        weights = adapted(given.weights, tree, shape, recipe.seed, anew)
        check(weights, resolve(tree, shape), called)
        if not is_published(called) and with_classes(given.card.tree, len(splits.classes)) != tree:
            report.note(f"{called} was trained in another form of the network, in which its weights give other numbers")
        if anew:
            report.note(f"the classifier starts anew: {called} was trained on other classes")
        return weights
    if isinstance(splits.train, PhotoFiles) and len(splits.train) < FEW_PHOTOS:
        report.note(
            f"{len(splits.train)} photos train this network from nothing; with fewer than {FEW_PHOTOS}, expect modest"
            " accuracy, and more from more photos or from --weights of a trained model"
        )
    return initial_weights(tree, shape, recipe.seed, recipe.precision)


def _resume(run: Run, machine: Machine) -> Run:
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
    if progress.finished:
        machine.report.note(f"{run.path} is finished: there is nothing left to train")
        return run
    job = job_of(recipe, root, weights, card, splits, run, machine)
    job.step.restore(memory)
    fit(job, progress)
    return run


def _usual_paths(model: str) -> Iterator[Path]:
    """Where a run lies that is given no directory: the names to try, one after the other."""
    name = Path(model.partition(":")[0]).stem.replace(" ", "-")
    path = Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    yield path
    for number in itertools.count(2):
        yield path.with_name(f"{path.name}-{number}")


def _open(data: str, recipe: Recipe, machine: Machine) -> Splits:
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
    for note in (*splits.notes, *_duplicates(splits)):
        machine.report.note(note)
    for skipped in splits.skipped:
        machine.report.note(f"left out {skipped.path}: {skipped.reason}")
    if splits.skipped:
        machine.report.note(f"{len(splits.skipped)} photos could not be read and were left out")
    return splits


def _duplicates(splits: Splits) -> Iterator[str]:
    """The note on photos of two parts that look like copies of each other."""
    parts = {"train": splits.train, "val": splits.val, "test": splits.test}
    photos = {name: images for name, images in parts.items() if isinstance(images, PhotoFiles)}
    looks = [look for images in photos.values() for look in images.looks]
    part_of = [name for name, images in photos.items() for _ in images.looks]
    names = [path for images in photos.values() for path in images.names]
    across = [(one, two) for one, two in near_pairs(looks) if part_of[one] != part_of[two]]
    if across:
        shown = ", ".join(f"{names[i]} ({part_of[i]}) and {names[j]} ({part_of[j]})" for i, j in across[:SHOWN])
        yield (
            f"near duplicates in two parts flatter the accuracy; pairs: {len(across)}, {shown}"
            + (" and more" if len(across) > SHOWN else "")
        )


def _parts(splits: Splits) -> Iterator[tuple[str, str, str]]:
    for part, images in (("train", splits.train), ("val", splits.val), ("test", splits.test)):
        if images is not None:
            files = isinstance(images, PhotoFiles)
            for name, label in zip(images.names, images.labels, strict=True):
                yield str(Path(name).absolute()) if files else name, splits.classes[label], part


def _fingerprint(splits: Splits) -> str:
    return f"{splits.train.fingerprint()}-{splits.val.fingerprint()}"
