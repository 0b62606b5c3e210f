"""What a tree becomes at one input shape: every node with its path, shapes, whole-number padding, weights and costs.

Imports `tree` and nothing else. `resolve` gives the tree of nodes from which a framework builds; `walk` the same nodes
in the order in which they run; `summary` the sums. Shapes are channels first, without the batch: (C, H, W) or (F,).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import gcd, prod
from typing import Any, TypeAlias, assert_never, get_args

from imori import tree as t
from imori.errors import SizeError, TreeError

Shape: TypeAlias = tuple[int, ...]
Sides: TypeAlias = tuple[int, int, int, int]
Two: TypeAlias = tuple[int, int]

MAX_SIDE = 2**16
"""Rows or columns of a map, its padding included."""
MAX_VALUES = 2**32
"""Of a map, its padding included."""
MAX_KERNEL = 2**24
"""Values of one channel under a window."""
MAX_COLUMNS = 2**34
"""Values that im2col makes of one image: what all the places of a window hold."""
MAX_FIELD = 2**32
"""Input pixels of a receptive field or a stride."""
MAX_WEIGHTS = 2**32
SEARCHED = 1024
"""The largest height and width at which the smallest input of a tree is looked for."""


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
                return dict.fromkeys(t.ROLES, (channels,))
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
    """The tree at input `shape` (C, H, W), as nodes. TreeError where it cannot be built, with path and shapes.

    Where another input size may help it is a SizeError, which names the smallest.
    """
    if not isinstance(tree, get_args(t.Tree)):
        raise TreeError(f"{tree!r:.80} is no network; it must be a tree, as in Chain(Conv(8, 3), ...)")
    if not _is_shape(shape):
        raise TreeError(f"the input shape is {shape!r:.80}; it must be (channels, height, width), each from 1")
    _bound("the input", shape)
    try:
        return _root(tree, tuple(shape))
    except SizeError as error:
        least = smallest(tree, shape[0])
        if least is None:
            raise TreeError(str(error)) from None
        named = SizeError(f"{error}; the smallest input of this network is {shape[0]}×{least}×{least}")
        named.smallest = (shape[0], least, least)
        raise named from None


def _root(tree: t.Tree, shape: Shape) -> Node:
    root, _ = _resolve(tree, "", "", _Flow(shape), training_only=False)
    held = {node.path: sum(map(prod, node.weights.values())) for node in flat(root)}
    if sum(held.values()) > MAX_WEIGHTS:
        largest = max(held, key=lambda path: held[path])
        raise TreeError(
            f"this network would hold {sum(held.values())} weights, and the most is {MAX_WEIGHTS};"
            f" {largest or type(tree).__name__} alone has {held[largest]}: use fewer filters there or a smaller input"
        )
    return root


def _is_shape(shape: Any) -> bool:
    return isinstance(shape, (tuple, list)) and len(shape) in (1, 3) and all(type(n) is int and n > 0 for n in shape)


def _bound(where: str, shape: Shape) -> None:
    if prod(shape) > MAX_VALUES or max(shape[1:], default=1) > MAX_SIDE:
        raise TreeError(
            f"{where}: {_show(shape)} is too large; the most is {MAX_SIDE} rows or columns, {MAX_VALUES} values"
        )


def _bound_window(where: str, kernel: Two, places: Shape) -> None:
    """`places` are (channels, rows, columns) of the map from which a window reads, or to which it writes."""
    for count, most, what in (
        (prod(kernel), MAX_KERNEL, "values of a channel"),
        (prod(kernel) * prod(places), MAX_COLUMNS, f"values at the places {_show(places)}"),
    ):
        if count > most:
            raise TreeError(
                f"{where}: a kernel of {kernel[0]}×{kernel[1]} holds {count} {what}, and the most is {most}; use a"
                " smaller kernel or smaller images"
            )


def walk(tree: t.Tree, shape: Shape) -> Iterator[Node]:
    """Every layer in the order in which it runs, and each `Sum` and `Concat` after its children."""
    yield from flat(resolve(tree, shape))


def flat(node: Node) -> Iterator[Node]:
    """The nodes of a resolved tree as `walk` gives them."""
    for child in node.children:
        yield from flat(child)
    if not isinstance(node.layer, (t.Chain, t.Aux)):
        yield node


def _resolve(tree: t.Tree, path: str, name: str, flow: _Flow, training_only: bool) -> tuple[Node, _Flow]:
    where = path or type(tree).__name__
    children: list[Node] = []
    window = Window()
    sized = flow.free and _depends_on_size(tree, flow.shape)
    match tree:
        case t.Chain():
            out = flow
            for segment, child in tree.segments():
                node, out = _resolve(child, _join(path, segment), segment, out, training_only)
                children.append(node)
        case t.Sum() | t.Concat():
            flows = []
            for segment, child in tree.segments():
                node, branch = _resolve(child, _join(path, segment), segment, flow, training_only)
                children.append(node)
                flows.append(branch)
            out = _meet(tree, where, children, flows)
            # A branch of a fixed size meets one that follows the input's: they fit at this size alone.
            sized = len({branch.free for branch in flows}) > 1
        case t.Aux(head):
            try:
                node, branch = _resolve(head, path, name, flow, training_only=True)
            except SizeError as error:
                raise SizeError(
                    f"{error} (this is an auxiliary head, which serves training alone: imori.without_heads gives the"
                    " network without it)"
                ) from None
            if len(branch.shape) != 1:
                raise TreeError(f"{where}: an auxiliary head ends in {_show(branch.shape)}; it must end in logits (F,)")
            children.append(node)
            out = flow
        case _:
            out, window = _layer(tree, where, flow)
    _bound(where, out.shape)
    if max(*out.field, *out.stride) > MAX_FIELD:
        raise TreeError(
            f"{where}: an output value sees {_rounded(out.field)} input pixels and is {_rounded(out.stride)} from the"
            f" next; the most is {MAX_FIELD}: use smaller strides"
        )
    node = Node(
        path, name, tree, flow.shape, out.shape, tuple(children), window, sized, training_only, out.field, out.stride
    )
    return node, out


def _join(path: str, segment: str) -> str:
    return f"{path}.{segment}" if path else segment


def _show(shape: Shape) -> str:
    return "×".join(map(str, shape)) + (" (C×H×W)" if len(shape) == 3 else " (flat)")


def _rounded(pair: tuple[float, float]) -> str:
    return "×".join(f"{side:.3g}" for side in pair)


def _depends_on_size(layer: t.Tree, shape: Shape) -> bool:
    """Whether padding, divisors or features that were resolved at `shape` hold for it alone."""
    match layer:
        case t.Flatten():
            return len(shape) == 3
        case t.Conv(stride=stride, pad=pad) | t.Depthwise(stride=stride, pad=pad):
            return pad == "same" and stride != 1
        case t.MaxPool(stride=stride, pad=pad, ceil=ceil):
            return (ceil or pad == "same") and stride != 1
        case t.AvgPool(stride=stride, pad=pad, ceil=ceil, count_include_pad=counted):
            return (ceil and stride != 1) or pad == "same" or (pad != 0 and not counted)
        case _:
            return False


def _meet(tree: t.Sum | t.Concat, where: str, children: list[Node], flows: list[_Flow]) -> _Flow:
    shapes = [flow.shape for flow in flows]
    listed = ", ".join(f"{child.name} {_show(child.output)}" for child in children)
    if isinstance(tree, t.Sum):
        if len(set(shapes)) > 1:
            channels, *size = shapes[0]
            remedy = f"Conv({channels}, 1, stride)" if size else f"Linear({channels})"
            channels_differ = len({s[0] for s in shapes}) > 1
            raise (TreeError if channels_differ else SizeError)(
                f"{where}: a Sum adds outputs of one shape, and these differ: {listed}; project the shortcut, as in"
                f" {remedy}"
            )
        shape = shapes[0]
    else:
        if len({(len(s), *s[1:]) for s in shapes}) > 1:
            raise SizeError(f"{where}: a Concat joins maps of one height and width, and these differ: {listed}")
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
    _check_rank(layer, where, flow.shape)
    channels, *size = flow.shape
    match layer:
        case t.Conv(out, groups=groups):
            _check_groups(where, channels, out, groups)
            return _slide(layer, where, flow, out)
        case t.Depthwise(multiplier=multiplier):
            return _slide(layer, where, flow, channels * multiplier)
        case t.MaxPool() | t.AvgPool():
            return _slide(layer, where, flow, channels)
        case t.ConvTranspose(out, groups=groups):
            _check_groups(where, channels, out, groups)
            return _grow(layer, where, flow)
        case t.Linear(out):
            return replace(flow, shape=(out,)), Window()
        case t.AdaptiveAvgPool(cells):
            return _adapt(flow, _two(cells)), Window()
        case t.GlobalAvgPool():
            return replace(_adapt(flow, (1, 1)), shape=(channels,)), Window()
        case t.Flatten() if size:
            return replace(_adapt(flow, (1, 1)), shape=(prod(flow.shape),)), Window()
        case t.Subsample(stride):
            vertical, horizontal = _two(stride)
            smaller = (channels, -(-size[0] // vertical), -(-size[1] // horizontal))
            field, strides = _see(flow, (1, 1), (vertical, horizontal))
            return _Flow(smaller, flow.free, field, strides), Window(stride=(vertical, horizontal))
        case t.PadChannels(out):
            if out < channels:
                raise TreeError(
                    f"{where}: PadChannels({out}) cannot shrink {channels} channels; use at least that many"
                )
            return replace(flow, shape=(out, *size)), Window()
        case t.Select(numbers):
            if max(numbers) >= channels:
                raise TreeError(f"{where}: there is no channel {max(numbers)} among {channels}; they count from 0")
            return replace(flow, shape=(len(numbers), *size)), Window()
        case t.LRN(neighbours):
            _bound(f"{where}, its input padded by neighbours", (channels + neighbours - 1, *size))
            return flow, Window()
        case (
            t.BatchNorm() | t.ReLU() | t.LeakyReLU() | t.Sigmoid() | t.Tanh() | t.Softmax()
            | t.Dropout() | t.Identity() | t.Flatten()
        ):  # fmt: skip
            return flow, Window()
        case _:
            assert_never(layer)


def _check_rank(layer: t.Layer, where: str, shape: Shape) -> None:
    kind = type(layer).__name__
    if isinstance(layer, t.Linear):
        if len(shape) != 1:
            raise TreeError(
                f"{where}: {kind} takes a flat input (F,), and gets {_show(shape)}; put Flatten() or GlobalAvgPool()"
                " before it"
            )
    elif len(shape) != 3 and not isinstance(layer, (t.BatchNorm, *t.ACTIVATIONS, t.Dropout, t.Identity, t.Flatten)):
        raise TreeError(f"{where}: {kind} takes a map (C, H, W), and gets {_show(shape)}; put it before the Flatten")


def _check_groups(where: str, channels: int, filters: int, groups: int) -> None:
    for count, what in ((channels, "input channels"), (filters, "filters")):
        if count % groups:
            raise TreeError(f"{where}: {count} {what} cannot be split into groups={groups}; use a divisor of {count}")


def _two(value: t.Pair) -> Two:
    return (value, value) if isinstance(value, int) else value


def _declared(pad: int | tuple[int, int] | Sides) -> Sides:
    if isinstance(pad, int):
        return (pad, pad, pad, pad)
    if len(pad) == 2:
        return (pad[0], pad[0], pad[1], pad[1])
    return pad


def _slide(
    layer: t.Conv | t.Depthwise | t.MaxPool | t.AvgPool, where: str, flow: _Flow, channels: int
) -> tuple[_Flow, Window]:
    """A window that slides over the map."""
    assert layer.stride is not None
    kernel, stride = _two(layer.kernel), _two(layer.stride)
    dilation = (1, 1) if isinstance(layer, (t.MaxPool, t.AvgPool)) else _two(layer.dilation)
    reach = (dilation[0] * (kernel[0] - 1) + 1, dilation[1] * (kernel[1] - 1) + 1)
    _, high, wide = flow.shape
    _check_fit(layer, where, flow, reach)
    top, bottom, rows = _fit(layer, high, reach[0], stride[0], side=0)
    left, right, columns = _fit(layer, wide, reach[1], stride[1], side=2)
    field, strides = _see(flow, reach, stride)
    out = _Flow((channels, rows, columns), flow.free, field, strides)
    _bound(where, out.shape)
    _bound(f"{where}, its input padded", (flow.shape[0], top + high + bottom, left + wide + right))
    _bound_window(where, kernel, (flow.shape[0], rows, columns))
    window = Window(kernel, stride, (top, bottom, left, right), dilation)
    if isinstance(layer, t.AvgPool):
        vertical = _counts(layer, high, rows, kernel[0], stride[0], top, side=0)
        window = replace(window, counts=(vertical, _counts(layer, wide, columns, kernel[1], stride[1], left, side=2)))
    return out, window


def _check_fit(layer: t.Conv | t.Depthwise | t.MaxPool | t.AvgPool, where: str, flow: _Flow, reach: Two) -> None:
    """A kernel fits into its padded input, and no window of a pool lies in padding alone.

    A pool that rounds up fits where its stride's last step would still end inside, as in PyTorch.
    """
    assert layer.stride is not None
    if layer.pad == "same":
        return
    sides = _declared(layer.pad)
    rounds_up = isinstance(layer, (t.MaxPool, t.AvgPool)) and layer.ceil
    for n, k, step, (before, after), called in zip(
        flow.shape[1:], reach, _two(layer.stride), (sides[:2], sides[2:]), ("high", "wide"), strict=True
    ):
        least = k - before - after - (step - 1 if rounds_up else 0)
        if n < least:
            raise SizeError(
                f"{where}: a kernel of {reach[0]}×{reach[1]} does not fit into its input {_show(flow.shape)} padded by"
                f" {layer.pad}; this layer's input must be {least} {called} at least: use larger images or"
                " a smaller kernel"
            )
        if isinstance(layer, (t.MaxPool, t.AvgPool)) and max(before, after) >= k:
            raise TreeError(
                f"{where}: padded by {max(before, after)}, a window of {k} would lie in padding alone; pad by at most"
                f" {k - 1}"
            )


def _fit(
    layer: t.Conv | t.Depthwise | t.MaxPool | t.AvgPool, n: int, reach: int, stride: int, side: int
) -> tuple[int, int, int]:
    """(padding before, padding after, output size) along one axis; `side` is where its padding begins in the sides."""
    if layer.pad == "same":
        out = -(-n // stride)
        total = max((out - 1) * stride + reach - n, 0)
        return total // 2, total - total // 2, out
    before, after = _declared(layer.pad)[side : side + 2]
    steps, rest = divmod(n + before + after - reach, stride)
    if isinstance(layer, (t.MaxPool, t.AvgPool)) and layer.ceil and rest and (steps + 1) * stride < n + before:
        return before, after + stride - rest, steps + 2
    return before, after, steps + 1


def _counts(layer: t.AvgPool, n: int, out: int, kernel: int, stride: int, before: int, side: int) -> tuple[int, ...]:
    """How many rows (or columns) each mean is over: those of the input, and declared padding where it is counted."""
    first, last = (0, 0)
    if layer.count_include_pad and layer.pad != "same":
        first, last = _declared(layer.pad)[side : side + 2]
    starts = range(-before, -before + out * stride, stride)
    return tuple(min(start + kernel, n + last) - max(start, -first) for start in starts)


def _see(flow: _Flow, reach: Two, stride: Two) -> tuple[tuple[float, float], tuple[float, float]]:
    """The receptive field and the stride after a window of `reach` that moves by `stride`."""
    vertical, horizontal = (f + (k - 1) * j for f, k, j in zip(flow.field, reach, flow.stride, strict=True))
    return (vertical, horizontal), (flow.stride[0] * stride[0], flow.stride[1] * stride[1])


def _adapt(flow: _Flow, cells: Two) -> _Flow:
    """A grid of cells over the map, whatever its size; a value sees as much as the widest cell."""
    channels, high, wide = flow.shape
    reach = (_widest(high, cells[0]), _widest(wide, cells[1]))
    field, strides = _see(flow, reach, (max(high // cells[0], 1), max(wide // cells[1], 1)))
    return _Flow((channels, *cells), False, field, strides)


def _widest(n: int, cells: int) -> int:
    """The rows of the widest cell: cell i covers floor(i n / cells) to ceil((i + 1) n / cells).

    A cell starts at most (cells - gcd) / cells into its first row, so this is the ceiling of that plus n / cells.
    """
    return -(-(n + cells - gcd(n, cells)) // cells)


def _grow(layer: t.ConvTranspose, where: str, flow: _Flow) -> tuple[_Flow, Window]:
    """A transposed convolution: the size of the full result, cropped and grown."""
    kernel, stride, extra = _two(layer.kernel), _two(layer.stride), _two(layer.output_pad)
    pads: list[int] = []
    size: list[int] = []
    full: list[int] = []
    for n, k, s, more, side in zip(flow.shape[1:], kernel, stride, extra, (0, 2), strict=True):
        if layer.pad == "same":
            if k < s:
                raise TreeError(f'{where}: pad="same" needs a kernel of at least the stride {s}, and it is {k}')
            crop = ((k - s) // 2, (k - s) - (k - s) // 2)
        else:
            sides = _declared(layer.pad)
            crop = (sides[side], sides[side + 1])
        if more >= s:
            raise TreeError(f"{where}: output_pad {more} must be smaller than the stride {s}")
        full.append((n - 1) * s + k + more)
        size.append(full[-1] - sum(crop))
        if size[-1] < 1:
            raise SizeError(f"{where}: cropped by {sum(crop)}, nothing is left of {_show(flow.shape)}; pad less")
        pads += crop
    _bound(f"{where}, its output before it is cropped", (layer.out, *full))
    _bound_window(where, kernel, (layer.out, *flow.shape[1:]))
    top, bottom, left, right = pads
    # One output value sees ceil(kernel / stride) input values along each axis.
    field, _ = _see(flow, (-(-kernel[0] // stride[0]), -(-kernel[1] // stride[1])), (1, 1))
    strides = (flow.stride[0] / stride[0], flow.stride[1] / stride[1])
    window = Window(kernel, stride, (top, bottom, left, right), output_pad=extra)
    return _Flow((layer.out, *size), flow.free, field, strides), window


# --- the smallest input ----------------------------------------------------------------------------------------------


_Known: TypeAlias = dict[tuple[int, Shape], _Flow | None]


def smallest(tree: t.Tree, channels: int) -> int | None:
    """The smallest n at which the tree can be built for images (channels, n, n), auxiliary heads included.

    None where it cannot at any n up to `SEARCHED`. Not every size above it need do: see `sizes`.
    """
    for n in sizes(tree, channels):
        try:
            _root(tree, (channels, n, n))
        except TreeError:
            return None
        return n
    return None


def sizes(tree: t.Tree, channels: int) -> Iterator[int]:
    """Every n, the smallest first, at which the maps of the tree fit for images (channels, n, n), up to `SEARCHED`.

    There may be gaps: a pool and a convolution that meet in a Sum may agree on the even sizes alone.
    """
    known: _Known = {}
    for n in range(1, SEARCHED + 1):
        try:
            if _through(tree, _Flow((channels, n, n)), known) is not None:
                yield n
        except TreeError:  # no size is to blame
            return


def _through(tree: t.Tree, flow: _Flow, known: _Known) -> _Flow | None:
    """The flow after the tree; None where the size does not fit.

    `known` holds the answers: most of a deep network lies behind strides, where many input sizes come to one.
    """
    key = (id(tree), flow.shape)
    if key not in known:
        try:
            known[key] = _beyond(tree, flow, known)
        except SizeError:
            known[key] = None
    return known[key]


def _beyond(tree: t.Tree, flow: _Flow, known: _Known) -> _Flow | None:
    match tree:
        case t.Chain(children):
            out: _Flow | None = flow
            for _, child in children:
                out = _through(child, out, known) if out is not None else None
            return out
        case t.Sum(children) | t.Concat(children):
            flows = [_through(child, flow, known) for _, child in children]
            met = [branch for branch in flows if branch is not None]
            return _meet(tree, "", [], met) if len(met) == len(flows) else None
        case t.Aux(head):
            return flow if _through(head, flow, known) is not None else None
        case _:
            return _layer(tree, "", flow)[0]


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
