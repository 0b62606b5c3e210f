"""A .onnx read back: as strictly as a model.safetensors, and with nothing from outside it."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imori
from imori.errors import FrameworkMissing, ImoriError, WeightsError
from imori.tree import Aux, BatchNorm, Chain, Conv, GlobalAvgPool, Linear
from imori.weights import Card, initial_weights, read_model, read_weights
from imori.weights import onnx as reader

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

NET = Chain(
    conv=Conv(6, 3, bias=False),
    bn=BatchNorm(),
    aux=Aux(Chain(pool=GlobalAvgPool(), fc=Linear(2))),
    pool=GlobalAvgPool(),
    fc=Linear(2),
)
HOW = {"size": [20, 24]}
CARD = Card(NET, (3, 20, 24), ("猫", 'chien\n"é"'), HOW, {"epoch": 3}, "my_net.py:net", "numpy")


def some_weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    start = initial_weights(NET, CARD.input)
    return {name: rng.standard_normal(value.shape).astype("float32") for name, value in start.items()}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    imori.export_onnx(tmp_path / "net.onnx", some_weights(), CARD, preprocessing=False)
    return tmp_path / "net.onnx"


def changed(path: Path, change: Callable[[Any], object]) -> None:
    """Writes the file again, with something else in it."""
    model = onnx.ModelProto.FromString(path.read_bytes())
    change(model)
    path.write_bytes(model.SerializeToString())


def test_what_was_written_is_read(saved: Path) -> None:
    weights, card = read_model(saved)
    given = some_weights()
    assert list(weights) == [name for name in given if not name.startswith("aux")]
    assert all(np.array_equal(value, given[name]) and value.flags.writeable for name, value in weights.items())
    assert card.tree == imori.without_heads(NET)
    assert (card.input, card.classes, card.preprocessing) == (CARD.input, CARD.classes, CARD.preprocessing)
    assert (card.metrics, card.model, card.framework) == (CARD.metrics, CARD.model, CARD.framework)
    assert read_weights(saved, card.tree).keys() == weights.keys()


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_refused(saved: Path, share: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(WeightsError, match=r"net\.onnx.*(cut short|damaged)"):
        read_model(saved)


def test_a_foreign_file_is_refused_with_what_helps(saved: Path, tmp_path: Path) -> None:
    changed(saved, lambda model: model.ClearField("metadata_props"))
    with pytest.raises(WeightsError, match=r"net\.onnx was not written by imori.*run by ONNX Runtime itself"):
        read_model(saved)
    for name, content in (("pickle", b"\x80\x04\x95\x1c\x00\x00\x00cos\nsystem\n"), ("text", b"hello")):
        (tmp_path / f"{name}.onnx").write_bytes(content)
        with pytest.raises(WeightsError, match=rf"{name}\.onnx cannot be read as ONNX; it is cut short or another"):
            read_model(tmp_path / f"{name}.onnx")
    with pytest.raises(WeightsError, match=r"none\.onnx is not there; name a run"):
        read_model(tmp_path / "none.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(WeightsError, match=r"folder\.onnx cannot be read: Is a directory"):
        read_model(tmp_path / "folder.onnx")


def first(model: Any) -> Any:
    return next(each for each in model.graph.initializer if each.name == "conv.weight")


def outside(model: Any) -> None:
    tensor = first(model)
    tensor.ClearField("raw_data")
    tensor.data_location = tensor.EXTERNAL
    tensor.external_data.add(key="location", value="secret.bin")


def empty(model: Any) -> None:
    first(model).raw_data = b""
    first(model).dims[:] = [0, 2**62, 2**62]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(outside, id="outside the file"),
        pytest.param(lambda model: setattr(first(model), "data_location", 1), id="said to be outside"),
        pytest.param(lambda model: setattr(first(model), "raw_data", b"1234"), id="too few bytes"),
        pytest.param(lambda model: first(model).dims.insert(0, 2**40), id="huge shape"),
        pytest.param(lambda model: first(model).dims.__setitem__(0, -6), id="negative shape"),
        pytest.param(lambda model: first(model).dims.extend([1] * 61), id="too many axes"),
        pytest.param(empty, id="nothing, of a huge shape"),
        pytest.param(lambda model: setattr(first(model), "data_type", 8), id="strings"),
    ],
)
def test_weights_that_are_not_in_the_file_are_refused(saved: Path, change: Callable[[Any], object]) -> None:
    (saved.parent / "secret.bin").write_bytes(bytes(6 * 3 * 3 * 3 * 4))
    changed(saved, change)
    with pytest.raises(WeightsError, match=r"net\.onnx: 'conv\.weight' is not held as float32 numbers in the file"):
        read_model(saved)


def test_weights_of_another_network_are_refused(saved: Path) -> None:
    changed(saved, lambda model: setattr(first(model), "name", "conv9.weight"))
    with pytest.raises(WeightsError, match=r"net\.onnx do not fit.*missing: conv\.weight; unexpected: conv9\.weight"):
        read_model(saved)


def test_damaged_metadata_are_refused(saved: Path) -> None:
    def change(model: Any) -> None:
        next(each for each in model.metadata_props if each.key == "classes").value = json.dumps(["a"])

    changed(saved, change)
    with pytest.raises(WeightsError, match=r"net\.onnx: its metadata are damaged: 1 classes are named"):
        read_model(saved)


def test_any_one_damaged_byte_is_refused_or_harmless(saved: Path) -> None:
    """No error but ours, whatever the damage."""
    content = saved.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.choice(len(content), 300, replace=False):
        damaged = bytearray(content)
        damaged[place] = rng.integers(256)
        saved.write_bytes(damaged)
        try:
            read_model(saved)
        except ImoriError as error:
            refused += str(saved) in str(error)
    assert refused > 50


def test_a_file_larger_than_protobufs_is_not_read(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MOST_BYTES", 1000)
    with pytest.raises(WeightsError, match=r"net\.onnx has [\d,]+ bytes, and an ONNX file at most 1,000"):
        read_model(saved)


def test_without_onnx_the_extra_is_named(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FrameworkMissing, match=r"net\.onnx is read by onnx.*pip install 'imori\[onnx\]'"):
        read_model(saved)
