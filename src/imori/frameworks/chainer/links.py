"""From resolved nodes to links: Chainer's own wherever it has one, and a `Function` where it has a function."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, assert_never

import numpy as np

from imori import tree as t
from imori.frameworks.base import Array
from imori.frameworks.chainer.shims import F, L, chainer
from imori.shapes import Node, Sides, Window

Variable: TypeAlias = Any


def link_of(node: Node) -> chainer.Link:
    """The link of one node and of all below it; of an `Aux`, its head. All weights are 0: they are loaded later."""
    layer, window, channels = node.layer, node.window, node.input[0]
    match layer:
        case t.Chain() | t.Sum() | t.Concat():
            return _combinator(node)
        case t.Aux():
            return link_of(node.children[0])
        case t.Conv(out, groups=groups, bias=bias):
            return _convolution(window, channels, out, groups, bias)
        case t.Depthwise(multiplier=multiplier, bias=bias):
            return _depthwise(window, channels, multiplier, bias)
        case t.ConvTranspose(out, groups=groups, bias=bias):
            return _deconvolution(window, channels, out, groups, bias)
        case t.Linear(out, bias):
            return L.Linear(channels, out, nobias=not bias, initialW=0)
        case t.BatchNorm(eps, momentum):
            return L.BatchNormalization(channels, decay=1 - momentum, eps=eps)
        case t.MaxPool():
            return _max_pool(window)
        case t.AvgPool():
            return _average_pool(window)
        case t.AdaptiveAvgPool():
            return Function(adaptive_average_pooling_2d, size=node.output[1:])
        case t.GlobalAvgPool():
            return Function(F.average, axis=(2, 3))
        case t.Flatten():
            return Function(flatten)
        case t.LRN(size, alpha, beta, k):
            return Function(F.local_response_normalization, n=size, k=k, alpha=alpha, beta=beta)
        case t.ReLU(largest):
            return Function(F.relu) if largest is None else Function(F.clipped_relu, z=largest)
        case t.LeakyReLU(slope):
            return Function(F.leaky_relu, slope=slope)
        case t.Sigmoid():
            return Function(F.sigmoid)
        case t.Tanh():
            return Function(F.tanh)
        case t.Softmax():
            return Function(F.softmax, axis=1)
        case t.Dropout(drop):
            return Dropout(drop)
        case t.Identity():
            return Function(F.identity)
        case t.Subsample():
            return Function(subsample, stride=window.stride)
        case t.PadChannels(out):
            return Function(F.pad, pad_width=((0, 0), (0, out - channels), (0, 0), (0, 0)), mode="constant")
        case t.Select(numbers):
            return Function(select, channels=numbers)
        case _:
            assert_never(layer)


def _combinator(node: Node) -> Combinator:
    links = {child.name: link_of(child) for child in node.children}
    heads = {child.name: child.layer.weight for child in node.children if isinstance(child.layer, t.Aux)}
    if isinstance(node.layer, t.Sum):
        return Sum(links, heads)
    return Concat(links, heads) if isinstance(node.layer, t.Concat) else Chain(links, heads)


def _convolution(window: Window, channels: int, out: int, groups: int, bias: bool) -> L.Convolution2D:
    options = {"nobias": not bias, "initialW": 0, "dilate": window.dilation, "groups": groups}
    if window.symmetric:
        return L.Convolution2D(channels, out, window.kernel, window.stride, window.pads[::2], **options)
    return PaddedConvolution2D(window.pads, channels, out, window.kernel, window.stride, **options)


def _depthwise(window: Window, channels: int, multiplier: int, bias: bool) -> L.DepthwiseConvolution2D:
    """Chainer's own where it takes the padding and has our order of channels, else a grouped convolution."""
    if window.symmetric and window.dilation == (1, 1) and multiplier == 1:
        options = {"nobias": not bias, "initialW": 0}
        return L.DepthwiseConvolution2D(channels, 1, window.kernel, window.stride, window.pads[::2], **options)
    return _convolution(window, channels, channels * multiplier, channels, bias)


def _deconvolution(window: Window, channels: int, out: int, groups: int, bias: bool) -> L.Deconvolution2D:
    options = {"nobias": not bias, "initialW": 0, "groups": groups}
    if window.symmetric and window.output_pad == (0, 0):
        return L.Deconvolution2D(channels, out, window.kernel, window.stride, window.pads[::2], **options)
    return CroppedDeconvolution2D(window, channels, out, window.kernel, window.stride, **options)


def _max_pool(window: Window) -> Function:
    pool = {"ksize": window.kernel, "stride": window.stride}
    if window.symmetric:
        return Function(F.max_pooling_2d, **pool, pad=window.pads[::2], cover_all=False)
    return Function(padded_max_pooling_2d, **pool, pads=window.pads)


def _average_pool(window: Window) -> Function:
    pool = {"ksize": window.kernel, "stride": window.stride}
    if window.symmetric and all(set(counts) == {k} for counts, k in zip(window.counts, window.kernel, strict=True)):
        return Function(F.average_pooling_2d, **pool, pad=window.pads[::2])
    # An axis on which every window counts alike keeps one count, and so takes any input size.
    counts = tuple(counts if len(set(counts)) > 1 else counts[:1] for counts in window.counts)
    return Function(counted_average_pooling_2d, **pool, pads=window.pads, counts=counts)


# --- links -----------------------------------------------------------------------------------------------------------


class Function(chainer.Link):
    """A function with its options as a link: it has a name among the others, prints, and takes link hooks."""

    def __init__(self, function: Callable[..., Variable], **options: Any) -> None:
        super().__init__()
        self.function, self.options = function, options

    def forward(self, x: Variable) -> Variable:
        """Its value."""
        return self.function(chainer.as_variable(x), **self.options)

    @property
    def printable_specs(self) -> Iterator[tuple[str, Any]]:
        """What print shows."""
        yield "function", self.function.__name__
        yield from self.options.items()


class Dropout(chainer.Link):
    """Dropout with Chainer's masks, or where `rng` is set, as a training step sets it, with masks drawn from that."""

    def __init__(self, ratio: float) -> None:
        super().__init__()
        self.ratio = ratio
        self.rng: np.random.Generator | None = None

    def forward(self, x: Variable) -> Variable:
        """Any shape; x itself at inference."""
        mask = None
        if self.rng is not None:
            stays = self.rng.random(x.shape, np.float32) >= self.ratio
            mask = self.xp.asarray(stays * x.dtype.type(1 / (1 - self.ratio)))
        return F.dropout(x, self.ratio, mask=mask)

    @property
    def printable_specs(self) -> Iterator[tuple[str, Any]]:
        """What print shows."""
        yield "ratio", self.ratio


class PaddedConvolution2D(L.Convolution2D):
    """A convolution with different padding on its four sides."""

    def __init__(self, pads: Sides, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.pads = pads

    def forward(self, x: Variable) -> Variable:
        """(N, C, H, W) -> (N, out, H', W')."""
        return super().forward(_padded(x, self.pads))


class CroppedDeconvolution2D(L.Deconvolution2D):
    """A transposed convolution whose full result grows at the bottom and the right, and is then cropped."""

    def __init__(self, window: Window, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.pads, self.output_pad = window.pads, window.output_pad

    def forward(self, x: Variable) -> Variable:
        """(N, C, H, W) -> (N, out, H', W')."""
        axes = zip(x.shape[2:], self.stride, self.ksize, self.output_pad, strict=True)
        high, wide = ((n - 1) * stride + kernel + more for n, stride, kernel, more in axes)
        full = F.deconvolution_2d(x, self.W, self.b, self.stride, outsize=(high, wide), groups=self.groups)
        top, bottom, left, right = self.pads
        return full[:, :, top : high - bottom, left : wide - right]


# --- functions -------------------------------------------------------------------------------------------------------


def _padded(x: Variable, pads: Sides, value: float = 0.0) -> Variable:
    top, bottom, left, right = pads
    return F.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), "constant", constant_values=value)


def padded_max_pooling_2d(x: Variable, pads: Sides, **pool: Any) -> Variable:
    """A max pool with different padding on its four sides."""
    return F.max_pooling_2d(_padded(x, pads, -np.inf), **pool, cover_all=False)


def counted_average_pooling_2d(x: Variable, pads: Sides, counts: Sequence[Sequence[int]], **pool: Any) -> Variable:
    """An average pool with any padding, each window's sum divided by its own count of values: rows times columns."""
    rows, columns = counts
    share = math.prod(pool["ksize"]) / np.outer(rows, columns)
    means = F.average_pooling_2d(_padded(x, pads), **pool)
    return means * F.broadcast_to(means.xp.asarray(share, x.dtype), means.shape)


def adaptive_average_pooling_2d(x: Variable, size: tuple[int, int]) -> Variable:
    """The means of a grid of cells: (N, C, H, W) -> (N, C, *size), first along the rows, then along the columns."""
    rows, columns = (x.xp.asarray(_cells(n, count), x.dtype) for n, count in zip(x.shape[2:], size, strict=True))
    return F.tensordot(F.tensordot(x, rows, axes=((2,), (1,))), columns, axes=((2,), (1,)))


def _cells(length: int, count: int) -> Array:
    """(count, length): line i is the mean over cell i, from floor(i length / count) to ceil((i + 1) length / count)."""
    lines = np.zeros((count, length))
    for i, line in enumerate(lines):
        first, last = i * length // count, -(-(i + 1) * length // count)
        line[first:last] = 1 / (last - first)
    return lines


def flatten(x: Variable) -> Variable:
    """(N, C, H, W) -> (N, C · H · W): `F.flatten` would flatten the batch too."""
    return F.reshape(x, (len(x), math.prod(x.shape[1:])))


def subsample(x: Variable, stride: tuple[int, int]) -> Variable:
    """Every so many-th row and column, from the first."""
    return x[:, :, :: stride[0], :: stride[1]]


def select(x: Variable, channels: Sequence[int]) -> Variable:
    """Some of the channels, in the order given."""
    return x[:, list(channels)]


# --- combinators -----------------------------------------------------------------------------------------------------


class Combinator(chainer.Chain):
    """Links by name. In training the logits of the auxiliary heads among them, and below them, follow the output.

    A head is a link by its own name. At inference it is not run, and in neither mode changes what passes it.
    """

    def __init__(self, links: Mapping[str, chainer.Link], heads: Mapping[str, float]) -> None:
        super().__init__()
        self._order, self._heads = tuple(links), dict(heads)
        for name, link in links.items():
            self.add_link(name, link)

    def children(self) -> Iterator[chainer.Link]:
        """In the order in which they run, where Chainer sorts them by name."""
        return (self[name] for name in self._order)

    def _through(self, link: chainer.Link, x: Variable) -> tuple[Variable, tuple[Variable, ...]]:
        """A child's output, and the auxiliary logits that came with it."""
        is_head = link.name in self._heads
        if is_head and not chainer.config.train:
            return x, ()
        out = link(x)
        first, more = (out[0], out[1:]) if isinstance(out, tuple) else (out, ())
        return (x, (first, *more)) if is_head else (first, more)

    def _each(self, x: Variable) -> tuple[list[Variable], tuple[Variable, ...]]:
        """Every child's output for the same input, and all the auxiliary logits."""
        passed = [self._through(link, x) for link in self.children()]
        return [out for out, _ in passed], tuple(logits for _, more in passed for logits in more)


class Chain(Combinator):
    """One after the other."""

    def forward(self, x: Variable) -> Variable:
        """The last output, in training (output, logits of each head, ...) if there are heads."""
        logits: tuple[Variable, ...] = ()
        for link in self.children():
            x, more = self._through(link, x)
            logits += more
        return (x, *logits) if logits else x


class Sum(Combinator):
    """The children's outputs for one input, added."""

    def forward(self, x: Variable) -> Variable:
        """The sum, in training (sum, logits of each head, ...) if there are heads."""
        outputs, logits = self._each(x)
        total = functools.reduce(operator.add, outputs)
        return (total, *logits) if logits else total


class Concat(Combinator):
    """The children's outputs for one input, joined along the channels."""

    def forward(self, x: Variable) -> Variable:
        """What was joined, in training (joined, logits of each head, ...) if there are heads."""
        outputs, logits = self._each(x)
        joined = F.concat(outputs, axis=1)
        return (joined, *logits) if logits else joined


def walk(link: chainer.Link, path: str = "", heads: bool = True) -> Iterator[tuple[str, chainer.Link]]:
    """Every link with its path, in the order in which they run; the auxiliary heads with what is in them, or not."""
    yield path, link
    for child in link.children():
        if heads or child.name not in link._heads:
            yield from walk(child, f"{path}.{child.name}" if path else child.name, heads)


def head_weights(link: chainer.Link) -> tuple[float, ...]:
    """The weights of the auxiliary heads' losses, in the order in which the heads' logits come."""
    return tuple(
        weight
        for child in link.children()
        for weight in (*([link._heads[child.name]] if child.name in link._heads else []), *head_weights(child))
    )
