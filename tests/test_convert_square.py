"""LeNet trained on MNIST in each framework, and moved to each other one: it predicts the same digits there."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from imori import frameworks

FILES = {
    "torch": "{}.pth", "keras": "{}.keras", "tensorflow": "{}", "flax": "{}.safetensors", "chainer": "{}.npz",
    "numpy": "{}.npz",
}  # fmt: skip
NAMES = [name for name in FILES if frameworks.installed(name)]
SHORT = ("--model", "lenet", "--iterations", 150, "-b", 64, "--lr", 0.003)
CLOSE = 1e-4
"""Two best logits that are closer than this share of the largest may change places."""
BOTH_WAYS = """
import sys
from imori.cli import main
sys.exit(main(sys.argv[1:6]) or main(sys.argv[6:]))
"""
ANSWER = """
import sys
from pathlib import Path
import numpy as np
from imori import frameworks
from imori.classifier import held_back
from imori.train.run import Run, preprocessing_of
from imori.weights import read_model

name, place, *files = sys.argv[1:]
target, place = frameworks.get(name), Path(place)

def logits(answer):
    return np.concatenate([answer(images[i : i + 500]) for i in range(0, len(images), 500)])

run = Run(place / name)
weights, card = read_model(run.model_file)
digits, preprocessing = held_back(run, card), preprocessing_of(card, run.model_file)
images = np.stack([preprocessing(digits.open(i, preprocessing.least)) for i in range(len(digits))])
native = frameworks.build(card.tree, card.input, name, weights)
np.save(place / f"{name}.npy", logits(lambda batch: target.logits(native, batch)))
for file in map(Path, files):
    blank = {key: np.zeros_like(value) for key, value in weights.items()}
    twin = frameworks.build(card.tree, card.input, name, blank)
    np.save(file.with_name(f"{file.name}.logits.npy"), logits(lambda batch: target.answers(twin, file, batch)))
"""


def start(*arguments: object) -> None:
    """Runs Python with these arguments, in a process of its own and on one thread."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, f"{arguments}: {done.stderr[-2000:]}"


@pytest.mark.slow
def test_every_framework_predicts_what_every_other_one_learned(data_root: Path, tmp_path: Path) -> None:
    for name in NAMES:
        run = tmp_path / name
        start("-m", "imori", "train", data_root / "mnist", "--framework", name, "--out", run, *SHORT)
    moved = {name: tmp_path / f"to-{name}" for name in NAMES}
    for folder in moved.values():
        folder.mkdir()
    for one, two in itertools.combinations(NAMES, 2):
        lines = [
            ["convert", tmp_path / source, "--to", to, moved[to] / FILES[to].format(source)]
            for source, to in ((one, two), (two, one))
        ]
        start("-c", BOTH_WAYS, *itertools.chain(*lines))
    for name in NAMES:
        files = [moved[name] / FILES[name].format(source) for source in NAMES if source != name]
        start("-c", ANSWER, name, tmp_path, *files)
    for source, to in itertools.permutations(NAMES, 2):
        expected = np.load(tmp_path / f"{source}.npy")
        found = np.load(moved[to] / f"{FILES[to].format(source)}.logits.npy")
        assert expected.shape == found.shape == (10_000, 10)
        second, best = np.sort(expected, axis=1)[:, -2:].T
        clear = best - second > CLOSE * np.abs(expected).max()
        assert clear.mean() > 0.99
        different = expected.argmax(1) != found.argmax(1)
        assert not (different & clear).any(), f"{source} to {to}"
        assert np.abs(found - expected).max() <= CLOSE * np.abs(expected).max(), f"{source} to {to}"
        assert np.bincount(found.argmax(1), minlength=10).min() > 300, "it has learned all ten digits"
