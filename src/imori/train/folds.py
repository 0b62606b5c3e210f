"""How well a training is likely to do on new photos: the same training in folds, each tested by the others' photos.

Photos that nearly are copies of each other are in one fold, for a copy among the training photos is no new photo.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

from imori.data import Images, Loader, PhotoFiles, Splits
from imori.data.duplicates import groups, near_pairs
from imori.data.folds import folds
from imori.data.splits import stratify
from imori.errors import RecipeError
from imori.frameworks.base import Array, Weights
from imori.shapes import Node
from imori.train.head import Labelled
from imori.train.jobs import Machine, class_weights, job_of
from imori.train.loop import Interrupted, fit
from imori.train.metrics import softmax, wilson
from imori.train.phases import FirstPhase, begin
from imori.train.recipe import Recipe
from imori.train.report import Silent
from imori.train.run import Progress, Run
from imori.weights import Card, read_model

WORST = 5
"""Classes of which it is said how many photos were answered rightly."""
DUPLICATES = {"together": "stay in one fold", "apart": "lie in any fold, and flatter"}
Indices: TypeAlias = Array
Procedure: TypeAlias = Callable[[Indices, Indices, Indices], Array]
"""Trains on the first photos of the pool, chooses by the second, and gives its logits for the third."""


@dataclass(frozen=True)
class Training:
    """All that a fold trains from."""

    recipe: Recipe
    root: Node
    card: Card
    weights: Weights
    machine: Machine
    phase: FirstPhase | None
    """Of training that begins with a head."""


def try_in_folds(training: Training, splits: Splits, run: Run) -> None:
    """Tries the recipe in folds of the training and validation photos, says how it did, and writes folds.csv."""
    recipe, report = training.recipe, training.machine.report
    pool = splits.train.joined(splits.val)
    count = len(pool) if recipe.folds == "loo" else recipe.folds
    assert count is not None
    if count > len(pool):
        raise RecipeError(f"folds is {count}, and there are {len(pool)} photos to divide; choose fewer, or loo")
    pairs = near_pairs(pool.looks) if isinstance(pool, PhotoFiles) else []
    together = groups(len(pool), pairs if recipe.duplicates == "together" else [])
    procedure = _procedure(training, pool)
    rows: list[tuple[object, ...]] = []
    right, hits, alone = [], np.zeros(len(pool)), set[int]()
    for repeat in range(recipe.repeats):
        fold_of = folds(pool.labels, together, count, recipe.seed + repeat)
        alone |= {label for label in set(pool.labels.tolist()) if len(set(fold_of[pool.labels == label].tolist())) == 1}
        answers = _answers(procedure, pool.labels, fold_of, recipe, report.folds, (repeat, count))
        probabilities = softmax(answers)
        found = probabilities.argmax(axis=1)
        hits += (found == pool.labels) / recipe.repeats
        right.append(float((found == pool.labels).mean()))
        for i, name in enumerate(pool.names):
            path = str(Path(name).absolute()) if isinstance(pool, PhotoFiles) else name
            label, answer = pool.classes[pool.labels[i]], pool.classes[found[i]]
            rows.append((repeat + 1, fold_of[i] + 1, path, label, answer, f"{probabilities[i, found[i]]:.4f}"))
    run.save_folds(rows)
    notes = [*_said(recipe, right, len(pool), count, len(pairs)), *_of_classes(pool, hits, sorted(alone))]
    for note in notes:
        report.note(note)


def _of_classes(pool: Images, hits: Array, alone: list[int]) -> Iterator[str]:
    """`hits` (N,): how often each photo was answered rightly; `alone`: classes that lay in one fold."""
    shares = {name: 100 * float(hits[pool.labels == label].mean()) for label, name in enumerate(pool.classes)}
    worst = sorted(shares, key=lambda name: shares[name])[:WORST]
    kind = "the worst of the classes" if len(shares) > WORST else "of each class"
    yield f"{kind}: {', '.join(f'{name} {shares[name]:.2f} %' for name in worst)}"
    if alone:
        yield (
            f"all photos of {', '.join(pool.classes[label] for label in alone)} lie in one fold, for they are one, or"
            " nearly copies of each other, which --duplicates apart lets lie anywhere: the trainings that answered them"
            " had no photo of the class"
        )


def _said(recipe: Recipe, right: list[float], photos: int, count: int, pairs: int) -> Iterator[str]:
    share = float(np.mean(right))
    low, high = wilson(share, photos)
    kind = "each photo left out once" if count == photos else f"{count} folds"
    kind += f", {recipe.repeats} times (mean; {100 * min(right):.2f} to {100 * max(right):.2f} %)" if right[1:] else ""
    yield (
        f"{kind}: {100 * share:.2f} % of {photos} photos, each answered by a training that never saw it; 95 % interval"
        f" {100 * low:.2f} to {100 * high:.2f} % (Wilson, on the photos)"
    )
    if pairs:
        yield f"near duplicates {DUPLICATES[recipe.duplicates]}; pairs of them: {pairs}"


def _answers(
    procedure: Procedure,
    labels: Array,
    fold_of: Array,
    recipe: Recipe,
    progress: Callable[[int, int], None],
    place: tuple[int, int],
) -> Array:
    """Logits (N, classes) of every photo, by the training of the other folds."""
    repeat, count = place
    answers: Array | None = None
    for fold in range(count):
        progress(repeat * count + fold, recipe.repeats * count)
        held, rest = np.flatnonzero(fold_of == fold), np.flatnonzero(fold_of != fold)
        if len(held):  # groups may be fewer than folds
            train, val = (rest[part] for part in stratify(labels[rest], (recipe.val,), recipe.seed))
            if not (len(train) and len(val)):
                raise RecipeError(
                    f"a fold holds {len(held)} of {len(labels)} photos, which leaves too few to train and to validate"
                    " with; photos that nearly are copies of each other lie in one fold: take more different ones, or"
                    " let them lie anywhere, by --duplicates apart"
                )
            logits = procedure(train, val, held)
            answers = np.zeros((len(labels), logits.shape[1]), logits.dtype) if answers is None else answers
            answers[held] = logits
    progress((repeat + 1) * count, recipe.repeats * count)
    assert answers is not None
    return answers


def _procedure(training: Training, pool: Images) -> Procedure:
    recipe, phase = training.recipe, training.phase
    data = phase.labelled(pool, training=True) if phase else None
    if phase and data and recipe.phases == "head":
        return partial(_by_head, phase, data, pool)
    return partial(_by_loop, training, data, pool)


def _by_head(phase: FirstPhase, data: Labelled, pool: Images, train: Indices, val: Indices, held: Indices) -> Array:
    weights = class_weights(phase.recipe, pool.take(train))
    head = phase.trainer.train(data.take(train), data.take(val), weights)
    return phase.trainer.logits(data.take(held).passes[0], head.weights)


def _by_loop(
    training: Training, data: Labelled | None, pool: Images, train: Indices, val: Indices, held: Indices
) -> Array:
    """As the run itself trains, in a directory of its own that is removed."""
    recipe, phase, weights = training.recipe, training.phase, training.weights
    parts = _divided(pool, train, val)
    machine = replace(training.machine, report=Silent())
    progress = Progress()
    with tempfile.TemporaryDirectory(prefix="imori-fold-") as folder:
        run = Run(Path(folder))
        if phase and data:
            head = phase.trainer.train(data.take(train), data.take(val), class_weights(recipe, parts.train))
            weights = phase.with_head(head.weights)
            begin(run, progress, head, weights, training.card)
        job = job_of(recipe, training.root, weights, training.card, parts, run, machine)
        try:
            fit(job, progress)
        except Interrupted as stop:  # its run is no run to go on with
            raise KeyboardInterrupt from stop
        job.framework.load(job.native, read_model(run.model_file)[0])
    loader: Loader = replace(job.validation, images=pool.take(held))
    found = [job.framework.logits(job.native, batch.images) for batch in loader.evaluation()]
    return np.concatenate(found)[: len(held)]


def _divided(pool: Images, train: Indices, val: Indices) -> Splits:
    """Training and validation photos of a pool, and no test part."""
    return Splits(pool.take(train), pool.take(val), None, pool.classes, pool.channels, (), ())
