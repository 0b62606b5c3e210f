"""The same layers, fast: plain NumPy still, and the same numbers as `imori.engine`'s, which it is checked against.

Each trick is a file of its own, which says what it is and whose. To read it whole: `layout` (channels last), `rows`,
`pointwise`, `columns`, `winograd` and `depthwise` (convolutions, each for its windows), `conv` (which is for which, and
their gradients), `pool`, `norm`, `team` and `batch` (several workers at one batch), `forks` and `crew` (which are
processes), `dropout`, `memory` (buffers reused), and `network`. A layer that is not here has nothing to gain, and is
the plain one.
"""

from imori.engine.fast.conv import Convolution, ConvTranspose, Depthwise, simple
from imori.engine.fast.dropout import Dropout
from imori.engine.fast.network import FastNetwork
from imori.engine.fast.norm import BatchNorm
from imori.engine.fast.pool import MaxPool

__all__ = ["BatchNorm", "ConvTranspose", "Convolution", "Depthwise", "Dropout", "FastNetwork", "MaxPool", "simple"]
