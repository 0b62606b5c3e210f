"""Input that cannot be used, through the command line: one clear sentence, exit code 2, no traceback, nothing lost."""

import gzip
import json
import shlex
import shutil
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imori import frameworks
from imori.weights import read_model, save_model
from imori.weights.file import read_tensors, save_tensors

SHORT = ("--model", "lenet", "--framework", "numpy", "--iterations", 1, "-b", 4)


@pytest.fixture
def refused(command, tmp_path: Path):
    """Checks that `imori train DATA` is refused with these mentions, and that it left no run behind."""

    def check(data: object, *mentions: str, flags: tuple[object, ...] = ()) -> None:
        command("train", data, *SHORT, *flags, "--out", tmp_path / "run").refuses(*mentions)
        assert not (tmp_path / "run").exists()

    return check


@pytest.fixture
def trained(command, tmp_path: Path):
    """Trains, and gives what was said."""

    def run(data: object, *flags: object) -> str:
        answer = command("train", data, *SHORT, *flags, "--out", tmp_path / "run")
        assert answer.code == 0, answer.err
        return answer.out

    return run


# --- folders ----------------------------------------------------------------------------------------------------------


def test_no_such_folder(refused, tmp_path: Path) -> None:
    refused(tmp_path / "nothing", "nothing does not exist", "folder of photos")


def test_no_data(command) -> None:
    command("train").refuses("no data", "digits")


def test_empty_folder(refused, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "empty is empty", "a folder for each class")


def test_photos_without_class_folders(refused, photos) -> None:
    refused(photos("pets", cat=3) / "cat", "pets/cat has photos but no class folders", "named as its class")


def test_one_class(refused, photos) -> None:
    refused(photos("pets", cat=12), "one class only (cat)", "two or more")


def test_empty_class_folder(refused, photos) -> None:
    folder = photos("pets", cat=12, dog=12)
    (folder / "bird").mkdir()
    refused(folder, "bird", "no photos", "remove the folder")


def test_hidden_files_and_folders_are_ignored(trained, photos, tmp_path: Path) -> None:
    folder = photos("pets", cat=12, dog=12)
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / "cat" / ".DS_Store").write_bytes(b"\0\1")
    (folder / "cat" / "._cat0.png").write_bytes(b"\0\1")
    said = trained(folder)
    assert "could not be read" not in said
    listed = (tmp_path / "run" / "split.csv").read_text()
    assert listed.count("\n") == 25
    assert "/._" not in listed


def test_parts_with_other_classes(refused, photos, tmp_path: Path) -> None:
    photos("pets/train", cat=12, dog=12)
    photos("pets/val", cat=3, horse=3)
    refused(tmp_path / "pets", "dog", "horse", "val")


# --- photos -----------------------------------------------------------------------------------------------------------


def spoil(folder: Path, kind: str) -> Path:
    """Puts a photo that cannot be used into the folder's class cat."""
    bad = folder / "cat" / {"bomb": "bad.png", "cut": "cat3.png"}.get(kind, "bad.jpg")
    match kind:
        case "cut":
            bad.write_bytes(bad.read_bytes()[:900])
        case "empty":
            bad.write_bytes(b"")
        case "text":
            bad.write_text("this is no picture")
        case "bomb":
            Image.fromarray(np.zeros((14_000, 14_000), np.uint8)).save(bad)
    return bad


@pytest.mark.parametrize("kind", ["cut", "empty", "text", "bomb"])
def test_a_bad_photo_is_named_and_counted(trained, photos, kind: str, tmp_path: Path) -> None:
    folder = photos("pets", cat=12, dog=12)
    bad = spoil(folder, kind)
    before = sorted(folder.rglob("*"))
    said = trained(folder)
    assert str(bad) in said
    assert "1 photo" in said
    assert sorted(folder.rglob("*")) == before, "nothing is deleted"
    assert bad.name not in (tmp_path / "run" / "split.csv").read_text()


@pytest.mark.parametrize("kind", ["cut", "empty", "text", "bomb"])
def test_a_bad_photo_stops_a_strict_run(refused, photos, kind: str) -> None:
    folder = photos("pets", cat=12, dog=12)
    bad = spoil(folder, kind)
    refused(folder, str(bad), flags=("--strict",))


def test_no_photo_can_be_read(refused, photos) -> None:
    folder = photos("pets", cat=2, dog=2)
    for photo in folder.rglob("*.png"):
        photo.write_text("no picture")
    refused(folder, "cat0.png", "no picture")


# --- lists ------------------------------------------------------------------------------------------------------------

LISTS = {
    "no-header": ("list.csv", "cat/cat0.png,cat\n", ("line 1", "path and label")),
    "no-file": ("list.csv", "path,label\ncat/none.png,cat\n", ("line 2", "cat/none.png")),
    "no-label": ("list.csv", "path,label\ncat/cat0.png,\n", ("line 2", "no label")),
    "twice": ("list.csv", "path,label\ncat/cat0.png,cat\ncat/cat0.png,dog\n", ("line 3", "line 2")),
    "unknown-split": ("list.csv", "path,label,split\ncat/cat0.png,cat,later\n", ("line 2", "'later'", "train")),
    "empty": ("list.csv", "path,label\n", ("no photos",)),
    "no-json": ("list.jsonl", "path: cat\n", ("line 1", "JSON")),
    "unknown-kind": ("list.txt", "cat/cat0.png cat\n", ("list.txt", ".csv")),
}


@pytest.mark.parametrize(("name", "text", "mentions"), LISTS.values(), ids=LISTS)
def test_bad_list(refused, photos, name: str, text: str, mentions: tuple[str, ...]) -> None:
    folder = photos("pets", cat=2, dog=2)
    (folder / name).write_text(text)
    refused(folder / name, *mentions)


# --- MNIST's files ----------------------------------------------------------------------------------------------------


def save_mnist(folder: Path, count: int = 40) -> Path:
    """The four files, with noise in place of digits."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for part in ("train", "t10k"):
        images = struct.pack(">4i", 2051, count, 28, 28) + rng.integers(0, 256, 784 * count, np.uint8).tobytes()
        labels = struct.pack(">2i", 2049, count) + (np.arange(count) % 10).astype(np.uint8).tobytes()
        (folder / f"{part}-images-idx3-ubyte").write_bytes(images)
        (folder / f"{part}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(labels))
    return folder


def test_mnist_trains(trained, tmp_path: Path) -> None:
    assert "of 40 images that training never saw" in trained(save_mnist(tmp_path / "mnist"))


def test_mnist_file_missing(refused, tmp_path: Path) -> None:
    folder = save_mnist(tmp_path / "mnist")
    (folder / "t10k-labels-idx1-ubyte.gz").unlink()
    refused(folder, "no t10k-labels file")


def test_mnist_file_cut_short(refused, tmp_path: Path) -> None:
    file = save_mnist(tmp_path / "mnist") / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-100])
    refused(file.parent, "train-images-idx3-ubyte")


# --- choices, recipes, weights, runs ----------------------------------------------------------------------------------

CHOICES = {
    "epochs": (("--epochs", 0), ("epochs is 0", "from 1")),
    "batch": (("-b", 0), ("batch_size is 0", "from 1")),
    "workers": (("--workers", -3), ("workers is -3", "from 1")),
    "negative-rate": (("--lr", -1), ("lr is -1", "from 0")),
    "no-number": (("--lr", "nan"), ("lr is nan", "number")),
    "shares": (("--val", 0.6, "--test", 0.6), ("0.6", "below 1")),
    "flip": (("--flip", 2), ("flip is 2", "from 0 to 1")),
    "momentum-of-adam": (("--opt", "adam", "--momentum", 0.5), ("adam has no momentum",)),
    "unknown-class": (("--class-weights", "horse=2"), ("horse", "cat, dog")),
    "all-zero": (("--class-weights", "cat=0,dog=0"), ("class_weights", "above 0")),
    "too-small": (("--size", 4), ("conv1", "5×5")),
    "device": (("--device", "abacus"), ("'abacus'", "cpu")),
    "variant": (("--variant", "caffe"), ("'caffe'", "paper")),
    "width": (("--width", 0.5), ("lenet has no width multiplier", "mobilenet_v1, mobilenet_v2")),
    "no-width": (("--width", 0), ("width is 0.0", "from 0.05 to 16")),
}


@pytest.mark.parametrize(("flags", "mentions"), CHOICES.values(), ids=CHOICES)
def test_bad_choice(refused, photos, flags: tuple[object, ...], mentions: tuple[str, ...]) -> None:
    refused(photos("pets", cat=12, dog=12), *mentions, flags=flags)


RECIPES = {
    "no-json": ("epochs: 3", ("recipe.json is not JSON",)),
    "unknown-field": ('{"epoch": 3}', ("'epoch'", "epochs")),
    "bad-value": ('{"epochs": "three"}', ("epochs is 'three'", "whole number")),
    "newer": ('{"format": 9, "recipe": {}}', ("format 9", "update imori")),
    "a-list": ("[1, 2]", ("recipe.json", "list")),
}


@pytest.mark.parametrize(("text", "mentions"), RECIPES.values(), ids=RECIPES)
def test_bad_recipe(refused, tmp_path: Path, text: str, mentions: tuple[str, ...]) -> None:
    (tmp_path / "recipe.json").write_text(text)
    refused("digits", *mentions, flags=("--recipe", tmp_path / "recipe.json"))


def test_no_such_recipe(refused, tmp_path: Path) -> None:
    refused("digits", "nothing.json", "cannot be read", flags=("--recipe", tmp_path / "nothing.json"))


def test_weights_of_another_network(refused, digits_run: Path) -> None:
    refused(
        "digits",
        "misshaped: fc2.weight is 64×120 and must be 84×120",
        flags=("--weights", digits_run, "--variant", "paper"),
    )


PUBLISHED = {
    "not-published": (("--weights", "keras", "--model", "resnet18"), ("keras publishes no weights of resnet18",)),
    "unknown-tag": (("--weights", "timm:a9", "--model", "resnet18"), ("'a9'", "a1_in1k, a2_in1k")),
    "unknown-model": (("--weights", "timm", "--model", "resnet19"), ("no model 'resnet19'", "resnet18")),
    "another-variant": (
        ("--weights", "timm", "--model", "resnet50", "--variant", "paper"),
        ("timm is of resnet50's variant timm, and not paper",),
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_that_nobody_has(refused, name: str) -> None:
    flags, mentions = PUBLISHED[name]
    refused("digits", *mentions, flags=flags)


@pytest.mark.parametrize("command_name", ["test", "predict", "train", "show"])
def test_a_model_file_cut_short(command, digits_run: Path, photos, tmp_path: Path, command_name: str) -> None:
    folder = photos("pets", cat=2, dog=2)
    file = tmp_path / "cut.safetensors"
    file.write_bytes((digits_run / "model.safetensors").read_bytes()[:-300])
    arguments = {"train": ("digits", "--weights", file), "show": (file,)}.get(command_name, (file, folder))
    command(command_name, *arguments).refuses("cut.safetensors", "cut short")


@pytest.mark.parametrize("command_name", ["test", "predict", "train", "resume"])
@pytest.mark.parametrize(
    ("changes", "mention"),
    [
        ({"std": [0.0]}, "preprocessing: std is (0.0,); it must be 1 numbers"),
        ({"gamma": 2}, "gamma unknown"),
        ({"size": [64, 64]}, "photos become (1, 64, 64), and its input is (1, 32, 32)"),
    ],
    ids=["impossible", "unknown", "another size"],
)
def test_a_model_file_with_damaged_preprocessing(
    command, digits_run: Path, photos, tmp_path: Path, command_name: str, changes: dict[str, object], mention: str
) -> None:
    run = shutil.copytree(digits_run, tmp_path / "run")
    for name in ("model.safetensors", "last.safetensors"):
        tensors, metadata = read_tensors(run / name)
        damaged = json.dumps(json.loads(metadata["preprocessing"]) | changes)
        save_tensors(run / name, tensors, metadata | {"preprocessing": damaged})
    file = run / "model.safetensors"
    flags = {"train": ("train", "digits", "--weights", file), "resume": ("train", "--resume", run)}
    arguments = flags.get(command_name, (command_name, file, photos("pets", cat=2, dog=2)))
    named = run / "last.safetensors" if command_name == "resume" else file
    command(*arguments).refuses(f"error: {named}: ", mention)


@pytest.mark.parametrize("name", ["a b.keras", "c.npz", "d.pth"])
def test_a_file_of_another_framework(command, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"whatever it is")
    remedy = f"imori convert {shlex.quote(str(tmp_path / name))} --to numpy model.safetensors"
    command("predict", tmp_path / name, tmp_path).refuses("is a file of another framework's", remedy)


def test_a_model_without_preprocessing(command, digits_run: Path, tmp_path: Path) -> None:
    weights, card = read_model(digits_run / "model.safetensors")
    save_model(tmp_path / "published.safetensors", weights, replace(card, preprocessing={}))
    said = ("published.safetensors does not say how a photo becomes the network's input", "imori.read_weights")
    command("predict", tmp_path / "published.safetensors", tmp_path).refuses(*said)
    command("train", "digits", "--weights", tmp_path / "published.safetensors").refuses(*said)


def test_a_model_file_of_others(command, tmp_path: Path) -> None:
    header = json.dumps({"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "theirs.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    command("test", tmp_path / "theirs.safetensors", "digits").refuses("theirs.safetensors", "not written by imori")


def test_a_run_is_never_overwritten(command, digits_run: Path) -> None:
    before = {file.name: file.read_bytes() for file in digits_run.iterdir()}
    command("train", "digits", *SHORT, "--out", digits_run).refuses("holds a run already", "--out", "--resume")
    assert {file.name: file.read_bytes() for file in digits_run.iterdir()} == before


@pytest.mark.parametrize("name", ["model.safetensors", "metrics.csv"])
def test_a_file_of_others_is_never_overwritten(command, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    command("train", "digits", *SHORT, "--out", tmp_path).refuses(
        f"{tmp_path / name} is there already", "another --out"
    )
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [(name, "mine")]


def test_a_folder_that_cannot_be_written(command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    command("train", "digits", *SHORT, "--out", tmp_path / "file" / "run").refuses("file")
    assert (tmp_path / "file").read_text() == "in the way"


def test_a_framework_that_is_not_installed(command, monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setattr(frameworks, "installed", lambda name: name == "numpy")
    command("train", "digits", "--framework", "torch", "--out", tmp_path / "run").refuses(
        "torch is not installed", "imori[torch]"
    )


def test_a_network_with_other_classes_than_the_data(command, photos, tmp_path: Path) -> None:
    (tmp_path / "my_net.py").write_text(
        "from imori.tree import Chain, Flatten, Linear\nSIZE = 8\ndef net():\n"
        "    return Chain(flatten=Flatten(), fc=Linear(5))\n"
    )
    folder = photos("pets", cat=12, dog=12)
    command("train", folder, "--model", f"{tmp_path / 'my_net.py'}:net", "--framework", "numpy").refuses(
        "5", "2 classes: cat, dog"
    )


def test_an_empty_path_is_not_the_working_directory(refused, command, tmp_path: Path) -> None:
    refused("", "no data to train on")
