"""HDF5 is read as data: nothing outside the file, nothing that runs, nothing larger than it should be."""

import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from imori.errors import FrameworkMissing, WeightsError
from imori.weights.hdf5 import objects, opened, strings, values

VALUE = np.random.default_rng(0).standard_normal((3, 4))
MOST = 2**20
IGNORED = ("optimizer",)


def written(path: Path, write: Callable[[h5py.File], Any]) -> Path:
    with h5py.File(path, "w") as file:
        file["layers/dense/vars/0"] = VALUE
        write(file)
    return path


def read(path: Path) -> dict[str, Any]:
    """Place -> values, of every weight."""
    with opened(path, MOST) as (file, _):
        held = objects(file, path, IGNORED)
        return {place: values(one) for place, one in held.items() if isinstance(one, h5py.Dataset)}


def refused(path: Path, match: str) -> None:
    with pytest.raises(WeightsError, match=match) as caught:
        read(path)
    assert str(path) in str(caught.value)


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f2", ">f4", ">f8"])
@pytest.mark.parametrize(
    "options", [{}, {"compression": "gzip", "shuffle": True, "fletcher32": True}], ids=["plain", "packed"]
)
def test_values_are_read_in_their_dtype(tmp_path: Path, dtype: str, options: dict[str, Any]) -> None:
    path = written(tmp_path / "a.h5", lambda file: file.create_dataset("a/b", data=VALUE.astype(dtype), **options))
    found = read(path)
    assert list(found) == ["a/b", "layers/dense/vars/0"]
    assert found["a/b"].dtype == np.dtype(dtype).newbyteorder("=")
    assert found["a/b"].dtype.isnative
    np.testing.assert_array_equal(found["a/b"], VALUE.astype(dtype))


def test_values_may_look_like_a_heap_of_strings(tmp_path: Path) -> None:
    alike = np.frombuffer(b"GCOL\1 is no heap", np.float32)
    np.testing.assert_array_equal(
        read(written(tmp_path / "a.h5", lambda file: file.create_dataset("a", data=alike)))["a"], alike
    )


def test_bfloat16_becomes_float32(tmp_path: Path) -> None:
    whole = VALUE.astype(np.float32).view(np.uint32) & 0xFFFF0000
    short = (whole >> 16).astype("<u2").view("V2")
    found = read(written(tmp_path / "a.h5", lambda file: file.create_dataset("a", data=short)))
    assert found["a"].dtype == np.float32
    np.testing.assert_array_equal(found["a"], whole.view(np.float32))


def test_what_is_ignored_is_not_even_looked_at(tmp_path: Path) -> None:
    def write(file: h5py.File) -> None:
        file["optimizer/vars/0"] = np.array(7)
        file["optimizer/away"] = h5py.ExternalLink("b.h5", "/")

    assert list(read(written(tmp_path / "a.h5", write))) == ["layers/dense/vars/0"]


def test_h5py_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(FrameworkMissing, match=r"a\.h5 is read by h5py, .* pip install 'imori\[hdf5\]'"):
        read(tmp_path / "a.h5")


def test_no_framework_is_needed(tmp_path: Path) -> None:
    path = written(tmp_path / "a.h5", lambda file: None)
    code = (
        "import sys; from pathlib import Path; from imori.weights.hdf5 import objects, opened\n"
        "assert 'h5py' not in sys.modules\n"
        "with opened(Path(sys.argv[1]), 0) as (file, _): objects(file, Path(sys.argv[1]), ())\n"
        "assert not {'torch', 'keras', 'tensorflow', 'jax'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)


# --- what leads elsewhere ---------------------------------------------------------------------------------------------


def external(file: h5py.File) -> None:
    raw = Path(file.filename).with_name("raw")
    raw.write_bytes(VALUE.tobytes())
    file.create_dataset("a", VALUE.shape, VALUE.dtype, external=[(str(raw), 0, VALUE.nbytes)])


def virtual(file: h5py.File) -> None:
    with h5py.File(Path(file.filename).with_name("other.h5"), "w") as other:
        other["a"] = VALUE
    layout = h5py.VirtualLayout(VALUE.shape, VALUE.dtype)
    layout[:] = h5py.VirtualSource(Path(file.filename).with_name("other.h5"), "a", VALUE.shape)
    file.create_virtual_dataset("a", layout)


def linked_outside(file: h5py.File) -> None:
    with h5py.File(Path(file.filename).with_name("other.h5"), "w") as other:
        other["a"] = VALUE
    file["layers/away"] = h5py.ExternalLink("other.h5", "/a")


ELSEWHERE: dict[str, tuple[Callable[[h5py.File], Any], str]] = {
    "external-link": (linked_outside, "layers/away is a ExternalLink, which leads elsewhere"),
    "soft-link": (lambda file: file.update(a=h5py.SoftLink("/layers")), "a is a SoftLink, which leads elsewhere"),
    "external-storage": (external, "a keeps its values in another file or form"),
    "virtual": (virtual, "a keeps its values in another file or form"),
    "filter": (lambda file: file.create_dataset("a", data=VALUE, compression="lzf"), "a keeps its values in another"),
    "circle": (lambda file: file["layers"].update(again=file["layers"]), "holds a group in itself, or too deep"),
    "whole-circle": (lambda file: file.update({f"a{i}": file["/"] for i in range(9)}), "holds more groups than any"),
}  # fmt: skip


@pytest.mark.parametrize(("write", "match"), ELSEWHERE.values(), ids=ELSEWHERE)
def test_what_leads_elsewhere_is_refused(tmp_path: Path, write: Callable[[h5py.File], Any], match: str) -> None:
    refused(written(tmp_path / "a.h5", write), match)


# --- what is no weight ------------------------------------------------------------------------------------------------


def packed_twice(file: h5py.File) -> None:
    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    made.set_chunk(VALUE.shape)
    made.set_deflate(9)
    made.set_deflate(9)
    space = h5py.h5s.create_simple(VALUE.shape)
    h5py.h5d.create(file.id, b"a", h5py.h5t.IEEE_F64LE, space, made)


NO_WEIGHTS: dict[str, tuple[Callable[[h5py.File], Any], str]] = {
    "int8": (lambda file: file.update(a=np.ones(3, np.int8)), "a holds int8, .*; save the float model, before it is"),
    "text": (lambda file: file.update(a="import os"), "a holds object, and weights are floats"),
    "objects": (lambda file: file.create_dataset("a", 2, h5py.vlen_dtype(np.float32)), "a holds object"),
    "references": (lambda file: file.create_dataset("a", data=file.ref, dtype=h5py.ref_dtype), "a holds object"),
    "records": (lambda file: file.update(a=np.ones(2, "f4,f4")), "a holds .*, and weights are floats"),
    "opaque": (lambda file: file.update(a=np.ones(2, "V8")), r"a holds \|V8"),
    "complex": (lambda file: file.update(a=np.ones(2, complex)), "a holds complex128"),
    "type": (lambda file: file.update(a=np.dtype("f4")), "a holds float32|a holds Datatype"),
    "unwritten": (lambda file: file.create_dataset("a", (3, 4)), "a declares values and holds none"),
    "chunk": (
        lambda file: file.create_dataset("a", data=VALUE, maxshape=(None, None), chunks=(3, 2**20), compression="gzip"),
        "a keeps 12 values in chunks of 3145728, and was not read",
    ),
    "packed-twice": (packed_twice, "a keeps its values in another"),
    "huge": (lambda file: file.create_dataset("a", (2**20, 2**20)), "a declares values and holds none"),
}  # fmt: skip


@pytest.mark.parametrize(("write", "match"), NO_WEIGHTS.values(), ids=NO_WEIGHTS)
def test_what_is_no_weight_is_refused(tmp_path: Path, write: Callable[[h5py.File], Any], match: str) -> None:
    refused(written(tmp_path / "a.h5", write), match)


def test_a_chunk_that_unpacks_to_more_than_its_values_is_refused(tmp_path: Path) -> None:
    def write(file: h5py.File) -> None:
        made = file.create_dataset("a", VALUE.shape, chunks=VALUE.shape, compression="gzip")
        made.id.write_direct_chunk((0, 0), zlib.compress(bytes(VALUE.nbytes * 100)))

    refused(written(tmp_path / "a.h5", write), "cannot be read .*a chunk of /a holds more than its values")


@pytest.mark.parametrize("value", [np.ones(3), 7, np.ones((3, 3), np.int8)], ids=["floats", "number", "integers"])
def test_names_are_strings(tmp_path: Path, value: Any) -> None:
    path = written(tmp_path / "a.h5", lambda file: file.attrs.update(names=value))
    with (
        pytest.raises(WeightsError, match=r"a\.h5 cannot be read .*names is no list of names"),
        opened(path, 0) as (file, _),
    ):
        strings(file, "names")


@pytest.mark.parametrize("value", [["a", "b"], np.array(["a", "b"], "S"), [b"a", b"b"]], ids=["text", "fixed", "bytes"])
def test_names_are_read_in_every_form(tmp_path: Path, value: Any) -> None:
    def write(file: h5py.File) -> None:
        file.attrs["names"], file.attrs["none"], file.attrs["one"] = value, [], "c"

    with opened(written(tmp_path / "a.h5", write), 0) as (file, _):
        assert [strings(file, name) for name in ("names", "none", "one")] == [["a", "b"], [], ["c"]]


# --- archives ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path: Path) -> Callable[..., Path]:
    """An archive with the members given, in order, and the weights where they are not among them."""
    inner = written(tmp_path / "inner.h5", lambda file: None).read_bytes()

    def make(*members: tuple[str, bytes], weights: bytes | None = inner) -> Path:
        with zipfile.ZipFile(tmp_path / "a.keras", "w", zipfile.ZIP_DEFLATED) as file:
            for name, data in (*members, *((("model.weights.h5", weights),) if weights is not None else ())):
                file.writestr(name, data)
        return tmp_path / "a.keras"

    return make


def test_an_archive_is_read(archive: Callable[..., Path]) -> None:
    path = archive(("metadata.json", b"{}"), ("config.json", b"not even JSON"), ("assets/vocabulary.txt", b"a"))
    np.testing.assert_array_equal(read(path)["layers/dense/vars/0"], VALUE)
    with opened(path, MOST) as (_, config):
        assert config == b"not even JSON"


@pytest.mark.parametrize("name", ["/etc/passwd", "../../a.txt", "assets/../../a", "a\\..\\b", "..", "C:\\a"])
def test_an_archive_that_leads_out_is_refused(archive: Callable[..., Path], tmp_path: Path, name: str) -> None:
    before = {*tmp_path.rglob("*")}
    refused(archive((name, b"a")), "which leads out of it, and was not read")
    assert {*tmp_path.rglob("*")} - before == {tmp_path / "a.keras"}


@pytest.mark.parametrize("name", ["model.weights.h5", "config.json"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_archive_with_two_members_of_one_name_is_refused(archive: Callable[..., Path], name: str) -> None:
    refused(archive((name, b"a"), (name, b"b"), weights=None), f"holds {name} 2 times")


def test_an_archive_without_weights_is_refused(archive: Callable[..., Path]) -> None:
    refused(archive(("data.pkl", b"a"), weights=None), r"is no archive of Keras: it holds no model\.weights\.h5")


@pytest.mark.parametrize(("name", "size"), [("model.weights.h5", MOST + 1), ("config.json", 2**24 + 1)])
def test_an_archive_that_is_too_large_unpacked_is_refused(archive: Callable[..., Path], name: str, size: int) -> None:
    weights = {"weights": None} if name == "model.weights.h5" else {}
    refused(archive((name, bytes(size)), **weights), rf"its {name} declares {size} bytes, .* \d+ at most")


def test_an_archive_that_declares_too_little_is_refused(archive: Callable[..., Path]) -> None:
    path = archive()
    data = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as file:
        size = file.getinfo("model.weights.h5").file_size
    for at in (data.find(size.to_bytes(4, "little")), data.rfind(size.to_bytes(4, "little"))):
        data[at : at + 4] = (size // 2).to_bytes(4, "little")
    path.write_bytes(data)
    refused(path, "cannot be read as a .keras")


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.h5", "a.keras"])
def test_a_file_cut_short_is_refused(tmp_path: Path, archive: Callable[..., Path], name: str) -> None:
    path = archive() if name == "a.keras" else written(tmp_path / "a.h5", lambda file: None)
    whole = path.read_bytes()
    for end in [*range(0, len(whole), 397), len(whole) - 1]:
        path.write_bytes(whole[:end])
        refused(path, "cannot be read as a .keras, .weights.h5 or .h5 of Keras .*; it may be cut short")


def test_every_changed_byte_of_an_archive_is_seen(archive: Callable[..., Path]) -> None:
    path = archive()
    whole = path.read_bytes()
    for at in range(60, len(whole) - 150, 29):  # the packed weights; the lists of members are around them
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x55]) + whole[at + 1 :])
        refused(path, "cannot be read as a .keras")


@pytest.mark.parametrize("at", [8, 24], ids=["the-heap", "a-string"])
@pytest.mark.parametrize("size", [0, 2**32, 2**64 - 16, 2**64 - 1])
def test_a_heap_of_strings_that_does_not_add_up_is_refused(tmp_path: Path, at: int, size: int) -> None:
    """HDF5 itself never comes back from some of them."""
    path = written(tmp_path / "a.h5", lambda file: file.attrs.update(names=["a", "b"]))
    data = bytearray(path.read_bytes())
    at += data.find(b"GCOL")
    data[at : at + 8] = size.to_bytes(8, "little")
    path.write_bytes(data)
    refused(path, "cannot be read as a .keras, .* a heap of strings is damaged")


def test_text_a_missing_file_and_a_pickle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_text("hello, these are no weights")
    refused(tmp_path / "a.h5", "cannot be read as a .keras")
    refused(tmp_path / "b.h5", "is not there; name a .keras, .weights.h5 or .h5")
    (tmp_path / "c.h5").write_bytes(b"")
    refused(tmp_path / "c.h5", "cannot be read as a .keras")


def test_a_file_that_may_not_be_read_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "a.h5", lambda file: None)
    path.unlink()
    path.symlink_to(path)
    refused(path, "cannot be read as a .keras")
