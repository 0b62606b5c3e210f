"""DenseNet: G. Huang, Z. Liu, L. van der Maaten, K. Q. Weinberger, "Densely connected convolutional networks", 2016.

https://arxiv.org/abs/1608.06993, table 1 (DenseNet-BC: bottlenecks of 4 times the growth, transitions that halve).
Departs: 264 layers are not published with weights, and 161 layers (growth 48) are the authors' own addition to the
table. "keras" has eps 1.001e-5 and slower running statistics.
"""

from imori.tree import AvgPool, BatchNorm, Chain, Concat, Conv, GlobalAvgPool, Identity, Linear, MaxPool, ReLU, Tree

#        growth, layers in each dense block
TABLE = {
    121: (32, (6, 12, 24, 16)),
    161: (48, (6, 12, 36, 24)),
    169: (32, (6, 12, 32, 32)),
    201: (32, (6, 12, 48, 32)),
    264: (32, (6, 12, 64, 48)),
}
BOTTLENECK, COMPRESSION = 4, 2
NORM = {"default": BatchNorm(), "keras": BatchNorm(1.001e-5, 0.01)}
VARIANTS = tuple(NORM)
SAME = ("paper", "torchvision", "timm")


def densenet(depth: int, classes: int = 1000, variant: str = "default") -> Chain:
    """DenseNet of 121, 161, 169, 201 or 264 layers, for 224×224 input or any other size."""
    norm, (growth, blocks) = NORM[variant], TABLE[depth]
    channels = 2 * growth
    layers: dict[str, Tree] = {"conv1": Conv(channels, 7, 2, 3, bias=False), "bn1": norm, "relu1": ReLU()}
    layers["pool1"] = MaxPool(3, 2, 1)
    for i, count in enumerate(blocks, 1):
        layers[f"dense{i}"] = Chain(*[layer(growth, norm)] * count)
        channels += growth * count
        if i < len(blocks):
            channels //= COMPRESSION
            layers[f"transition{i}"] = transition(channels, norm)
    return Chain(**layers, bn5=norm, relu5=ReLU(), gap=GlobalAvgPool(), fc=Linear(classes))


def layer(growth: int, norm: BatchNorm) -> Concat:
    """Its input, and `growth` new channels after it."""
    body = Chain(
        bn1=norm, relu1=ReLU(), conv1=Conv(BOTTLENECK * growth, 1, bias=False),
        bn2=norm, relu2=ReLU(), conv2=Conv(growth, 3, pad=1, bias=False),
    )  # fmt: skip
    return Concat(shortcut=Identity(), body=body)


def transition(filters: int, norm: BatchNorm) -> Chain:
    """Half the channels, and half the map."""
    return Chain(bn=norm, relu=ReLU(), conv=Conv(filters, 1, bias=False), pool=AvgPool(2))
