"""Runs that start from weights of other classes: a head, fine-tuning, folds, and all that can interrupt them."""

import csv
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import imori
from imori import tree as t
from imori.data import Preprocessing
from imori.errors import RecipeError
from imori.train.loop import Interrupted
from imori.train.report import Silent
from imori.train.run import Run
from imori.weights import Card, initial_weights, read_model, save_model

SIZE = (3, 10, 10)
CHOICES = {"epochs": 2, "lr": 0.01, "head_lr": 0.05, "head_epochs": 5, "batch_size": 8, "workers": 2}


class Listener(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def net(classes: int) -> t.Chain:
    return t.Chain(
        conv1=t.Conv(4, 3, pad=1), bn1=t.BatchNorm(), relu1=t.ReLU(), pool1=t.MaxPool(2), conv2=t.Conv(6, 3, pad=1),
        relu2=t.ReLU(), gap=t.GlobalAvgPool(), drop=t.Dropout(0.2), fc=t.Linear(classes),
    )  # fmt: skip


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A model of three other classes."""
    card = Card(net(3), SIZE, ("a", "b", "c"), Preprocessing(SIZE[1:]).to_data(), model="small")
    save_model(tmp_path / "given.safetensors", initial_weights(net(3), SIZE, seed=1), card)
    return tmp_path / "given.safetensors"


def write(folder: Path, count: int = 12) -> Path:
    """Reddish photos and bluish ones."""
    rng = np.random.default_rng(4)
    for i, name in enumerate(("red", "blue")):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for k in range(count):
            pixels = rng.integers(0, 160, (16, 14, 3))
            pixels[..., 2 * i] += 80
            Image.fromarray(pixels.astype(np.uint8)).resize((28, 32)).save(folder / name / f"{k}.png")
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write(tmp_path / "photos")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IMORI_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def train(photos: Path, weights: Path | None, **choices: Any) -> Run:
    usual = {"framework": "torch", "out": photos.parent / "run", **CHOICES}
    return imori.train(photos, weights=weights, **{**usual, **choices})


def only_head(photos: Path, weights: Path | None, **choices: Any) -> Run:
    return train(photos, weights, **{"phases": "head", "epochs": None, "lr": None, **choices})


def test_both_phases_are_the_default_for_other_classes(photos: Path, weights: Path) -> None:
    listener = Listener()
    run = train(photos, weights, report=listener)
    assert run.recipe.phases == "both"
    assert [row["phase"] for row in run.history] == ["head"] * 5 + ["tune"] * 2
    said = "\n".join(listener.notes)
    assert "features are the output of gap, 6 numbers a photo" in said
    assert "the head, linear: " in said
    assert "fine-tuning, 2 epochs: conv2 and what follows train" in said
    best = max((float(row["val_accuracy"]), -float(row["val_loss"])) for row in run.history)
    assert (run.metrics["val_accuracy"], -run.metrics["val_loss"]) == best
    assert imori.load(run.path).score().accuracy == run.metrics["test_accuracy"]


def test_a_better_head_is_kept(photos: Path, weights: Path) -> None:
    """Fine-tuning at an absurd rate spoils it, and the run keeps the head."""
    run = train(photos, weights, lr=30.0, head_epochs=30)
    assert run.metrics["phase"] == "head"
    head = next(row for row in run.history if row["epoch"] == str(run.metrics["epoch"]))
    assert run.metrics["val_loss"] == float(head["val_loss"])


def test_the_same_classes_train_on_as_before(photos: Path, weights: Path) -> None:
    first = train(photos, weights)
    ordinary = {"head_epochs": None, "head_lr": 1e-3}
    second = train(photos, first.path, out=photos.parent / "second", **ordinary)
    assert second.recipe.phases == "none"
    assert "phase" not in second.history[0]
    tuned = train(photos, first.path, out=photos.parent / "third", phases="tune", **ordinary)
    assert [row["phase"] for row in tuned.history] == ["tune", "tune"]
    before, after = (read_model(run.model_file)[0] for run in (first, tuned))
    assert np.array_equal(before["bn1.mean"], after["bn1.mean"])


def test_the_head_alone_is_a_whole_run(photos: Path, weights: Path) -> None:
    run = only_head(photos, weights)
    assert {path.name for path in run.path.iterdir()} == {
        "recipe.json", "split.csv", "metrics.csv", "model.safetensors", "last.safetensors",
    }  # fmt: skip
    model = imori.load(run.path)
    assert model.score().loss == pytest.approx(run.metrics["test_loss"], rel=1e-5)
    given, made = read_model(weights)[0], read_model(run.model_file)[0]
    assert all(np.array_equal(given[name], made[name]) for name in given if not name.startswith("fc"))
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    imori.train(resume=run.path)
    assert before == {path.name: path.read_bytes() for path in run.path.iterdir()}


def test_features_are_shared_by_runs_and_numbers_by_seeds(
    photos: Path, weights: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from imori.transfer import Extractor

    first = only_head(photos, weights)
    monkeypatch.setattr(Extractor, "_outputs", None)  # nothing is computed any more
    again = only_head(photos, weights, out=photos.parent / "again")
    assert (first.path / "model.safetensors").read_bytes() == (again.path / "model.safetensors").read_bytes()
    other = only_head(photos, weights, out=photos.parent / "other", head="mlp", folds=3, seed=5)
    assert other.recipe.head == "mlp"


def test_augmented_passes_take_turns(photos: Path, weights: Path) -> None:
    plain, augmented = (
        only_head(photos, weights, out=photos.parent / str(passes), feature_passes=passes, crop=0.4, flip=0.5)
        for passes in (0, 2)
    )
    losses = [[float(row["train_loss"]) for row in run.history] for run in (plain, augmented)]
    assert losses[0][0] == losses[1][0], "the first pass is of the photos as they are"
    assert losses[0][1] != losses[1][1]


def test_auxiliary_heads_take_part_in_fine_tuning_alone(photos: Path, tmp_path: Path) -> None:
    def with_aux(classes: int) -> t.Chain:
        head = t.Chain(t.GlobalAvgPool(), t.Linear(classes))
        (*first, (fc, linear)) = net(classes).children
        return t.Chain.of((*first[:5], ("aux", t.Aux(head)), *first[5:], (fc, linear)))  # type: ignore[return-value]

    card = Card(with_aux(3), SIZE, ("a", "b", "c"), Preprocessing(SIZE[1:]).to_data(), model="small")
    given = initial_weights(with_aux(3), SIZE, seed=1)
    save_model(tmp_path / "aux.safetensors", given, card)
    run = train(photos, tmp_path / "aux.safetensors", lr=0.001)
    last, _, _, _ = run.read_last()
    assert last["aux.0.weight"].shape == (2, 6)
    assert np.array_equal(last["conv1.weight"], given["conv1.weight"])
    assert not np.array_equal(last["conv2.weight"], given["conv2.weight"])


def test_float64_is_float64_throughout(photos: Path, weights: Path) -> None:
    run = only_head(photos, weights, precision="float64")
    assert {value.dtype.name for value in read_model(run.model_file)[0].values()} == {"float64"}


# --- interrupted -----------------------------------------------------------------------------------------------------


class Stopping(Silent):
    def __init__(self, where: str) -> None:
        self.where = where

    def features(self, done: int, total: int) -> None:
        if self.where == "features" and done == total:
            raise KeyboardInterrupt

    def folds(self, done: int, total: int) -> None:
        if self.where == "folds" and done == 1:
            raise KeyboardInterrupt


@pytest.mark.parametrize("where", ["features", "folds"])
def test_ctrl_c_before_fine_tuning_leaves_no_run(photos: Path, weights: Path, where: str) -> None:
    with pytest.raises(Interrupted, match="features of the photos so far are kept, and the same command goes on"):
        train(photos, weights, report=Stopping(where), folds=2)
    assert not (photos.parent / "run").exists()
    assert train(photos, weights, folds=2).metrics["val_accuracy"] > 0


SCRIPT = """
import json, sys, time
import imori
from imori.train.report import Silent

class Slow(Silent):
    def step(self, done, total, images_per_second, loss):
        time.sleep({pause})

imori.train(**json.loads(sys.argv[1]), report=Slow())
"""


def test_fine_tuning_that_is_killed_ends_in_the_same_bits(photos: Path, weights: Path) -> None:
    def start(pause: float, **arguments: object) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", SCRIPT.format(pause=pause), json.dumps(arguments)])

    usual = {"data": str(photos), "weights": str(weights), "framework": "numpy", **CHOICES, "epochs": 12}
    usual |= {"checkpoint_steps": 1}
    whole, killed = Run(photos.parent / "whole"), Run(photos.parent / "killed")
    assert start(0, **usual, out=str(whole.path)).wait(60) == 0
    process = start(0.05, **usual, out=str(killed.path))
    while not killed.recipe_file.exists() or killed.read_last()[2].step < 5:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert start(0, resume=str(killed.path)).wait(60) == 0
    for name in ("model.safetensors", "last.safetensors"):
        one, two = (read_tensors(run.path / name) for run in (whole, killed))
        assert all(value.tobytes() == two[key].tobytes() for key, value in one.items()), name
    columns = ("phase", "epoch", "val_loss")
    rows = [[[row[column] for column in columns] for row in run.history] for run in (whole, killed)]
    assert rows[0] == rows[1]


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(path)


# --- folds -----------------------------------------------------------------------------------------------------------


def read_folds(run: Run) -> list[dict[str, str]]:
    with open(run.folds_file, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("phases", ["head", "both", "tune", "none"])
def test_every_photo_but_the_test_photos_is_answered_once_a_repeat(photos: Path, weights: Path, phases: str) -> None:
    listener = Listener()
    tuning = {"epochs": None, "lr": None} if phases == "head" else {}
    heads = {"head_epochs": None, "head_lr": 1e-3} if phases in ("tune", "none") else {}
    run = train(photos, weights, phases=phases, folds=3, repeats=2, report=listener, **tuning, **heads)
    rows = read_folds(run)
    kept = {path for part in ("train", "val") for path, _ in run.part(part)}
    assert len(kept) == 22
    for repeat in ("1", "2"):
        own = [row for row in rows if row["repeat"] == repeat]
        assert sorted(row["path"] for row in own) == sorted(kept)
        for name in ("red", "blue"):
            counts = [sum((row["fold"], row["class"]) == (fold, name) for row in own) for fold in ("1", "2", "3")]
            assert max(counts) - min(counts) <= 1
    right = np.mean([row["class"] == row["predicted"] for row in rows])
    assert any("3 folds, 2 times (mean; " in note and f"{100 * right:.2f} % of 22 photos" in note
               for note in listener.notes)  # fmt: skip


def test_near_duplicates_are_in_one_fold_and_reported(photos: Path, weights: Path) -> None:
    for k in range(6):
        with Image.open(photos / "red" / f"{k}.png") as image:
            image.resize((56, 64)).save(photos / "red" / f"copy{k}.jpg", quality=95)
    listener = Listener()
    run = only_head(photos, weights, folds=4, test=0, val=0.3, report=listener)
    fold = {Path(row["path"]).stem: row["fold"] for row in read_folds(run) if row["class"] == "red"}
    assert len(fold) == 18
    assert [fold[f"copy{k}"] for k in range(6)] == [fold[str(k)] for k in range(6)]
    assert "near duplicates stay in one fold; pairs of them: 6" in listener.notes
    crossing = next(note for note in listener.notes if "near duplicates in two parts" in note)
    assert "copy" in crossing
    assert "(val)" in crossing


def test_a_class_that_lies_in_one_fold_is_said(photos: Path, weights: Path) -> None:
    """Its photos are one picture again and again: no training has it when they are answered."""
    same = sorted((photos / "red").iterdir())
    for path in same[1:]:
        shutil.copyfile(same[0], path)
    listener = Listener()
    run = only_head(photos, weights, folds=4, test=0, val=0.3, report=listener)
    assert len({row["fold"] for row in read_folds(run) if row["class"] == "red"}) == 1
    assert any(note.startswith("of each class: red 0.00 %, blue 1") for note in listener.notes)
    assert any(note.startswith("all photos of red lie in one fold, for they are one, or") for note in listener.notes)
    apart = only_head(photos, weights, out=photos.parent / "apart", folds=4, test=0, val=0.3, duplicates="apart")
    assert {row["fold"] for row in read_folds(apart) if row["class"] == "red"} == set("1234")


# --- refused ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"weights": None, "phases": "head"}, "no weights to start from; name some by --weights"),
        ({"weights": None, "head": "mlp"}, "head is 'mlp', which says nothing without --weights"),
        ({"weights": None, "unfreeze_at": "conv2"}, "unfreeze_at is 'conv2', which says nothing without"),
        ({"phases": "none", "freeze": "norms"}, "freeze is 'norms', which says nothing where phases is none"),
        ({"phases": "tune", "head": "mlp"}, "head is 'mlp', which says nothing where phases is tune"),
        ({"phases": "head", "freeze": "none"}, "freeze is 'none', which says nothing where phases is head"),
        ({"phases": "head", "lr": None}, "epochs is of fine-tuning, and phases is head; the passes of the head"),
        ({"phases": "head", "epochs": None}, "lr is of fine-tuning, and phases is head; the rate of the head"),
        ({"repeats": 2}, "repeats is 2, and there are no folds"),
        ({"duplicates": "apart"}, "duplicates is apart, and there are no folds"),
        ({"folds": 100}, "folds is 100, and there are 22 photos"),
    ],
)
def test_choices_that_do_not_go_together_are_refused(
    photos: Path, weights: Path, choices: dict[str, Any], message: str
) -> None:
    start = choices.pop("weights", weights)
    usual = {} if start else {"model": "lenet", "size": 16}
    if choices.get("phases", "none") in ("none", "tune"):
        usual |= {"head_epochs": None, "head_lr": 1e-3}
    with pytest.raises(RecipeError, match=message):
        train(photos, start, **{**usual, **choices})
    assert not (photos.parent / "run").exists()
