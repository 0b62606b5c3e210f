"""LeNet trained on MNIST in each framework, and moved to each other one: it predicts the same digits there."""

import gzip
import itertools
import json
import math
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from imori import frameworks

FILES = {
    "numpy": "{}.npz", "torch": "{}.pth", "keras": "{}.keras", "tensorflow": "{}", "flax": "{}.safetensors",
    "chainer": "{}.npz", "onnx": "{}.onnx",
}  # fmt: skip
THERE = [name for name in FILES if frameworks.ready(name)]
NAMES = [name for name in THERE if name not in frameworks.PREDICTING]
TRAINED = 9600
SHORT = ("--model", "lenet", "--epochs", "1", "-b", "64", "--lr", "0.003", "--val", "0.02")
CLOSE = 1e-4
"""Two best logits that are closer than this share of the largest may change places."""
COMMANDS = """
import json, sys
from imori.cli import main
for line in json.loads(sys.argv[1]):
    assert main(line) == 0, line
"""
ANSWERS = """
import json, sys
from pathlib import Path
import numpy as np
from imori import frameworks
from imori.classifier import held_back
from imori.train.run import Run, preprocessing_of
from imori.weights import read_model

place = Path(sys.argv[1])
run = Run(place / "numpy")
_, card = read_model(run.model_file)
digits, preprocessing = held_back(run, card), preprocessing_of(card, run.model_file)
images = np.stack([preprocessing(digits.open(i, preprocessing.least)) for i in range(len(digits))])

def logits(answer):
    return np.concatenate([answer(images[i : i + 500]) for i in range(0, len(images), 500)])

for name, files in json.loads(sys.argv[2]).items():
    target = frameworks.get(name)
    model_file = Run(place / name).model_file
    if model_file.exists():
        native = frameworks.build(card.tree, card.input, name, read_model(model_file)[0])
        np.save(place / f"{name}.npy", logits(lambda batch: target.logits(native, batch)))
    for file in map(Path, files):
        twin = frameworks.build(card.tree, card.input, name)
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


def shortened(mnist: Path, folder: Path) -> Path:
    """MNIST with its first training images, and all of its test images."""
    folder.mkdir()
    for file in mnist.iterdir():
        name = file.name.removesuffix(".gz")
        data = gzip.decompress(file.read_bytes()) if name != file.name else file.read_bytes()
        if name.startswith("train"):
            sizes = struct.unpack_from(f">{data[3]}i", data, 4)  # the fourth byte is the number of axes
            start = 4 + 4 * len(sizes)
            head = data[:4] + struct.pack(f">{len(sizes)}i", TRAINED, *sizes[1:])
            data = head + data[start : start + TRAINED * math.prod(sizes[1:])]
        (folder / name).write_bytes(data)
    return folder


def converted(place: Path, source: str, to: str) -> Path:
    """The file of framework `to` that is made of the run of `source`."""
    return place / f"to-{to}" / FILES[to].format(source)


def to_another(place: Path, source: str, to: str) -> list[str]:
    """The command. ONNX gives logits here, as the others do."""
    flags = ["--no-preprocessing"] if to == "onnx" else []
    return ["convert", str(place / source), "--to", to, str(converted(place, source, to)), *flags]


@pytest.mark.slow
def test_every_framework_predicts_what_every_other_one_learned(data_root: Path, tmp_path: Path) -> None:
    mnist = shortened(data_root / "mnist", tmp_path / "mnist")
    for name in NAMES:
        train = ["train", str(mnist), "--framework", name, "--out", str(tmp_path / name), *SHORT]
        start("-c", COMMANDS, json.dumps([train]))
    for name in THERE:
        (tmp_path / f"to-{name}").mkdir()
    pairs = [(source, to) for source, to in itertools.product(NAMES, THERE) if source != to]
    start("-c", COMMANDS, json.dumps([to_another(tmp_path, *pair) for pair in pairs]))
    files = {name: [str(converted(tmp_path, *pair)) for pair in pairs if pair[1] == name] for name in THERE}
    start("-c", ANSWERS, tmp_path, json.dumps(files))
    for source, to in pairs:
        expected = np.load(tmp_path / f"{source}.npy")
        file = converted(tmp_path, source, to)
        found = np.load(file.with_name(f"{file.name}.logits.npy"))
        assert expected.shape == found.shape == (10_000, 10)
        second, best = np.sort(expected, axis=1)[:, -2:].T
        clear = best - second > CLOSE * np.abs(expected).max()
        assert clear.mean() > 0.99
        different = expected.argmax(1) != found.argmax(1)
        assert not (different & clear).any(), f"{source} to {to}"
        assert np.abs(found - expected).max() <= CLOSE * np.abs(expected).max(), f"{source} to {to}"
        assert np.bincount(found.argmax(1), minlength=10).min() > 300, "it has learned all ten digits"
