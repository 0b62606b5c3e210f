"""Files that others wrote: every form of them is read as the same tensors, and no code in them runs."""

import argparse
import pickle
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
from safetensors.torch import save_file

from imori.errors import FrameworkMissing, WeightsError
from imori.weights.checkpoint import read_checkpoint

RNG = np.random.default_rng(0)
TENSORS = {
    "conv1.weight": RNG.standard_normal((4, 3, 3, 3)).astype("float32"),
    "bn1.running_var": RNG.uniform(0.5, 1.5, 4),
    "fc.bias": RNG.standard_normal(5).astype("float16"),
}
STATE = {name: torch.from_numpy(value) for name, value in TENSORS.items()}
OTHER = {name: torch.zeros_like(value) for name, value in STATE.items()}


def prefixed(prefix: str, state: dict[str, Any]) -> dict[str, Any]:
    return {prefix + name: value for name, value in state.items()}


HELD = {
    "bare": STATE,
    "counted": STATE | {"bn1.num_batches_tracked": torch.tensor(7)},
    "state_dict": {"state_dict": STATE, "optimizer": {"state": {}, "param_groups": []}},
    "model": {"model": STATE, "epoch": 3, "args": argparse.Namespace(lr=0.1, output_dir=".")},
    "averaged": {"model": OTHER, "model_ema": {"n_averaged": torch.tensor(9)} | prefixed("module.", STATE)},
    "averaged-timm": {"state_dict": OTHER, "state_dict_ema": STATE, "arch": "resnet18", "metric": 71.5},
    "parallel": prefixed("module.", STATE),
    "compiled": {"model": prefixed("module._orig_mod.", STATE)},
    "parameters": {name: torch.nn.Parameter(value) for name, value in STATE.items()},
    "views": {name: torch.stack([value, value], -1)[..., 1] for name, value in STATE.items()},
}


def assert_same(found: dict[str, np.ndarray]) -> None:
    assert found.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("held", HELD.values(), ids=HELD)
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_a_file_of_pytorch_is_read(tmp_path: Path, held: dict[str, Any], zipped: bool) -> None:
    torch.save(held, tmp_path / "a.pth", _use_new_zipfile_serialization=zipped)
    assert_same(read_checkpoint(tmp_path / "a.pth"))


@pytest.mark.parametrize("suffix", [".pt", ".bin", ".pth.tar", ".PTH"])
def test_the_other_endings_are_read(tmp_path: Path, suffix: str) -> None:
    torch.save(STATE, tmp_path / f"a{suffix}")
    assert_same(read_checkpoint(tmp_path / f"a{suffix}"))


def test_safetensors_are_read(tmp_path: Path) -> None:
    tensors = prefixed("module.", TENSORS) | {"module.bn1.num_batches_tracked": np.array(7)}
    safetensors.numpy.save_file(tensors, tmp_path / "a.safetensors")
    assert_same(read_checkpoint(tmp_path / "a.safetensors"))


def test_what_was_read_is_the_readers_own(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "a.pth")
    found = read_checkpoint(tmp_path / "a.pth")
    (tmp_path / "a.pth").write_bytes(b"")
    for value in found.values():
        value *= 2
    np.testing.assert_array_equal(found["conv1.weight"], 2 * TENSORS["conv1.weight"])


@pytest.mark.parametrize("save", [torch.save, save_file], ids=["a.pth", "a.safetensors"])
def test_bfloat16_becomes_float32(
    tmp_path: Path, request: pytest.FixtureRequest, save: Callable[[Any, Path], None]
) -> None:
    path = tmp_path / request.node.callspec.id
    short = STATE["conv1.weight"].bfloat16()
    save({"short": short, "long": STATE["bn1.running_var"]}, path)
    found = read_checkpoint(path)
    assert found["short"].dtype == np.float32
    np.testing.assert_array_equal(found["short"], short.float().numpy())
    np.testing.assert_array_equal(found["long"], TENSORS["bn1.running_var"])


def test_safetensors_need_no_framework(tmp_path: Path) -> None:
    save_file({"a.weight": torch.ones(2).bfloat16(), "b.weight": torch.ones(2)}, tmp_path / "a.safetensors")
    code = (
        "import sys; from pathlib import Path; from imori.weights.checkpoint import read_checkpoint\n"
        "read_checkpoint(Path(sys.argv[1]))\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.safetensors")], check=True)


def test_without_pytorch_its_files_are_refused_by_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(FrameworkMissing, match=r"a\.pth .* pip install 'imori\[torch\]'"):
        read_checkpoint(tmp_path / "a.pth")


# --- what is refused --------------------------------------------------------------------------------------------------


class Trap:
    """Unpickled, it makes a file: what a pickle with code does."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.made,)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("hidden", ["beside", "in-a-wrapper"])
def test_code_in_a_pickle_is_refused_and_does_not_run(tmp_path: Path, zipped: bool, hidden: str) -> None:
    path, made = tmp_path / "a.pth", tmp_path / "made"
    held = {**STATE, "trap": Trap(made)} if hidden == "beside" else {"state_dict": STATE, "args": Trap(made)}
    torch.save(held, path, _use_new_zipfile_serialization=zipped)
    torch.load(path, weights_only=False)
    assert made.exists(), "the trap works"
    made.unlink()
    with pytest.raises(WeightsError, match=r"a\.pth holds \S+, which could run code, and was not read"):
        read_checkpoint(path)
    assert not made.exists()


@pytest.mark.parametrize(
    ("held", "named"),
    [
        (lambda made: Trap(made), r"\w+"),
        (lambda made: {"state_dict": argparse.ArgumentParser}, r"argparse\.ArgumentParser"),
        (lambda made: dict(TENSORS), r"[\w.]+\.\w+"),
    ],
    ids=["code", "class", "arrays"],
)
@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_a_plain_pickle_is_refused_with_what_it_holds(
    tmp_path: Path, held: Callable[[Path], object], named: str, protocol: int
) -> None:
    path, made = tmp_path / "a.pth", tmp_path / "made"
    path.write_bytes(pickle.dumps(held(made), protocol))
    with pytest.raises(WeightsError, match=rf"a\.pth holds {named}\S*, which could run code") as refused:
        read_checkpoint(path)
    assert not made.exists()
    assert "weights_only" not in str(refused.value), "PyTorch's advice is to let it run"
    assert "save model.state_dict() by torch.save, or as .safetensors" in str(refused.value)


def test_a_whole_module_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"holds torch\.nn\.modules\.linear\.Linear, .* save model\.state_dict\(\)"):
        read_checkpoint(tmp_path / "a.pth")


@pytest.mark.parametrize("name", ["zip.pth", "legacy.pth", "a.safetensors"])
def test_a_file_cut_short_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "a.safetensors":
        safetensors.numpy.save_file(TENSORS, path)
    else:
        torch.save({"model": STATE}, path, _use_new_zipfile_serialization=name == "zip.pth")
    whole = path.read_bytes()
    for end in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:end])
        with pytest.raises(WeightsError, match=rf"{name} "):
            read_checkpoint(path)


@pytest.mark.parametrize(
    ("held", "match"),
    [
        (STATE["fc.bias"], "holds more than arrays by name"),
        ([STATE], "holds more than arrays by name"),
        ({"model": STATE | {"hook": {}}}, "holds more than arrays by name .* save model"),
        ({"a": torch.eye(3).to_sparse()}, "holds more than arrays by name"),
        ({"a": torch.ones(2, device="meta")}, "holds more than arrays by name"),
        ({"a.weight": torch.ones(2, dtype=torch.int8)}, r"a\.weight holds int8, and weights are floats"),
        ({"a": torch.zeros((1,) * 65)}, "holds more than arrays by name"),
        ({"a": torch.zeros(1).expand(2**40, 2**10)}, "declares weights of 4,503,599,627,370,496, and was not read"),
        ({"bn.num_batches_tracked": torch.tensor(1)}, "holds no weights"),
        ({}, "holds no weights"),
    ],
    ids=["tensor", "list", "nested", "sparse", "meta", "integers", "axes", "repeated", "counters-alone", "nothing"],
)
def test_anything_but_floats_by_name_is_refused(tmp_path: Path, held: object, match: str) -> None:
    torch.save(held, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=rf"a\.pth.* {match}|a\.pth: {match}"):
        read_checkpoint(tmp_path / "a.pth")


def test_an_archive_that_is_packed_is_refused(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "plain.pth")
    with (
        zipfile.ZipFile(tmp_path / "plain.pth") as plain,
        zipfile.ZipFile(tmp_path / "a.pth", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    with pytest.raises(
        WeightsError, match=r"a\.pth holds 'plain/data\.pkl' packed, and was not read; save it by torch"
    ):
        read_checkpoint(tmp_path / "a.pth")


def test_another_kind_of_file_is_refused_without_pytorchs_advice(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"\x08\x08\x12\x05imori" + bytes(100))
    with pytest.raises(WeightsError, match=r"a\.pth cannot be read as a checkpoint of PyTorch; it may be cut short"):
        read_checkpoint(tmp_path / "a.pth")


def test_a_wrong_checksum_is_refused(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "a.pth")
    data = tmp_path.joinpath("a.pth").read_bytes()
    raw = TENSORS["conv1.weight"].tobytes()
    (tmp_path / "a.pth").write_bytes(data.replace(raw, bytes(4) + raw[4:]))
    assert torch.load(tmp_path / "a.pth", weights_only=True)["conv1.weight"][0, 0, 0, 0] == 0, "PyTorch takes it"
    with pytest.raises(WeightsError, match=r"a\.pth: its 'a/data/\d' is damaged: the checksum is another; fetch"):
        read_checkpoint(tmp_path / "a.pth")


def test_a_file_without_checksums_is_read(tmp_path: Path) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(STATE, tmp_path / "a.pth")
    finally:
        torch.serialization.set_crc32_options(True)
    assert_same(read_checkpoint(tmp_path / "a.pth"))


def test_a_raw_pickle_is_refused_without_a_warning(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_bytes(b"\x80\x04}.")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(WeightsError, match=r"a\.pth cannot be read as a checkpoint of PyTorch"):
            read_checkpoint(tmp_path / "a.pth")
    assert not said


def test_bfloat16_of_too_many_axes_is_refused(tmp_path: Path) -> None:
    save_file({"a": torch.ones((1,) * 65, dtype=torch.bfloat16)}, tmp_path / "a.safetensors")
    with pytest.raises(WeightsError, match=r"a\.safetensors cannot be read as safetensors \(maximum supported dim"):
        read_checkpoint(tmp_path / "a.safetensors")


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_file_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(WeightsError, match=rf"{name} is not there"):
        read_checkpoint(tmp_path / name)


def test_text_and_other_endings_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_text("hello, these are no weights")
    with pytest.raises(WeightsError, match="cannot be read as a checkpoint of PyTorch"):
        read_checkpoint(tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"a\.npz is no checkpoint .* \.safetensors, \.pth"):
        read_checkpoint(tmp_path / "a.npz")
