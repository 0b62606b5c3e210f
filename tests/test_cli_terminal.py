"""What the command line prints on a terminal, in a pipe, and in a locale of few letters: in fresh processes."""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imori.cli.output import visible, write_table
from imori.cli.progress import Lines, epoch_line

PLAIN_LOCALE = {"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": ""}
TRAIN = ("train", "digits", "--model", "lenet", "--framework", "numpy", "--epochs", 3, "-b", 128)
ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(*arguments: object, columns: int = 100, **environment: str) -> tuple[int, str]:
    """Runs a command on a terminal of so many columns; its exit code, and all that it wrote there."""
    reader, writer = pty.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "LINES")}
    process = subprocess.Popen(
        [sys.executable, "-m", "imori", *map(str, arguments)],
        stdin=writer,
        stdout=writer,
        stderr=writer,
        env={**kept, "TERM": "xterm-256color", "OMP_NUM_THREADS": "1", **environment},
    )
    os.close(writer)
    written = b""
    try:
        while chunk := os.read(reader, 65536):
            written += chunk
    except OSError:  # how a terminal says that its last program has left
        pass
    os.close(reader)
    return process.wait(), written.decode()


def lines_of(screen: str) -> list[str]:
    """The lines that stand on the screen at the end: a terminal that knows how to go up, and to clear a line."""
    lines, row = [""], 0
    for code, letter in re.findall(r"(\x1b\[[0-9;?]*[A-Za-z])|([^\x1b])", screen):
        if code == "\x1b[1A":
            row -= 1
        elif code == "\x1b[2K":
            lines[row] = ""
        elif letter == "\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif letter != "\r":
            lines[row] += letter
    return lines


def test_a_bar_on_a_terminal(tmp_path: Path) -> None:
    code, screen = on_terminal(*TRAIN, "--out", tmp_path / "run")
    assert code == 0
    plain = ESCAPE.sub("", screen)
    assert re.search(r"training ━+.* images/s  loss \d+\.\d{4} .*left", plain)
    assert "\x1b[38;5" in screen, "in colour"
    stay = lines_of(screen)
    assert [line.split("  ")[0] for line in stay if line.startswith("epoch")] == ["epoch 1/3", "epoch 2/3", "epoch 3/3"]
    assert not any("images/s" in line for line in stay), "the bar is gone at the end"
    assert screen.count("\x1b[?25l") == screen.count("\x1b[?25h"), "the cursor is back"


def test_no_colour_where_it_is_not_wanted(tmp_path: Path) -> None:
    code, screen = on_terminal(*TRAIN, "--out", tmp_path / "run", NO_COLOR="1")
    assert code == 0
    assert "images/s" in screen
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", screen), "no colour"


def test_a_simple_terminal_gets_lines(tmp_path: Path) -> None:
    code, screen = on_terminal(*TRAIN, "--out", tmp_path / "run", TERM="dumb")
    assert code == 0
    assert "epoch 3/3" in screen
    assert "\x1b" not in screen


@pytest.mark.parametrize("columns", [40, 60])
def test_a_narrow_terminal(columns: int, tmp_path: Path) -> None:
    code, screen = on_terminal("show", "lenet", "--classes", 10, columns=columns)
    assert code == 0
    lines = lines_of(screen)
    start = next(i for i, line in enumerate(lines) if line.lstrip().startswith(("path", "pa")))
    end = next(i for i, line in enumerate(lines) if line.startswith("parameters "))
    assert max(map(len, lines[start:end])) <= columns, "the table folds"
    code, screen = on_terminal(*TRAIN, "--out", tmp_path / "run", columns=columns)
    assert code == 0
    assert "images/s" in screen


def test_a_narrow_terminal_does_without_some_columns() -> None:
    code, screen = on_terminal("show", "resnet50", columns=120)
    assert code == 0
    lines = lines_of(screen)
    assert "this terminal is too narrow for: MACs, memory, field" in lines
    row = next(line for line in lines if line.startswith("conv4.1-5.body.conv2 x 5 "))
    assert re.split(r"\s{2,}", row)[2:] == ["3 x 3", "256", "1", "1", "-", "256 x 14 x 14", "589,824"]


def test_a_wide_terminal_and_a_pipe_show_the_same_table(process) -> None:
    _, screen = on_terminal("show", "lenet", columns=200)
    assert "\n".join(lines_of(screen)) == process("show", "lenet").out


def test_a_pipe_gets_plain_lines(process, tmp_path: Path) -> None:
    answer = process(*TRAIN, "--out", tmp_path / "run", environment={"TERM": "xterm-256color"})
    assert answer.code == 0
    assert answer.err == ""
    assert "\x1b" not in answer.out
    assert "\r" not in answer.out
    assert sum(line.startswith("epoch ") for line in answer.out.splitlines()) == 3
    assert "━" not in answer.out


def test_a_pipe_gets_whole_rows(process) -> None:
    answer = process("show", "resnet18", environment={"COLUMNS": "40"})
    assert any(line.startswith("conv5.1.body.conv2 ") and line.endswith(" 435") for line in answer.out.splitlines())


def test_a_pipe_that_is_closed_is_no_error() -> None:
    shell = f"{sys.executable} -m imori show resnet152 | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout.splitlines()[0].startswith("resnet152: ")
    assert done.stdout.splitlines()[1] in ("0", "141"), "0 where all of it fitted into the pipe"


@pytest.mark.parametrize(
    "arguments",
    [("show", "lenet"), ("models",), ("show", "lenet", "--size", "3"), ("train", "--help"), ("test", "kein-Löwe", "x")],
    ids=lambda arguments: "-".join(arguments),
)
def test_a_locale_without_letters(process, arguments: tuple[str, ...]) -> None:
    answer = process(*arguments, environment=PLAIN_LOCALE)
    assert answer.code in (0, 2)
    assert "Traceback" not in answer.err
    assert (answer.out + answer.err).isascii()


def test_names_in_any_letters(process, tmp_path: Path) -> None:
    save_noise(tmp_path / "写真" / "猫", tmp_path / "写真" / "café")
    flags = ("--model", "lenet", "--framework", "numpy", "--iterations", 1, "--out", tmp_path / "run")
    answer = process("train", tmp_path / "写真", *flags)
    assert answer.code == 0, answer.err
    for locale, name in (({"PYTHONUTF8": "1"}, "猫"), ({"PYTHONIOENCODING": "ascii"}, "\\u732b")):
        for form in ("table", "csv", "json"):
            answer = process("predict", tmp_path / "run", tmp_path / "写真", "--format", form, environment=locale)
            assert answer.code == 0, answer.err
            assert name in answer.out
        assert {one["class"] for one in json.loads(answer.out)[0]["top"]} == {"猫", "café"}
        answer = process("test", tmp_path / "run", tmp_path / "写真", environment=locale)
        assert answer.code == 0, answer.err
        assert name in answer.out


def test_names_that_are_no_utf8(process, tmp_path: Path) -> None:
    """As an archive from a computer in another locale leaves them."""
    cat, dog = tmp_path / "photos" / "cat", tmp_path / "photos" / "dog"
    save_noise(cat, dog)
    foreign = os.fsdecode("猫".encode("shift_jis"))
    (cat / "3.png").rename(cat / f"{foreign}.png")
    flags = ("--model", "lenet", "--framework", "numpy", "--iterations", 1, "--out", tmp_path / "run")
    answer = process("train", tmp_path / "photos", *flags)
    assert answer.code == 0, answer.err
    answer = process("test", tmp_path / "run", tmp_path / "photos")
    assert re.search(r"trained on \d+ of these 12 images", answer.err)
    for form in ("table", "csv", "json"):
        answer = process("predict", tmp_path / "run", tmp_path / "photos", "--format", form)
        assert answer.code == 0, answer.err
        assert "\\udc94L.png" in answer.out
    answer = process("predict", tmp_path / "run", tmp_path / "photos", "--output", tmp_path / "answers.csv")
    assert answer.code == 0, answer.err
    cat.rename(tmp_path / "photos" / foreign)
    answer = process("train", tmp_path / "photos", *flags[:-1], tmp_path / "other")
    answer.refuses("\\udc94L", "rename")


def save_noise(*folders: Path) -> None:
    """Six photos of noise in each folder."""
    rng = np.random.default_rng(0)
    for folder in folders:
        folder.mkdir(parents=True)
        for i in range(6):
            Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(folder / f"{i}.png")


# --- the pieces -------------------------------------------------------------------------------------------------------


def test_wide_letters_keep_the_columns(capsys: pytest.CaptureFixture[str]) -> None:
    write_table(("class", "n"), [("猫と犬", 7), ("cat", 12)], numbers=("n",))
    assert capsys.readouterr().out == "class    n\n------  --\n猫と犬   7\ncat     12\n"


def test_a_name_cannot_steer_the_terminal() -> None:
    assert visible("a\x1b[2Jb\rc\x07\u202e d é 猫\n") == "a\\x1b[2Jb\\rc\\x07\\u202e d é 猫\n"


ROW = {
    "epoch": 2,
    "step": 90,
    "lr": 0.00123456,
    "train_loss": 0.51234,
    "train_accuracy": 0.8125,
    "val_loss": 0.6,
    "val_accuracy": 0.75,
    "seconds": 1.26,
}


def test_a_line_an_epoch() -> None:
    assert epoch_line(ROW, 450) == "epoch  2/10  train 81.25 % loss 0.5123  val 75.00 % loss 0.6000  lr 0.00123  1.3 s"
    assert epoch_line(ROW, 100).startswith("epoch 2/3  "), "the last one is short"
    assert "val" not in epoch_line({**ROW, "val_accuracy": None, "val_loss": None}, 450)


def test_lines_of_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    report = Lines()
    report.scan(3, 10)
    report.features(3, 10)
    report.folds(1, 5)
    report.note("a photo was left out")
    report.step(45, 450, 123.4, 0.7)
    report.epoch(ROW)
    said = capsys.readouterr().out
    assert said == f"note: a photo was left out\n{epoch_line(ROW, 450)}\n"


@pytest.mark.parametrize("words", [("models",), ("show", "lenet")], ids=lambda words: words[0])
def test_a_closed_output_is_no_traceback(words: tuple[str, ...]) -> None:
    command = f"exec {sys.executable} -m imori {' '.join(words)} >&-"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
