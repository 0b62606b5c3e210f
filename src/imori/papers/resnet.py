"""ResNet: K. He, X. Zhang, S. Ren, J. Sun, "Deep residual learning for image recognition", 2015.

https://arxiv.org/abs/1512.03385, table 1; shortcuts are projected where the shape changes (option B).
Departs: the default is the form known as v1.5, as torchvision and timm publish it: a bottleneck's stride is on its 3×3
convolution. "paper" has it on the first 1×1, and a bias in the stem of the 50-layer net, as in the authors' own
definition for Caffe. "keras" has it there too, biases in every convolution, eps 1.001e-5 and slower running statistics.
"option_a" is the default with shortcuts that have no weights (section 3.3): where the shape changes they take every
second row and column, and the new channels are zeros.
"""

from imori.tree import (
    BatchNorm,
    Chain,
    Conv,
    GlobalAvgPool,
    Identity,
    Linear,
    MaxPool,
    PadChannels,
    ReLU,
    Subsample,
    Sum,
    Tree,
)

#        expansion, blocks in conv2..conv5
TABLE = {
    18: (1, (2, 2, 2, 2)),
    34: (1, (3, 4, 6, 3)),
    50: (4, (3, 4, 6, 3)),
    101: (4, (3, 4, 23, 3)),
    152: (4, (3, 8, 36, 3)),
}

#            a bottleneck's convolution with the stride, biases, batch norm, whether shortcuts are projected
FORMS = {
    "default": (2, False, BatchNorm(), True),
    "paper": (1, False, BatchNorm(), True),
    "keras": (1, True, BatchNorm(1.001e-5, 0.01), True),
    "option_a": (2, False, BatchNorm(), False),
}
VARIANTS = tuple(FORMS)
SAME = ("torchvision", "timm")


def resnet(depth: int, classes: int = 1000, variant: str = "default") -> Chain:
    """ResNet of 18, 34, 50, 101 or 152 layers, for 224×224 input or any other size."""
    (expansion, blocks), (_, bias, norm, _) = TABLE[depth], FORMS[variant]
    stem = Conv(64, 7, stride=2, pad=3, bias=bias or (variant, depth) == ("paper", 50))
    layers: dict[str, Tree] = {"conv1": stem, "bn1": norm, "relu1": ReLU(), "pool1": MaxPool(3, 2, pad=1)}
    for i, count in enumerate(blocks, 2):
        layers[f"conv{i}"] = stage(64 * 2 ** (i - 2), expansion, count, 1 if i == 2 else 2, variant)
    return Chain(**layers, pool5=GlobalAvgPool(), fc=Linear(classes))


def stage(width: int, expansion: int, blocks: int, stride: int, variant: str) -> Chain:
    """Blocks of one width; the first may shrink the map or widen it, and then its shortcut does too."""
    first = block(width, expansion, stride, variant, changes=stride > 1 or expansion > 1)
    rest = block(width, expansion, 1, variant, changes=False)
    return Chain(first, ReLU(), *(rest, ReLU()) * (blocks - 1))


def block(width: int, expansion: int, stride: int, variant: str, changes: bool) -> Sum:
    """Two 3×3 convolutions, or a bottleneck of 1×1, 3×3, 1×1 where there is an expansion; beside them the shortcut."""
    out, (strided, bias, norm, _) = width * expansion, FORMS[variant]
    #               kernel, filters
    rows = ((3, width), (3, width)) if expansion == 1 else ((1, width), (3, width), (1, out))
    strided = 1 if expansion == 1 else strided
    body: dict[str, Tree] = {}
    for i, (kernel, filters) in enumerate(rows, 1):
        body |= {f"relu{i - 1}": ReLU()} if body else {}
        body[f"conv{i}"] = Conv(filters, kernel, stride if i == strided else 1, kernel // 2, bias=bias)
        body[f"bn{i}"] = norm
    return Sum(body=Chain(**body), shortcut=shortcut(out, stride, variant) if changes else Identity())


def shortcut(out: int, stride: int, variant: str) -> Chain:
    """Where the shape changes: a projection, or without weights every stride-th place and zeros for new channels."""
    _, bias, norm, projected = FORMS[variant]
    if projected:
        return Chain(conv=Conv(out, 1, stride, bias=bias), bn=norm)
    return Chain(subsample=Subsample(stride), pad=PadChannels(out))
