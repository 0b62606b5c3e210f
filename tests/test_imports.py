"""What importing imori, and running its light commands, may import: checked in fresh processes."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import imori

ROOT = Path(imori.__file__).parent
HEAVY = {
    "numpy",
    "PIL",
    "safetensors",
    "rich",
    "torch",
    "tensorflow",
    "keras",
    "jax",
    "flax",
    "chainer",
    "onnx",
    "typing_extensions",
}
FRAMEWORKS = {"torch", "tensorflow", "keras", "jax", "flax", "chainer", "onnx", "onnxruntime"}
LIGHT_COMMANDS = {
    "show-resnet50": ("show", "resnet50"),
    "show-lenet-json": ("show", "lenet", "--json"),
    "models": ("models",),
    "version": ("--version",),
    "help": (),
    "train-help": ("train", "--help"),
}


def imported_by(code: str) -> set[str]:
    """The top-level packages in sys.modules after `code` has run in a fresh process."""
    report = "\nimport sys\nprint(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code + report], capture_output=True, text=True, check=True)
    return set(done.stderr.split())


def test_import_imori_imports_nothing_else() -> None:
    loaded = imported_by("import imori\nassert imori.__version__")
    assert "imori" in loaded
    assert loaded.isdisjoint(HEAVY)


@pytest.mark.parametrize("arguments", LIGHT_COMMANDS.values(), ids=LIGHT_COMMANDS)
def test_light_commands_import_no_framework_and_no_numpy(arguments: tuple[str, ...]) -> None:
    loaded = imported_by(f"from imori.cli import main\nassert main({list(arguments)!r}) == 0")
    assert loaded.isdisjoint(FRAMEWORKS | {"numpy", "PIL", "safetensors"})


def test_every_public_name_is_there() -> None:
    for name in imori.__all__:
        assert getattr(imori, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        imori.nothing  # noqa: B018
    assert set(imori.__all__) <= set(dir(imori))


def test_train_is_the_function_whatever_was_imported_first() -> None:
    imported_by(
        "import imori.train.recipe\nfrom imori.train import Recipe\nimport imori\n"
        "assert callable(imori.train), imori.train\nassert imori.Recipe is Recipe"
    )


# --- the only direction that imports may go ---------------------------------------------------------------------------

# Each part, and the parts of imori that it may import; "" is the standard library alone.
ARROWS = {
    "errors": "",
    "tree": "errors",
    "shapes": "errors tree",
    "optimizers": "errors",
    "papers": "tree",
    "catalogue": "errors tree papers",
    "engine": "errors",
    "weights": "errors tree shapes",
    "data": "errors",
    "frameworks": "errors tree shapes optimizers weights engine",
    "train": "errors tree shapes optimizers catalogue weights data frameworks",
    "classifier": "errors data frameworks train weights",
}
LIBRARIES = {
    "errors": set[str](),
    "tree": set[str](),
    "shapes": set[str](),
    "optimizers": set[str](),
    "papers": set[str](),
    "catalogue": set[str](),
    "engine": {"numpy"},
    "weights": {"numpy", "safetensors"},
    "data": {"numpy", "PIL"},
    "train": {"numpy"},
    "classifier": {"numpy"},
}


def imports_of(file: Path) -> set[str]:
    """The modules that a file names in its imports, those for types included."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are written in full"
            assert node.module is not None
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def files_of(part: str) -> list[Path]:
    """The files of a part of imori: a module or a package."""
    return sorted((ROOT / part).rglob("*.py")) or [ROOT / f"{part}.py"]


@pytest.mark.parametrize("part", ARROWS)
def test_imports_go_one_way(part: str) -> None:
    allowed = {*ARROWS[part].split(), part}
    for file in files_of(part):
        named = {name.split(".")[1] for name in imports_of(file) if name.split(".")[0] == "imori"}
        assert named <= allowed, f"{file.relative_to(ROOT)} may not import {sorted(named - allowed)}"


@pytest.mark.parametrize("part", LIBRARIES)
def test_parts_use_only_their_libraries(part: str) -> None:
    for file in files_of(part):
        outside = {name.split(".")[0] for name in imports_of(file)} - {"imori", *sys.stdlib_module_names}
        assert outside <= LIBRARIES[part], f"{file.relative_to(ROOT)} imports {sorted(outside - LIBRARIES[part])}"


@pytest.mark.parametrize("folder", ["papers", "frameworks"])
def test_siblings_do_not_import_each_other(folder: str) -> None:
    for file in (ROOT / folder).rglob("*.py"):
        own = file.relative_to(ROOT / folder).parts[0].removesuffix(".py")
        if own in ("__init__", "base"):
            continue
        siblings = {name for name in imports_of(file) if name.startswith(f"imori.{folder}.")}
        named = {name.split(".")[2] for name in siblings} - {"base", own}
        assert not named, f"{file.relative_to(ROOT)} imports its siblings {sorted(named)}"


def test_a_framework_is_imported_by_its_own_part_alone() -> None:
    for file in ROOT.rglob("*.py"):
        named = {name.split(".")[0] for name in imports_of(file)} & FRAMEWORKS
        within = file.is_relative_to(ROOT / "frameworks")
        allowed = {file.relative_to(ROOT / "frameworks").parts[0].removesuffix(".py")} if within else set()
        assert named <= allowed, f"{file.relative_to(ROOT)} imports {sorted(named - allowed)}"
