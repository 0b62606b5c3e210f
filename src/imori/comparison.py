"""One model in several frameworks on this machine: how far their numbers differ, how fast they are, what they take.

Each framework runs in a process of its own, one after the other, so that none has another's memory or threads beside
it. The process is this file's `measure`; what it finds goes back in files of arrays and JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from imori import catalogue, frameworks
from imori import tree as t
from imori.errors import ImoriError
from imori.frameworks.base import Array, Setup
from imori.optimizers import SGD
from imori.shapes import flat, resolve
from imori.sources import card_of, source_of
from imori.weights import Card, initial_weights, read_model, restrict, save_model
from imori.weights.file import path_of

TOLERANCE = 1e-4
"""The largest difference in float32 that is no disagreement, as a share of the largest value."""
EXACT = 1e-9
"""The same in float64."""
LEAST = 0.05
"""Seconds that a round takes at least, by repeating what is quick."""
REFUSED = 3
"""How the process of a framework ends where imori itself refuses, by one line."""
CALL = "import gc, sys; from imori.comparison import main; code = main(*sys.argv[1:]); gc.freeze(); sys.exit(code)"
"""It ends as the command line does: see `imori.__main__`."""
BACKENDS = ("tensorflow", "jax", "torch")
"""Of Keras, those that train: it has others that only predict."""
PACKAGES = {"onnx": "onnxruntime", "tensorflow": "tensorflow-cpu"}
"""Whose version is a framework's, where that is another package."""


@dataclass(frozen=True)
class Figures:
    """What a framework does with the model. None is what it cannot do, or what was not asked."""

    framework: str
    version: str = ""
    float64: float | None = None
    """The largest difference of a logit from the first framework's, both in float64, of the largest logit: a share."""
    float32: float | None = None
    """The same of its logits in float32."""
    prediction: float | None = None
    """Seconds that a batch takes in float32: the median of the rounds, the first call not counted."""
    step: float | None = None
    """Seconds of a training step in float32: forward, backward, and SGD with momentum."""
    memory: int | None = None
    """Bytes that the process had at most while it predicted in float32, the framework itself included."""
    training_memory: int | None = None
    """The same until it had trained."""
    parts_at: str | None = None
    """The path of the first layer whose output in float32 differs by more than 1e-4 of its largest; "" for none."""
    layers: dict[str, float] | None = None
    """Path -> how far the outputs in float32 differ from the first framework's, in the order of the network."""
    failed: str | None = None
    """Why there are no figures."""

    @property
    def agrees(self) -> bool:
        """Whether the model gives the same numbers here."""
        close = self.float32 is not None and self.float32 <= TOLERANCE
        return self.failed is None and close and (self.float64 is None or self.float64 <= EXACT)


def compare(
    model: str | Path,
    names: Sequence[str] = (),
    *,
    classes: int | None = None,
    source: str = "imori",
    network: str | None = None,
    channels: int | None = None,
    size: int | tuple[int, int] | None = None,
    batch: int = 8,
    rounds: int = 9,
    layers: bool = False,
) -> list[Figures]:
    """The figures of each framework, on random images. The first is what the others are compared with.

    `model` is a run, a file of weights as `imori.convert` takes it (with `network`, the name of its network, where it
    does not say so), or a name of the catalogue, whose weights are then random. `names` are frameworks, "keras:jax" is
    Keras on that backend; () is every one that is installed, NumPy first. ImoriError where the first gives no figures,
    and for a number of images or rounds that is not from 1.
    """
    batch, rounds = catalogue.whole("the batch size", batch), catalogue.whole("the number of rounds", rounds)
    chosen = _chosen(names)
    card, weights = _given(model, network, classes, source, channels, size)
    with tempfile.TemporaryDirectory(prefix="imori-") as place:
        save_model(Path(place, "model.safetensors"), weights, card)
        asked = {"batch": batch, "rounds": rounds, "layers": layers}
        Path(place, "asked.json").write_text(json.dumps(asked), encoding="utf-8")
        found = [_in_process(Path(place), name) for name in chosen]
        if found[0].failed is not None:
            raise ImoriError(f"{chosen[0]}, which the others are to be compared with, {found[0].failed}")
        return [_beside(Path(place), chosen[0], figures) for figures in found]


def _chosen(names: Sequence[str]) -> list[str]:
    """ImoriError for a framework that is unknown or named twice, FrameworkMissing for one that is not installed."""
    if not names:
        there = [name for name in frameworks.names() if frameworks.ready(name)]
        return ["numpy", *(name for name in there if name != "numpy")]
    for name in names:
        frameworks.check_installed(name.partition(":")[0])
        if ":" in name and not name.startswith("keras:"):
            raise ImoriError(f"{name!r} is no framework: a backend is named for keras alone, as keras:jax")
        if ":" in name and (backend := name.partition(":")[2]) not in BACKENDS:
            raise ImoriError(f"keras has no backend {backend!r}; name keras:{', keras:'.join(BACKENDS)} or keras alone")
        if names.count(name) > 1:
            raise ImoriError(f"{name} is named twice; name each framework once")
    return list(names)


def _given(
    model: str | Path,
    network: str | None,
    classes: int | None,
    source: str,
    channels: int | None,
    size: int | tuple[int, int] | None,
) -> tuple[Card, dict[str, Array]]:
    """The network and its weights in float32, without auxiliary heads."""
    path = path_of("model", model)
    if network is None and not path.exists() and path.name != "latest" and not path.suffix and len(path.parts) == 1:
        card = card_of(str(model), 1000 if classes is None else classes, channels, size)
        weights = initial_weights(card.tree, card.input)
    else:
        given = source_of(path, network, classes, source, channels, size)
        card, weights = given.card, given.weights
    tree = t.without_heads(card.tree)
    return replace(card, tree=tree), restrict(weights, tree)


# --- in a process of its own ------------------------------------------------------------------------------------------


def _in_process(place: Path, name: str) -> Figures:
    environment = dict(os.environ)
    if ":" in name:
        environment["KERAS_BACKEND"] = name.partition(":")[2]
    done = subprocess.run(
        [sys.executable, "-P", "-c", CALL, str(place), name],
        env=environment,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    file = _file(place, name, "json")
    if done.returncode == 0 and file.exists():
        return Figures(**json.loads(file.read_text(encoding="utf-8")))
    said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1][:300]
    return Figures(name, failed=said if done.returncode == REFUSED else f"ended with {done.returncode}: {said}")


def _file(place: Path, name: str, end: str) -> Path:
    return place / f"{name.replace(':', '-')}.{end}"


def main(place: str, name: str) -> int:
    """What the process runs. Its last line on standard error says why it failed."""
    try:
        measure(Path(place), name)
    except (ImoriError, MemoryError) as error:
        print((str(error) or "ran out of memory").replace("\n", " "), file=sys.stderr)
        return REFUSED
    return 0


def measure(place: Path, name: str) -> None:
    """Predicts, trains and times in one framework, and writes what it finds beside the model."""
    asked = json.loads((place / "asked.json").read_text(encoding="utf-8"))
    weights, card = read_model(place / "model.safetensors")
    framework = frameworks.get(name.partition(":")[0])
    rng = np.random.default_rng(0)
    images = rng.standard_normal((asked["batch"], *card.input), dtype=np.float32)
    found: dict[str, Array] = {}

    def built(dtype: str) -> Any:
        return frameworks.build(card.tree, card.input, name.partition(":")[0], weights, dtype)

    native = built("float32")
    found["float32"] = framework.logits(native, images)
    prediction = _median(lambda: framework.logits(native, images), asked["rounds"])
    memory = peak_memory()
    step, training_memory = None, None
    if name not in frameworks.PREDICTING:
        step = _step_time(framework, built("float32"), card, images, asked["rounds"])
        training_memory = peak_memory()
    with contextlib.suppress(ImoriError):  # it has no float64
        found["float64"] = framework.logits(built("float64"), images.astype(float))
    if asked["layers"]:
        paths = [node.path for node in flat(resolve(card.tree, card.input)) if node.path]
        for path, output in framework.outputs(native, images[:2], paths).items():
            found[f"layer {path}"] = output
    np.savez(_file(place, name, "npz"), **found)  # type: ignore[arg-type]  # NumPy's stubs
    figures = Figures(
        name, _version(name), prediction=prediction, step=step, memory=memory, training_memory=training_memory
    )
    _file(place, name, "json").write_text(json.dumps(asdict(figures)), encoding="utf-8")


def _step_time(framework: Any, native: Any, card: Card, images: Array, rounds: int) -> float:
    """With a rate of 0, so that no number grows too large in many steps."""
    trainable = frozenset(key for key in framework.dump(native) if key.rpartition(".")[2] in ("weight", "bias"))
    step = framework.prepare(native, Setup(SGD(), trainable))
    targets = np.eye(len(card.classes), dtype=np.float32)[np.arange(len(images)) % len(card.classes)]
    ones = np.ones(len(images), np.float32)
    return _median(lambda: step(images, targets, ones, rate=0.0, key=1), rounds)


def _median(run: Callable[[], object], rounds: int) -> float:
    """Seconds; what is compiled or allocated at the first call is not counted."""

    def seconds(repeats: int) -> float:
        began = time.perf_counter()
        for _ in range(repeats):
            run()
        return (time.perf_counter() - began) / repeats

    run()
    repeats = max(1, round(LEAST / seconds(1)))
    return statistics.median(seconds(repeats) for _ in range(rounds))


def peak_memory() -> int | None:
    """Bytes of memory that this process had at most; None on Windows, which does not say.

    Its forks are added, what they share with it for each anew. Linux's own figure comes first: its getrusage begins
    with what the parent had.
    """
    found = []
    for process in ("self", *_children()):
        with contextlib.suppress(OSError):
            status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
            found += [int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:")]
    if found:
        return sum(found)
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _children() -> list[str]:
    """The numbers of the processes that this one has started, where the system tells."""
    lists = Path("/proc/self/task").glob("*/children")
    return [process for children in lists for process in children.read_text(encoding="utf-8").split()]


def _version(name: str) -> str:
    package = name.partition(":")[0]
    for known in (PACKAGES.get(package, package), package):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(known)
    return ""


# --- beside the first ------------------------------------------------------------------------------------------------


def _beside(place: Path, first: str, figures: Figures) -> Figures:
    """The figures with their differences from the first framework's numbers."""
    if figures.failed is not None:
        return figures
    with (
        np.load(_file(place, first, "npz"), allow_pickle=False) as theirs,
        np.load(_file(place, figures.framework, "npz"), allow_pickle=False) as ours,
    ):
        exact = theirs["float64"] if "float64" in theirs else theirs["float32"].astype(float)
        float32 = largest_difference(exact, ours["float32"])
        float64 = largest_difference(exact, ours["float64"]) if "float64" in ours and "float64" in theirs else None
        layers = {
            key.removeprefix("layer "): largest_difference(theirs[key], ours[key])
            for key in theirs
            if key.startswith("layer ") and key in ours
        }
    figures = replace(figures, float32=float32, float64=float64)
    if not layers:
        return figures
    parts_at = next((path for path, value in layers.items() if not value <= TOLERANCE), "")
    return replace(figures, layers=layers, parts_at=parts_at)


def largest_difference(expected: Array, found: Array) -> float:
    """The largest between two values, as a share of the largest expected one; infinite for other shapes."""
    if expected.shape != found.shape:
        return float("inf")
    return float(np.abs(expected - found).max() / (np.abs(expected).max() or 1.0))
