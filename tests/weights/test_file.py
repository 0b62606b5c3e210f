"""model.safetensors: what it holds, how strictly it is read, and that it is there whole or not at all."""

import contextlib
import errno
import json
import os
import signal
import struct
import subprocess
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.numpy

import imori
from imori.catalogue import model
from imori.errors import ImoriError, NameUnknown, RunError, WeightsError
from imori.tree import Aux, BatchNorm, Chain, Conv, GlobalAvgPool, Linear
from imori.weights import Card, initial_weights, read_card, read_model, read_weights, save_model
from imori.weights import file as weights_file

SHAPE = (3, 20, 24)
NET = Chain(
    conv=Conv(6, 3, bias=False),
    bn=BatchNorm(),
    aux=Aux(Chain(pool=GlobalAvgPool(), fc=Linear(2))),
    pool=GlobalAvgPool(),
    fc=Linear(2),
)
CARD = Card(
    tree=NET,
    input=SHAPE,
    classes=("猫", 'chien\n"é"'),
    preprocessing={"size": [20, 24], "mean": [0.1, 0.2, 0.3]},
    metrics={"val_accuracy": 0.75, "epoch": 3},
    model="my_net.py:net",
    framework="numpy",
)


def some_weights(dtype: str = "float32", seed: int = 0) -> dict[str, np.ndarray]:
    """Every tensor at random, batch norms included."""
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(value.shape).astype(dtype) for name, value in initial_weights(NET, SHAPE).items()}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_model(path, some_weights(), CARD)
    return path


def with_metadata(path: Path, changes: dict[str, str | None]) -> None:
    """Writes the file again, with some of its metadata changed or left out."""
    weights, metadata = weights_file.read_tensors(path)
    changed = {name: value for name, value in (metadata | changes).items() if value is not None}
    safetensors.numpy.save_file(weights, path, changed)


# --- there and back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_a_model_comes_back_as_it_was(tmp_path: Path, dtype: str) -> None:
    path, weights = tmp_path / "new" / "folder" / "m.safetensors", some_weights(dtype)
    save_model(path, weights, CARD)
    again, card = read_model(str(path))
    assert card == CARD
    assert list(again) == list(weights), "in the order in which the layers run"
    for name, value in weights.items():
        assert again[name].dtype == dtype
        np.testing.assert_array_equal(again[name], value)
    assert [file.name for file in path.parent.iterdir()] == ["m.safetensors"]


def test_the_card_can_be_read_alone(saved: Path) -> None:
    assert read_card(saved) == CARD


def test_other_views_of_an_array_are_saved_by_value(tmp_path: Path) -> None:
    path = tmp_path / "t.safetensors"
    whole = np.arange(24.0).reshape(4, 6)
    tensors = {"transposed": whole.T, "part": whole[::2, 1:5], "scalar": np.array(7), "empty": np.zeros((0, 3))}
    weights_file.save_tensors(path, tensors, {})
    again, metadata = weights_file.read_tensors(path)
    assert metadata == {}
    for name, value in tensors.items():
        assert again[name].shape == value.shape
        np.testing.assert_array_equal(again[name], value)


def test_any_reader_of_safetensors_can_read_it(saved: Path) -> None:
    with safetensors.safe_open(saved, framework="numpy") as file:
        metadata = file.metadata()
        assert sorted(file.keys()) == sorted(some_weights())
    assert metadata["imori"] == "1"
    assert json.loads(metadata["classes"]) == list(CARD.classes)
    assert json.loads(metadata["tree"])["format"] == 1
    assert set(metadata) == {
        "imori", "tree", "input", "classes", "preprocessing", "metrics", "model", "framework",
    }  # fmt: skip


def test_a_model_that_contradicts_itself_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with pytest.raises(WeightsError, match=r"m\.safetensors: 3 classes are named, and the network ends in \(2,\)"):
        save_model(path, some_weights(), replace(CARD, classes=("a", "b", "c")))
    with pytest.raises(WeightsError, match=r"the weights to save do not fit this network; missing: fc\.bias"):
        save_model(path, {name: value for name, value in some_weights().items() if name != "fc.bias"}, CARD)
    assert not path.exists()


# --- weights for a tree ----------------------------------------------------------------------------------------------


def test_weights_are_read_for_the_same_network(saved: Path) -> None:
    assert imori.read_weights is read_weights
    again = read_weights(saved, NET)
    assert list(again) == list(some_weights())
    np.testing.assert_array_equal(again["conv.weight"], some_weights()["conv.weight"])
    assert read_weights(saved, NET, source="imori", shape=(3, 40, 40)).keys() == again.keys()


def test_another_number_of_classes_is_refused_by_name(saved: Path) -> None:
    other = Chain.of((*NET.children[:-1], ("fc", Linear(5))))
    with pytest.raises(
        WeightsError, match=r"model\.safetensors do not fit .*: fc\.weight is 2×6 and must be 5×6, fc\.bias"
    ):
        read_weights(saved, other)


def test_another_network_is_refused_by_name(saved: Path) -> None:
    with pytest.raises(
        WeightsError, match=r"missing: conv1\.weight, .*; unexpected: aux\.fc\.bias, .* Use weights of the"
    ):
        read_weights(saved, model("resnet18"))


def test_another_number_of_channels_is_refused(saved: Path) -> None:
    with pytest.raises(WeightsError, match=r"conv\.weight is 6×3×3×3 and must be 6×1×3×3"):
        read_weights(saved, NET, shape=(1, 20, 24))


def test_an_unknown_source_is_refused(saved: Path) -> None:
    with pytest.raises(NameUnknown, match="there is no source 'caffe' of weights; there are imori"):
        read_weights(saved, NET, source="caffe")


# --- files that must not be believed ---------------------------------------------------------------------------------


def header(text: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(text)) + text + data


FOREIGN = {
    "empty": b"",
    "pickle": b"\x80\x04\x95\x1c\x00\x00\x00" + b"cos\nsystem\n" * 9,
    "zip": b"PK\x03\x04" + bytes(100),
    "huge header": struct.pack("<Q", 2**60) + b"{}",
    "no JSON": header(b"{{{{{{{{"),
    "beyond the end": header(b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}', bytes(8)),
    "wrong size": header(b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,8]}}', bytes(8)),
    "huge shape": header(b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}', bytes(8)),
    "bfloat16": header(b'{"a":{"dtype":"BF16","shape":[2],"data_offsets":[0,4]}}', bytes(4)),
    "float8": header(b'{"a":{"dtype":"F8_E4M3","shape":[2],"data_offsets":[0,2]}}', bytes(2)),
}


@pytest.mark.parametrize("content", FOREIGN.values(), ids=FOREIGN)
def test_foreign_files_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(content)
    for read in (read_model, lambda path: read_weights(path, NET)):
        with pytest.raises(
            WeightsError, match=r"foreign\.safetensors cannot be read as safetensors .*; it may be cut short"
        ):
            read(path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.9, 0.999])
def test_a_file_cut_short_is_refused(saved: Path, share: float) -> None:
    content = saved.read_bytes()
    saved.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(WeightsError, match="it may be cut short or another kind of file"):
        read_model(saved)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"none\.safetensors is not there; name a model\.safetensors or a run"):
        read_model(tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match="cannot be read as safetensors"):
        read_model(tmp_path)


def test_a_file_of_others_is_refused(saved: Path) -> None:
    safetensors.numpy.save_file(some_weights(), saved)
    with pytest.raises(WeightsError, match=r"model\.safetensors was not written by imori: its metadata name no tree"):
        read_model(saved)
    assert read_weights(saved, NET, shape=SHAPE).keys() == some_weights().keys(), (
        "the shape given, nothing else is needed"
    )


DAMAGED: list[tuple[str, dict[str, str | None], str]] = [
    ("newer format", {"imori": "2"}, r"has format '2', and this imori reads 1; update imori"),
    ("no tree", {"tree": None}, "its metadata are damaged: tree not there"),
    ("no classes", {"classes": None, "metrics": None}, "its metadata are damaged: classes, metrics not there"),
    ("a tree cut short", {"tree": '{"format": 1, "tr'}, "its metadata are damaged: this is not a tree in JSON"),
    ("a newer tree", {"tree": '{"format": 2, "tree": {}}'}, "its metadata are damaged: this tree has format 2"),
    ("an unknown layer", {"tree": '{"format": 1, "tree": {"kind": "X"}}'}, "'X' is no kind of layer"),
    ("no JSON", {"preprocessing": "{"}, "its metadata are damaged"),
    ("deep JSON", {"preprocessing": "[" * 100_000}, "its metadata are damaged"),
    ("a list for an object", {"preprocessing": "[]"}, "its metadata are damaged: preprocessing is no dict"),
    ("a number for a name", {"model": "3"}, "its metadata are damaged: model is no str"),
    ("a class without a name", {"classes": '["a", 2]'}, "its metadata are damaged: a class has no name"),
    ("a class twice", {"classes": '["a", "a"]'}, "its metadata are damaged: 'a' names two classes; each must have its"),
    (
        "half a letter",
        {"classes": '["a", "\\ud800"]'},
        r"damaged: the class '\\ud800' holds half of a character.*rename",
    ),
    ("half a letter elsewhere", {"metrics": '{"best": "\\ud800"}'}, "damaged: metrics holds half of a character"),
    ("a string of classes", {"classes": '"ab"'}, "its metadata are damaged: classes is no list"),
    (
        "a class too many",
        {"classes": '["a", "b", "c"]'},
        r"damaged: 3 classes are named, and the network ends in \(2,\)",
    ),
    ("a class too few", {"classes": '["a"]'}, r"damaged: 1 classes are named, and the network ends in \(2,\)"),
    ("a shape of words", {"input": '["3", 20, 24]'}, "its metadata are damaged: the input shape is"),
    (
        "a shape that is huge",
        {"input": "[3, 1000000, 1000000]"},
        "its metadata are damaged: the input: .* is too large",
    ),
    ("a shape that is too small", {"input": "[3, 2, 2]"}, "its metadata are damaged: conv: a kernel of 3×3"),
    ("other channels", {"input": "[4, 20, 24]"}, r"conv\.weight is 6×3×3×3 and must be 6×4×3×3"),
    ("another tree", {"tree": '{"format": 1, "tree": {"kind": "GlobalAvgPool"}}'}, r"network ends in \(3,\)"),
]


@pytest.mark.parametrize(("changes", "sentence"), [case[1:] for case in DAMAGED], ids=[case[0] for case in DAMAGED])
def test_damaged_metadata_are_refused(saved: Path, changes: dict[str, str | None], sentence: str) -> None:
    with_metadata(saved, changes)
    with pytest.raises(WeightsError, match=sentence) as refused:
        read_model(saved)
    assert str(saved) in str(refused.value)


def test_any_one_damaged_byte_of_the_header_is_refused_or_harmless(saved: Path) -> None:
    """No error but ours, whatever the damage."""
    content = saved.read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    rng = np.random.default_rng(0)
    for place in rng.choice(end, 300, replace=False):
        damaged = bytearray(content)
        damaged[place] = rng.integers(256)
        saved.write_bytes(damaged)
        with contextlib.suppress(ImoriError):
            read_model(saved)


def test_a_missing_tensor_is_named(saved: Path) -> None:
    weights, metadata = weights_file.read_tensors(saved)
    del weights["bn.var"]
    safetensors.numpy.save_file(weights, saved, metadata)
    with pytest.raises(WeightsError, match=r"model\.safetensors do not fit this network; missing: bn\.var"):
        read_model(saved)


# --- written whole or not at all -------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_leaves_the_old_file(saved: Path) -> None:
    before = saved.read_bytes()
    weights_file.partial_of(saved).symlink_to("/dev/full")
    with pytest.raises(
        RunError, match=r"model\.safetensors could not be written: No space left on device; free some space, or choose"
    ):
        save_model(saved, some_weights(seed=1), CARD)
    assert saved.read_bytes() == before
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]


def test_a_limit_on_file_size_leaves_the_old_file(saved: Path) -> None:
    """The operating system itself stops the writing half-way."""
    resource = pytest.importorskip("resource", reason="this system has no limits on files")
    before = saved.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(
            RunError, match="could not be written: File too large; the system takes no file of this size"
        ):
            weights_file.save_tensors(saved, {"large": np.arange(100_000.0)}, {})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert saved.read_bytes() == before
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]


def test_an_interrupt_leaves_the_old_file(saved: Path) -> None:
    before = saved.read_bytes()

    def interrupted() -> None:
        with weights_file.written(saved) as beside:
            beside.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert saved.read_bytes() == before
    assert [file.name for file in saved.parent.iterdir()] == [saved.name]


def test_a_place_that_cannot_be_written_is_named_with_what_helps(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for place, sentence in (
        ("file/m.safetensors", "file is a file where a folder should be: choose another place"),
        ("file/in/m.safetensors", "file is a file where a folder should be: choose another place"),
        ("folder", "a folder stands in its place: choose another name"),
        ("n" * 300, "File name too long; choose a shorter name"),
        ("n" * 256, "File name too long; choose a shorter name"),
    ):
        with pytest.raises(RunError, match=rf"{place} could not be written: .*{sentence}$"):
            save_model(tmp_path / place, some_weights(), CARD)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_place_where_one_may_not_write_is_said(saved: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The system's answer is put in its mouth: to root, it says no to nothing."""

    def refuse(path: Path, target: Path) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(
        RunError, match=f"written: {os.strerror(number)}; you may not write there: choose another place"
    ):
        save_model(saved, some_weights(), CARD)


# --- equal models are equal files ------------------------------------------------------------------------------------

SAVED_ANEW = """
import sys
from imori.weights import read_model, save_model
weights, card = read_model(sys.argv[1])
for file in sys.argv[2:]:
    save_model(file, dict(reversed(weights.items())), card)
"""


def test_equal_models_are_equal_files_in_every_process(saved: Path, tmp_path: Path) -> None:
    files = [str(tmp_path / f"{i}.safetensors") for i in range(4)]
    for two in (files[:2], files[2:]):
        subprocess.run([sys.executable, "-c", SAVED_ANEW, str(saved), *two], check=True)
    save_model(tmp_path / "order", some_weights(), replace(CARD, metrics={"epoch": 3, "val_accuracy": 0.75}))
    assert {Path(file).read_bytes() for file in files} == {saved.read_bytes(), (tmp_path / "order").read_bytes()}


@pytest.mark.parametrize("dtype", weights_file.DTYPES)
def test_the_library_reads_every_dtype_from_aligned_data(tmp_path: Path, dtype: str) -> None:
    path = tmp_path / "t.safetensors"
    rng = np.random.default_rng(0)
    tensors = {
        "b": rng.integers(0, 2, (3, 5)).astype(dtype),
        "odd": np.array([1, 2, 3], np.int8),
        "a": np.array(1, dtype),
        "none": np.zeros((2, 0), dtype),
        "turned": rng.integers(0, 2, (4, 3)).astype(dtype).T,
        "other way": rng.integers(0, 2, 4).astype(np.dtype(dtype).newbyteorder(">")),
        "doubles": rng.random(3),
    }
    weights_file.save_tensors(path, tensors, {"é\n": '猫\x1f"\\ \u2028'})
    with safetensors.safe_open(path, framework="numpy") as file:
        assert file.metadata() == {"é\n": '猫\x1f"\\ \u2028'}
        assert sorted(file.keys()) == sorted(tensors)
        for name, value in tensors.items():
            again = file.get_tensor(name)
            assert again.dtype == value.dtype.newbyteorder("=")
            np.testing.assert_array_equal(again, value)
    content = path.read_bytes()
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    assert length % 8 == 0
    for name, value in tensors.items():
        assert header[name]["data_offsets"][0] % value.itemsize == 0, name


def test_a_dtype_that_the_format_has_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"a is of complex64, which .*t\.safetensors cannot hold; it holds float64,"):
        weights_file.save_tensors(tmp_path / "t.safetensors", {"a": np.zeros(2, np.complex64)}, {})
    assert list(tmp_path.iterdir()) == []


def test_saving_a_large_model_takes_no_second_one_of_memory(tmp_path: Path) -> None:
    tensors = {str(i): np.zeros(2**20, np.float32) for i in range(4)}
    tracemalloc.start()
    try:
        weights_file.save_tensors(tmp_path / "t.safetensors", tensors, {})
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()


KILLED = """
import sys
from pathlib import Path
import numpy as np
from imori.weights.file import save_tensors
path = Path(sys.argv[1])
print("ready", flush=True)
value = 0
while True:
    value += 1
    save_tensors(path, {"a": np.full(300_000, value)}, {"value": str(value)})
"""


def test_a_killed_writer_leaves_a_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    weights_file.save_tensors(path, {"a": np.full(300_000, 0)}, {"value": "0"})
    rng = np.random.default_rng(1)
    for _ in range(3):
        with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            assert writer.stdout.readline() == b"ready\n"
            with pytest.raises(subprocess.TimeoutExpired):
                writer.wait(rng.uniform(0.0, 0.05))
            writer.kill()
        tensors, metadata = weights_file.read_tensors(path)
        assert set(tensors["a"].tolist()) == {int(metadata["value"])}


def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    weights = some_weights()
    next(iter(weights.values())).flat[0] = np.nan
    save_model(path, weights, CARD)
    with pytest.raises(WeightsError, match=rf"{next(iter(weights))} holds values that are not finite"):
        read_model(path)


def test_a_model_file_may_be_read_by_whom_the_umask_lets(tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.touch()
    save_model(tmp_path / "model.safetensors", some_weights(), CARD)
    assert (tmp_path / "model.safetensors").stat().st_mode == plain.stat().st_mode


def test_a_run_stands_for_its_model_file(tmp_path: Path) -> None:
    save_model(tmp_path / "model.safetensors", some_weights(), CARD)
    assert read_weights(tmp_path, CARD.tree).keys() == some_weights().keys()
