"""Weights out of the checkpoints of torchvision and timm: whose names they are, and what helps where none fit.

For Keras's files see `keras.py`.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from imori import tree as t
from imori.errors import ImoriWarning, WeightsError
from imori.shapes import Node, Shape, flat, resolve
from imori.weights.checkpoint import read_checkpoint
from imori.weights.names import Weights, compare, initial_weights, shapes_of, weight_name
from imori.weights.tables import GOOGLENET, PUBLISHERS, families_of, names_in

Shapes: TypeAlias = Mapping[str, Shape]

SHAPE = (3, 224, 224)
"""The input that published networks are made for."""
LEGACY = re.compile(r"(\.denselayer\d+\.(?:norm|conv))\.([12])\.")
"""DenseNets were first published with `denselayer1.norm.1`, which is `denselayer1.norm1` since."""
HEAD = re.compile(r"aux\d+\.")
"""The names of GoogLeNet's auxiliary heads, in either spelling."""
AS_CONVOLUTIONS = ("pre_logits.fc1.weight", "pre_logits.fc2.weight")
"""The dense layers that timm keeps as convolutions over the whole map: the first two of VGG."""


def read_published(path: Path, tree: t.Tree, publisher: str, shape: Shape) -> Weights:
    """The weights of a publisher's file under our canonical names: see `read_weights`."""
    root = resolve(tree, shape)
    known = known_names(root, publisher)
    tensors = _respelt(read_checkpoint(path), path)
    family = max(known, key=lambda family: len(tensors.keys() & known[family].values()))
    names = known[family]
    remark = ""
    if PUBLISHERS[publisher][family] is GOOGLENET:
        tensors, remark = _with_its_heads(tensors, names, root)
    expected = their_shapes(root, names)
    found = {name: value.shape for name, value in tensors.items()}
    if found != expected:
        compare(tensors, expected, str(path), remedy_for(found, expected, root, publisher, family))
    if remark:
        warnings.warn(f"{path}: {remark}", ImoriWarning, stacklevel=3)
    return {name: tensors[names[name]].reshape(size) for name, size in shapes_of(root).items()}


def known_names(root: Node, publisher: str) -> dict[str, dict[str, str]]:
    """Family -> canonical name -> theirs, of a publisher's tables that know the tree; WeightsError where none does."""
    tables = PUBLISHERS[publisher]
    known = {family: names for family, table in tables.items() if (names := names_in(table, root)) is not None}
    if not known:
        raise WeightsError(_unknown(root, publisher))
    return known


def _unknown(root: Node, publisher: str) -> str:
    """What is said of a tree that a publisher's tables do not know."""
    others = [
        f'read it with source="{other}" if the file is of {other}'
        for other, tables in PUBLISHERS.items()
        if any(names_in(table, root) is not None for table in tables.values())
    ]
    make = f'make one by imori.model(name, variant="{publisher}")'
    return (
        f"this tree is no network of {publisher}, which publishes {', '.join(PUBLISHERS[publisher])};"
        f" {', or '.join([*others, make])}"
    )


def _respelt(tensors: Weights, path: Path) -> Weights:
    """The tensors in their publisher's present spelling."""
    spelt = {LEGACY.sub(r"\1\2.", name): value for name, value in tensors.items()}
    if len(spelt) < len(tensors):
        raise WeightsError(f"{path} holds layers twice, in an old spelling and in a new one; keep one of them")
    return spelt


def _with_its_heads(tensors: Weights, names: Mapping[str, str], root: Node) -> tuple[Weights, str]:
    """The tensors with as many auxiliary heads as the tree has, and what there is to say of it.

    Heads of the file that the tree has not are left out, and heads of the tree that the file has not keep their seeded
    start: they count in training alone.
    """
    wanted = {ours: theirs for ours, theirs in names.items() if HEAD.match(theirs)}
    held = {name for name in tensors if HEAD.match(name)}
    if held and not wanted:
        rest = {name: value for name, value in tensors.items() if name not in held}
        return rest, "its auxiliary heads are left out, for the tree has none"
    if wanted and not held:
        dtype = next(iter(tensors.values())).dtype.name
        start = initial_weights(root.layer, root.input, dtype=dtype)
        filled = {theirs: start[ours] for ours, theirs in wanted.items()}
        return tensors | filled, "it has no auxiliary heads, and those of the tree start untrained"
    return tensors, ""


def their_shapes(root: Node, names: Mapping[str, str]) -> dict[str, Shape]:
    """Their name -> the shape that they keep it in."""
    shapes: dict[str, Shape] = {}
    cells: Shape | None = None
    for node in flat(root):
        if isinstance(node.layer, t.Flatten):
            cells = node.input
        for role, shape in node.weights.items():
            theirs = names[weight_name(node.path, role)]
            if theirs in AS_CONVOLUTIONS and isinstance(node.layer, t.Linear):
                shape = (shape[0], *(cells or (shape[1], 1, 1)))
                cells = None
            shapes[theirs] = shape
    return shapes


def remedy_for(found: Shapes, expected: Shapes, root: Node, publisher: str, family: str) -> str:
    """What most likely helps where the names or the shapes that were found are not those expected."""
    if found.keys() == expected.keys():
        return _remedy_for_shapes(found, expected, root) or _of_its_own(publisher)
    if found.keys() == shapes_of(root).keys():
        return 'The file has the names of imori: read it with source="imori"'
    like = families_of(found)
    families, publishers = {name for _, name in like}, {name for name, _ in like}
    if like and family not in families:
        return f"The file looks like {' or '.join(sorted(families))}, and the tree has the layers of {family}"
    if like and publisher not in publishers:
        return f'The file looks like one of {min(publishers)}: read it with source="{min(publishers)}"'
    if len(root.output) > 1:
        return "The tree is cut: read the file for the whole network, and take what the cut one needs by imori.restrict"
    return _of_its_own(publisher)


def _of_its_own(publisher: str) -> str:
    return (
        "The file is of another depth, width or form, or damaged: fetch it again, leave --width to the file, or build"
        f' the tree of its own model with variant="{publisher}"'
    )


def _remedy_for_shapes(found: Shapes, expected: Shapes, root: Node) -> str | None:
    """What helps where the shapes differ in one thing alone."""
    wrong = [(found[name], shape) for name, shape in expected.items() if found[name] != shape]
    if any(len(theirs) != len(shape) for theirs, shape in wrong):
        return None
    first, _ = wrong[0]
    classes, channels = root.output[0], root.input[0]
    if all(shape[0] == classes and theirs[1:] == shape[1:] for theirs, shape in wrong):
        return f"The file is of {first[0]} classes and the tree has {classes}: build the tree with classes={first[0]}"
    if all(shape[1:2] == (channels,) and theirs[2:] == shape[2:] for theirs, shape in wrong):
        return f"The file is of {first[1]} input channels, and was read for {channels}: give shape=({first[1]}, H, W)"
    if all(len(shape) == 2 and theirs[0] == shape[0] for theirs, shape in wrong):
        return "The file is of another input size: give shape=(C, H, W), or build a variant that takes any size"
    return None
