"""The vocabulary: what can be written, what is refused and in which words, names, the table, repr and JSON."""

import json
import re
from dataclasses import MISSING, FrozenInstanceError, fields
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imori import tree as t
from imori.errors import ImoriError, TreeError
from imori.tree import (
    KINDS,
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
    LeakyReLU,
    Linear,
    MaxPool,
    PadChannels,
    ReLU,
    Select,
    Sigmoid,
    Softmax,
    Subsample,
    Sum,
    Tanh,
    Tree,
    from_json,
    leaves,
    to_json,
)

# --- trees drawn at random -------------------------------------------------------------------------------------------

sizes = st.integers(1, 9)
pairs = sizes | st.tuples(sizes, sizes)
margins = st.integers(0, 4)
pads = margins | st.tuples(margins, margins) | st.tuples(margins, margins, margins, margins) | st.just("same")
inits = st.sampled_from(["he", "xavier"]) | st.floats(0, 2)
convolutions = {"kernel": pairs, "stride": pairs, "pad": pads, "bias": st.booleans(), "init": inits}
pools = {"kernel": pairs, "stride": st.none() | pairs, "pad": pads, "ceil": st.booleans()}
groups = st.integers(1, 4)
layers = st.one_of(
    st.builds(Conv, out=sizes, groups=groups, dilation=pairs, **convolutions),
    st.builds(Depthwise, multiplier=sizes, dilation=pairs, **convolutions),
    st.builds(
        ConvTranspose, out=sizes, groups=groups, output_pad=margins | st.tuples(margins, margins), **convolutions
    ),
    st.builds(Linear, out=sizes, bias=st.booleans(), init=inits),
    st.builds(BatchNorm, eps=st.floats(1e-9, 0.5), momentum=st.floats(0, 1)),
    st.builds(MaxPool, **pools),
    st.builds(AvgPool, count_include_pad=st.booleans(), **pools),
    st.builds(AdaptiveAvgPool, size=pairs),
    st.builds(LRN, size=st.sampled_from([1, 3, 5]), alpha=st.floats(0, 1), beta=st.floats(0, 1), k=st.floats(0.5, 2)),
    st.builds(ReLU, max=st.none() | st.floats(0.5, 9)),
    st.builds(LeakyReLU, slope=st.floats(-1, 1)),
    st.builds(Dropout, drop=st.floats(0, 0.9)),
    st.builds(Subsample, stride=pairs),
    st.builds(PadChannels, out=sizes),
    st.builds(Select, channels=st.lists(st.integers(0, 9), min_size=1, unique=True).map(tuple)),
    st.sampled_from([GlobalAvgPool(), Flatten(), Sigmoid(), Tanh(), Softmax(), Identity()]),
)
segments = st.none() | st.sampled_from(["conv1", "self", "body", "x_9", "40", "41"])


@st.composite
def combined(draw: st.DrawFn, children: st.SearchStrategy[Tree]) -> Tree:
    if draw(st.integers(0, 5)) == 0:
        return Aux(draw(children), draw(st.floats(0, 2)))
    kind = draw(st.sampled_from([Chain, Sum, Concat]))
    parts = draw(
        st.lists(st.tuples(segments, children), min_size=1, max_size=5, unique_by=lambda part: part[0] or id(part))
    )
    return kind.of(tuple(parts))


trees = st.recursive(layers, combined, max_leaves=12)
quick = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(trees)
def test_a_tree_survives_json(tree: Tree) -> None:
    again = from_json(to_json(tree))
    assert again == tree
    assert hash(again) == hash(tree)
    assert str(again) == str(tree)
    assert (again.weighted, again.depth, again.nodes) == (tree.weighted, tree.depth, tree.nodes)


@quick
@given(trees)
def test_a_tree_prints_as_the_code_that_makes_it(tree: Tree) -> None:
    assert eval(repr(tree), dict(KINDS)) == tree  # noqa: S307 (our own text, of a tree drawn just now)


@quick
@given(trees)
def test_every_layer_has_a_path_of_its_own_and_a_row(tree: Tree) -> None:
    paths = [path for path, _ in leaves(tree)]
    assert len(set(paths)) == len(paths)
    shown = str(tree)
    assert all(type(layer).__name__ in shown for _, layer in leaves(tree))


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_json_holds_every_field_with_defaults(kind: type[Tree]) -> None:
    required: dict[str, Any] = {"out": 4, "kernel": 3, "size": 3, "stride": 2, "channels": (1, 0)}
    required |= {"head": Linear(2), "children": ()}
    made = Chain(Linear(2)) if kind in (Chain, Sum, Concat) else None
    if made is None:
        made = kind(**{part.name: required[part.name] for part in fields(kind) if part.default is MISSING})
    written = json.loads(to_json(made))
    assert written["format"] == 1
    assert set(written["tree"]) == {"kind", *(part.name for part in fields(type(made)))}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_field_is_checked(kind: type[Tree]) -> None:
    unchecked = {
        part.name
        for part in fields(kind)
        if part.name not in t._CHECKS and f"{kind.__name__}.{part.name}" not in t._CHECKS
    }
    assert unchecked <= {"children", "head"}


# --- construction ----------------------------------------------------------------------------------------------------


def test_values_are_brought_to_one_form() -> None:
    assert Conv(8, (3, 3), (2, 2), (1, 1, 1, 1)) == Conv(8, 3, 2, 1)
    assert Conv(8, 3, pad=(1, 1, 2, 2)) == Conv(8, 3, pad=(1, 2))
    assert Conv(8, [3, 5]).kernel == (3, 5)
    assert MaxPool(3) == MaxPool(3, 3)
    assert AvgPool((2, 3)).stride == (2, 3)
    assert Dropout(0) == Dropout(0.0)


def test_values_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        Conv(8, 3).out = 9


def test_a_kind_is_part_of_the_value() -> None:
    assert Sum(ReLU(), Tanh()) != Concat(ReLU(), Tanh())
    assert Sigmoid() != Tanh()
    assert Chain(a=ReLU()) != Chain(b=ReLU())
    assert Chain(a=ReLU()) != Chain(ReLU())


WRONG: list[tuple[Any, str]] = [
    (lambda: Conv(0, 3), "Conv: out is 0; it must be a whole number from 1"),
    (lambda: Conv(8.0, 3), "Conv: out is 8.0; it must be a whole number"),
    (lambda: Conv(True, 3), "Conv: out is True; it must be a whole number"),
    (lambda: Conv(8, 0), "Conv: kernel is 0"),
    (lambda: Conv(8, (3, 3, 3)), r"Conv: kernel is \(3, 3, 3\); it must be a whole number or a pair"),
    (lambda: Conv(8, "3"), "Conv: kernel is '3'"),
    (lambda: Conv(8, 3, stride=None), "Conv: stride is None"),
    (lambda: Conv(8, 3, pad=-1), 'Conv: pad is -1; it must be a whole number from 0, a pair .* or "same"'),
    (lambda: Conv(8, 3, pad="valid"), "Conv: pad is 'valid'"),
    (lambda: Conv(8, 3, pad=(1, 1, 1, -1)), "Conv: pad is"),
    (lambda: Conv(8, 3, bias=1), "Conv: bias is 1; it must be True or False"),
    (lambda: Conv(8, 3, init="normal"), 'Conv: init is \'normal\'; it must be "he", "xavier" or a deviation'),
    (lambda: Conv(8, 3, init=float("nan")), "Conv: init is nan"),
    (lambda: Conv(2**24 + 1, 3), "Conv: out is 16777217; it must be a whole number from 1 to 16777216"),
    (lambda: Linear(-2), "Linear: out is -2"),
    (lambda: ConvTranspose(8, 3, output_pad=-1), "ConvTranspose: output_pad is -1"),
    (lambda: MaxPool(3, ceil=2), "MaxPool: ceil is 2"),
    (lambda: MaxPool(3, stride=0), "MaxPool: stride is 0"),
    (lambda: AdaptiveAvgPool(0), "AdaptiveAvgPool: size is 0"),
    (lambda: LRN(4), "LRN: size is 4; it must be odd"),
    (lambda: LRN(k=0), "LRN: k is 0; it must be a number above 0"),
    (lambda: BatchNorm(0), "BatchNorm: eps is 0"),
    (lambda: BatchNorm(momentum=1.5), "BatchNorm: momentum is 1.5; it must be a number from 0 to 1"),
    (lambda: Dropout(1), "Dropout: drop is 1; it must be a share from 0, below 1"),
    (lambda: Dropout(float("inf")), "Dropout: drop is inf"),
    (lambda: ReLU(max=0), "ReLU: max is 0; it must be None or a number above 0"),
    (lambda: LeakyReLU("a"), "LeakyReLU: slope is 'a'; it must be a number"),
    (lambda: Select((0, 0)), r"Select: channels is \(0, 0\); it must be a tuple of different whole numbers"),
    (lambda: Select(()), r"Select: channels is \(\); it must be"),
    (lambda: Aux(ReLU, 0.3), "Aux: head is <class .*>; it must be a layer or a combinator"),
    (lambda: Aux(Linear(2), -1), "Aux: weight is -1; it must be a number from 0"),
    (lambda: Chain(), r"Chain has no children; use Identity\(\)"),
    (lambda: Sum(ReLU), r"Sum: a child is <class .*>, which is no layer; make it, as in ReLU\(\)"),
    (lambda: Concat(a=3), "Concat: child a is 3, which is no layer"),
    (lambda: Chain(fc=Linear(2), **{"a.b": ReLU()}), "Chain: 'a.b' is no name for a child; use letters, digits and _"),
    (lambda: Chain(**{"a/b": ReLU()}), "'a/b' is no name"),
    (lambda: Chain(**{"": ReLU()}), "'' is no name"),
    (lambda: Chain(**{"_a": ReLU()}), "'_a' is no name"),
    (lambda: Chain(**{"class": ReLU()}), "'class' is no name"),
    (lambda: Chain(**{"é": ReLU()}), "'é' is no name"),
    (lambda: Chain(**{"a" * 65: ReLU()}), "is no name for a child; .* up to 64"),
    (lambda: Chain.of(((7, ReLU()),)), "7 is no name"),
    (lambda: Chain(weight=ReLU()), "a child may not be called 'weight', which a framework's modules use; try weight1"),
    (lambda: Chain(mean=ReLU()), "may not be called 'mean'"),
    (lambda: Chain(forward=ReLU()), "may not be called 'forward'"),
    (lambda: Chain.of((("a", ReLU()), ("a", Tanh()))), "Chain: two children are called 'a'; give each its own name"),
    (lambda: Chain(Linear(2), **{"0": Linear(3)}), "two children are called '0'"),
    (lambda: Chain(ReLU(), relu_0=ReLU()), "two children are called 'relu_0'"),
]


@pytest.mark.parametrize(
    ("make", "sentence"), WRONG, ids=[re.sub(r"[^a-zA-Z0-9 ]", "", sentence)[:40] for _, sentence in WRONG]
)
def test_a_wrong_value_is_refused(make: Any, sentence: str) -> None:
    with pytest.raises(TreeError, match=sentence):
        make()


def test_trees_are_bounded_when_they_are_made() -> None:
    deep: Tree = Linear(2)
    for _ in range(t.MAX_DEPTH):
        deep = Chain(deep)
    assert from_json(to_json(deep)) == deep
    with pytest.raises(TreeError, match="65 levels and 66 nodes are too many; a tree has at most 64 and 20000"):
        Chain(deep)
    with pytest.raises(TreeError, match="Aux: 65 levels"):
        Aux(deep)
    wide = Chain(*[Linear(2)] * 9_999)
    with pytest.raises(TreeError, match="Sum: 2 levels and 20001 nodes are too many"):
        Sum(wide, wide)


# --- names -----------------------------------------------------------------------------------------------------------


def paths(tree: Tree) -> list[str]:
    return [path for path, _ in leaves(tree)]


def test_unnamed_children_are_numbered_among_the_weighted() -> None:
    tree = Chain(Conv(8, 3), ReLU(), Conv(8, 3), ReLU(), Chain(MaxPool(2)), fc=Linear(2))
    assert paths(tree) == ["0", "relu_0", "1", "relu_1", "chain_0.maxpool_0", "fc"]


def test_a_dropout_more_renames_no_weight() -> None:
    before = Chain(Conv(8, 3), ReLU(), Sum(Chain(Conv(8, 1)), Identity()), Aux(Chain(Flatten(), Linear(3))))
    after = Chain(
        Dropout(), Conv(8, 3), Dropout(), ReLU(), Sum(Chain(Dropout(), Conv(8, 1)), Identity()), Dropout(),
        Aux(Chain(Flatten(), Dropout(), Linear(3))),
    )  # fmt: skip
    weighted = [[path for path, layer in leaves(tree) if layer.weighted] for tree in (before, after)]
    assert weighted[0] == weighted[1] == ["0", "1.0.0", "2.0"]


def test_an_auxiliary_head_has_the_path_of_its_aux() -> None:
    assert paths(Chain(aux1=Aux(Chain(fc=Linear(2))))) == ["aux1.fc"]
    assert paths(Chain(Aux(Linear(2)), Linear(3))) == ["0", "1"]


def test_weighted_is_known_at_every_level() -> None:
    assert not Chain(ReLU(), Sum(Identity(), Tanh())).weighted
    assert Chain(ReLU(), Sum(Identity(), Chain(BatchNorm()))).weighted
    assert Aux(Linear(2)).weighted
    assert not Aux(GlobalAvgPool()).weighted


def test_no_name_hides_an_attribute_of_a_torch_module() -> None:
    nn = pytest.importorskip("torch.nn", reason="torch is not installed")
    for module in (nn.Module(), nn.Sequential(), nn.ModuleDict(), nn.ModuleList()):
        public = {name for name in dir(module) if not name.startswith("_")}
        assert public <= t.RESERVED, sorted(public - t.RESERVED)


def test_reserved_names_leave_the_papers_words_free() -> None:
    assert not t.RESERVED & {
        "conv1",
        "bn1",
        "relu1",
        "pool1",
        "fc",
        "body",
        "shortcut",
        "conv",
        "bn",
        "flatten",
        "avgpool",
    }


# --- the table -------------------------------------------------------------------------------------------------------

SMALL = Chain(
    conv1=Conv(8, 3, stride=(1, 2), pad=(0, 1, 0, 1), groups=2),
    relu1=ReLU(max=6),
    block=Sum(a=Conv(8, (3, 5), pad="same"), b=ReLU()),
    after=Sigmoid(),
    pool=MaxPool(3, 2, pad=(1, 0), ceil=True),
    aux=Aux(Linear(3)),
    tanh=Tanh(),
    softmax=Softmax(),
    drop=Dropout(0.3),
    grid=AdaptiveAvgPool((2, 3)),
    fc=Linear(10, bias=False),
)
TABLE = """
path     layer              kernel  filters  stride  padding     activation
conv1    Conv groups=2      3 x 3   8        1 x 2   0/1/0/1     ReLU max=6.0
block.a  Conv               3 x 5   8        1       same        -
block.b  ReLU               -       -        -       -           -
block    Sum                -       -        -       -           Sigmoid
pool     MaxPool            3 x 3   -        2       1 x 0 ceil  -
aux      Linear             -       3        -       -           -
tanh     Tanh               -       -        -       -           -
softmax  Softmax            -       -        -       -           -
drop     Dropout drop=0.3   -       -        -       -           -
grid     AdaptiveAvgPool    2 x 3   -        -       -           -
fc       Linear bias=False  -       10       -       -           -
"""


def test_a_tree_prints_as_a_table() -> None:
    assert str(SMALL) == TABLE.strip()


def test_a_layer_prints_as_a_table_of_one_row() -> None:
    assert str(Depthwise(3, multiplier=2)).splitlines()[1].split() == [
        "Depthwise",
        "multiplier=2",
        "3",
        "x",
        "3",
        "-",
        "1",
        "0",
        "-",
    ]


def test_an_activation_joins_only_what_it_follows() -> None:
    parallel = str(Concat(a=Conv(8, 1), b=ReLU())).splitlines()
    assert [row.split()[:2] for row in parallel[1:3]] == [["a", "Conv"], ["b", "ReLU"]]


# --- repr ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tree", "code"),
    [
        (Conv(8, 3), "Conv(8, 3)"),
        (Conv(8, 3, pad=1, bias=False), "Conv(8, 3, pad=1, bias=False)"),
        (MaxPool(3, 2), "MaxPool(3, stride=2)"),
        (Chain(Conv(8, 3), fc=Linear(2)), "Chain(Conv(8, 3), fc=Linear(2))"),
        (Chain.of((("a", ReLU()), (None, Tanh()))), "Chain.of((('a', ReLU()), (None, Tanh())))"),
        (Chain.of((("7", ReLU()),)), "Chain.of((('7', ReLU()),))"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_repr_is_short(tree: Tree, code: str) -> None:
    assert repr(tree) == code


# --- JSON that must not be believed ----------------------------------------------------------------------------------


def node(kind: str, **given: Any) -> dict[str, Any]:
    made = {"ReLU": ReLU(), "Conv": Conv(8, 3), "Dropout": Dropout(), "MaxPool": MaxPool(2), "Linear": Linear(2)}[kind]
    return t.to_data(made) | given


def chain(*children: tuple[Any, Any]) -> dict[str, Any]:
    return {"kind": "Chain", "children": [list(child) for child in children]}


def nested(levels: int) -> str:
    return '{"format": 1, "tree": ' + '{"kind": "Chain", "children": [["a", ' * levels + "0" + "]]}" * levels + "}"


HOSTILE: list[tuple[str, Any, str]] = [
    ("no JSON", "{", "this is not a tree in JSON"),
    ("empty", "", "this is not a tree in JSON"),
    ("a list", "[]", r'a tree in JSON is \{"format": 1, "tree": \{\.\.\.\}\}, and this is not'),
    ("no format", '{"tree": {}}', "a tree in JSON is"),
    ("more beside it", '{"format": 1, "tree": {}, "run": "rm"}', "a tree in JSON is"),
    ("newer format", '{"format": 2, "tree": {}}', "this tree has format 2; this imori reads 1; update imori"),
    ("format true", '{"format": true, "tree": {}}', "this tree has format True"),
    ("format 1.0", '{"format": 1.0, "tree": {}}', "this tree has format 1.0"),
    ("a field twice", '{"format": 1, "format": 1, "tree": {}}', "a field is written twice"),
    ("a node that is null", None, "the root: None is no kind of layer; the kinds are Conv, "),
    ("unknown kind", {"kind": "Exec"}, "the root: 'Exec' is no kind of layer"),
    ("a kind that is a list", {"kind": ["ReLU"]}, "is no kind of layer"),
    ("a private kind", {"kind": "_Node"}, "'_Node' is no kind of layer"),
    ("a missing field", {"kind": "ReLU"}, r"the root: ReLU has the fields \['kind', 'max'\]; these differ: \['max'\]"),
    ("an unknown field", node("ReLU", code="x"), r"these differ: \['code'\]"),
    (
        "deep inside",
        chain(("a", chain((None, node("ReLU", max=-1))))),
        "a.0: ReLU: max is -1; it must be None or a number",
    ),
    ("a huge number", node("Conv", out=10**40), "Conv: out is 10{5,}"),
    ("a long number", '{"format": 1, "tree": ' + "9" * 5000 + "}", "this is not a tree in JSON"),
    ("a real number", node("Conv", kernel=3.0), "Conv: kernel is 3.0"),
    ("true for a number", node("Conv", out=True), "Conv: out is True"),
    ("one for true", node("Conv", bias=1), "Conv: bias is 1"),
    ("not a number", node("Dropout", drop=float("nan")), "Dropout: drop is nan"),
    ("infinity", node("Dropout", drop=float("inf")), "Dropout: drop is inf"),
    ("overflow", '{"format": 1, "tree": {"kind": "Dropout", "drop": 1e999}}', "Dropout: drop is inf"),
    ("an object for a number", node("Conv", out={"a": 1}), "Conv: out is {'a': 1}"),
    ("a list of lists", node("Conv", kernel=[[3], 3]), r"Conv: kernel is \(\[3\], 3\)"),
    ("children that are no list", {"kind": "Chain", "children": {}}, "children must be a list of"),
    ("children without names", {"kind": "Chain", "children": [node("ReLU")]}, "children must be a list of"),
    ("a child in three parts", {"kind": "Sum", "children": [["a", node("ReLU"), 1]]}, "children must be a list of"),
    ("no children", chain(), "the root: Chain has no children"),
    ("a name that is a number", chain((3, node("ReLU"))), "the root: Chain: 3 is no name for a child"),
    ("a name with a dot", chain(("a.b", node("ReLU"))), "'a.b' is no name"),
    ("a reserved name", chain(("state_dict", node("ReLU"))), "may not be called 'state_dict'"),
    ("two of a name", chain(("a", node("ReLU")), ("a", node("ReLU"))), "two children are called 'a'"),
    ("an auxiliary head that is none", {"kind": "Aux", "head": 3, "weight": 0.3}, "3 is no kind of layer"),
    (
        "an auxiliary weight below 0",
        {"kind": "Aux", "head": node("Linear"), "weight": -1},
        "the root: Aux: weight is -1",
    ),
    ("a long string", node("Conv", pad="x" * 100_000), r"Conv: pad is 'x{5,30}\.\.\.x{5,30}'"),
    ("deeper than the limit", nested(65), "the tree is deeper than 64 or has more than 20000 nodes"),
    ("much deeper", nested(100_000), "this is not a tree in JSON|deeper than 64"),
    ("too many nodes", chain(*[(None, node("ReLU"))] * 20_000), "more than 20000 nodes"),
    ("too long", " " * (2**24 + 1), "a tree in JSON has at most 16777216 characters, and this has 16777217"),
]


@pytest.mark.parametrize(("given", "sentence"), [case[1:] for case in HOSTILE], ids=[case[0] for case in HOSTILE])
def test_hostile_json_is_refused(given: Any, sentence: str) -> None:
    text = given if isinstance(given, str) else json.dumps({"format": 1, "tree": given})
    with pytest.raises(TreeError, match=sentence) as refused:
        from_json(text)
    assert len(str(refused.value)) < 600


@quick
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(list(KINDS)),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(["kind", "children", "head", "weight", "out", "max", "drop"]) | st.text(), inner
            )
        ),
    )
)
def test_any_json_is_a_tree_or_refused(data: Any) -> None:
    try:
        tree = from_json(json.dumps({"format": 1, "tree": data}))
    except ImoriError:
        return
    assert from_json(to_json(tree)) == tree
