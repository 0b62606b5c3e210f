"""The names that torchvision, timm and Keras give their layers, as tables: our path on the left, theirs on the right.

{i} is a word or a number that both sides share, {i+1} and {3i-2} numbers that follow from it. A residual block's
`body` is left out of our path, so that a block has one row, with a skip or without. The first row that fits a path
counts; the last row is the classifier. What no path says is counted in the tree itself:

{at}     the layer's place in the network
{past}   its place after the Flatten
{stage}  a block's stage: the blocks from one that changes the map's shape to the next such
{step}   the block's place in its stage

A name of PyTorch is a layer's, and a weight's follows after a dot. Keras's ends in a slash, after which the weight's
follows, or is a weight's own. Where Keras left it to the session to number a layer, {stage} numbers it.

Sources: torchvision 0.28 (torchvision/models), timm 1.0.31 (timm/models), Keras 3.15 (keras/src/applications).
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
KERAS_ROLES = {"weight": "kernel", "bias": "bias"}
KERAS_NORM_ROLES = {"weight": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance"}

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

VGG_KERAS = {
    "conv{i}_{j}": "block{i}_conv{j}/",
    "fc6": "fc1/",
    "fc7": "fc2/",
    "fc8": "predictions/",
}

RESNET_KERAS = {
    "conv1": "conv1_conv/",
    "bn1": "conv1_bn/",
    "conv{s}.{i}.conv{k}": "conv{s}_block{i+1}_{k}_conv/",
    "conv{s}.{i}.bn{k}": "conv{s}_block{i+1}_{k}_bn/",
    "conv{s}.{i}.shortcut.conv": "conv{s}_block{i+1}_0_conv/",
    "conv{s}.{i}.shortcut.bn": "conv{s}_block{i+1}_0_bn/",
    "fc": "predictions/",
}

DENSENET_KERAS = {
    "conv1": "conv1_conv/",
    "bn1": "conv1_bn/",
    "dense{s}.{i}.bn1": "conv{s+1}_block{i+1}_0_bn/",
    "dense{s}.{i}.conv1": "conv{s+1}_block{i+1}_1_conv/",
    "dense{s}.{i}.bn2": "conv{s+1}_block{i+1}_1_bn/",
    "dense{s}.{i}.conv2": "conv{s+1}_block{i+1}_2_conv/",
    "transition{s}.bn": "pool{s+1}_bn/",
    "transition{s}.conv": "pool{s+1}_conv/",
    "bn5": "bn/",
    "fc": "predictions/",
}

XCEPTION_KERAS = {
    "conv{i}": "block1_conv{i}/",
    "bn{i}": "block1_conv{i}_bn/",
    "block{i}.sepconv{k}.depthwise": "block{i}_sepconv{k}/depthwise_kernel",
    "block{i}.sepconv{k}.pointwise": "block{i}_sepconv{k}/pointwise_kernel",
    "block{i}.bn{k}": "block{i}_sepconv{k}_bn/",
    "block{i}.shortcut.conv": "conv2d_{stage}/",
    "block{i}.shortcut.bn": "batch_normalization_{stage}/",
    "fc": "predictions/",
}

MOBILENET_V1_KERAS = {
    "conv1": "conv1/",
    "bn1": "conv1_bn/",
    "block{i}.depthwise": "conv_dw_{i}/",
    "block{i}.bn1": "conv_dw_{i}_bn/",
    "block{i}.pointwise": "conv_pw_{i}/",
    "block{i}.bn2": "conv_pw_{i}_bn/",
    "fc": "conv_preds/",
}

MOBILENET_V2_KERAS = {
    "conv1": "Conv1/",
    "bn1": "bn_Conv1/",
    "block1.depthwise": "expanded_conv_depthwise/",
    "block1.bn2": "expanded_conv_depthwise_BN/",
    "block1.project": "expanded_conv_project/",
    "block1.bn3": "expanded_conv_project_BN/",
    "block{i}.expand": "block_{i-1}_expand/",
    "block{i}.bn1": "block_{i-1}_expand_BN/",
    "block{i}.depthwise": "block_{i-1}_depthwise/",
    "block{i}.bn2": "block_{i-1}_depthwise_BN/",
    "block{i}.project": "block_{i-1}_project/",
    "block{i}.bn3": "block_{i-1}_project_BN/",
    "conv{i}": "Conv_1/",
    "bn{i}": "Conv_1_bn/",
    "fc": "predictions/",
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
    "keras": {
        "vgg": VGG_KERAS,
        "resnet": RESNET_KERAS,
        "densenet": DENSENET_KERAS,
        "xception": XCEPTION_KERAS,
        "mobilenet_v1": MOBILENET_V1_KERAS,
        "mobilenet_v2": MOBILENET_V2_KERAS,
    },
}

_FIELD = re.compile(r"\{(\d*)([a-z]+)([+-]\d+)?\}")
_WORD = "[0-9a-z]+"


def names_in(table: Table, root: Node) -> dict[str, str] | None:
    """Canonical name -> theirs, for every weight of a resolved tree.

    None for a tree that the table is not of: it has no row for a layer, or one name for two, or another classifier. A
    tree that ends in a map was cut before its classifier.
    """
    weighted = [node for node in flat(root) if node.weights]
    cut = len(root.output) > 1
    if not weighted or not (cut or _pattern([*table][-1]).fullmatch(weighted[-1].path)):
        return None
    places = _places(root)
    names: dict[str, str] = {}
    for node in weighted:
        path = _their_path(table, node.path, places)
        if path is None:
            return None
        names |= {weight_name(node.path, role): _their_weight(path, node.layer, role) for role in node.weights}
    return names if len(set(names.values())) == len(names) else None


def families_of(names: Iterable[str]) -> list[tuple[str, str]]:
    """(publisher, family) of the tables that know most of a file's names; none where they all know less than half.

    Of two that know as many, the one with fewer rows that the file does not use.
    """
    paths = {name.rpartition("/")[0] + "/" if "/" in name else name.rpartition(".")[0] for name in names}
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


def _their_weight(path: str, layer: t.Tree, role: str) -> str:
    if not path.endswith("/"):
        return path if "/" in path else f"{path}.{ROLES[role]}"
    return path + (KERAS_NORM_ROLES if isinstance(layer, t.BatchNorm) else KERAS_ROLES)[role]


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
