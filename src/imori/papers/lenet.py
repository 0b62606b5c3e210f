"""LeNet: Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition", 1998.

http://yann.lecun.com/exdb/publis/pdf/lecun-01a.pdf, figure 2 (LeNet-5), and table I.
Departs: the default has 120 and 64 dense units, a sigmoid after each pool and none in the dense layers; the variant
"paper" has the paper's 120 and 84. Both have max pools without weights where the paper's subsampling had a trained
scale and bias, every filter of the second convolution sees every map, and softmax ends them, not the paper's radial
basis functions. "original" departs in that last point alone, and in its plain tanh: up to `fc2` it has the paper's
60,000 trained numbers.
"""

from imori.tree import AvgPool, Chain, Concat, Conv, Depthwise, Flatten, Linear, MaxPool, Select, Sigmoid, Tanh, Tree

#        kernel  filters
TABLE = ((5, 6), (5, 16))
DENSE = {"default": (120, 64), "paper": (120, 84), "original": (120, 84)}
# Table I: the maps that each filter of the second convolution sees.
SEEN = ("012", "123", "234", "345", "450", "501", "0123", "1234", "2345", "3450", "4501", "5012",
        "0134", "1245", "0235", "012345")  # fmt: skip
VARIANTS = tuple(DENSE)
SAME: tuple[str, ...] = ()


def lenet(classes: int = 1000, variant: str = "default") -> Chain:
    """LeNet for 32×32 input."""
    original = variant == "original"
    layers: dict[str, Tree] = {}
    for i, (kernel, filters) in enumerate(TABLE, 1):
        layers[f"conv{i}"] = partly_connected(kernel) if original and i == 2 else Conv(filters, kernel)
        if original:
            layers |= {f"tanh{i}": Tanh(), f"pool{i}": AvgPool(2), f"scale{i}": Depthwise(1), f"squash{i}": Tanh()}
        else:
            layers |= {f"pool{i}": MaxPool(2), f"sigmoid{i}": Sigmoid()}
    layers["flatten"] = Flatten()
    for i, out in enumerate(DENSE[variant], 1):
        layers |= {f"fc{i}": Linear(out)} | ({f"squash{i + 2}": Tanh()} if original else {})
    return Chain(**layers, fc3=Linear(classes))


def partly_connected(kernel: int) -> Concat:
    """A convolution whose filters each see some of the maps."""
    return Concat(
        **{f"map{i}": Chain(seen=Select(tuple(map(int, maps))), conv=Conv(1, kernel)) for i, maps in enumerate(SEEN, 1)}
    )
