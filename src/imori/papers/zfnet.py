"""ZFNet: M. D. Zeiler, R. Fergus, "Visualizing and understanding convolutional networks", 2013.

https://arxiv.org/abs/1311.2901, figure 3. With `gap` the dense layers give way to a 1×1 convolution to the classes and
its mean over the map (M. Lin, Q. Chen, S. Yan, "Network in network", 2013), so that any input size will do.
Departs: the default has no padding in the first convolution and 1 in the second, normalises before it pools, and its
last map is 5×5. "paper" pads the first by 1 and the second not, rounds its pools up, normalises after them, and ends
in 6×6. Dropout follows both dense layers, and weights start as He et al. have it (arXiv:1502.01852), not at 0.01.
"""

from imori.tree import LRN, Chain, Conv, Dropout, Flatten, GlobalAvgPool, Linear, MaxPool, ReLU, Tree

#          kernel filters stride pad   of conv1 to conv5
TABLE = {
    "default": ((7, 96, 2, 0), (5, 256, 2, 1), (3, 384, 1, 1), (3, 384, 1, 1), (3, 256, 1, 1)),
    "paper": ((7, 96, 2, 1), (5, 256, 2, 0), (3, 384, 1, 1), (3, 384, 1, 1), (3, 256, 1, 1)),
}
NORMALISED, POOLED, DENSE = (1, 2), (1, 2, 5), (4096, 4096)
VARIANTS = tuple(TABLE)
SAME: tuple[str, ...] = ()


def zfnet(gap: bool = False, classes: int = 1000, variant: str = "default") -> Chain:
    """ZFNet for 224×224 input, or with `gap` for any size."""
    paper = variant == "paper"
    layers: dict[str, Tree] = {}
    for i, (kernel, filters, stride, pad) in enumerate(TABLE[variant], 1):
        layers |= {f"conv{i}": Conv(filters, kernel, stride, pad), f"relu{i}": ReLU()}
        norm: dict[str, Tree] = {f"lrn{i}": LRN(size=5, alpha=1e-4, beta=0.75, k=2.0)} if i in NORMALISED else {}
        pool: dict[str, Tree] = {f"pool{i}": MaxPool(3, 2, ceil=paper)} if i in POOLED else {}
        layers |= pool | norm if paper else norm | pool
    if gap:
        return Chain(**layers, conv6=Conv(classes, 1), gap=GlobalAvgPool())
    layers["flatten"] = Flatten()
    for i, out in enumerate(DENSE, 6):
        layers |= {f"fc{i}": Linear(out), f"relu{i}": ReLU(), f"drop{i}": Dropout(0.5)}
    return Chain(**layers, fc8=Linear(classes))
