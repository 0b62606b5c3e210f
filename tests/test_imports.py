"""What the light commands import, in fresh processes, and what `import imori` gives. See test_architecture.py too."""

import subprocess
import sys

import pytest

import imori

HEAVY = {"numpy", "PIL", "safetensors", "torch", "tensorflow", "keras", "jax", "flax", "chainer", "onnx", "onnxruntime"}
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


def test_train_is_the_function_whatever_was_imported_first() -> None:
    imported_by(
        "import imori.train.recipe\nfrom imori.train import Recipe\nimport imori\n"
        "assert callable(imori.train), imori.train\nassert imori.Recipe is Recipe"
    )


def test_a_name_that_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        imori.nothing  # noqa: B018
