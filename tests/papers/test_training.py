"""Every paper trains: a short run on real photos, from a fresh start, after which the loss is a third of the first."""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest

import imori
from imori import frameworks
from imori.catalogue import list_models
from imori.data import Augmentation, Loader, Preprocessing, open_labelled
from imori.frameworks.base import Setup
from imori.optimizers import optimizer
from imori.shapes import smallest

pytest.importorskip("torch", reason="torch is not installed")

# (the rate of Adam, steps): without batch norms, what is deep or ends in wide dense layers takes small steps.
RECIPES = {"lenet": (1e-3, 120), "googlenet": (1e-4, 40), "nin": (1e-4, 40), "vgg16": (1e-4, 40), "vgg19": (1e-4, 40)}
RECIPES |= {"simple_convnet": (1e-3, 40), "deep_convnet": (1e-3, 60)}
RECIPES |= dict.fromkeys(("alexnet", "zfnet", "zfnet_gap"), (1e-4, 25))
RECIPES |= dict.fromkeys(("vgg16_bn", "vgg19_bn"), (3e-4, 20))
RECIPES |= dict.fromkeys(list_models("resnext101*"), (2e-4, 14))
WITH_BATCH_NORM = (1e-3, 12)


@lru_cache
def size(name: str) -> int:
    """A small input that is a multiple of 16."""
    least = smallest(imori.model(name), 3)
    assert least is not None
    return max(32, -(-least // 16) * 16)


@pytest.mark.slow
@pytest.mark.parametrize("name", list_models())
def test_the_loss_falls_to_a_third(data_root: Path, name: str) -> None:
    rate, steps = RECIPES.get(name, WITH_BATCH_NORM)
    side = size(name)
    photos = open_labelled(data_root / "newts" / "train", ("akahara", "madara"), channels=3)
    native = imori.build(imori.model(name, classes=2), (3, side, side), "torch", seed=0)
    names = frozenset(each for each in imori.dump_weights(native) if each.endswith((".weight", ".bias")))
    step = frameworks.get("torch").prepare(native, Setup(optimizer("adam"), names))
    batches = Loader(
        photos, Preprocessing((side, side), mean=(0.5,) * 3, std=(0.25,) * 3), Augmentation(), batch=len(photos)
    ).training(0, steps)
    losses = [
        step(batch.images, np.eye(2)[batch.labels], batch.weights, rate, key)[0] for key, batch in enumerate(batches)
    ]
    assert len(losses) == steps
    assert sum(losses[-3:]) / 3 <= losses[0] / 3
