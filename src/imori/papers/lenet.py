"""LeNet: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition", 1998.

http://yann.lecun.com/exdb/publis/pdf/lecun-01a.pdf, figure 2 (LeNet-5).
Departs: the default has 120 and 64 dense units, a sigmoid after each pool and none in the dense layers; the variant
"paper" has the paper's 120 and 84. Both have max pools without weights where the paper's subsampling had a trained
scale and bias, every filter of the second convolution sees every map (the paper's table I leaves some out), and
softmax ends it, not the paper's radial basis functions.
"""

from imori.tree import Chain, Conv, Flatten, Linear, MaxPool, Sigmoid, Tree

#        kernel  filters
TABLE = ((5, 6), (5, 16))
DENSE = {"default": (120, 64), "paper": (120, 84)}
VARIANTS = tuple(DENSE)
SAME: tuple[str, ...] = ()


def lenet(classes: int = 1000, variant: str = "default") -> Chain:
    """LeNet for 32×32 input."""
    layers: dict[str, Tree] = {}
    for i, (kernel, filters) in enumerate(TABLE, 1):
        layers[f"conv{i}"] = Conv(filters, kernel)
        layers[f"pool{i}"] = MaxPool(2)
        layers[f"sigmoid{i}"] = Sigmoid()
    layers["flatten"] = Flatten()
    for i, out in enumerate((*DENSE[variant], classes), 1):
        layers[f"fc{i}"] = Linear(out)
    return Chain(**layers)
