"""MobileNet-v2: M. Sandler et al., "MobileNetV2: inverted residuals and linear bottlenecks", 2018.

https://arxiv.org/abs/1801.04381, table 2; `width` is the width multiplier, with filters rounded to eights.
Departs: the shortcut is only where the stride is 1 and the channels match, and dropout precedes the last layer, as in
the published nets. "keras" pads at stride 2 as TensorFlow does ("same"), has eps 1e-3 and slower running statistics,
and no dropout.
"""

from imori.tree import (
    BatchNorm,
    Chain,
    Conv,
    Depthwise,
    Dropout,
    GlobalAvgPool,
    Identity,
    Linear,
    Pad,
    ReLU,
    Sum,
    Tree,
)

#         t   c  n  s
TABLE = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2),
         (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))  # fmt: skip
STEM, LAST = 32, 1280
#          batch norm, padding of every 3×3
FORMS: dict[str, tuple[BatchNorm, Pad]] = {"default": (BatchNorm(), 1), "keras": (BatchNorm(1e-3, 0.001), "same")}
VARIANTS = tuple(FORMS)
SAME = ("paper", "torchvision", "timm")


def mobilenet_v2(classes: int = 1000, variant: str = "default", width: float = 1.0) -> Chain:
    """MobileNet-v2 for 224×224 input or any other size."""
    norm, pad = FORMS[variant]
    channels = eights(STEM * width)
    layers: dict[str, Tree] = {"conv1": Conv(channels, 3, 2, pad, bias=False), "bn1": norm, "relu1": ReLU(6)}
    rows = [(t, eights(c * width), s if i == 0 else 1) for t, c, n, s in TABLE for i in range(n)]
    for i, (expansion, filters, stride) in enumerate(rows, 1):
        body = inverted(channels, expansion, filters, stride, variant)
        skips = stride == 1 and channels == filters
        layers[f"block{i}"] = Sum(body=body, shortcut=Identity()) if skips else body
        channels = filters
    layers |= {"conv18": Conv(eights(LAST * max(width, 1.0)), 1, bias=False), "bn18": norm, "relu18": ReLU(6)}
    layers |= {"gap": GlobalAvgPool()} | ({} if variant == "keras" else {"drop": Dropout(0.2)})
    return Chain(**layers, fc=Linear(classes))


def inverted(channels: int, expansion: int, filters: int, stride: int, variant: str) -> Chain:
    """1×1 to `expansion` times the channels, depthwise 3×3, and a linear 1×1 down to the filters."""
    norm, pad = FORMS[variant]
    wide: dict[str, Tree] = {"expand": Conv(channels * expansion, 1, bias=False), "bn1": norm, "relu1": ReLU(6)}
    return Chain(
        **(wide if expansion > 1 else {}),
        depthwise=Depthwise(3, stride, pad, bias=False), bn2=norm, relu2=ReLU(6),
        project=Conv(filters, 1, bias=False), bn3=norm,
    )  # fmt: skip


def eights(filters: float) -> int:
    """The nearest multiple of 8, from 8, that is not below nine tenths of `filters`."""
    rounded = max(8, int(filters + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * filters else rounded + 8
