"""What of a network trains, how fast, and what stays as it is: of fine-tuning the last stages, else everything."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from imori import tree as t
from imori.errors import NameUnknown, RecipeError
from imori.frameworks.base import Setup, Weights
from imori.shapes import Node, flat
from imori.train.recipe import Recipe
from imori.transfer import stages

ALL, NORMS, NONE = "all", "norms", "none"


def setup_of(recipe: Recipe, root: Node, weights: Weights) -> Setup:
    """What a training step is prepared with."""
    kept, rates, frozen = set[str](), dict[str, float](), frozenset[str]()
    if recipe.phases in ("tune", "both"):
        kept = kept_paths(recipe, root)
        pace = _pace(root, recipe.stage_rate)
        rates = {name: pace[name.rpartition(".")[0]] for name in weights}
        norms = {node.path for node in flat(root) if isinstance(node.layer, t.BatchNorm)}
        frozen = frozenset(norms if NORMS in _words(recipe) else norms & kept)
    trainable = frozenset(
        name
        for name in weights
        if name.rpartition(".")[2] in ("weight", "bias") and name.rpartition(".")[0] not in kept
    )
    if not trainable:
        raise RecipeError(f"freeze is {recipe.freeze!r}, and leaves nothing to train; leave some layers out")
    return Setup(
        recipe.optimizer(),
        trainable,
        decayed=frozenset(name for name in trainable if weights[name].ndim > 1),
        rates={name: rates[name] for name in trainable if rates.get(name, 1.0) != 1.0},
        frozen=frozen,
        precision=recipe.precision,
        clip=recipe.clip,
    )


def kept_paths(recipe: Recipe, root: Node) -> set[str]:
    """The layers that fine-tuning leaves as they are: those before `unfreeze_at`, and those that `freeze` names.

    NameUnknown, with the nearest paths, where one of the two names nothing.
    """
    layers = [node.path for node in flat(root) if node.weights]
    start = first_unfrozen(recipe, root)
    kept = set(layers[: layers.index(start)])
    for pattern in set(_words(recipe)) - {NORMS, NONE}:
        found = {path for path in layers if any(fnmatchcase(part, pattern) for part in _above(path))}
        if not found:
            raise NameUnknown(
                f"freeze names {pattern!r}, and no layer with weights is so called; {_near(pattern, root)}"
            )
        kept |= found
    return kept


def first_unfrozen(recipe: Recipe, root: Node) -> str:
    """The first layer with weights that fine-tuning trains."""
    layers = [node.path for node in flat(root) if node.weights]
    if recipe.unfreeze_at == ALL:
        return layers[0]
    if recipe.unfreeze_at is None:
        return stages(root)[-2:][0][0]
    for path in layers:
        if recipe.unfreeze_at in _above(path):
            return path
    raise NameUnknown(
        f"unfreeze_at is {recipe.unfreeze_at!r}, which is no node with weights; {_near(recipe.unfreeze_at, root)}"
    )


def _words(recipe: Recipe) -> Sequence[str]:
    words = [word.strip() for word in (recipe.freeze or NONE).split(",")]
    if NONE in words and len(words) > 1:
        raise RecipeError(f"freeze is {recipe.freeze!r}; none stands by itself")
    return words


def _above(path: str) -> list[str]:
    """The path, and those of the nodes that it is in."""
    segments = path.split(".")
    return [".".join(segments[: i + 1]) for i in range(len(segments))]


def _near(wrong: str, root: Node) -> str:
    known: Iterable[str] = dict.fromkeys(part for node in flat(root) if node.weights for part in _above(node.path))
    near = difflib.get_close_matches(wrong, list(known), n=3, cutoff=0)
    return f"the nearest are {', '.join(near)}"


def _pace(root: Node, factor: float) -> dict[str, float]:
    """By layer what its rate is multiplied by: 1 in the last stage, and `factor` times less in each one below."""
    return {path: factor**below for below, stage in enumerate(reversed(stages(root))) for path in stage}


def explained(recipe: Recipe, root: Node) -> str:
    """What fine-tuning does, in a sentence."""
    kept = kept_paths(recipe, root)
    sizes = {node.path: node.parameters for node in flat(root) if node.weights}
    trained, of = sum(size for path, size in sizes.items() if path not in kept), sum(sizes.values())
    length = f"{recipe.iterations} steps" if recipe.iterations else f"{recipe.epochs} epochs"
    said = (
        f"fine-tuning, {length}: {first_unfrozen(recipe, root)} and what follows train, {trained:,} of {of:,} numbers,"
    )
    said += f" at a rate of {recipe.lr:g} in the head and {recipe.stage_rate:g} times that at each stage below"
    return said + ("; the statistics of batch norms stay" if NORMS in _words(recipe) else "")
