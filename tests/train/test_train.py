"""Whole runs on the embedded digits and on photos made here."""

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import imori
from imori import tree as t
from imori.errors import ImoriError, RecipeError, RunError, TreeError, WeightsError
from imori.train.report import Silent
from imori.train.run import Run
from imori.weights import read_card, read_model

NET = t.Chain(
    conv1=t.Conv(8, 3, pad=1), relu1=t.ReLU(), pool1=t.MaxPool(2), flatten=t.Flatten(), fc1=t.Linear(10)
)  # fmt: skip
PHOTO_NET = t.Chain(conv1=t.Conv(4, 3, stride=2), relu1=t.ReLU(), pool1=t.GlobalAvgPool(), fc1=t.Linear(2))


class Listener(Silent):
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.rows: list[Mapping[str, Any]] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def epoch(self, row: Mapping[str, Any]) -> None:
        self.rows.append(row)


def train(out: Path, **choices: Any) -> Run:
    usual = {"model": NET, "framework": "numpy", "size": 8, "epochs": 2, "batch_size": 64, "lr": 0.01}
    return imori.train(choices.pop("data", "digits"), out=out, **{**usual, **choices})


def write_photos(folder: Path, count: int = 12, names: tuple[str, ...] = ("cat", "dog")) -> Path:
    rng = np.random.default_rng(1)
    for i, name in enumerate(names):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for k in range(count):
            pixels = (60 + 100 * i + rng.integers(0, 60, (20 + k, 24, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{k}.png")
    return folder


def test_a_run_leaves_everything_that_is_needed(tmp_path: Path) -> None:
    listener = Listener()
    run = train(tmp_path / "run", report=listener)
    assert {path.name for path in run.path.iterdir()} == {
        "recipe.json", "split.csv", "metrics.csv", "model.safetensors", "last.safetensors"
    }  # fmt: skip
    card = read_model(run.model_file)[1]
    assert card.tree == NET
    assert card.classes == tuple("0123456789")
    assert card.input == (1, 8, 8)
    assert card.framework == "numpy"
    assert run.metrics["test_images"] == 359
    assert run.metrics["val_accuracy"] == max(row["val_accuracy"] for row in listener.rows)
    assert [int(row["epoch"]) for row in run.history] == [1, 2]
    assert run.recipe.lr == 0.01
    assert (run.recipe.size, run.recipe.channels, run.recipe.resize) == ((8, 8), 1, "stretch")
    parts = [line.rpartition(",")[2] for line in (run.path / "split.csv").read_text().splitlines()[1:]]
    assert [parts.count(part) for part in ("train", "val", "test")] == [1438 - 144, 144, 359]
    model = imori.load(run.path)
    assert model.score("digits").accuracy == pytest.approx(run.metrics["test_accuracy"])
    assert model.score().accuracy == pytest.approx(run.metrics["test_accuracy"])
    assert model.score("digits").seen == 0


def test_the_best_weights_are_kept_and_not_the_last(tmp_path: Path) -> None:
    # A rate that rises from epoch to epoch until it ruins the network.
    run = train(tmp_path / "run", epochs=3, warmup_epochs=3, lr=0.5)
    best, _ = read_model(run.model_file)
    last = run.read_last()[0]
    accuracies = [float(row["val_accuracy"]) for row in run.history]
    losses = [float(row["val_loss"]) for row in run.history]
    winner = max(range(3), key=lambda i: (accuracies[i], -losses[i]))
    assert winner < 2, "the last epoch must not be the best, or nothing is tested"
    assert run.metrics["epoch"] == winner + 1
    assert any((best[name] != last[name]).any() for name in best)


def test_iterations_take_the_place_of_epochs(tmp_path: Path) -> None:
    run = train(tmp_path / "run", iterations=30)
    assert [int(row["step"]) for row in run.history] == [21, 30]


def test_patience_stops_early(tmp_path: Path) -> None:
    listener = Listener()
    train(tmp_path / "run", epochs=30, lr=0.0, patience=2, report=listener)
    assert len(listener.rows) == 3
    assert "stopped early" in listener.notes[-1]


def test_balanced_class_weights_are_their_formula(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 12)
    for extra in range(100, 120):
        Image.fromarray(np.full((20, 20, 3), 90 + extra % 7, np.uint8)).save(photos / "cat" / f"{extra}.png")
    one = train(tmp_path / "a", data=photos, model=PHOTO_NET, class_weights="balanced", epochs=1)
    counts = [sum(f",{name},train" in line for line in (one.path / "split.csv").read_text().splitlines())
              for name in ("cat", "dog")]  # fmt: skip
    weights = {name: sum(counts) / (2 * n) for name, n in zip(("cat", "dog"), counts, strict=True)}
    other = train(tmp_path / "b", data=photos, model=PHOTO_NET, class_weights=weights, epochs=1)
    plain = train(tmp_path / "c", data=photos, model=PHOTO_NET, epochs=1)
    assert one.read_last()[0]["fc1.bias"].tolist() == pytest.approx(other.read_last()[0]["fc1.bias"].tolist())
    assert one.read_last()[0]["fc1.bias"].tolist() != plain.read_last()[0]["fc1.bias"].tolist()
    with pytest.raises(RecipeError, match=r"names bird; the classes are cat, dog"):
        train(tmp_path / "d", data=photos, model=PHOTO_NET, class_weights={"bird": 2.0})


def test_few_photos_from_nothing_are_warned_of(tmp_path: Path) -> None:
    photos, listener = write_photos(tmp_path / "photos"), Listener()
    run = train(tmp_path / "run", data=photos, model=PHOTO_NET, epochs=1, report=listener)
    assert any("fewer than 1000" in note for note in listener.notes)
    again = Listener()
    imori.train(photos, weights=run.model_file, framework="numpy", epochs=1, out=tmp_path / "again", report=again)
    assert not any("fewer than 1000" in note for note in again.notes)


def test_weights_of_ours_are_the_start_and_bring_net_and_preprocessing(tmp_path: Path) -> None:
    first = train(tmp_path / "first", epochs=1)
    second = imori.train("digits", weights=first.path, framework="numpy", epochs=1, lr=0.0, out=tmp_path / "second")
    (old, old_card), (new, new_card) = read_model(first.model_file), read_model(second.model_file)
    assert all((old[name] == new[name]).all() for name in old)
    assert old_card.tree == new_card.tree
    assert old_card.preprocessing == new_card.preprocessing


def test_a_run_that_is_named_again_keeps_its_form(tmp_path: Path) -> None:
    """The default has the same names and shapes, and pads another side."""
    photos, usual = write_photos(tmp_path / "photos"), {"size": 32, "epochs": 1, "width": 0.35, "lr": 0.0}
    first = train(tmp_path / "a", data=photos, model="mobilenet_v2", variant="keras", **usual)
    listener, usual = Listener(), {"data": photos, "model": "mobilenet_v2", "weights": first.path, "size": 32}
    second = train(tmp_path / "b", **usual, report=listener)
    assert read_card(second.model_file).tree == read_card(first.model_file).tree
    assert not any("another form" in note for note in listener.notes)
    other = train(tmp_path / "c", **usual, variant="default", width=0.35, report=listener)
    assert read_card(other.model_file).tree != read_card(first.model_file).tree
    assert any("was trained in another form of the network" in note for note in listener.notes)


def test_weights_of_another_net_are_refused_by_name(tmp_path: Path) -> None:
    first = train(tmp_path / "first", epochs=1)
    with pytest.raises(WeightsError, match=r"missing: conv2.weight.*misshaped: conv1.weight is 8×1×3×3"):
        train(tmp_path / "second", model="lenet", size=32, weights=first.model_file)
    assert not (tmp_path / "second").exists()


def test_a_net_with_other_outputs_than_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"ends in \(2,\), and the data have 10 classes"):
        train(tmp_path / "run", model=PHOTO_NET)


def test_weights_for_other_classes_start_a_new_classifier_and_nothing_else(tmp_path: Path) -> None:
    first = train(tmp_path / "first", data=write_photos(tmp_path / "photos"), model=PHOTO_NET, epochs=1)
    listener = Listener()
    choices = {"weights": first.path, "framework": "numpy", "phases": "none", "epochs": 1, "lr": 0.0}
    for names in (("cat", "cow", "dog"), ("cow", "newt")):
        data = write_photos(tmp_path / "-".join(names), names=names)
        second = imori.train(data, out=tmp_path / f"run-{len(names)}", report=listener, **choices)
        (old, old_card), (new, card) = read_model(first.model_file), read_model(second.model_file)
        assert card.classes == names
        assert card.preprocessing == old_card.preprocessing
        assert {name for name in old if not np.array_equal(old[name], new[name])} == {"fc1.weight", "fc1.bias"} - (
            {"fc1.bias"} if np.array_equal(old["fc1.bias"], new["fc1.bias"]) else set()
        )
        assert "the classifier starts anew" in listener.notes.pop()


def test_weights_for_other_channels_are_summed(tmp_path: Path) -> None:
    data = write_photos(tmp_path / "photos")
    first = train(tmp_path / "first", data=data, model=PHOTO_NET, epochs=1)
    choices = {"weights": first.path, "framework": "numpy", "epochs": 1, "lr": 0.0}
    grey = imori.train(data, out=tmp_path / "grey", channels=1, **choices)
    (old, _), (new, card) = read_model(first.model_file), read_model(grey.model_file)
    assert np.array_equal(new["conv1.weight"], old["conv1.weight"].sum(axis=1, keepdims=True))
    assert np.array_equal(new["fc1.weight"], old["fc1.weight"])
    assert card.input == (1, 8, 8)
    assert imori.load(grey.path).score(data).images == 24


def test_a_tree_of_other_classes_than_the_data_is_refused(tmp_path: Path) -> None:
    three = write_photos(tmp_path / "three", names=("cat", "cow", "dog"))
    with pytest.raises(RecipeError, match=r"have 3 classes: cat, cow, dog; a function that takes `classes` is called"):
        train(tmp_path / "second", data=three, model=PHOTO_NET)


def test_weights_that_are_no_file_are_refused(tmp_path: Path) -> None:
    weights: Any = imori.initial_weights(NET, (1, 8, 8))
    with pytest.raises(RecipeError, match=r"weights is a dict; training starts from a file"):
        train(tmp_path / "run", weights=weights)


@pytest.mark.parametrize("model", [None, NET], ids=["none", "a-tree"])
def test_a_checkpoint_of_others_does_not_say_what_it_is_of(tmp_path: Path, model: t.Tree | None) -> None:
    file = tmp_path / "resnet18.pth"
    file.write_bytes(b"PK\3\4" + bytes(100))
    with pytest.raises(RecipeError, match=r"resnet18.pth does not say what network it is of; name it by model"):
        imori.train("digits", model=model, weights=file, framework="numpy", out=tmp_path / "run")


class Unscanned(Silent):
    """Fails the test where photos are looked at."""

    def scan(self, done: int, total: int) -> None:
        raise AssertionError("a photo was looked at")


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"model": "resnet19"}, "no model 'resnet19'"),
        ({"model": "missing.py:net"}, "missing.py cannot be read"),
        ({"model": "lenet", "variant": "papre"}, "lenet has no variant 'papre'"),
        ({"model": "lenet", "width": 0.5}, "lenet has no width multiplier"),
        ({"model": "resnet18", "framework": "caffe"}, "no framework 'caffe'"),
        ({"model": "lenet", "device": "abacus"}, "no device 'abacus'"),
        ({"model": "alexnet", "size": 20}, "smallest input of this network is"),
        ({"model": "a tree"}, "given as a tree, which a recipe does not hold; name one by --model"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_what_no_photos_could_mend_is_refused_before_they_are_looked_at(
    tmp_path: Path, choices: dict[str, Any], message: str
) -> None:
    photos = write_photos(tmp_path / "photos", 3)
    with pytest.raises(ImoriError, match=message):
        imori.train(photos, **{"framework": "numpy", **choices}, report=Unscanned(), out=tmp_path / "run")


def test_a_function_for_some_numbers_of_classes_alone_is_asked_for_the_right_one(tmp_path: Path) -> None:
    file = tmp_path / "net.py"
    file.write_text(
        "from imori.tree import *\ndef net(classes):\n    assert classes == 10\n"
        "    return Chain(Conv(2, 3), Select((0,)), GlobalAvgPool(), Linear(classes))\n"
    )
    run = train(tmp_path / "run", model=f"{file}:net", epochs=1)
    assert run.recipe.model == f"{file}:net"


def test_a_tree_comes_back_with_its_recipe(tmp_path: Path) -> None:
    first = train(tmp_path / "first", epochs=1)
    again = imori.train("digits", recipe=first.recipe_file, out=tmp_path / "again")
    assert (first.model_file.read_bytes()) == again.model_file.read_bytes()
    by_weights = imori.train("digits", recipe=first.recipe, weights=first.path, out=tmp_path / "weights")
    assert read_model(by_weights.model_file)[1].tree == NET
    alone = tmp_path / "alone.json"
    alone.write_bytes(first.recipe_file.read_bytes())
    with pytest.raises(RecipeError, match="given as a tree"):
        imori.train("digits", recipe=alone, out=tmp_path / "other")


def test_a_size_that_the_net_does_not_allow_says_where(tmp_path: Path) -> None:
    with pytest.raises(TreeError, match="conv2"):
        train(tmp_path / "run", model="lenet", size=9)


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    run = train(tmp_path / "run", epochs=1)
    before = run.last_file.read_bytes()
    with pytest.raises(RunError, match="holds a run already"):
        train(tmp_path / "run", epochs=1)
    assert run.last_file.read_bytes() == before


class Second(Silent):
    """Starts another run while the photos of this one are looked at."""

    def __init__(self, **choices: Any) -> None:
        self.choices = choices

    def scan(self, done: int, total: int) -> None:
        if self.choices:
            choices, self.choices = self.choices, {}
            self.run = imori.train(**choices)


def test_runs_that_start_at_once_get_a_directory_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("time.strftime", lambda form: "now")
    photos = write_photos(tmp_path / "photos")
    both: dict[str, Any] = {"data": photos, "model": PHOTO_NET, "framework": "numpy", "size": 8, "epochs": 1}
    second = Second(**both, seed=1)
    first = imori.train(**both, report=second)
    assert (first.path, second.run.path) == (Path("runs/a-tree-now"), Path("runs/a-tree-now-2"))
    assert (first.recipe.seed, second.run.recipe.seed) == (0, 1)
    with pytest.raises(RunError, match=r"another imori train is starting in one; choose another --out"):
        imori.train(**both, out="one", report=Second(**both, out="one"))
    assert not Path("one").exists(), "what a refusal leaves empty is removed"
    Path("one").mkdir()
    Path("one", ".claim").touch()  # as a killed process leaves it
    imori.train(**both, out="one")
    assert not list(Path("one").glob(".*"))


def test_a_refusal_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for out in (tmp_path / "run", tmp_path / "new" / "run"):
        with pytest.raises(TreeError):
            train(out, model="lenet", size=9)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_first_step_that_fails_leaves_no_run(tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos")
    normed = t.Chain(pool=t.GlobalAvgPool(), bn=t.BatchNorm(), fc=t.Linear(2))
    choices: dict[str, Any] = {"data": photos, "model": normed, "iterations": 2}
    with pytest.raises(ImoriError, match="use a larger batch"):
        train(tmp_path / "run", batch_size=1, **choices)
    assert not (tmp_path / "run").exists()
    train(tmp_path / "run", batch_size=8, **choices)


def test_a_loss_that_explodes_stops_the_run_and_keeps_its_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="use a lower --lr"), np.errstate(all="ignore"):
        train(tmp_path / "run", opt="sgd", lr=1e3, epochs=3)
    Run(tmp_path / "run").read_last()


def test_a_full_disk_is_said_and_leaves_no_half_file(tmp_path: Path) -> None:
    script = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
import imori
try:
    imori.train("digits", model="lenet", framework="numpy", epochs=1, out=sys.argv[1])
except imori.ImoriError as error:
    sys.exit(str(error))
"""
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "run")], capture_output=True, text=True)
    assert done.returncode == 1
    assert "last.safetensors could not be written" in done.stderr
    assert "takes no file of this size" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    weights = [
        train(tmp_path / str(i), epochs=1, seed=seed, shift=0.1).read_last()[0] for i, seed in enumerate((4, 4, 5))
    ]
    assert all((weights[0][name] == weights[1][name]).all() for name in weights[0])
    assert (weights[0]["fc1.weight"] != weights[2]["fc1.weight"]).any()


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    one, three = (
        train(tmp_path / str(n), epochs=1, workers=n, shift=0.1, rotate=15.0, erase=0.5).read_last()[0] for n in (1, 3)
    )
    assert all((one[name] == three[name]).all() for name in one)


@pytest.mark.parametrize("choices", [{"model": NET}, {"model": "lenet", "size": 32}], ids=["net", "lenet"])
def test_numpy_and_torch_train_the_same_weights_in_float64(tmp_path: Path, choices: dict[str, Any]) -> None:
    runs = {
        name: train(tmp_path / name, framework=name, precision="float64", epochs=1, **choices).read_last()[0]
        for name in ("numpy", "torch")
    }
    for name, value in runs["numpy"].items():
        assert abs(value - runs["torch"][name]).max() <= 1e-9 * abs(value).max(), name


def test_a_recipe_file_is_read_back_and_choices_go_before_it(tmp_path: Path) -> None:
    first = train(tmp_path / "first", model="lenet", size=32, epochs=1, label_smoothing=0.1)
    second = imori.train("digits", recipe=first.recipe_file, iterations=3, out=tmp_path / "second")
    assert second.recipe.label_smoothing == 0.1
    assert second.recipe.iterations == 3
    assert json.loads(second.recipe_file.read_text())["format"] == 1


def test_unknown_choices_are_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"'learning_rate'.*lr"):
        train(tmp_path / "run", learning_rate=0.1)
