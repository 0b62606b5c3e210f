"""ResNet: K. He, X. Zhang, S. Ren, J. Sun, "Deep residual learning for image recognition", 2015.

https://arxiv.org/abs/1512.03385, table 1; shortcuts are projected where the shape changes (option B).
Departs: the default is the form known as v1.5, as torchvision and timm publish it: a bottleneck's stride is on its 3×3
convolution. "paper" has it on the first 1×1, and a bias in the stem of the 50-layer net, as in the authors' own
definition for Caffe. Every convolution is followed by a batch norm, and so has no bias.
"""

from imori.tree import BatchNorm, Chain, Conv, GlobalAvgPool, Identity, Linear, MaxPool, ReLU, Sum, Tree

#        expansion, blocks in conv2..conv5
TABLE = {
    18: (1, (2, 2, 2, 2)),
    34: (1, (3, 4, 6, 3)),
    50: (4, (3, 4, 6, 3)),
    101: (4, (3, 4, 23, 3)),
    152: (4, (3, 8, 36, 3)),
}
VARIANTS = ("default", "paper")
SAME = ("torchvision", "timm")


def resnet(depth: int, classes: int = 1000, variant: str = "default") -> Chain:
    """ResNet of 18, 34, 50, 101 or 152 layers, for 224×224 input or any other size."""
    expansion, blocks = TABLE[depth]
    stem = Conv(64, 7, stride=2, pad=3, bias=variant == "paper" and depth == 50)
    layers: dict[str, Tree] = {"conv1": stem, "bn1": BatchNorm(), "relu1": ReLU(), "pool1": MaxPool(3, 2, pad=1)}
    for i, count in enumerate(blocks, 2):
        layers[f"conv{i}"] = stage(64 * 2 ** (i - 2), expansion, count, 1 if i == 2 else 2, variant)
    return Chain(**layers, pool5=GlobalAvgPool(), fc=Linear(classes))


def stage(width: int, expansion: int, blocks: int, stride: int, variant: str) -> Chain:
    """Blocks of one width; the first may shrink the map, and projects its shortcut where the shape changes."""
    first = block(width, expansion, stride, project=stride > 1 or expansion > 1, variant=variant)
    rest = block(width, expansion, 1, project=False, variant=variant)
    return Chain(first, ReLU(), *(rest, ReLU()) * (blocks - 1))


def block(width: int, expansion: int, stride: int, project: bool, variant: str) -> Sum:
    """Two 3×3 convolutions, or a bottleneck of 1×1, 3×3, 1×1 where there is an expansion; beside them the shortcut."""
    out = width * expansion
    shortcut = Chain(conv=Conv(out, 1, stride, bias=False), bn=BatchNorm()) if project else Identity()
    rows: tuple[tuple[int, int, int], ...]  # kernel, filters, stride
    if expansion == 1:
        rows = ((3, width, stride), (3, width, 1))
    elif variant == "paper":
        rows = ((1, width, stride), (3, width, 1), (1, out, 1))
    else:
        rows = ((1, width, 1), (3, width, stride), (1, out, 1))
    body: dict[str, Tree] = {}
    for i, (kernel, filters, step) in enumerate(rows, 1):
        body |= {f"relu{i - 1}": ReLU()} if body else {}
        body |= {f"conv{i}": Conv(filters, kernel, step, kernel // 2, bias=False), f"bn{i}": BatchNorm()}
    return Sum(body=Chain(**body), shortcut=shortcut)
