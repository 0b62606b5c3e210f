"""From resolved nodes to Keras's symbolic graph: its own layers wherever it has them, and operations where not."""

from __future__ import annotations

import math
import zlib
from typing import Any, assert_never

import keras
import numpy as np
from keras import layers as k
from keras import ops

from imori import tree as t
from imori.frameworks.base import Array
from imori.frameworks.keras.backend import Tensor
from imori.shapes import Node, Window


class Graph:
    """One pass of the tree over an input; passes with the same `layers` share them, and so their weights."""

    def __init__(self, layers: dict[str, Any], dtype: str, training: bool) -> None:
        self.layers, self.dtype, self.training = layers, dtype, training
        self.outputs: dict[str, Tensor] = {}
        """Path -> output; none of an auxiliary head."""
        self.heads: list[Tensor] = []
        self.shares: list[float] = []
        """The weights of the heads' losses."""

    def run(self, node: Node, x: Tensor) -> Tensor:
        """The output of a node for the output of the one before it."""
        match node.layer:
            case t.Chain():
                y = x
                for child in node.children:
                    y = self.run(child, y)
            case t.Sum() | t.Concat():
                y = self._meet(node, [self.run(child, x) for child in node.children])
            case t.Aux(weight=weight):
                if self.training:
                    self.heads.append(self.run(node.children[0], x))
                    self.shares.append(weight)
                return x
            case _:
                y = self._leaf(node, node.layer, x)
        self.outputs[node.path] = y
        return y

    def apply(self, x: Tensor, name: str, kind: Any, *arguments: Any, **options: Any) -> Tensor:
        """A layer of Keras's applied to x. Its name is a path; what is added before or after one has "-word" to it."""
        if name not in self.layers:
            self.layers[name] = kind(*arguments, name=name, dtype=self.dtype, **options)
        return self.layers[name](x)

    def _meet(self, node: Node, branches: list[Tensor]) -> Tensor:
        name = name_of(node)
        if len(branches) == 1:
            return self.apply(branches[0], name, k.Identity)
        return self.apply(branches, name, k.Add if isinstance(node.layer, t.Sum) else k.Concatenate)

    def _leaf(self, node: Node, layer: t.Layer, x: Tensor) -> Tensor:
        name, window, (channels, *size) = name_of(node), node.window, node.input
        match layer:
            case t.Conv(out, groups=groups):
                return self._conv(node, layer, x, k.Conv2D, filters=out, groups=groups)
            case t.Depthwise(multiplier=multiplier):
                if window.stride[0] == window.stride[1]:
                    return self._conv(node, layer, x, k.DepthwiseConv2D, depth_multiplier=multiplier)
                # TensorFlow's depthwise convolutions stride alike on both axes; grouped ones need not.
                return self._conv(node, layer, x, k.Conv2D, filters=node.output[0], groups=channels)
            case t.ConvTranspose():
                return self._conv_transpose(node, layer, x)
            case t.Linear(out, bias, init):
                return self.apply(x, name, k.Dense, out, use_bias=bias, kernel_initializer=_initializer(init))
            case t.BatchNorm(eps, momentum):
                return self.apply(x, name, k.BatchNormalization, momentum=1 - momentum, epsilon=eps)
            case t.MaxPool():
                return self._max_pool(node, x)
            case t.AvgPool():
                return self._avg_pool(node, x)
            case t.AdaptiveAvgPool():
                rows, columns = (_shares(n, cells) for n, cells in zip(size, node.output[1:], strict=True))
                return _named(ops.einsum("nhwc,ih,jw->nijc", x, self._number(rows), self._number(columns)), name)
            case t.GlobalAvgPool():
                return self.apply(x, name, k.GlobalAveragePooling2D, data_format="channels_last")
            case t.Flatten():
                if math.prod(size) > 1:
                    x = self.apply(x, f"{name}-permute", k.Permute, (3, 1, 2))
                return self.apply(x, name, k.Flatten, data_format="channels_last")
            case t.LRN():
                return self._lrn(layer, channels, x, name)
            case t.ReLU(limit):
                return self._relu(limit, x, name)
            case t.LeakyReLU(slope):
                # Keras's layer refuses slopes below 0, and TensorFlow rounds them to float32.
                above = _named(ops.greater(x, 0), f"{name}-above")
                return _named(ops.where(above, x, _named(ops.multiply(x, self._number(slope)), f"{name}-below")), name)
            case t.Sigmoid():
                return self.apply(x, name, k.Activation, "sigmoid")
            case t.Tanh():
                return self.apply(x, name, k.Activation, "tanh")
            case t.Softmax():
                return self.apply(x, name, k.Softmax)
            case t.Dropout(drop):
                # Without a seed of the layer's own, the PyTorch backend would draw from PyTorch's random numbers.
                return self.apply(x, name, k.Dropout, drop, seed=zlib.crc32(name.encode()) >> 1)
            case t.Identity():
                return self.apply(x, name, k.Identity)
            case t.Subsample():
                return self.apply(x, name, k.MaxPooling2D, 1, window.stride, data_format="channels_last")
            case t.PadChannels(out):
                return self._with_zeros(x, out - channels, name)
            case t.Select(numbers):
                return _named(ops.take(x, list(numbers), axis=-1), name)
            case _:
                assert_never(layer)

    def _number(self, value: float | Array) -> Array:
        """A constant of the graph in its own dtype: Keras would round a Python number to float32."""
        return np.array(value, self.dtype)

    def _relu(self, limit: float | None, x: Tensor, name: str) -> Tensor:
        if limit is None or limit == float(np.float32(limit)):  # to which Keras's layer rounds it
            return self.apply(x, name, k.ReLU, max_value=limit)
        return _named(ops.minimum(self.apply(x, f"{name}-relu", k.ReLU), self._number(limit)), name)

    def _lrn(self, layer: t.LRN, channels: int, x: Tensor, name: str) -> Tensor:
        """From operations, for Keras has no layer of it."""
        beside = layer.size // 2
        squares = _named(ops.square(x), f"{name}-square")
        squares = _named(ops.pad(squares, ((0, 0), (0, 0), (0, 0), (beside, beside))), f"{name}-pad")
        total = _named(squares[..., :channels], f"{name}-part0")
        for i in range(1, layer.size):
            part = _named(squares[..., i : i + channels], f"{name}-part{i}")
            total = _named(ops.add(total, part), f"{name}-sum{i}")
        scaled = _named(ops.multiply(total, self._number(layer.alpha)), f"{name}-scaled")
        base = _named(ops.add(scaled, self._number(layer.k)), f"{name}-base")
        power = _named(ops.power(base, self._number(-layer.beta)), f"{name}-power")
        return _named(ops.multiply(x, power), name)

    def _with_zeros(self, x: Tensor, more: int, name: str) -> Tensor:
        """Zeros are joined to the channels: TensorFlow crashes where it fuses the sum of a convolution and a `pad`."""
        if not more:
            return self.apply(x, name, k.Identity)
        zeros = _named(ops.zeros_like(_named(x[..., :1], f"{name}-first")), f"{name}-zero")
        return self.apply([x, _named(ops.repeat(zeros, more, axis=-1), f"{name}-zeros")], name, k.Concatenate)

    def _zero_padded(self, x: Tensor, name: str, window: Window) -> Tensor:
        if not any(window.pads):
            return x
        top, bottom, left, right = window.pads
        pads = ((top, bottom), (left, right))
        return self.apply(x, f"{name}-pad", k.ZeroPadding2D, pads, data_format="channels_last")

    def _conv(self, node: Node, layer: t.Conv | t.Depthwise, x: Tensor, kind: Any, **options: Any) -> Tensor:
        name, window, stride = name_of(node), node.window, node.window.stride
        apart = max(stride) > 1 and max(window.dilation) > 1
        if apart:  # Keras's layers do not stride and dilate at once
            stride = (1, 1)
        # Where Keras's own padding is the same, it spares a padded copy.
        same = any(window.pads) and (window.pads == _centred(window) if stride == (1, 1) else layer.pad == "same")
        y = self.apply(
            x if same else self._zero_padded(x, name, window),
            name,
            kind,
            kernel_size=window.kernel,
            strides=stride,
            padding="same" if same else "valid",
            data_format="channels_last",
            dilation_rate=window.dilation,
            use_bias=layer.bias,
            **{f"{'depthwise' if kind is k.DepthwiseConv2D else 'kernel'}_initializer": _initializer(layer.init)},
            **options,
        )
        if apart:
            y = self.apply(y, f"{name}-stride", k.MaxPooling2D, 1, window.stride, data_format="channels_last")
        return y

    def _conv_transpose(self, node: Node, layer: t.ConvTranspose, x: Tensor) -> Tensor:
        """Keras's whole result, of which only what belongs to the output is kept; one layer for each group."""
        name, window = name_of(node), node.window
        crops, more = [], []
        for axis in (0, 1):
            before, after = window.pads[2 * axis : 2 * axis + 2]
            # Keras gives (n - 1) stride + max(kernel, stride) values, of which a row of zeros more adds a stride.
            rest = max(window.stride[axis] - window.kernel[axis], 0) + after - window.output_pad[axis]
            more.append((0, int(rest < 0)))
            crops.append((before, rest + window.stride[axis] * (rest < 0)))
        if any(map(any, more)):
            x = self.apply(x, f"{name}-pad", k.ZeroPadding2D, tuple(more), data_format="channels_last")
        width = node.input[0] // layer.groups
        parts = []
        for group, own in enumerate(group_names(node)):
            part = x
            if layer.groups > 1:
                part = _named(x[..., group * width : (group + 1) * width], f"{own}-input")
            options = {"use_bias": layer.bias, "kernel_initializer": _initializer(layer.init)}
            options |= {"strides": window.stride, "data_format": "channels_last"}
            parts.append(self.apply(part, own, k.Conv2DTranspose, layer.out // layer.groups, window.kernel, **options))
        y = parts[0] if layer.groups == 1 else self.apply(parts, name, k.Concatenate)
        if any(map(any, crops)):
            y = self.apply(y, f"{name}-crop", k.Cropping2D, tuple(crops), data_format="channels_last")
        return y

    def _max_pool(self, node: Node, x: Tensor) -> Tensor:
        name, window = name_of(node), node.window
        same = any(window.pads) and getattr(node.layer, "pad", 0) == "same"
        if any(window.pads) and not same:
            top, bottom, left, right = window.pads
            pads = ((0, 0), (top, bottom), (left, right), (0, 0))
            x = _named(ops.pad(x, pads, constant_values=-math.inf), f"{name}-pad")
        padding = "same" if same else "valid"
        return self.apply(x, name, k.MaxPooling2D, window.kernel, window.stride, padding, "channels_last")

    def _avg_pool(self, node: Node, x: Tensor) -> Tensor:
        """Means over whole windows, scaled where a window counts fewer values."""
        name, window = name_of(node), node.window
        x = self._zero_padded(x, name, window)
        y = self.apply(x, name, k.AveragePooling2D, window.kernel, window.stride, data_format="channels_last")
        scale = math.prod(window.kernel) / np.multiply.outer(*map(np.array, window.counts))[..., np.newaxis]
        return y if np.all(scale == 1) else self.apply(y, f"{name}-scale", k.Rescaling, scale)


def name_of(node: Node) -> str:
    """The name of a node's layer: its path, with "-" for ".", which the PyTorch backend refuses in a name.

    The root's is one that no child may have.
    """
    return node.path.replace(".", "-") or "output"


def group_names(node: Node) -> list[str]:
    """The names of a transposed convolution's layers, one for each group."""
    assert isinstance(node.layer, t.ConvTranspose)
    name, groups = name_of(node), node.layer.groups
    return [name] if groups == 1 else [f"{name}-group{i}" for i in range(groups)]


def _named(y: Tensor, name: str) -> Tensor:
    """y, the operation that gave it called by `name`: Keras's own numbering might take the name of a layer."""
    y._keras_history.operation.name = name
    return y


def _centred(window: Window) -> tuple[int, int, int, int]:
    """The padding that Keras calls "same" where the stride is 1."""
    vertical, horizontal = (d * (kernel - 1) for d, kernel in zip(window.dilation, window.kernel, strict=True))
    return vertical // 2, vertical - vertical // 2, horizontal // 2, horizontal - horizontal // 2


def _shares(n: int, cells: int) -> Array:
    """(cells, n): how much each of n values counts in the mean of each cell."""
    shares = np.zeros((cells, n))
    for i in range(cells):
        first, last = i * n // cells, -(-(i + 1) * n // cells)
        shares[i, first:last] = 1 / (last - first)
    return shares


def _initializer(init: t.Init) -> Any:
    match init:
        case "he":
            return keras.initializers.VarianceScaling(2.0, "fan_in", "untruncated_normal")
        case "xavier":
            return keras.initializers.GlorotUniform()
        case _:
            return keras.initializers.RandomNormal(0.0, init)
