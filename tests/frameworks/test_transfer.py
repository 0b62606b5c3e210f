"""Both phases of transfer learning in every framework: the same numbers as NumPy's, and what stays does stay."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import imori
from imori import tree as t
from imori.data import Preprocessing
from imori.train.run import Run
from imori.weights import Card, initial_weights, read_model, save_model

SIZE = (3, 12, 10)


def net(classes: int) -> t.Chain:
    """Two stages and a head; the norms' statistics are no start's, so that freezing them shows."""
    return t.Chain(
        conv1=t.Conv(6, 3, pad=1, bias=False), bn1=t.BatchNorm(), relu1=t.ReLU(), pool1=t.MaxPool(2),
        conv2=t.Conv(8, 3, pad=1, bias=False), bn2=t.BatchNorm(), relu2=t.ReLU(), gap=t.GlobalAvgPool(),
        fc=t.Linear(classes),
    )  # fmt: skip


def trained_file(path: Path) -> Path:
    rng = np.random.default_rng(5)
    weights = initial_weights(net(3), SIZE, seed=3)
    for name in weights:
        if name.endswith((".mean", ".var")):
            weights[name] = (weights[name] + rng.uniform(0.1, 0.6, weights[name].shape)).astype(np.float32)
    how = Preprocessing(SIZE[1:], mean=(0.4, 0.5, 0.45), std=(0.25, 0.25, 0.3))
    save_model(path, weights, Card(net(3), SIZE, ("a", "b", "c"), how.to_data(), model="small"))
    return path


def photos(folder: Path) -> Path:
    rng = np.random.default_rng(1)
    for i, name in enumerate(("cat", "dog")):
        (folder / name).mkdir(parents=True)
        for k in range(14):
            pixels = rng.integers(0, 200, (20 + k, 24, 3))
            pixels[..., i] += 55
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{k}.png")
    return folder


def both_phases(folder: Path, framework: str, **choices: object) -> Run:
    usual = {"head_epochs": 4, "head_lr": 0.02, "epochs": 2, "lr": 0.001, "batch_size": 8, "crop": 1.0, "flip": 0.5}
    return imori.train(
        folder / "photos", weights=folder / "given.safetensors", framework=framework, out=folder / framework,
        workers=2, **{**usual, **choices},
    )  # fmt: skip


@pytest.mark.trains
def test_both_phases_give_numpys_numbers(tmp_path: Path, framework: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMORI_CACHE", str(tmp_path / "cache"))
    photos(tmp_path / "photos")
    given, _ = read_model(trained_file(tmp_path / "given.safetensors"))
    run = both_phases(tmp_path, framework)
    rows = run.history
    assert [(row["phase"], row["epoch"]) for row in rows] == [
        *(("head", str(n)) for n in range(1, 5)), ("tune", "1"), ("tune", "2"),
    ]  # fmt: skip
    last, _, _, _ = run.read_last()
    for name in given:
        role, tuned = name.rpartition(".")[2], name.startswith(("conv2", "bn2"))
        if role in ("mean", "var") or (not tuned and not name.startswith("fc")):
            assert np.array_equal(last[name], given[name]), f"{name} stays"
        elif tuned:
            assert not np.array_equal(last[name], given[name]), f"{name} is trained"
    if framework != "numpy":
        reference = both_phases(tmp_path, "numpy")
        for row, same in zip(rows, reference.history, strict=True):
            for column in ("train_loss", "val_loss"):
                assert float(row[column]) == pytest.approx(float(same[column]), rel=2e-4), (row["phase"], column)
    assert imori.load(run.path, framework).score().accuracy == pytest.approx(run.metrics["test_accuracy"])


@pytest.mark.trains
def test_a_head_of_its_own_is_part_of_the_network(
    tmp_path: Path, framework: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMORI_CACHE", str(tmp_path / "cache"))
    photos(tmp_path / "photos")
    trained_file(tmp_path / "given.safetensors")
    run = both_phases(tmp_path, framework, phases="head", head="mlp", epochs=None, lr=None, folds=2)
    weights, card = read_model(run.model_file)
    assert weights["fc.fc1.weight"].shape == (256, 8)
    assert weights["fc.fc3.weight"].shape == (2, 128)
    assert "fc.weight" not in weights
    assert card.metrics["phase"] == "head"
    assert imori.load(run.path, framework).score().loss == pytest.approx(run.metrics["test_loss"], rel=1e-4)
    assert len((run.path / "folds.csv").read_text().splitlines()) == 1 + 28 - run.metrics["test_images"]
