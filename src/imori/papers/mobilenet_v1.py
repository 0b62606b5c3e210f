"""MobileNet-v1: A. G. Howard et al.,
"MobileNets: efficient convolutional neural networks for mobile vision applications", 2017.

https://arxiv.org/abs/1704.04861, table 1; `width` is the paper's width multiplier α.
Departs: the table's last stride of 2 is 1, for its map stays 7×7. "timm" and "keras" cut the ReLUs at 6; "keras" pads
at stride 2 below and right alone, has eps 1e-3 and slower running statistics, dropout, and a 1×1 convolution as head;
"timm" rounds filters to eights, which shows at some widths.
"""

from imori.tree import (
    AdaptiveAvgPool,
    BatchNorm,
    Chain,
    Conv,
    Depthwise,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Linear,
    Pad,
    ReLU,
    Tree,
)

STEM = 32
#        filters, stride   of block1 to block13
TABLE = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
#            batch norm, ReLU, the stem's and the blocks' padding at stride 2
FORMS: dict[str, tuple[BatchNorm, ReLU, Pad, Pad]] = {
    "default": (BatchNorm(), ReLU(), 1, 1),
    "keras": (BatchNorm(1e-3, 0.01), ReLU(6), "same", (0, 1, 0, 1)),
    "timm": (BatchNorm(), ReLU(6), 1, 1),
}
VARIANTS = tuple(FORMS)
SAME = ("paper",)


def mobilenet_v1(classes: int = 1000, variant: str = "default", width: float = 1.0) -> Chain:
    """MobileNet-v1 for 224×224 input or any other size."""
    norm, relu, stem, strided = FORMS[variant]
    whole = eights if variant == "timm" else int
    layers: dict[str, Tree] = {"conv1": Conv(whole(STEM * width), 3, 2, stem, bias=False), "bn1": norm, "relu1": relu}
    for i, (filters, stride) in enumerate(TABLE, 1):
        layers[f"block{i}"] = Chain(
            depthwise=Depthwise(3, stride, 1 if stride == 1 else strided, bias=False), bn1=norm, relu1=relu,
            pointwise=Conv(whole(filters * width), 1, bias=False), bn2=norm, relu2=relu,
        )  # fmt: skip
    if variant == "keras":
        return Chain(**layers, gap=AdaptiveAvgPool(1), drop=Dropout(1e-3), fc=Conv(classes, 1), flatten=Flatten())
    return Chain(**layers, gap=GlobalAvgPool(), fc=Linear(classes))


def eights(filters: float) -> int:
    """The nearest multiple of 8, from 8, that is not below nine tenths of `filters`."""
    rounded = max(8, int(filters + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * filters else rounded + 8
