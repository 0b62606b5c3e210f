"""The filters before and after training, and what the stages respond to."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from PIL import Image

import imori
from imori import frameworks
from imori.data import open_photo
from imori.errors import TreeError
from imori.explain import features, filters
from imori.explain.drawing import heat, signed, square
from imori.explain.network import FILTER, MAP, PANEL, PHOTO, _stages, _start
from imori.shapes import resolve
from imori.tree import Chain, Flatten, Linear, without_heads

STAGES = {
    ("lenet", 32): ["conv1", "sigmoid1", "conv2", "sigmoid2"],
    ("resnet18", 64): ["relu1", "conv2", "conv3", "conv4", "conv5"],
    ("vgg16", 64): ["relu1_2", "relu2_2", "relu3_3", "relu4_3", "relu5_3", "pool5"],
    ("googlenet", 224): ["conv1_relu", "lrn2", "inception3b", "inception4e", "inception5b"],
}


def has(picture: Image.Image, tile: Image.Image) -> bool:
    """Whether the tile is somewhere in the picture, pixel for pixel."""
    whole, part = np.asarray(picture), np.asarray(tile)
    places = sliding_window_view(whole, part.shape)[:, :, 0]
    starts = np.argwhere((places[..., 0, :, :] == part[0]).all((-1, -2)))
    return any(np.array_equal(places[y, x], part) for y, x in starts)


@pytest.mark.parametrize(("name", "size"), STAGES, ids=[name for name, _ in STAGES])
def test_a_stage_ends_where_the_size_of_the_maps_changes(name: str, size: int) -> None:
    root = resolve(without_heads(imori.model(name, classes=10)), (3, size, size))
    assert [node.path for node in _stages(root)] == STAGES[name, size]


def test_the_start_is_drawn_again_from_the_seed(tmp_path: Path) -> None:
    """A run at the rate 0 ends where it began."""
    still = {"model": "lenet", "framework": "numpy", "iterations": 1, "lr": 0.0}
    first = imori.train("digits", seed=3, out=tmp_path / "first", **still)
    model = imori.load(first.path)
    start, how = _start(model, "conv1")
    assert np.array_equal(start, imori.dump_weights(model.native)["conv1.weight"])
    assert how == "before training"
    moved = imori.train("digits", weights=first.path, seed=4, out=tmp_path / "moved", **{**still, "lr": 0.01})
    again, how = _start(imori.load(moved.path), "conv1")
    assert np.array_equal(again, start), "it went on from the first run, whatever its own seed"
    assert "it went on from" in how
    shutil.rmtree(first.path)
    assert _start(imori.load(moved.path), "conv1")[0] is None
    shutil.copy(moved.path / "model.safetensors", tmp_path / "alone.safetensors")
    alone = imori.load(tmp_path / "alone.safetensors")
    assert _start(alone, "conv1")[0] is None
    assert filters(alone).width < filters(imori.load(moved.path)).width * 1.5


@pytest.mark.parametrize("channels", [1, 3])
def test_filters_are_drawn_before_and_after_and_what_changed(digits_run: Path, pets_run: Path, channels: int) -> None:
    model, path = (imori.load(digits_run), "conv1") if channels == 1 else (imori.load(pets_run), "conv")
    before, _ = _start(model, path)
    after = imori.dump_weights(model.native)[f"{path}.weight"]
    picture = filters(model)
    side = min(FILTER, PANEL // (3 if channels == 1 else 2) - 4)
    one = max(np.abs(before).max(), np.abs(after).max())
    for weight, scale in ((before, one), (after, one), (after - before, np.abs(after - before).max())):
        last = signed(weight, scale)[-1].transpose(1, 2, 0)
        assert has(picture, square(last, side))


def test_a_network_without_convolutions_has_no_filters(tmp_path: Path) -> None:
    net = Chain(flatten=Flatten(), fc=Linear(10))
    run = imori.train("digits", model=net, framework="numpy", size=8, iterations=1, out=tmp_path / "run")
    with pytest.raises(TreeError, match="no convolution"):
        filters(imori.load(run.path))
    with pytest.raises(TreeError, match="no maps"):
        features(imori.load(run.path), _digit(tmp_path))


def _digit(folder: Path) -> Path:
    Image.fromarray(np.random.default_rng(5).integers(0, 256, (8, 8), np.uint8)).save(folder / "digit.png")
    return folder / "digit.png"


def test_features_are_the_maps_of_the_stages(digits_run: Path, tmp_path: Path) -> None:
    model, path = imori.load(digits_run), _digit(tmp_path)
    picture, how = features(model, path), model.preprocessing
    photo = open_photo(path, 1, how.least)
    assert has(picture, square(how.pixels(photo), PHOTO))
    maps = frameworks.outputs(model.native, how(photo)[None], ["conv1", "sigmoid2"])
    for of_stage in maps.values():
        assert all(has(picture, square(heat(each), MAP)) for each in of_stage[0])
    named = model.test_images()
    assert has(features(model, named.names[7]), square(how.pixels(named.open(7)), PHOTO)), (
        "by its name in the test part"
    )
