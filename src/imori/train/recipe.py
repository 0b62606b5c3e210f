"""Recipe: every choice of a training run in one frozen value, saved with the run and read back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from imori import optimizers
from imori.errors import RecipeError

FORMAT = 1
Schedule = Literal["constant", "step", "cosine", "onecycle"]
Precision = Literal["float32", "float64"]
Phases = Literal["none", "head", "tune", "both"]
Head = Literal["linear", "mlp"]
Duplicates = Literal["together", "apart"]


@dataclass(frozen=True)
class Recipe:
    """How a network is trained. None means: chosen from the network and the data when training starts."""

    model: str | None = None
    variant: str | None = None
    width: float | None = None
    """What multiplies the filters of a network that has a width multiplier, as mobilenet_v2."""
    framework: str | None = None
    engine: str | None = None
    """Of a framework that has a choice: NumPy's "fast" or "plain"."""
    size: int | tuple[int, int] | None = None
    """Height and width of the network's input, in pixels; its paper's unless given."""
    channels: int | None = None
    """1 (grey) or 3 (colour); the photos' own unless given."""
    resize: Literal["crop", "stretch"] | None = None
    """How a photo reaches that size: the middle of it, or all of it out of proportion."""

    phases: Phases | None = None
    """Of training from weights: "head" trains a classifier on the features that the rest gives, "tune" fine-tunes the
    last stages, "both" one after the other, "none" trains everything as from nothing. "both" where the weights are of
    other classes."""
    head: Head | None = None
    """Of the first phase: "linear", which is the network's own last layer, or "mlp", two hidden layers before it."""
    head_epochs: int | None = None
    """Passes over the features; 20, or more of few photos."""
    head_lr: float = 1e-3
    """The highest rate of the first phase."""
    feature_passes: int = 0
    """So many times each photo's features are computed of an augmented photo, beside those of the photo itself."""
    freeze: str | None = None
    """What fine-tuning leaves as it is: "norms", the statistics of batch norms; "none"; or with commas between them
    patterns of paths, as "norms,conv1*"."""
    unfreeze_at: str | None = None
    """The path of the node from which on fine-tuning trains, or "all"; the last stage and the head unless given."""
    stage_rate: float = 0.5
    """Of fine-tuning: what the rate is multiplied by at each stage below the head."""
    folds: int | Literal["loo"] | None = None
    """The same training is tried in so many folds first, each tested by the others; "loo" leaves out one photo each."""
    repeats: int = 1
    """How often, each time in other folds."""
    duplicates: Duplicates = "together"
    """Photos that nearly are copies of each other lie "together" in one fold; or "apart", as chance has it."""

    epochs: int | None = None
    """20; 5 of fine-tuning."""
    iterations: int | None = None
    """Steps in all; takes the place of epochs."""
    batch_size: int = 32
    opt: str = "adamw"
    lr: float | None = None
    """The highest rate of the schedule."""
    momentum: float | None = None
    weight_decay: float | None = None
    schedule: Schedule = "cosine"
    warmup_epochs: float = 0.0
    """Epochs in which the rate rises from nothing; "onecycle" brings its own."""
    step_epochs: float | None = None
    """Of the schedule "step": epochs between two drops; a third of the run unless given."""
    step_factor: float = 0.1
    """Of the schedule "step": what the rate is multiplied by at each drop."""
    label_smoothing: float = 0.0
    class_weights: Literal["none", "balanced"] | Mapping[str, float] = "none"
    """The weight of each class in the loss; "balanced" is images / (classes * images of the class)."""
    clip: float | None = None
    """The largest L2 norm of the whole gradient."""
    patience: int | None = None
    """Epochs without a better validation after which training stops."""

    shift: float = 0.0
    """Up to this share of the height and width."""
    rotate: float = 0.0
    """Up to so many degrees."""
    crop: float | None = None
    """The smallest share of the area that a random crop keeps; 1 crops nothing."""
    flip: float | None = None
    """The probability of a mirrored image."""
    colour: float = 0.0
    """The strength of random brightness, contrast and saturation."""
    erase: float = 0.0
    """The probability that a random rectangle is blotted out."""

    val: float = 0.1
    """The share of the training images held back to choose the best checkpoint, where the data bring none."""
    test: float = 0.1
    """The share of an unsplit folder held back for the one test at the end."""
    precision: Precision = "float32"
    seed: int = 0
    checkpoint_steps: int = 500
    """Steps between two writings of last.safetensors; each epoch ends with one too."""

    def __post_init__(self) -> None:
        if isinstance(self.size, list):
            object.__setattr__(self, "size", tuple(self.size))
        for name, (fits, right) in _RULES.items():
            value = getattr(self, name)
            try:
                good = fits(value)
            except (AttributeError, TypeError):
                good = False
            if not good:
                raise RecipeError(f"{name} is {value!r}; it must be {right}")
        if not isinstance(self.class_weights, str):
            object.__setattr__(self, "class_weights", dict(self.class_weights))
        self.optimizer()

    def optimizer(self) -> optimizers.Optimizer:
        """The optimizer that `opt`, `momentum` and `weight_decay` name."""
        options = {"momentum": self.momentum, "weight_decay": self.weight_decay}
        return optimizers.optimizer(self.opt, **{name: value for name, value in options.items() if value is not None})

    def to_data(self) -> dict[str, Any]:
        """Every field, for JSON."""
        return asdict(self)


def _whole(least: int) -> tuple[Any, str]:
    return (
        lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= least,
        f"a whole number from {least}",
    )


def _between(low: float, high: float, right: str) -> tuple[Any, str]:
    return lambda value: not isinstance(value, bool) and low <= value <= high, right


def _or_none(rule: tuple[Any, str]) -> tuple[Any, str]:
    fits, right = rule
    return lambda value: value is None or fits(value), f"{right}, or left out"


def _one_of(*choices: str) -> tuple[Any, str]:
    return lambda value: value in choices, "one of " + ", ".join(choices)


def _is_size(value: Any) -> bool:
    pair = (value, value) if isinstance(value, int) else value
    return len(pair) == 2 and all(isinstance(n, int) and not isinstance(n, bool) and 1 <= n <= 16384 for n in pair)


def _are_class_weights(value: Any) -> bool:
    if isinstance(value, str):
        return value in ("none", "balanced")
    return all(isinstance(name, str) and not isinstance(n, bool) and 0 <= n < 1e9 for name, n in value.items())


_SHARE = _between(0.0, 0.9, "a share from 0 to 0.9")
_CHANCE = _between(0.0, 1.0, "a probability from 0 to 1")
_TEXT: tuple[Any, str] = (lambda value: isinstance(value, str) and value != "", "a name")
_RULES: dict[str, tuple[Any, str]] = {
    "model": _or_none(_TEXT),
    "variant": _or_none(_TEXT),
    "width": _or_none(_between(0.05, 16.0, "a number from 0.05 to 16")),
    "framework": _or_none(_TEXT),
    "engine": _or_none(_TEXT),
    "size": _or_none((_is_size, "a number of pixels from 1 to 16384, or (height, width)")),
    "channels": _or_none(_whole(1)),
    "resize": _or_none(_one_of("crop", "stretch")),
    "phases": _or_none(_one_of(*get_args(Phases))),
    "head": _or_none(_one_of(*get_args(Head))),
    "head_epochs": _or_none(_whole(1)),
    "head_lr": _between(0.0, 1e3, "a number from 0 to 1000"),
    "feature_passes": _whole(0),
    "freeze": _or_none(_TEXT),
    "unfreeze_at": _or_none(_TEXT),
    "stage_rate": _between(1e-6, 1.0, "a number above 0, to 1"),
    "folds": (lambda value: value in (None, "loo") or _whole(2)[0](value), "a whole number from 2, loo, or left out"),
    "repeats": _whole(1),
    "duplicates": _one_of(*get_args(Duplicates)),
    "epochs": _or_none(_whole(1)),
    "iterations": _or_none(_whole(1)),
    "batch_size": _whole(1),
    "opt": _TEXT,
    "lr": _or_none(_between(0.0, 1e3, "a number from 0 to 1000")),
    "momentum": _or_none(_between(0.0, 1.0, "a number from 0 to 1")),
    "weight_decay": _or_none(_between(0.0, 1e3, "a number from 0 to 1000")),
    "schedule": _one_of(*get_args(Schedule)),
    "warmup_epochs": _between(0.0, 1e6, "a number from 0"),
    "step_epochs": _or_none(_between(1e-6, 1e6, "a number above 0")),
    "step_factor": _between(0.0, 1.0, "a number from 0 to 1"),
    "label_smoothing": _between(0.0, 0.999, "a share from 0, below 1"),
    "class_weights": (_are_class_weights, '"none", "balanced" or a weight from 0 for each class'),
    "clip": _or_none(_between(1e-12, 1e12, "a number above 0")),
    "patience": _or_none(_whole(1)),
    "shift": _between(0.0, 1.0, "a share from 0 to 1"),
    "rotate": _between(0.0, 180.0, "degrees from 0 to 180"),
    "crop": _or_none(_between(0.01, 1.0, "a share of the area from 0.01 to 1")),
    "flip": _or_none(_CHANCE),
    "colour": _between(0.0, 1.0, "a strength from 0 to 1"),
    "erase": _CHANCE,
    "val": _between(1e-6, 0.9, "a share above 0, to 0.9"),
    "test": _SHARE,
    "precision": _one_of(*get_args(Precision)),
    "seed": _whole(0),
    "checkpoint_steps": _whole(1),
}


def from_data(data: Any, source: str = "this recipe") -> Recipe:
    """The recipe that `to_data` gave, or a part of one: fields that are absent take their defaults."""
    if not isinstance(data, dict):
        raise RecipeError(f"{source} must be an object of choices, and is {type(data).__name__}")
    unknown = sorted(set(data) - {part.name for part in fields(Recipe)})
    if unknown:
        known = ", ".join(part.name for part in fields(Recipe))
        raise RecipeError(f"{source} has {', '.join(map(repr, unknown))}, which no recipe has; it may have {known}")
    try:
        return Recipe(**data)
    except RecipeError as error:
        raise RecipeError(f"{source}: {error}") from error


def read_recipe(path: str | Path) -> Recipe:
    """A recipe from a file: a run's recipe.json, or an object of some of its fields."""
    path = Path(path)
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(
            f"{path} cannot be read: {error.strerror}; name a JSON file, as a run's recipe.json"
        ) from error
    except ValueError as error:
        raise RecipeError(f"{path} is not JSON: {error}") from error
    if isinstance(data, dict) and "format" in data:
        if data["format"] != FORMAT:
            raise RecipeError(f"{path} has format {data['format']!r}, and this imori reads {FORMAT}; update imori")
        data = data.get("recipe")
    return from_data(data, str(path))
