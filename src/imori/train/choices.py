"""What a recipe leaves open, chosen from the network, the weights and the photos."""

from __future__ import annotations

from dataclasses import fields, replace

from imori import catalogue
from imori import tree as t
from imori.data import PhotoFiles, Preprocessing, Splits, statistics
from imori.errors import RecipeError
from imori.pretrained.adapting import in_channels
from imori.shapes import Node, flat
from imori.train.given import A_TREE
from imori.train.recipe import Recipe
from imori.weights import Card

SHARE = 0.875
"""Of a photo's shorter side that the middle crop keeps, as ImageNet's nets are tested."""
EPOCHS, TUNING_EPOCHS = 20, 5
TUNING_RATE = 0.1
"""Of the rate from nothing, what fine-tuning takes: trained weights are near where they shall be."""
FEW = 1_000_000
"""Weights, with which a network of up to eight layers is still a small one, as `deep_convnet` is and AlexNet is not."""
OF_PHASES = {
    "head": ("head", "both"),
    "head_epochs": ("head", "both"),
    "feature_passes": ("head", "both"),
    "freeze": ("tune", "both"),
    "unfreeze_at": ("tune", "both"),
}
"""The choices of a recipe that belong to a phase -> the values of `phases` that have it."""
OF_TUNING = ("epochs", "iterations", "patience", "lr")
"""What `phases` "head" has no use for: the head has rates and epochs of its own."""


def check_phases(recipe: Recipe, given: bool) -> None:
    """RecipeError for choices of phases that do not go together, or that lack weights to start from."""
    phases = recipe.phases or ("both" if given else "none")
    if phases != "none" and not given:
        raise RecipeError(f"phases is {phases}, and there are no weights to start from; name some by --weights")
    usual = {part.name: part.default for part in fields(Recipe)}
    for name, ones in OF_PHASES.items():
        if getattr(recipe, name) != usual[name] and phases not in ones:
            lacking = "without --weights" if not given else f"where phases is {phases}"
            raise RecipeError(f"{name} is {getattr(recipe, name)!r}, which says nothing {lacking}; leave it out")
    for name in OF_TUNING if phases == "head" else ():
        if getattr(recipe, name) is not None:
            other = {"lr": "; the rate of the head is head_lr", "epochs": "; the passes of the head are head_epochs"}
            raise RecipeError(f"{name} is of fine-tuning, and phases is head{other.get(name, '')}")
    if recipe.repeats > 1 and recipe.folds is None:
        raise RecipeError(f"repeats is {recipe.repeats}, and there are no folds to repeat; add folds, as 5")
    if recipe.duplicates != "together" and recipe.folds is None:
        raise RecipeError(f"duplicates is {recipe.duplicates}, and there are no folds to lie in; add folds, as 5")


def with_phases(recipe: Recipe, given: bool, anew: bool) -> Recipe:
    """The recipe with its phases: both for a new classifier on given weights, unless it says otherwise."""
    recipe = replace(recipe, phases=recipe.phases or ("both" if given and anew else "none"))
    check_phases(recipe, given)
    if recipe.phases in ("head", "both"):
        recipe = replace(recipe, head=recipe.head or "linear")
    if recipe.phases in ("tune", "both"):
        recipe = replace(recipe, freeze=recipe.freeze or "norms", epochs=recipe.epochs or TUNING_EPOCHS)
    return recipe if recipe.epochs or recipe.phases == "head" else replace(recipe, epochs=EPOCHS)


def size_of(recipe: Recipe, given: Card | None) -> tuple[int, int]:
    """(height, width) of the input: as chosen, as the given weights have it, or as the network's paper has it."""
    assert recipe.model is not None
    if recipe.size is not None:
        return recipe.size if isinstance(recipe.size, tuple) else (recipe.size, recipe.size)
    if given is not None:
        return given.input[1], given.input[2]
    usual = catalogue.DEFAULT_SIZE if recipe.model == A_TREE else catalogue.size_of(recipe.model)
    return usual, usual


def preprocessed(recipe: Recipe, splits: Splits, given: Card | None) -> tuple[Recipe, Preprocessing]:
    """How a photo becomes the input: as the given weights want it, or fitted to the training photos."""
    assert recipe.model is not None
    size = size_of(recipe, given)
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


def filled(recipe: Recipe, root: Node, splits: Splits) -> Recipe:
    """The recipe with a rate and an augmentation, where it left them open.

    Without norms a deep network of many weights bears a tenth of the rate only.
    """
    layers = [node.layer for node in flat(root)]
    normalised = any(isinstance(layer, t.BatchNorm) for layer in layers)
    depth = sum(isinstance(layer, (t.Conv, t.Depthwise, t.Linear)) for layer in layers)
    shallow = depth <= 6 or (depth <= 8 and sum(node.parameters for node in flat(root)) <= FEW)
    adaptive = recipe.opt in ("adam", "adamw", "rmsprop")
    if normalised or shallow:
        lr = 1e-3 if adaptive else 1e-2 if recipe.opt == "adagrad" else 0.1 * recipe.batch_size / 256
    else:
        lr = 1e-4 if adaptive else 1e-3 if recipe.opt == "adagrad" else 0.01
    lr *= TUNING_RATE if recipe.phases in ("tune", "both") else 1
    return replace(
        recipe,
        lr=lr if recipe.lr is None else recipe.lr,
        crop=(0.35 if _colour_photos(splits) else 1.0) if recipe.crop is None else recipe.crop,
        flip=(0.5 if _colour_photos(splits) else 0.0) if recipe.flip is None else recipe.flip,
    )


def _colour_photos(splits: Splits) -> bool:
    return isinstance(splits.train, PhotoFiles) and splits.channels == 3
