"""Networks by name, from a user's own file, from JSON, and as values."""

import sys
from pathlib import Path

import numpy as np
import pytest

import imori
from imori.catalogue import CATALOGUE, list_models, model, size_of, variants
from imori.errors import NameUnknown, TreeError
from imori.shapes import resolve, walk
from imori.tree import Chain, Conv, GlobalAvgPool, Linear, ReLU, cut, leaves, to_json

OWN = """
from __future__ import annotations

from dataclasses import dataclass

from imori.tree import Chain, Conv, GlobalAvgPool, Linear, ReLU

SIZE = 64


@dataclass
class Row:
    kernel: int
    filters: int


TABLE = (Row(5, 8), Row(3, 12))


def net(classes=10):
    rows = [(Conv(row.filters, row.kernel), ReLU()) for row in TABLE]
    return Chain(*sum(rows, ()), GlobalAvgPool(), fc=Linear(classes))


def fixed():
    return Chain(GlobalAvgPool(), Linear(3))


def broken():
    return Conv(0, 3)


def stopped():
    return 1 / 0


def nothing():
    pass
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    path = tmp_path / "my_net.py"
    path.write_text(OWN, encoding="utf-8")
    return str(path)


def test_names_are_listed_by_pattern() -> None:
    assert list_models() == list(CATALOGUE)
    assert list_models("resnet*") == [
        "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnet_mnist_plain", "resnet_mnist_bottleneck",
    ]  # fmt: skip
    assert list_models("VGG??") == ["vgg16", "vgg19"]
    assert list_models("nothing*") == []


@pytest.mark.parametrize("name", list_models())
def test_every_name_builds_at_its_size_in_every_variant(name: str) -> None:
    size = size_of(name)
    assert variants(name)[0] == "default"
    assert model(name) == model(name, variant="default") == model(name, classes=1000, channels=1)
    for variant in variants(name):
        assert resolve(model(name, classes=7, variant=variant), (3, size, size)).output == (7,)


def test_sizes_are_the_papers() -> None:
    assert [size_of(name) for name in ("lenet", "alexnet", "vgg16", "resnet50", "resnet_mnist_plain")] == [
        32, 227, 224, 224, 28,
    ]  # fmt: skip


def test_variants_are_those_that_depart() -> None:
    assert variants("lenet") == ("default", "paper", "original")
    assert variants("alexnet") == ("default", "paper", "ungrouped", "torchvision")
    assert variants("resnet50") == ("default", "paper", "keras", "option_a")
    assert variants("resnet18") == ("default", "option_a"), "Keras publishes none of 18 layers"
    assert model("resnet18", variant="paper") == model("resnet18"), "the paper's stride differs in bottlenecks alone"
    for name in list_models():
        forms = [model(name, variant=variant) for variant in variants(name)]
        assert all(forms.count(form) == 1 for form in forms), "a form that does not depart is no variant"


@pytest.mark.parametrize(
    ("name", "variant"), [("nin", "paper"), ("vgg16", "paper"), ("resnet50", "torchvision"), ("resnet18", "timm")]
)
def test_a_publisher_that_does_not_depart_is_the_default(name: str, variant: str) -> None:
    assert model(name, variant=variant) == model(name)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet5", "there is no model 'resnet5'; the nearest names are resnet50, "),
        ("ResNet50", "the nearest names are resnet50, "),
        ("vgg16bn", "the nearest names are vgg16_bn, "),
        ("lnet", "the nearest names are lenet, "),
        (
            "yolo",
            "the nearest names are lenet, alexnet, .* `imori models` lists all; your own is written as path/my_net",
        ),
    ],
)
def test_a_misspelt_name_lists_the_nearest(name: str, sentence: str) -> None:
    for asked in (model, size_of, variants):
        with pytest.raises(NameUnknown, match=sentence):
            asked(name)


@pytest.mark.parametrize(
    ("name", "variant", "sentence"),
    [
        ("alexnet", "papr", "alexnet has no variant 'papr'; it has default, paper, ungrouped, torchvision"),
        (
            "resnet50",
            "mxnet",
            r"resnet50 has no variant 'mxnet'; it has default, paper, keras, option_a \(torchvision, timm: the same as",
        ),
    ],
)
def test_a_wrong_variant_lists_those_that_are_there(name: str, variant: str, sentence: str) -> None:
    with pytest.raises(NameUnknown, match=sentence):
        model(name, variant=variant)


@pytest.mark.parametrize("value", [0, -1, 2.0, True, "3"])
@pytest.mark.parametrize("what", ["classes", "channels"])
def test_counts_are_whole_numbers(what: str, value: object) -> None:
    with pytest.raises(TreeError, match=f"{what} is {value!r}; it must be a whole number from 1"):
        model("lenet", **{what: value})


def test_a_file_of_your_own_imports_its_neighbours_and_is_run_once(tmp_path: Path) -> None:
    (tmp_path / "blocks_beside.py").write_text("from imori.tree import Linear\n\ndef head(n):\n    return Linear(n)\n")
    file, runs = tmp_path / "n.py", tmp_path / "runs"
    text = f"""
from blocks_beside import head
with open({str(runs)!r}, "a") as file:
    file.write("once ")
SIZE = 48
def net(classes):
    from blocks_beside import head as later
    assert later is head
    return head(classes)
"""
    file.write_text(text)
    before = list(sys.path)
    assert (model(f"{file}:net", classes=4), size_of(f"{file}:net")) == (Linear(4), 48)
    assert model(f"{file}:net", classes=5) == Linear(5)
    assert runs.read_text() == "once "
    assert sys.path == before
    file.write_text(text.replace("48", "50"))
    assert size_of(f"{file}:net") == 50, "a file that was changed is run again"


def test_paths_and_whole_numbers_of_any_kind_do(tmp_path: Path, own: str) -> None:
    tree = Chain(Conv(3, 3), GlobalAvgPool(), Linear(10))
    file = tmp_path / "net.json"
    file.write_text(to_json(tree))
    assert model(file) == tree
    made = model(Path(f"{own}:net"), classes=np.int64(4), channels=np.uint8(1))
    assert made == model(f"{own}:net", classes=4)
    assert "np.int64" not in repr(made)


def test_a_function_of_your_own_is_called_with_classes(own: str) -> None:
    expected = Chain(Conv(8, 5), ReLU(), Conv(12, 3), ReLU(), GlobalAvgPool(), fc=Linear(4))
    assert model(f"{own}:net", classes=4) == expected
    assert model(f"{own}:fixed", classes=4) == Chain(GlobalAvgPool(), Linear(3))
    assert size_of(f"{own}:net") == 64


@pytest.mark.parametrize(
    ("function", "error", "sentence"),
    [
        (":missing", NameUnknown, r"my_net.py has no function 'missing'; it has net, fixed, broken, stopped, nothing"),
        (":SIZE", NameUnknown, "has no function 'SIZE'"),
        ("", NameUnknown, "names no function; write .*my_net.py:function"),
        (":broken", TreeError, "Conv: out is 0"),
        (":stopped", TreeError, "my_net.py:stopped stopped with ZeroDivisionError: division by zero; mend the file"),
        (":nothing", TreeError, r"my_net.py:nothing is None; it must be a tree, as in Chain\(Conv\(8, 3\), ...\)"),
    ],
)
def test_a_function_that_does_not_serve_is_named(
    own: str, function: str, error: type[Exception], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        model(own + function)


def test_a_file_that_does_not_serve_is_named(tmp_path: Path) -> None:
    with pytest.raises(NameUnknown, match=r"none\.py cannot be read as a network: .*No such file"):
        model(f"{tmp_path}/none.py:net")
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def net(:\n", encoding="utf-8")
    with pytest.raises(TreeError, match=r"wrong\.py stopped with SyntaxError: .*; mend the file"):
        model(f"{wrong}:net")
    wrong.write_text("SIZE = (32, 32)\n", encoding="utf-8")
    with pytest.raises(TreeError, match=r"wrong\.py: SIZE is \(32, 32\); it must be a whole number from 1"):
        size_of(f"{wrong}:net")
    with pytest.raises(NameUnknown, match=r"wrong\.py has no function 'net'; it has none"):
        model(f"{wrong}:net")


def test_a_tree_in_json_is_read(tmp_path: Path) -> None:
    path = tmp_path / "net.json"
    path.write_text(to_json(model("lenet", classes=3)), encoding="utf-8")
    assert model(str(path)) == model("lenet", classes=3)
    assert size_of(str(path)) == 224
    path.write_text('{"format": 9, "tree": {}}', encoding="utf-8")
    with pytest.raises(TreeError, match=r"net\.json: this tree has format 9"):
        model(str(path))
    with pytest.raises(NameUnknown, match=r"none\.json cannot be read as a network"):
        model(f"{tmp_path}/none.json")
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(NameUnknown, match=r"net\.json cannot be read as a network"):
        model(str(path))


def test_a_value_is_returned_as_it_is() -> None:
    tree = Chain(GlobalAvgPool(), Linear(3))
    assert model(tree) is tree
    assert model(tree, classes=9, variant="default") is tree
    with pytest.raises(NameUnknown, match="a network of your own has no variant 'paper'"):
        model(tree, variant="paper")
    with pytest.raises(TreeError, match="the model is 7; it must be a tree"):
        model(7)


def test_the_public_names_are_these() -> None:
    assert imori.model is model
    assert imori.list_models is list_models


# --- width multipliers, networks cut for features ---------------------------------------------------------------------


def test_a_width_belongs_to_the_networks_that_have_one() -> None:
    assert model("mobilenet_v2", width=1) == model("mobilenet_v2") != model("mobilenet_v2", width=1.4)
    with pytest.raises(NameUnknown, match="resnet50 has no width multiplier; these have: mobilenet_v1, mobilenet_v2"):
        model("resnet50", width=0.5)
    with pytest.raises(NameUnknown, match=r"a network of your own has no width 0\.5"):
        model(Chain(Linear(3)), width=0.5)
    for wrong in (0, -1, True, "half", float("nan"), 1000):
        with pytest.raises(TreeError, match=r"width is .*; it must be a number from 0.05 to 16, 1 for the paper's"):
            model("mobilenet_v1", width=wrong)  # type: ignore[arg-type]


def test_a_network_is_cut_behind_a_path() -> None:
    whole, shape = model("resnet18", classes=5), (3, 64, 64)
    nodes = {node.path: node.output for node in walk(whole, shape)}
    for path in ("conv1", "relu1", "conv3.0", "conv3.1.body.bn2", "conv4.0.shortcut.conv", "conv5.1", "pool5", "fc"):
        features = model("resnet18", classes=5, upto=path)
        assert resolve(features, shape).output == nodes[path]
        assert features == cut(whole, path)
        assert {path for path, _ in leaves(features)} <= set(nodes)
    assert resolve(model("resnet18", upto="conv3"), shape).output == (128, 8, 8)


def test_a_cut_network_takes_its_part_of_the_weights() -> None:
    whole, shape = model("googlenet", classes=5, variant="torchvision"), (3, 64, 64)
    weights = imori.initial_weights(whole, shape)
    for path in ("inception4b", "inception4b.five.conv"):
        features = model("googlenet", classes=5, variant="torchvision", upto=path)
        part = imori.restrict(weights, features)
        assert list(part) == list(imori.initial_weights(features, shape))
        assert not any("aux" in name for name in part)
        images = np.random.default_rng(0).standard_normal((2, *shape)).astype(np.float32)
        there = imori.outputs(imori.build(whole, shape, "numpy", weights, dtype="float64"), images, [path])[path]
        cut_off = imori.logits(imori.build(features, shape, "numpy", part, dtype="float64"), images)
        assert np.allclose(cut_off, there, rtol=0, atol=1e-12 * np.abs(there).max())


@pytest.mark.parametrize("path", ["conv6", "conv3.9", "aux1.fc1", "", "fc.weight"])
def test_a_path_that_is_not_there_is_answered_by_the_nearest(path: str) -> None:
    with pytest.raises(TreeError, match=f"there is no {path!r} in this network; the nearest paths are "):
        model("googlenet", upto=path)


def test_a_variant_may_stand_behind_the_name() -> None:
    assert model("resnet50@paper") == model("resnet50", variant="paper") != model("resnet50")
    assert model("resnet50@paper", variant="paper") == model("resnet50@paper")
    assert size_of("resnet_mnist_plain@option_a") == 28
    with pytest.raises(NameUnknown, match="resnet50@paper is asked for in the variant 'keras'; name one of the two"):
        model("resnet50@paper", variant="keras")
    with pytest.raises(NameUnknown, match="resnet50 has no variant 'papre'"):
        model("resnet50@papre")
    with pytest.raises(NameUnknown, match="there is no model 'resnet5'"):
        model("resnet5@paper")


def test_without_its_heads_a_network_takes_any_size_with_the_same_weights() -> None:
    whole = model("googlenet", 5)
    bare = imori.without_heads(whole)
    weights = imori.restrict(imori.initial_weights(whole, (3, 224, 224)), bare)
    for size in (31, 64, 97):
        images = np.random.default_rng(size).standard_normal((2, 3, size, size + 7)).astype(np.float32)
        assert imori.logits(imori.build(bare, images.shape[1:], "numpy", weights), images).shape == (2, 5)
    with pytest.raises(TreeError, match=r"aux1\.pool: .*imori\.without_heads gives the network without it"):
        imori.build(whole, (3, 64, 64), "numpy")
