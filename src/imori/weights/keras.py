"""Weights out of the files that Keras saves of its own `keras.applications`. Keras itself is not needed.

.h5           a group a layer, by its name; the attribute `weight_names` has its weights in order
.weights.h5   a group a layer, by its class and its place among the model's layers of that class, as in conv2d_7; since
              Keras 3.15 with the layer's name as an attribute
.keras        an archive of a .weights.h5 and of a config.json, in which the layers' names are in order

A weight is known by its name where that says what it is ("gamma:0"), and else by its place in its layer ("W_1:0").
Layers that Keras's code leaves unnamed are numbered by the session, so of their names the order alone counts.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from math import prod
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from imori import tree as t
from imori.errors import WeightsError
from imori.shapes import Node, Shape, flat, resolve
from imori.weights.hdf5 import Dataset, objects, opened, strings, values
from imori.weights.names import Weights, compare_shapes, shapes_of, weight_name
from imori.weights.published import known_names, remedy_for
from imori.weights.tables import KERAS_NORM_ROLES, KERAS_ROLES

Layers: TypeAlias = dict[str, dict[int, tuple[str, str]]]
"""A layer's name -> the number of each of its weights -> what the file calls it, and its place in the file."""

IGNORED = ("optimizer", "optimizer_weights", "seed_generator")
"""Groups of what a training remembers: no weights of the network."""
WORDS = {*KERAS_ROLES.values(), *KERAS_NORM_ROLES.values()}
RESPELT = {
    "conv1/conv": "conv1_conv", "conv1/bn": "conv1_bn", "fc1000": "predictions", "probs": "predictions",
    "Logits": "predictions",
}  # fmt: skip
"""What keras-applications 1.0 called layers of DenseNet, ResNet and MobileNet-v2 that have other names since."""
KINDS = {
    "Conv2D": "conv2d", "DepthwiseConv2D": "depthwise_conv2d", "SeparableConv2D": "separable_conv2d",
    "BatchNormalization": "batch_normalization", "Dense": "dense", "Conv2DTranspose": "conv2d_transpose",
}  # fmt: skip
"""A class of Keras -> what its groups are called."""
GROUP = re.compile(r"layers/([^/]+)/vars/(\d+)")
UNNAMED = re.compile(r"(conv2d|batch_normalization)(?:_(\d+))?")
SLOTS = 8
"""Numbers that an archive may hold for each weight: itself, its average, and what optimizers remember of it."""


def read_keras(path: Path, tree: t.Tree, shape: Shape) -> Weights:
    """The weights of a file of Keras's under our canonical names: see `read_weights`."""
    root = resolve(tree, shape)
    known = known_names(root, "keras")
    most = SLOTS * 8 * sum(map(prod, shapes_of(root).values())) + 2**24
    with opened(path, most) as (file, config):
        held = objects(file, path, IGNORED)
        families = {family: _found(held, config, root, names, path) for family, names in known.items()}
        family = max(families, key=lambda family: len(families[family].keys() & {*known[family].values()}))
        found, names = families[family], known[family]
        forms = layouts(root, names)
        _compare(found, forms, root, family, path)
        return {ours: forms[theirs].turned(values(found[theirs])) for ours, theirs in names.items()}


# --- what the file calls its weights ----------------------------------------------------------------------------------


def _found(held: dict[str, Any], config: bytes, root: Node, names: Mapping[str, str], path: Path) -> dict[str, Dataset]:
    """Their name, in the present spelling -> weight. What is of no layer goes by its place in the file."""
    legacy = next(
        (start for start in ("model_weights/", "") if "layer_names" in getattr(held.get(start), "attrs", ())), None
    )
    layers = _in_groups(held, config, root, names) if legacy is None else _in_legacy(held, legacy)
    if not layers:
        raise WeightsError(f"{path} holds no layers of Keras; save the model by model.save or model.save_weights")
    words = _words(names.values())
    places: dict[str, str] = {}
    for layer, name in _respelt(layers, words).items():
        expected = words.get(name, [])
        for number, (word, place) in layers[layer].items():
            if word not in WORDS and number < len(expected):
                word = expected[number]
            if f"{name}/{word}" in places:
                raise WeightsError(f"{path} holds {name}/{word} twice; keep one of them")
            places[f"{name}/{word}"] = place
    taken = {*places.values()}
    rest = {place: place for place in held if place and not place.endswith("/") and place not in taken}
    return {name: held[place] for name, place in (places | rest).items()}


def _in_legacy(held: Mapping[str, Any], start: str) -> Layers:
    layers: Layers = {}
    for layer in strings(held[start], "layer_names"):
        for number, name in enumerate(strings(held[f"{start}{layer}/"], "weight_names")):
            if not {*name.split("/")} & {*IGNORED}:
                word = name.rpartition("/")[2].partition(":")[0]
                layers.setdefault(layer, {})[number] = (word, f"{start}{layer}/{name}")
    return layers


def _in_groups(held: Mapping[str, Any], config: bytes, root: Node, names: Mapping[str, str]) -> Layers:
    layers: Layers = {}
    order: dict[str, str] | None = None
    for place in held:
        if found := GROUP.fullmatch(place):
            group, number = found.groups()
            attributes = held[f"layers/{group}/vars/"]
            if "name" in attributes.attrs:
                (layer,) = strings(attributes, "name")
            else:
                order = order or _numbered(_in_config(config) if config else _in_order(root, names))
                layer = order.get(group, f"layers/{group}")
            layers.setdefault(layer, {})[int(number)] = (number, place)
    return layers


def named_layers(held: Mapping[str, Any], config: bytes, path: Path) -> dict[str, dict[int, str]]:
    """Layer -> the number of each of its weights -> its place in the file, of a file that names its layers."""
    order = _numbered(_in_config(config)) if config else {}
    layers: dict[str, dict[int, str]] = {}
    for place in held:
        if found := GROUP.fullmatch(place):
            group, number = found.groups()
            attributes = held[f"layers/{group}/vars/"]
            layer = strings(attributes, "name")[0] if "name" in attributes.attrs else order.get(group)
            if layer is None:
                raise WeightsError(f"{path} does not name its layers, as a .weights.h5 of an old Keras; save a .keras")
            layers.setdefault(layer, {})[int(number)] = place
    return layers


def _numbered(layers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Group -> layer, of (kind, layer) in the order of the model."""
    groups: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for kind, layer in layers:
        groups[f"{kind}_{counts[kind]}" if counts[kind] else kind] = layer
        counts[kind] += 1
    return groups


def _in_config(config: bytes) -> Iterator[tuple[str, str]]:
    for layer in json.loads(config)["config"]["layers"]:
        if layer["class_name"] in KINDS:
            yield KINDS[layer["class_name"]], layer["config"]["name"]


def _in_order(root: Node, names: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """As `keras.applications` has them: a separable convolution is one layer."""
    for node in _listed(root):
        if node.weights:
            layer, _, word = names[weight_name(node.path, "weight")].rpartition("/")
            match node.layer:
                case t.Depthwise():
                    yield "separable_conv2d" if word == "depthwise_kernel" else "depthwise_conv2d", layer
                case t.BatchNorm():
                    yield "batch_normalization", layer
                case t.Linear():
                    yield "dense", layer
                case _ if word != "pointwise_kernel":
                    yield "conv2d", layer


def _listed(node: Node) -> list[Node]:
    """The layers as Keras lists them: those of a block by their distance from where it ends, a shortcut's first."""
    branches = [_listed(child) for child in node.children]
    if not branches:
        return [node]
    if isinstance(node.layer, t.Chain):
        return [layer for branch in branches for layer in branch]
    distances = [
        (len(branch) - at, number, layer)
        for number, branch in enumerate(reversed(branches))
        for at, layer in enumerate(branch)
    ]
    return [layer for *_, layer in sorted(distances, key=lambda each: (-each[0], each[1]))]


def _words(names: Iterable[str]) -> dict[str, list[str]]:
    """Layer -> what its weights are called, in order."""
    words: dict[str, list[str]] = {}
    for layer, _, word in (name.rpartition("/") for name in names):
        words.setdefault(layer, []).append(word)
    return words


def _respelt(layers: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Layer -> its present name; those that the session numbered are numbered from 0, where the network has such."""
    spelt = {layer: RESPELT.get(layer, layer) for layer in layers}
    for kind in {found[1] for name in known if (found := UNNAMED.fullmatch(name))}:
        numbers = {
            layer: int(found[2] or 0) for layer in spelt if (found := UNNAMED.fullmatch(layer)) and found[1] == kind
        }
        spelt |= {layer: f"{kind}_{rank}" for rank, (layer, _) in enumerate(sorted(numbers.items(), key=itemgetter(1)))}
    return spelt


# --- how it keeps them ------------------------------------------------------------------------------------------------


class Layout(NamedTuple):
    """How Keras keeps a weight of ours."""

    stored: Shape
    """The shape in the file."""
    spread: Shape
    """The same with every axis by itself: (height, width, in, out), or (height, width, channels, multiplier)."""
    axes: tuple[int, ...]
    """The axes of `spread` in our order."""
    ours: Shape

    def turned(self, value: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """A weight of the file in our layout, contiguous."""
        return np.ascontiguousarray(value.reshape(self.spread).transpose(self.axes)).reshape(self.ours)


def layouts(root: Node, names: Mapping[str, str]) -> dict[str, Layout]:
    """Their name -> layout. A dense layer after a Flatten takes what Keras flattened: the channels last."""
    found: dict[str, Layout] = {}
    cells: Shape = (1, 1)
    for node in flat(root):
        if isinstance(node.layer, t.Flatten):
            cells = node.input[1:] or cells
        for role, shape in node.weights.items():
            found[names[weight_name(node.path, role)]] = _layout(node.layer, shape, cells)
        if isinstance(node.layer, t.Linear):
            cells = (1, 1)
    return found


def _layout(layer: t.Tree, ours: Shape, cells: Shape) -> Layout:
    if len(ours) == 1:
        return Layout(ours, ours, (0,), ours)
    out, channels, *kernel = ours
    if isinstance(layer, t.Linear):
        return Layout((channels, out), (*cells, channels // prod(cells), out), (3, 2, 0, 1), ours)
    if isinstance(layer, t.Depthwise):
        spread = (*kernel, out // layer.multiplier, layer.multiplier)
        return Layout(spread, spread, (2, 3, 0, 1), ours)
    spread = (*kernel, channels, out)
    return Layout(spread, spread, (3, 2, 0, 1), ours)


def _compare(found: Mapping[str, Dataset], forms: Mapping[str, Layout], root: Node, family: str, path: Path) -> None:
    """WeightsError unless every weight has its place and every place its weight, in the same shape."""
    shapes = {name: weight.shape for name, weight in found.items()}
    expected = {name: form.stored for name, form in forms.items()}
    if shapes == expected:
        return
    names = list(expected)
    missing = [name for name in names if name not in shapes]
    if shapes.keys() < expected.keys() and missing == names[-len(missing) :]:
        remedy = (
            "The file has no classifier (include_top=False): save the whole model, or cut the tree before it by upto="
        )
    else:
        theirs, wanted = ({name: shape[::-1] for name, shape in each.items()} for each in (shapes, expected))
        remedy = remedy_for(theirs, wanted, root, "keras", family)  # which takes shapes with the output first
    compare_shapes(shapes, expected, str(path), remedy)
