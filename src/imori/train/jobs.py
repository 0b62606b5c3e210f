"""From a network, its weights and photos to a `Job` that the loop runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from imori import frameworks
from imori.data import Augmentation, Images, Loader, Preprocessing, Splits
from imori.errors import RecipeError
from imori.frameworks.base import Weights
from imori.shapes import Node
from imori.train.loop import Job
from imori.train.recipe import Recipe
from imori.train.report import Report
from imori.train.run import Run
from imori.train.tuning import setup_of
from imori.weights import Card


@dataclass(frozen=True)
class Machine:
    """Where a run is computed, and who hears of it."""

    device: str
    workers: int
    strict: bool
    report: Report


def job_of(
    recipe: Recipe,
    root: Node,
    weights: Weights,
    card: Card,
    splits: Splits,
    run: Run,
    machine: Machine,
) -> Job:
    """The native model with its step, and the loaders of its photos."""
    chosen = frameworks.get(recipe.framework)
    device = chosen.device(machine.device)
    native = frameworks.build(
        card.tree, card.input, recipe.framework, weights, recipe.precision, device, engine=recipe.engine
    )
    preprocessing = Preprocessing.from_data(card.preprocessing)
    augmentation = augmentation_of(recipe)

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
        step=chosen.prepare(native, setup_of(recipe, root, weights)),
        training=loader(splits.train, augmentation),
        validation=loader(splits.val, Augmentation()),
        test=None if splits.test is None else loader(splits.test, Augmentation()),
        class_weights=class_weights(recipe, splits.train),
        card=card,
        run=run,
        report=machine.report,
    )


def augmentation_of(recipe: Recipe) -> Augmentation:
    """What is changed at random in the training photos."""
    assert recipe.crop is not None
    assert recipe.flip is not None
    return Augmentation(
        shift=recipe.shift,
        rotate=recipe.rotate,
        crop=recipe.crop,
        flip=recipe.flip,
        colour=recipe.colour,
        erase=recipe.erase,
    )


def class_weights(recipe: Recipe, training: Images) -> npt.NDArray[np.floating[Any]]:
    """The weight of each class in the loss. RecipeError for a class that is none."""
    classes = tuple(training.classes)
    weights = np.ones(len(classes), recipe.precision)
    if recipe.class_weights == "balanced":
        counts = np.bincount(training.labels, minlength=len(classes))
        weights[:] = len(training) / (len(classes) * np.maximum(counts, 1))
    elif not isinstance(recipe.class_weights, str):
        unknown = sorted(set(recipe.class_weights) - set(classes))
        if unknown:
            raise RecipeError(f"class_weights names {', '.join(unknown)}; the classes are {', '.join(classes)}")
        for i, name in enumerate(classes):
            weights[i] = recipe.class_weights.get(name, 1.0)
        if not weights.any():
            raise RecipeError("class_weights are all 0; give at least one class a weight above 0")
    return weights
