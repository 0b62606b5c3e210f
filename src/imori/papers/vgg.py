"""VGG: K. Simonyan, A. Zisserman, "Very deep convolutional networks for large-scale image recognition", 2014.

https://arxiv.org/abs/1409.1556, table 1, columns D (16 layers) and E (19 layers).
Departs: weights start as He et al. have it (arXiv:1502.01852), where the paper began from a shallower net that was
trained before. With `batch_norm`, each convolution is followed by a batch normalisation (arXiv:1502.03167), which the
paper has not. "torchvision" brings the last map to 7×7 by a mean over cells, so that other input sizes fit; "timm"
slides the dense layers over the map as convolutions, and takes the mean before the last; "keras" has no dropout.
"""

from imori.tree import (
    AdaptiveAvgPool,
    BatchNorm,
    Chain,
    Conv,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool,
    ReLU,
    Tree,
)

# filters of the 3×3 convolutions, and how many there are before each pool
TABLE = {
    16: ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3)),
    19: ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4)),
}
DENSE = (4096, 4096)
VARIANTS = ("default", "torchvision", "timm", "keras")
SAME = ("paper",)


def vgg(depth: int, batch_norm: bool = False, classes: int = 1000, variant: str = "default") -> Chain:
    """VGG of 16 or 19 layers with weights, for 224×224 input."""
    layers: dict[str, Tree] = {}
    for i, (filters, repeats) in enumerate(TABLE[depth], 1):
        for j in range(1, repeats + 1):
            layers[f"conv{i}_{j}"] = Conv(filters, 3, pad=1)
            layers |= {f"bn{i}_{j}": BatchNorm()} if batch_norm else {}
            layers[f"relu{i}_{j}"] = ReLU()
        layers[f"pool{i}"] = MaxPool(2)
    layers |= {"avgpool": AdaptiveAvgPool(7)} if variant == "torchvision" else {}
    layers |= {} if variant == "timm" else {"flatten": Flatten()}
    for i, out in enumerate(DENSE, 6):
        dense = Conv(out, 7 if i == 6 else 1) if variant == "timm" else Linear(out)
        layers |= {f"fc{i}": dense, f"relu{i}": ReLU()}
        layers |= {} if variant == "keras" else {f"drop{i}": Dropout(0.5)}
    layers |= {"gap": GlobalAvgPool()} if variant == "timm" else {}
    return Chain(**layers, fc8=Linear(classes))
