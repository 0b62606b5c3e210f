"""The papers that are written in blocks: their tables as data, stage by stage, and every block layer by layer."""

import pytest

from imori.catalogue import model, size_of, variants
from imori.shapes import Node, Shape, flat, resolve, summary
from imori.tree import (
    LRN,
    AdaptiveAvgPool,
    Aux,
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
    ReLU,
    Sum,
    Tree,
)


def built(name: str, variant: str = "default", size: int | None = None, classes: int = 1000) -> Node:
    size = size or size_of(name)
    return resolve(model(name, classes, variant=variant), (3, size, size))


def outputs(root: Node) -> dict[str, Shape]:
    return {node.name: node.output for node in root.children}


def chain(node: Tree) -> list[Tree]:
    """The layers of a chain, without their names."""
    assert isinstance(node, Chain)
    return [child for _, child in node.children]


# --- GoogLeNet -------------------------------------------------------------------------------------------------------

# Szegedy et al. 2014, table 1: size, #1×1, #3×3 reduce, #3×3, #5×5 reduce, #5×5, pool proj, depth.
INCEPTIONS = {
    "3a": (28, 64, 96, 128, 16, 32, 32, 256),
    "3b": (28, 128, 128, 192, 32, 96, 64, 480),
    "4a": (14, 192, 96, 208, 16, 48, 64, 512),
    "4b": (14, 160, 112, 224, 24, 64, 64, 512),
    "4c": (14, 128, 128, 256, 24, 64, 64, 512),
    "4d": (14, 112, 144, 288, 32, 64, 64, 528),
    "4e": (14, 256, 160, 320, 32, 128, 128, 832),
    "5a": (7, 256, 160, 320, 32, 128, 128, 832),
    "5b": (7, 384, 192, 384, 48, 128, 128, 1024),
}
NORMS = {"default": None, "batch_norm": BatchNorm(eps=1e-5), "torchvision": BatchNorm(eps=1e-3)}


def unit(variant: str, filters: int, kernel: int, stride: int = 1, pad: int = 0) -> list[Tree]:
    """A convolution and its ReLU, perhaps with a batch norm between them."""
    norm = NORMS[variant]
    if norm is None:
        return [Conv(filters, kernel, stride, pad), ReLU()]
    return [Conv(filters, kernel, stride, pad, bias=False), norm, ReLU()]


@pytest.mark.parametrize("variant", NORMS)
def test_googlenet_is_its_table(variant: str) -> None:
    root = built("googlenet", variant, classes=7)
    layers = chain(root.layer)
    maps = outputs(root)
    norm = [LRN(size=5, alpha=2e-5, beta=0.75, k=1.0)] if variant == "default" else []
    stem = [
        *unit(variant, 64, 7, 2, 3), MaxPool(3, 2, ceil=True), *norm,
        *unit(variant, 64, 1), *unit(variant, 192, 3, 1, 1), *norm, MaxPool(3, 2, ceil=True),
    ]  # fmt: skip
    assert layers[: len(stem)] == stem
    assert [maps[name][1] for name in ("conv1", "pool1", "conv2", "pool2")] == [112, 56, 56, 28]
    rest = iter(layers[len(stem) :])
    wide = 3 if variant == "torchvision" else 5
    for name, (size, one, reduce3, three, reduce5, five, proj, depth) in INCEPTIONS.items():
        block = next(rest)
        assert isinstance(block, Concat)
        assert [chain(branch) for _, branch in block.children] == [
            unit(variant, one, 1),
            unit(variant, reduce3, 1) + unit(variant, three, 3, 1, 1),
            unit(variant, reduce5, 1) + unit(variant, five, wide, 1, wide // 2),
            [MaxPool(3, 1, 1), *unit(variant, proj, 1)],
        ]
        assert maps[f"inception{name}"] == (depth, size, size)
        if name in ("4a", "4d"):
            pool = AdaptiveAvgPool(4) if variant == "torchvision" else AvgPool(5, 3)
            dense = [Linear(1024), ReLU(), Dropout(0.7), Linear(7)]
            aux = next(rest)
            assert isinstance(aux, Aux)
            assert chain(aux.head) == [pool, *unit(variant, 128, 1), Flatten(), *dense]
            assert aux.weight == 0.3
        if name in ("3b", "4e"):
            small = variant == "torchvision" and name == "4e"
            assert next(rest) == MaxPool(2 if small else 3, 2, ceil=True)
    assert list(rest) == [GlobalAvgPool(), Dropout(0.2 if variant == "torchvision" else 0.4), Linear(7)]


def test_googlenets_heads_average_to_the_papers_size() -> None:
    """Section 5: 5×5 averages at stride 3 give 4×4×512 at (4a) and 4×4×528 at (4d)."""
    pools = {node.path: node.output for node in flat(built("googlenet")) if node.name == "pool" and node.training_only}
    assert pools == {"aux1.pool": (512, 4, 4), "aux2.pool": (528, 4, 4)}


# --- ResNeXt ---------------------------------------------------------------------------------------------------------

# Xie et al. 2016, table 1 and section 5: groups, the width of all of them in conv2, blocks.
RESNEXTS = {
    "resnext50_32x4d": (32, 128, (3, 4, 6, 3)),
    "resnext101_32x4d": (32, 128, (3, 4, 23, 3)),
    "resnext101_32x8d": (32, 256, (3, 4, 23, 3)),
    "resnext101_64x4d": (64, 256, (3, 4, 23, 3)),
}


@pytest.mark.parametrize("name", RESNEXTS)
def test_resnext_is_its_table(name: str) -> None:
    groups, width, counts = RESNEXTS[name]
    root = built(name)
    layers = chain(root.layer)
    assert layers[:4] == [Conv(64, 7, 2, 3, bias=False), BatchNorm(), ReLU(), MaxPool(3, 2, 1)]
    assert layers[8:] == [GlobalAvgPool(), Linear(1000)]
    assert [outputs(root)[f"conv{i}"] for i in range(1, 6)] == [
        (64, 112, 112), (256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7),
    ]  # fmt: skip
    for i, (stage, count) in enumerate(zip(layers[4:8], counts, strict=True)):
        blocks = chain(stage)
        assert blocks[1::2] == [ReLU()] * count
        inner, out = width * 2**i, 256 * 2**i
        for j, block in enumerate(blocks[::2]):
            stride = 2 if i > 0 and j == 0 else 1
            body = [
                Conv(inner, 1, bias=False), BatchNorm(), ReLU(),
                Conv(inner, 3, stride, 1, groups, bias=False), BatchNorm(), ReLU(),
                Conv(out, 1, bias=False), BatchNorm(),
            ]  # fmt: skip
            assert isinstance(block, Sum)
            (_, branch), (_, shortcut) = block.children
            assert chain(branch) == body
            assert shortcut == Identity() if j else chain(shortcut) == [Conv(out, 1, stride, bias=False), BatchNorm()]


# --- Xception --------------------------------------------------------------------------------------------------------

# Chollet 2016, figure 5: the separable convolutions' filters of every block with a shortcut, and whether it pools.
XCEPTION = [
    ([128, 128], True), ([256, 256], True), ([728, 728], True),
    *[([728, 728, 728], False)] * 8,
    ([728, 1024], True),
]  # fmt: skip


def separable(filters: int, norm: BatchNorm) -> list[Tree]:
    return [Chain(depthwise=Depthwise(3, 1, 1, bias=False), pointwise=Conv(filters, 1, bias=False)), norm]


@pytest.mark.parametrize("variant", ["default", "keras", "timm"])
def test_xception_is_its_figure(variant: str) -> None:
    norm = BatchNorm(1e-5 if variant == "timm" else 1e-3, 0.01 if variant == "keras" else 0.1)
    layers = chain(model("xception", variant=variant))
    assert layers[:6] == [Conv(32, 3, 2, bias=False), norm, ReLU(), Conv(64, 3, bias=False), norm, ReLU()]
    for i, (block, (filters, pools)) in enumerate(zip(layers[6:18], XCEPTION, strict=True)):
        assert isinstance(block, Sum)
        (_, body), (_, shortcut) = block.children
        expected: list[Tree] = [part for out in filters for part in (ReLU(), *separable(out, norm))]
        pool = [MaxPool(3, 2, 1 if variant == "timm" else "same")] if pools else []
        assert chain(body) == expected[0 if i else 1 :] + pool
        assert chain(shortcut) == [Conv(filters[-1], 1, 2, bias=False), norm] if pools else shortcut == Identity()
    assert chain(layers[18]) == [*separable(1536, norm), ReLU(), *separable(2048, norm)]
    assert layers[19:] == [ReLU(), GlobalAvgPool(), Linear(1000)]


def test_xceptions_maps_are_the_figures() -> None:
    """Figure 5: 19×19×728 in the middle flow, from images of 299×299."""
    maps = outputs(built("xception"))
    assert [maps[f"block{i}"] for i in (4, 5, 12, 13)] == [(728, 19, 19)] * 3 + [(1024, 10, 10)]
    assert maps["block14"] == (2048, 10, 10)


# --- DenseNet --------------------------------------------------------------------------------------------------------

# Huang et al. 2016, table 1, and their own 161: growth, layers in each block, channels behind each block.
DENSENETS = {
    121: (32, (6, 12, 24, 16), (256, 512, 1024, 1024)),
    161: (48, (6, 12, 36, 24), (384, 768, 2112, 2208)),
    169: (32, (6, 12, 32, 32), (256, 512, 1280, 1664)),
    201: (32, (6, 12, 48, 32), (256, 512, 1792, 1920)),
    264: (32, (6, 12, 64, 48), (256, 512, 2304, 2688)),
}


@pytest.mark.parametrize("variant", ["default", "keras"])
@pytest.mark.parametrize("depth", DENSENETS)
def test_densenet_is_its_table(depth: int, variant: str) -> None:
    if variant == "keras" and depth in (161, 264):
        variant = "default"
    growth, counts, channels = DENSENETS[depth]
    norm = BatchNorm(1.001e-5, 0.01) if variant == "keras" else BatchNorm()
    root = built(f"densenet{depth}", variant)
    layers = chain(root.layer)
    assert layers[:4] == [Conv(2 * growth, 7, 2, 3, bias=False), norm, ReLU(), MaxPool(3, 2, 1)]
    assert layers[11:] == [norm, ReLU(), GlobalAvgPool(), Linear(1000)]
    layer = Concat(
        shortcut=Identity(),
        body=Chain(
            bn1=norm, relu1=ReLU(), conv1=Conv(4 * growth, 1, bias=False),
            bn2=norm, relu2=ReLU(), conv2=Conv(growth, 3, 1, 1, bias=False),
        ),
    )  # fmt: skip
    maps = outputs(root)
    for i, (count, out, size) in enumerate(zip(counts, channels, (56, 28, 14, 7), strict=True)):
        assert chain(layers[4 + 2 * i]) == [layer] * count
        assert maps[f"dense{i + 1}"] == (out, size, size)
        if i < 3:
            assert chain(layers[5 + 2 * i]) == [norm, ReLU(), Conv(out // 2, 1, bias=False), AvgPool(2)]


def test_densenets_layers_are_as_many_as_their_names_count() -> None:
    layers = {depth: 2 * sum(counts) + len(counts) - 1 + 2 for depth, (_, counts, _) in DENSENETS.items()}
    assert layers == {121: 121, 161: 161, 169: 169, 201: 201, 264: 265}, "the paper's table calls 265 layers 264"


# --- MobileNet -------------------------------------------------------------------------------------------------------

# Howard et al. 2017, table 1: stride of the depthwise convolution, filters of the 1×1 that follows, output size.
MOBILENET_V1 = [
    (1, 64, 112), (2, 128, 56), (1, 128, 56), (2, 256, 28), (1, 256, 28), (2, 512, 14),
    (1, 512, 14), (1, 512, 14), (1, 512, 14), (1, 512, 14), (1, 512, 14), (2, 1024, 7), (1, 1024, 7),
]  # fmt: skip


@pytest.mark.parametrize("variant", ["default", "keras", "timm"])
def test_mobilenet_v1_is_its_table(variant: str) -> None:
    keras = variant == "keras"
    norm = BatchNorm(1e-3, 0.01) if keras else BatchNorm()
    relu = ReLU() if variant == "default" else ReLU(6)
    root = built("mobilenet_v1", variant)
    layers = chain(root.layer)
    assert layers[:3] == [Conv(32, 3, 2, "same" if keras else 1, bias=False), norm, relu]
    for i, (stride, filters, size) in enumerate(MOBILENET_V1):
        pad = (0, 1, 0, 1) if keras and stride == 2 else 1
        depthwise = [Depthwise(3, stride, pad, bias=False), norm, relu]
        assert chain(layers[3 + i]) == [*depthwise, Conv(filters, 1, bias=False), norm, relu]
        assert outputs(root)[f"block{i + 1}"] == (filters, size, size)
    plain = [GlobalAvgPool(), Linear(1000)]
    assert layers[16:] == ([AdaptiveAvgPool(1), Dropout(1e-3), Conv(1000, 1), Flatten()] if keras else plain)


# Sandler et al. 2018, table 2: (input, its channels, t, c, n, s), each row's input being the last one's output.
MOBILENET_V2 = [
    (112, 32, 1, 16, 1, 1), (112, 16, 6, 24, 2, 2), (56, 24, 6, 32, 3, 2), (28, 32, 6, 64, 4, 2),
    (14, 64, 6, 96, 3, 1), (14, 96, 6, 160, 3, 2), (7, 160, 6, 320, 1, 1),
]  # fmt: skip


@pytest.mark.parametrize("variant", ["default", "keras"])
def test_mobilenet_v2_is_its_table(variant: str) -> None:
    keras = variant == "keras"
    norm, pad = (BatchNorm(1e-3, 0.001), "same") if keras else (BatchNorm(), 1)
    root = built("mobilenet_v2", variant)
    assert chain(root.layer)[:3] == [Conv(32, 3, 2, pad, bias=False), norm, ReLU(6)]
    blocks = iter(root.children[3:20])
    for size, channels, expansion, filters, repeats, first in MOBILENET_V2:
        for i in range(repeats):
            block = next(blocks)
            inside = channels if i == 0 else filters
            stride = first if i == 0 else 1
            assert block.input[0] == inside
            assert block.input[1] == (size if i == 0 else -(-size // first))
            body: list[Tree] = [Conv(inside * expansion, 1, bias=False), norm, ReLU(6)] if expansion > 1 else []
            body += [Depthwise(3, stride, pad, bias=False), norm, ReLU(6), Conv(filters, 1, bias=False), norm]
            if stride == 1 and inside == filters:
                assert isinstance(block.layer, Sum)
                (_, branch), (_, shortcut) = block.layer.children
                assert shortcut == Identity()
                assert chain(branch) == body
            else:
                assert chain(block.layer) == body
    drop = [] if keras else [Dropout(0.2)]
    last = [Conv(1280, 1, bias=False), norm, ReLU(6), GlobalAvgPool(), *drop, Linear(1000)]
    assert chain(root.layer)[20:] == last
    assert outputs(root)["block17"] == (320, 7, 7)


# Trainable parameters of keras.applications' own nets (Keras 3.15.1) at their alpha.
WIDTHS = {
    ("mobilenet_v1", 0.25): 470_072,
    ("mobilenet_v1", 0.5): 1_331_592,
    ("mobilenet_v1", 0.75): 2_585_560,
    ("mobilenet_v2", 0.35): 1_677_128,
    ("mobilenet_v2", 0.5): 1_968_680,
    ("mobilenet_v2", 0.75): 2_636_424,
    ("mobilenet_v2", 1.3): 5_386_792,
    ("mobilenet_v2", 1.4): 6_108_776,
}


@pytest.mark.parametrize(("name", "width"), WIDTHS, ids=[f"{name}-{width}" for name, width in WIDTHS])
def test_a_width_multiplies_the_filters(name: str, width: float) -> None:
    for variant in variants(name):  # at these widths timm's eights are the paper's whole numbers
        assert summary(model(name, variant=variant, width=width), (3, 224, 224)).parameters == WIDTHS[name, width]
