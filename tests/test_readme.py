"""The two READMEs: their commands exist, their Python runs, their tables are true, and both say the same."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import imori
from imori import catalogue, frameworks
from imori.cli import COMMANDS, parser
from imori.cli.networks import paper
from imori.shapes import resolve, smallest, summary
from imori.weights.tables import PUBLISHERS, names_in

ROOT = Path(__file__).parent.parent
READMES = ("README.md", "README.ja.md")


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def blocks_of(name: str, language: str) -> list[str]:
    """The fenced blocks of a language; "" is output, "text" has words that are translated."""
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text_of(name), re.DOTALL | re.MULTILINE)
    return [block for kind, block in fenced if kind == language]


def imori_commands(name: str) -> list[str]:
    """Every `imori …` command in a README's shell blocks, those joined by && each by itself."""
    lines = [
        part.strip() for block in blocks_of(name, "sh") for line in block.splitlines() for part in line.split("&&")
    ]
    return [line for line in lines if line.startswith("imori ")]


# --- one README is the other ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", ["sh", "python", ""], ids=["sh", "python", "output"])
def test_both_have_the_same_code(language: str) -> None:
    english, japanese = (blocks_of(name, language) for name in READMES)
    assert english
    code = [[re.sub(r"  # .*", "", block) for block in blocks] for blocks in (english, japanese)]
    assert code[0] == code[1], "apart from comments, they are the same"


def test_both_have_the_same_figures() -> None:
    english, japanese = (
        sorted(re.findall(r"\d[\d,]*(?:\.\d+)?(?= ?%)|\d[\d,]*\.\d+|\d{2,3}(?:,\d{3})+|\d+e-\d+", text_of(name)))
        for name in READMES
    )
    assert len(english) > 20
    assert english == japanese


def test_both_have_the_same_shape() -> None:
    english, japanese = (re.findall(r"^(#+|\||-)(?= |-)", text_of(name), re.MULTILINE) for name in READMES)
    assert english == japanese, "headings, table rows and points, in the same order"
    links = [set(re.findall(r"\]\(([^)]+)\)", text_of(name))) - {*READMES} for name in READMES]
    assert links[0] == links[1]


@pytest.mark.parametrize("name", READMES)
def test_nothing_is_left_to_fill_in(name: str) -> None:
    assert "TODO" not in text_of(name)


@pytest.mark.parametrize("name", READMES)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", text_of(name)):
        if not target.startswith("http"):
            assert (ROOT / target).exists(), target


# --- commands ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", dict.fromkeys(line for name in READMES for line in imori_commands(name)))
def test_commands_can_be_read(line: str) -> None:
    _, command, *rest = shlex.split(line)
    assert parser(command).read(rest) is not None


def test_every_command_is_shown() -> None:
    shown = {line.split()[1] for line in imori_commands("README.md")}
    assert shown >= {"train", "test", "predict", "show"}
    assert all(f"`imori {name}" in text_of("README.md") or name in shown for name in COMMANDS)


def test_flags_in_the_text_exist() -> None:
    known = {flag for name in COMMANDS for flag in parser(name)._option_string_actions} | {"--no-build-isolation"}
    for name in READMES:
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text_of(name))) <= known


def test_the_first_two_commands_are_the_two_commands() -> None:
    first, second, *_ = blocks_of("README.md", "sh")
    assert first.startswith("pip install . && imori train digits ")
    assert "--framework numpy" in first
    assert " && imori test " in first
    assert second == 'pip install -e ".[all,dev]" && python -m pytest\n'
    assert len(first.splitlines()) == 1, "one line to copy"


# --- what it says -----------------------------------------------------------------------------------------------------


def models_table() -> list[str]:
    """The rows of the table of networks."""
    rows = []
    for name in imori.list_models():
        size, source = catalogue.size_of(name), paper(name)
        counted = summary(imori.model(name), (3, size, size))
        others = ", ".join(f"`{variant}`" for variant in catalogue.variants(name) if variant != "default")
        sizes = f"{size} | {smallest(imori.model(name), 3)}"
        rows.append(f"| `{name}` | [{source.year}]({source.link}) | {sizes} | {counted.parameters:,} | {others} |")
    return rows


@pytest.mark.parametrize("name", READMES)
def test_table_of_models(name: str) -> None:
    rows = [line for line in text_of(name).splitlines() if re.match(r"\| `\w+` \| \[\d{4}\]", line)]
    assert rows == models_table()


@pytest.mark.parametrize("name", READMES)
def test_frameworks_are_named(name: str) -> None:
    spelled = {"numpy": "NumPy", "tensorflow": "TensorFlow", "torch": "PyTorch", "onnx": "ONNX"}
    for framework in frameworks.names():
        assert f"| {spelled.get(framework, framework.title())} |" in text_of(name)


# --- Python -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with the photos that the examples speak of."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for folder, count in (("photos", 12), ("photos_test", 4), ("photos_new", 2)):
        for name in ("cat", "dog"):
            (tmp_path / folder / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (37, 53, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / folder / name / f"{i}.jpg")
    return tmp_path


def publish_resnet18() -> None:
    """A resnet18.pth as torchvision writes it, with random numbers, in the working directory."""
    root = resolve(imori.model("resnet18"), (3, 224, 224))
    names = names_in(PUBLISHERS["torchvision"]["resnet"], root)
    start = imori.initial_weights(root.layer, root.input)
    torch = pytest.importorskip("torch")
    torch.save({names[name]: torch.from_numpy(value) for name, value in start.items()}, "resnet18.pth")


@pytest.mark.parametrize("name", READMES)
def test_python_examples_run(name: str, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks_of(name, "python"):
        needed = {word for word in frameworks.names() if f'framework="{word}"' in block}
        needed |= {"onnx", "onnxruntime"} if "onnx" in block else set()
        if not all(map(frameworks.installed, needed)):
            pytest.skip(f"{', '.join(sorted(needed))}: not all installed")
        if "resnet18.pth" in block:
            publish_resnet18()
        variables: dict[str, object] = {}
        exec(compile(block, name, "exec"), variables)  # noqa: S102
        said = capsys.readouterr().out
        for code, expected in re.findall(r"^print\((.*)\)  # (.+)$", block, re.MULTILINE):
            assert expected in said.splitlines(), f"print({code}) says so"


def test_own_network_of_the_readme(photos: Path, command) -> None:
    block = next(block for block in blocks_of("README.md", "python") if "def net(" in block)
    Path("my_net.py").write_text(block, encoding="utf-8")
    for line in imori_commands("README.md"):
        if "my_net." in line:
            line, _, file = line.partition(" > ")
            answer = command(*shlex.split(line)[1:], *(("--epochs", 1) if " train " in line else ()))
            assert answer.code == 0, answer.err
            if file:
                Path(file).write_text(answer.out, encoding="utf-8")
    assert Path("runs/mine/model.safetensors").exists()


@pytest.mark.parametrize("number", [1, 2])
def test_ci_takes_its_commands_from_the_readme(number: int) -> None:
    assert f"readme_command.py {number})" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    script = [sys.executable, ROOT / ".ci" / "readme_command.py", str(number)]
    said = subprocess.run(script, capture_output=True, text=True, check=True).stdout
    assert said == blocks_of("README.md", "sh")[number - 1]
