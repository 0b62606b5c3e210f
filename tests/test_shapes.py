"""The walk: shapes, padding in whole numbers, costs, receptive fields, what binds a network to a size, and errors."""

import tracemalloc
from dataclasses import fields
from math import prod
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imori import tree as t
from imori.errors import TreeError
from imori.shapes import (
    MAX_COLUMNS,
    MAX_FIELD,
    MAX_KERNEL,
    MAX_SIDE,
    MAX_VALUES,
    MAX_WEIGHTS,
    Node,
    Shape,
    flat,
    resolve,
    summary,
    walk,
)
from imori.tree import (
    LRN,
    AdaptiveAvgPool,
    Aux,
    AvgPool,
    BatchNorm,
    Chain,
    Concat,
    Conv,
    ConvTranspose,
    Depthwise,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Identity,
    Linear,
    MaxPool,
    PadChannels,
    ReLU,
    Select,
    Sigmoid,
    Subsample,
    Sum,
    Tree,
)

quick = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
sides = st.integers(1, 30)


def only(layer: Tree, shape: Shape) -> Node:
    (node,) = walk(layer, shape)
    return node


def by_path(tree: Tree, shape: Shape) -> dict[str, Node]:
    return {node.path: node for node in walk(tree, shape)}


# --- the walk --------------------------------------------------------------------------------------------------------

BRANCHED = Chain(
    stem=Conv(8, 3, pad=1, bias=False),
    block=Sum(body=Chain(conv=Conv(8, 1), bn=BatchNorm()), shortcut=Identity()),
    aux=Aux(Chain(pool=GlobalAvgPool(), fc=Linear(3))),
    join=Concat(a=MaxPool(3, 2), b=Chain(conv=Conv(4, 3, 2))),
    drop=Dropout(),
    pool=GlobalAvgPool(),
    fc=Linear(5),
)


def test_the_walk_follows_the_order_in_which_layers_run() -> None:
    rows = [(node.path, node.input, node.output) for node in walk(BRANCHED, (3, 9, 11))]
    assert rows == [
        ("stem", (3, 9, 11), (8, 9, 11)),
        ("block.body.conv", (8, 9, 11), (8, 9, 11)),
        ("block.body.bn", (8, 9, 11), (8, 9, 11)),
        ("block.shortcut", (8, 9, 11), (8, 9, 11)),
        ("block", (8, 9, 11), (8, 9, 11)),
        ("aux.pool", (8, 9, 11), (8,)),
        ("aux.fc", (8,), (3,)),
        ("join.a", (8, 9, 11), (8, 4, 5)),
        ("join.b.conv", (8, 9, 11), (4, 4, 5)),
        ("join", (8, 9, 11), (12, 4, 5)),
        ("drop", (12, 4, 5), (12, 4, 5)),
        ("pool", (12, 4, 5), (12,)),
        ("fc", (12,), (5,)),
    ]


def test_a_resolved_tree_keeps_its_combinators() -> None:
    root = resolve(BRANCHED, (3, 9, 11))
    assert (root.path, root.name, root.input, root.output) == ("", "", (3, 9, 11), (5,))
    assert [child.name for child in root.children] == ["stem", "block", "aux", "join", "drop", "pool", "fc"]
    aux = root.children[2]
    assert (aux.path, aux.input, aux.output) == ("aux", (8, 9, 11), (8, 9, 11))
    assert [node.path for node in flat(aux)] == ["aux.pool", "aux.fc"]
    assert [node.path for node in flat(root) if node.training_only] == ["aux.pool", "aux.fc"]


def test_sums_leave_auxiliary_heads_out_of_inference() -> None:
    counted = summary(BRANCHED, (3, 9, 11))
    main = 3 * 8 * 9 + (8 * 8 + 8) + 16 + (8 * 4 * 9 + 4) + (12 * 5 + 5)
    head = 8 * 3 + 3
    assert counted.parameters == main + head
    assert counted.inference_parameters == main
    assert counted.total == main + head + 16
    assert counted.macs == 9 * 11 * (3 * 8 * 9 + 8 * 8) + 4 * 5 * 8 * 4 * 9 + 12 * 5
    maps = 3 * 99 + 8 * 99 * 5 + 8 * 20 + 4 * 20 + 12 * 20 * 2 + 12 + 5
    assert counted.activations == 4 * maps
    assert (counted.input, counted.output) == ((3, 9, 11), (5,))


def test_a_flat_input_has_no_map() -> None:
    assert [node.output for node in walk(Chain(Linear(4), BatchNorm(), ReLU(), Flatten()), (7,))] == [(4,)] * 4


# --- shapes and padding ----------------------------------------------------------------------------------------------


@quick
@given(sides, st.integers(1, 6), st.integers(1, 4), st.integers(1, 3))
def test_same_rounds_up_and_puts_the_odd_rest_last(n: int, kernel: int, stride: int, dilation: int) -> None:
    node = only(Conv(2, kernel, stride, "same", dilation=dilation), (1, n, 5))
    top, bottom, _, _ = node.window.pads
    reach = dilation * (kernel - 1) + 1
    assert node.output[1] == (n + stride - 1) // stride
    assert bottom - top in (0, 1)
    last = (node.output[1] - 1) * stride - top
    assert last < n, "the last window begins inside the input"
    assert last + reach == n + bottom or (top, bottom) == (0, 0)


@quick
@given(sides, st.integers(1, 6), st.integers(1, 4), st.data())
def test_ceil_adds_a_window_only_where_it_begins_inside(n: int, kernel: int, stride: int, data: st.DataObject) -> None:
    before, after = (data.draw(st.integers(0, kernel - 1)) for _ in range(2))
    if n + before + after < kernel:
        return
    pad = (before, after, 0, 0)
    plain = only(MaxPool((kernel, 1), (stride, 1), pad), (2, n, 3))
    rounded = only(MaxPool((kernel, 1), (stride, 1), pad, ceil=True), (2, n, 3))
    up = -(-(n + before + after - kernel) // stride) + 1
    if (up - 1) * stride >= n + before:
        up -= 1
    assert rounded.output[1] == up
    assert plain.output[1] == (n + before + after - kernel) // stride + 1
    assert plain.window.pads == (before, after, 0, 0)
    top, bottom, _, _ = rounded.window.pads
    assert top == before
    assert bottom == after + max(0, (up - 1) * stride + kernel - (n + before + after))


@pytest.mark.parametrize(
    ("layer", "n", "output", "pads"),
    [
        (MaxPool(3, 2, ceil=True), 224, 112, (0, 1)),
        (MaxPool(3, 2, ceil=True), 55, 27, (0, 0)),
        (MaxPool(3, 2, ceil=True), 2, 1, (0, 1)),
        (MaxPool(2, 2, pad=1, ceil=True), 5, 3, (1, 1)),
        (MaxPool(2, 2, pad=1, ceil=True), 4, 3, (1, 1)),
        (Conv(4, 3, 2, "same"), 224, 112, (0, 1)),
        (Conv(4, 3, 2, "same"), 225, 113, (1, 1)),
        (Conv(4, 7, 2, "same"), 224, 112, (2, 3)),
        (Conv(4, 4, 1, "same"), 10, 10, (1, 2)),
        (Conv(4, 1, 2, "same"), 7, 4, (0, 0)),
        (MaxPool(3, 2, "same"), 6, 3, (0, 1)),
        (MaxPool(3, 2, "same"), 7, 4, (1, 1)),
        (ConvTranspose(4, 3, 2, "same"), 5, 10, (0, 1)),
        (ConvTranspose(4, 4, 2, 1), 5, 10, (1, 1)),
        (ConvTranspose(4, 3, 2, 1, output_pad=1), 5, 10, (1, 1)),
        (ConvTranspose(4, 5, 3, (2, 1, 2, 1), output_pad=2), 4, 13, (2, 1)),
    ],
    ids=lambda value: repr(value) if isinstance(value, t.Conv | t.MaxPool | t.ConvTranspose) else "",
)
def test_padding_becomes_whole_numbers(layer: Tree, n: int, output: int, pads: tuple[int, int]) -> None:
    node = only(layer, (3, n, n))
    assert node.output[1:] == (output, output)
    assert node.window.pads == (*pads, *pads)
    assert node.window.symmetric == (pads[0] == pads[1])


def test_sides_are_top_bottom_left_right() -> None:
    node = only(Conv(4, (3, 5), (1, 2), (1, 2, 3, 4)), (2, 10, 20))
    assert node.window.pads == (1, 2, 3, 4)
    assert node.output == (4, 10 + 3 - 3 + 1, (20 + 7 - 5) // 2 + 1)
    assert not node.window.symmetric


@pytest.mark.parametrize(
    ("layer", "shape", "output"),
    [
        (Depthwise(3, 2, 1, multiplier=3), (5, 9, 8), (15, 5, 4)),
        (Conv(6, (1, 3), groups=3, dilation=2), (9, 7, 9), (6, 7, 5)),
        (AdaptiveAvgPool((2, 5)), (5, 9, 3), (5, 2, 5)),
        (GlobalAvgPool(), (5, 9, 8), (5,)),
        (Flatten(), (5, 9, 8), (360,)),
        (Subsample((2, 3)), (5, 9, 9), (5, 5, 3)),
        (PadChannels(9), (5, 9, 8), (9, 9, 8)),
        (Select((4, 0, 2)), (5, 9, 8), (3, 9, 8)),
        (LRN(), (5, 9, 8), (5, 9, 8)),
        (Concat(Linear(3), Linear(4)), (6,), (7,)),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, tuple) else "",
)
def test_output_shapes(layer: Tree, shape: Shape, output: Shape) -> None:
    assert resolve(layer, shape).output == output


# --- weights and costs -----------------------------------------------------------------------------------------------

WEIGHTS: list[tuple[Tree, Shape, dict[str, Shape], tuple[int, int] | None]] = [
    (Conv(8, (3, 5)), (6, 9, 9), {"weight": (8, 6, 3, 5), "bias": (8,)}, (90, 120)),
    (Conv(8, 3, groups=2, bias=False), (6, 9, 9), {"weight": (8, 3, 3, 3)}, (27, 36)),
    (Depthwise(3, multiplier=2), (6, 9, 9), {"weight": (12, 1, 3, 3), "bias": (12,)}, (9, 18)),
    (ConvTranspose(8, 3, groups=2), (6, 9, 9), {"weight": (6, 4, 3, 3), "bias": (8,)}, (27, 36)),
    (Linear(8), (6,), {"weight": (8, 6), "bias": (8,)}, (6, 8)),
    (Linear(8, bias=False), (6,), {"weight": (8, 6)}, (6, 8)),
    (BatchNorm(), (6, 9, 9), {"weight": (6,), "bias": (6,), "mean": (6,), "var": (6,)}, None),
    (ReLU(), (6, 9, 9), {}, None),
    (MaxPool(3), (6, 9, 9), {}, None),
]


@pytest.mark.parametrize(("layer", "shape", "weights", "fans"), WEIGHTS, ids=[repr(case[0]) for case in WEIGHTS])
def test_weights_have_canonical_layouts(layer: Tree, shape: Shape, weights: Any, fans: Any) -> None:
    node = only(layer, shape)
    assert node.weights == weights
    assert list(node.weights) == list(weights)
    assert node.statistics == sum(prod(weights[role]) for role in weights if role in ("mean", "var"))
    assert node.parameters + node.statistics == sum(map(prod, weights.values()))
    if fans:
        assert node.fans == fans


MACS = [
    # 004's separable convolution of 16 to 32 channels: 800 weights against 4608 (one output pixel).
    (Conv(32, 3, pad=1, bias=False), (16, 1, 1), 4608),
    (Chain(Conv(32, 1, bias=False), Depthwise(3, pad=1, bias=False)), (16, 1, 1), 800),
    (Chain(Depthwise(3, pad=1, bias=False), Conv(32, 1, bias=False)), (16, 1, 1), 656),
    (Conv(8, 3, 2, 1, groups=2), (6, 9, 9), 25 * 8 * 3 * 9),
    (ConvTranspose(8, 3, 2), (6, 4, 5), 20 * 6 * 8 * 9),
    (Linear(8), (6,), 48),
    (Chain(BatchNorm(), ReLU(), MaxPool(2), LRN()), (6, 9, 9), 0),
]


@pytest.mark.parametrize(("tree", "shape", "macs"), MACS, ids=[repr(case[0])[:50] for case in MACS])
def test_multiply_accumulates(tree: Tree, shape: Shape, macs: int) -> None:
    assert summary(tree, shape).macs == macs


# --- receptive fields ------------------------------------------------------------------------------------------------


def test_receptive_fields_of_a_chain() -> None:
    tree = Chain(
        a=Conv(4, 7, 2, 3),
        b=MaxPool(3, 2),
        c=Conv(4, 3, dilation=2),
        d=Conv(4, (1, 3), (1, 2)),
        e=Subsample(2),
        f=BatchNorm(),
    )
    seen = {path: (node.receptive_field, node.stride) for path, node in by_path(tree, (3, 99, 99)).items()}
    assert seen == {
        "a": ((7, 7), (2, 2)),
        "b": ((11, 11), (4, 4)),
        "c": ((27, 27), (4, 4)),
        "d": ((27, 35), (4, 8)),
        "e": ((27, 35), (8, 16)),
        "f": ((27, 35), (8, 16)),
    }


def test_branches_see_as_far_as_the_furthest() -> None:
    tree = Sum(Chain(Conv(4, 3, pad=1), Conv(4, (3, 1), pad=(1, 0))), Conv(4, (1, 9), pad=(0, 4)))
    assert resolve(tree, (3, 9, 9)).receptive_field == (5, 9)


def test_means_over_the_map_see_all_of_it() -> None:
    assert resolve(Chain(Conv(4, 3), GlobalAvgPool()), (3, 9, 12)).receptive_field == (9, 12)
    assert resolve(Chain(Conv(4, 3), Flatten(), Linear(2)), (3, 9, 12)).receptive_field == (9, 12)
    assert resolve(AdaptiveAvgPool((4, 3)), (3, 10, 11)).receptive_field == (3, 5)


def test_a_transposed_convolution_steps_by_less_than_a_pixel() -> None:
    node = only(ConvTranspose(4, 4, 2, 1), (3, 9, 9))
    assert (node.receptive_field, node.stride) == ((2, 2), (0.5, 0.5))


@quick
@given(sides, st.integers(1, 40))
def test_the_widest_cell_is_the_widest_of_all(n: int, cells: int) -> None:
    widest = max(-(-(i + 1) * n // cells) - i * n // cells for i in range(cells))
    assert only(AdaptiveAvgPool((cells, 1)), (1, n, 1)).receptive_field == (widest, 1)


# --- averages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "n", "counts"),
    [
        (AvgPool(3, 2), 7, (3, 3, 3)),
        (AvgPool(3, 2, pad=1), 5, (3, 3, 3)),
        (AvgPool(3, 2, pad=1, count_include_pad=False), 5, (2, 3, 2)),
        (AvgPool(3, 2, ceil=True), 6, (3, 3, 2)),
        (AvgPool(3, 2, pad=1, ceil=True), 6, (3, 3, 3, 2)),
        (AvgPool(3, 2, pad=1, ceil=True, count_include_pad=False), 6, (2, 3, 3, 1)),
        (AvgPool(3, 1, "same"), 4, (2, 3, 3, 2)),
        (AvgPool(3, 2, "same"), 4, (3, 2)),
        (AvgPool(3, 2, (0, 1, 0, 1), count_include_pad=False), 4, (3, 2)),
    ],
    ids=lambda value: repr(value) if isinstance(value, AvgPool) else "",
)
def test_averages_divide_by_what_they_count(layer: AvgPool, n: int, counts: tuple[int, ...]) -> None:
    assert only(layer, (2, n, n)).window.counts == (counts, counts)


# --- what binds a network to a size ----------------------------------------------------------------------------------

SIZED: list[tuple[Tree, tuple[str, ...]]] = [
    (Chain(a=Conv(4, 3, 2, 1), b=MaxPool(3, 2, 1), c=GlobalAvgPool(), d=Linear(2)), ()),
    (Chain(a=Conv(4, 3, 1, "same"), b=GlobalAvgPool()), ()),
    (Chain(a=Conv(4, 3, 2, "same"), b=GlobalAvgPool()), ("a",)),
    (Chain(a=Conv(4, 3, (1, 2), "same"), b=GlobalAvgPool()), ("a",)),
    (Chain(a=Depthwise(3, 2, "same"), b=GlobalAvgPool()), ("a",)),
    (Chain(a=MaxPool(3, 1, "same"), b=GlobalAvgPool()), ()),
    (Chain(a=MaxPool(3, 2, "same"), b=GlobalAvgPool()), ("a",)),
    (Chain(a=MaxPool(3, 2, ceil=True), b=GlobalAvgPool()), ("a",)),
    (Chain(a=MaxPool(3, 1, ceil=True), b=GlobalAvgPool()), ()),
    (Chain(a=AvgPool(3, 2, 1), b=GlobalAvgPool()), ()),
    (Chain(a=AvgPool(3, 2, 1, count_include_pad=False), b=GlobalAvgPool()), ("a",)),
    (Chain(a=AvgPool(3, 2, count_include_pad=False), b=GlobalAvgPool()), ()),
    (Chain(a=AvgPool(3, 1, "same"), b=GlobalAvgPool()), ("a",)),
    (Chain(a=AvgPool(3, 2, ceil=True), b=GlobalAvgPool()), ("a",)),
    (Chain(a=Flatten(), b=Linear(2)), ("a",)),
    (Chain(a=Sum(x=AdaptiveAvgPool(12), y=Conv(3, 3, pad=1)), b=GlobalAvgPool()), ("a",)),
    (Chain(a=Concat(x=AdaptiveAvgPool(12), y=AdaptiveAvgPool(12)), b=GlobalAvgPool()), ()),
    (Chain(a=AdaptiveAvgPool(3), b=Conv(4, 3, 2, "same"), c=Flatten(), d=Linear(2)), ()),
    (Chain(a=Conv(4, 3), b=Aux(Chain(Flatten(), Linear(2))), c=GlobalAvgPool()), ()),
    (Chain(a=Conv(4, 3), b=Sum(x=Conv(4, 3, 2, "same"), y=MaxPool(3, 2, ceil=True))), ("b.x", "b.y")),
]


@pytest.mark.parametrize(("tree", "paths"), SIZED, ids=[repr(case[0]) for case in SIZED])
def test_what_depends_on_the_input_size_is_marked(tree: Tree, paths: tuple[str, ...]) -> None:
    assert summary(tree, (3, 12, 12)).sized == paths


@quick
@given(st.data())
def test_unmarked_layers_have_the_same_padding_at_every_size(data: st.DataObject) -> None:
    kernel, stride = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3))
    pad: t.Pad = data.draw(st.integers(0, kernel - 1) | st.just("same"))
    ceil, counted = data.draw(st.booleans()), data.draw(st.booleans())
    layer: Tree = data.draw(
        st.sampled_from(
            [
                Conv(4, kernel, stride, pad),
                MaxPool(kernel, stride, pad, ceil),
                AvgPool(kernel, stride, pad, ceil, counted),
            ]
        )
    )
    nodes = [only(layer, (4, n, n)) for n in range(8, 16)]
    if not nodes[0].sized:
        assert len({(node.window.pads, *(frozenset(count) for count in node.window.counts)) for node in nodes}) == 1


# --- errors ----------------------------------------------------------------------------------------------------------

MISFITS: list[tuple[Tree, Any, str]] = [
    (
        Chain(a=Conv(8, 3), b=Sum(body=Chain(Conv(8, 3, 2)), shortcut=Identity())),
        (3, 12, 12),
        r"b: a Sum adds outputs of one shape, and these differ: body 8×4×4 \(C×H×W\), shortcut 8×10×10 \(C×H×W\);"
        r" project the shortcut, as in Conv\(8, 1, stride\)",
    ),
    (Sum(Linear(2), Linear(3)), (4,), r"Sum: .* 0 2 \(flat\), 1 3 \(flat\); project the shortcut, as in Linear\(2\)"),
    (
        Chain(j=Concat(a=Conv(8, 3), b=Conv(8, 1))),
        (3, 12, 12),
        "j: a Concat joins maps of one height and width, and these differ: a 8×10×10 .*, b 8×12×12",
    ),
    (Concat(a=Flatten(), b=Conv(8, 1)), (3, 12, 12), r"Concat: a Concat joins .* a 432 \(flat\), b 8×12×12"),
    (
        Chain(stem=Conv(8, 3, 2), b=Chain(c=Conv(8, 7, pad=1))),
        (3, 9, 20),
        r"b.c: a kernel of 7×7 does not fit into its input 8×4×9 \(C×H×W\) padded by 1; this layer's input must be 5"
        " high at least: use larger images or a smaller kernel",
    ),
    (Conv(8, (1, 5), dilation=3), (3, 9, 9), r"Conv: a kernel of 1×13 does not fit .* must be 13 wide at least"),
    (MaxPool(3), (3, 9, 2), r"MaxPool: a kernel of 3×3 .* must be 3 wide at least"),
    (
        Chain(p=MaxPool(2, pad=2)),
        (3, 9, 9),
        "p: padded by 2, a window of 2 would lie in padding alone; pad by at most 1",
    ),
    (AvgPool(3, 2, (0, 3, 0, 0)), (3, 9, 9), "AvgPool: padded by 3, a window of 3 would lie in padding alone"),
    (
        Chain(conv=Conv(8, 3), fc=Linear(2)),
        (3, 9, 9),
        r"fc: Linear takes a flat input \(F,\), and gets 8×7×7 \(C×H×W\); put Flatten\(\) or GlobalAvgPool\(\)"
        " before it",
    ),
    (
        Chain(f=Flatten(), c=Conv(8, 3)),
        (3, 9, 9),
        r"c: Conv takes a map \(C, H, W\), and gets 243 \(flat\); put it before the Flatten",
    ),
    (Chain(GlobalAvgPool(), LRN()), (3, 9, 9), r"lrn_0: LRN takes a map"),
    (Chain(g=GlobalAvgPool(), h=GlobalAvgPool()), (3, 9, 9), "h: GlobalAvgPool takes a map"),
    (PadChannels(4), (3,), "PadChannels takes a map"),
    (Select((0,)), (3,), "Select takes a map"),
    (Chain(a=Select((0, 3))), (3, 9, 9), "a: there is no channel 3 among 3; they count from 0"),
    (Conv(8, 3, groups=2), (3, 9, 9), "Conv: 3 input channels cannot be split into groups=2; use a divisor of 3"),
    (Conv(9, 3, groups=2), (4, 9, 9), "Conv: 9 filters cannot be split into groups=2; use a divisor of 9"),
    (ConvTranspose(9, 3, groups=2), (4, 9, 9), "ConvTranspose: 9 filters cannot be split into groups=2"),
    (ConvTranspose(8, 3, groups=2), (3, 9, 9), "ConvTranspose: 3 input channels cannot be split"),
    (
        Chain(a=Conv(8, 3), b=PadChannels(4)),
        (3, 9, 9),
        r"b: PadChannels\(4\) cannot shrink 8 channels; use at least that many",
    ),
    (ConvTranspose(8, 2, 3, "same"), (3, 9, 9), 'pad="same" needs a kernel of at least the stride 3, and it is 2'),
    (ConvTranspose(8, 3, 2, output_pad=2), (3, 9, 9), "output_pad 2 must be smaller than the stride 2"),
    (
        ConvTranspose(8, 3, 1, pad=2),
        (3, 2, 9),
        r"ConvTranspose: cropped by 4, nothing is left of 3×2×9 \(C×H×W\); pad less",
    ),
    (
        Chain(aux=Aux(Conv(8, 3)), fc=GlobalAvgPool()),
        (3, 9, 9),
        r"aux: an auxiliary head ends in 8×7×7 \(C×H×W\); it must end in logits \(F,\)",
    ),
    (ReLU(), (3, 9), r"the input shape is \(3, 9\); it must be \(channels, height, width\), each from 1"),
    (ReLU(), (3, 0, 9), r"the input shape is \(3, 0, 9\)"),
    (ReLU(), (True, 9, 9), r"the input shape is \(True, 9, 9\)"),
    (ReLU(), (3, 9.0, 9), r"the input shape is \(3, 9.0, 9\)"),
    (ReLU(), 224, "the input shape is 224"),
    (ReLU, (3, 9, 9), "is no network; it must be a tree, as in"),
]


@pytest.mark.parametrize(("tree", "shape", "sentence"), MISFITS, ids=[case[2][:45] for case in MISFITS])
def test_a_misfit_names_path_shape_and_remedy(tree: Tree, shape: Any, sentence: str) -> None:
    with pytest.raises(TreeError, match=sentence):
        resolve(tree, shape)


BIG = 2**24
HUGE: list[tuple[Tree, Shape, str]] = [
    (ReLU(), (1, MAX_SIDE + 1, 1), f"the input: .* is too large; the most is {MAX_SIDE} rows or columns"),
    (ReLU(), (2**20, 2**10, 2**10), f"the input: .* is too large; .* {MAX_VALUES} values"),
    (AvgPool(BIG, 1, BIG - 1), (1, 8, 8), r"AvgPool: 1×\d+×\d+ .* is too large"),
    (Chain(a=ConvTranspose(1, 1, BIG), b=AvgPool(1)), (1, 8, 8), "a, .* is too large"),
    (Chain(a=AdaptiveAvgPool(BIG)), (1, 8, 8), "a: .* is too large"),
    (Conv(BIG, 1), (1, 60_000, 60_000), "Conv: .* is too large"),
    (Chain(a=Conv(1, 1), b=PadChannels(BIG)), (1, 6_000, 6_000), "b: .* is too large"),
    (Chain(f=Flatten(), a=Linear(2**20)), (3, 224, 224), f"weights, and the most is {MAX_WEIGHTS}; a alone has"),
    (Chain(*[Linear(2**15)] * 9), (2**15,), f"9663971328 weights, and the most is {MAX_WEIGHTS}; 0 alone has"),
    (Conv(2**12, 2**11, pad=2**10), (3, 8, 8), "weights, and the most is"),
    (Chain(a=Conv(1, (2**20, 1), pad=(2**19, 0))), (1, 8, 8), "a, its input padded: 1×1048584×8 .* is too large"),
    (Chain(a=MaxPool(2**20, 1, 2**19)), (1, 8, 8), f"a, its input padded: .* the most is {MAX_SIDE} rows"),
    (Chain(a=Depthwise((1, 2**20), pad="same")), (1, 8, 8), "a, its input padded: 1×8×1048583 .* is too large"),
    (Conv(1, 2, 2**16, pad=2**15), (2, 8, 8), f"padded: 2×65544×65544 .*, {MAX_VALUES} values"),
    (
        Chain(a=AvgPool(2**13, 1, 2**12)),
        (1, 8, 8),
        f"a: a kernel of 8192×8192 holds 67108864 .* is {MAX_KERNEL}; use a",
    ),
    (Chain(a=Depthwise(2**11, pad=2**10)), (2**8, 64, 64), f"a: a kernel of 2048×2048 .* 256×65×65 .* {MAX_COLUMNS}"),
    (Chain(a=Depthwise(1, multiplier=BIG)), (2, 64, 64), "a: 33554432×64×64 .* is too large"),
    (Chain(a=ConvTranspose(1, 2**18, pad=2**17)), (1, 8, 8), "a, its output before it is cropped: 1×262151×262151"),
    (Chain(a=ConvTranspose(2**8, 2**11, pad=2**10)), (1, 8, 8), f"a: a kernel of 2048×2048 .* is {MAX_COLUMNS}"),
    (Chain(a=LRN(2**24 - 1)), (1, 224, 224), f"a, its input padded by neighbours: .* {MAX_VALUES} values"),
    (Chain(*[Conv(1, 1, BIG)] * 100), (1, 1, 1), f"1: an output value sees 1×1 input .*2.81e\\+14.* {MAX_FIELD}"),
]


@pytest.mark.parametrize(("tree", "shape", "sentence"), HUGE, ids=[repr(case[0])[:60] for case in HUGE])
def test_what_is_too_large_is_refused_before_it_takes_memory(tree: Tree, shape: Shape, sentence: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(TreeError, match=sentence):
            resolve(tree, shape)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()


def test_every_kind_of_layer_is_walked() -> None:
    walked = set()
    for kind in t.KINDS.values():
        if kind in (Chain, Sum, Concat):
            tree: Any = kind(ReLU(), Sigmoid())
        elif kind is Aux:
            tree = Aux(Chain(GlobalAvgPool(), Linear(2)))
        else:
            needed = {
                part.name: 4 if part.name == "out" else 2
                for part in fields(kind)
                if part.name in ("out", "kernel", "stride", "size")
            }
            special = {LRN: {"size": 3}, Select: {"channels": (2, 0)}}
            tree = kind(**needed | special.get(kind, {}))
        shape = (6,) if kind is Linear else (4, 8, 8)
        resolve(tree, shape)
        walked.add(kind)
    assert walked == set(t.KINDS.values())
