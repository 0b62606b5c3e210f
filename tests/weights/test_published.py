"""Published checkpoints, read strictly: see test_published_logits.py for what the networks then compute."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import imori
from imori.errors import NameUnknown, WeightsError
from imori.tree import Chain, Conv, GlobalAvgPool, Linear, Tree
from imori.weights import initial_weights, read_weights

SHAPE = (3, 4, 4)
Small = Callable[[str], Tree]
State = Callable[..., dict[str, np.ndarray]]
Saved = Callable[..., Path]


def test_every_tensor_has_its_place(small: Small, state: State, saved: Saved) -> None:
    tree = small("resnet")
    theirs = state(tree, "torchvision")
    found = read_weights(saved(theirs), tree, source="torchvision")
    assert list(found) == list(initial_weights(tree, SHAPE)), "in the order in which the layers run"
    places = {
        "conv1.weight": "conv1.weight",
        "bn1.mean": "bn1.running_mean",
        "conv2.0.body.conv1.weight": "layer1.0.conv1.weight",
        "conv2.0.body.bn1.var": "layer1.0.bn1.running_var",
        "conv2.0.shortcut.conv.weight": "layer1.0.downsample.0.weight",
        "conv2.0.shortcut.bn.bias": "layer1.0.downsample.1.bias",
        "fc.weight": "fc.weight",
    }
    for ours, name in places.items():
        np.testing.assert_array_equal(found[ours], theirs[name], err_msg=ours)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_dtype_is_kept(small: Small, state: State, saved: Saved, dtype: str) -> None:
    tree = small("resnet")
    found = read_weights(saved(state(tree, "timm", dtype=dtype)), tree, source="timm")
    assert {value.dtype.name for value in found.values()} == {dtype}


def test_a_folder_of_timms_hub_is_read(small: Small, state: State, saved: Saved) -> None:
    path = saved(state(small("resnet"), "timm"), "model.safetensors")
    assert read_weights(path.parent, small("resnet"), source="timm")


def test_the_old_spelling_of_densenet_is_read(small: Small, state: State, saved: Saved) -> None:
    tree = small("densenet")
    now = state(tree, "torchvision")
    old = {re.sub(r"(denselayer1\.[a-z]+)(\d)", r"\1.\2", name): value for name, value in now.items()}
    assert len(old.keys() - now.keys()) == 10
    for source in ("torchvision", "timm"):
        found, expected = (read_weights(saved(held), tree, source=source) for held in (old, now))
        for name, value in expected.items():
            np.testing.assert_array_equal(found[name], value)
    with pytest.raises(WeightsError, match="holds layers twice, in an old spelling and in a new one"):
        read_weights(saved(old | now), tree, source="torchvision")


def test_timms_vgg_gives_one_network_in_both_forms(small: Small, state: State, saved: Saved) -> None:
    dense, convolutional = small("vgg"), small("vgg-convolutional")
    path = saved(state(convolutional, "timm", dtype="float64"))
    images = np.random.default_rng(0).standard_normal((2, *SHAPE))
    answers = []
    for tree, size in ((dense, (6, 16)), (convolutional, (6, 4, 2, 2))):
        weights = read_weights(path, tree, source="timm", shape=SHAPE)
        assert weights["fc6.weight"].shape == size
        native = imori.build(tree, SHAPE, "numpy", weights, dtype="float64")
        answers.append(imori.logits(native, images))
    np.testing.assert_allclose(*answers, rtol=0, atol=1e-12 * np.abs(answers[0]).max())


# --- auxiliary heads --------------------------------------------------------------------------------------------------


def test_heads_are_read_where_both_have_them(small: Small, state: State, saved: Saved) -> None:
    tree = small("googlenet")
    theirs = state(tree, "torchvision")
    found = read_weights(saved(theirs), tree, source="torchvision")
    np.testing.assert_array_equal(found["aux1.conv_bn.var"], theirs["aux1.conv.bn.running_var"])
    np.testing.assert_array_equal(found["aux1.fc2.weight"], theirs["aux1.fc2.weight"])


def test_heads_of_the_file_alone_are_left_out_and_said(small: Small, state: State, saved: Saved) -> None:
    path = saved(state(small("googlenet"), "torchvision"))
    with pytest.warns(UserWarning, match="its auxiliary heads are left out, for the tree has none") as said:
        found = read_weights(path, small("googlenet-headless"), source="torchvision")
    assert said[0].filename == __file__
    assert not any("aux" in name for name in found)


def test_heads_of_the_tree_alone_start_untrained_and_that_is_said(small: Small, state: State, saved: Saved) -> None:
    theirs = state(small("googlenet-headless"), "torchvision", dtype="float64")
    with pytest.warns(UserWarning, match="it has no auxiliary heads, and those of the tree start untrained"):
        found = read_weights(saved(theirs), small("googlenet"), source="torchvision", shape=SHAPE)
    start = initial_weights(small("googlenet"), SHAPE, dtype="float64")
    assert found.keys() == start.keys()
    assert {value.dtype.name for value in found.values()} == {"float64"}
    for name, value in found.items():
        np.testing.assert_array_equal(value, start[name] if "aux" in name else theirs[THEIRS[name]], err_msg=name)


THEIRS = {
    "conv1.weight": "conv1.conv.weight", "conv1_bn.weight": "conv1.bn.weight", "conv1_bn.bias": "conv1.bn.bias",
    "conv1_bn.mean": "conv1.bn.running_mean", "conv1_bn.var": "conv1.bn.running_var", "fc.weight": "fc.weight",
    "fc.bias": "fc.bias",
}  # fmt: skip


def test_part_of_a_head_is_refused(small: Small, state: State, saved: Saved) -> None:
    tree = small("googlenet")
    theirs = state(tree, "torchvision")
    del theirs["aux1.fc2.bias"]
    with pytest.raises(WeightsError, match=r"missing: aux1\.fc2\.bias"):
        read_weights(saved(theirs), tree, source="torchvision")


def test_heads_in_another_network_are_refused(small: Small, state: State, saved: Saved) -> None:
    tree = small("resnet")
    theirs = state(tree, "torchvision") | {"aux1.fc2.bias": np.zeros(3, np.float32)}
    with pytest.raises(WeightsError, match=r"unexpected: aux1\.fc2\.bias"):
        read_weights(saved(theirs), tree, source="torchvision")


# --- what does not fit ------------------------------------------------------------------------------------------------


def refused(match: str, path: Path, tree: Tree, source: str = "torchvision", **more: object) -> None:
    with pytest.raises(WeightsError, match=match):
        read_weights(path, tree, source, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["layer1.0.downsample.0.weight", "bn1.running_mean", "fc.bias"])
def test_a_missing_tensor_is_refused(small: Small, state: State, saved: Saved, name: str) -> None:
    theirs = state(small("resnet"), "torchvision")
    del theirs[name]
    refused(rf"do not fit this network; missing: {name}\. The file is of another depth", saved(theirs), small("resnet"))


@pytest.mark.parametrize("name", ["layer1.1.conv1.weight", "fc.scale", "num_batches_tracked.weight"])
def test_a_tensor_too_many_is_refused(small: Small, state: State, saved: Saved, name: str) -> None:
    theirs = state(small("resnet"), "torchvision") | {name: np.ones(3, np.float32)}
    refused(rf"do not fit this network; unexpected: {name}", saved(theirs), small("resnet"))


@pytest.mark.parametrize(
    ("name", "shape", "match"),
    [
        ("conv1.weight", (4, 1, 3, 3), r" is 4×1×3×3 and must be 4×3×3×3\. .*give shape=\(1, H, W\)"),
        ("conv1.weight", (4, 3, 5, 5), r"is 4×3×5×5 and must be 4×3×3×3\. The file is of another depth, width or form"),
        ("layer1.0.conv1.weight", (6, 4), r"is 6×4 and must be 6×4×1×1"),
        ("fc.bias", (), "is a scalar and must be 3"),
        ("fc.weight", (3,), "is 3 and must be 3×6"),
        ("bn1.bias", (5,), r"is 5 and must be 4\. The file is of another depth, width or form"),
    ],
)
def test_a_misshaped_tensor_is_refused(
    small: Small, state: State, saved: Saved, name: str, shape: tuple[int, ...], match: str
) -> None:
    theirs = state(small("resnet"), "torchvision") | {name: np.ones(shape, np.float32)}
    refused(f"do not fit this network; misshaped: {name}.*{match}", saved(theirs), small("resnet"))


def test_other_classes_are_named(small: Small, state: State, saved: Saved) -> None:
    theirs = state(small("googlenet"), "torchvision")
    for name in ("fc", "aux1.fc2"):
        theirs |= {f"{name}.weight": np.ones((7, theirs[f"{name}.weight"].shape[1]), np.float32)}
        theirs |= {f"{name}.bias": np.ones(7, np.float32)}
    refused("of 7 classes and the tree has 3: build the tree with classes=7", saved(theirs), small("googlenet"))


def test_another_input_size_is_named(small: Small, state: State, saved: Saved) -> None:
    path = saved(state(small("vgg"), "torchvision"))
    assert read_weights(path, small("vgg"), "torchvision", shape=SHAPE)
    refused(r"classifier\.0\.weight is 6×16 and must be 6×64\. .* give shape", path, small("vgg"), shape=(3, 8, 8))


def test_another_network_is_named(small: Small, state: State, saved: Saved) -> None:
    path = saved(state(small("densenet"), "torchvision"))
    refused("The file looks like densenet, and the tree has the layers of resnet", path, small("resnet"))
    path = saved(state(small("resnet"), "torchvision"))
    refused("The file looks like resnet, and the tree has the layers of googlenet", path, small("googlenet"))


def test_another_publisher_is_named(small: Small, state: State, saved: Saved) -> None:
    path = saved(state(small("vgg"), "timm"))
    refused('looks like one of timm: read it with source="timm"', path, small("vgg"), shape=SHAPE)


def test_a_file_of_our_own_is_named(small: Small, saved: Saved) -> None:
    path = saved(initial_weights(small("resnet"), SHAPE))
    refused('The file has the names of imori: read it with source="imori"', path, small("resnet"))


def test_a_network_that_is_not_published_is_refused(tmp_path: Path, small: Small) -> None:
    tree = Chain(conv=Conv(4, 3), gap=GlobalAvgPool(), fc=Linear(3))
    match = (
        r'this tree is no network of timm, which publishes vgg, .*; make one by imori\.model\(name, variant="timm"\)'
    )
    refused(match, tmp_path / "a.pth", tree, "timm")
    match = (
        'this tree is no network of torchvision, .*; read it with source="timm" if the file is of timm, .*or make one'
    )
    refused(match, tmp_path / "a.pth", small("vgg-convolutional"), shape=SHAPE)


def test_a_published_file_read_as_our_own_is_refused(small: Small, state: State, saved: Saved) -> None:
    path = saved(state(small("resnet"), "torchvision"))
    refused(
        "was not written by imori: .* read by imori.read_weights, with their name as source",
        path,
        small("resnet"),
        "imori",
    )


def test_values_that_are_not_finite_are_refused(small: Small, state: State, saved: Saved) -> None:
    theirs = state(small("resnet"), "torchvision")
    theirs["bn1.running_var"][2] = np.inf
    refused(r"bn1\.var holds values that are not finite", saved(theirs), small("resnet"))


def test_an_unknown_publisher_is_refused(tmp_path: Path, small: Small) -> None:
    with pytest.raises(NameUnknown, match="no source 'caffe' of weights; there are imori, torchvision, timm"):
        read_weights(tmp_path / "a.pth", small("resnet"), source="caffe")
