"""`imori train`."""

import csv
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import imori
from imori.train import read_recipe

SHORT = ("--framework", "numpy", "--iterations", 8, "-b", 8)
NET = """
from imori.tree import Chain, Conv, GlobalAvgPool, Linear, ReLU

SIZE = 12

def net(classes):
    return Chain(conv=Conv(3, 3), relu=ReLU(), pool=GlobalAvgPool(), fc=Linear(classes))
"""


@pytest.fixture
def net(tmp_path: Path) -> str:
    """A small network in a user's own file."""
    (tmp_path / "my_net.py").write_text(NET)
    return f"{tmp_path / 'my_net.py'}:net"


def test_train_test_predict(command, net: str, photos, tmp_path: Path) -> None:
    data, run = photos("pets", cat=20, dog=20), tmp_path / "run"
    answer = command("train", data, "--model", net, *SHORT, "--iterations", 10, "--lr", 0.05, "--out", run)
    assert (answer.code, answer.err) == (0, "")
    assert {file.name for file in run.iterdir()} == {
        "recipe.json",
        "split.csv",
        "metrics.csv",
        "model.safetensors",
        "last.safetensors",
    }
    rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
    epochs = [line for line in answer.out.splitlines() if line.startswith("epoch ")]
    assert len(rows) == len(epochs) == 3, "32 training photos, 8 a step, 10 steps: 2 epochs and 2 steps"
    for row, line in zip(rows, epochs, strict=True):
        assert re.match(rf"epoch {row['epoch']}/3  train \d+\.\d\d % loss \d", line)
        assert f"val {100 * float(row['val_accuracy']):.2f} % loss {float(row['val_loss']):.4f}" in line
    assert "note: 32 photos train this network from nothing" in answer.out
    assert "test: " in answer.out
    assert f"imori predict {run} PHOTOS" in answer.out
    assert command("test", run, data).code == 0
    assert command("predict", run, data / "cat").code == 0


def test_train_takes_every_flag(command, photos, net: str, tmp_path: Path) -> None:
    flags = {
        "size": "10x14",
        "channels": 1,
        "resize": "stretch",
        "epochs": 2,
        "batch_size": 7,
        "opt": "nesterov",
        "lr": 0.02,
        "momentum": 0.8,
        "weight_decay": 0.001,
        "schedule": "step",
        "warmup_epochs": 0.5,
        "step_epochs": 1,
        "step_factor": 0.5,
        "label_smoothing": 0.1,
        "class_weights": "cat=2,dog=0.5",
        "clip": 1,
        "patience": 5,
        "shift": 0.1,
        "rotate": 5,
        "crop": 0.8,
        "flip": 0.25,
        "colour": 0.2,
        "erase": 0.1,
        "val": 0.2,
        "test": 0.15,
        "precision": "float64",
        "seed": 3,
        "checkpoint_steps": 2,
    }
    written = [part for name, value in flags.items() for part in (f"--{name.replace('_', '-')}", value)]
    run = tmp_path / "run"
    answer = command(
        "train", photos("pets", cat=12, dog=12), "--model", net, "--framework", "numpy", "-j", 1, *written, "--out", run
    )
    assert answer.code == 0, answer.err
    recipe = read_recipe(run / "recipe.json")
    read = {**flags, "size": (10, 14), "class_weights": {"cat": 2.0, "dog": 0.5}}
    assert {name: getattr(recipe, name) for name in read} == read
    again = tmp_path / "again"
    answer = command(
        "train", tmp_path / "pets", "--recipe", run / "recipe.json", "--seed", 4, "--epochs", 1, "--out", again
    )
    assert answer.code == 0, answer.err
    second = read_recipe(again / "recipe.json")
    changed = {name for name in recipe.to_data() if getattr(recipe, name) != getattr(second, name)}
    assert changed == {"seed", "epochs"}, "flags go before the recipe, which keeps the rest"


def test_weights_start_from_a_run(command, photos, net: str, tmp_path: Path) -> None:
    data = photos("pets", cat=12, dog=12)
    command("train", data, "--model", net, *SHORT, "--out", tmp_path / "first")
    answer = command("train", data, "--weights", tmp_path / "first", *SHORT, "--lr", 0, "--out", tmp_path / "second")
    assert answer.code == 0, answer.err
    first, second = (imori.load(tmp_path / name).predict(data)[3].top for name in ("first", "second"))
    assert first == second, "at a rate of 0 nothing changes"


def test_weights_of_other_classes_train_in_two_phases(command, photos, net: str, tmp_path: Path) -> None:
    first = tmp_path / "first"
    command("train", photos("pets", cat=8, dog=8, newt=8), "--model", net, *SHORT, "--out", first)
    flags = {
        "phases": "both",
        "head": "mlp",
        "head_epochs": 3,
        "head_lr": 0.01,
        "feature_passes": 1,
        "unfreeze_at": "conv",
        "freeze": "none",
        "stage_rate": 0.7,
        "folds": 2,
        "repeats": 2,
        "duplicates": "apart",
    }
    written = [part for name, value in flags.items() for part in (f"--{name.replace('_', '-')}", value)]
    data, run = photos("others", cow=12, hen=12), tmp_path / "run"
    answer = command("train", data, "--weights", first, *SHORT, *written, "--out", run)
    assert (answer.code, answer.err) == (0, "")
    recipe = read_recipe(run / "recipe.json")
    assert {name: getattr(recipe, name) for name in flags} == flags
    assert "note: features are the output of pool, 3 numbers a photo" in answer.out
    assert "note: fine-tuning, 8 steps: conv and what follows train" in answer.out
    assert re.search(r"note: 2 folds, 2 times \(mean; .* 95 % interval .* \(Wilson, on the photos\)", answer.out)
    assert re.search(r"\nbest: epoch \d of (the head|fine-tuning), validation ", answer.out)
    assert command("test", run).code == 0
    assert command("predict", run, data / "cow").code == 0
    assert command("convert", run, "--to", "numpy", tmp_path / "made.safetensors").code == 0
    command("train", data, "--weights", first, "--folds", "all").refuses("'all' is not a number of folds, or loo")
    command("train", data, "--model", net, "--phases", "head").refuses("there are no weights to start from")


STOPPABLE = """
import signal, sys
from imori.__main__ import run
signal.signal(signal.SIGINT, signal.default_int_handler)  # what is started in the background ignores Ctrl-C
sys.exit(run())
"""


def test_ctrl_c_in_the_first_phase_leaves_no_run(command, photos, net: str, tmp_path: Path) -> None:
    command("train", photos("pets", cat=8, dog=8, newt=8), "--model", net, *SHORT, "--out", tmp_path / "first")
    photos("others", cow=12, hen=12)
    words = ["train", tmp_path / "others", "--weights", tmp_path / "first", "--phases", "head", "--framework", "numpy"]
    words += ["--head-epochs", 10**6, "--out", tmp_path / "run"]
    process = subprocess.Popen([sys.executable, "-c", STOPPABLE, *map(str, words)], stderr=subprocess.PIPE, text=True)
    try:
        while not (tmp_path / "run").exists():
            assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 130
    assert said == (
        "stopped before fine-tuning; the features of the photos so far are kept, and the same command goes on\n"
    )
    assert not (tmp_path / "run").exists()


def test_the_best_is_named(command, photos, net: str, tmp_path: Path) -> None:
    data = photos("pets", cat=15, dog=15)
    answer = command("train", data, "--model", net, "--framework", "numpy", "--epochs", 3, "--out", tmp_path / "run")
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines()))
    best = max(rows, key=lambda row: (float(row["val_accuracy"]), -float(row["val_loss"])))
    assert f"best: epoch {best['epoch']}, validation {100 * float(best['val_accuracy']):.2f} %" in answer.out


def test_default_run_directory(command, photos, net: str, tmp_path: Path, monkeypatch) -> None:
    data = photos("pets", cat=12, dog=12)
    monkeypatch.chdir(tmp_path)
    answer = command("train", data, "--model", net, *SHORT)
    assert answer.code == 0, answer.err
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("my_net-")
    assert f"saved in {Path('runs') / run.name}" in answer.out
    assert command("test", "runs/latest").code == 0


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    flags = ["digits", "--model", "lenet", "--framework", "numpy", "--epochs", "50", "--out", str(run)]
    process = subprocess.Popen(
        [sys.executable, "-m", "imori", "train", *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("epoch  1/50")
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.match(rf"stopped after step \d+ of 2050; go on by: imori train --resume {run}\n", error)
    assert "Traceback" not in error
    assert (run / "last.safetensors").exists()
    assert not list(run.glob(".*")), "no half-written file is left"


def test_resume(command, photos, net: str, tmp_path: Path) -> None:
    data = photos("pets", cat=12, dog=12)
    run = tmp_path / "run"
    command("train", data, "--model", net, *SHORT, "--out", run)
    answer = command("train", "--resume", run)
    assert answer.code == 0
    assert "finished" in answer.out
    command("train", data, "--resume", run).refuses("--resume", "leave out DATA")
    command("train", "--resume", run, "--lr", 0.1).refuses("no other choices", "leave out lr")
    command("train", "--resume", tmp_path / "nothing").refuses("nothing", "run")
    before = (run / "last.safetensors").read_bytes()
    (data / "cat" / "cat0.png").unlink()
    (run / "last.safetensors").write_bytes(before[:2000])
    command("train", "--resume", run).refuses("last.safetensors", "cut short")


def test_a_full_disk_is_named_and_loses_nothing(digits_run: Path, tmp_path: Path) -> None:
    """The largest file is bounded, as on a disk with little room: the run's files cannot be written."""
    flags = ["train", "digits", "--weights", str(digits_run), "--framework", "numpy", "--iterations", "2"]
    code = (
        "import resource, sys\nfrom imori.cli import main\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))\nsys.exit(main(sys.argv[1:]))"
    )
    run = tmp_path / "run"
    done = subprocess.run(
        [sys.executable, "-c", code, *flags, "--out", str(run)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert re.search(r"error: .*run/\w+\.safetensors could not be written.*takes no file of this size", done.stderr)
    assert "Traceback" not in done.stderr
    assert not list(run.glob("*.safetensors"))
    assert not list(run.glob(".*")), "no half-written file is left"
