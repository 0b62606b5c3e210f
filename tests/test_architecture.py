"""The direction of imports: read from every file, and seen in fresh processes."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import imori

ROOT = Path(imori.__file__).parent
FILES = {
    ".".join(("imori", *path.relative_to(ROOT).with_suffix("").parts)).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}

# A part of the package -> the parts, and the libraries, that it may import, inside functions too. A part is a file, or
# a folder whose files may import each other; `papers` and `frameworks` are folders whose files may not.
ARROWS = {
    "errors": "",
    "tree": "errors",
    "shapes": "errors tree",
    "optimizers": "errors",
    "papers": "tree",
    "catalogue": "errors tree",
    "engine": "numpy",
    "weights": "errors tree shapes catalogue numpy safetensors",
    "data": "errors numpy PIL",
    "pretrained": "errors tree shapes weights catalogue data numpy",
    "frameworks": "errors tree shapes weights frameworks.base",
    "frameworks.base": "errors tree shapes weights optimizers numpy",
    "frameworks.*": "errors tree shapes weights optimizers frameworks.base numpy",
    "transfer": "errors tree shapes weights data pretrained frameworks frameworks.base numpy",
    "train": "errors tree shapes weights optimizers catalogue data pretrained transfer frameworks frameworks.base"
    " numpy threadpoolctl",
    "export": "errors tree weights data frameworks frameworks.onnx train",
    "classifier": "errors export weights catalogue data pretrained frameworks frameworks.base train numpy",
    "explain": "errors tree shapes weights data pretrained frameworks train classifier numpy PIL",
    "sources": "errors tree shapes weights catalogue pretrained train classifier",
    "conversion": "errors tree shapes weights frameworks frameworks.base frameworks.onnx train export classifier"
    " sources comparison numpy PIL",
    "comparison": "errors tree shapes weights optimizers catalogue frameworks frameworks.base sources numpy",
    "cli": "imori errors tree shapes weights optimizers catalogue data pretrained frameworks train classifier explain"
    " conversion comparison numpy PIL rich",
    "__main__": "cli",
    "imori": "errors tree shapes weights catalogue frameworks train export classifier conversion comparison",
}
OWN = {
    "numpy": {"engine", "threadpoolctl"},
    "flax": {"jax", "optax"},
    "keras": {"tensorflow", "jax", "torch"},
    "onnx": {"onnxruntime", "data", "PIL"},
}
# A file that may, alone of its part, import a framework: in a function, when a file of that framework is read.
READERS = {"imori.weights.checkpoint": {"torch"}, "imori.weights.hdf5": {"h5py"}, "imori.weights.onnx": {"onnx"}}
FORBIDDEN = {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}
FRAMEWORKS = ("torch", "tensorflow", "keras", "jax", "flax", "chainer", "onnx", "onnxruntime", "h5py")


def imported(path: Path) -> Iterator[str]:
    """Dotted names of the modules that a file imports anywhere."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, (
                f"{path}:{node.lineno}: write the import from its root, as in `from imori.tree import`"
            )
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in FILES else str(node.module)


def part(module: str) -> str:
    """The part that a module belongs to: "tree", "papers", "frameworks.torch", or a library's name."""
    root, *rest = module.split(".")
    if root != "imori" or not rest:
        return root
    return ".".join(rest[:2]) if rest[0] == "frameworks" else rest[0]


def allowed(module: str) -> set[str]:
    own = part(module)
    if own in ARROWS:
        own_files = {own} if own not in ("papers", "frameworks") else set()
        return {*ARROWS[own].split(), *own_files, *READERS.get(module, ())}
    assert own.startswith("frameworks."), f"{module} belongs to no part; say in ARROWS what {own} may import"
    name = own.removeprefix("frameworks.")
    return {*ARROWS["frameworks.*"].split(), own, name, *OWN.get(name, ())}


@pytest.mark.parametrize("module", FILES)
def test_imports_follow_the_arrows(module: str) -> None:
    found = {part(name) for name in imported(FILES[module])} - sys.stdlib_module_names
    wrong = found - allowed(module)
    assert not wrong, f"{module} imports {', '.join(sorted(wrong))}; it may import {', '.join(sorted(allowed(module)))}"


@pytest.mark.parametrize("module", FILES)
def test_nothing_is_imported_that_runs_code_from_a_file(module: str) -> None:
    assert not {name.partition(".")[0] for name in imported(FILES[module])} & FORBIDDEN


@pytest.mark.parametrize(
    ("module", "text", "part_of"),
    [
        ("imori.papers.vgg", "from imori.papers.resnet import block", "papers"),
        ("imori.papers.vgg", "from imori.shapes import walk", "shapes"),
        ("imori.tree", "import numpy", "numpy"),
        ("imori.engine.conv", "def f():\n    from imori import tree", "tree"),
        ("imori.frameworks.numpy", "import imori.frameworks.torch", "frameworks.torch"),
        ("imori.frameworks.keras", "from imori.engine import conv", "engine"),
        ("imori.frameworks.numpy", "import torch.nn", "torch"),
        ("imori.weights.file", "from imori.train import run", "train"),
        ("imori.weights.published", "def f():\n    import torch", "torch"),
        ("imori.data.loader", "from imori.train.recipe import Recipe", "train"),
    ],
)
def test_a_wrong_arrow_is_seen(tmp_path: Path, module: str, text: str, part_of: str) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(text, encoding="utf-8")
    assert {part(name) for name in imported(path)} - allowed(module) == {part_of}


# --- in fresh processes ----------------------------------------------------------------------------------------------


def fresh(code: str) -> str:
    """What a fresh process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def loaded_by(code: str) -> set[str]:
    """The modules that are there after `code` and were not before."""
    text = fresh(f"import sys; before = set(sys.modules)\n{code}\nprint(); print(*sorted(set(sys.modules) - before))")
    return set(text.splitlines()[-1].split())


def test_importing_imori_imports_nothing_else() -> None:
    loaded = loaded_by("import imori")
    assert {name for name in loaded if name.partition(".")[0] not in sys.stdlib_module_names} == {"imori"}


def test_looking_at_a_network_imports_no_library_at_all() -> None:
    loaded = loaded_by(
        "import imori\nimori.list_models()\ntree = imori.model('resnet50', classes=10)\n"
        "print(tree, imori.summary(tree, (3, 224, 224)).macs)"
    )
    assert {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names == {"imori"}
    papers = {name for name in loaded if name.startswith("imori.papers.")}
    assert papers == {"imori.papers.resnet"}, "the paper that was asked for, and no other"


def test_showing_a_network_imports_no_framework_and_no_numpy() -> None:
    loaded = {name.partition(".")[0] for name in loaded_by("from imori.cli import main\nmain(['show', 'resnet50'])")}
    assert not loaded & {"numpy", "PIL", "safetensors", *FRAMEWORKS}


def test_all_but_the_framework_files_import_where_no_framework_is_installed() -> None:
    modules = [name for name in FILES if part(name) in ARROWS and name != "imori.__main__"] + ["imori.frameworks.numpy"]
    code = f"import sys\nsys.modules |= dict.fromkeys({FRAMEWORKS!r})\nimport importlib\n"
    fresh(code + f"for name in {modules!r}: importlib.import_module(name)")


def test_every_public_name_is_found() -> None:
    fresh("import imori\nfor name in imori.__all__: getattr(imori, name)\nassert set(imori.__all__) <= set(dir(imori))")
