"""The sizes that a tree takes, and refusals that name the smallest."""

from itertools import islice
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import imori
from imori import shapes
from imori.errors import SizeError, TreeError
from imori.shapes import SEARCHED, _root, resolve, sizes, smallest, summary
from imori.tree import (
    AdaptiveAvgPool,
    Aux,
    Chain,
    Concat,
    Conv,
    ConvTranspose,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Identity,
    Linear,
    MaxPool,
    Subsample,
    Sum,
    Tree,
)

MEETS_AT_EVEN = Sum(MaxPool(2), Conv(3, 3, stride=2, pad=1))
ALIKE = Sum(Conv(3, 3), Identity())
TREES: dict[str, tuple[Tree, int | None]] = {
    "one-kernel": (Conv(4, (3, 7)), 7),
    "stride-and-pool": (Chain(Conv(4, 5, stride=2), MaxPool(3, 2), Conv(4, 3)), 17),
    "same": (Conv(4, 9, pad="same"), 1),
    "dilated": (Conv(4, 3, dilation=4), 9),
    "ceil": (Chain(MaxPool(2, ceil=True), MaxPool(2)), 3),
    "ceil-from-the-window": (Chain(MaxPool(2), MaxPool(2)), 4),
    "branches-at-even-sizes": (Chain(Conv(3, 3), MEETS_AT_EVEN), 4),
    "branches-never-alike": (ALIKE, None),
    "channels-never-alike": (Sum(Conv(5, 1), Conv(4, 1)), None),
    "concat": (Concat(MaxPool(3, 2), Conv(2, 3, stride=2)), 3),
    "head": (Chain(MaxPool(2), Aux(Chain(Conv(2, 5), Flatten(), Linear(2)), 0.3), GlobalAvgPool(), Linear(2)), 10),
    "head-without-logits": (Chain(Aux(Conv(2, 5), 0.3), GlobalAvgPool(), Linear(2)), None),
    "grid-too-small": (Chain(AdaptiveAvgPool(2), Conv(2, 3)), None),
    "cropped": (ConvTranspose(2, 2, stride=2, pad=3), 4),
    "subsampled": (Chain(Subsample(2), Conv(2, 2)), 3),
    "no-flatten": (Chain(Conv(2, 3), Linear(2)), None),
    "ten-halves": (Chain(*[MaxPool(2)] * 10), SEARCHED),
    "eleven-halves": (Chain(*[MaxPool(2)] * 11), None),
    "too-many-weights": (Chain(Conv(2**16, 1), Conv(2**17, 1)), None),
}


def fits(tree: Tree, n: int) -> bool:
    """By trying it, without the search that a refusal begins."""
    try:
        _root(tree, (3, n, n))
    except TreeError:
        return False
    return True


@pytest.mark.parametrize(("tree", "least"), TREES.values(), ids=TREES)
def test_the_smallest_input(tree: Tree, least: int | None) -> None:
    assert smallest(tree, 3) == least
    assert least == next((n for n in range(1, SEARCHED + 1 if least else 40) if fits(tree, n)), None)


def test_sizes_have_gaps_where_branches_disagree() -> None:
    assert list(islice(sizes(MEETS_AT_EVEN, 3), 4)) == [2, 4, 6, 8]
    assert list(sizes(ALIKE, 3)) == []
    assert list(sizes(Chain(*[MaxPool(2)] * 9), 3)) == list(range(512, 1025))


LAYERS = st.one_of(
    st.builds(Conv, st.just(3), st.integers(1, 4), stride=st.integers(1, 3), pad=st.integers(0, 1)),
    st.builds(MaxPool, st.integers(2, 3), stride=st.integers(1, 3), ceil=st.booleans()),
    st.sampled_from([Identity(), Subsample(2), AdaptiveAvgPool(3), Dropout()]),
)


def chain(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(children, min_size=1, max_size=3).map(lambda made: Chain(*made))


def branches(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.builds(
        lambda kind, made: kind(*made), st.sampled_from([Sum, Concat]), st.lists(children, min_size=2, max_size=2)
    )


@settings(max_examples=100, deadline=None)
@given(st.recursive(LAYERS, lambda children: chain(children) | branches(children), max_leaves=7))
def test_sizes_are_those_at_which_the_tree_resolves(tree: Tree) -> None:
    expected = [n for n in range(1, 25) if fits(tree, n)]
    assert list(islice(sizes(tree, 3), len(expected))) == expected


@pytest.mark.parametrize("name", ["lenet", "alexnet", "vgg16", "resnet18"])
def test_the_smallest_input_of_a_paper_is_the_smallest(name: str) -> None:
    tree = imori.model(name)
    least = smallest(tree, 3)
    assert least is not None
    assert fits(tree, least)
    assert not any(fits(tree, n) for n in range(1, least))


def test_a_deep_network_is_searched_in_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks behind strides are looked at once for each size of theirs, not once for each size of the input."""
    block = Sum(Chain(*[Conv(3, 3, pad=1)] * 3), Identity())
    deep = Chain(*[MaxPool(2)] * 5, *[block] * 300, Conv(3, 2))
    looks = 0
    once = shapes._layer

    def counted(*arguments: Any) -> Any:
        nonlocal looks
        looks += 1
        return once(*arguments)

    monkeypatch.setattr(shapes, "_layer", counted)
    resolve(deep, (3, 64, 64))
    resolved, looks = looks, 0
    assert smallest(deep, 3) == 64
    assert looks < 1.5 * resolved, "64 sizes take little more than the one that fits"


def test_a_refusal_names_the_smallest_input() -> None:
    tree = Chain(conv1=Conv(4, 5), pool=MaxPool(2), conv2=Conv(4, 5), flatten=Flatten(), fc=Linear(10))
    message = (
        r"^conv2: a kernel of 5×5 does not fit into its input 4×2×2 .*; the smallest input of this network is 3×14×14$"
    )
    for refused in (lambda: imori.build(tree, (3, 8, 8), "numpy"), lambda: summary(tree, (3, 8, 8))):
        with pytest.raises(SizeError, match=message) as caught:
            refused()
        assert caught.value.smallest == (3, 14, 14)


def test_a_head_bounds_the_size_in_building() -> None:
    tree = TREES["head"][0]
    with pytest.raises(SizeError, match=r"^0\.0: a kernel.*3×10×10$"):
        resolve(tree, (3, 8, 8))


@pytest.mark.parametrize("tree", [ALIKE, Sum(Conv(5, 1), Conv(4, 1)), TREES["grid-too-small"][0]], ids=repr)
def test_what_no_size_mends_names_none(tree: Tree) -> None:
    with pytest.raises(TreeError) as caught:
        resolve(tree, (3, 8, 8))
    assert "smallest" not in str(caught.value)
    assert not isinstance(caught.value, SizeError)


def test_branches_that_meet_at_other_sizes_say_so() -> None:
    with pytest.raises(SizeError, match=r"a Sum adds outputs of one shape.*smallest input of this network is 3×2×2"):
        resolve(MEETS_AT_EVEN, (3, 7, 7))
