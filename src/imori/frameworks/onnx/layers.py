"""From resolved nodes to ONNX's operations, with padding in numbers: never `auto_pad`, never `ceil_mode`."""

from __future__ import annotations

import math
from typing import Any, assert_never

import numpy as np

from imori import tree as t
from imori.frameworks.base import weight_name
from imori.frameworks.onnx.formula import Formula
from imori.frameworks.onnx.graph import Graph
from imori.shapes import Node, Window

LAST = 2**63 - 1
"""As the end of a slice: that of the axis."""


def run(graph: Graph, node: Node, x: str) -> str:
    """Adds a node, and those below it, to the graph: the value that it gives for the value `x`."""
    match node.layer:
        case t.Chain():
            y = x
            for child in node.children:
                y = run(graph, child, y)
        case t.Sum() | t.Concat():
            y = _meet(graph, node, [run(graph, child, x) for child in node.children])
        case t.Aux():
            return x
        case _:
            y = _leaf(graph, node, node.layer, x)
    graph.outputs[node.path] = y
    return y


def _meet(graph: Graph, node: Node, branches: list[str]) -> str:
    name = f"/{node.path}"
    if len(branches) == 1:
        return branches[0]
    if isinstance(node.layer, t.Concat):
        return graph.add("Concat", branches, name, axis=1)
    return graph.add("Add" if len(branches) == 2 else "Sum", branches, name)


def _leaf(graph: Graph, node: Node, layer: t.Layer, x: str) -> str:
    name, window, channels = f"/{node.path}", node.window, node.input[0]
    inputs = [x, *(weight_name(node.path, role) for role in node.weights)]
    match layer:
        case t.Conv(groups=groups):
            return graph.add("Conv", inputs, name, group=groups, dilations=window.dilation, **_sliding(window))
        case t.Depthwise():
            return graph.add("Conv", inputs, name, group=channels, dilations=window.dilation, **_sliding(window))
        case t.ConvTranspose(groups=groups):
            more = {"group": groups, "output_padding": window.output_pad}
            return graph.add("ConvTranspose", inputs, name, **more, **_sliding(window))
        case t.Linear():
            return graph.add("Gemm", inputs, name, transB=1)
        case t.BatchNorm(eps):
            return graph.add("BatchNormalization", inputs, name, epsilon=eps)
        case t.MaxPool():
            return graph.add("MaxPool", inputs, name, **_sliding(window))
        case t.AvgPool():
            return _avg_pool(graph, node, x)
        case t.AdaptiveAvgPool():
            return _adaptive_avg_pool(graph, node, x)
        case t.GlobalAvgPool():
            return graph.add("Flatten", [graph.add("GlobalAveragePool", [x], f"{name}-mean")], name, axis=1)
        case t.Flatten():
            return graph.add("Flatten", inputs, name, axis=1)
        case t.LRN():
            return _lrn(graph, layer, x, name)
        case t.ReLU(None):
            return graph.add("Relu", inputs, name)
        case t.ReLU(limit):
            least, most = graph.constant(0, "float32", f"{name}-min"), graph.constant(limit, "float32", f"{name}-max")
            return graph.add("Clip", [x, least, most], name)
        case t.LeakyReLU(slope):
            return graph.add("LeakyRelu", inputs, name, alpha=slope)
        case t.Sigmoid():
            return graph.add("Sigmoid", inputs, name)
        case t.Tanh():
            return graph.add("Tanh", inputs, name)
        case t.Softmax():
            return graph.add("Softmax", inputs, name, axis=1)
        case t.Dropout() | t.Identity():
            return x
        case t.Subsample():
            start = graph.constant([0, 0], "int64", f"{name}-start")
            end = graph.constant([LAST, LAST], "int64", f"{name}-end")
            axes = graph.constant([2, 3], "int64", f"{name}-axes")
            steps = graph.constant(window.stride, "int64", f"{name}-steps")
            return graph.add("Slice", [x, start, end, axes, steps], name)
        case t.PadChannels(out):
            pads = graph.constant([0, 0, 0, 0, 0, out - channels, 0, 0], "int64", f"{name}-pads")
            return graph.add("Pad", [x, pads], name)
        case t.Select(numbers):
            return graph.add("Gather", [x, graph.constant(numbers, "int64", f"{name}-channels")], name, axis=1)
        case _:
            assert_never(layer)


def _sliding(window: Window) -> dict[str, Any]:
    top, bottom, left, right = window.pads
    return {"kernel_shape": window.kernel, "strides": window.stride, "pads": (top, left, bottom, right)}


def _avg_pool(graph: Graph, node: Node, x: str) -> str:
    """Means over whole windows, scaled where a window counts fewer values."""
    name, window = f"/{node.path}", node.window
    scale = math.prod(window.kernel) / np.multiply.outer(*map(np.array, window.counts))
    if np.all(scale == 1):
        return graph.add("AveragePool", [x], name, count_include_pad=1, **_sliding(window))
    whole = graph.add("AveragePool", [x], f"{name}-whole", count_include_pad=1, **_sliding(window))
    return graph.add("Mul", [whole, graph.constant(scale, "float32", f"{name}-scale")], name)


def _lrn(graph: Graph, layer: t.LRN, x: str, name: str) -> str:
    """ONNX's alpha multiplies the mean. Where alpha or beta is 0, which ONNX Runtime refuses, x is only scaled."""
    if layer.alpha and layer.beta:
        alpha = layer.alpha * layer.size
        return graph.add("LRN", [x], name, size=layer.size, alpha=alpha, beta=layer.beta, bias=layer.k)
    return graph.add("Mul", [x, graph.constant(layer.k**-layer.beta, "float32", f"{name}-scale")], name)


def _adaptive_avg_pool(graph: Graph, node: Node, x: str) -> str:
    name = f"/{node.path}"
    rows, columns = (_shares(graph, x, axis, node.output[axis - 1], f"{name}-axis{axis}") for axis in (2, 3))
    columns = graph.add("Transpose", [columns], f"{name}-columns", perm=[1, 0])
    return graph.add("MatMul", [graph.add("MatMul", [rows, x], f"{name}-rows"), columns], name)


def _shares(graph: Graph, x: str, axis: int, cells: int, name: str) -> str:
    """(cells, n): how much each of the n values along an axis of x counts in the mean of each cell."""
    f = Formula(graph, name)
    n = f.length(f.given(x, "float32"), axis)
    cell, place = f.number(np.arange(cells)[:, None], "int64"), f.places(n)
    first, last = cell * n / cells, ((cell + 1) * n + (cells - 1)) / cells  # the last is rounded up
    inside = (place >= first) & (place < last)
    return (inside.to("float32") / (last - first).to("float32")).name
