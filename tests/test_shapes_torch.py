"""The walk beside PyTorch: sizes, resolved padding, averages' divisors, weights' shapes and multiply-accumulates."""

from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from imori.shapes import Node, Shape, walk
from imori.tree import (
    AdaptiveAvgPool,
    AvgPool,
    BatchNorm,
    Chain,
    Conv,
    ConvTranspose,
    Depthwise,
    GlobalAvgPool,
    Linear,
    MaxPool,
    ReLU,
    Subsample,
    Tree,
)

torch = pytest.importorskip("torch", reason="torch is not installed")
F = torch.nn.functional
FlopCounterMode = pytest.importorskip("torch.utils.flop_counter").FlopCounterMode

calm = [HealthCheck.too_slow, HealthCheck.filter_too_much]
quick = settings(max_examples=80, deadline=None, suppress_health_check=calm)
sizes = st.tuples(st.integers(1, 14), st.integers(1, 14))
kernels = st.tuples(st.integers(1, 5), st.integers(1, 5))
strides = st.tuples(st.integers(1, 3), st.integers(1, 3))
margins = st.tuples(st.integers(0, 3), st.integers(0, 3))
dilations = st.tuples(st.integers(1, 3), st.integers(1, 3))


def only(layer: Tree, shape: Shape) -> Node:
    (node,) = walk(layer, shape)
    return node


def image(*shape: int) -> Any:
    return torch.randn(1, *shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def padded(x: Any, node: Node, value: float) -> Any:
    top, bottom, left, right = node.window.pads
    return F.pad(x, (left, right, top, bottom), value=value)


@quick
@given(sizes, kernels, strides, margins, dilations, st.sampled_from([1, 2]))
def test_convolutions_have_torch_sizes(
    size: Any, kernel: Any, stride: Any, pad: Any, dilation: Any, groups: int
) -> None:
    assume(all(n + 2 * p >= d * (k - 1) + 1 for n, k, p, d in zip(size, kernel, pad, dilation, strict=True)))
    node = only(Conv(6, kernel, stride, pad, groups, dilation), (4, *size))
    module = torch.nn.Conv2d(4, 6, kernel, stride, pad, dilation, groups)
    assert module(image(4, *size).float()).shape[1:] == node.output
    assert {name: tuple(weight.shape) for name, weight in module.named_parameters()} == node.weights


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel:UserWarning")
@quick
@given(sizes, kernels, dilations)
def test_same_is_torch_same_where_torch_has_it(size: Any, kernel: Any, dilation: Any) -> None:
    node = only(Conv(3, kernel, 1, "same", dilation=dilation), (2, *size))
    x, weight = image(2, *size), image(3, 2, *kernel)[0]
    expected = F.conv2d(x, weight, padding="same", dilation=dilation)
    torch.testing.assert_close(F.conv2d(padded(x, node, 0), weight, dilation=dilation), expected)
    assert node.output == expected.shape[1:]


@quick
@given(sizes, kernels, strides, margins, margins)
def test_transposed_convolutions_have_torch_sizes(size: Any, kernel: Any, stride: Any, pad: Any, extra: Any) -> None:
    extra = tuple(e % s for e, s in zip(extra, stride, strict=True))
    grown = [(n - 1) * s + k - 2 * p + e for n, s, k, p, e in zip(size, stride, kernel, pad, extra, strict=True)]
    assume(min(grown) > 0)
    node = only(ConvTranspose(6, kernel, stride, pad, extra, groups=2), (4, *size))
    module = torch.nn.ConvTranspose2d(4, 6, kernel, stride, pad, extra, groups=2)
    assert module(image(4, *size).float()).shape[1:] == node.output
    assert {name: tuple(weight.shape) for name, weight in module.named_parameters()} == node.weights


def pools(size: Any, kernel: Any, stride: Any, pad: Any, ceil: bool) -> bool:
    """Whether torch pools so: rounding up, it lets the only window end outside."""
    return all(
        2 * p <= k and p < k and n + 2 * p >= k - (s - 1) * ceil
        for n, k, s, p in zip(size, kernel, stride, pad, strict=True)
    )


@quick
@given(sizes, kernels, strides, margins, st.booleans())
def test_max_pools_are_those_of_torch_on_resolved_padding(
    size: Any, kernel: Any, stride: Any, pad: Any, ceil: bool
) -> None:
    assume(pools(size, kernel, stride, pad, ceil))
    x = image(2, *size)
    node = only(MaxPool(kernel, stride, pad, ceil), (2, *size))
    expected = F.max_pool2d(x, kernel, stride, pad, ceil_mode=ceil)
    assert node.output == expected.shape[1:]
    found = F.max_pool2d(padded(x, node, -torch.inf), kernel, stride)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@quick
@given(sizes, kernels, strides, margins, st.booleans(), st.booleans())
def test_averages_are_those_of_torch_by_resolved_divisors(
    size: Any, kernel: Any, stride: Any, pad: Any, ceil: bool, counted: bool
) -> None:
    assume(pools(size, kernel, stride, pad, ceil))
    x = image(2, *size)
    node = only(AvgPool(kernel, stride, pad, ceil, counted), (2, *size))
    expected = F.avg_pool2d(x, kernel, stride, pad, ceil_mode=ceil, count_include_pad=counted)
    assert node.output == expected.shape[1:]
    rows, columns = (torch.tensor(counts, dtype=torch.float64) for counts in node.window.counts)
    sums = F.avg_pool2d(padded(x, node, 0), kernel, stride, divisor_override=1)
    torch.testing.assert_close(sums / torch.outer(rows, columns), expected)


@quick
@given(sizes, kernels)
def test_the_grid_and_the_subsample_have_torch_sizes(size: Any, cells: Any) -> None:
    x = image(2, *size)
    assert only(AdaptiveAvgPool(cells), (2, *size)).output == F.adaptive_avg_pool2d(x, cells).shape[1:]
    assert only(Subsample(cells), (2, *size)).output == x[:, :, :: cells[0], :: cells[1]].shape[1:]


def test_weights_of_dense_layers_and_norms_are_those_of_torch() -> None:
    linear, norm = torch.nn.Linear(7, 5), torch.nn.BatchNorm2d(6)
    assert only(Linear(5), (7,)).weights == {name: tuple(w.shape) for name, w in linear.named_parameters()}
    roles = {"weight": "weight", "bias": "bias", "running_mean": "mean", "running_var": "var"}
    state = {roles[name]: tuple(w.shape) for name, w in norm.state_dict().items() if name in roles}
    assert only(BatchNorm(), (6, 4, 4)).weights == state


MODULES: list[tuple[Tree, Shape, Any]] = [
    (Conv(8, 3, 2, 1, groups=2), (6, 11, 9), lambda: torch.nn.Conv2d(6, 8, 3, 2, 1, groups=2)),
    (
        Conv(8, (3, 1), dilation=2, bias=False),
        (5, 11, 9),
        lambda: torch.nn.Conv2d(5, 8, (3, 1), dilation=2, bias=False),
    ),
    (Depthwise(3, pad=1, multiplier=2), (5, 11, 9), lambda: torch.nn.Conv2d(5, 10, 3, padding=1, groups=5)),
    (ConvTranspose(8, 3, 2, 1, 1), (6, 11, 9), lambda: torch.nn.ConvTranspose2d(6, 8, 3, 2, 1, 1)),
    (Linear(8), (6,), lambda: torch.nn.Linear(6, 8)),
]


@pytest.mark.parametrize(("layer", "shape", "module"), MODULES, ids=[repr(case[0]) for case in MODULES])
def test_multiply_accumulates_are_half_of_torch_flops(layer: Tree, shape: Shape, module: Any) -> None:
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        module()(image(*shape).float())
    assert 2 * only(layer, shape).macs == counter.get_total_flops()


def test_multiply_accumulates_of_a_whole_network_are_half_of_torch_flops() -> None:
    nn = torch.nn
    tree = Chain(
        a=Conv(8, 3, 2, 1),
        b=BatchNorm(),
        c=ReLU(),
        d=MaxPool(2),
        e=Conv(12, 3, groups=4),
        f=GlobalAvgPool(),
        g=Linear(7),
    )
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 12, 3, groups=4),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 7),
    ).eval()  # fmt: skip
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        module(image(3, 33, 27).float())
    assert 2 * sum(node.macs for node in walk(tree, (3, 33, 27))) == counter.get_total_flops()


@settings(max_examples=40, deadline=None, suppress_health_check=calm)
@given(st.lists(st.tuples(kernels, strides, dilations), min_size=1, max_size=3), st.sampled_from([MaxPool(2, 1), None]))
def test_a_receptive_field_is_where_a_gradient_reaches(rows: Any, pool: Tree | None) -> None:
    """The pixels that change one output value, in a map wide enough that no border cuts them off."""
    layers = [Conv(1, kernel, stride, dilation=dilation) for kernel, stride, dilation in rows]
    side = 1
    for kernel, stride, dilation in reversed(rows):
        side = (side + 1) * max(stride) + max(dilation) * max(kernel)
    (*_, last) = walk(Chain(*layers, *([pool] if pool else [])), (1, side + 8, side + 8))
    x = image(1, side + 8, side + 8).requires_grad_()
    y = x
    for kernel, stride, dilation in rows:
        y = F.conv2d(y, image(1, 1, *kernel)[0].abs() + 0.1, stride=stride, dilation=dilation)
    if pool:
        y = F.avg_pool2d(y, 2, 1)
    y[0, 0, 0, 0].backward()
    reached = x.grad[0, 0].nonzero()
    extent = reached.max(0).values - reached.min(0).values + 1
    assert tuple(extent.tolist()) == last.receptive_field
