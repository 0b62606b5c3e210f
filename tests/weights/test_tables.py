"""The tables of published names: one name of theirs for each of ours, and exactly the names that are published.

state_dicts.txt has what torchvision 0.28, timm 1.0.31 and Keras 3.15 themselves build, a network a line: the publisher,
its model, ours, the width, how many tensors it has (counts of batches aside), and the CRC-32 of their names and shapes
in order ("name 64x3x7x7", a line each). What Keras left unnamed is numbered from 0 there.
"""

import json
import math
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from imori.catalogue import list_models, model, size_of, variants
from imori.errors import NameUnknown
from imori.papers import mobilenet_v2, resnet, resnext, vgg
from imori.shapes import Node, Shape, resolve
from imori.tree import BatchNorm, Chain, Conv, GlobalAvgPool, Linear, Tree
from imori.weights import shapes_of
from imori.weights.keras import layouts
from imori.weights.published import their_shapes
from imori.weights.tables import PUBLISHERS, families_of, names_in

BUILT = [(name, variant) for name in list_models() for variant in variants(name)]
TABLES = [(publisher, family) for publisher, tables in PUBLISHERS.items() for family in tables]
PUBLISHED = [tuple(line.split()) for line in (Path(__file__).parent / "state_dicts.txt").read_text().splitlines()]
# The families of a model of the catalogue, by how its name begins; what begins otherwise is not published.
FAMILIES = {
    "alexnet": {("torchvision", "alexnet")},
    "vgg16_bn": {("torchvision", "vgg"), ("timm", "vgg")},
    "vgg19_bn": {("torchvision", "vgg"), ("timm", "vgg")},
    "vgg": {("torchvision", "vgg"), ("timm", "vgg"), ("keras", "vgg")},
    "resne": {("torchvision", "resnet"), ("timm", "resnet"), ("keras", "resnet")},
    "googlenet": {("torchvision", "googlenet")},
    "xception": {("timm", "xception"), ("keras", "xception")},
    "densenet": {("torchvision", "densenet"), ("timm", "densenet"), ("keras", "densenet")},
    "mobilenet_v1": {("timm", "mobilenet_v1"), ("keras", "mobilenet_v1")},
    "mobilenet_v2": {("torchvision", "mobilenet_v2"), ("timm", "mobilenet_v2"), ("keras", "mobilenet_v2")},
    "zfnet_gap": set(),
    "zfnet": {("torchvision", "alexnet")},  # the layers of AlexNet, with other filters
    "deep_convnet": {("torchvision", "vgg")},  # as VGG's, fewer
}


@pytest.mark.parametrize(("name", "variant"), BUILT, ids=map("-".join, BUILT))
def test_every_weight_has_one_name_of_its_own(name: str, variant: str) -> None:
    root = resolve(model(name, variant=variant), (3, size_of(name), size_of(name)))
    for publisher, family in TABLES:
        names = names_in(PUBLISHERS[publisher][family], root)
        if names is not None:
            assert list(names) == list(shapes_of(root))
            assert len(set(names.values())) == len(names)


@pytest.mark.parametrize("name", list_models())
def test_a_network_is_recognised_by_its_paths(name: str) -> None:
    root = resolve(model(name), (3, size_of(name), size_of(name)))
    found = {(publisher, family) for publisher, family in TABLES if names_in(PUBLISHERS[publisher][family], root)}
    assert found == next((tables for begin, tables in FAMILIES.items() if name.startswith(begin)), set())


def as_published(publisher: str, name: str, width: str) -> Tree:
    variant = publisher if publisher in variants(name) else None
    return model(name, variant=variant, **({} if width == "1" else {"width": float(width)}))


@pytest.mark.parametrize(
    ("publisher", "theirs", "name", "width", "count", "digest"),
    PUBLISHED,
    ids=[f"{publisher}-{theirs}-{width}" for publisher, theirs, _, width, *_ in PUBLISHED],
)
def test_names_and_shapes_are_those_published(
    publisher: str, theirs: str, name: str, width: str, count: str, digest: str
) -> None:
    assert state_dict_of(as_published(publisher, name, width), publisher) == (int(count), digest)


def state_dict_of(tree: Tree, publisher: str) -> tuple[int, str]:
    """How many tensors, and the digest of their names and shapes, as state_dicts.txt has them."""
    root = resolve(tree, (3, 224, 224))
    (names,) = (found for table in PUBLISHERS[publisher].values() if (found := names_in(table, root)))
    shapes = layouts_of(root, names) if publisher == "keras" else their_shapes(root, names)
    lines = [f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items()]
    text = "\n".join(sorted(lines))
    return len(lines), f"{zlib.crc32(text.encode()):08x}"


def layouts_of(root: Node, names: dict[str, str]) -> dict[str, Shape]:
    return {name: layout.stored for name, layout in layouts(root, names).items()}


def deeper_mobilenet_v2(monkeypatch: pytest.MonkeyPatch) -> Tree:
    """As timm's mobilenetv2_120d: 1.2 times as wide but for its ends, each stage between them 1.4 times as deep."""
    first, *rows, last = mobilenet_v2.TABLE
    monkeypatch.setattr(mobilenet_v2, "TABLE", (first, *((t, c, math.ceil(1.4 * n), s) for t, c, n, s in rows), last))
    monkeypatch.setattr(mobilenet_v2, "STEM", 32 / 1.2)
    monkeypatch.setattr(mobilenet_v2, "LAST", 1280 / 1.2)
    return mobilenet_v2.mobilenet_v2(width=1.2)


def shallow_vgg(monkeypatch: pytest.MonkeyPatch) -> Tree:
    monkeypatch.setitem(vgg.TABLE, 11, ((64, 1), (128, 1), (256, 2), (512, 2), (512, 2)))
    return vgg.vgg(11, batch_norm=True)


def resnet26(monkeypatch: pytest.MonkeyPatch) -> Tree:
    monkeypatch.setitem(resnet.TABLE, 26, (4, (2, 2, 2, 2)))
    return resnet.resnet(26)


@pytest.mark.parametrize(
    ("publisher", "make", "count", "digest"),
    [
        ("torchvision", shallow_vgg, 54, "ef0a9761"),
        ("timm", shallow_vgg, 54, "37b07566"),
        ("timm", resnet26, 147, "3e5d971f"),
        ("timm", lambda _: resnext.resnext(101, 32, 16), 522, "e4d6fc08"),
        ("timm", deeper_mobilenet_v2, 397, "e87219e8"),
    ],
    ids=["vgg11_bn-torchvision", "vgg11_bn-timm", "resnet26", "resnext101_32x16d", "mobilenetv2_120d"],
)
def test_depths_and_widths_beyond_the_catalogue_are_known(
    monkeypatch: pytest.MonkeyPatch, publisher: str, make: Callable[..., Tree], count: int, digest: str
) -> None:
    assert state_dict_of(make(monkeypatch), publisher) == (count, digest)


# Forms that a publisher names, without a model of its own.
UNPUBLISHED = {("torchvision", "resnext101_32x4d"), ("torchvision", "densenet264"), ("timm", "densenet264")}


@pytest.mark.parametrize("publisher", PUBLISHERS)
def test_every_network_of_a_publisher_is_listed(publisher: str) -> None:
    listed = {(publisher, name) for publisher, _, name, *_ in PUBLISHED}
    for name in list_models():
        try:
            model(name, variant=publisher)
        except NameUnknown:
            continue
        assert (publisher, name) in listed | UNPUBLISHED


@pytest.mark.parametrize("publisher", PUBLISHERS)
def test_a_file_is_recognised_by_its_names(data_root: Path, publisher: str) -> None:
    for path in sorted((data_root / "reference").glob(f"{publisher}-*.json")):
        spec = json.loads(path.read_text(encoding="utf-8"))
        family = FAMILY_OF_FILE[path.stem.partition("-")[2]]
        found = families_of(name for name, _ in spec["tensors"])
        assert (publisher, family) in found, path
        assert {name for _, name in found} <= {family, *(("alexnet", "vgg") if publisher == "torchvision" else ())}


FAMILY_OF_FILE = {
    "alexnet": "alexnet", "vgg16": "vgg", "vgg16_bn": "vgg", "googlenet": "googlenet", "resnet18": "resnet",
    "resnet50": "resnet", "resnext50_32x4d": "resnet", "resnext101_32x4d": "resnet", "densenet121": "densenet",
    "mobilenet_v2": "mobilenet_v2", "mobilenetv2_100": "mobilenet_v2", "mobilenetv1_100": "mobilenet_v1",
    "legacy_xception": "xception",
}  # fmt: skip


def test_names_that_are_no_ones_are_no_familys() -> None:
    assert families_of(["encoder.layer.0.weight", "head.bias"]) == []


def test_a_tree_of_which_two_layers_would_have_one_name_is_not_recognised() -> None:
    conv = {"conv1": Conv(4, 3, bias=False), "bn1": BatchNorm()}
    twice = {"conv8": Conv(4, 1, bias=False), "conv9": Conv(4, 1, bias=False)}
    root = resolve(Chain(**conv, **twice, gap=GlobalAvgPool(), fc=Linear(2)), (3, 8, 8))
    assert names_in(PUBLISHERS["timm"]["mobilenet_v2"], root) is None
    assert names_in(PUBLISHERS["torchvision"]["mobilenet_v2"], root) is not None
