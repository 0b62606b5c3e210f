"""docs/limits.md is held to the tests that show its entries, and to the code that gets round them."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from imori import frameworks

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "limits.md").read_text(encoding="utf-8")
TITLES = {
    "PyTorch": "torch", "TensorFlow": "tensorflow", "Keras": "keras", "Flax": "flax", "Chainer": "chainer",
    "ONNX": "onnx",
}  # fmt: skip
ENTRIES = [
    (TITLES[title], *entry)
    for title, section in re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE)
    for entry in re.findall(r"^- \*\*(\w+)\*\*: (.*)$", section, re.MULTILINE)
]
"""The framework, the limit's name, and what is said of it."""


def shown(framework: str) -> set[str]:
    """The names of the tests that show a framework's limits; the modules import it, and so are only read."""
    path = ROOT / "tests" / "frameworks" / framework / "test_limits.py"
    functions = [node for node in ast.parse(path.read_text(encoding="utf-8")).body if isinstance(node, ast.FunctionDef)]
    return {node.name.removeprefix("test_") for node in functions if node.name.startswith("test_")}


def test_every_framework_has_its_limits() -> None:
    assert {*TITLES.values(), "numpy"} == set(frameworks.names())
    assert len(ENTRIES) == PAGE.count("\n- "), "an entry is a point, its name in bold letters"


@pytest.mark.parametrize("of", TITLES.values())
def test_every_limit_is_shown_by_a_test_and_every_test_is_of_a_limit(of: str) -> None:
    assert {name for framework, name, _ in ENTRIES if framework == of} == shown(of)


@pytest.mark.parametrize(("of", "name", "said"), [pytest.param(*entry, id="-".join(entry[:2])) for entry in ENTRIES])
def test_a_limit_names_its_workaround_and_what_is_known_upstream(of: str, name: str, said: str) -> None:
    workarounds = re.findall(r"((?:`[\w.]+`, )*`[\w.]+`) \(`([\w/]+\.py)`\)", said)
    assert workarounds
    for names, path in workarounds:
        code = (ROOT / "src" / "imori" / "frameworks" / path).read_text(encoding="utf-8")
        for word in re.findall(r"`([\w.]+)`", names):
            assert re.search(rf"\b{re.escape(word)}\b", code), f"{path} has no {word}"
    assert re.search(r" Upstream: .*\]\(https://[^)]+\)", said)


def test_no_framework_is_excused_from_a_test(tmp_path: Path) -> None:
    folder = tmp_path / "tests" / "matrix"
    folder.mkdir(parents=True)
    (tmp_path / "tests" / "conftest.py").write_bytes((ROOT / "tests" / "conftest.py").read_bytes())
    (folder / "test_excuses.py").write_text(
        "import pytest\n"
        "def test_skips(peer): pytest.skip('not this one')\n"
        "@pytest.mark.xfail(reason='nor this one')\n"
        "def test_fails(framework): assert False\n"
        "def test_has_none(): pytest.skip('whatever is installed')\n"
        "def test_passes(framework): pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--framework", "torch", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "2 failed, 1 passed" in done.stdout, done.stdout
    assert "excused from a test: Skipped: not this one" in done.stdout
    assert "excused from a test: nor this one" in done.stdout
