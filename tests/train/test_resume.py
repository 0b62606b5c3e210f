"""A run that is killed and resumed ends in the same bits as one that was left alone."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import imori
from imori import tree as t
from imori.errors import RunError
from imori.train.run import Run
from imori.weights import read_model

# Batch norm, dropout, augmentation and momentum: everything that a resume could lose.
NET = t.Chain(
    conv1=t.Conv(8, 3, pad=1, bias=False),
    bn1=t.BatchNorm(),
    relu1=t.ReLU(),
    pool1=t.MaxPool(2),
    drop1=t.Dropout(0.25),
    conv2=t.Conv(8, 3),
    relu2=t.ReLU(),
    flatten=t.Flatten(),
    fc1=t.Linear(10),
)
CHOICES = {"size": 8, "epochs": 4, "batch_size": 16, "checkpoint_steps": 7, "shift": 0.1, "rotate": 10.0, "lr": 0.01}
SCRIPT = """
import json, sys, time
import imori
from imori.train.report import Silent

class Slow(Silent):
    def step(self, done, total, images_per_second, loss):
        time.sleep({pause})

imori.train(**json.loads(sys.argv[1]), report=Slow())
"""


def start(pause: float, **arguments: object) -> subprocess.Popen[bytes]:
    script = SCRIPT.format(pause=pause)
    return subprocess.Popen([sys.executable, "-c", script, json.dumps(arguments)], stderr=subprocess.PIPE)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error.decode()


def check_files(run: Run) -> int:
    """Every file of the run is whole; returns the steps taken."""
    weights, memory, progress, _ = run.read_last()
    assert all(np.isfinite(value).all() for value in [*weights.values(), *memory.values()])
    if run.model_file.exists():
        read_model(run.model_file)
    if (run.path / "metrics.csv").exists():
        assert all(None not in row.values() for row in run.history)
    assert run.recipe.epochs == CHOICES["epochs"]
    return progress.step


@pytest.mark.slow
@pytest.mark.trains
def test_killed_ten_times_and_resumed_it_ends_in_the_same_bits(tmp_path: Path, framework: str) -> None:
    net = tmp_path / "net.json"
    net.write_text(t.to_json(NET))
    arguments = {"data": "digits", "model": str(net), "framework": framework, **CHOICES}
    finish(start(0, **arguments, out=str(tmp_path / "whole")))
    run, rng = Run(tmp_path / "killed"), random.Random(framework)
    process = start(0.02, **arguments, out=str(run.path))
    seen = set()
    for _ in range(10):
        before = run.last_file.stat().st_mtime_ns if run.last_file.exists() else 0
        while (not run.recipe_file.exists() or run.last_file.stat().st_mtime_ns == before) and process.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
        seen.add(check_files(run))
        process = start(0.02, resume=str(run.path))
    finish(process)
    assert len(seen) > 5
    for name in ("model.safetensors", "last.safetensors"):
        whole, killed = (read_tensors(tmp_path / part / name) for part in ("whole", "killed"))
        assert whole.keys() == killed.keys()
        for key, value in whole.items():
            assert value.tobytes() == killed[key].tobytes(), key
    assert not list(run.path.glob(".*"))
    assert [r["val_loss"] for r in run.history] == [r["val_loss"] for r in Run(tmp_path / "whole").history]


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    return load_file(path)


def small(tmp_path: Path, **choices: object) -> Run:
    return imori.train(
        "digits", model=NET, framework="numpy", out=tmp_path / "run", **{**CHOICES, "epochs": 1, **choices}
    )


def test_a_finished_run_resumes_to_nothing(tmp_path: Path) -> None:
    run = small(tmp_path)
    before = {path.name: path.read_bytes() for path in run.path.iterdir()}
    imori.train(resume=run.path)
    assert before == {path.name: path.read_bytes() for path in run.path.iterdir()}


def test_a_resume_takes_no_other_choices(tmp_path: Path) -> None:
    with pytest.raises(imori.ImoriError, match="no other choices"):
        imori.train(resume=tmp_path, epochs=3)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "sigterm"])
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path, number: signal.Signals) -> None:
    run = Run(tmp_path / "run")
    net = tmp_path / "net.json"
    net.write_text(t.to_json(NET))
    process = start(0.02, data="digits", model=str(net), framework="numpy", out=str(run.path), **CHOICES)
    while not run.recipe_file.exists():
        time.sleep(0.005)
    time.sleep(0.5)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert f"go on by: imori train --resume {run.path}" in error.decode()
    assert 0 < check_files(run) < 4 * 81


def test_other_photos_than_the_runs_own_are_refused(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    write_photos(photos, 12)
    run = imori.train(photos, model=NET.of((*NET.children[:-1], ("fc1", t.Linear(2)))), framework="numpy", epochs=1,
                      size=8, out=tmp_path / "run")  # fmt: skip
    write_photos(photos, 13)
    with pytest.raises(RunError, match="are not those"):
        imori.train(resume=run.path)


def write_photos(folder: Path, count: int) -> None:
    from PIL import Image

    rng = np.random.default_rng(1)
    for name, shade in (("cat", 60), ("dog", 180)):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            pixels = (shade + rng.integers(0, 60, (20, 24, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
