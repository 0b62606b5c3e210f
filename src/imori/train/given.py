"""What a training starts from: a run's weights, a file's, or those that a publisher trained."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from imori import tree as t
from imori.errors import RecipeError
from imori.frameworks.base import Weights
from imori.pretrained.reading import check_name, is_published, pretrained
from imori.train.recipe import Recipe
from imori.train.report import Report
from imori.train.run import find_run, preprocessing_of
from imori.weights import Card, read_model

A_TREE = "a tree"
"""What a recipe and a model file call a network that was given as a value, and so has no name."""


@dataclass(frozen=True)
class Given:
    """Weights to start from, what they are of, and where they stand."""

    weights: Weights
    card: Card
    file: Path


def given_weights(
    recipe: Recipe, tree: t.Tree | None, start_from: str | Path | None, report: Report
) -> tuple[Recipe, Given | None]:
    """The weights to start from, if any, and the recipe with the form of the network that they are of."""
    if start_from is None:
        return recipe, None
    if not isinstance(start_from, (str, os.PathLike)):
        raise RecipeError(
            f"weights is a {type(start_from).__name__}; training starts from a file, a run's or one that"
            " imori.weights.save_model writes"
        )
    if not is_published(start_from):
        path = Path(start_from)
        if path.name != "latest":
            check_name(path)
        file = find_run(path).model_file if path.is_dir() or path.name == "latest" else path
        weights, card = read_model(file)
        preprocessing_of(card, file)
        return recipe, Given(weights, card, file)
    if tree is not None or recipe.model in (None, A_TREE):
        raise RecipeError(f"{start_from} does not say what network it is of; name it by model, as resnet18")
    assert recipe.model is not None
    made = pretrained(
        recipe.model,
        start_from,
        variant=recipe.variant,
        width=recipe.width,
        size=recipe.size,
        note=report.note,
        progress=report.download,
    )
    name = recipe.model.partition("@")[0]
    return replace(recipe, model=name, variant=made.variant, width=made.width), Given(
        made.weights, made.card, made.file
    )
