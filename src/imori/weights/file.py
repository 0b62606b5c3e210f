"""model.safetensors: the weights, and beside them in its metadata everything that is needed to use them anywhere.

The metadata are strings: `imori` (the format's number), and as JSON `tree`, `input`, `classes`, `preprocessing`,
`metrics`, `model`, `framework`. Nothing in the file can run code. It is written beside its place and renamed, so that
a file is there whole or not at all.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import safetensors
import safetensors.numpy

from imori import tree as t
from imori.errors import NameUnknown, RunError, WeightsError
from imori.shapes import Shape, resolve
from imori.weights.names import check

Weights: TypeAlias = dict[str, npt.NDArray[Any]]
FORMAT = "1"
SOURCES = ("imori",)


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
        return {
            "imori": FORMAT,
            "tree": t.to_json(self.tree),
            "input": json.dumps(self.input),
            "classes": json.dumps(self.classes, ensure_ascii=False),
            "preprocessing": json.dumps(dict(self.preprocessing)),
            "metrics": json.dumps(dict(self.metrics)),
            "model": json.dumps(self.model),
            "framework": json.dumps(self.framework),
        }


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to; it takes the place of `path` when the block ends well, and is gone if not."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        with open(beside, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(beside, path)
    except (OSError, safetensors.SafetensorError) as error:
        raise RunError(f"{path} could not be written: {error}; free some space or choose another place") from error
    finally:
        beside.unlink(missing_ok=True)


def save_tensors(path: Path, tensors: Weights, metadata: dict[str, str]) -> None:
    """A safetensors file, whole or not at all. RunError where it cannot be written, as on a full disk."""
    contiguous = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    with written(path) as beside:
        safetensors.numpy.save_file(contiguous, beside, metadata)


def read_tensors(path: Path) -> tuple[Weights, dict[str, str]]:
    """The tensors and the metadata of a safetensors file; WeightsError where it is none, or cut short."""
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except FileNotFoundError:
        raise WeightsError(f"{path} is not there; name a model.safetensors or a run") from None
    except (OSError, safetensors.SafetensorError, TypeError, ValueError) as error:
        raise WeightsError(
            f"{path} cannot be read as safetensors ({error}); it may be cut short or another kind of file"
        ) from error


def save_model(path: str | Path, weights: Weights, card: Card) -> None:
    """Writes a model file that explains itself."""
    save_tensors(Path(path), weights, card.metadata())


def read_model(path: str | Path) -> tuple[Weights, Card]:
    """The weights of a model file (checked against its own tree), and what it says of itself."""
    path = Path(path)
    weights, metadata = read_tensors(path)
    card = card_of(path, metadata)
    check(weights, resolve(card.tree, card.input), str(path))
    return weights, card


def card_of(path: Path, metadata: Mapping[str, str]) -> Card:
    """What a file's metadata say; WeightsError where it is not ours, or newer than we read."""
    version = metadata.get("imori")
    if version is None:
        raise WeightsError(f"{path} was not written by imori: its metadata name no tree")
    if version != FORMAT:
        raise WeightsError(f"{path} has format {version!r}, and this imori reads {FORMAT}; update imori")
    try:
        said = {name: json.loads(metadata[name]) for name in ("input", "classes", "preprocessing", "metrics")}
        model, framework = json.loads(metadata["model"]), json.loads(metadata["framework"])
        tree, shape = t.from_json(metadata["tree"]), tuple(said["input"])
        output = resolve(tree, shape).output
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: its metadata are damaged: {error}") from error
    classes = said["classes"]
    if not isinstance(classes, list) or not all(isinstance(name, str) for name in classes) or output != (len(classes),):
        raise WeightsError(f"{path}: its metadata are damaged: the classes are not the network's {output} outputs")
    if not isinstance(said["preprocessing"], dict) or not isinstance(said["metrics"], dict):
        raise WeightsError(f"{path}: its metadata are damaged: preprocessing and metrics must be objects")
    return Card(tree, shape, tuple(classes), said["preprocessing"], said["metrics"], str(model), str(framework))


def read_weights(path: str | Path, tree: t.Tree, source: str = "imori", shape: Shape | None = None) -> Weights:
    """The weights of a file under our canonical names, for `tree`, each checked by name and shape.

    `source` says who wrote the file; "imori" reads our own model.safetensors. `shape` is the input (C, H, W), the
    file's own unless given. WeightsError lists what is missing, unexpected or misshaped.
    """
    if source not in SOURCES:
        raise NameUnknown(f"there is no source {source!r} of weights; there are {', '.join(SOURCES)}")
    weights, metadata = read_tensors(Path(path))
    check(weights, resolve(tree, shape or card_of(Path(path), metadata).input), str(path))
    return weights
