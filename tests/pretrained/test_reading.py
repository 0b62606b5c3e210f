"""A publisher's checkpoint, by file or by name, comes with its network, its class names and its preprocessing."""

import hashlib
import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

import imori
from imori.data import Preprocessing
from imori.errors import DownloadError, FrameworkMissing, NameUnknown, WeightsError
from imori.pretrained import reading
from imori.pretrained.addresses import checkpoints, chosen
from imori.pretrained.reading import imagenet_classes, is_published, pretrained
from imori.shapes import resolve
from imori.weights import shapes_of
from imori.weights.published import their_shapes
from imori.weights.tables import PUBLISHERS, names_in


def write(path: Path, publisher: str, model: str, classes: int = 1000, width: float | None = None) -> Path:
    """A checkpoint of a publisher's network with random numbers, as .safetensors or .pth."""
    root = resolve(imori.model(model, classes, variant=publisher, width=width), (3, 224, 224))
    (names,) = (found for table in PUBLISHERS[publisher].values() if (found := names_in(table, root)) is not None)
    rng = np.random.default_rng(0)
    tensors = {name: rng.random(shape, np.float32) for name, shape in their_shapes(root, names).items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".pth":
        torch = pytest.importorskip("torch")
        torch.save({name: torch.from_numpy(value) for name, value in tensors.items()}, path)
    else:
        safetensors.numpy.save_file(tensors, path)
    return path


class Notes(list[str]):
    """What was said."""

    def __call__(self, text: str) -> None:
        self.append(text)


def test_the_classes_are_imagenet_s() -> None:
    names = imagenet_classes()
    assert len(names) == len(set(names)) == 1000
    assert [names[i] for i in (0, 1, 281, 282, 285, 388, 999)] == [
        "tench", "goldfish", "tabby", "tiger cat", "Egyptian cat", "giant panda", "toilet tissue"
    ]  # fmt: skip


def test_the_classes_are_those_of_the_real_weights(data_root: Path) -> None:
    lines = (data_root / "pretrained" / "imagenet_classes.txt").read_text(encoding="utf-8").splitlines()
    first = [line.partition(",")[0] for line in lines]
    other = {"crane": "crane bird", "maillot": "maillot tank suit"}  # of two with one name
    names = imagenet_classes()
    assert [i for i in range(1000) if names[i] != first[i]] == [134, 639]
    assert all(names[i] == other[first[i]] for i in (134, 639))


# --- recognised ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "file", "publisher", "tag"),
    [
        ("mobilenet_v2", "mine.pth", "torchvision", "IMAGENET1K_V2"),
        ("mobilenet_v2", "mobilenet_v2-b0353104.pth", "torchvision", "IMAGENET1K_V1"),
        ("mobilenet_v2", "mine.safetensors", "timm", "ra_in1k"),
        ("resnet18", "resnet18-f37072fd.safetensors", "torchvision", "IMAGENET1K_V1"),
        ("resnet18", "mine.pth", "torchvision", "IMAGENET1K_V1"),
        ("resnet18", "mine.safetensors", "timm", "a1_in1k"),
        ("resnet18", "models--timm--resnet18.a3_in1k/snapshots/0a1b/model.safetensors", "timm", "a3_in1k"),
        ("googlenet", "mine.pth", "torchvision", "IMAGENET1K_V1"),
        ("xception", "mine.safetensors", "timm", "tf_in1k"),
    ],
)
def test_a_file_is_recognised(tmp_path: Path, model: str, file: str, publisher: str, tag: str) -> None:
    path = write(tmp_path / file, publisher, model)
    made = pretrained(model, path)
    like = next(one for one in checkpoints(publisher, model) if one.tag == tag)
    assert made.variant == publisher
    assert made.card.tree == imori.model(model, variant=publisher)
    assert made.card.input == (3, like.size, like.size)
    assert made.card.classes == imagenet_classes()
    assert made.card.preprocessing == Preprocessing(**like.preprocessing()).to_data()
    expected = imori.read_weights(path, made.card.tree, publisher, made.card.input)
    assert all(np.array_equal(made.weights[name], expected[name]) for name in expected)


def test_a_file_of_another_name_is_known_by_its_checksum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "mine.pth", "torchvision", "mobilenet_v2")
    start = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    second, first = (replace(one, file="unheard-of.pth") for one in checkpoints("torchvision", "mobilenet_v2"))
    assert (first.tag, second.tag) == ("IMAGENET1K_V1", "IMAGENET1K_V2")
    for known in ((second, replace(first, checksum=f"sha256:{start}")), (second, first)):
        monkeypatch.setattr(reading, "checkpoints", lambda publisher, model, known=known: list(known))
        notes = Notes()
        made = pretrained("mobilenet_v2", path, note=notes)
        told = known[1].checksum.endswith(start)
        assert made.card.preprocessing["share"] == (0.875 if told else 224 / 232)
        doubt = (
            f"{path} may be torchvision's IMAGENET1K_V2, IMAGENET1K_V1, and is used as the first; another is known by"
            " its publisher's name for the file, as unheard-of.pth"
        )
        assert notes == ([] if told else [doubt])


def test_what_is_wrong_is_said_of_the_nearest_width(tmp_path: Path) -> None:
    path = write(tmp_path / "half.safetensors", "timm", "mobilenet_v2", width=0.5)
    tensors = safetensors.numpy.load_file(path)
    whole = tensors.pop("blocks.0.0.conv_dw.weight")
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(WeightsError, match=r"missing: blocks\.0\.0\.conv_dw\.weight\. "):
        pretrained("mobilenet_v2", path)
    safetensors.numpy.save_file(tensors | {"blocks.0.0.conv_dw.weight": whole * np.nan}, path)
    with pytest.raises(WeightsError, match=r"block1\.depthwise\.weight holds values that are not finite"):
        pretrained("mobilenet_v2", path)


def test_the_width_is_the_file_s(tmp_path: Path) -> None:
    path = write(tmp_path / "half.safetensors", "timm", "mobilenet_v2", width=0.5)
    made = pretrained("mobilenet_v2", path)
    assert made.width == 0.5
    assert shapes_of(resolve(made.card.tree, made.card.input))["conv1.weight"][0] == 16
    with pytest.raises(WeightsError, match=r"misshaped: conv_stem\.weight"):
        pretrained("mobilenet_v2", path, width=1.4)


@pytest.mark.parametrize(
    ("file", "size", "said"),
    [
        ("mobilenet_160.h5", 160, "is taken to be for 160 pixels, by its name"),
        ("My-128.h5", 128, "is taken to be for 128 pixels, by its name"),
        ("My-224.h5", 224, ""),
        ("a96c.h5", 224, "may be for 224, 192, 160, 128 pixels"),
        ("half_0.5_1000.h5", 224, "may be for 224, 192, 160, 128 pixels"),
    ],
)
def test_a_size_in_the_file_s_name_tells(data_root: Path, tmp_path: Path, file: str, size: int, said: str) -> None:
    (tmp_path / file).symlink_to(data_root / "pretrained" / "mobilenet_0.25_128_imagenet.weights.h5")
    notes = Notes()
    made = pretrained("mobilenet_v1", tmp_path / file, note=notes)
    assert (made.width, made.card.input) == (0.25, (3, size, size))
    assert made.card.preprocessing["size"] == [size, size]
    assert said in "".join(notes)
    assert bool(notes) == bool(said)


def test_a_size_and_classes_of_ones_own(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.safetensors", "timm", "mobilenet_v2", classes=3)
    with pytest.raises(WeightsError, match="of 3 classes and the tree has 1000"):
        pretrained("mobilenet_v2", path)
    made = pretrained("mobilenet_v2", path, size=(96, 128), classes=("a", "b", "c"))
    assert made.card.input == (3, 96, 128)
    assert made.card.preprocessing["size"] == [96, 128]
    assert made.card.classes == ("a", "b", "c")


def test_the_variant_may_be_said_and_must_be_the_publisher_s(tmp_path: Path) -> None:
    path = write(tmp_path / "mine.safetensors", "timm", "mobilenet_v2")
    assert pretrained("mobilenet_v2@timm", path).variant == "timm"
    for model, variant in (("mobilenet_v2@keras", None), ("mobilenet_v2", "keras")):
        with pytest.raises(NameUnknown, match="is of mobilenet_v2's variant timm, and not keras; leave"):
            pretrained(model, path, variant=variant)


def test_names_of_nobody_are_refused(tmp_path: Path) -> None:
    safetensors.numpy.save_file({"stem.kernel": np.zeros(3, np.float32)}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"names that are not torchvision's, timm's or Keras's, as stem\.kernel"):
        pretrained("resnet18", tmp_path / "a.safetensors")


def test_what_is_published_and_what_is_ours(tmp_path: Path, digits_run: Path) -> None:
    assert is_published("torchvision")
    assert is_published("timm:a1_in1k")
    assert is_published(tmp_path / "a.pth")
    assert is_published("a.weights.h5")
    assert is_published(write(tmp_path / "a.safetensors", "timm", "mobilenet_v2"))
    assert not is_published(digits_run)
    assert not is_published(digits_run / "model.safetensors")
    assert not is_published("runs/latest")
    assert not is_published("a.onnx")


# --- by name ---------------------------------------------------------------------------------------------------------


def test_by_name_it_is_downloaded_once(publisher: Any, tmp_path: Path) -> None:
    file = write(tmp_path / "a.safetensors", "timm", "mobilenet_v2")
    publisher.files["/huggingface.co/timm/mobilenetv2_100.ra_in1k/resolve/main/model.safetensors"] = file.read_bytes()
    notes, told = Notes(), []
    for _ in range(2):
        made = pretrained("mobilenet_v2", "timm", note=notes, progress=lambda *bytes: told.append(bytes))
        assert made.file == tmp_path / "cache" / "timm" / "mobilenetv2_100.ra_in1k.safetensors"
        assert made.card.preprocessing == Preprocessing(**chosen("timm", "mobilenet_v2").preprocessing()).to_data()
    assert len(publisher.asked) == len(notes) == 1
    assert "mobilenetv2_100.ra_in1k/resolve/main/model.safetensors is downloaded into" in notes[0]
    assert told[-1][0] == told[-1][1] == file.stat().st_size


@pytest.mark.parametrize("share", [0.0, 0.7], ids=["a-page", "cut-short"])
def test_what_no_checksum_tells_of_is_opened_before_it_is_kept(publisher: Any, data_root: Path, share: float) -> None:
    one = chosen("keras", "mobilenet_v2")
    assert not one.checksum
    whole = (data_root / "pretrained" / "mobilenet_v2_1.0_224_imagenet.weights.h5").read_bytes()
    place = one.address.removeprefix("https:/")
    publisher.files[place] = whole[: int(share * len(whole))] or b"<html>come back later</html>"
    with pytest.raises(DownloadError, match=r"is cut short or another file, and is removed; try again"):
        pretrained("mobilenet_v2", "keras")
    publisher.files[place] = whole
    assert pretrained("mobilenet_v2", "keras").file.read_bytes() == whole


def test_a_page_in_place_of_safetensors_is_not_kept(publisher: Any, tmp_path: Path) -> None:
    one = chosen("timm", "mobilenet_v2")
    assert not one.checksum
    publisher.files[one.address.removeprefix("https:/")] = b"<html>come back later</html>"
    with pytest.raises(DownloadError, match=r"is cut short or another file, and is removed; try again"):
        pretrained("mobilenet_v2", "timm")
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("model", "name", "library", "extra"),
    [("resnet18", "torchvision", "torch", "torch"), ("vgg16", "keras", "h5py", "hdf5")],
)
def test_what_could_not_be_read_is_not_downloaded(
    publisher: Any, monkeypatch: pytest.MonkeyPatch, model: str, name: str, library: str, extra: str
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == library else find(name))
    with pytest.raises(FrameworkMissing, match=rf"{library} is not installed, .* pip install 'imori\[{extra}\]'"):
        pretrained(model, name)
    assert not publisher.asked
