"""`imori show`: the table, its folding, comparisons, savings, stacks, and trees as JSON."""

import json
import re
from math import prod
from pathlib import Path
from typing import Any

import pytest

import imori
from imori import catalogue
from imori import tree as t
from imori.cli.show.compare import depth_of
from imori.cli.show.depth import stacks
from imori.cli.show.macs import separables
from imori.cli.show.table import Row, rows
from imori.cli.show.written import rounded
from imori.shapes import resolve, summary

OWN = """
from imori.tree import Chain, Conv, GlobalAvgPool, Linear, ReLU, Sum

SIZE = 48

def net(classes):
    return Chain(stem=Conv(7, 3), block=Sum(left=Conv(7, 1), right=ReLU()), pool=GlobalAvgPool(), fc=Linear(classes))

def broken():
    return 1 / 0

def text():
    return "a network"
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's own file with networks."""
    file = tmp_path / "my_net.py"
    file.write_text(OWN)
    return file


@pytest.mark.parametrize("name", imori.list_models())
def test_show_sums_what_it_lists(command, name: str) -> None:
    shown = json.loads(command("show", name, "--json").out)
    assert sum(row["parameters"] for row in shown["rows"]) == shown["parameters"]
    assert sum(row["macs"] for row in shown["rows"] if not row["training_only"]) == shown["macs"]
    assert shown["input"] == [3, catalogue.size_of(name), catalogue.size_of(name)]
    assert shown["output"] == [1000]
    table = command("show", name).out
    assert f"{shown['parameters']:,} trainable" in table
    assert f"{shown['macs']:,} (" in table


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 kB"),
        (412, "0.412 kB"),
        (999_499, "999 kB"),
        (999_501, "1 MB"),
        (4_089_184_256, "4.09 GB"),
        (7e14, "7e+05 GB"),
    ],
)
def test_large_numbers_are_rounded(number: float, text: str) -> None:
    assert rounded(number, "kB", "MB", "GB") == text


def test_show_prints_the_papers_table(command) -> None:
    lines = command("show", "lenet", "--classes", 10, "--channels", 1).out.splitlines()
    assert lines[0].startswith('lenet: "Gradient-based learning')
    assert lines[2] == "input 1 x 32 x 32 (channels x height x width)"
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines[4:14]]
    assert cells[0][:8] == ["path", "layer", "kernel", "filters", "stride", "padding", "activation", "output"]
    assert cells[0][8:] == ["parameters", "MACs", "memory", "field"]
    assert cells[2] == ["conv1", "Conv", "5 x 5", "6", "1", "0", "-", "6 x 28 x 28", "156", "117,600", "18.8 kB", "5"]
    assert cells[3] == ["pool1", "MaxPool", "2 x 2", "-", "2", "0", "Sigmoid", "6 x 14 x 14", "-", "-", "9.41 kB", "6"]
    assert cells[-1] == ["fc3", "Linear", "-", "10", "-", "-", "-", "10", "650", "640", "0.04 kB", "32"]
    assert "59,086 trainable" in "\n".join(lines)
    assert "this one only, because of flatten" in lines[-1]


def test_show_takes_size_and_variant(command) -> None:
    wide = json.loads(command("show", "resnet18", "--size", "64x96", "--json").out)
    assert wide["input"] == [3, 64, 96]
    assert wide["rows"][0]["output"] == [64, 32, 48]
    assert wide["sized"] == []
    square = json.loads(command("show", "resnet18", "--size", 65, "--json").out)
    assert square["input"] == [3, 65, 65]
    default, published = (
        json.loads(command("show", "alexnet", *flags, "--json").out)["parameters"]
        for flags in ((), ("--variant", "paper"))
    )
    assert (default, published) == (50_844_008, 60_965_224)


def test_show_takes_a_width_and_cuts(command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    narrow = json.loads(command("show", "mobilenet_v2", "--width", 0.35, "--json").out)
    assert narrow["parameters"] == 1_677_128
    features = json.loads(command("show", "resnet50", "--upto", "conv4", "--json").out)
    assert features["output"] == [1024, 14, 14]
    assert features["rows"][-1]["path"] == "conv4.relu_5"
    Path("net.json").write_text(command("show", "lenet", "--classes", 4, "--tree").out, encoding="utf-8")
    command("show", "net.json", "--size", 32, "--classes", 5).refuses("net.json has its classes written in it")
    command("show", "resnet18", "--width", 0.5).refuses("resnet18 has no width", "mobilenet_v1, mobilenet_v2")
    command("show", "resnet18", "--upto", "conv9").refuses("there is no 'conv9'", "conv5")


def test_show_names_branches_and_their_activation_apart(command, own: Path) -> None:
    answer = command("show", f"{own}:net", "--classes", 5)
    rows = {line.split()[0]: line.split() for line in answer.out.splitlines() if line.split()}
    assert rows["block.right"][1] == "ReLU", "an activation beside a convolution is not what follows it"
    assert rows["block"][1] == "Sum"
    assert "input 3 x 48 x 48 (channels x height x width)" in answer.out, "the file's own SIZE"
    assert rows["fc"][3] == "5"


REFUSED = {
    "unknown-name": (("resnet51",), ("'resnet51'", "resnet50", "imori models")),
    "unknown-variant": (("lenet", "--variant", "caffe"), ("'caffe'", "paper")),
    "too-small": (
        ("alexnet", "--size", 20),
        ("conv2", "5×5", "larger images", "smallest input of this network is 3×83×83 (--size 83)"),
    ),
    "no-classes": (("lenet", "--classes", 0), ("classes is 0", "from 1")),
    "classes-in-words": (("lenet", "--classes", "ten"), ("--classes", "'ten'", "whole number")),
    "size-of-three": (("lenet", "--size", "3x32x32"), ("--size", "'3x32x32'", "180x240")),
    "size-of-zero": (("lenet", "--size", "0"), ("--size", "'0'", "180x240")),
    "no-run": (("runs/nothing",), ("runs/nothing", "run")),
    "no-file": (("nothing.safetensors",), ("nothing.safetensors",)),
    "no-own-file": (("nothing.py:net",), ("nothing.py", "cannot be read")),
}


@pytest.mark.parametrize(("arguments", "mentions"), REFUSED.values(), ids=REFUSED)
def test_show_refuses(command, arguments, mentions, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    command("show", *arguments).refuses(*mentions)


def test_training_names_the_smallest_size(command, tmp_path: Path) -> None:
    answer = command(
        "train", "digits", "--model", "lenet", "--size", 8, "--framework", "numpy", "--out", tmp_path / "a"
    )
    answer.refuses("conv2", "×16×16 (--size 16)")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("function", "mentions"),
    [
        ("nothing", ("no function 'nothing'", "net")),
        ("broken", ("ZeroDivisionError", "mend the file")),
        ("text", ("'a network'", "tree")),
    ],
)
def test_show_refuses_own_networks(command, own: Path, function: str, mentions: tuple[str, ...]) -> None:
    command("show", f"{own}:{function}").refuses("my_net.py", *mentions)


# --- folding ---------------------------------------------------------------------------------------------------------

SHAPE = (3, 32, 32)


def block(width: int) -> t.Sum:
    return t.Sum(body=t.Chain(conv=t.Conv(width, 3, pad=1), bn=t.BatchNorm()), shortcut=t.Identity())


def listed(tree: t.Tree, folded: bool = True) -> list[tuple[str, int]]:
    return [(row.path, row.times) for row in rows(resolve(tree, SHAPE), folded)]


def test_equal_blocks_are_one_and_the_activation_between_them_with_them() -> None:
    tree = t.Chain(stem=t.Conv(8, 3), stage=t.Chain(*[part for _ in range(4) for part in (block(8), t.ReLU())]))
    assert listed(tree) == [
        ("stem", 1),
        ("stage.0-3.body.conv", 4),
        ("stage.0-3.body.bn", 4),
        ("stage.0-3.shortcut", 4),
        ("stage.0-3", 4),
    ]
    assert [row.activation.layer for row in rows(resolve(tree, SHAPE)) if row.activation] == [t.ReLU()]
    assert len(listed(tree, folded=False)) == 1 + 4 * 4


def test_blocks_that_are_chains_take_the_row_of_their_activation_with_them() -> None:
    body = t.Chain(conv=t.Conv(3, 1), bn=t.BatchNorm())
    tree = t.Chain(block1=body, relu1=t.ReLU(), block2=body, relu2=t.ReLU(), block3=body)
    assert listed(tree) == [
        ("block1-2.conv", 2),
        ("block1-2.bn", 2),
        ("relu1-2", 2),
        ("block3.conv", 1),
        ("block3.bn", 1),
    ]


def test_blocks_within_blocks_multiply() -> None:
    inner = t.Chain(left=block(3), right=block(3))
    tree = t.Chain(t.Conv(3, 1), inner, inner, inner)
    assert listed(tree)[1:] == [(f"1-3.left-right{rest}", 6) for rest in (".body.conv", ".body.bn", ".shortcut", "")]


@pytest.mark.parametrize(
    "tree",
    [
        t.Chain(block(3), t.MaxPool(2), block(3)),
        t.Chain(t.Chain(a=t.Conv(8, 1), b=t.BatchNorm()), t.Chain(a=t.Conv(8, 1), b=t.BatchNorm())),
        t.Chain(t.Chain(t.Conv(3, 3), t.ReLU(), t.Conv(3, 3)), t.Chain(t.Conv(3, 3), t.ReLU(), t.Conv(3, 3))),
        t.Chain(block(3), t.ReLU(), block(3), t.Tanh()),
        t.Concat(block(3), block(3)),
        t.Chain(t.Conv(3, 1), t.ReLU(), t.Conv(3, 1), t.ReLU()),
    ],
    ids=["apart", "channels", "sizes", "activations", "side-by-side", "lone-layers"],
)
def test_what_is_not_equal_or_no_block_stays(tree: t.Tree) -> None:
    assert listed(tree) == listed(tree, folded=False)


def test_a_folded_row_says_what_its_last_block_sees(command, tmp_path: Path) -> None:
    tree = t.Chain(conv=t.Conv(3, 3), stage=t.Chain(block(3), block(3), block(3)), fc=t.GlobalAvgPool())
    (tmp_path / "net.json").write_text(t.to_json(tree))
    out = command("show", tmp_path / "net.json", "--size", 32).out
    row = next(line for line in out.splitlines() if line.startswith("stage.0-2.body.conv x 3 "))
    assert re.split(r"\s{2,}", row)[-4:] == ["84", "72,900", "10.8 kB", "5-9"]
    assert "x N: so many equal blocks" in out
    everything = command("show", tmp_path / "net.json", "--size", 32, "--all").out
    assert "x N" not in everything
    assert "stage.2.body.conv " in everything


VARIANTS = [(name, variant) for name in imori.list_models() for variant in catalogue.variants(name)]


def total(of: str, listed: list[Row]) -> int:
    return sum(getattr(row, of) * row.times for row in listed)


@pytest.mark.parametrize(("name", "variant"), VARIANTS, ids=map("-".join, VARIANTS))
def test_folded_rows_add_up_to_the_totals(name: str, variant: str) -> None:
    tree = imori.model(name, variant=variant)
    shape = (3, catalogue.size_of(name), catalogue.size_of(name))
    counted, root = summary(tree, shape), resolve(tree, shape)
    for folded in (True, False):
        found = rows(root, folded)
        assert total("parameters", found) == counted.parameters
        assert total("macs", found) == counted.macs
        assert 4 * (prod(shape) + total("values", found)) == counted.activations
    assert sum(row.times for row in rows(root)) == len(rows(root, folded=False)) == len(t.rows_of(tree))


def test_resnets_repeated_blocks_are_folded(command) -> None:
    out = command("show", "resnet50").out
    assert re.search(r"^conv4\.1-5\.body\.conv2 x 5 .* 589,824 +115,605,504 +201 kB +139-267$", out, re.MULTILINE)
    assert re.search(r"^conv4\.1-5 x 5 +Sum .* ReLU ", out, re.MULTILINE)


# --- sizes, trees ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tree", "words"),
    [
        (t.Chain(t.Conv(3, 5), t.MaxPool(2)), "any from 6 x 6"),
        (t.Sum(t.MaxPool(2), t.Conv(3, 3, stride=2, pad=1)), "from 2 x 2, but not every one: 2, 4, 6, 8, ..."),
        (t.Chain(c=t.Conv(3, 5), f=t.Flatten()), "this one only, because of f; build it anew for another, from 5 x 5"),
    ],
    ids=["any", "gaps", "one"],
)
def test_show_says_which_sizes_a_network_takes(command, tmp_path: Path, tree: t.Tree, words: str) -> None:
    (tmp_path / "net.json").write_text(t.to_json(tree))
    out = command("show", tmp_path / "net.json", "--size", 8).out
    assert out.splitlines()[-1] == f"input size   {words}"
    assert json.loads(command("show", tmp_path / "net.json", "--size", 8, "--json").out)["smallest"] == int(
        re.findall(r"(\d+) x", words)[-1]
    )


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "lenet"])
def test_a_printed_tree_is_the_tree(command, tmp_path: Path, name: str) -> None:
    printed = command("show", name, "--tree", "--classes", 4).out
    assert t.from_json(printed) == imori.model(name, classes=4)
    assert max(map(len, printed.splitlines())) < 200
    file = tmp_path / "mine.json"
    file.write_text(printed.replace('"out": 4,', '"out": 2,'))
    assert json.loads(command("show", file, "--size", 96, "--json").out)["output"] == [2]


def test_an_edited_tree_trains(command, tmp_path: Path) -> None:
    file, run = tmp_path / "mine.json", tmp_path / "run"
    file.write_text(command("show", "lenet", "--tree", "--classes", 10).out.replace('"out": 120,', '"out": 30,'))
    flags = ("--framework", "numpy", "--iterations", 2, "--size", 32, "--out", run)
    assert command("train", "digits", "--model", file, *flags).code == 0
    trained = json.loads(command("show", run, "--json").out)
    assert next(row for row in trained["rows"] if row["path"] == "fc1")["output"] == [30]


# --- comparing -------------------------------------------------------------------------------------------------------


def test_networks_stand_side_by_side(command) -> None:
    answer = command("show", "--compare", "resnet50", "resnet50@paper", "vgg16")
    cells = {re.split(r"\s{2,}", line)[0]: re.split(r"\s{2,}", line)[1:] for line in answer.out.splitlines()}
    assert answer.out.splitlines()[0].split() == ["resnet50", "resnet50@paper", "vgg16"]
    assert cells["parameters, trainable"] == ["25,557,032", "25,557,096", "138,357,544"]
    assert cells["MACs, rounded"] == ["4.09 billion", "3.86 billion", "15.5 billion"]
    assert cells["depth"] == ["50", "50", "16"]
    assert cells["smallest input"] == ["1 x 1", "1 x 1", "32 x 32"]
    assert cells["bound to its input size by"] == ["-", "-", "flatten"]


def test_a_comparison_as_json_and_with_shared_flags(command) -> None:
    flags = ("--size", 64, "--classes", 5, "--channels", 1, "--variant", "paper")
    first, second = json.loads(command("show", "--compare", "lenet", "resnet18@default", *flags, "--json").out)
    assert first["parameters"] == summary(imori.model("lenet", 5, 1, "paper"), (1, 64, 64)).parameters
    assert second["parameters"] == summary(imori.model("resnet18", 5), (1, 64, 64)).parameters
    assert second["stride"] == [32, 32]
    assert first["weights_bytes"] == 4 * first["total"]
    assert (first["smallest"], second["smallest"]) == (16, 1)


def test_a_trained_model_is_compared_as_it_is(command, digits_run: Path) -> None:
    trained, other = json.loads(command("show", "--compare", digits_run, "lenet", "--classes", 3, "--json").out)
    assert trained["model"] == str(digits_run)
    assert trained["parameters"] > other["parameters"]


@pytest.mark.parametrize(("name", "depth"), [("vgg19", 19), ("resnet152", 152), ("densenet121", 121), ("lenet", 5)])
def test_the_depth_is_the_one_in_the_name(name: str, depth: int) -> None:
    assert depth_of(resolve(imori.model(name), (3, 64, 64))) == depth


def test_one_network_is_shown_and_several_are_compared(command) -> None:
    command("show", "lenet", "vgg16").refuses("'lenet', 'vgg16'", "--compare")
    command("show", "--compare", "lenet").refuses("nothing to compare lenet with")
    command("show", "--compare", "lenet@caffe", "vgg16").refuses("'caffe'", "paper")
    command("show", "lenet", "--macs", "--depth").refuses("--depth", "--macs")


# --- what separable convolutions save --------------------------------------------------------------------------------


def example(*layers: t.Tree) -> Any:
    (pair,) = separables(resolve(t.Chain(*layers), (16, 10, 12)))
    return pair


def test_the_worked_example_of_a_separable_convolution() -> None:
    depthwise, pointwise = t.Depthwise(3, pad=1, bias=False), t.Conv(32, 1, bias=False)
    for layers, weights in (((depthwise, pointwise), 656), ((pointwise, depthwise), 800)):
        pair = example(*layers)
        assert pair.first.parameters + pair.last.parameters == weights
        assert pair.macs == weights * 120
        assert pair.ordinary == 4608 * 120
        assert pair.exact
        assert pair.formula == pytest.approx(weights / 4608)
        assert pair.formula == pytest.approx(1 / (32 if layers[0] is depthwise else 16) + 1 / 9)


@pytest.mark.parametrize(
    ("layers", "exact"),
    [
        ((t.Depthwise(3, stride=2, pad=1), t.BatchNorm(), t.ReLU(), t.Conv(32, 1)), True),
        ((t.Depthwise((3, 5)), t.Conv(7, 1)), True),
        ((t.Conv(32, 1), t.Depthwise(3, stride=2, pad=1)), False),
        ((t.Depthwise(3, multiplier=2), t.Conv(32, 1)), False),
    ],
    ids=["stride-on-the-depthwise", "oblong", "stride-after-the-pointwise", "multiplier"],
)
def test_where_the_formula_is_the_ratio(layers: tuple[t.Tree, ...], exact: bool) -> None:
    pair = example(*layers)
    ordinary = t.Chain(t.Conv(pair.last.output[0], pair.depthwise.window.kernel, pad=0))
    area = prod(pair.last.output[1:])
    assert (
        pair.ordinary
        == resolve(ordinary, (16, 30, 30)).children[0].macs // prod(resolve(ordinary, (16, 30, 30)).output[1:]) * area
    )
    assert pair.exact is exact
    assert (pair.macs / pair.ordinary == pytest.approx(pair.formula, rel=1e-12)) is exact


def paths(tree: t.Tree) -> list[tuple[str, str]]:
    return [(pair.first.path, pair.last.path) for pair in separables(resolve(tree, (4, 9, 9)))]


def test_pairs_are_found_where_they_are() -> None:
    expand, depthwise, project = t.Conv(8, 1), t.Depthwise(3, pad=1), t.Conv(4, 1)
    assert paths(t.Chain(e=expand, r=t.ReLU(), d=depthwise, b=t.BatchNorm(), p=project)) == [("d", "p")]
    assert paths(t.Chain(a=depthwise, b=project, c=depthwise)) == [("a", "b")]
    assert paths(t.Chain(a=project, b=depthwise, c=t.MaxPool(2), d=project)) == [("a", "b")]
    assert paths(t.Chain(a=depthwise, b=t.Conv(4, 1, stride=2), c=t.Conv(4, 3))) == []
    assert paths(t.Chain(a=depthwise, s=t.Sum(x=project, y=t.Identity()))) == []
    assert paths(t.Chain(a=depthwise, h=t.Aux(t.Chain(p=project, g=t.GlobalAvgPool())), b=project)) == []


def test_macs_of_a_separable_network(command) -> None:
    out = command("show", "mobilenet_v1", "--macs").out
    assert re.search(r"^block2\.depthwise \+ block2\.pointwise +64 to 128 .* 0\.1189 +0\.1189$", out, re.MULTILINE)
    assert "16 * 32 * 9 = 4,608" in out
    assert "16 * 9 + 16 * 32 = 656" in out
    assert "16 * 32 + 32 * 9 = 800" in out
    data = json.loads(command("show", "mobilenet_v1", "--macs", "--json").out)
    ours, theirs = (sum(pair[of] for pair in data["separable"]) for of in ("macs", "ordinary"))
    assert len(data["separable"]) == 13
    assert all(pair["exact"] for pair in data["separable"])
    assert f"{ours:,} MACs in place of {theirs:,}" in out
    assert f"with ordinary convolutions {data['macs'] - ours + theirs:,}" in out


@pytest.mark.parametrize("name", ["vgg16", "resnext50_32x4d", "mobilenet_v2", "googlenet"])
def test_macs_by_kind_add_up(command, name: str) -> None:
    data = json.loads(command("show", name, "--macs", "--json").out)
    assert sum(kind["macs"] for kind in data["kinds"]) == data["macs"] > 0
    out = command("show", name, "--macs").out
    assert ("separable" in out) == bool(data["separable"]) == (name == "mobilenet_v2")
    if name == "resnext50_32x4d":
        assert "3 x 3 convolution in 32 groups" in out


# --- why depth pays --------------------------------------------------------------------------------------------------


def stack(*layers: t.Tree) -> Any:
    (found,) = stacks(resolve(t.Chain(*layers), (10, 20, 24)))
    return found


def test_small_kernels_against_the_one_that_sees_as_much() -> None:
    conv = t.Conv(10, 3, pad=1)
    two, three = stack(conv, t.ReLU(), conv, t.ReLU()), stack(conv, t.ReLU(), conv, t.BatchNorm(), t.ReLU(), conv)
    assert (two.weights, two.single, two.kernel) == (18 * 100, 25 * 100, (5, 5))
    assert (three.weights, three.single, three.kernel) == (27 * 100, 49 * 100, (7, 7))
    assert (two.between, two.after, three.between, three.after) == (1, 1, 2, 0)
    assert two.macs == two.weights * 480
    field = resolve(t.Chain(conv, t.ReLU(), conv), (10, 20, 24)).receptive_field
    assert field == two.kernel
    uneven = stack(t.Conv(7, (3, 1)), t.Conv(5, 3, dilation=2))
    single = resolve(t.Conv(5, uneven.kernel), (10, 20, 24))
    assert uneven.kernel == (7, 5)
    assert uneven.single == prod(single.weights["weight"])
    assert uneven.single_macs == single.macs


@pytest.mark.parametrize(
    "between",
    [t.MaxPool(2), t.Conv(10, 1), t.Conv(10, 3, stride=2), t.Conv(10, 3, groups=2), t.Sum(t.Identity(), t.Identity())],
    ids=lambda layer: type(layer).__name__,
)
def test_a_stack_ends_at_what_is_no_small_convolution(between: t.Tree) -> None:
    conv = t.Conv(10, 3, pad=1)
    assert stacks(resolve(t.Chain(conv, t.ReLU(), between, conv), (10, 20, 24))) == []


def test_depth_of_vgg16(command) -> None:
    out = command("show", "vgg16", "--depth").out
    row = re.split(r"\s{2,}", next(line for line in out.splitlines() if line.startswith("conv5_1 to conv5_3")))
    assert row[3:] == ["7,077,888", "1,387,266,048", "3 against 1", "7 x 7", "12,845,056", "2,517,630,976"]
    data = json.loads(command("show", "vgg16", "--depth", "--json").out)
    ours, theirs = (sum(found[of] for found in data["stacks"]) for of in ("weights", "single_weights"))
    assert f"weights      {ours:,} in the stacks, {theirs:,} in single kernels: 0.70 of them" in out
    assert "activations  13 with the stacks, 5 with single kernels" in out
    assert "few channels" in out


def test_depth_where_there_are_no_stacks(command) -> None:
    assert "There is none" in command("show", "resnet50", "--depth").out
