"""AlexNet: A. Krizhevsky, I. Sutskever, G. Hinton,
"ImageNet classification with deep convolutional neural networks", 2012.

https://papers.nips.cc/paper/4824-imagenet-classification-with-deep-convolutional-neural-networks, section 3.5.
Departs: the default pads the second convolution by 1, not 2, so that the last map is 5×5, and splits no convolution
into two groups. "paper" pads by 2 and has the groups that the paper's two GPUs made; its weights start at the paper's
deviation of 0.01, its biases at 0 (the paper starts some at 1), and dropout scales while training, not in the test.
"ungrouped" is the same on one GPU.
"torchvision" is the published "one weird trick" (arXiv:1404.5997): fewer filters, no normalisation, dropout before
the dense layers, and a 6×6 mean over the last map, so that other input sizes fit.
"""

from imori.tree import LRN, AdaptiveAvgPool, Chain, Conv, Dropout, Flatten, Init, Linear, MaxPool, ReLU, Tree

#                kernel filters stride pad groups   of conv1 to conv5
TABLE = {
    "default": ((11, 96, 4, 0, 1), (5, 256, 1, 1, 1), (3, 384, 1, 1, 1), (3, 384, 1, 1, 1), (3, 256, 1, 1, 1)),
    "paper": ((11, 96, 4, 0, 1), (5, 256, 1, 2, 2), (3, 384, 1, 1, 1), (3, 384, 1, 1, 2), (3, 256, 1, 1, 2)),
    "ungrouped": ((11, 96, 4, 0, 1), (5, 256, 1, 2, 1), (3, 384, 1, 1, 1), (3, 384, 1, 1, 1), (3, 256, 1, 1, 1)),
    "torchvision": ((11, 64, 4, 2, 1), (5, 192, 1, 2, 1), (3, 384, 1, 1, 1), (3, 256, 1, 1, 1), (3, 256, 1, 1, 1)),
}
NORMALISED, POOLED, DENSE = (1, 2), (1, 2, 5), (4096, 4096)
VARIANTS = tuple(TABLE)
SAME: tuple[str, ...] = ()


def alexnet(classes: int = 1000, variant: str = "default") -> Chain:
    """AlexNet for 227×227 input (224×224 for the variant "torchvision")."""
    published = variant == "torchvision"
    init: Init = 0.01 if variant in ("paper", "ungrouped") else "he"
    layers: dict[str, Tree] = {}
    for i, (kernel, filters, stride, pad, groups) in enumerate(TABLE[variant], 1):
        layers |= {f"conv{i}": Conv(filters, kernel, stride, pad, groups, init=init), f"relu{i}": ReLU()}
        if i in NORMALISED and not published:
            layers[f"lrn{i}"] = LRN(size=5, alpha=1e-4, beta=0.75, k=2.0)
        if i in POOLED:
            layers[f"pool{i}"] = MaxPool(3, 2)
    layers |= {"avgpool": AdaptiveAvgPool(6)} if published else {}
    layers["flatten"] = Flatten()
    for i, out in enumerate(DENSE, 6):
        dense: dict[str, Tree] = {f"fc{i}": Linear(out, init=init), f"relu{i}": ReLU()}
        drop: dict[str, Tree] = {f"drop{i}": Dropout(0.5)}
        layers |= drop | dense if published else dense | drop
    return Chain(**layers, fc8=Linear(classes, init=init))
