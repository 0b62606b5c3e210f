"""A tree in another form than the weights are of is told by what its layers do, where names and shapes are alike."""

import re
import warnings
from pathlib import Path

import numpy as np
import pytest

import imori
from imori import tree as t
from imori.shapes import Shape, resolve
from imori.weights import shapes_of
from imori.weights.file import write_tensors
from imori.weights.forms import departure
from imori.weights.published import known_names

SHAPE = (3, 96, 96)


def told(tree: t.Tree, publisher: str, shape: Shape = SHAPE) -> str:
    return departure(resolve(tree, shape), publisher)


@pytest.mark.parametrize(
    ("name", "of", "variant", "said"),
    [
        ("resnet50", "keras", "default", "at bn1 it has eps 1e-05, and keras's eps 1.001e-05"),
        ("densenet169", "keras", "default", "at bn1 it has eps 1e-05, and keras's eps 1.001e-05"),
        ("xception", "keras", "timm", "at bn1 it has eps 1e-05, and keras's eps 0.001"),
        ("mobilenet_v1", "keras", "default", "at conv1 it has pads (1, 1, 1, 1), and keras's pads (0, 1, 0, 1)"),
        ("mobilenet_v1", "timm", "default", "at relu1 it has max None, and timm's max 6.0"),
        ("resnet50", "torchvision", "paper", "at conv3.0.body.conv1 it has stride (2, 2), and torchvision's stride"),
        ("resnet101", "torchvision", "keras", "at bn1 it has eps 1.001e-05, and torchvision's eps 1e-05"),
        ("vgg16", "torchvision", "default", "at fc6 it has Linear, and torchvision's AdaptiveAvgPool"),
    ],
)
def test_another_form_is_told_by_its_first_layer_that_differs(name: str, of: str, variant: str, said: str) -> None:
    own = imori.model(name, 7, variant=of)
    assert told(own, of) == ""
    found = told(imori.model(name, 7, variant=variant), of)
    assert found.startswith(f"the weights are of {of}'s {name}, ")
    assert said in found
    assert f"make it by imori.model({name!r}, variant={of!r})" in found


def test_what_changes_no_number_is_no_other_form() -> None:
    own = imori.model("vgg16", 7, variant="torchvision")
    assert isinstance(own, t.Chain)
    bare = t.Chain(**{name: child for name, child in own.children if name and not isinstance(child, t.Dropout)})
    assert told(bare, "torchvision") == ""
    assert told(imori.model("vgg16", 7), "torchvision", (3, 224, 224)) == "", "an adaptive pool to the map's own size"
    assert told(imori.without_heads(imori.model("googlenet", 7, variant="torchvision")), "torchvision") == ""


@pytest.mark.parametrize("width", [0.35, 0.5, 1.4])
def test_other_widths_are_compared_too(width: float) -> None:
    assert told(imori.model("mobilenet_v2", 7, variant="keras", width=width), "keras") == ""
    assert "conv1" in told(imori.model("mobilenet_v2", 7, width=width), "keras")


def test_cut_trees_are_compared_as_far_as_they_go() -> None:
    assert told(imori.model("resnet50", variant="keras", upto="conv3"), "keras") == ""
    assert "keras's resnet50, " in told(imori.model("resnet50", upto="conv3"), "keras")


def test_nothing_is_said_of_a_network_that_the_publisher_has_not() -> None:
    assert told(imori.model("lenet", 7), "keras", (1, 32, 32)) == ""
    assert told(t.Chain(conv1=t.Conv(4, 3), fc=t.GlobalAvgPool()), "torchvision") == ""


def test_reading_a_file_into_another_form_warns(tmp_path: Path) -> None:
    own = imori.model("mobilenet_v2", 7, width=0.25)
    root, rng = resolve(own, SHAPE), np.random.default_rng(0)
    names = known_names(root, "torchvision")["mobilenet_v2"]
    path = tmp_path / "mobilenet_v2.safetensors"
    write_tensors(path, {names[ours]: rng.random(size, "f4") for ours, size in shapes_of(root).items()}, {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = imori.read_weights(path, own, "torchvision", SHAPE)
    other = imori.model("mobilenet_v2", 7, variant="keras", width=0.25)
    with pytest.warns(UserWarning, match=re.escape(f"{path}: the weights are of torchvision's mobilenet_v2, and the")):
        found = imori.read_weights(path, other, "torchvision", SHAPE)
    assert found.keys() == expected.keys()
