"""Network in network: M. Lin, Q. Chen, S. Yan, "Network in network", 2013.

https://arxiv.org/abs/1312.4400, figure 2: each convolution is followed by a small net of 1×1 convolutions, and the
last one's maps, one a class, are averaged to the logits.
Departs: the default is the net for CIFAR in the filters that its authors published, without a ReLU before the mean.
"imagenet" is their larger one, with pools that round up and a ReLU before the mean. Weights start as He et al. have
it (arXiv:1502.01852).
"""

from imori.tree import Chain, Conv, Dropout, GlobalAvgPool, MaxPool, ReLU, Tree

#       kernel stride pad, filters of it and of the 1×1 that follow; the last are the classes
TABLE: dict[str, tuple[tuple[int, int, int, tuple[int, ...]], ...]] = {
    "default": ((5, 1, 2, (192, 160, 96)), (5, 1, 2, (192, 192, 192)), (3, 1, 1, (192, 192))),
    "imagenet": (
        (11, 4, 0, (96, 96, 96)), (5, 1, 2, (256, 256, 256)), (3, 1, 1, (384, 384, 384)), (3, 1, 1, (1024, 1024)),
    ),
}  # fmt: skip
DROPPED = {"default": (1, 2), "imagenet": (3,)}
VARIANTS = tuple(TABLE)
SAME = ("paper",)


def nin(classes: int = 1000, variant: str = "default") -> Chain:
    """Network in network, for 128×128 input or any other size (224×224 for the variant "imagenet")."""
    table, large = TABLE[variant], variant == "imagenet"
    layers: dict[str, Tree] = {}
    for i, (kernel, stride, pad, filters) in enumerate(table, 1):
        last = i == len(table)
        for j, out in enumerate((*filters, classes) if last else filters, 1):
            layers[f"conv{i}_{j}"] = Conv(out, kernel, stride, pad) if j == 1 else Conv(out, 1)
            layers[f"relu{i}_{j}"] = ReLU()
        if not last:
            layers[f"pool{i}"] = MaxPool(3, 2, ceil=large)
        if i in DROPPED[variant]:
            layers[f"drop{i}"] = Dropout(0.5)
    if not large:
        layers.popitem()
    return Chain(**layers, gap=GlobalAvgPool())
