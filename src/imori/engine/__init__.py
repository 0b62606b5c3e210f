"""Convolutional networks from scratch, in NumPy alone: every layer's forward and backward.

To read it whole: `layer` (what a layer is), `im2col` (the one trick), `conv`, `affine`, `pool`, `activation`, `norm`,
`dropout`, `shape`, `loss`, and `network`, which puts them together.

    conv = Convolution(weight, bias, Window((3, 3), pads=(1, 1, 1, 1)))
    y = conv.forward(x, training=True)          # x (C, N, H, W): the channels first, then the images
    dx = conv.backward(dy)                      # and conv.gradients["weight"], conv.gradients["bias"]

The `Network` itself takes images as everyone stores them, (N, C, H, W).
"""

from imori.engine.activation import LeakyReLU, ReLU, Sigmoid, Softmax, Tanh
from imori.engine.affine import Affine
from imori.engine.conv import Convolution, ConvTranspose, Depthwise
from imori.engine.dropout import Dropout
from imori.engine.im2col import Window, col2im, im2col
from imori.engine.layer import Layer
from imori.engine.loss import SoftmaxWithLoss
from imori.engine.network import Aux, Chain, Concat, Network, Sum, every
from imori.engine.norm import LRN, BatchNorm, SingleValueError
from imori.engine.pool import AdaptiveAvgPool, AvgPool, GlobalAvgPool, MaxPool
from imori.engine.shape import Flatten, Identity, PadChannels, Select, Subsample

__all__ = [
    "LRN",
    "AdaptiveAvgPool",
    "Affine",
    "Aux",
    "AvgPool",
    "BatchNorm",
    "Chain",
    "Concat",
    "ConvTranspose",
    "Convolution",
    "Depthwise",
    "Dropout",
    "Flatten",
    "GlobalAvgPool",
    "Identity",
    "Layer",
    "LeakyReLU",
    "MaxPool",
    "Network",
    "PadChannels",
    "ReLU",
    "Select",
    "Sigmoid",
    "SingleValueError",
    "Softmax",
    "SoftmaxWithLoss",
    "Subsample",
    "Sum",
    "Tanh",
    "Window",
    "col2im",
    "every",
    "im2col",
]
