"""Every paper trains: a short run on real photos, from a fresh start, after which the loss is a third of the first."""

import csv
from functools import lru_cache
from pathlib import Path

import pytest

import imori
from imori.catalogue import list_models
from imori.shapes import smallest

pytest.importorskip("torch", reason="torch is not installed")

# (the rate of Adam, epochs): without batch norms, what is deep or ends in wide dense layers takes small steps.
RECIPES = {"lenet": (1e-3, 120), "googlenet": (1e-4, 40), "nin": (1e-4, 40), "vgg16": (1e-4, 40), "vgg19": (1e-4, 40)}
RECIPES |= dict.fromkeys(("alexnet", "zfnet", "zfnet_gap"), (1e-4, 25))
RECIPES |= dict.fromkeys(("vgg16_bn", "vgg19_bn"), (3e-4, 20))
WITH_BATCH_NORM = (1e-3, 12)


@lru_cache
def size(name: str) -> int:
    """A small input that is a multiple of 16."""
    least = smallest(imori.model(name), 3)
    assert least is not None
    return max(32, -(-least // 16) * 16)


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_the_loss_falls_to_a_third(data_root: Path, tmp_path: Path, name: str) -> None:
    rate, epochs = RECIPES.get(name, WITH_BATCH_NORM)
    run = imori.train(
        data_root / "newts" / "train",
        model=name,
        framework="torch",
        out=tmp_path / "run",
        size=size(name),
        epochs=epochs,
        batch_size=12,
        opt="adam",
        lr=rate,
        schedule="constant",
        crop=1.0,
        flip=0.0,
    )
    with open(run.path / "metrics.csv", encoding="utf-8") as file:
        losses = [float(row["train_loss"]) for row in csv.DictReader(file)]
    assert len(losses) == epochs
    assert sum(losses[-3:]) / 3 <= losses[0] / 3
