"""Weights for a tree, out of a file of our own or of a publisher."""

from __future__ import annotations

import warnings
from pathlib import Path

from imori import tree as t
from imori.errors import ImoriWarning, NameUnknown, WeightsError
from imori.shapes import Shape, resolve
from imori.weights.ensemble import members_of
from imori.weights.file import ENSEMBLE, Card, card_of, fitting, model_tensors, read_tensors, remade
from imori.weights.forms import departure
from imori.weights.keras import read_keras
from imori.weights.names import Weights
from imori.weights.native import ENDS
from imori.weights.onnx import onnx_tensors
from imori.weights.published import SHAPE, read_published
from imori.weights.tables import PUBLISHERS

OTHERS = tuple(end for end in ENDS if end not in (".safetensors", ".onnx"))
"""How the names of files end that are read by `imori convert` alone."""
SOURCES = ("imori", *PUBLISHERS)


def read_model(path: str | Path) -> tuple[Weights, Card]:
    """The weights of a model.safetensors or a .onnx of imori's (checked against its own tree), and what it says."""
    path = Path(path)
    weights, metadata = _stored(path)
    card = card_of(path, metadata)
    return fitting(weights, resolve(card.tree, card.input), path), card


def read_members(path: str | Path) -> list[tuple[Weights, Card]]:
    """As `read_model`, of a file that may hold an ensemble: each of its members, or the one model."""
    path = Path(path)
    weights, metadata = _stored(path)
    if ENSEMBLE in metadata:
        return members_of(path, weights, metadata)
    card = card_of(path, metadata)
    return [(fitting(weights, resolve(card.tree, card.input), path), card)]


def _stored(path: Path) -> tuple[Weights, dict[str, str]]:
    if path.name.lower().endswith(OTHERS) and path.exists():
        raise WeightsError(f"{path} is a file of another framework's; {remade(path)}")
    return onnx_tensors(path) if path.suffix.lower() == ".onnx" else model_tensors(path)


def check_source(source: str) -> None:
    """NameUnknown for anything but one of SOURCES."""
    if source not in SOURCES:
        raise NameUnknown(f"there is no source {source!r} of weights; there are {', '.join(SOURCES)}")


def read_weights(path: str | Path, tree: t.Tree, source: str = "imori", shape: Shape | None = None) -> Weights:
    """The weights of a file or a run under our canonical names, for `tree`, each checked by name and shape.

    `source` says whose file it is. "imori" reads our own model.safetensors or .onnx. "torchvision" and "timm" read a
    checkpoint of theirs, .safetensors or PyTorch's .pth, .pt, .bin or .tar (no code in it is run). "keras" reads what
    Keras saves of `keras.applications`, .keras, .weights.h5 or .h5 (by h5py; Keras is not needed). Each is for a tree
    of the same model with `variant=source`: neither names nor shapes tell a form with other strides, padding or eps,
    and of one of the catalogue's networks in another form a warning names the first layer that differs.
    The weights that a training script wrapped are found, averaged ones (EMA) first. Every tensor is used and every
    weight filled, save for what only training needs: counts of batches, an optimizer's memory, and GoogLeNet's
    auxiliary heads. Heads of a file for a tree without them are left out, and those of a tree for a file without them
    keep their seeded start, each with a warning.

    `shape` is the input (C, H, W): the file's own, or 3×224×224 for a publisher's, unless given. A file's dtype is
    kept; bfloat16, which NumPy has not, becomes float32. WeightsError lists what is missing, unexpected or misshaped,
    and says what helps; FrameworkMissing where a .pth is read without PyTorch, or a file of Keras without h5py.
    """
    check_source(source)
    path = Path(path)
    path = path / "model.safetensors" if path.is_dir() else path
    if source == "imori":
        weights, metadata = onnx_tensors(path) if path.suffix.lower() == ".onnx" else read_tensors(path)
        shape = shape or card_of(path, metadata).input
    else:
        shape = shape or SHAPE
        weights = read_keras(path, tree, shape) if source == "keras" else read_published(path, tree, source, shape)
        if departed := departure(resolve(tree, shape), source):
            warnings.warn(f"{path}: {departed}", ImoriWarning, stacklevel=2)
    return fitting(weights, resolve(tree, shape), path)
