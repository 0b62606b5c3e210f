"""ResNets for MNIST-size images: K. He, X. Zhang, S. Ren, J. Sun, "Deep residual learning for image recognition", 2015.

https://arxiv.org/abs/1512.03385, section 4.2 (the nets for CIFAR-10: a 3×3 stem, three stages, widths 16, 32, 64).
Departs: three blocks a stage; every shortcut that changes its channels is projected (a 1×1 convolution and a batch
norm; "option_a" pads with zeros, as the paper's small nets do); the bottlenecks, with an expansion of 4 and their
stride on the 3×3, are the paper's for ImageNet.
"""

from imori.tree import (
    BatchNorm,
    Chain,
    Conv,
    GlobalAvgPool,
    Identity,
    Linear,
    PadChannels,
    ReLU,
    Subsample,
    Sum,
    Tree,
)

BLOCKS = 3
#         stage widths, by kind of block
TABLE = {"plain": (16, 32, 64), "bottleneck": (64, 128, 256)}
STEM, EXPANSION = 16, 4
VARIANTS = ("default", "option_a")
SAME: tuple[str, ...] = ()


def resnet_mnist(kind: str, classes: int = 1000, variant: str = "default") -> Chain:
    """Three stages of three "plain" or "bottleneck" blocks, for 28×28 input or any other size."""
    layers: dict[str, Tree] = {"conv1": Conv(STEM, 3, pad=1, bias=False), "bn1": BatchNorm(), "relu1": ReLU()}
    channels = STEM
    for i, width in enumerate(TABLE[kind], 2):
        stride = 1 if i == 2 else 2
        first = block(kind, width, stride, shortcut(width, stride, variant) if width != channels else Identity())
        rest = block(kind, width, 1, Identity())
        layers[f"conv{i}"] = Chain(first, ReLU(), *(rest, ReLU()) * (BLOCKS - 1))
        channels = width
    return Chain(**layers, pool4=GlobalAvgPool(), fc=Linear(classes))


def shortcut(width: int, stride: int, variant: str) -> Chain:
    """Where the channels change: a projection, or without weights every stride-th place and zeros."""
    if variant == "option_a":
        return Chain(subsample=Subsample(stride), pad=PadChannels(width))
    return Chain(conv=Conv(width, 1, stride, bias=False), bn=BatchNorm())


def block(kind: str, width: int, stride: int, shortcut: Tree) -> Sum:
    """Two 3×3 convolutions, or 1×1, 3×3 and 1×1 with a quarter of the width inside; beside them the shortcut."""
    inner = width // EXPANSION
    rows = (
        ((3, width, stride), (3, width, 1)) if kind == "plain" else ((1, inner, 1), (3, inner, stride), (1, width, 1))
    )
    body: dict[str, Tree] = {}
    for i, (kernel, filters, step) in enumerate(rows, 1):
        body |= {f"relu{i - 1}": ReLU()} if body else {}
        body |= {f"conv{i}": Conv(filters, kernel, step, kernel // 2, bias=False), f"bn{i}": BatchNorm()}
    return Sum(body=Chain(**body), shortcut=shortcut)
