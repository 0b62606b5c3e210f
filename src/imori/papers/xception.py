"""Xception: F. Chollet, "Xception: deep learning with depthwise separable convolutions", 2016.

https://arxiv.org/abs/1610.02357, figure 5. A separable convolution is depthwise first, then 1×1, with nothing between.
Departs: the figure leaves padding and eps open; the default has those of the author's own net for Keras ("same" in the
blocks, none in the stem, eps 1e-3). "keras" also has its slower running statistics. "timm" pads each side alike, with
eps 1e-5. Dropout before the last layer, which the paper has on ImageNet, is left out, as in both.
"""

from imori.tree import BatchNorm, Chain, Conv, Depthwise, GlobalAvgPool, Identity, Linear, MaxPool, Pad, ReLU, Sum, Tree

#        filters of the separable convolutions, stride   of block2 to block13
TABLE = (
    ((128, 128), 2), ((256, 256), 2), ((728, 728), 2),
    *(((728, 728, 728), 1),) * 8,
    ((728, 1024), 2),
)  # fmt: skip
LAST = (1536, 2048)
NORM = {"default": BatchNorm(eps=1e-3), "keras": BatchNorm(eps=1e-3, momentum=0.01), "timm": BatchNorm(eps=1e-5)}
VARIANTS = tuple(NORM)
SAME = ("paper",)


def xception(classes: int = 1000, variant: str = "default") -> Chain:
    """Xception for 299×299 input or any other size."""
    norm = NORM[variant]
    layers: dict[str, Tree] = {"conv1": Conv(32, 3, 2, bias=False), "bn1": norm, "relu1": ReLU()}
    layers |= {"conv2": Conv(64, 3, bias=False), "bn2": norm, "relu2": ReLU()}
    for i, (filters, stride) in enumerate(TABLE, 2):
        layers[f"block{i}"] = block(filters, stride, norm, relu_first=i > 2, pad=1 if variant == "timm" else "same")
    return Chain(**layers, block14=Chain(**separable(LAST, norm, relu_first=False)), relu14=ReLU(), **top(classes))


def top(classes: int) -> dict[str, Tree]:
    """The mean over the map, and the logits."""
    return {"gap": GlobalAvgPool(), "fc": Linear(classes)}


def block(filters: tuple[int, ...], stride: int, norm: BatchNorm, relu_first: bool, pad: Pad) -> Sum:
    """Separable convolutions and, where the map shrinks, a pool; beside them the shortcut."""
    body = separable(filters, norm, relu_first)
    if stride == 1:
        return Sum(body=Chain(**body), shortcut=Identity())
    shortcut = Chain(conv=Conv(filters[-1], 1, stride, bias=False), bn=norm)
    return Sum(body=Chain(**body, pool=MaxPool(3, stride, pad)), shortcut=shortcut)


def separable(filters: tuple[int, ...], norm: BatchNorm, relu_first: bool) -> dict[str, Tree]:
    """3×3 separable convolutions, each with its batch norm and, before all or all but the first, a ReLU."""
    layers: dict[str, Tree] = {}
    for i, out in enumerate(filters, 1):
        layers |= {f"relu{i}": ReLU()} if layers or relu_first else {}
        layers[f"sepconv{i}"] = Chain(depthwise=Depthwise(3, pad=1, bias=False), pointwise=Conv(out, 1, bias=False))
        layers[f"bn{i}"] = norm
    return layers
