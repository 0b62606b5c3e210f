"""What is damaged or unusual in the files of frameworks; the files themselves are tested with their frameworks."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from imori.errors import WeightsError
from imori.shapes import resolve
from imori.tree import Linear
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


def test_layers_without_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"does not name its layers.*save a \.keras"):
        read_native(save_h5(tmp_path / "a.weights.h5", None), ROOT)


def test_a_kernel_that_is_too_large_is_not_read_and_named(tmp_path: Path) -> None:
    file = save_h5(tmp_path / "a.weights.h5", "output", np.zeros((4000, 2), np.float32))
    with pytest.raises(WeightsError, match="misshaped: weight is 2×4000 and must be 2×3"):
        read_native(file, ROOT)


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
