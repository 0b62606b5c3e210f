"""What the light commands import, in fresh processes, and what `import imori` gives. See test_architecture.py too."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import imori
from imori import frameworks

FRAMEWORKS = {"torch", "tensorflow", "keras", "jax", "flax", "optax", "chainer", "onnx", "onnxruntime"}
HEAVY = FRAMEWORKS | {"numpy", "PIL", "safetensors"}
LIGHT_COMMANDS = {
    "show-resnet50": ("show", "resnet50"),
    "show-lenet-json": ("show", "lenet", "--json"),
    "show-compare": ("show", "--compare", "lenet", "alexnet@paper"),
    "show-macs": ("show", "resnet18", "--macs"),
    "show-depth": ("show", "vgg16", "--depth"),
    "show-tree": ("show", "lenet", "--tree"),
    "models": ("models",),
    "version": ("--version",),
    "help": (),
    "train-help": ("train", "--help"),
    "test-help": ("test", "--help"),
    "predict-help": ("predict", "--help"),
    "ensemble-help": ("ensemble", "--help"),
    "explain-help": ("explain", "--help"),
    "convert-help": ("convert", "--help"),
}


def imported_by(code: str) -> set[str]:
    """The top-level packages in sys.modules after `code` has run in a fresh process."""
    report = "\nimport sys\nprint(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stderr.split())


@pytest.mark.parametrize("arguments", LIGHT_COMMANDS.values(), ids=LIGHT_COMMANDS)
def test_light_commands_import_no_framework_and_no_numpy(arguments: tuple[str, ...]) -> None:
    loaded = imported_by(f"from imori.cli import main\nassert main({list(arguments)!r}) == 0")
    assert "imori" in loaded
    assert loaded.isdisjoint(HEAVY)


MISSING = {
    "torch": ("torch", "torch", "imori[torch]"),
    "tensorflow": ("tensorflow", "tensorflow", "imori[tensorflow]"),
    "keras": ("keras", "keras", "imori[keras]"),
    "keras-tensorflow": ("keras", "tensorflow", "imori[keras]"),
    "keras-jax": ("keras", "jax", "imori[flax]"),
    "keras-torch": ("keras", "torch", "imori[torch]"),
    "flax": ("flax", "flax", "imori[flax]"),
    "flax-jax": ("flax", "jax", "imori[flax]"),
    "flax-optax": ("flax", "optax", "imori[flax]"),
    "chainer": ("chainer", "chainer", "imori[chainer]"),
}
"""A framework, the package of it that is not there, and the extra that brings it. Of Keras, it is the backend."""
WITHOUT = """
import importlib.machinery, sys
hidden, *arguments = sys.argv[1:]
find = importlib.machinery.PathFinder.find_spec
importlib.machinery.PathFinder.find_spec = lambda name, *rest: None if name == hidden else find(name, *rest)
from imori.cli import main
code = main(arguments)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
sys.exit(code)
"""


@pytest.mark.parametrize(
    ("chosen", "hidden", "extra"),
    [
        pytest.param(*case, id=name)
        for name, case in MISSING.items()
        if case[0] == case[1] or frameworks.installed(case[0])
    ],
)
def test_a_missing_framework_is_named_before_any_is_imported(
    chosen: str, hidden: str, extra: str, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, hidden, "train", "digits", "--model", "lenet", "--framework", chosen],
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": hidden if chosen == "keras" != hidden else "tensorflow"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert f"{hidden} is not installed" in done.stderr or f"{hidden}, which is not installed" in done.stderr
    assert f"'{extra}'" in done.stderr
    loaded = set(done.stdout.split())
    assert "imori" in loaded
    assert loaded.isdisjoint(FRAMEWORKS)
    assert not list(tmp_path.iterdir()), "nothing was written"


@pytest.mark.parametrize("hidden", ["onnx", "onnxruntime"])
def test_a_missing_part_of_onnx_is_named_before_it_is_imported(hidden: str, pets_run: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, hidden, "predict", pets_run, pets_run.parent / "photos", "--framework", "onnx"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert re.fullmatch(rf"error: .*{hidden}.* is not installed; .*pip install 'imori\[onnx\]'\n", done.stderr)
    assert set(done.stdout.split()).isdisjoint(FRAMEWORKS)


@pytest.mark.parametrize("chosen", ["torch", "keras", "tensorflow", "flax", "chainer", "onnx"])
def test_convert_names_a_missing_framework_before_any_is_imported(chosen: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, chosen, "convert", "run", "--to", chosen, "file"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"error: {chosen} is not installed")
    assert f"imori[{chosen}]" in done.stderr
    assert set(done.stdout.split()).isdisjoint(FRAMEWORKS)
    assert not list(tmp_path.iterdir()), "nothing was written"


def test_train_is_the_function_whatever_was_imported_first() -> None:
    imported_by(
        "import imori.train.recipe\nfrom imori.train import Recipe\nimport imori\n"
        "assert callable(imori.train), imori.train\nassert imori.Recipe is Recipe"
    )


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        imori.nothing  # noqa: B018
