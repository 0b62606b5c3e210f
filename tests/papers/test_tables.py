"""Each paper's table, row for row: kernel, filters, stride, padding, activation, order, normalisation and dropout.

The tables are written here a second time, as data, so that a slip in a paper's file shows. A row is a layer and what
follows it until the next one with a row of its own: "conv kernel filters stride pad", "pool kernel stride pad", "lrn",
"dense units".
"""

from collections.abc import Iterator

import pytest

from imori.catalogue import list_models, model, size_of, variants
from imori.shapes import Shape, resolve, summary, walk
from imori.tree import (
    LRN,
    AdaptiveAvgPool,
    AvgPool,
    BatchNorm,
    Chain,
    Concat,
    Conv,
    Depthwise,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Identity,
    Linear,
    MaxPool,
    PadChannels,
    ReLU,
    Select,
    Sigmoid,
    Subsample,
    Sum,
    Tanh,
    Tree,
)

LENET = """
conv 5 6 1 0
pool 2 2 0, sigmoid
conv 5 16 1 0
pool 2 2 0, sigmoid
dense 120
dense 64
dense 2
"""
SIMPLE_CONVNET = """
conv 5 30 1 0, relu
pool 2 2 0
dense 100, relu
dense 2
"""
DEEP_CONVNET = """
conv 3 16 1 1, relu
conv 3 16 1 1, relu
pool 2 2 0
conv 3 32 1 1, relu
conv 3 32 1 2, relu
pool 2 2 0
conv 3 64 1 1, relu
conv 3 64 1 1, relu
pool 2 2 0
dense 50, relu, drop
dense 2
"""
ALEXNET = """
conv 11 96 4 0, relu
lrn
pool 3 2 0
conv 5 256 1 1, relu
lrn
pool 3 2 0
conv 3 384 1 1, relu
conv 3 384 1 1, relu
conv 3 256 1 1, relu
pool 3 2 0
dense 4096, relu, drop
dense 4096, relu, drop
dense 2
"""
ALEXNET_PAPER = ALEXNET.replace("conv 5 256 1 1", "conv 5 256 1 2 groups 2").replace(
    "conv 3 384 1 1, relu\nconv 3 256 1 1, relu", "conv 3 384 1 1 groups 2, relu\nconv 3 256 1 1 groups 2, relu"
)
ALEXNET_TORCHVISION = """
conv 11 64 4 2, relu
pool 3 2 0
conv 5 192 1 2, relu
pool 3 2 0
conv 3 384 1 1, relu
conv 3 256 1 1, relu
conv 3 256 1 1, relu
pool 3 2 0
mean 6, drop
dense 4096, relu, drop
dense 4096, relu
dense 2
"""
ZFNET = """
conv 7 96 2 0, relu
lrn
pool 3 2 0
conv 5 256 2 1, relu
lrn
pool 3 2 0
conv 3 384 1 1, relu
conv 3 384 1 1, relu
conv 3 256 1 1, relu
pool 3 2 0
dense 4096, relu, drop
dense 4096, relu, drop
dense 2
"""
# Zeiler and Fergus, figure 3: pooled, then normalised; 110, 55, 26, 13 and 6 are reached by rounding up.
ZFNET_PAPER = (
    ZFNET.replace("conv 7 96 2 0", "conv 7 96 2 1")
    .replace("conv 5 256 2 1", "conv 5 256 2 0")
    .replace("lrn\npool 3 2 0", "pool 3 2 0\nlrn")
    .replace("pool 3 2 0", "pool 3 2 0 up")
)
DENSE = ZFNET[ZFNET.index("dense") :]
NIN = """
conv 5 192 1 2, relu
conv 1 160 1 0, relu
conv 1 96 1 0, relu
pool 3 2 0, drop
conv 5 192 1 2, relu
conv 1 192 1 0, relu
conv 1 192 1 0, relu
pool 3 2 0, drop
conv 3 192 1 1, relu
conv 1 192 1 0, relu
conv 1 2 1 0
gap
"""
# The authors' net for ImageNet, as they published it for Caffe.
NIN_IMAGENET = """
conv 11 96 4 0, relu
conv 1 96 1 0, relu
conv 1 96 1 0, relu
pool 3 2 0 up
conv 5 256 1 2, relu
conv 1 256 1 0, relu
conv 1 256 1 0, relu
pool 3 2 0 up
conv 3 384 1 1, relu
conv 1 384 1 0, relu
conv 1 384 1 0, relu
pool 3 2 0 up, drop
conv 3 1024 1 1, relu
conv 1 1024 1 0, relu
conv 1 2 1 0, relu
gap
"""
VGG16 = """
conv 3 64 1 1, relu
conv 3 64 1 1, relu
pool 2 2 0
conv 3 128 1 1, relu
conv 3 128 1 1, relu
pool 2 2 0
conv 3 256 1 1, relu
conv 3 256 1 1, relu
conv 3 256 1 1, relu
pool 2 2 0
conv 3 512 1 1, relu
conv 3 512 1 1, relu
conv 3 512 1 1, relu
pool 2 2 0
conv 3 512 1 1, relu
conv 3 512 1 1, relu
conv 3 512 1 1, relu
pool 2 2 0
dense 4096, relu, drop
dense 4096, relu, drop
dense 2
"""
VGG19 = VGG16
for width in (256, 512):
    row = f"conv 3 {width} 1 1, relu\n"
    VGG19 = VGG19.replace(row * 3, row * 4)

TABLES = {
    ("lenet", "default"): LENET,
    ("lenet", "paper"): LENET.replace("dense 64", "dense 84"),
    ("simple_convnet", "default"): SIMPLE_CONVNET,
    ("deep_convnet", "default"): DEEP_CONVNET,
    ("deep_convnet", "paper"): DEEP_CONVNET.replace("dense 2\n", "dense 2, drop\n"),
    ("alexnet", "default"): ALEXNET,
    ("alexnet", "paper"): ALEXNET_PAPER,
    ("alexnet", "torchvision"): ALEXNET_TORCHVISION,
    ("alexnet", "ungrouped"): ALEXNET_PAPER.replace(" groups 2", ""),
    ("zfnet", "default"): ZFNET,
    ("zfnet", "paper"): ZFNET_PAPER,
    ("zfnet_gap", "default"): ZFNET.replace(DENSE, "conv 1 2 1 0\ngap\n"),
    ("zfnet_gap", "paper"): ZFNET_PAPER.replace(DENSE, "conv 1 2 1 0\ngap\n"),
    ("nin", "default"): NIN,
    ("nin", "imagenet"): NIN_IMAGENET,
    ("vgg16", "default"): VGG16,
    ("vgg16", "keras"): VGG16.replace(", drop", ""),
    ("vgg16", "timm"): VGG16.replace("dense 4096", "conv 7 4096 1 0", 1)
    .replace("dense 4096", "conv 1 4096 1 0")
    .replace("dense 2", "gap\ndense 2"),
    ("vgg16", "torchvision"): VGG16.replace("pool 2 2 0\ndense", "pool 2 2 0\nmean 7\ndense"),
    ("vgg19", "default"): VGG19,
    ("vgg19", "torchvision"): VGG19.replace("pool 2 2 0\ndense", "pool 2 2 0\nmean 7\ndense"),
    ("vgg16_bn", "default"): VGG16.replace(" 1 1, relu", " 1 1, norm, relu"),
    ("vgg19_bn", "default"): VGG19.replace(" 1 1, relu", " 1 1, norm, relu"),
}


def rows(tree: Tree, shape: Shape) -> Iterator[str]:
    """The walked tree in the form of the tables above."""
    row = ""
    for node in walk(tree, shape):
        written = written_row(node.layer)
        if written.startswith(","):
            row += written
        elif written:
            yield from [row] * bool(row)
            row = written
    yield row


def written_row(layer: Tree) -> str:
    match layer:
        case Conv(out, kernel, stride, pad, groups, dilation=1, bias=True):
            return f"conv {kernel} {out} {stride} {pad}" + (f" groups {groups}" if groups > 1 else "")
        case MaxPool(kernel, stride, pad, ceil):
            return f"pool {kernel} {stride} {pad}" + (" up" if ceil else "")
        case GlobalAvgPool():
            return "gap"
        case LRN(size=5, alpha=1e-4, beta=0.75, k=2.0):
            return "lrn"
        case AdaptiveAvgPool(size):
            return f"mean {size}"
        case Linear(out, bias=True):
            return f"dense {out}"
        case BatchNorm(eps=1e-5, momentum=0.1):
            return ", norm"
        case ReLU(max=None):
            return ", relu"
        case Sigmoid():
            return ", sigmoid"
        case Dropout(drop=0.5):
            return ", drop"
        case Flatten():
            return ""
        case _:
            raise AssertionError(f"{layer!r} is in none of these tables")


@pytest.mark.parametrize(("name", "variant"), TABLES, ids=map("-".join, TABLES))
def test_a_network_is_its_table(name: str, variant: str) -> None:
    size = 224 if variant in ("torchvision", "imagenet") else size_of(name)
    found = list(rows(model(name, classes=2, variant=variant), (3, size, size)))
    assert found == TABLES[name, variant].strip().splitlines()


def test_vgg19_is_vgg16_and_three_convolutions() -> None:
    assert VGG19.count("conv") == VGG16.count("conv") + 3 == 16


# --- residual networks -----------------------------------------------------------------------------------------------

# He et al. 2015, table 1: (kernel, filters) of a block, and how many blocks, in conv2 to conv5.
PLAIN = [((3, width), (3, width)) for width in (64, 128, 256, 512)]
BOTTLENECK = [((1, width), (3, width), (1, 4 * width)) for width in (64, 128, 256, 512)]
RESNETS = {
    18: (PLAIN, (2, 2, 2, 2)),
    34: (PLAIN, (3, 4, 6, 3)),
    50: (BOTTLENECK, (3, 4, 6, 3)),
    101: (BOTTLENECK, (3, 4, 23, 3)),
    152: (BOTTLENECK, (3, 8, 36, 3)),
}
SMALL = {
    "plain": [((3, width), (3, width)) for width in (16, 32, 64)],
    "bottleneck": [((1, width // 4), (3, width // 4), (1, width)) for width in (64, 128, 256)],
}


def branch(*rows: tuple[int, int], strided: int, stride: int, bias: bool, norm: BatchNorm) -> Chain:
    """A block's body: convolution, norm, ReLU, the last without the ReLU; row number `strided` has the stride."""
    parts: dict[str, Tree] = {}
    for i, (kernel, filters) in enumerate(rows, 1):
        step = stride if i == strided else 1
        parts[f"conv{i}"] = Conv(filters, kernel, step, pad=(kernel - 1) // 2, bias=bias)
        parts[f"bn{i}"] = norm
        parts[f"relu{i}"] = ReLU()
    parts.popitem()
    return Chain(**parts)


def check_stage(
    stage: Tree, rows: tuple[tuple[int, int], ...], count: int, strided: int, stride: int, changes: bool, variant: str
) -> None:
    bias, norm = variant == "keras", BatchNorm(1.001e-5, 0.01) if variant == "keras" else BatchNorm()
    out = rows[-1][1]
    option_a = Chain(subsample=Subsample(stride), pad=PadChannels(out))
    option_b = Chain(conv=Conv(out, 1, stride, bias=bias), bn=norm)
    assert isinstance(stage, Chain)
    assert len(stage.children) == 2 * count
    for i, (_, layer) in enumerate(stage.children):
        if i % 2:
            assert layer == ReLU(), "every sum is followed by a ReLU"
            continue
        changed = option_a if variant == "option_a" else option_b
        shortcut = changed if i == 0 and changes else Identity()
        body = branch(*rows, strided=strided, stride=stride if i == 0 else 1, bias=bias, norm=norm)
        assert layer == Sum(body=body, shortcut=shortcut)


@pytest.mark.parametrize(
    ("depth", "variant"), [(depth, variant) for depth in RESNETS for variant in variants(f"resnet{depth}")]
)
def test_resnet_is_its_table(depth: int, variant: str) -> None:
    blocks, counts = RESNETS[depth]
    parts = model(f"resnet{depth}", classes=7, variant=variant).children
    stem = Conv(64, 7, 2, 3, bias=variant == "keras" or (variant == "paper" and depth == 50))
    norm = BatchNorm(1.001e-5, 0.01) if variant == "keras" else BatchNorm()
    assert parts[:4] == (("conv1", stem), ("bn1", norm), ("relu1", ReLU()), ("pool1", MaxPool(3, 2, 1)))
    assert [name for name, _ in parts[4:-2]] == ["conv2", "conv3", "conv4", "conv5"]
    assert parts[-2:] == (("pool5", GlobalAvgPool()), ("fc", Linear(7)))
    strided = 2 if depth >= 50 and variant in ("default", "option_a") else 1
    for i, ((_, stage), rows, count) in enumerate(zip(parts[4:-2], blocks, counts, strict=True)):
        stride = 1 if i == 0 else 2
        check_stage(stage, rows, count, strided, stride, i > 0 or depth >= 50, variant)


@pytest.mark.parametrize("variant", ["default", "option_a"])
@pytest.mark.parametrize("kind", SMALL)
def test_resnet_mnist_is_its_table(kind: str, variant: str) -> None:
    parts = model(f"resnet_mnist_{kind}", classes=10, variant=variant).children
    assert parts[:3] == (("conv1", Conv(16, 3, 1, 1, bias=False)), ("bn1", BatchNorm()), ("relu1", ReLU()))
    assert [name for name, _ in parts[3:-2]] == ["conv2", "conv3", "conv4"]
    assert parts[-2:] == (("pool4", GlobalAvgPool()), ("fc", Linear(10)))
    for i, ((_, stage), rows) in enumerate(zip(parts[3:-2], SMALL[kind], strict=True)):
        stride = 1 if i == 0 else 2
        check_stage(stage, rows, 3, 2 if kind == "bottleneck" else 1, stride, i > 0 or kind == "bottleneck", variant)


@pytest.mark.parametrize("name", list_models("vgg*") + list_models("resnet[0-9]*"))
def test_a_network_has_the_layers_that_its_name_counts(name: str) -> None:
    size = size_of(name)
    weighted = [
        node.path
        for node in walk(model(name), (3, size, size))
        if isinstance(node.layer, Conv | Linear) and "shortcut" not in node.path
    ]
    assert len(weighted) == int("".join(filter(str.isdigit, name)))


# --- LeNet as in 1998 ------------------------------------------------------------------------------------------------

# LeCun et al. 1998, table I: an X where the filter of the column sees the map of the row.
TABLE_I = """
X . . . X X X . . X X X X . X X
X X . . . X X X . . X X X X . X
X X X . . . X X X . . X . X X X
. X X X . . X X X X . . X . X X
. . X X X . . X X X X . X X . X
. . . X X X . . X X X X . X X X
"""


def test_the_original_lenet_sees_what_its_table_marks() -> None:
    layers = dict(model("lenet", classes=10, variant="original").children)
    assert isinstance(layers["conv2"], Concat)
    columns = zip(*(row.split() for row in TABLE_I.strip().splitlines()), strict=True)
    for (_, branch), column in zip(layers["conv2"].children, columns, strict=True):
        (_, seen), (_, conv) = branch.children
        assert isinstance(seen, Select)
        assert sorted(seen.channels) == [row for row, mark in enumerate(column) if mark == "X"]
        assert conv == Conv(1, 5)
    for i in (1, 2):
        assert (layers[f"pool{i}"], layers[f"scale{i}"], layers[f"squash{i}"]) == (AvgPool(2), Depthwise(1), Tanh())
    counted = summary(model("lenet", classes=10, variant="original", upto="squash4"), (1, 32, 32))
    assert counted.parameters == 60_000, "section II.B: LeNet-5 has 60,000 trainable free parameters"


# --- the sizes of the maps -------------------------------------------------------------------------------------------

MAPS = {
    ("lenet", "default"): (32, {"conv1": 28, "pool1": 14, "conv2": 10, "pool2": 5}),
    ("simple_convnet", "default"): (28, {"conv1": 24, "pool1": 12}),
    ("deep_convnet", "default"): (28, {"pool1": 14, "conv2_1": 14, "conv2_2": 16, "pool2": 8, "pool3": 4}),
    ("alexnet", "default"): (227, {"conv1": 55, "pool1": 27, "conv2": 25, "pool2": 12, "conv5": 12, "pool5": 5}),
    ("alexnet", "paper"): (227, {"conv1": 55, "pool1": 27, "conv2": 27, "pool2": 13, "conv5": 13, "pool5": 6}),
    ("alexnet", "torchvision"): (224, {"conv1": 55, "pool1": 27, "conv2": 27, "pool2": 13, "pool5": 6, "avgpool": 6}),
    ("alexnet", "ungrouped"): (227, {"conv1": 55, "pool1": 27, "conv2": 27, "pool2": 13, "conv5": 13, "pool5": 6}),
    ("zfnet", "default"): (224, {"conv1": 109, "pool1": 54, "conv2": 26, "pool2": 12, "conv5": 12, "pool5": 5}),
    ("zfnet", "paper"): (224, {"conv1": 110, "pool1": 55, "conv2": 26, "pool2": 13, "conv5": 13, "pool5": 6}),
    ("zfnet_gap", "paper"): (224, {"conv5": 13, "pool5": 6, "conv6": 6}),
    ("nin", "default"): (128, {"conv1_1": 128, "pool1": 63, "conv2_1": 63, "pool2": 31, "conv3_3": 31}),
    ("nin", "imagenet"): (224, {"conv1_1": 54, "pool1": 27, "pool2": 13, "pool3": 6, "conv4_3": 6}),
    ("vgg16", "timm"): (224, {"pool5": 7, "fc6": 1, "fc7": 1}),
    ("vgg16", "default"): (224, {"pool1": 112, "pool2": 56, "pool3": 28, "pool4": 14, "pool5": 7}),
    ("vgg19", "torchvision"): (256, {"pool1": 128, "pool5": 8, "avgpool": 7}),
    ("resnet18", "default"): (224, {"conv1": 112, "pool1": 56, "conv2": 56, "conv3": 28, "conv4": 14, "conv5": 7}),
    ("resnet50", "default"): (224, {"conv1": 112, "pool1": 56, "conv2": 56, "conv3": 28, "conv4": 14, "conv5": 7}),
    ("resnet50", "paper"): (225, {"conv1": 113, "pool1": 57, "conv2": 57, "conv3": 29, "conv4": 15, "conv5": 8}),
    ("resnet_mnist_plain", "default"): (28, {"conv1": 28, "conv2": 28, "conv3": 14, "conv4": 7}),
    ("resnet_mnist_bottleneck", "default"): (29, {"conv1": 29, "conv2": 29, "conv3": 15, "conv4": 8}),
}


@pytest.mark.parametrize(("name", "variant"), MAPS, ids=map("-".join, MAPS))
def test_maps_shrink_as_the_papers_say(name: str, variant: str) -> None:
    size, maps = MAPS[name, variant]
    root = resolve(model(name, variant=variant), (3, size, size + 32))
    found = {child.name: child.output[1] for child in root.children if child.name in maps}
    assert found == maps
    assert root.output == (1000,)
