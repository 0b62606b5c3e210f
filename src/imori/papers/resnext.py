"""ResNeXt: S. Xie et al., "Aggregated residual transformations for deep neural networks", 2016.

https://arxiv.org/abs/1611.05431, table 1; the block is figure 3(c), whose 3×3 convolution works in groups.
Departs: nothing that changes a number. Its stride is on the 3×3, as in the authors' own net.
"""

from imori.tree import BatchNorm, Chain, Conv, GlobalAvgPool, Identity, Linear, MaxPool, ReLU, Sum, Tree

#        blocks in conv2..conv5
TABLE = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}
VARIANTS = ("default",)
SAME = ("paper", "torchvision", "timm")


def resnext(depth: int, groups: int, per_group: int, classes: int = 1000, variant: str = "default") -> Chain:
    """ResNeXt, with `groups` groups of `per_group` filters in conv2; for 224×224 input or any other size."""
    layers: dict[str, Tree] = {"conv1": Conv(64, 7, 2, 3, bias=False), "bn1": BatchNorm(), "relu1": ReLU()}
    layers["pool1"] = MaxPool(3, 2, 1)
    for i, blocks in enumerate(TABLE[depth]):
        inner, out = groups * per_group * 2**i, 256 * 2**i
        first = block(inner, out, groups, stride=1 if i == 0 else 2, project=True)
        rest = block(inner, out, groups, stride=1, project=False)
        layers[f"conv{i + 2}"] = Chain(first, ReLU(), *(rest, ReLU()) * (blocks - 1))
    return Chain(**layers, pool5=GlobalAvgPool(), fc=Linear(classes))


def block(inner: int, out: int, groups: int, stride: int, project: bool) -> Sum:
    """1×1, 3×3 in groups, 1×1; beside them the shortcut."""
    body = Chain(
        conv1=Conv(inner, 1, bias=False), bn1=BatchNorm(), relu1=ReLU(),
        conv2=Conv(inner, 3, stride, 1, groups, bias=False), bn2=BatchNorm(), relu2=ReLU(),
        conv3=Conv(out, 1, bias=False), bn3=BatchNorm(),
    )  # fmt: skip
    shortcut = Chain(conv=Conv(out, 1, stride, bias=False), bn=BatchNorm()) if project else Identity()
    return Sum(body=body, shortcut=shortcut)
