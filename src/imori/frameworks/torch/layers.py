"""From resolved nodes to modules: torch's own wherever it has one, and the few that it does not have."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, assert_never

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from imori import tree as t
from imori.errors import ImoriError
from imori.frameworks.base import InputCheck
from imori.shapes import Node, Sides, Window


def module_of(node: Node) -> nn.Module:
    """The module of one node and of all below it; of an `Aux`, its head."""
    layer, window, channels = node.layer, node.window, node.input[0]
    match layer:
        case t.Chain() | t.Sum() | t.Concat():
            return _combinator(node)
        case t.Aux():
            return module_of(node.children[0])
        case t.Conv(out, groups=groups, bias=bias):
            return _conv(window, channels, out, groups, bias)
        case t.Depthwise(multiplier=multiplier, bias=bias):
            return _conv(window, channels, channels * multiplier, channels, bias)
        case t.ConvTranspose(out, groups=groups, bias=bias):
            return _conv_transpose(window, channels, out, groups, bias)
        case t.Linear(out, bias):
            return nn.Linear(channels, out, bias)
        case t.BatchNorm(eps, momentum):
            return (nn.BatchNorm2d if len(node.input) == 3 else nn.BatchNorm1d)(channels, eps, momentum)
        case t.MaxPool():
            usual = nn.MaxPool2d(window.kernel, window.stride, window.pads[::2])
            return usual if _takes(window) else PaddedMaxPool2d(window)
        case t.AvgPool():
            average = nn.AvgPool2d(window.kernel, window.stride, window.pads[::2])
            full = all(set(counts) == {k} for counts, k in zip(window.counts, window.kernel, strict=True))
            return average if full and _takes(window) else CountedAvgPool2d(window)
        case t.AdaptiveAvgPool():
            return nn.AdaptiveAvgPool2d(node.output[1:])
        case t.GlobalAvgPool():
            return GlobalAvgPool()
        case t.Flatten():
            return nn.Flatten()
        case t.LRN(size, alpha, beta, k):
            return nn.LocalResponseNorm(size, alpha * size, beta, k)  # torch's alpha multiplies the mean, ours the sum
        case t.ReLU(largest):
            return nn.ReLU() if largest is None else nn.Hardtanh(0.0, largest)
        case t.LeakyReLU(slope):
            return nn.LeakyReLU(slope)
        case t.Sigmoid():
            return nn.Sigmoid()
        case t.Tanh():
            return nn.Tanh()
        case t.Softmax():
            return nn.Softmax(dim=1)
        case t.Dropout(drop):
            return nn.Dropout(drop)
        case t.Identity():
            return nn.Identity()
        case t.Subsample():
            return Subsample(window.stride)
        case t.PadChannels(out):
            return PadChannels(out - channels)
        case t.Select(numbers):
            return Select(numbers)
        case _:
            assert_never(layer)


def _combinator(node: Node) -> nn.Module:
    modules = {child.name: module_of(child) for child in node.children}
    if isinstance(node.layer, t.Chain):
        for before, after in itertools.pairwise(node.children):
            module = modules[after.name]
            if isinstance(module, (nn.ReLU, nn.Hardtanh)):
                module.inplace = _overwritable(before)
    heads = {child.name: child.layer.weight for child in node.children if isinstance(child.layer, t.Aux)}
    if isinstance(node.layer, t.Sum):
        return Sum(modules, heads)
    if isinstance(node.layer, t.Concat):
        return Concat(modules, heads)
    if heads or any(head_weights(module) for module in modules.values()):
        return Chain(modules, heads)
    return nn.Sequential(OrderedDict(modules))


def _overwritable(node: Node) -> bool:
    """Whether only the next of a chain needs the output: it is new, and its own gradient is found without it."""
    match node.layer:
        case t.Conv() | t.Depthwise() | t.ConvTranspose() | t.Linear() | t.BatchNorm():
            return True
        case t.Sum() | t.Concat():
            return len(node.children) > 1
        case t.Chain():
            return bool(node.children) and _overwritable(node.children[-1])
        case _:
            return False


def _conv(window: Window, channels: int, out: int, groups: int, bias: bool) -> nn.Conv2d:
    if window.symmetric:
        return nn.Conv2d(
            channels, out, window.kernel, window.stride, window.pads[::2], window.dilation, groups, bias=bias
        )
    return PaddedConv2d(
        window.pads, channels, out, window.kernel, window.stride, 0, window.dilation, groups=groups, bias=bias
    )


def _conv_transpose(window: Window, channels: int, out: int, groups: int, bias: bool) -> nn.ConvTranspose2d:
    if window.symmetric:
        return nn.ConvTranspose2d(
            channels, out, window.kernel, window.stride, window.pads[::2], window.output_pad, groups, bias=bias
        )
    return CroppedConvTranspose2d(
        window.pads, channels, out, window.kernel, window.stride, 0, window.output_pad, groups=groups, bias=bias
    )


def _takes(window: Window) -> bool:
    """Whether torch's own pools take the padding: symmetric, and at most half of the kernel."""
    top, _, left, _ = window.pads
    return window.symmetric and top <= window.kernel[0] // 2 and left <= window.kernel[1] // 2


def _outward(pads: Sides) -> tuple[int, int, int, int]:
    """Top, bottom, left, right, in the order of `F.pad`: the last axis first."""
    top, bottom, left, right = pads
    return (left, right, top, bottom)


# --- layers ----------------------------------------------------------------------------------------------------------


class PaddedConv2d(nn.Conv2d):
    """A convolution with different padding on its four sides."""

    def __init__(self, pads: Sides, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.pads = _outward(pads)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, out, H', W')."""
        return super().forward(F.pad(x, self.pads))


class CroppedConvTranspose2d(nn.ConvTranspose2d):
    """A transposed convolution, cropped differently on its four sides."""

    def __init__(self, pads: Sides, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.pads = _outward(pads)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(N, C, H, W) -> (N, out, H', W')."""
        return F.pad(super().forward(x, output_size), [-pad for pad in self.pads])


class PaddedMaxPool2d(nn.MaxPool2d):
    """A max pool with any padding."""

    def __init__(self, window: Window) -> None:
        super().__init__(window.kernel, window.stride)
        self.pads = _outward(window.pads)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H', W')."""
        padded: Tensor = super().forward(F.pad(x, self.pads, value=-torch.inf))
        return padded


class CountedAvgPool2d(nn.AvgPool2d):
    """An average pool with any padding, each window's sum divided by its own count of values."""

    area: Tensor

    def __init__(self, window: Window) -> None:
        super().__init__(window.kernel, window.stride, divisor_override=1)
        self.pads = _outward(window.pads)
        # An axis on which every window counts alike keeps one count, and so takes any input size.
        rows, columns = (
            torch.tensor(counts if len(set(counts)) > 1 else counts[:1], dtype=torch.float32, device="cpu")
            for counts in window.counts
        )
        self.register_buffer("area", torch.outer(rows, columns), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H', W')."""
        return super().forward(F.pad(x, self.pads)) / self.area


class GlobalAvgPool(nn.Module):
    """The mean of each channel."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C)."""
        return x.mean((2, 3))


class Subsample(nn.Module):
    """Every so many-th row and column, from the first."""

    def __init__(self, stride: tuple[int, int]) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H', W')."""
        return x[:, :, :: self.stride[0], :: self.stride[1]]

    def extra_repr(self) -> str:
        """What print shows."""
        return f"stride={self.stride}"


class PadChannels(nn.Module):
    """Appends channels of zeros."""

    def __init__(self, more: int) -> None:
        super().__init__()
        self.more = more

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C + more, H, W)."""
        return F.pad(x, (0, 0, 0, 0, 0, self.more))

    def extra_repr(self) -> str:
        """What print shows."""
        return f"more={self.more}"


class Select(nn.Module):
    """Some of the channels, in the order given."""

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.channels = list(channels)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, len(channels), H, W)."""
        return x[:, self.channels]

    def extra_repr(self) -> str:
        """What print shows."""
        return f"channels={self.channels}"


# --- combinators -----------------------------------------------------------------------------------------------------


class Combinator(nn.Module):
    """Children by name. In training the logits of the auxiliary heads among them, and below them, follow the output.

    A head is a child by its own name. In evaluation it is not run, and in neither mode changes what passes it.
    """

    def __init__(self, modules: dict[str, nn.Module], heads: dict[str, float]) -> None:
        super().__init__()
        for name, module in modules.items():
            self.add_module(name, module)
        self._heads = heads

    def _through(self, name: str, module: nn.Module, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """A child's output, and the auxiliary logits that came with it."""
        if name in self._heads and not self.training:
            return x, ()
        out = module(x)
        first, more = (out[0], tuple(out[1:])) if isinstance(out, tuple) else (out, ())
        return (x, (first, *more)) if name in self._heads else (first, more)

    def _each(self, x: Tensor) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Every child's output for the same input, and all the auxiliary logits."""
        passed = [self._through(name, module, x) for name, module in self.named_children()]
        return [out for out, _ in passed], tuple(logits for _, more in passed for logits in more)


class Chain(Combinator):
    """One after the other, with auxiliary heads; a chain without them is an `nn.Sequential`."""

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The last output, in training (output, logits of each head, ...)."""
        logits: tuple[Tensor, ...] = ()
        for name, module in self.named_children():
            x, more = self._through(name, module, x)
            logits += more
        return (x, *logits) if logits else x


class Sum(Combinator):
    """The children's outputs for one input, added."""

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The sum, in training (sum, logits of each head, ...) if there are heads."""
        (total, *others), logits = self._each(x)
        for other in others:
            total = total + other
        return (total, *logits) if logits else total


class Concat(Combinator):
    """The children's outputs for one input, joined along the channels."""

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """What was joined, in training (joined, logits of each head, ...) if there are heads."""
        outputs, logits = self._each(x)
        joined = torch.cat(outputs, 1)
        return (joined, *logits) if logits else joined


def head_weights(module: nn.Module) -> tuple[float, ...]:
    """The weights of the auxiliary heads' losses, in the order in which the heads' logits come."""
    own = module._heads if isinstance(module, Combinator) else {}
    return tuple(
        weight
        for name, child in module.named_children()
        for weight in (*([own[name]] if name in own else []), *head_weights(child))
    )


def awake(module: nn.Module, path: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Every module that runs in evaluation, with its path: those of auxiliary heads do not."""
    yield path, module
    heads = module._heads if isinstance(module, Combinator) else {}
    for name, child in module.named_children():
        if name not in heads:
            yield from awake(child, f"{path}.{name}" if path else name)


class ScriptingError(ImoriError, AttributeError):
    """`torch.jit.script` was given a module of ours."""


class InputHook:
    """Refuses images that the network was not built for. A hook before the root, so that it is no layer among them."""

    def __init__(self, root: Node, dtype: torch.dtype) -> None:
        self.check = InputCheck(root)
        self.dtype = dtype
        """What the module was built in."""

    @property
    def __name__(self) -> str:
        """ScriptingError: `torch.jit.script` alone asks for it, to compile the hook as it would a function."""
        raise ScriptingError(
            "torch.jit.script compiles no hook that is an object, as the one that checks the images; use"
            " torch.export.export(model, (images,)) or torch.jit.trace(model, images)"
        )

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        """TreeError from the check; under `torch.compile` and `torch.export`, from its comparison of sizes alone."""
        if len(inputs) != 1:
            return  # torch's own message says it better
        shape = tuple(inputs[0].shape)
        if torch.compiler.is_compiling() or torch.jit.is_tracing():  # type: ignore[attr-defined,no-untyped-call]
            self.check.binds(shape[1:], module.training)
        else:
            self.check(shape, module.training)


def hook_of(native: nn.Module) -> InputHook:
    """What a module of ours was built from, and in."""
    return next(hook for hook in native._forward_pre_hooks.values() if isinstance(hook, InputHook))
