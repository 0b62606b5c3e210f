"""GoogLeNet: C. Szegedy et al., "Going deeper with convolutions", 2014.

https://arxiv.org/abs/1409.4842, table 1; the auxiliary classifiers as section 5 describes them, each with weight 0.3.
Departs: the local response normalisation has the values of the authors' net for Caffe, and weights start as He et al.
have it (arXiv:1502.01852). "batch_norm" puts a batch norm (arXiv:1502.03167) after each convolution, without biases
and without local normalisation. "torchvision" is that net as published there: its 5×5 convolutions are 3×3, its last
pool is 2×2, eps is 1e-3, dropout 0.2, and its heads average over a 4×4 grid.
"""

from imori.tree import (
    LRN,
    AdaptiveAvgPool,
    Aux,
    AvgPool,
    BatchNorm,
    Chain,
    Concat,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool,
    ReLU,
    Tree,
)

#          #1×1, #3×3 reduce, #3×3, #5×5 reduce, #5×5, pool proj
TABLE = {
    "3a": (64, 96, 128, 16, 32, 32), "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64), "4b": (160, 112, 224, 24, 64, 64), "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64), "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128), "5b": (384, 192, 384, 48, 128, 128),
}  # fmt: skip
POOLED, HEADS = {"3b": 3, "4e": 4}, {"4a": 1, "4d": 2}
NORM = {"default": None, "batch_norm": BatchNorm(), "torchvision": BatchNorm(eps=1e-3)}
VARIANTS = tuple(NORM)
SAME = ("paper",)


def googlenet(classes: int = 1000, variant: str = "default") -> Chain:
    """GoogLeNet for 224×224 input, or without its heads (`tree.without_heads`) for any size."""
    plain, published = variant == "default", variant == "torchvision"
    layers = convolved("conv1", Conv(64, 7, 2, 3), variant) | {"pool1": MaxPool(3, 2, ceil=True)}
    layers |= {"lrn1": LRN(5, 2e-5, 0.75, 1.0)} if plain else {}
    layers |= convolved("conv2_reduce", Conv(64, 1), variant) | convolved("conv2", Conv(192, 3, 1, 1), variant)
    layers |= {"lrn2": LRN(5, 2e-5, 0.75, 1.0)} if plain else {}
    layers["pool2"] = MaxPool(3, 2, ceil=True)
    for name, row in TABLE.items():
        layers[f"inception{name}"] = inception(*row, variant)
        if name in HEADS:
            layers[f"aux{HEADS[name]}"] = Aux(head(classes, variant), weight=0.3)
        if name in POOLED:
            layers[f"pool{POOLED[name]}"] = MaxPool(2 if published and name == "4e" else 3, 2, ceil=True)
    return Chain(**layers, gap=GlobalAvgPool(), drop=Dropout(0.2 if published else 0.4), fc=Linear(classes))


def convolved(name: str, conv: Conv, variant: str) -> dict[str, Tree]:
    """A convolution and its ReLU, or without a bias and with a batch norm between them."""
    norm = NORM[variant]
    if norm is None:
        return {name: conv, f"{name}_relu": ReLU()}
    bare = Conv(conv.out, conv.kernel, conv.stride, conv.pad, bias=False)
    return {name: bare, f"{name}_bn": norm, f"{name}_relu": ReLU()}


def inception(one: int, reduce3: int, three: int, reduce5: int, five: int, proj: int, variant: str) -> Concat:
    """Four branches over the same map."""
    large = Conv(five, 3, 1, 1) if variant == "torchvision" else Conv(five, 5, 1, 2)
    return Concat(
        one=Chain(**convolved("conv", Conv(one, 1), variant)),
        three=Chain(
            **convolved("reduce", Conv(reduce3, 1), variant), **convolved("conv", Conv(three, 3, 1, 1), variant)
        ),
        five=Chain(**convolved("reduce", Conv(reduce5, 1), variant), **convolved("conv", large, variant)),
        pool=Chain(pool=MaxPool(3, 1, 1), **convolved("proj", Conv(proj, 1), variant)),
    )


def head(classes: int, variant: str) -> Chain:
    """An auxiliary classifier."""
    pool = AdaptiveAvgPool(4) if variant == "torchvision" else AvgPool(5, 3)
    conv = convolved("conv", Conv(128, 1), variant)
    return Chain(
        pool=pool, **conv, flatten=Flatten(), fc1=Linear(1024), relu=ReLU(), drop=Dropout(0.7), fc2=Linear(classes)
    )
