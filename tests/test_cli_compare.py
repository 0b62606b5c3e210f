"""`imori compare`: one model in several frameworks, each in a process of its own."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

import imori
from imori import comparison, frameworks
from imori.comparison import Figures
from imori.errors import ImoriError

WRONG_TORCH = """
from imori import frameworks
build = frameworks.build
def off(tree, shape, name, weights, dtype="float32", device="auto"):
    if name == "torch":
        weights = weights | {"conv2.weight": weights["conv2.weight"] * 1.01}
    return build(tree, shape, name, weights, dtype, device)
frameworks.build = off
"""
QUICK = ("--rounds", 1, "-b", 2)


def test_a_row_for_each_framework(command, digits_run: Path) -> None:
    answer = command("compare", digits_run, "--frameworks", "numpy,torch,onnx", *QUICK)
    assert answer.code == 0, answer.err
    head, _, numpy, torch, onnx, _, said = answer.out.splitlines()
    assert head.split()[:4] == ["framework", "version", "float64", "float32"]
    assert numpy.split()[:3] == ["numpy", np.__version__, "0.0e+00"]
    assert 0 < float(torch.split()[2]) < 1e-12
    assert 0 < float(torch.split()[3]) < 1e-5
    assert onnx.split()[2] == "-", "it has no float64"
    assert onnx.split()[-1] == "-", "it does not train"
    assert "of 1 for 2 images in float32" in said


@pytest.mark.slow
def test_json_has_every_figure(command, digits_run: Path) -> None:
    answer = command("compare", digits_run, "--frameworks", "numpy,torch", "--json", "--layers", *QUICK)
    assert answer.code == 0, answer.err
    said = json.loads(answer.out)
    assert said["batch"] == 2
    numpy, torch = said["frameworks"]
    assert (numpy["framework"], torch["framework"]) == ("numpy", "torch")
    for figures in (numpy, torch):
        assert figures["agrees"]
        assert figures["prediction"] > 0
        assert figures["step"] > 0
        assert 2**20 < figures["memory"] <= figures["training_memory"]
        assert figures["parts_at"] == ""
    assert torch["memory"] > numpy["memory"]
    assert list(torch["layers"])[:2] == ["conv1", "pool1"]
    assert max(torch["layers"].values()) < 1e-5


@pytest.mark.slow
def test_the_first_layer_that_differs_is_named(command, monkeypatch, digits_run: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(WRONG_TORCH)
    search = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    monkeypatch.setenv("PYTHONPATH", search)
    answer = command("compare", digits_run, "--frameworks", "numpy,torch", "--layers", *QUICK)
    assert answer.code == 1
    assert answer.out.splitlines()[-1] == "torch and numpy first differ at conv2"
    (tmp_path / "sitecustomize.py").write_text(WRONG_TORCH.replace("1.01", "1.000001"))
    assert command("compare", digits_run, "--frameworks", "numpy,torch", *QUICK).code == 1, "float64 shows it"
    answer = command("compare", digits_run, "--frameworks", "onnx,torch", *QUICK)
    assert answer.code == 0, "without float64 on both sides it cannot be seen"
    assert answer.out.splitlines()[3].split()[2] == "-"
    (tmp_path / "sitecustomize.py").write_text(WRONG_TORCH)
    answer = command("compare", digits_run, "--frameworks", "torch,numpy", *QUICK)
    assert answer.code == 1, "the first named is what the others are compared with"


def test_a_framework_that_fails_has_a_reason(command, monkeypatch, digits_run: Path, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\nif sys.argv[2:] == ['torch']:\n    print('no room', file=sys.stderr)\n    os._exit(9)\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH")))))
    answer = command("compare", digits_run, "--frameworks", "numpy,torch", *QUICK)
    assert answer.code == 1
    assert answer.out.splitlines()[-1] == "torch: ended with 9: no room"
    with pytest.raises(ImoriError, match="torch, which the others are to be compared with, ended with 9: no room"):
        imori.compare(digits_run, ["torch", "numpy"], rounds=1)


@pytest.mark.slow
def test_a_name_of_the_catalogue_has_random_weights() -> None:
    ours, theirs = imori.compare("lenet", ["numpy", "torch"], classes=3, size=28, batch=2, rounds=1)
    assert ours.float64 == 0
    assert 0 < theirs.float64 < 1e-12


def test_all_is_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frameworks, "installed", lambda name: name in ("torch", "numpy", "onnx"))
    assert comparison._chosen([]) == ["numpy", "torch"], "onnxruntime is not there"


@pytest.mark.parametrize(
    ("names", "mentions"),
    [
        ("numpy,tourch", ("there is no framework 'tourch'", "did you mean torch?")),
        ("numpy,torch,numpy", ("numpy is named twice",)),
        ("torch:jax", ("'torch:jax' is no framework", "keras:jax")),
        ("keras:nosuch", ("keras has no backend 'nosuch'", "keras:tensorflow, keras:jax, keras:torch or keras alone")),
        ("keras:", ("keras has no backend ''",)),
    ],
)
def test_frameworks_that_are_none(command, digits_run: Path, names: str, mentions: tuple[str, ...]) -> None:
    command("compare", digits_run, "--frameworks", names).refuses(*mentions)


@pytest.mark.parametrize(("flag", "what"), [("--batch-size", "the batch size"), ("--rounds", "the number of rounds")])
@pytest.mark.parametrize("value", [0, -1])
def test_numbers_that_are_none(command, digits_run: Path, flag: str, what: str, value: int) -> None:
    said = f"{what} is {value}; it must be a whole number from 1"
    command("compare", digits_run, "--frameworks", "numpy", f"{flag}={value}").refuses(said)


def test_a_framework_that_is_not_installed(command, digits_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frameworks, "installed", lambda name: name == "numpy")
    command("compare", digits_run, "--frameworks", "numpy,torch").refuses("torch is not installed", "imori[torch]")


def test_no_such_model(command) -> None:
    command("compare", "lenett").refuses("lenett", "lenet")
    command("compare", "none.pth").refuses("none.pth is not there")


def test_what_agrees() -> None:
    assert Figures("torch", float32=1e-5).agrees
    assert not Figures("torch", float32=2e-4).agrees
    assert Figures("torch", float32=1e-5, float64=1e-12).agrees
    assert not Figures("torch", float32=1e-5, float64=1e-8).agrees, "float32 would have hidden it"
    assert not Figures("torch", float32=float("nan")).agrees
    assert not Figures("torch", failed="it did").agrees
