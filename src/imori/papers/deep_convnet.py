"""SimpleConvNet and DeepConvNet: K. Saitoh, "Deep learning from scratch", 2016.

https://github.com/oreilly-japan/deep-learning-from-scratch, chapters 7 and 8 of the book (ゼロから作る Deep Learning,
O'Reilly Japan), whose networks these are, for the 28×28 digits of MNIST.
Departs: DeepConvNet's logits are not dropped out; "paper" has the second dropout, with which the book's ends.
"""

from imori.tree import Chain, Conv, Dropout, Flatten, Linear, MaxPool, ReLU, Tree

#        filters and pad of the 3×3 convolutions before each pool
TABLE = (((16, 1), (16, 1)), ((32, 1), (32, 2)), ((64, 1), (64, 1)))
VARIANTS = ("default", "paper")
SAME: tuple[str, ...] = ()


def simple_convnet(classes: int = 1000, variant: str = "default") -> Chain:
    """One convolution and two dense layers."""
    small = 0.01  # the deviation with which the book's weights start
    return Chain(
        conv1=Conv(30, 5, init=small),
        relu1=ReLU(),
        pool1=MaxPool(2),
        flatten=Flatten(),
        fc2=Linear(100, init=small),
        relu2=ReLU(),
        fc3=Linear(classes, init=small),
    )


def deep_convnet(classes: int = 1000, variant: str = "default") -> Chain:
    """Six convolutions and two dense layers, which start as He et al. have it."""
    layers: dict[str, Tree] = {}
    for i, stage in enumerate(TABLE, 1):
        for j, (filters, pad) in enumerate(stage, 1):
            layers |= {f"conv{i}_{j}": Conv(filters, 3, pad=pad), f"relu{i}_{j}": ReLU()}
        layers[f"pool{i}"] = MaxPool(2)
    layers |= {"flatten": Flatten(), "fc4": Linear(50), "relu4": ReLU(), "drop4": Dropout(0.5), "fc5": Linear(classes)}
    return Chain(**layers, **({"drop5": Dropout(0.5)} if variant == "paper" else {}))
