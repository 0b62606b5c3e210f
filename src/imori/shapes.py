"""What a tree becomes at one input shape: every node with its path, shapes, whole-number padding, weights and costs.

Imports `tree` and nothing else. `resolve` gives the tree of nodes from which a framework builds; `walk` the same nodes
in the order in which they run; `summary` the sums. Shapes are channels first, without the batch: (C, H, W) or (F,).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod
from typing import Literal, TypeAlias, assert_never

from imori import tree as t
from imori.errors import TreeError

Shape: TypeAlias = tuple[int, ...]
Sides: TypeAlias = tuple[int, int, int, int]
Two: TypeAlias = tuple[int, int]

MAX_VALUES = 2**34


@dataclass(frozen=True)
class Window:
    """A sliding window in whole numbers only: what "same" and `ceil` became at this input shape.

    Pairs are (vertical, horizontal), sides (top, bottom, left, right). `counts` belongs to `AvgPool` alone: how many
    rows, and how many columns, each output position divides its sum by.
    """

    kernel: Two = (1, 1)
    stride: Two = (1, 1)
    pads: Sides = (0, 0, 0, 0)
    dilation: Two = (1, 1)
    output_pad: Two = (0, 0)
    counts: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    @property
    def symmetric(self) -> bool:
        """Whether top equals bottom, and left equals right."""
        top, bottom, left, right = self.pads
        return top == bottom and left == right


@dataclass(frozen=True)
class Node:
    """One node of a resolved tree."""

    path: str
    """Names from the root, joined by dots; "" is the root itself."""
    name: str
    """The last segment of the path."""
    layer: t.Tree
    input: Shape
    output: Shape
    children: tuple[Node, ...] = ()
    """A combinator's children; of `Aux`, its head alone."""
    window: Window = Window()
    sized: bool = False
    """Whether what was resolved here holds for this input size only."""
    training_only: bool = False
    """Whether it is part of an auxiliary head."""
    receptive_field: tuple[float, float] = (1, 1)
    """The input pixels (vertical, horizontal) that one output value sees, padding counted."""
    stride: tuple[float, float] = (1, 1)
    """The input pixels between two neighbouring output values."""

    @property
    def weights(self) -> dict[str, Shape]:
        """Role -> shape, in canonical layout (output channels first), of what this layer itself owns."""
        window, channels = self.window.kernel, self.input[0]
        match self.layer:
            case t.Conv(out, groups=groups, bias=bias):
                return _with_bias((out, channels // groups, *window), out, bias)
            case t.Depthwise(multiplier=multiplier, bias=bias):
                return _with_bias((channels * multiplier, 1, *window), channels * multiplier, bias)
            case t.ConvTranspose(out, groups=groups, bias=bias):
                return _with_bias((channels, out // groups, *window), out, bias)
            case t.Linear(out, bias):
                return _with_bias((out, channels), out, bias)
            case t.BatchNorm():
                return {role: (channels,) for role in t.ROLES}
            case _:
                return {}

    @property
    def parameters(self) -> int:
        """Trainable numbers of this layer alone: weights and biases, not the running statistics."""
        return sum(prod(shape) for role, shape in self.weights.items() if role in ("weight", "bias"))

    @property
    def statistics(self) -> int:
        """Running means and variances of this layer alone."""
        return sum(prod(shape) for role, shape in self.weights.items() if role in ("mean", "var"))

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image, of convolutions and dense layers; all else counts as nothing."""
        match self.layer:
            case t.Conv() | t.Depthwise():
                return prod(self.output) * prod(self.weights["weight"][1:])
            case t.ConvTranspose():
                return prod(self.input) * prod(self.weights["weight"][1:])
            case t.Linear():
                return prod(self.weights["weight"])
            case _:
                return 0

    @property
    def fans(self) -> tuple[int, int]:
        """(fan in, fan out) of the weight: how many inputs reach one output, and how many outputs one input."""
        weight = self.weights["weight"]
        match self.layer:
            case t.Conv(groups=groups):
                return prod(weight[1:]), weight[0] // groups * prod(weight[2:])
            case t.Depthwise(multiplier=multiplier):
                return prod(weight[2:]), multiplier * prod(weight[2:])
            case t.ConvTranspose(groups=groups):
                return weight[0] // groups * prod(weight[2:]), prod(weight[1:])
            case _:
                return weight[-1], weight[0]


def _with_bias(weight: Shape, out: int, bias: bool) -> dict[str, Shape]:
    return {"weight": weight, "bias": (out,)} if bias else {"weight": weight}


@dataclass(frozen=True)
class _Flow:
    """What runs along the tree: the shape, whether it still follows the input's size, and what one value sees."""

    shape: Shape
    free: bool = True
    field: tuple[float, float] = (1, 1)
    stride: tuple[float, float] = (1, 1)


def resolve(tree: t.Tree, shape: Shape) -> Node:
    """The tree at input `shape` (C, H, W), as nodes. TreeError where it cannot be built, with path and shapes."""
    if len(shape) not in (1, 3) or any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in shape):
        raise TreeError(f"the input shape is {shape!r}; it must be (channels, height, width), each from 1")
    node, _ = _resolve(tree, "", "", _Flow(tuple(shape)), False, 0)
    return node


def walk(tree: t.Tree, shape: Shape) -> Iterator[Node]:
    """Every layer in the order in which it runs, and each `Sum` and `Concat` after its children."""
    yield from flat(resolve(tree, shape))


def flat(node: Node) -> Iterator[Node]:
    """The nodes of a resolved tree as `walk` gives them."""
    for child in node.children:
        yield from flat(child)
    if not isinstance(node.layer, (t.Chain, t.Aux)):
        yield node


def _resolve(tree: t.Tree, path: str, name: str, flow: _Flow, training_only: bool, depth: int) -> tuple[Node, _Flow]:
    if depth > t.MAX_DEPTH:
        raise TreeError(f"{path}: the tree is deeper than {t.MAX_DEPTH}")
    where = path or type(tree).__name__
    children: list[Node] = []
    window = Window()
    match tree:
        case t.Chain():
            out = flow
            for segment, child in tree.segments():
                node, out = _resolve(child, _join(path, segment), segment, out, training_only, depth + 1)
                children.append(node)
        case t.Sum() | t.Concat():
            flows = []
            for segment, child in tree.segments():
                node, branch = _resolve(child, _join(path, segment), segment, flow, training_only, depth + 1)
                children.append(node)
                flows.append(branch)
            out = _meet(tree, where, children, flows)
        case t.Aux(head):
            node, branch = _resolve(head, path, name, flow, True, depth + 1)
            if len(branch.shape) != 1:
                raise TreeError(f"{where}: an auxiliary head ends in {_show(branch.shape)}; it must end in logits (F,)")
            children.append(node)
            out = flow
        case _:
            out, window = _layer(tree, where, flow)
    if prod(out.shape) > MAX_VALUES:
        raise TreeError(f"{where}: its output {_show(out.shape)} holds more than {MAX_VALUES} values")
    sized = flow.free and _depends_on_size(tree, flow.shape)
    node = Node(
        path, name, tree, flow.shape, out.shape, tuple(children), window, sized, training_only, out.field, out.stride
    )
    if sum(prod(weight) for weight in node.weights.values()) > MAX_VALUES:
        raise TreeError(f"{where}: its weight would hold more than {MAX_VALUES} values; use fewer filters")
    return node, out


def _join(path: str, segment: str) -> str:
    return f"{path}.{segment}" if path else segment


def _show(shape: Shape) -> str:
    return "×".join(map(str, shape)) + (" (C×H×W)" if len(shape) == 3 else " (flat)")


def _depends_on_size(layer: t.Tree, shape: Shape) -> bool:
    match layer:
        case t.Flatten():
            return len(shape) == 3
        case t.MaxPool(stride=stride, pad=pad, ceil=ceil) | t.AvgPool(stride=stride, pad=pad, ceil=ceil):
            counted = isinstance(layer, t.AvgPool) and not layer.count_include_pad and pad != 0
            return ceil or counted or (pad == "same" and (stride != 1 or isinstance(layer, t.AvgPool)))
        case t.Conv(stride=stride, pad=pad) | t.Depthwise(stride=stride, pad=pad):
            return pad == "same" and stride != 1
        case _:
            return False


def _meet(tree: t.Sum | t.Concat, where: str, children: list[Node], flows: list[_Flow]) -> _Flow:
    shapes = [flow.shape for flow in flows]
    listed = ", ".join(f"{child.name} {_show(child.output)}" for child in children)
    if isinstance(tree, t.Sum):
        if len(set(shapes)) > 1:
            raise TreeError(
                f"{where}: a Sum adds outputs of one shape, and these differ: {listed}; give the shorter path a"
                f" projection, as in Conv({shapes[0][0]}, 1, stride)"
            )
        shape = shapes[0]
    else:
        if len({(len(s), *s[1:]) for s in shapes}) > 1:
            raise TreeError(f"{where}: a Concat joins maps of one height and width, and these differ: {listed}")
        shape = (sum(s[0] for s in shapes), *shapes[0][1:])
    return _Flow(
        shape,
        any(flow.free for flow in flows),
        _largest(flow.field for flow in flows),
        _largest(flow.stride for flow in flows),
    )


def _largest(pairs: Iterator[tuple[float, float]]) -> tuple[float, float]:
    vertical, horizontal = zip(*pairs, strict=True)
    return max(vertical), max(horizontal)


def _layer(layer: t.Layer, where: str, flow: _Flow) -> tuple[_Flow, Window]:
    """The flow after one layer, and its window."""
    kind, shape = type(layer).__name__, flow.shape
    needs: Literal["map", "flat", "any"] = "map"
    if isinstance(layer, t.Linear):
        needs = "flat"
    elif isinstance(layer, (t.BatchNorm, *t.ACTIVATIONS, t.Dropout, t.Identity, t.Flatten)):
        needs = "any"
    if needs == "map" and len(shape) != 3:
        raise TreeError(f"{where}: {kind} takes a map (C, H, W), and gets {_show(shape)}; put it before the Flatten")
    if needs == "flat" and len(shape) != 1:
        raise TreeError(
            f"{where}: {kind} takes a flat input (F,), and gets {_show(shape)}; put Flatten() or GlobalAvgPool()"
            " before it"
        )
    match layer:
        case t.Conv(out, groups=groups):
            for count, what in ((shape[0], "input channels"), (out, "filters")):
                if count % groups:
                    raise TreeError(f"{where}: {count} {what} cannot be split into groups={groups}")
            return _slide(layer, where, flow, out)
        case t.Depthwise(multiplier=multiplier):
            return _slide(layer, where, flow, shape[0] * multiplier)
        case t.ConvTranspose():
            return _grow(layer, where, flow)
        case t.MaxPool() | t.AvgPool():
            return _slide(layer, where, flow, shape[0])
        case t.Linear(out):
            return replace(flow, shape=(out,)), Window()
        case t.AdaptiveAvgPool(size):
            return _adaptive(flow, _two(size)), Window()
        case t.GlobalAvgPool():
            return replace(_adaptive(flow, (1, 1)), shape=(shape[0],)), Window()
        case t.Flatten():
            return replace(_adaptive(flow, (1, 1)), shape=(prod(shape),), free=False) if len(shape) == 3 else flow, (
                Window()
            )
        case t.Subsample(stride):
            step = _two(stride)
            size = tuple(-(-n // s) for n, s in zip(shape[1:], step, strict=True))
            strides = (flow.stride[0] * step[0], flow.stride[1] * step[1])
            return replace(flow, shape=(shape[0], *size), stride=strides), Window(stride=step)
        case t.PadChannels(out):
            if out < shape[0]:
                raise TreeError(f"{where}: PadChannels({out}) cannot shrink {shape[0]} channels; use at least that many")
            return replace(flow, shape=(out, *shape[1:])), Window()
        case (
            t.BatchNorm() | t.LRN() | t.ReLU() | t.LeakyReLU() | t.Sigmoid() | t.Tanh() | t.Softmax()
            | t.Dropout() | t.Identity()
        ):  # fmt: skip
            return flow, Window()
        case _:
            assert_never(layer)


def _two(value: t.Pair) -> Two:
    return (value, value) if isinstance(value, int) else value


def _declared(pad: t.Pad) -> Sides:
    if isinstance(pad, int):
        return (pad, pad, pad, pad)
    if len(pad) == 2:
        return (pad[0], pad[0], pad[1], pad[1])
    assert len(pad) == 4
    return pad


def _slide(
    layer: t.Conv | t.Depthwise | t.MaxPool | t.AvgPool, where: str, flow: _Flow, channels: int
) -> tuple[_Flow, Window]:
    kernel, stride = _two(layer.kernel), _two(layer.stride or layer.kernel)
    convolution = isinstance(layer, (t.Conv, t.Depthwise))
    dilation = _two(layer.dilation) if isinstance(layer, (t.Conv, t.Depthwise)) else (1, 1)
    reach = tuple(d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True))
    pads: list[int] = []
    sizes: list[int] = []
    counts: list[tuple[int, ...]] = []
    for axis, n in enumerate(flow.shape[1:]):
        k, s = reach[axis], stride[axis]
        if layer.pad == "same":
            out = -(-n // s)
            total = max((out - 1) * s + k - n, 0)
            first, last, counted = total // 2, total - total // 2, (0, 0)
        else:
            first, last = _declared(layer.pad)[2 * axis : 2 * axis + 2]
            counted = (first, last)
            if not convolution and max(first, last) >= k:
                raise TreeError(
                    f"{where}: padded by {max(first, last)}, a window of {k} could lie in padding alone; pad by at"
                    f" most {k - 1}"
                )
            if n + first + last < k:
                raise TreeError(
                    f"{where}: a kernel of {reach[0]}×{reach[1]} does not fit into its input {_show(flow.shape)} padded"
                    f" by {layer.pad}; use a larger input size (this layer needs {k - first - last} {'high' if axis == 0 else 'wide'})"
                    " or a smaller kernel"
                )
            out = (n + first + last - k) // s + 1
            if getattr(layer, "ceil", False) and (n + first + last - k) % s and out * s < n + first:
                last += out * s + k - (n + first + last)
                out += 1
        pads += [first, last]
        sizes.append(out)
        counts.append(tuple(_counted(o * s - first, k, n, counted, layer) for o in range(out)))
    top, bottom, left, right = pads
    field, strides = _see(flow, (reach[0], reach[1]), stride)
    averages = (counts[0], counts[1]) if isinstance(layer, t.AvgPool) else ((), ())
    window = Window(kernel, stride, (top, bottom, left, right), dilation, counts=averages)
    return _Flow((channels, *sizes), flow.free, field, strides), window


def _counted(start: int, kernel: int, n: int, declared: Two, layer: t.Tree) -> int:
    """How many rows of a window that starts at `start` an average divides by."""
    if not isinstance(layer, t.AvgPool):
        return kernel
    before, after = declared if layer.count_include_pad else (0, 0)
    return min(start + kernel, n + after) - max(start, -before)


def _see(flow: _Flow, reach: Two, stride: Two) -> tuple[tuple[float, float], tuple[float, float]]:
    vertical, horizontal = (f + (k - 1) * j for f, k, j in zip(flow.field, reach, flow.stride, strict=True))
    return (vertical, horizontal), (flow.stride[0] * stride[0], flow.stride[1] * stride[1])


def _adaptive(flow: _Flow, size: Two) -> _Flow:
    """Cells of a grid over the map: one sees as much as the widest cell."""
    n = flow.shape[1:]
    widest = tuple(
        max(-(-(i + 1) * high // cells) - i * high // cells for i in range(cells))
        for high, cells in zip(n, size, strict=True)
    )
    step = tuple(max(high // cells, 1) for high, cells in zip(n, size, strict=True))
    field, strides = _see(flow, (widest[0], widest[1]), (step[0], step[1]))
    return _Flow((flow.shape[0], *size), False, field, strides)


def _grow(layer: t.ConvTranspose, where: str, flow: _Flow) -> tuple[_Flow, Window]:
    channels, *size = flow.shape
    kernel, stride, extra = _two(layer.kernel), _two(layer.stride), _two(layer.output_pad)
    for count, what in ((channels, "input channels"), (layer.out, "filters")):
        if count % layer.groups:
            raise TreeError(f"{where}: {count} {what} cannot be split into groups={layer.groups}")
    pads: list[int] = []
    grown: list[int] = []
    for axis, n in enumerate(size):
        k, s = kernel[axis], stride[axis]
        if layer.pad == "same":
            if k < s:
                raise TreeError(f'{where}: pad="same" needs a kernel of at least the stride {s}, and it is {k}')
            first, last = (k - s) // 2, (k - s) - (k - s) // 2
        else:
            first, last = _declared(layer.pad)[2 * axis : 2 * axis + 2]
        if extra[axis] >= s:
            raise TreeError(f"{where}: output_pad {extra[axis]} must be smaller than the stride {s}")
        out = (n - 1) * s + k - first - last + extra[axis]
        if out < 1:
            raise TreeError(f"{where}: padded by {first} and {last}, nothing is left of {_show(flow.shape)}; pad less")
        pads += [first, last]
        grown.append(out)
    top, bottom, left, right = pads
    reach = (-(-kernel[0] // stride[0]), -(-kernel[1] // stride[1]))
    field, _ = _see(flow, reach, (1, 1))
    strides = (flow.stride[0] / stride[0], flow.stride[1] / stride[1])
    window = Window(kernel, stride, (top, bottom, left, right), output_pad=extra)
    return _Flow((layer.out, *grown), flow.free, field, strides), window


# --- sums ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Summary:
    """What people look up in a paper about a network, at one input shape and for one image."""

    input: Shape
    output: Shape
    rows: tuple[Node, ...]

    @property
    def parameters(self) -> int:
        """Trainable numbers, auxiliary heads included, running statistics not."""
        return sum(row.parameters for row in self.rows)

    @property
    def inference_parameters(self) -> int:
        """Trainable numbers without the auxiliary heads."""
        return sum(row.parameters for row in self.rows if not row.training_only)

    @property
    def total(self) -> int:
        """Every stored number: the trainable ones and the running statistics."""
        return self.parameters + sum(row.statistics for row in self.rows)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of a forward pass at inference."""
        return sum(row.macs for row in self.rows if not row.training_only)

    @property
    def activations(self) -> int:
        """Bytes of every layer's output in float32 at inference, the input included: what a training step keeps."""
        return 4 * (prod(self.input) + sum(prod(row.output) for row in self.rows if not row.training_only))

    @property
    def sized(self) -> tuple[str, ...]:
        """The paths that bind the built network to this input size; empty where any size will do."""
        return tuple(row.path for row in self.rows if row.sized and not row.training_only)


def summary(tree: t.Tree, shape: Shape) -> Summary:
    """Sums over the tree at input `shape` (C, H, W)."""
    root = resolve(tree, shape)
    return Summary(root.input, root.output, tuple(flat(root)))
