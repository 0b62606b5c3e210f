"""`imori models` and `imori show`."""

import json
from pathlib import Path

import pytest

import imori
from imori import catalogue
from imori.cli.networks import _rounded, paper

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


def test_models_lists_the_catalogue(command) -> None:
    answer = command("models")
    assert answer.code == 0
    assert [line.split()[0] for line in answer.out.splitlines()[2:-2]] == imori.list_models()
    row = next(line for line in answer.out.splitlines() if line.startswith("resnet50 "))
    assert row.split()[:6] == ["resnet50", "2015", "224", "x", "224", "25,557,032"]
    assert row.endswith("Deep residual learning for image recognition")


def test_models_takes_a_pattern(command) -> None:
    answer = command("models", "vgg*", "--json")
    rows = json.loads(answer.out)
    assert [row["name"] for row in rows] == ["vgg16", "vgg19", "vgg16_bn", "vgg19_bn"]
    assert rows[0]["parameters"] == 138_357_544
    assert rows[0]["year"] == 2014
    assert rows[0]["link"].startswith("https://arxiv.org/abs/1409.1556")


def test_models_without_a_fit_says_so(command) -> None:
    command("models", "mobil").refuses("'mobil'", "imori models")


@pytest.mark.parametrize("name", imori.list_models())
def test_every_paper_is_cited(name: str) -> None:
    source = paper(name)
    assert 1980 < source.year < 2030
    assert len(source.title) > 10
    assert source.link.startswith("http")


@pytest.mark.parametrize("name", imori.list_models())
def test_show_sums_what_it_lists(command, name: str) -> None:
    shown = json.loads(command("show", name, "--json").out)
    assert sum(row["parameters"] for row in shown["rows"]) == shown["parameters"]
    assert sum(row["macs"] for row in shown["rows"]) == shown["macs"]
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
    assert _rounded(number, "kB", "MB", "GB") == text


def test_show_prints_the_papers_table(command) -> None:
    lines = command("show", "lenet", "--classes", 10, "--channels", 1).out.splitlines()
    assert lines[0].startswith('lenet: "Gradient-based learning')
    assert lines[2] == "input 1 x 32 x 32 (channels x height x width)"
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in lines[4:14]]
    assert cells[0][:8] == ["path", "layer", "kernel", "filters", "stride", "padding", "activation", "output"]
    assert cells[0][8:] == ["parameters", "MACs", "field"]
    assert cells[2] == ["conv1", "Conv", "5 x 5", "6", "1", "0", "-", "6 x 28 x 28", "156", "117,600", "5"]
    assert cells[3] == ["pool1", "MaxPool", "2 x 2", "-", "2", "0", "Sigmoid", "6 x 14 x 14", "-", "-", "6"]
    assert cells[-1] == ["fc3", "Linear", "-", "10", "-", "-", "-", "10", "650", "640", "32"]
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
    answer.refuses("conv2", "smallest input of this network is 1×16×16 (--size 16)")
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
