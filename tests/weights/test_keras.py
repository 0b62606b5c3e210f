"""Keras's files, written by h5py: every spelling gives the same weights, and what does not fit is refused.

See tests/frameworks/keras/test_applications.py for files that Keras itself wrote, and what the networks then compute.
"""

import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import imori
from imori.errors import WeightsError
from imori.shapes import Shape, resolve
from imori.tree import Tree, cut
from imori.weights import initial_weights, read_weights
from imori.weights.keras import layouts
from imori.weights.tables import PUBLISHERS, names_in

SHAPE = (3, 4, 4)
Small = Callable[[str], Tree]
Weights = dict[str, np.ndarray]
Respell = Callable[[str], str]


def theirs(tree: Tree, dtype: str = "float32", shape: Shape = SHAPE) -> Weights:
    """Random weights under Keras's names, in its layouts, in the order of the tree."""
    root = resolve(tree, shape)
    (names,) = (found for table in PUBLISHERS["keras"].values() if (found := names_in(table, root)) is not None)
    rng = np.random.default_rng(7)
    return {name: rng.standard_normal(each.stored).astype(dtype) for name, each in layouts(root, names).items()}


def by_layer(weights: Weights) -> dict[str, Weights]:
    layers: dict[str, Weights] = {}
    for name, value in weights.items():
        layer, _, word = name.rpartition("/")
        layers.setdefault(layer, {})[word] = value
    return layers


# --- the files --------------------------------------------------------------------------------------------------------


def named(group: Any, weights: Weights) -> None:
    """What Keras 3.15 writes into a .weights.h5, its groups in an order of their own."""
    for i, (layer, held) in enumerate(reversed(by_layer(weights).items())):
        place = group.create_group(f"layers/layer_{i}/vars")
        place.attrs["name"] = layer
        for number, value in enumerate(held.values()):
            place[str(number)] = value


def legacy(group: Any, weights: Weights, spell: Respell = "{}:0".format) -> None:
    """What Keras 2 writes into an .h5."""
    layers = by_layer(weights)
    group.attrs["layer_names"] = [b"input_1", *(layer.encode() for layer in reversed(layers))]
    group.create_group("input_1").attrs["weight_names"] = []
    for layer, held in layers.items():
        place = group.create_group(layer)
        names = [f"{layer}/{spell(word)}" for word in held]
        place.attrs["weight_names"] = [name.encode() for name in names]
        for name, value in zip(names, held.values(), strict=True):
            place[name] = value


def save(path: Path, weights: Weights, write: Callable[..., None] = named, *more: Any) -> Path:
    with h5py.File(path, "w") as file:
        write(file, weights, *more)
    return path


def save_whole(path: Path, weights: Weights) -> Path:
    with h5py.File(path, "w") as file:
        legacy(file.create_group("model_weights"), weights)
        file["optimizer_weights/iteration:0"] = 7
    return path


def save_archive(path: Path, weights: Weights, config: Any = None) -> Path:
    inner = save(path.with_suffix(".inner"), weights)
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(inner, "model.weights.h5")
        archive.writestr("config.json", json.dumps(config))
    return path


FILES = {"weights.h5": save, "keras": save_archive, "whole.h5": save_whole, "alone.h5": lambda *a: save(*a, legacy)}


def assert_same(found: Weights, tree: Tree, weights: Weights) -> None:
    """Each in its place, turned: by hand for a few, and by the sums of its channels for all."""
    assert list(found) == list(initial_weights(tree, SHAPE)), "in the order in which the layers run"
    for (own, value), (name, other) in zip(found.items(), weights.items(), strict=True):
        assert value.dtype == other.dtype
        assert value.flags.c_contiguous
        axis = 2 if "depthwise" in name else -1  # of Keras's output channels
        channels = np.moveaxis(other, axis, 0).reshape(len(value), -1).sum(1)
        np.testing.assert_allclose(value.reshape(len(value), -1).sum(1), channels, rtol=1e-2, atol=1e-2, err_msg=own)


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["resnet", "densenet", "xception", "vgg"])
@pytest.mark.parametrize("form", FILES)
def test_every_weight_has_its_place(tmp_path: Path, small: Small, name: str, form: str) -> None:
    tree = small(name)
    weights = theirs(tree)
    assert_same(read_weights(FILES[form](tmp_path / f"a.{form}", weights), tree, "keras", SHAPE), tree, weights)


def test_a_layout_is_turned(tmp_path: Path, small: Small) -> None:
    tree = small("xception")
    weights = theirs(tree)
    found = read_weights(save(tmp_path / "a.weights.h5", weights), tree, "keras")
    depthwise, pointwise = "block3.body.sepconv1.depthwise.weight", "block3.body.sepconv1.pointwise.weight"
    np.testing.assert_array_equal(found[depthwise][4, 0], weights["block3_sepconv1/depthwise_kernel"][:, :, 4, 0])
    np.testing.assert_array_equal(found[pointwise][5, 2], weights["block3_sepconv1/pointwise_kernel"][:, :, 2, 5])
    np.testing.assert_array_equal(found["fc.weight"][1], weights["predictions/kernel"][:, 1])
    np.testing.assert_array_equal(found["bn1.var"], weights["block1_conv1_bn/moving_variance"])


def test_a_dense_layer_after_a_map_takes_its_channels_first(tmp_path: Path, small: Small) -> None:
    tree = small("vgg")
    weights = theirs(tree, "float64")
    found = read_weights(save(tmp_path / "a.weights.h5", weights), tree, "keras", SHAPE)
    image = np.random.default_rng(0).standard_normal((4, 2, 2))  # channels, height, width
    flat = image.transpose(1, 2, 0).ravel()
    np.testing.assert_allclose(found["fc6.weight"] @ image.ravel(), flat @ weights["fc1/kernel"], rtol=1e-12)
    np.testing.assert_array_equal(found["fc7.weight"], weights["fc2/kernel"].T)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_dtype_is_kept(tmp_path: Path, small: Small, dtype: str) -> None:
    tree = small("resnet")
    found = read_weights(save(tmp_path / "a.weights.h5", theirs(tree, dtype)), tree, "keras")
    assert {value.dtype.name for value in found.values()} == {dtype}


OLD = {"kernel": "W_1", "bias": "b_1", "gamma": "gamma", "beta": "beta", "moving_mean": "running_mean"}
SPELLINGS: dict[str, Respell] = {
    "keras-1": lambda word: f"{OLD.get(word, 'running_std')}:0",
    "keras-2": lambda word: f"{'depthwise_kernel' if word == 'kernel' else word}:0",
    "keras-3": lambda word: word,
    "numbers": lambda word: (
        f"{sorted(['kernel', 'gamma', 'bias', 'beta', 'moving_mean', 'moving_variance']).index(word)}"
    ),
}


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS)
def test_weights_that_do_not_say_what_they_are_count_by_their_order(
    tmp_path: Path, small: Small, spell: Respell
) -> None:
    tree = small("resnet")
    weights = theirs(tree)
    assert_same(read_weights(save(tmp_path / "a.h5", weights, legacy, spell), tree, "keras"), tree, weights)


def test_weights_that_say_what_they_are_count_by_that(tmp_path: Path, small: Small) -> None:
    tree = small("resnet")
    weights = theirs(tree)
    path = save(tmp_path / "a.h5", dict(reversed(weights.items())), legacy)
    with h5py.File(path) as file:
        assert "moving_variance" in str(file["conv1_bn"].attrs["weight_names"][0])
    assert_same(read_weights(path, tree, "keras"), tree, weights)


RENAMED = {
    "densenet": {"conv1_conv/": "conv1/conv/", "conv1_bn/": "conv1/bn/", "predictions/": "fc1000/"},
    "resnet": {"predictions/": "probs/"},
    "xception": {"predictions/": "Logits/"},
}


@pytest.mark.parametrize("name", RENAMED)
def test_the_old_names_of_layers_are_known(tmp_path: Path, small: Small, name: str) -> None:
    tree = small(name)
    weights = theirs(tree)
    old = {re.sub("^[^/]*/", lambda layer: RENAMED[name].get(layer[0], layer[0]), key): weights[key] for key in weights}
    assert old.keys() != weights.keys()
    assert_same(read_weights(save(tmp_path / "a.h5", old, legacy), tree, "keras"), tree, weights)


@pytest.mark.parametrize("first", [0, 1, 7, 95])
@pytest.mark.parametrize("write", [named, legacy])
def test_layers_that_a_session_numbered_count_by_their_order(
    tmp_path: Path, small: Small, write: Callable[..., None], first: int
) -> None:
    """Ten of them, so that 9 and 10, or 99 and 100, are among their numbers: in a file, they are in another order."""
    tree = small("xception")
    weights = theirs(tree)

    def numbered(found: re.Match[str]) -> str:
        number = int(found[2]) + first
        return f"{found[1]}_{number}/" if number else f"{found[1]}/"

    session = {re.sub(r"^(conv2d|batch_normalization)_(\d+)/", numbered, name): weights[name] for name in weights}
    assert (session.keys() & weights.keys()) != weights.keys()
    assert_same(read_weights(save(tmp_path / "a.h5", session, write), tree, "keras"), tree, weights)


def test_what_training_remembers_is_left_out(tmp_path: Path, small: Small) -> None:
    tree = small("resnet")
    weights = theirs(tree)
    path = save(tmp_path / "a.weights.h5", weights)
    with h5py.File(path, "a") as file:
        file["optimizer/vars/0"] = 7
        file["optimizer/vars/1"] = np.ones((3, 3))
        file["layers/dropout/seed_generator/vars/0"] = np.ones(2, np.uint32)
        file.create_group("vars").attrs["name"] = "resnet50"
    assert_same(read_weights(path, tree, "keras"), tree, weights)


def test_code_in_a_config_does_not_matter(tmp_path: Path, small: Small) -> None:
    tree = small("resnet")
    weights = theirs(tree)
    layer = {"class_name": "Lambda", "module": "os", "config": {"function": {"class_name": "__lambda__", "config": {}}}}
    path = save_archive(tmp_path / "a.keras", weights, {"module": "os", "class_name": "system", "config": [layer]})
    assert_same(read_weights(path, tree, "keras"), tree, weights)


def test_a_file_without_a_classifier_is_of_a_tree_that_was_cut(tmp_path: Path, small: Small) -> None:
    tree = small("vgg")
    weights = theirs(cut(tree, "pool1"))
    path = save(tmp_path / "a.weights.h5", weights)
    assert list(read_weights(path, cut(tree, "pool1"), "keras")) == ["conv1_1.weight", "conv1_1.bias"]
    refused(path, tree, r"missing: fc1/kernel, .* The file has no classifier \(include_top=False\): save .* by upto=")
    path = save(tmp_path / "b.weights.h5", theirs(tree))
    refused(path, cut(tree, "pool1"), "unexpected: .* read the file for the whole network, .* by imori.restrict")


# --- what does not fit ------------------------------------------------------------------------------------------------


def refused(path: Path, tree: Tree, match: str) -> None:
    with pytest.raises(WeightsError, match=match) as caught:
        read_weights(path, tree, "keras", SHAPE)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("write", [named, legacy])
@pytest.mark.parametrize("name", ["conv2_block1_0_conv/kernel", "conv1_bn/moving_variance"])
def test_a_missing_weight_is_refused(tmp_path: Path, small: Small, write: Callable[..., None], name: str) -> None:
    weights = theirs(small("resnet"))
    del weights[name]
    refused(save(tmp_path / "a.h5", weights, write), small("resnet"), f"do not fit this network; missing: {name}. The")


@pytest.mark.parametrize("name", ["conv1_conv/bias", "conv3_block1_1_conv/kernel", "dense_3/kernel"])
def test_a_weight_too_many_is_refused(tmp_path: Path, small: Small, name: str) -> None:
    weights = theirs(small("resnet")) | {name: np.ones(3, np.float32)}
    refused(save(tmp_path / "a.h5", weights, legacy), small("resnet"), f"do not fit this network; unexpected: {name}")


@pytest.mark.parametrize("place", ["layers/functional/layers/conv2d/vars/0", "other", "layers/conv2d/0"])
def test_a_weight_elsewhere_is_refused(tmp_path: Path, small: Small, place: str) -> None:
    path = save(tmp_path / "a.h5", theirs(small("resnet")))
    with h5py.File(path, "a") as file:
        file[place] = np.ones(3)
    refused(path, small("resnet"), f"do not fit this network; unexpected: {place}")


@pytest.mark.parametrize(
    ("name", "shape", "match"),
    [
        ("conv1_conv/kernel", (3, 3, 1, 4), r"is 3×3×1×4 and must be 3×3×3×4\. .*give shape=\(1, H, W\)"),
        ("conv1_conv/kernel", (4, 3, 3, 3), r"is 4×3×3×3 and must be 3×3×3×4\. The file is of another depth"),
        ("conv2_block1_1_conv/kernel", (4, 6), "is 4×6 and must be 1×1×4×6"),
        ("predictions/bias", (), "is a scalar and must be 3"),
        ("conv1_bn/beta", (5,), r"is 5 and must be 4\. The file is of another depth, width or form"),
    ],
)
def test_a_misshaped_weight_is_refused(
    tmp_path: Path, small: Small, name: str, shape: tuple[int, ...], match: str
) -> None:
    weights = theirs(small("resnet")) | {name: np.ones(shape, np.float32)}
    refused(save(tmp_path / "a.h5", weights), small("resnet"), f"misshaped: {name} {match}")


def test_a_shape_is_compared_before_anything_is_read(tmp_path: Path, small: Small) -> None:
    path = save(tmp_path / "a.h5", theirs(small("resnet")))
    with h5py.File(path, "a") as file:
        (held,) = (group for group in file["layers"].values() if group["vars"].attrs["name"] == "predictions")
        del held["vars/0"]
        huge = held.create_dataset("vars/0", (2**20, 2**20), "f4", chunks=(2, 2), compression="gzip")
        huge[0, 0] = 1
    assert path.stat().st_size < 2**20
    refused(path, small("resnet"), f"misshaped: predictions/kernel is {2**20}×{2**20} and must be 6×3")


def test_other_classes_are_named(tmp_path: Path, small: Small) -> None:
    weights = theirs(small("resnet"))
    weights |= {"predictions/kernel": np.ones((6, 7)), "predictions/bias": np.ones(7)}
    match = "of 7 classes and the tree has 3: build the tree with classes=7"
    refused(save(tmp_path / "a.h5", weights), small("resnet"), match)


def test_another_network_is_named(tmp_path: Path, small: Small) -> None:
    path = save(tmp_path / "a.h5", theirs(small("densenet")))
    refused(path, small("vgg"), "The file looks like densenet, and the tree has the layers of vgg")


def test_another_input_size_is_named(tmp_path: Path, small: Small) -> None:
    path = save(tmp_path / "a.h5", theirs(small("vgg")))
    with pytest.raises(WeightsError, match=r"fc1/kernel is 16×6 and must be 64×6\. .* give shape=\(C, H, W\)"):
        read_weights(path, small("vgg"), "keras", (3, 8, 8))


def test_another_width_is_named(tmp_path: Path) -> None:
    half, quarter = (imori.model("mobilenet_v1", variant="keras", width=width) for width in (0.5, 0.25))
    path = save(tmp_path / "a.h5", theirs(quarter, shape=(3, 224, 224)))
    with pytest.raises(
        WeightsError, match=r'misshaped: .* of another depth, width or form, or damaged: .* variant="keras"'
    ):
        read_weights(path, half, "keras")


def test_a_network_that_keras_has_not_is_refused(tmp_path: Path, small: Small) -> None:
    with pytest.raises(
        WeightsError, match=r"this tree is no network of keras, which publishes vgg, resnet, .*torchvision"
    ):
        read_weights(tmp_path / "a.h5", small("googlenet"), "keras")


@pytest.mark.parametrize("write", [named, legacy])
def test_a_quantised_file_is_refused(tmp_path: Path, small: Small, write: Callable[..., None]) -> None:
    weights = theirs(small("resnet"))
    weights["predictions/kernel"] = np.ones((6, 3), np.int8)
    refused(save(tmp_path / "a.h5", weights, write), small("resnet"), r"holds int8, .*before it is quantised")


def test_two_layers_of_one_name_are_refused(tmp_path: Path, small: Small) -> None:
    tree = small("resnet")
    weights = theirs(tree) | {"probs/kernel": np.ones((6, 3), np.float32), "probs/bias": np.ones(3, np.float32)}
    refused(save(tmp_path / "a.h5", weights), tree, "holds predictions/(kernel|bias) twice; keep one of them")
    path = save(tmp_path / "b.h5", theirs(tree))
    with h5py.File(path, "a") as file:
        file.copy("layers/layer_0", "layers/other")
    refused(path, tree, "do not fit this network; unexpected: layers/layer_0/vars/0")


def test_values_that_are_not_finite_are_refused(tmp_path: Path, small: Small) -> None:
    weights = theirs(small("resnet"))
    weights["conv1_bn/moving_variance"][2] = np.inf
    refused(save(tmp_path / "a.h5", weights), small("resnet"), r"bn1\.var holds values that are not finite")


# --- damaged files ----------------------------------------------------------------------------------------------------


def damaged(change: Callable[[Any], Any]) -> Callable[[Path, Weights], Path]:
    def make(path: Path, weights: Weights) -> Path:
        with h5py.File(save(path, weights, legacy), "a") as file:
            change(file)
        return path

    return make


def without(*names: str) -> Callable[[Any], None]:
    def change(file: Any) -> None:
        for name in names:
            del file[name]

    return change


def renamed(names: Any) -> Callable[[Path, Weights], Path]:
    return damaged(lambda file: file.attrs.update(layer_names=names))


DAMAGED: dict[str, tuple[Callable[[Path, Weights], Path], str]] = {
    "no-layers": (damaged(lambda file: [file.clear(), file.attrs.clear()]), "holds no layers of Keras; save the model"),
    "no-names": (damaged(lambda file: file.attrs.clear()), "holds no layers of Keras"),
    "no-group": (damaged(without("conv1_bn")), "cannot be read .*conv1_bn"),
    "no-weight": (damaged(without("conv1_bn/conv1_bn/beta:0")), "cannot be read .*conv1_bn/beta:0"),
    "no-order": (damaged(lambda file: file["conv1_bn"].attrs.clear()), "cannot be read .*weight_names"),
    "names-of-numbers": (renamed([1, 2]), "cannot be read .*layer_names is no list of names"),
    "names-elsewhere": (renamed(["../a"]), "cannot be read .*'../a/'"),
    "names-at-the-root": (renamed(["/conv1_bn"]), "cannot be read .*'/conv1_bn/'"),
    "names-of-bytes": (renamed(np.array([b"\xff\xfe"])), "cannot be read .*UnicodeDecodeError"),
    "layer-of-numbers": (damaged(lambda file: [without("conv1_bn")(file), file.update(conv1_bn=np.ones(3))]), "cannot"),
    "config": (lambda path, weights: unnamed(save_archive(path, weights, [])), "cannot be read .*list indices"),
    "config-of-text": (lambda path, weights: unnamed(save_archive(path, weights, {"config": "a"})), "cannot be read"),
}  # fmt: skip


def unnamed(path: Path) -> Path:
    """The archive with a member that has no names, so that its config.json is read."""
    with zipfile.ZipFile(path) as archive:
        config = archive.read("config.json")
    inner = path.with_suffix(".inner")
    with h5py.File(inner, "a") as file:
        del file["layers/layer_0/vars"].attrs["name"]
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(inner, "model.weights.h5")
        archive.writestr("config.json", config)
    return path


@pytest.mark.parametrize(("make", "match"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_refused(
    tmp_path: Path, small: Small, make: Callable[[Path, Weights], Path], match: str
) -> None:
    refused(make(tmp_path / "a.h5", theirs(small("resnet"))), small("resnet"), match)


@pytest.mark.parametrize("form", FILES)
def test_a_file_cut_short_is_refused(tmp_path: Path, small: Small, form: str) -> None:
    path = FILES[form](tmp_path / f"a.{form}", theirs(small("resnet")))
    whole = path.read_bytes()
    for end in [*range(0, len(whole), 1999), len(whole) - 1]:
        path.write_bytes(whole[:end])
        refused(path, small("resnet"), "cannot be read as a .keras, .weights.h5 or .h5 of Keras")


@pytest.mark.slow
@pytest.mark.parametrize("write", [named, legacy])
def test_changed_bytes_are_refused_or_are_values(tmp_path: Path, small: Small, write: Callable[..., None]) -> None:
    tree = small("resnet")
    path = save(tmp_path / "a.h5", theirs(tree), write)
    whole = path.read_bytes()
    refusals = []
    for at in range(0, len(whole), 211):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            assert read_weights(path, tree, "keras", SHAPE)
        except WeightsError as error:
            refusals.append(str(error))
    assert len(refusals) > 9
    assert all(str(path) in refusal for refusal in refusals)
