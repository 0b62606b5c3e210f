"""The names that torchvision and timm give their layers, as tables: our path on the left, theirs on the right.

{i} is a word or a number that both sides share, {i+1} and {3i-2} numbers that follow from it. A residual block's
`body` is left out of our path, so that a block has one row, with a skip or without. The first row that fits a path
counts; the last row is the classifier. What no path says is counted in the tree itself:

{at}     the layer's place in the network
{past}   its place after the Flatten
{stage}  a block's stage: the blocks from one that changes the map's shape to the next such
{step}   the block's place in its stage

Sources: torchvision 0.28 (torchvision/models) and timm 1.0.31 (timm/models).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from typing import TypeAlias

from imori import tree as t
from imori.shapes import Node, flat
from imori.weights.names import weight_name

Table: TypeAlias = dict[str, str]
Places: TypeAlias = dict[str, dict[str, str]]

ROLES = {"weight": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var"}

ALEXNET = {
    "conv{i}": "features.{at}",
    "fc6": "classifier.{past}",
    "fc7": "classifier.{past}",
    "fc8": "classifier.{past}",
}

VGG = {
    "conv{i}_{j}": "features.{at}",
    "bn{i}_{j}": "features.{at}",
    "fc{i}": "classifier.{past}",
}

VGG_TIMM = {
    "conv{i}_{j}": "features.{at}",
    "bn{i}_{j}": "features.{at}",
    "fc6": "pre_logits.fc1",
    "fc7": "pre_logits.fc2",
    "fc8": "head.fc",
}

GOOGLENET_CONVOLUTIONS = {
    "conv1": "conv1",
    "conv2_reduce": "conv2",
    "conv2": "conv3",
    "inception{i}.one.conv": "inception{i}.branch1",
    "inception{i}.three.reduce": "inception{i}.branch2.0",
    "inception{i}.three.conv": "inception{i}.branch2.1",
    "inception{i}.five.reduce": "inception{i}.branch3.0",
    "inception{i}.five.conv": "inception{i}.branch3.1",
    "inception{i}.pool.proj": "inception{i}.branch4.1",
    "aux{i}.conv": "aux{i}.conv",
}

GOOGLENET = {
    **{ours: f"{theirs}.conv" for ours, theirs in GOOGLENET_CONVOLUTIONS.items()},
    **{f"{ours}_bn": f"{theirs}.bn" for ours, theirs in GOOGLENET_CONVOLUTIONS.items()},
    "aux{i}.fc{k}": "aux{i}.fc{k}",
    "fc": "fc",
}

RESNET = {
    "conv1": "conv1",
    "bn1": "bn1",
    "conv{s}.{i}.conv{k}": "layer{s-1}.{i}.conv{k}",
    "conv{s}.{i}.bn{k}": "layer{s-1}.{i}.bn{k}",
    "conv{s}.{i}.shortcut.conv": "layer{s-1}.{i}.downsample.0",
    "conv{s}.{i}.shortcut.bn": "layer{s-1}.{i}.downsample.1",
    "fc": "fc",
}

DENSENET = {
    "conv1": "features.conv0",
    "bn1": "features.norm0",
    "dense{s}.{i}.conv{k}": "features.denseblock{s}.denselayer{i+1}.conv{k}",
    "dense{s}.{i}.bn{k}": "features.denseblock{s}.denselayer{i+1}.norm{k}",
    "transition{s}.conv": "features.transition{s}.conv",
    "transition{s}.bn": "features.transition{s}.norm",
    "bn5": "features.norm5",
    "fc": "classifier",
}

XCEPTION = {
    "conv{i}": "conv{i}",
    "bn{i}": "bn{i}",
    "block2.sepconv{k}.depthwise": "block1.rep.{3k-3}.conv1",
    "block2.sepconv{k}.pointwise": "block1.rep.{3k-3}.pointwise",
    "block2.bn{k}": "block1.rep.{3k-2}",
    "block14.sepconv{k}.depthwise": "conv{k+2}.conv1",
    "block14.sepconv{k}.pointwise": "conv{k+2}.pointwise",
    "block14.bn{k}": "bn{k+2}",
    "block{i}.sepconv{k}.depthwise": "block{i-1}.rep.{3k-2}.conv1",
    "block{i}.sepconv{k}.pointwise": "block{i-1}.rep.{3k-2}.pointwise",
    "block{i}.bn{k}": "block{i-1}.rep.{3k-1}",
    "block{i}.shortcut.conv": "block{i-1}.skip",
    "block{i}.shortcut.bn": "block{i-1}.skipbn",
    "fc": "fc",
}

MOBILENET_V1 = {
    "conv1": "conv_stem",
    "bn1": "bn1",
    "block{i}.depthwise": "blocks.{stage}.{step}.conv_dw",
    "block{i}.bn1": "blocks.{stage}.{step}.bn1",
    "block{i}.pointwise": "blocks.{stage}.{step}.conv_pw",
    "block{i}.bn2": "blocks.{stage}.{step}.bn2",
    "fc": "classifier",
}

MOBILENET_V2 = {
    "conv1": "features.0.0",
    "bn1": "features.0.1",
    "block1.depthwise": "features.1.conv.0.0",
    "block1.bn2": "features.1.conv.0.1",
    "block1.project": "features.1.conv.1",
    "block1.bn3": "features.1.conv.2",
    "block{i}.expand": "features.{i}.conv.0.0",
    "block{i}.bn1": "features.{i}.conv.0.1",
    "block{i}.depthwise": "features.{i}.conv.1.0",
    "block{i}.bn2": "features.{i}.conv.1.1",
    "block{i}.project": "features.{i}.conv.2",
    "block{i}.bn3": "features.{i}.conv.3",
    "conv{i}": "features.{i}.0",
    "bn{i}": "features.{i}.1",
    "fc": "classifier.1",
}

MOBILENET_V2_TIMM = {
    "conv1": "conv_stem",
    "bn1": "bn1",
    "block1.depthwise": "blocks.0.0.conv_dw",
    "block1.bn2": "blocks.0.0.bn1",
    "block1.project": "blocks.0.0.conv_pw",
    "block1.bn3": "blocks.0.0.bn2",
    "block{i}.expand": "blocks.{stage}.{step}.conv_pw",
    "block{i}.bn1": "blocks.{stage}.{step}.bn1",
    "block{i}.depthwise": "blocks.{stage}.{step}.conv_dw",
    "block{i}.bn2": "blocks.{stage}.{step}.bn2",
    "block{i}.project": "blocks.{stage}.{step}.conv_pwl",
    "block{i}.bn3": "blocks.{stage}.{step}.bn3",
    "conv{i}": "conv_head",
    "bn{i}": "bn2",
    "fc": "classifier",
}

PUBLISHERS: dict[str, dict[str, Table]] = {
    "torchvision": {
        "alexnet": ALEXNET,
        "vgg": VGG,
        "googlenet": GOOGLENET,
        "resnet": RESNET,
        "densenet": DENSENET,
        "mobilenet_v2": MOBILENET_V2,
    },
    "timm": {
        "vgg": VGG_TIMM,
        "resnet": RESNET,
        "densenet": DENSENET,
        "xception": XCEPTION,
        "mobilenet_v1": MOBILENET_V1,
        "mobilenet_v2": MOBILENET_V2_TIMM,
    },
}

_FIELD = re.compile(r"\{(\d*)([a-z]+)([+-]\d+)?\}")
_WORD = "[0-9a-z]+"


def names_in(table: Table, root: Node) -> dict[str, str] | None:
    """Canonical name -> theirs, for every weight of a resolved tree.

    None for a tree that the table is not of: it has no row for a layer, or one name for two, or another classifier.
    """
    weighted = [node for node in flat(root) if node.weights]
    if not weighted or not _pattern([*table][-1]).fullmatch(weighted[-1].path):
        return None
    places = _places(root)
    names: dict[str, str] = {}
    for node in weighted:
        path = _their_path(table, node.path, places)
        if path is None:
            return None
        names |= {weight_name(node.path, role): f"{path}.{ROLES[role]}" for role in node.weights}
    return names if len(set(names.values())) == len(names) else None


def families_of(names: Iterable[str]) -> list[tuple[str, str]]:
    """(publisher, family) of the tables that know most of a file's names; none where they all know less than half.

    Of two that know as many, the one with fewer rows that the file does not use.
    """
    paths = {name.rpartition(".")[0] for name in names}
    known = {
        (publisher, family): _knows(table, paths)
        for publisher, tables in PUBLISHERS.items()
        for family, table in tables.items()
    }
    most = max(known.values())
    return [which for which, score in known.items() if score == most and 2 * score[0] > len(paths)]


def _knows(table: Table, paths: set[str]) -> tuple[int, int]:
    fitting = [{path for path in paths if _likeness(theirs).fullmatch(path)} for theirs in table.values()]
    return len(set().union(*fitting)), -fitting.count(set())


def _their_path(table: Table, path: str, places: Places) -> str | None:
    short = path.replace(".body.", ".")
    for ours, theirs in table.items():
        if found := _pattern(ours).fullmatch(short):
            fields = places[path.partition(".")[0]] | found.groupdict()
            return _filled(theirs, fields) if fields.keys() >= set(_named(theirs)) else None
    return None


def _filled(template: str, fields: Mapping[str, str]) -> str:
    """The template with the value of every field in its place."""

    def value(field: re.Match[str]) -> str:
        times, name, plus = field.groups()
        return str(int(times or 1) * int(fields[name]) + int(plus or 0)) if times or plus else fields[name]

    return _FIELD.sub(value, template)


def _named(template: str) -> list[str]:
    return [name for _, name, _ in _FIELD.findall(template)]


@cache
def _pattern(template: str) -> re.Pattern[str]:
    """The paths that a template stands for, with a group for every field."""
    return re.compile(_FIELD.sub(lambda field: f"(?P<{field[2]}>{_WORD})", template.replace(".", r"\.")))


@cache
def _likeness(template: str) -> re.Pattern[str]:
    """The paths that a template stands for, whatever its fields."""
    return re.compile(_FIELD.sub(_WORD, template.replace(".", r"\.")))


def _places(root: Node) -> Places:
    """What is counted in the tree, by the names of the root's children: see the head of this file."""
    places: Places = {}
    flattened: int | None = None
    stage, step = -1, 0
    for at, child in enumerate(root.children):
        counted = {"at": at}
        if flattened is not None:
            counted["past"] = at - flattened - 1
        if child.children:
            begins = stage < 0 or child.output != child.input
            stage, step = (stage + 1, 0) if begins else (stage, step + 1)
            counted |= {"stage": stage, "step": step}
        if isinstance(child.layer, t.Flatten):
            flattened = at
        places[child.name] = {name: str(number) for name, number in counted.items()}
    return places
