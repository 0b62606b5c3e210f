"""Weights out of the files that imori writes for a framework, as plain data: the framework is not needed.

Each framework calls the weights by the canonical paths in its own spelling, and keeps them in its own layout:

.pth, .safetensors   PyTorch: "conv1.weight", "bn1.running_mean"
.safetensors         Flax: "conv1.kernel" (height, width, in, out), "bn1.scale"
.keras, .weights.h5  Keras: layers called "conv5-1-body-conv2", their weights numbered
.npz                 Chainer: "conv1/W", "bn1/avg_mean"; NumPy: the canonical names themselves
.onnx                ONNX: the canonical names too

Beside them a file holds what it says of itself, where its form has a place for that: a .safetensors in its metadata, a
.npz as an entry "imori", a .keras as a member imori.json, a .onnx in its metadata.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from imori import tree as t
from imori.errors import WeightsError
from imori.shapes import Node, flat
from imori.weights import hdf5
from imori.weights.archive import members, unpacked
from imori.weights.checkpoint import PYTORCH, computable, read_checkpoint
from imori.weights.file import Card, card_of, fitting, opened
from imori.weights.keras import IGNORED, SLOTS, named_layers
from imori.weights.names import Weights, shapes_of, weight_name
from imori.weights.onnx import onnx_tensors

Array: TypeAlias = npt.NDArray[Any]

ENDS = (".safetensors", *PYTORCH, ".keras", ".weights.h5", ".npz", ".onnx")
ABOUT = "imori"
"""The entry of a .npz that says what it is; of a .keras it is the member imori.json."""
MOST_ABOUT = hdf5.MOST_TEXT
BROKEN = (OSError, ValueError, EOFError, KeyError, MemoryError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""What NumPy and zipfile raise at a damaged archive; MemoryError where an array declares more than its member has."""

TORCH = {"running_mean": "mean", "running_var": "var"}
FLAX = {"kernel": "weight", "scale": "weight"}
CHAINER = {"W": "weight", "b": "bias", "gamma": "weight", "beta": "bias", "avg_mean": "mean", "avg_var": "var"}
KERAS = ("weight", "bias", "mean", "var")


def read_native(path: Path, root: Node) -> Weights:
    """The weights of a file under canonical names, for a resolved tree: each checked by name and shape.

    WeightsError for a file that cannot be read, holds code, or is of another network.
    """
    name = path.name.lower()
    if name.endswith((".keras", ".weights.h5")):
        found = _keras(path, root)
    elif name.endswith(".npz"):
        held = {name: value for name, value in _read_npz(path, _most(root)).items() if name != ABOUT}
        found = held if held.keys() & shapes_of(root).keys() else _chainer(held, root)
    elif name.endswith(".onnx"):
        found, _ = onnx_tensors(path)
    elif name.endswith((".safetensors", *PYTORCH)):
        held = read_checkpoint(path, {node.path for node in flat(root)})
        found = _flax(held, root) if any(_split(name)[1] == "kernel" for name in held) else _torch(held)
    else:
        raise no_weights(path)
    wrong = next((ours for ours, value in found.items() if value.dtype.kind != "f"), None)
    if wrong is not None:
        raise WeightsError(f"{path}: {wrong} is of {found[wrong].dtype}, and weights are floats; name another file")
    return fitting(found, root, path)


def no_weights(path: Path) -> WeightsError:
    """What is said of a file whose name ends in none of `ENDS`."""
    return WeightsError(f"{path} is no file of weights; name a run, or a file that ends in {', '.join(ENDS)}")


def native_card(path: Path) -> Card | None:
    """What a file says of itself; None where it says nothing, as one of PyTorch or of another writer."""
    said: Mapping[str, str] | None = None
    kind = path.suffix.lower()
    if kind == ".safetensors":
        with opened(path) as file:
            said = file.metadata()
    elif kind == ".npz":
        held = _read_npz(path, MOST_ABOUT, (ABOUT,))
        said = _parsed(str(held[ABOUT]), path) if ABOUT in held else None
    elif kind == ".keras":
        said = _in_archive(path)
    elif kind == ".onnx":
        _, said = onnx_tensors(path)
    return card_of(path, said) if said and "imori" in said else None


def _parsed(text: str | bytes, path: Path) -> Mapping[str, str]:
    try:
        said = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: what it says of itself is damaged: {error}") from error
    if not isinstance(said, dict) or not all(isinstance(value, str) for value in said.values()):
        raise WeightsError(f"{path}: what it says of itself is damaged: it is no dictionary of texts")
    return said


def _in_archive(path: Path) -> Mapping[str, str] | None:
    try:
        with zipfile.ZipFile(path) as archive:
            about = members(archive, path).get(f"{ABOUT}.json")
            if about is None:
                return None
            text = unpacked(archive, about, MOST_ABOUT, path)
    except BROKEN as error:
        if isinstance(error, WeightsError):
            raise
        raise _damaged(path, error) from error
    return _parsed(text, path)


def _damaged(path: Path, error: Exception) -> WeightsError:
    said = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    return WeightsError(f"{path} cannot be read ({said}); it may be cut short or another kind of file")


def _most(root: Node) -> int:
    """Bytes that the weights of the network take at most, and what is beside them."""
    return SLOTS * sum(map(prod, shapes_of(root).values())) + MOST_ABOUT


def _read_npz(path: Path, most: int, wanted: Sequence[str] | None = None) -> Weights:
    """The arrays of a .npz, or the wanted ones of them. Objects, which could run code, are refused unread."""
    try:
        with zipfile.ZipFile(path) as archive:
            there = members(archive, path)
            odd = next((name for name in there if not name.endswith(".npy")), None)
            if odd is not None:
                raise WeightsError(f"{path} holds {odd!r:.80}, which is no array, and was not read; save it by numpy")
            named = {name.removesuffix(".npy"): info for name, info in there.items()}
            named = {name: info for name, info in named.items() if wanted is None or name in wanted}
            if sum(info.file_size for info in named.values()) > most:
                raise WeightsError(f"{path} declares more than this network holds, and was not read")
            held: Weights = {}
            for name, info in named.items():
                with archive.open(info) as member:
                    held[name] = computable(np.lib.format.read_array(member, allow_pickle=False))
            return held
    except FileNotFoundError:
        raise WeightsError(f"{path} is not there; name a file of weights") from None
    except BROKEN as error:
        if isinstance(error, WeightsError):
            raise
        if "allow_pickle" in str(error):
            raise WeightsError(f"{path} holds objects, which could run code, and was not read") from error
        raise _damaged(path, error) from error


# --- each framework's names and layouts ------------------------------------------------------------------------------


def _split(name: str) -> tuple[str, str]:
    """The path and the role of a name with dots."""
    path, _, role = name.rpartition(".")
    return path, role


def _torch(held: Weights) -> Weights:
    return {weight_name(path, TORCH.get(role, role)): held[name] for name in held for path, role in [_split(name)]}


def _flax(held: Weights, root: Node) -> Weights:
    nodes = {node.path or "layer": node for node in flat(root)}
    found: Weights = {}
    for name, value in held.items():
        path, role = _split(name)
        node = nodes.get(path)
        if node is None:
            found[name] = value
        else:
            found[weight_name(node.path, FLAX.get(role, role))] = from_flax(node, value)
    return found


def from_flax(node: Node, value: Array) -> Array:
    """From Flax's layout, high × wide × in × out, to the canonical one: a copy.

    The kernel of the convolution that stands in for a transposed one in groups is turned by 180°.
    """
    array = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
    if array.ndim == 4 and (groups := stands_in(node)):
        array = swapped(array, groups)[:, :, ::-1, ::-1]
    return np.array(array, order="C")


def stands_in(node: Node) -> int:
    """The groups of a transposed convolution that Flax has as a convolution, 0 for any other layer."""
    return node.layer.groups if isinstance(node.layer, t.ConvTranspose) and node.layer.groups > 1 else 0


def swapped(kernel: Array, groups: int) -> Array:
    """(groups · a, b, ...) -> (groups · b, a, ...): in and out change places in each group."""
    first, second, *window = kernel.shape
    split = kernel.reshape(groups, first // groups, second, *window).swapaxes(1, 2)
    return split.reshape(groups * second, first // groups, *window)


def _chainer(held: Weights, root: Node) -> Weights:
    """A batch norm's count N is no weight. A depthwise kernel is (1, C, H, W) where the link is Chainer's own."""
    depthwise = {node.path for node in flat(root) if isinstance(node.layer, t.Depthwise)}
    found: Weights = {}
    for name, value in held.items():
        link, _, attribute = name.rpartition("/")
        path = link.replace("/", ".")
        if attribute == "N":
            continue
        turned = value.swapaxes(0, 1) if path in depthwise and value.ndim == 4 and value.shape[0] == 1 else value
        found[weight_name(path, CHAINER.get(attribute, attribute))] = np.ascontiguousarray(turned)
    return found


def _keras(path: Path, root: Node) -> Weights:
    """A group of a transposed convolution has a layer of its own. What is larger than its place is not read."""
    places = _keras_layers(root)
    parts: dict[str, dict[int, Array]] = {}
    unread: Weights = {}
    with hdf5.opened(path, _most(root)) as (file, config):
        held = hdf5.objects(file, path, IGNORED)
        for layer, weights in named_layers(held, config, path).items():
            node, group = places.get(layer, (None, 0))
            for number, place in weights.items():
                role = KERAS[number] if number < len(KERAS) else ""
                if node is None or role not in node.weights:
                    unread[f"{layer}/{number}"] = np.empty(0)
                    continue
                ours, stored, shape = weight_name(node.path, role), held[place], node.weights[role]
                if stored.size > prod(shape) or stored.ndim != len(shape):
                    unread[ours] = np.broadcast_to(np.float32(0), stored.shape[::-1])
                    continue
                value = from_keras(node, hdf5.values(stored))
                if value.shape[1:] == shape[1:]:
                    parts.setdefault(ours, {})[group] = value
                else:
                    unread[ours] = value
    return {name: np.concatenate([part[i] for i in sorted(part)]) for name, part in parts.items()} | unread


def _keras_layers(root: Node) -> dict[str, tuple[Node, int]]:
    """Name of Keras's layer -> its node, and which group of a transposed convolution it is."""
    layers: dict[str, tuple[Node, int]] = {}
    for node in flat(root):
        name = node.path.replace(".", "-") or "output"
        groups = stands_in(node)
        layers |= {f"{name}-group{i}": (node, i) for i in range(groups)} if groups else {name: (node, 0)}
    return layers


def from_keras(node: Node, value: Array) -> Array:
    """From Keras's layout, high × wide × in × out or in × out, to the canonical one."""
    if value.ndim == 4 and isinstance(node.layer, t.Depthwise) and value.shape[2] == node.input[0]:
        high, wide, channels, multiplier = value.shape
        return value.transpose(2, 3, 0, 1).reshape(channels * multiplier, 1, high, wide)
    return value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
