"""Published weights through the command line: `predict`, `test` and `train` with --weights."""

import json
import os
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import imori
from imori.pretrained.downloads import CACHE, MIRROR
from imori.pretrained.reading import imagenet_classes
from imori.weights import read_model

h5py = pytest.importorskip("h5py")

CATS, DOGS = ({*imagenet_classes()[first:last]} for first, last in ((281, 286), (151, 269)))


@pytest.fixture
def real(data_root: Path) -> Callable[[str], Path]:
    """Real weights: `real("mobilenet_v2_1.0_224")`."""
    return lambda name: data_root / "pretrained" / f"{name}_imagenet.weights.h5"


@pytest.fixture
def pets(data_root: Path) -> list[Path]:
    """Twenty photos of cats, then twenty of dogs."""
    return [data_root / "cats_dogs" / pet / f"{pet}.{i}.jpg" for pet in ("cat", "dog") for i in range(1, 21)]


# --- predict ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "file", "right"),
    [("mobilenet_v2", "mobilenet_v2_1.0_224", 32), ("mobilenet_v1", "mobilenet_0.5_160", 29)],
)
def test_photos_are_named(command, real, pets: list[Path], model: str, file: str, right: int) -> None:
    answer = command("predict", model, "--weights", real(file), "--format", "json", *pets)
    by_name = f"note: {real(file)} is taken to be for 160 pixels, by its name; another size is said by --size\n"
    assert (answer.code, answer.err) == (0, by_name if "160" in file else "")
    first = [one["top"][0]["class"] for one in json.loads(answer.out)]
    assert sum(name in kinds for name, kinds in zip(first, [CATS] * 20 + [DOGS] * 20, strict=True)) >= right


@pytest.fixture
def nameless(real: Callable[[str], Path], tmp_path: Path) -> Path:
    """Weights whose file's name has no size."""
    path = tmp_path / "mine.weights.h5"
    path.symlink_to(real("mobilenet_0.25_128"))
    return path


def test_what_was_taken_for_granted_is_said(command, nameless: Path, pets: list[Path]) -> None:
    answer = command("predict", "mobilenet_v1", "--weights", nameless, "--framework", "numpy", pets[20])
    assert answer.code == 0
    assert (
        "may be for 224, 192, 160, 128 pixels, and is used as the first; name another size, as --size 128" in answer.err
    )
    assert "trained this model" not in answer.err


@pytest.mark.parametrize("command_line", [("predict", "mobilenet_v2", "photo.jpg"), ("train", "digits")])
def test_a_publisher_that_there_is_not(command, command_line: tuple[str, ...]) -> None:
    command(*command_line, "--weights", "kears").refuses("kears is no file", "publishers are torchvision, timm, keras")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_file_that_hdf5_cannot_open_ends_the_process_with_two(real, tmp_path: Path, share: float) -> None:
    whole, damaged = real("mobilenet_0.25_128").read_bytes(), tmp_path / "damaged.h5"
    damaged.write_bytes(whole[: int(share * len(whole))] or b"no HDF5")
    command = [sys.executable, "-m", "imori", "predict", "mobilenet_v1", "--framework", "numpy", "--weights", damaged]
    done = subprocess.run([*command, "photo.jpg"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert f"{damaged} cannot be read" in done.stderr


def test_scored_by_their_names(command, real, pets: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "photos" / "tabby"
    folder.mkdir(parents=True)
    (folder / "a.jpg").symlink_to(pets[0])
    weights = ("--weights", real("mobilenet_0.25_128"), "--size", 128, "--framework", "numpy")
    command("test", "mobilenet_v1", folder.parent, *weights).refuses("classes")


def test_a_network_alone_predicts_nothing(command, pets: list[Path]) -> None:
    command("predict", "mobilenet_v2", pets[0]).refuses(
        "mobilenet_v2 is a network without weights; name some: torchvision, timm, keras or a file of theirs"
    )


def test_a_run_has_its_own_size(command, digits_run: Path) -> None:
    command("predict", digits_run, "--size", 64, "a.png").refuses("has its own size and width")


# --- refused ---------------------------------------------------------------------------------------------------------


def changed(file: Path, path: Path, change: Callable[[h5py.File], None]) -> Path:
    path.write_bytes(file.read_bytes())
    with h5py.File(path, "a") as held:
        change(held)
    return path


def without_bias(held: h5py.File) -> None:
    del held["layers/conv2d_14/vars/1"]


def misshapen(held: h5py.File) -> None:
    del held["layers/conv2d/vars/0"]
    held["layers/conv2d/vars/0"] = np.zeros((3, 3, 3, 9), np.float32)


class Code:
    """What leaves a folder behind when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


def test_a_missing_and_a_misshapen_tensor_are_named(command, real, tmp_path: Path) -> None:
    file = real("mobilenet_0.25_128")
    for change, said in (
        (without_bias, "missing: conv_preds/bias"),
        (misshapen, "misshaped: conv1/kernel is 3×3×3×9 and must be 3×3×3×8"),
    ):
        path = changed(file, tmp_path / f"{change.__name__}.weights.h5", change)
        command("predict", "mobilenet_v1", "--width", 0.25, "--weights", path, "a.jpg").refuses(str(path), said)


def test_a_checkpoint_of_another_network_is_refused_with_names(command, real) -> None:
    file = real("mobilenet_0.25_128")
    command("predict", "mobilenet_v2", "--weights", file, "a.jpg").refuses(
        "missing: Conv1/kernel", "The file looks like mobilenet_v1, and the tree has the layers of mobilenet_v2"
    )
    command("train", "digits", "--model", "resnet50", "--weights", file).refuses("missing: conv1_conv/kernel")


@pytest.mark.parametrize("end", [".weights.h5", ".pth", ".safetensors"])
def test_a_truncated_file_is_refused(command, real, tmp_path: Path, end: str) -> None:
    path = tmp_path / f"cut{end}"
    whole = real("mobilenet_0.25_128").read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if end == ".weights.h5" else b"PK\3\4" + whole[:1000])
    command("predict", "mobilenet_v1", "--weights", path, "a.jpg").refuses(f"cut{end}", "cut short")


def test_code_in_a_file_is_refused_and_does_not_run(command, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    code = pickle.dumps({"conv1.weight": Code(tmp_path / "it-ran")}, protocol=2)
    with zipfile.ZipFile(tmp_path / "new.pth", "w") as archive:
        for member, content in (("data.pkl", code), ("version", b"3\n"), ("byteorder", b"little")):
            archive.writestr(f"new/{member}", content)
    (tmp_path / "old.pth").write_bytes(code)
    for name in ("new.pth", "old.pth"):
        command("predict", "resnet18", "--weights", tmp_path / name, "a.jpg").refuses(name)
    command("train", "digits", "--model", "resnet18", "--weights", tmp_path / "new.pth").refuses(
        "mkdir", "could run code"
    )
    assert not (tmp_path / "it-ran").exists()


@pytest.mark.parametrize("file", ["none.pth", "none.h5", "none.safetensors"])
def test_a_file_that_is_not_there_is_named(command, tmp_path: Path, file: str) -> None:
    command("predict", "vgg16", "--weights", tmp_path / file, "a.jpg").refuses(f"{file} is not there")


def test_without_a_network_a_name_says_what_to_fetch(command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MIRROR, "http://127.0.0.1:1")
    monkeypatch.setenv(CACHE, str(tmp_path))
    for arguments in (("predict", "resnet18", "a.jpg"), ("train", "digits", "--model", "resnet18")):
        command(*arguments, "--weights", "torchvision").refuses(
            "https://download.pytorch.org/models/resnet18-f37072fd.pth could not be downloaded",
            f"put it at {tmp_path}/torchvision/resnet18-f37072fd.pth",
        )
        assert not (tmp_path / "torchvision" / "resnet18-f37072fd.pth").exists()


# --- train -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def run(command, real, photos, tmp_path: Path) -> Iterator[Path]:
    """A run on photos of two classes from real weights, at a rate of 0."""
    weights = ("--model", "mobilenet_v1", "--weights", real("mobilenet_0.25_128"), "--size", 64)
    answer = command(
        "train", photos("pets", cat=6, dog=6), *weights, "--framework", "numpy", "--iterations", 1, "--batch-size", 2,
        "--lr", 0, "--out", tmp_path / "run",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    assert "the classifier starts anew" in answer.out
    return tmp_path / "run"


def test_training_starts_from_published_weights(command, real, run: Path) -> None:
    recipe = json.loads((run / "recipe.json").read_text(encoding="utf-8"))["recipe"]
    assert [recipe[name] for name in ("model", "variant", "width", "size")] == ["mobilenet_v1", "keras", 0.25, [64, 64]]
    weights, card = read_model(run / "model.safetensors")
    assert card.classes == ("cat", "dog")
    assert card.tree == imori.model("mobilenet_v1", 2, variant="keras", width=0.25)
    assert [card.preprocessing[name] for name in ("share", "mean", "std")] == [0.875, [0.5] * 3, [0.5] * 3]
    old = imori.read_weights(
        real("mobilenet_0.25_128"), imori.model("mobilenet_v1", variant="keras", width=0.25), "keras", (3, 64, 64)
    )
    kept = [name for name in old if not name.endswith((".mean", ".var")) and not name.startswith("fc.")]
    assert all(np.array_equal(weights[name], old[name]) for name in kept)
    assert weights["fc.weight"].shape == (2, 256, 1, 1)
    assert command("predict", run, run.parent / "pets").code == 0


# --- convert ---------------------------------------------------------------------------------------------------------


def test_a_published_file_is_converted_with_its_names_and_preprocessing(command, real, pets, tmp_path: Path) -> None:
    weights, out = real("mobilenet_0.25_128"), tmp_path / "model.safetensors"
    answer = command("convert", weights, "--model", "mobilenet_v1", "--size", 128, "--to", "numpy", out)
    assert answer.code == 0, answer.err
    made, published = imori.load(out, "numpy"), imori.load("mobilenet_v1", "numpy", weights=weights, size=128)
    assert made.classes == imagenet_classes()
    assert made.preprocessing == published.preprocessing
    assert made.predict(pets[:2]) == published.predict(pets[:2])


def test_what_a_conversion_takes_for_granted_is_a_note(command, nameless: Path, tmp_path: Path) -> None:
    answer = command("convert", nameless, "--model", "mobilenet_v1", "--to", "numpy", tmp_path / "a.npz")
    assert answer.code == 0
    assert answer.err == (
        f"note: {nameless} may be for 224, 192, 160, 128 pixels, and is used as the first; name another size, as"
        " --size 128\n"
    )


def test_with_classes_that_are_given_a_file_is_not_taken_for_the_published_one(command, real, tmp_path: Path) -> None:
    flags = ("--model", "mobilenet_v1", "--size", 32, "--classes", 1000, "--source", "keras")
    command("convert", real("mobilenet_v2_1.0_224"), *flags, "--to", "numpy", tmp_path / "a.npz").refuses(
        "The file looks like mobilenet_v2"
    )
    assert not list(tmp_path.iterdir())
