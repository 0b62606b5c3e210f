"""From resolved nodes to modules: Flax's own wherever it has them, functions for what has no weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar, assert_never

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from imori import tree as t
from imori.errors import ImoriError, TreeError
from imori.frameworks.base import Array, InputCheck
from imori.shapes import Node, Shape, Sides, Two, Window

Tensor: TypeAlias = jax.Array
Both: TypeAlias = tuple[Tensor, tuple[Tensor, ...]]
"""An output, and the logits of the auxiliary heads on the way to it."""
M = TypeVar("M", bound=nnx.Module)
Options: TypeAlias = dict[str, Any]
"""What every layer of Flax's with weights takes: param_dtype."""


def root_of(root: Node, dtype: str) -> Combinator:
    """The whole model, whose weights are shapes alone: no memory, and no random start that is replaced at once."""
    module = _module(root, {"param_dtype": dtype}, nnx.Rngs(dropout=0))
    native = module if isinstance(module, Combinator) else Chain({"layer": module})
    native._origin = Origin(InputCheck(root), dtype)
    return native


def _module(node: Node, options: Options, rngs: nnx.Rngs) -> nnx.Module:
    """The module of one node and of all below it; of an `Aux`, its head. `rngs` are what dropout draws from."""
    layer, window, channels = node.layer, node.window, node.input[0]
    match layer:
        case t.Chain():
            return Chain(*_children(node, options, rngs))
        case t.Sum():
            return Sum(*_children(node, options, rngs))
        case t.Concat():
            return Concat(*_children(node, options, rngs))
        case t.Aux():
            return _module(node.children[0], options, rngs)
        case t.Conv(out, groups=groups, bias=bias):
            return _conv(window, channels, out, groups, {"use_bias": bias, **options})
        case t.Depthwise(multiplier=multiplier, bias=bias):
            return _conv(window, channels, channels * multiplier, channels, {"use_bias": bias, **options})
        case t.ConvTranspose(out, groups=groups, bias=bias):
            return _conv_transpose(window, channels, out, groups, {"use_bias": bias, **options})
        case t.Linear(out, bias):
            return _abstract(nnx.Linear, channels, out, use_bias=bias, **options)
        case t.BatchNorm(eps, momentum):
            return _abstract(
                BatchNorm, channels, momentum=1 - momentum, epsilon=eps, use_fast_variance=False, **options
            )
        case t.MaxPool():
            return Function(_max_pool, window.kernel, window.stride, window.pads)
        case t.AvgPool():
            # Where every place counts the same, one number stands for all of them and holds for any input size.
            rows, columns = (counts if len(set(counts)) > 1 else counts[:1] for counts in window.counts)
            return Function(_avg_pool, window.kernel, window.stride, window.pads, (rows, columns))
        case t.AdaptiveAvgPool():
            return Function(_adaptive_avg_pool, node.output[1:])
        case t.GlobalAvgPool():
            return Function(_global_avg_pool)
        case t.Flatten():
            return Function(_flatten)
        case t.LRN(size, alpha, beta, k):
            return Function(_lrn, size, alpha, beta, k)
        case t.ReLU(largest):
            return Function(nnx.relu) if largest is None else Function(_relu, largest)
        case t.LeakyReLU(slope):
            return Function(_leaky_relu, slope)
        case t.Sigmoid():
            return Function(nnx.sigmoid)
        case t.Tanh():
            return Function(nnx.tanh)
        case t.Softmax():
            return Function(nnx.softmax)
        case t.Dropout(drop):
            return nnx.Dropout(drop, rngs=rngs)
        case t.Identity():
            return Function(nnx.identity)
        case t.Subsample():
            return Function(_subsample, window.stride)
        case t.PadChannels(out):
            return Function(_pad_channels, out - channels)
        case t.Select(chosen):
            return Function(_select, chosen)
        case _:
            assert_never(layer)


def _children(node: Node, options: Options, rngs: nnx.Rngs) -> tuple[dict[str, nnx.Module], frozenset[str]]:
    heads = frozenset(child.name for child in node.children if isinstance(child.layer, t.Aux))
    return {child.name: _module(child, options, rngs) for child in node.children}, heads


def _abstract(kind: Callable[..., M], *arguments: Any, **options: Any) -> M:
    """A layer whose weights are shapes. JAX would trace all layers at once in a time that grows as their square."""
    layer: M = nnx.eval_shape(lambda: kind(*arguments, rngs=nnx.Rngs(0), **options))
    return layer


def _conv(window: Window, channels: int, out: int, groups: int, options: Options) -> nnx.Conv:
    return _abstract(
        nnx.Conv,
        channels,
        out,
        window.kernel,
        window.stride,
        padding=_padding(window.pads),
        kernel_dilation=window.dilation,
        feature_group_count=groups,
        **options,
    )


def _conv_transpose(
    window: Window, channels: int, out: int, groups: int, options: Options
) -> nnx.ConvTranspose | nnx.Conv:
    """In groups, which `nnx.ConvTranspose` lacks, the same as a convolution of the input spread by the stride."""
    (top, bottom), (left, right) = _padding(window.pads)
    (high, wide), (below, beside) = window.kernel, window.output_pad
    padding = ((high - 1 - top, high - 1 - bottom + below), (wide - 1 - left, wide - 1 - right + beside))
    if groups == 1:
        return _abstract(
            nnx.ConvTranspose,
            channels,
            out,
            window.kernel,
            window.stride,
            padding=padding,
            transpose_kernel=True,
            **options,
        )
    return _abstract(
        nnx.Conv,
        channels,
        out,
        window.kernel,
        padding=padding,
        input_dilation=window.stride,
        feature_group_count=groups,
        **options,
    )


# --- layers ----------------------------------------------------------------------------------------------------------


class Function(nnx.Module):
    """A layer without weights: a function and its constants."""

    def __init__(self, function: Callable[..., Tensor], *constants: Any) -> None:
        self.function, self.constants = function, constants

    def __call__(self, x: Tensor) -> Tensor:
        """(N, H, W, C) or (N, F) -> what the function makes of it."""
        return self.function(x, *self.constants)


class SingleValueError(ImoriError):
    """A batch norm met one value a channel in training: its variance would be 0, and say nothing."""


class BatchNorm(nnx.BatchNorm):
    """`nnx.BatchNorm` with an unbiased running variance (N / (N - 1)), as PyTorch and imori have it; Flax's is biased.

    The batch itself is normalised by its biased variance in both.
    """

    def __call__(self, x: Tensor, use_running_average: bool | None = None, *, mask: Tensor | None = None) -> Tensor:
        """(N, ..., C) -> the same shape. SingleValueError where a batch has one value a channel."""
        stored = self.use_running_average if use_running_average is None else use_running_average
        if stored:
            return super().__call__(x, True, mask=mask)
        kept = self.momentum * self.var[...]
        y = super().__call__(x, False, mask=mask)
        count: Any = x.size if mask is None else jnp.broadcast_to(mask, x.shape).sum()
        count = count / self.num_features
        if self.axis_name is not None:
            count = lax.psum(count, self.axis_name, axis_index_groups=self.axis_index_groups)
        if not isinstance(count, Tensor) and count <= 1:
            raise SingleValueError("a batch norm cannot train on one value a channel; use a larger batch")
        self.var.set_value(kept + (self.var[...] - kept) * (count / (count - 1)))
        return y


def _relu(x: Tensor, largest: float) -> Tensor:
    return jnp.where(x >= largest, largest, nnx.relu(x))  # as `minimum`, but for the gradient at `largest`: 0


def _leaky_relu(x: Tensor, slope: float) -> Tensor:
    return jnp.where(x > 0, x, slope * x)


def _flatten(x: Tensor) -> Tensor:
    """In C, H, W order, so that the `Linear` that follows has the same weight, and slots, in every framework."""
    return channels_first(x).reshape(len(x), math.prod(x.shape[1:]))


def _max_pool(x: Tensor, kernel: Two, stride: Two, pads: Sides) -> Tensor:
    return nnx.max_pool(x, kernel, stride, _padding(pads))


def _avg_pool(x: Tensor, kernel: Two, stride: Two, pads: Sides, counts: tuple[Shape, Shape]) -> Tensor:
    """Each window's sum, divided by its own count of values."""
    area = np.outer(*counts)[:, :, None].astype(x.dtype)
    return nnx.pool(x, 0.0, lax.add, kernel, stride, _padding(pads)) / area


def _adaptive_avg_pool(x: Tensor, cells: Two) -> Tensor:
    rows, columns = (_shares(n, count) for n, count in zip(x.shape[1:3], cells, strict=True))
    return jnp.einsum("ih,nhwc,jw->nijc", rows.astype(x.dtype), x, columns.astype(x.dtype), precision="highest")


def _shares(n: int, cells: int) -> Array:
    """What each of n rows gives to the mean of each cell: (cells, n)."""
    shares = np.zeros((cells, n))
    for i in range(cells):
        first, last = i * n // cells, -(-(i + 1) * n // cells)
        shares[i, first:last] = 1 / (last - first)
    return shares


def _global_avg_pool(x: Tensor) -> Tensor:
    return x.mean((1, 2))


def _lrn(x: Tensor, size: int, alpha: float, beta: float, k: float) -> Tensor:
    reach = size // 2
    sums = lax.reduce_window(x * x, 0.0, lax.add, (1, 1, 1, size), (1, 1, 1, 1), ((0, 0),) * 3 + ((reach, reach),))
    return x / (k + alpha * sums) ** beta


def _subsample(x: Tensor, stride: Two) -> Tensor:
    return x[:, :: stride[0], :: stride[1]]


def _pad_channels(x: Tensor, more: int) -> Tensor:
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, more)))


def _select(x: Tensor, channels: tuple[int, ...]) -> Tensor:
    return x[..., np.array(channels)]


def channels_last(images: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H, W, C); (N, F) stays."""
    return images.transpose(0, 2, 3, 1) if images.ndim == 4 else images


def channels_first(x: Tensor) -> Tensor:
    """(N, H, W, C) -> (N, C, H, W); (N, F) stays."""
    return x.transpose(0, 3, 1, 2) if x.ndim == 4 else x


def _padding(pads: Sides) -> tuple[Two, Two]:
    return (pads[0], pads[1]), (pads[2], pads[3])


# --- combinators -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Origin:
    """What a model was built from. Equal for models of one network, so that they share what JAX has compiled."""

    check: InputCheck
    dtype: str

    @property
    def root(self) -> Node:
        """The resolved tree."""
        return self.check.root

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Origin) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key[1:])  # that of the whole tree takes as long as a step of a small network

    @property
    def _key(self) -> tuple[t.Tree, Shape, str]:
        return self.root.layer, self.root.input, self.dtype


class Combinator(nnx.Module):
    """Children by name, as attributes and as items. In training the logits of the heads below follow the output.

    A head is a child by its own name. In evaluation it is not run, and in neither mode changes what passes it.
    """

    def __init__(self, modules: dict[str, nnx.Module], heads: frozenset[str] = frozenset()) -> None:
        for name, module in modules.items():
            setattr(self, name, module)
        self.deterministic = False  # what `train` and `eval` set
        self._names, self._heads = tuple(modules), heads
        self._origin: Origin | None = None  # of the root alone

    def __getitem__(self, name: str | int) -> nnx.Module:
        """A child by its name: numbers are no identifiers."""
        child: nnx.Module = getattr(self, str(name))
        return child

    def set_view(self, deterministic: bool | None = None) -> None:
        """What `nnx.view` calls."""
        if deterministic is not None:
            self.deterministic = deterministic

    def __call__(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(N, H, W, C) or (N, F) -> the output, in training (output, logits of each head, ...) if there are heads."""
        if self._origin is not None:
            _check_call(self._origin, x, training=not self.deterministic)
        out, logits = self._run(x)
        return (out, *logits) if logits else out

    def _run(self, x: Tensor) -> Both:
        raise NotImplementedError

    def _through(self, name: str, x: Tensor) -> Both:
        if name in self._heads and self.deterministic:
            return x, ()
        out: Any = getattr(self, name)(x)
        first, more = (out[0], out[1:]) if isinstance(out, tuple) else (out, ())
        return (x, (first, *more)) if name in self._heads else (first, more)

    def _each(self, x: Tensor) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Every child's output for the same input, and all the auxiliary logits."""
        passed = [self._through(name, x) for name in self._names]
        return [out for out, _ in passed], tuple(logits for _, more in passed for logits in more)


class Chain(Combinator):
    """One after the other."""

    def _run(self, x: Tensor) -> Both:
        logits: tuple[Tensor, ...] = ()
        for name in self._names:
            x, more = self._through(name, x)
            logits += more
        return x, logits


class Sum(Combinator):
    """The children's outputs for one input, added."""

    def _run(self, x: Tensor) -> Both:
        (total, *others), logits = self._each(x)
        for other in others:
            total = total + other
        return total, logits


class Concat(Combinator):
    """The children's outputs for one input, joined along the channels."""

    def _run(self, x: Tensor) -> Both:
        outputs, logits = self._each(x)
        return jnp.concatenate(outputs, -1), logits


def _check_call(origin: Origin, x: Tensor, training: bool) -> None:
    """TreeError for images that the model was not built for, ImoriError where JAX would drop half of their bits."""
    if origin.dtype == "float64" and jnp.result_type(float) != "float64":
        raise ImoriError(
            "the model is in float64, which JAX has only where x64 is enabled; call it inside `with"
            " jax.enable_x64(True):`, or build it in float32"
        )
    shape = x.shape[1:]
    try:
        origin.check((*x.shape[:1], *shape[-1:], *shape[:-1]), training)
    except TreeError as error:
        raise TreeError(f"{error}; a Flax model itself takes them channels last, (N, H, W, C)") from error
