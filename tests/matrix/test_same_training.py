"""The same recipe and seed train alike in every framework: the first fifty losses of a whole run, in float64.

All that `imori.train` does has its part in them: the order of the images and how an epoch's last batch is filled, the
initial weights, the batch norms, the optimizer with its weight decay, and the schedule.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imori
from imori.frameworks.base import Array
from imori.train.report import Silent

STEPS = 50
RECIPES: dict[str, dict[str, Any]] = {
    "lenet": {"opt": "momentum", "weight_decay": 0.01, "schedule": "onecycle", "clip": 2.0, "label_smoothing": 0.1},
    "resnet_mnist_plain": {"opt": "adamw", "size": 8, "batch_size": 8},
}


class Losses(Silent):
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def step(self, done: int, total: int, images_per_second: float, loss: float) -> None:
        self.losses.append(loss)


def trained(name: str, framework: str, out: Path) -> dict[str, Array]:
    """The losses of a run on the digits; LeNet's goes beyond an epoch of 41 steps."""
    report = Losses()
    imori.train(
        "digits", model=name, framework=framework, iterations=STEPS, precision="float64", out=out, device="cpu",
        report=report, **RECIPES[name],
    )  # fmt: skip
    return {"losses": np.array(report.losses)}


@pytest.mark.trains
@pytest.mark.parametrize("name", ["lenet", pytest.param("resnet_mnist_plain", marks=pytest.mark.slow)])
def test_the_same_recipe_and_seed_give_the_same_losses(matrix: Any, name: str, peer: str, tmp_path: Path) -> None:
    ours = trained(name, peer, tmp_path / peer)["losses"]
    tree, what = imori.model(name, 10, 1), f"{STEPS} steps by {RECIPES[name]}"
    theirs = matrix.once(what, tree, (1, 28, 28), lambda: trained(name, "numpy", tmp_path / "numpy"))["losses"]
    assert len(theirs) == STEPS
    assert theirs[-10:].mean() < 0.9 * theirs[:10].mean(), "what does not learn would hide a difference"
    parted = float(np.abs(ours / theirs - 1).max())
    assert parted <= 1e-9
