"""What is damaged or unusual in the files of frameworks; the files themselves are tested with their frameworks."""

import io
import json
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from imori.errors import WeightsError
from imori.shapes import resolve
from imori.tree import Chain, Conv, ConvTranspose, Linear
from imori.weights.native import native_card, read_native

ROOT = resolve(Linear(2), (3,))
KERNEL = np.arange(6, dtype=np.float32).reshape(3, 2)


def save_h5(path: Path, name: str | None, kernel: np.ndarray = KERNEL) -> Path:
    """A .weights.h5 of one dense layer, with its name as Keras writes it since 3.15, or without."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/dense/vars")
        group["0"], group["1"] = kernel, np.zeros(2, np.float32)
        if name is not None:
            group.attrs["name"] = name
    return path


def test_a_layer_of_keras_by_its_name(tmp_path: Path) -> None:
    found = read_native(save_h5(tmp_path / "a.weights.h5", "output"), ROOT)
    assert (found["weight"] == KERNEL.T).all()


def test_an_extension_in_capitals(tmp_path: Path) -> None:
    assert (read_native(save_h5(tmp_path / "A.WEIGHTS.H5", "output"), ROOT)["weight"] == KERNEL.T).all()


def test_layers_without_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"does not name its layers.*save a \.keras"):
        read_native(save_h5(tmp_path / "a.weights.h5", None), ROOT)


def test_a_kernel_that_is_too_large_is_not_read_and_named(tmp_path: Path) -> None:
    file = save_h5(tmp_path / "a.weights.h5", "output", np.zeros((4000, 2), np.float32))
    with pytest.raises(WeightsError, match="misshaped: weight is 2×4000 and must be 2×3"):
        read_native(file, ROOT)


def save_layers(path: Path, layers: dict[str, np.ndarray]) -> Path:
    """A .weights.h5 of layers without biases, each with its name."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        for i, (name, kernel) in enumerate(layers.items()):
            group = file.create_group(f"layers/layer_{i}/vars")
            group["0"], group.attrs["name"] = kernel, name
    return path


GROUPS = resolve(
    Chain(net=Chain(groups=Conv(4, 1, bias=False), group1=ConvTranspose(6, 1, groups=2, bias=False))), (3, 2, 2)
)
KERNELS = {
    name: np.random.default_rng(0).standard_normal((1, 1, *shape)).astype(np.float32)
    for name, shape in {"net-groups": (3, 4), "net-group1-group0": (3, 2), "net-group1-group1": (3, 2)}.items()
}
"""As Keras keeps them: in and out of a convolution, out and in of each group of a transposed one."""


def test_a_layer_called_group_is_no_group_of_another(tmp_path: Path) -> None:
    found = read_native(save_layers(tmp_path / "a.weights.h5", KERNELS), GROUPS)
    first, *parts = (kernel.transpose(3, 2, 0, 1) for kernel in KERNELS.values())
    assert (found["net.groups.weight"] == first).all()
    assert (found["net.group1.weight"] == np.concatenate(parts)).all()


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("net-groups", (), "net.groups.weight is a scalar and must be 4×3×1×1"),
        ("net-groups", (4,), "net.groups.weight is 4 and must be 4×3×1×1"),
        ("net-group1-group1", (1, 1, 2, 2), "net.group1.weight is 2×2×1×1 and must be 4×3×1×1"),
    ],
)
def test_a_kernel_of_keras_with_other_axes_is_misshaped(
    tmp_path: Path, name: str, shape: tuple[int, ...], said: str
) -> None:
    file = save_layers(tmp_path / "a.weights.h5", KERNELS | {name: np.zeros(shape, np.float32)})
    with pytest.raises(WeightsError, match=f"misshaped: {said}"):
        read_native(file, GROUPS)


@pytest.mark.parametrize("text", ["{", "[]", '{"imori": 1}'])
@pytest.mark.parametrize("end", [".npz", ".keras"])
def test_damage_in_what_a_file_says_of_itself(tmp_path: Path, text: str, end: str) -> None:
    path = tmp_path / f"a{end}"
    if end == ".npz":
        np.savez(path, imori=np.array(text))
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("imori.json", text)
    with pytest.raises(WeightsError, match="what it says of itself is damaged"):
        native_card(path)


def test_a_file_that_says_nothing_of_itself(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", weight=KERNEL.T, bias=np.zeros(2, np.float32))
    assert native_card(tmp_path / "a.npz") is None
    assert (read_native(tmp_path / "a.npz", ROOT)["weight"] == KERNEL.T).all()
    np.savez(tmp_path / "b.npz", imori=np.array(json.dumps({"other": "x"})))
    assert native_card(tmp_path / "b.npz") is None


# --- archives that unpack to more than they say -----------------------------------------------------------------------


def npy(shape: tuple[int, ...], values: bytes) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return file.getvalue() + values


def archived(path: Path, members: dict[str, bytes], packing: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def encrypted(path: Path, members: dict[str, bytes]) -> Path:
    """With the flag alone, in the member and in the list of them."""
    data = bytearray(archived(path, members).read_bytes())
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        data[data.find(mark) + place] |= 1
    path.write_bytes(data)
    return path


WEIGHTS = {"weight.npy": npy((2, 3), bytes(24)), "bias.npy": npy((2,), bytes(8))}
LARGE = npy((2**23,), bytes(2**25))


def test_what_an_archive_hides_is_not_unpacked(tmp_path: Path) -> None:
    """Two members whose names differ by the extension alone had one size between them."""
    path = archived(tmp_path / "a.npz", {**WEIGHTS, "more.npy": LARGE, "more": b"1"})
    with pytest.raises(WeightsError, match=r"a\.npz holds 'more', which is no array, and was not read"):
        read_native(path, ROOT)


@pytest.mark.parametrize("packing", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_what_cannot_be_unpacked_piece_by_piece_is_refused(tmp_path: Path, packing: int) -> None:
    with pytest.raises(WeightsError, match=r"a\.npz: its 'weight\.npy' is .*packed by another method than deflate"):
        read_native(archived(tmp_path / "a.npz", WEIGHTS, packing), ROOT)


def test_an_encrypted_archive_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"a\.npz: its 'weight\.npy' is encrypted"):
        read_native(encrypted(tmp_path / "a.npz", WEIGHTS), ROOT)


def test_an_array_that_no_memory_holds_is_refused(tmp_path: Path) -> None:
    path = archived(tmp_path / "a.npz", {**WEIGHTS, "bias.npy": npy((2**45,), bytes(8))})
    with pytest.raises(WeightsError, match=r"a\.npz cannot be read \(MemoryError.*cut short"):
        read_native(path, ROOT)


@pytest.mark.parametrize("name", ["imori.json", "config.json"])
def test_a_member_is_unpacked_no_further_than_its_limit(tmp_path: Path, name: str) -> None:
    pytest.importorskip("h5py")
    said = b'{"config": {"layers": []}}'
    text, size = said + b" " * 2**26, (2**26 + len(said)).to_bytes(4, "little")
    weights = save_h5(tmp_path / "a.weights.h5", "output").read_bytes()
    path = archived(tmp_path / "a.keras", {"model.weights.h5": weights, name: text})
    data = path.read_bytes().replace(size, len(said).to_bytes(4, "little"))
    path.write_bytes(data.replace(zlib.crc32(text).to_bytes(4, "little"), zlib.crc32(said).to_bytes(4, "little")))
    del text, data
    read_native(save_h5(tmp_path / "b.weights.h5", "output"), ROOT)  # imports h5py
    tracemalloc.start()
    try:
        if name == "config.json":
            read_native(path, ROOT)
        else:
            with pytest.raises(WeightsError, match="what it says of itself is damaged"):
                native_card(path)
        assert tracemalloc.get_traced_memory()[1] < 2.5 * 2**24
    finally:
        tracemalloc.stop()


# --- dtypes that no framework has -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "read"),
    [(">f4", "float32"), (">f8", "float64"), (">f2", "float16"), (np.longdouble, "float64")],
    ids=["big-endian", "double", "half", "long"],
)
@pytest.mark.parametrize("end", [".npz", ".weights.h5"])
def test_floats_are_those_that_frameworks_compute_with(tmp_path: Path, dtype: str, read: str, end: str) -> None:
    path, kernel = tmp_path / f"a{end}", KERNEL.astype(dtype)
    if end == ".npz":
        np.savez(path, weight=kernel.T, bias=np.zeros(2, dtype))
    else:
        save_h5(path, "output", kernel)
    found = read_native(path, ROOT)["weight"]
    assert found.dtype == np.dtype(read)
    assert found.dtype.isnative
    assert (found == KERNEL.T).all()


def test_a_long_double_that_float64_cannot_hold_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", weight=KERNEL.T, bias=np.full(2, "1e4000", np.longdouble))
    with pytest.raises(WeightsError, match="bias holds values that are not finite"):
        read_native(tmp_path / "a.npz", ROOT)


# --- prefixes that are the network's own ------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", ["", "module.", "module._orig_mod."])
@pytest.mark.parametrize("role", ["weight", "kernel"], ids=["torch", "flax"])
def test_a_child_called_module_is_no_wrapper(tmp_path: Path, wrapper: str, role: str) -> None:
    root = resolve(Chain(module=Chain(fc=Linear(2, bias=False))), (3,))
    tensors = {f"{wrapper}module.fc.{role}": KERNEL if role == "kernel" else np.ascontiguousarray(KERNEL.T)}
    safetensors.numpy.save_file(tensors, tmp_path / "a.safetensors")
    found = read_native(tmp_path / "a.safetensors", root)
    assert list(found) == ["module.fc.weight"]
    assert (found["module.fc.weight"] == KERNEL.T).all()
