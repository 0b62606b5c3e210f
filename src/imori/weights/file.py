"""model.safetensors: the weights, and beside them in its metadata everything that is needed to use them anywhere.

The metadata are strings: `imori` (the format's number), and as JSON `tree`, `input`, `classes`, `preprocessing`,
`metrics`, `model`, `framework`. Nothing in the file can run code. It is written beside its place and renamed, so that
a file is there whole or not at all; equal models are equal files, byte by byte.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shlex
import struct
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors

from imori import tree as t
from imori.errors import ImoriError, RunError, TreeError, WeightsError
from imori.shapes import Node, Shape, resolve
from imori.weights.names import Weights, check, shapes_of

FORMAT = "1"
FORM = "format"
"""In the metadata of a safetensors file whose tensors have the names and layouts of a framework: "pt" or "flax"."""
ENSEMBLE = "ensemble"
"""In the metadata of a file that holds several models: see `weights.ensemble`."""
DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bool": "BOOL",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8",
}  # fmt: skip
OTHERS = "A file of torchvision, timm or Keras is read by imori.read_weights, with their name as source"
SAID = {"input": list, "classes": list, "preprocessing": dict, "metrics": dict, "model": str, "framework": str}


@dataclass(frozen=True)
class Card:
    """What a model file says of itself."""

    tree: t.Tree
    input: Shape
    """(channels, height, width) that the network was made for."""
    classes: tuple[str, ...]
    """The names of the logits, in order."""
    preprocessing: Mapping[str, Any]
    """How a photo becomes the network's input, as `data.Preprocessing.to_data` wrote it."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    model: str = ""
    framework: str = ""

    def metadata(self) -> dict[str, str]:
        """As strings, for the file's header."""
        said = {
            name: json.dumps(kind(getattr(self, name)), ensure_ascii=False, sort_keys=True)
            for name, kind in SAID.items()
        }
        return {"imori": FORMAT, "tree": t.to_json(self.tree), **said}


def path_of(what: str, value: object) -> Path:
    """A path that a program gave as its argument `what`. ImoriError where it is none, or empty."""
    if isinstance(value, (str, os.PathLike)) and (text := os.fspath(value)) and isinstance(text, str):
        return Path(text)
    raise ImoriError(f"{what} is {value!r:.80}; it must be a path, as text or as a pathlib.Path")


def partial_of(path: Path) -> Path:
    """Where `path` is written before it takes its place: a short name, for its own may be as long as a name can be."""
    return path.with_name(f".{zlib.crc32(os.fsencode(path.name)):08x}.{os.getpid()}.partial")


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` when the block ends well, and is gone if not."""
    beside = partial_of(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        raise RunError(f"{path} could not be written: {error.strerror or error}; {remedy(error, path)}") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def remedy(error: OSError, path: Path) -> str:
    """What helps where the system would not let `path` be written."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return "free some space, or choose another place"
        case errno.EFBIG:
            return "the system takes no file of this size there: raise its limit, or choose another place"
        case errno.EACCES | errno.EPERM | errno.EROFS:
            return "you may not write there: choose another place, or change its permissions"
        case errno.ENAMETOOLONG:
            return "choose a shorter name"
        case errno.EISDIR:
            return "a folder stands in its place: choose another name"
        case errno.ENOTDIR | errno.EEXIST:
            file = next((parent for parent in path.parents if os.path.isfile(parent)), path.parent)  # noqa: PTH113
            return f"{file} is a file where a folder should be: choose another place"
        case _:
            return "choose another place"


def save_tensors(path: Path, tensors: Weights, metadata: dict[str, str]) -> None:
    """A safetensors file, whole or not at all. RunError where it cannot be written, as on a full disk."""
    with written(path) as beside:
        write_tensors(beside, tensors, metadata, path)


def write_tensors(path: Path, tensors: Weights, metadata: dict[str, str], named: Path | None = None) -> None:
    """A safetensors file, which errors call `named`. OSError where it cannot be written.

    It is written here because the library writes the metadata in another order in every process. One tensor at a time
    is copied, if any. WeightsError for a dtype that the format has not.
    """
    tensors = {name: np.asarray(tensor) for name, tensor in tensors.items()}
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))  # so each is aligned to its items
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name in order:
        tensor, begin = tensors[name], end
        if tensor.dtype.name not in DTYPES:
            raise WeightsError(
                f"{name} is of {tensor.dtype}, which {named or path} cannot hold; it holds {', '.join(DTYPES)}"
            )
        end += tensor.nbytes
        header[name] = {"dtype": DTYPES[tensor.dtype.name], "shape": tensor.shape, "data_offsets": (begin, end)}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in order:
            little = tensors[name].dtype.newbyteorder("<")
            file.write(tensors[name].astype(little, order="C", copy=False).data)


def read_tensors(path: Path) -> tuple[Weights, dict[str, str]]:
    """The tensors and the metadata of a safetensors file; WeightsError where it is none, or cut short."""
    with opened(path) as file:
        return {name: _tensor(file, name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def _tensor(file: Any, name: str) -> npt.NDArray[Any]:
    """TypeError for a dtype that NumPy has not by itself: JAX and onnx add bfloat16 to it where they are imported."""
    kind = file.get_slice(name).get_dtype()
    if kind not in DTYPES.values():
        raise TypeError(f"{name} is of {kind}")
    tensor: npt.NDArray[Any] = file.get_tensor(name)
    return tensor


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A safetensors file; WeightsError where it is none, or cut short."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            yield file
    except FileNotFoundError:
        raise WeightsError(f"{path} is not there; name a model.safetensors or a run") from None
    except (OSError, safetensors.SafetensorError, TypeError, ValueError, AttributeError) as error:
        # The last three: dtypes that NumPy has not, such as bfloat16 and the 8-bit floats.
        other = "" if path.suffix.lower() == ".safetensors" else f". {OTHERS}"
        raise WeightsError(
            f"{path} cannot be read as safetensors ({error}); it may be cut short or another kind of file{other}"
        ) from error


def save_model(path: str | Path, weights: Weights, card: Card) -> None:
    """Writes a model file that explains itself. WeightsError if weights, classes and tree are not of one network."""
    check(weights, network_of(card, str(path)), "the weights to save")
    save_tensors(Path(path), weights, card.metadata())


def model_tensors(path: Path) -> tuple[Weights, dict[str, str]]:
    """The weights of a model.safetensors, unchecked, and its metadata."""
    weights, metadata = read_tensors(path)
    _check_form(path, metadata)
    return weights, metadata


def read_card(path: str | Path) -> Card:
    """What a model file says of itself, without reading its weights."""
    path = Path(path)
    with opened(path) as file:
        metadata = file.metadata() or {}
    _check_form(path, metadata)
    return card_of(path, metadata)


def _check_form(path: Path, metadata: Mapping[str, str]) -> None:
    """WeightsError for a file that `imori convert` wrote for another framework's users."""
    if "imori" in metadata and (form := metadata.get(FORM)):
        raise WeightsError(f"{path} was written for {form}; {remade(path)}")


def remade(path: Path) -> str:
    """How a file for a framework's users becomes one of imori's."""
    return (
        f"make a model.safetensors of it by: imori convert {shlex.quote(str(path))} --to numpy model.safetensors"
        " (imori convert --help says more)"
    )


def fitting(weights: Weights, root: Node, path: Path) -> Weights:
    """Checked, and in the order in which the layers run; a file's order is that of the names."""
    check(weights, root, str(path))
    for name, value in weights.items():
        if not np.isfinite(value).all():
            raise WeightsError(
                f"{path}: {name} holds values that are not finite; training went astray, or it is damaged"
            )
    return {name: weights[name] for name in shapes_of(root)}


def card_of(path: Path, metadata: Mapping[str, str]) -> Card:
    """What a file's metadata say; WeightsError where it is not ours, or newer than we read."""
    version = metadata.get("imori")
    if version is None:
        raise WeightsError(f"{path} was not written by imori: its metadata name no tree. {OTHERS}")
    if version != FORMAT:
        raise WeightsError(f"{path} has format {version[:20]!r}, and this imori reads {FORMAT}; update imori")
    if ENSEMBLE in metadata:
        raise WeightsError(f"{path} is an ensemble, and one network is asked for here; name the run of one member")
    missing = [name for name in ("tree", *SAID) if name not in metadata]
    if missing:
        raise WeightsError(f"{path}: its metadata are damaged: {', '.join(missing)} not there")
    try:
        said = {name: json.loads(metadata[name]) for name in SAID}
        tree = t.from_json(metadata["tree"])
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: its metadata are damaged: {error}") from error
    for name, kind in SAID.items():
        if not isinstance(said[name], kind):
            raise WeightsError(f"{path}: its metadata are damaged: {name} is no {kind.__name__}")
        if name != "classes" and not is_text(said[name]):
            raise WeightsError(f"{path}: its metadata are damaged: {name} holds half of a character")
    if not all(isinstance(name, str) for name in said["classes"]):
        raise WeightsError(f"{path}: its metadata are damaged: a class has no name")
    card = Card(tree, **said | {"input": tuple(said["input"]), "classes": tuple(said["classes"])})
    network_of(card, f"{path}: its metadata are damaged")
    return card


def is_text(said: Any) -> bool:
    """Whether all of it can be written: JSON can spell half of a surrogate pair, and UTF-8 cannot."""
    try:
        json.dumps(said, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


def network_of(card: Card, where: str) -> Node:
    """The network that a card describes; WeightsError unless it can be built, with a logit for each named class."""
    try:
        root = resolve(card.tree, card.input)
    except TreeError as error:
        raise WeightsError(f"{where}: {error}") from error
    twice = next((name for name, count in Counter(card.classes).items() if count > 1), None)
    if twice is not None:
        raise WeightsError(f"{where}: {twice!r} names two classes; each must have its own name")
    half = next((name for name in card.classes if not is_text(name)), None)
    if half is not None:
        raise WeightsError(f"{where}: the class {half!r:.80} holds half of a character, which is no text; rename it")
    if root.output != (len(card.classes),):
        raise WeightsError(f"{where}: {len(card.classes)} classes are named, and the network ends in {root.output}")
    return root
