"""From resolved nodes to modules on `tf.nn`, channels last."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import prod
from typing import ClassVar, TypeAlias, assert_never

import numpy as np
import tensorflow as tf

from imori import tree as t
from imori.frameworks.base import Array, InputCheck, Weights
from imori.frameworks.tensorflow.modules import Block, Layer, Network, Run, SingleValueError, Tensor
from imori.shapes import Node, Shape, Sides, Two, Window

Function: TypeAlias = Callable[[Tensor], Tensor]


def network_of(root: Node, weights: Weights, dtype: str, device: str) -> Network:
    """The whole network of a resolved tree, its variables on `device`."""
    check = InputCheck(root)
    if not root.children:  # a lone layer: a child by its kind, whose path is still ""
        alone = replace(root, name=type(root.layer).__name__.lower())
        root = replace(root, layer=t.Chain(root.layer), children=(alone,))
    with tf.device(device):
        return Network(root, _children(root, weights), check, dtype, device)


def _children(node: Node, weights: Weights) -> dict[str, Layer]:
    return {child.name: _layer(child, weights) for child in node.children}


def _layer(node: Node, weights: Weights) -> Layer:
    """The module of one node and of all below it; of an `Aux`, its head."""
    layer, window, channels = node.layer, node.window, node.input[0]
    match layer:
        case t.Chain() | t.Sum() | t.Concat():
            return Block(node, _children(node, weights))
        case t.Aux():
            return _layer(node.children[0], weights)
        case t.Conv(groups=groups):
            return Conv2D(node, weights, groups)
        case t.Depthwise():
            return DepthwiseConv2D(node, weights)
        case t.ConvTranspose(groups=groups):
            return Conv2DTranspose(node, weights, groups)
        case t.Linear():
            return Dense(node, weights)
        case t.BatchNorm(eps, momentum):
            return BatchNormalization(node, weights, eps, momentum)
        case t.Dropout(drop):
            return Dropout(node, drop)
        case t.MaxPool():
            return Operation(node, partial(_max_pool, window))
        case t.AvgPool():
            return Operation(node, partial(_average_pool, window))
        case t.AdaptiveAvgPool():
            return Operation(node, partial(_adaptive_average_pool, node.output[1:]))
        case t.GlobalAvgPool():
            return Operation(node, lambda x: tf.reduce_mean(x, (1, 2)))
        case t.Flatten():
            return Operation(node, partial(_flatten, node.output[0]))
        case t.LRN():
            return Operation(node, partial(_lrn, layer, channels))
        case t.ReLU(limit):
            return Operation(node, tf.nn.relu if limit is None else partial(_limited_relu, limit))
        case t.LeakyReLU(slope):
            return Operation(node, partial(_leaky_relu, slope))
        case t.Sigmoid():
            return Operation(node, tf.nn.sigmoid)
        case t.Tanh():
            return Operation(node, tf.nn.tanh)
        case t.Softmax():
            return Operation(node, tf.nn.softmax)
        case t.Identity():
            return Operation(node, tf.identity)
        case t.Subsample():
            return Operation(node, lambda x: x[:, :: window.stride[0], :: window.stride[1]])
        case t.PadChannels(out):
            return Operation(node, partial(_pad_channels, out - channels))
        case t.Select(numbers):
            return Operation(node, lambda x: tf.gather(x, numbers, axis=-1))
        case _:
            assert_never(layer)


# --- layers with weights ---------------------------------------------------------------------------------------------


class Affine(Layer):
    """A product with `kernel`, then `bias` if there is one."""

    def _run(self, x: Tensor, run: Run) -> Tensor:
        product = self._product(x, self._node.window)
        return tf.nn.bias_add(product, self.bias) if "bias" in self._node.weights else product

    def _product(self, x: Tensor, window: Window) -> Tensor:
        raise NotImplementedError


class Dense(Affine):
    """kernel (in, out), with `in` in channel, height, width order after a Flatten."""

    _LAYOUT = "oi->io"

    def _product(self, x: Tensor, window: Window) -> Tensor:
        return tf.matmul(x, self.kernel)


class Grouped(Affine):
    """A product group by group: on CPUs, TensorFlow has no gradient of a convolution in groups."""

    def __init__(self, node: Node, weights: Weights, groups: int) -> None:
        super().__init__(node, weights)
        self._groups = groups

    def _each(self, product: Callable[[Tensor, Tensor], Tensor], x: Tensor) -> Tensor:
        """The product of each group's channels with its part of the kernel, joined."""
        if self._groups == 1:
            return product(x, self.kernel)
        parts = zip(tf.split(x, self._groups, -1), tf.split(self.kernel, self._groups, -1), strict=True)
        return tf.concat([product(part, kernel) for part, kernel in parts], -1)


class Conv2D(Grouped):
    """kernel (height, width, in / groups, out)."""

    _LAYOUT = "oihw->hwio"

    def _product(self, x: Tensor, window: Window) -> Tensor:
        def convolve(x: Tensor, stride: Two, padding: str) -> Tensor:
            return self._each(lambda part, kernel: tf.nn.conv2d(part, kernel, stride, padding), x)

        return _slide(convolve, x, window)


class DepthwiseConv2D(Affine):
    """kernel (height, width, in, multiplier)."""

    _LAYOUT = "oihw->hwoi"

    def _product(self, x: Tensor, window: Window) -> Tensor:
        def convolve(x: Tensor, stride: Two, padding: str) -> Tensor:
            vertical, horizontal = stride
            if vertical == horizontal:
                return tf.nn.depthwise_conv2d(x, self.kernel, (1, *stride, 1), padding)
            # Unequal strides work in float32 alone, and not on every CPU.
            return tf.nn.depthwise_conv2d(x, self.kernel, (1, 1, 1, 1), padding)[:, ::vertical, ::horizontal]

        return _slide(convolve, x, window)

    def _native(self, role: str, value: Array) -> Array:
        turned = super()._native(role, value)
        return turned.reshape(*turned.shape[:2], self._node.input[0], -1) if role == "weight" else turned

    def _canonical(self, role: str, value: Array) -> Array:
        return super()._canonical(role, value.reshape(*value.shape[:2], -1, 1) if role == "weight" else value)


class Conv2DTranspose(Grouped):
    """kernel (height, width, out / groups, in)."""

    _LAYOUT = "iohw->hwoi"

    def _product(self, x: Tensor, window: Window) -> Tensor:
        top, bottom, left, right = window.pads
        batch, *size = tf.unstack(tf.shape(x)[:3])
        each = zip(size, window.stride, window.kernel, (top + bottom, left + right), window.output_pad, strict=True)
        high, wide = ((n - 1) * stride + kernel - crop + more for n, stride, kernel, crop, more in each)
        shape = (batch, high, wide, self._node.output[0] // self._groups)
        crops = [[0, 0], [top, bottom], [left, right], [0, 0]]
        return self._each(lambda part, kernel: tf.nn.conv2d_transpose(part, kernel, shape, window.stride, crops), x)


class BatchNormalization(Layer):
    """gamma, beta, moving_mean and moving_variance; the last is unbiased, as in PyTorch."""

    _VARIABLES: ClassVar[dict[str, str]] = {
        "weight": "gamma", "bias": "beta", "mean": "moving_mean", "var": "moving_variance",
    }  # fmt: skip

    def __init__(self, node: Node, weights: Weights, eps: float, momentum: float) -> None:
        super().__init__(node, weights)
        self._eps, self._momentum = eps, momentum

    def _run(self, x: Tensor, run: Run) -> Tensor:
        if not run.training or self._node.path in run.frozen:
            return self._normalised(x, training=False)[0]
        if x.shape[:-1].num_elements() == 1:
            raise SingleValueError
        y, mean, var = self._normalised(x, training=True)
        self.moving_mean.assign_add(self._momentum * (mean - self.moving_mean))
        self.moving_variance.assign_add(self._momentum * (var - self.moving_variance))
        return y

    def _normalised(self, x: Tensor, training: bool) -> tuple[Tensor, Tensor, Tensor]:
        """The output, and in training the batch's mean and unbiased variance."""
        if x.dtype == tf.float32 and x.shape.rank == 4:
            # `tf.compat.v1.nn.fused_batch_norm` of older releases makes eps 1.001e-5 at least.
            y, mean, var, *_ = tf.raw_ops.FusedBatchNormV3(
                x=x, scale=self.gamma, offset=self.beta, mean=self.moving_mean, variance=self.moving_variance,
                epsilon=self._eps, exponential_avg_factor=1.0, is_training=training,
            )  # fmt: skip
            return y, mean, var
        mean, var = self.moving_mean, self.moving_variance
        if training:
            mean, var = tf.nn.moments(x, list(range(x.shape.rank - 1)))
        y = tf.nn.batch_normalization(x, mean, var, self.beta, self.gamma, self._eps)
        count = tf.cast(tf.size(x) / tf.size(mean), x.dtype)
        return y, mean, var * count / tf.maximum(count - 1, 1)


# --- layers without weights ------------------------------------------------------------------------------------------


class Dropout(Layer):
    """In a step of training it is drawn from the step's key and its own path alone."""

    def __init__(self, node: Node, drop: float) -> None:
        super().__init__(node, {})
        self._drop = drop

    def _run(self, x: Tensor, run: Run) -> Tensor:
        if not run.training:
            return x
        if run.key is None:
            return tf.nn.dropout(x, self._drop)
        seed = tf.stack([run.key, zlib.crc32(self._node.path.encode())])
        return tf.nn.experimental.stateless_dropout(x, self._drop, seed)


class Operation(Layer):
    """A function of `tf.nn`, or a few of them."""

    def __init__(self, node: Node, function: Function) -> None:
        super().__init__(node, {})
        self._function = function

    def _run(self, x: Tensor, run: Run) -> Tensor:
        return self._function(x)


def _padded(x: Tensor, pads: Sides, value: float = 0.0) -> Tensor:
    top, bottom, left, right = pads
    return tf.pad(x, [[0, 0], [top, bottom], [left, right], [0, 0]], constant_values=value) if any(pads) else x


def _slide(convolve: Callable[[Tensor, Two, str], Tensor], x: Tensor, window: Window) -> Tensor:
    """A convolution with its window's padding and dilation, from one of (x, stride, "SAME" or "VALID").

    Padding is never given explicitly, for its gradient is slow: TensorFlow fuses `tf.pad`. A dilated one goes by
    `tf.space_to_batch`: on CPUs, TensorFlow has no gradient of a dilated convolution.
    """
    if window.dilation == (1, 1):
        high, wide = window.kernel
        same = ((high - 1) // 2, high // 2, (wide - 1) // 2, wide // 2)
        if window.stride == (1, 1) and window.pads == same:
            return convolve(x, window.stride, "SAME")
        return convolve(_padded(x, window.pads), window.stride, "VALID")
    before, after = window.pads[::2], window.pads[1::2]
    rest = -(tf.shape(x)[1:3] + before + after) % window.dilation  # what is missing to whole blocks
    blocks = tf.space_to_batch(x, window.dilation, tf.stack([before, after + rest], axis=1))
    y = tf.batch_to_space(
        convolve(blocks, (1, 1), "VALID"), window.dilation, tf.stack([tf.zeros_like(rest), rest], axis=1)
    )
    return y[:, :: window.stride[0], :: window.stride[1]]


def _max_pool(window: Window, x: Tensor) -> Tensor:
    return tf.nn.max_pool2d(_padded(x, window.pads, -np.inf), window.kernel, window.stride, "VALID")


def _average_pool(window: Window, x: Tensor) -> Tensor:
    """The mean with padded zeros, corrected for how many values each window counts."""
    means = tf.nn.avg_pool2d(_padded(x, window.pads), window.kernel, window.stride, "VALID")
    # An axis on which every window counts alike keeps one count, and so takes any input size.
    rows, columns = (counts if len(set(counts)) > 1 else counts[:1] for counts in window.counts)
    share = prod(window.kernel) / np.outer(rows, columns)[:, :, None]
    return means if np.all(share == 1) else means * tf.constant(share, x.dtype)


def _adaptive_average_pool(cells: Shape, x: Tensor) -> Tensor:
    rows, columns = (_shares(tf.shape(x)[axis], count, x.dtype) for axis, count in zip((1, 2), cells, strict=True))
    return tf.einsum("ih,nhwc,jw->nijc", rows, x, columns)


def _shares(size: Tensor, cells: int, dtype: tf.DType) -> Tensor:
    """The share (cells, size) of each row in the mean of each cell."""
    cell, row = tf.range(cells)[:, None], tf.range(size)
    first, last = cell * size // cells, -(-(cell + 1) * size // cells)
    inside = tf.cast((row >= first) & (row < last), dtype)
    return inside / tf.cast(last - first, dtype)


def _flatten(features: int, x: Tensor) -> Tensor:
    """In channel, height, width order: so a Dense after it, and its optimizer's memory, is the same everywhere."""
    return tf.reshape(tf.transpose(x, (0, 3, 1, 2)), (-1, features)) if x.shape.rank == 4 else x


def _pad_channels(more: int, x: Tensor) -> Tensor:
    """By another operation than that of `tf.pad`: where that one is added to a convolution, TensorFlow crashes."""
    return tf.raw_ops.PadV2(
        input=x, paddings=[[0, 0], [0, 0], [0, 0], [0, more]], constant_values=tf.zeros((), x.dtype)
    )


def _lrn(layer: t.LRN, channels: int, x: Tensor) -> Tensor:
    if x.dtype == tf.float32:
        return tf.nn.local_response_normalization(x, layer.size // 2, layer.k, layer.alpha, layer.beta)
    distances = np.abs(np.subtract.outer(range(channels), range(channels)))
    neighbours = tf.constant(distances <= layer.size // 2, x.dtype)
    return x * (layer.k + layer.alpha * tf.tensordot(x * x, neighbours, 1)) ** -layer.beta


def _limited_relu(limit: float, x: Tensor) -> Tensor:
    """With a gradient of 0 at 0 and at the limit, and NaN where `x` is."""
    return tf.where(x >= limit, tf.constant(limit, x.dtype), tf.nn.relu(x))


def _leaky_relu(slope: float, x: Tensor) -> Tensor:
    """With the slope in the dtype of `x`: `tf.nn.leaky_relu` has it in float32."""
    return tf.where(x > 0, x, slope * x)
