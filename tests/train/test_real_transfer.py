"""What a published MobileNet-v2 makes of real photos: the claims of the documents."""

import csv
from pathlib import Path

import numpy as np
import pytest

import imori
from imori.data import Preprocessing, open_splits
from imori.data.splits import stratify
from imori.pretrained.adapting import with_classes
from imori.pretrained.reading import pretrained
from imori.train.head import HeadTrainer, Labelled
from imori.train.recipe import Recipe
from imori.train.run import Run
from imori.transfer import Extractor, parted

pytest.importorskip("h5py")
pytest.importorskip("torch")


@pytest.fixture(scope="module")
def file(data_root: Path) -> Path:
    return data_root / "pretrained" / "mobilenet_v2_1.0_224_imagenet.weights.h5"


def share(run: Run) -> float:
    """Of the photos that their folds answered rightly."""
    with open(run.folds_file, encoding="utf-8", newline="") as rows:
        return float(np.mean([row["class"] == row["predicted"] for row in csv.DictReader(rows)]))


@pytest.mark.slow
def test_a_head_in_five_folds(data_root: Path, file: Path, tmp_path: Path) -> None:
    run = imori.train(
        data_root / "cats_dogs", model="mobilenet_v2", weights=file, phases="head", folds=5, test=0, framework="torch",
        out=tmp_path / "run",
    )  # fmt: skip
    assert share(run) >= 0.98


@pytest.mark.slow
def test_twenty_photos_in_all(data_root: Path, file: Path) -> None:
    """Over twenty draws, scored on all other photos."""
    splits, made = open_splits(data_root / "cats_dogs", test=0), pretrained("mobilenet_v2", file)
    pool = splits.train.joined(splits.val)
    parts = parted(with_classes(made.card.tree, 2), made.card.input)
    how = Preprocessing.from_data(dict(made.card.preprocessing))
    features = Extractor(parts, made.weights, made.card.input, how, "torch").features(pool)
    data = Labelled([features], pool.labels)
    trainer = HeadTrainer(Recipe(framework="torch"), parts.head, parts.shape, parts.start(0, "float32"), "cpu")
    found = []
    for draw in range(20):
        rng = np.random.default_rng(draw)
        ten = [rng.permutation(np.flatnonzero(pool.labels == label))[:10] for label in (0, 1)]
        chosen = np.concatenate(ten)
        train, val = stratify(pool.labels[chosen], (0.1,), 0)
        head = trainer.train(data.take(chosen[train]), data.take(chosen[val]), np.ones(2, np.float32))
        others = np.setdiff1d(np.arange(len(pool)), chosen)
        found.append(trainer.tally(data.take(others), 2, head.weights).accuracy)
    assert np.mean(found) >= 0.95


@pytest.mark.slow
def test_sixteen_photos_of_newts(data_root: Path, file: Path, tmp_path: Path) -> None:
    run = imori.train(
        data_root / "newts", model="mobilenet_v2", weights=file, phases="head", folds="loo", framework="torch",
        out=tmp_path / "run",
    )  # fmt: skip
    assert share(run) >= 15 / 16
