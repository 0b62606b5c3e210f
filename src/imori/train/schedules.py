"""The rate and the seed of each step, as functions of the step alone: nothing to save, nothing to lose on a resume."""

from __future__ import annotations

from math import cos, pi
from typing import assert_never

import numpy as np

from imori.train.recipe import Recipe

ONECYCLE_RISE = 0.3
ONECYCLE_START = 1 / 25
ONECYCLE_END = 1 / 250_000


def rate_at(recipe: Recipe, step: int, total: int, steps_per_epoch: int) -> float:
    """The rate of step `step` (from 0) of `total`.

    constant; step: times `step_factor` every `step_epochs`; cosine: half a cosine down to 0 (arXiv:1608.03983, without
    restarts); onecycle: up by a cosine over the first 30 %, down to nearly nothing over the rest (arXiv:1708.07120).
    The first three rise linearly from 0 over `warmup_epochs`, and count from their end.
    """
    assert recipe.lr is not None
    if recipe.schedule == "onecycle":
        return recipe.lr * _onecycle(step, total)
    warmup = round(recipe.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return recipe.lr * (step + 1) / (warmup + 1)
    after, length = step - warmup, max(total - warmup, 1)
    match recipe.schedule:
        case "constant":
            return recipe.lr
        case "step":
            drop = length / 3 if recipe.step_epochs is None else recipe.step_epochs * steps_per_epoch
            return float(recipe.lr * recipe.step_factor ** int(after / drop))
        case "cosine":
            return recipe.lr * (1 + cos(pi * after / length)) / 2
        case _:
            assert_never(recipe.schedule)


def _onecycle(step: int, total: int) -> float:
    top = ONECYCLE_RISE * total
    if step < top:
        return _ease(ONECYCLE_START, 1.0, step / top)
    return _ease(1.0, ONECYCLE_END, (step - top) / (total - top))


def _ease(start: float, end: float, share: float) -> float:
    """From `start` to `end` along half a cosine."""
    return end + (start - end) * (1 + cos(pi * share)) / 2


def step_key(seed: int, step: int, rank: int = 0) -> int:
    """A seed for one step's dropout on one process, below 2⁶³."""
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> np.uint64(1))
