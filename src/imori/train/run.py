"""The directory of a run: what it holds, and how each file gets there whole.

recipe.json        every choice, and where the data lie
split.csv          each photo, its class, and the part that it was put in
folds.csv          of a run with folds, the answer to each photo by a training that never saw it
metrics.csv        a row an epoch
model.safetensors  the best weights by validation, with all that is needed to use them
last.safetensors   the newest weights, the optimizer's memory and the progress: what a resume goes on from
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from imori.data import Preprocessing
from imori.errors import DataError, RunError, WeightsError
from imori.frameworks.base import Weights
from imori.train.recipe import FORMAT, Recipe, from_data
from imori.weights.file import Card, card_of, read_card, read_tensors, remedy, save_model, save_tensors, written
from imori.weights.locking import locked

OPTIMIZER = "optimizer/"


@dataclass
class Progress:
    """How far a run has come; written into last.safetensors, so that a resume loses nothing."""

    step: int = 0
    """Steps taken."""
    images: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    seconds: float = 0.0
    """Of the running epoch so far."""
    best: tuple[float, float] | None = None
    """(accuracy, -loss) on the validation images when model.safetensors was written."""
    stale: int = 0
    """Epochs since then."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    stopped: bool = False
    """By patience."""
    finished: bool = False
    """The test images have been read."""
    fingerprint: str = ""
    """Of the data."""


@dataclass(frozen=True)
class Run:
    """A run directory."""

    path: Path

    @property
    def model_file(self) -> Path:
        """The best weights."""
        return self.path / "model.safetensors"

    @property
    def last_file(self) -> Path:
        """What a resume goes on from."""
        return self.path / "last.safetensors"

    @property
    def recipe_file(self) -> Path:
        """Every choice."""
        return self.path / "recipe.json"

    @property
    def metrics_file(self) -> Path:
        """A row an epoch."""
        return self.path / "metrics.csv"

    @property
    def split_file(self) -> Path:
        """Each photo, its class and its part."""
        return self.path / "split.csv"

    @property
    def folds_file(self) -> Path:
        """Each photo that was answered by a fold that had not seen it."""
        return self.path / "folds.csv"

    @property
    def claim_file(self) -> Path:
        """There while a process starts a run here, until recipe.json says that it is one."""
        return self.path / ".claim"

    @property
    def recipe(self) -> Recipe:
        """The recipe that the run was started with."""
        return from_data(self._started()["recipe"], str(self.recipe_file))

    @property
    def data(self) -> str:
        """Where the run's data lie: an absolute path, or the name of an embedded set. RunError if they were moved."""
        data = str(self._started()["data"])
        if data != "digits" and not Path(data).exists():
            raise RunError(
                f"the data of {self.path} are no longer in {data}; put them back there, or a link to where they are now"
                " (imori test RUN DATA tests on any others)"
            )
        return data

    @property
    def began_from(self) -> str | None:
        """The model file whose weights the run started from; None where they were drawn from its seed."""
        began = self._started().get("weights")
        return None if began is None else str(began)

    @property
    def metrics(self) -> dict[str, Any]:
        """What model.safetensors says of itself: `epoch`, `val_accuracy`, `val_loss`, at the end `test_accuracy`."""
        return dict(read_card(self.model_file).metrics)

    @property
    def history(self) -> list[dict[str, Any]]:
        """The rows of metrics.csv, as text."""
        with open(self.metrics_file, encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    def _started(self) -> dict[str, Any]:
        try:
            data = json.loads(self.recipe_file.read_text(encoding="utf-8"))
        except OSError as error:
            raise RunError(f"{self.path} is no run: {self.recipe_file} cannot be read ({error.strerror})") from error
        except ValueError as error:
            raise RunError(f"{self.recipe_file} is damaged: {error}") from error
        if not isinstance(data, dict) or data.get("format") != FORMAT or not {"recipe", "data"} <= set(data):
            raise RunError(f"{self.recipe_file} is not a recipe of format {FORMAT}; it was not written by this imori")
        return data

    def start(self, recipe: Recipe, data: str, split: Iterable[Sequence[str]], weights: str | None = None) -> None:
        """Writes split.csv and recipe.json, which makes the directory a run; `weights` is `began_from`."""
        rows = [("path", "class", "part"), *split]
        _write(self.split_file, _as_csv(rows))
        started = {"format": FORMAT, "data": data, "weights": weights, "recipe": recipe.to_data()}
        _write(self.recipe_file, json.dumps(started, indent=2, ensure_ascii=False) + "\n")
        self.unclaim()

    def unclaim(self) -> None:
        """Removes the claim, which Windows does once it is let go."""
        with contextlib.suppress(PermissionError):
            self.claim_file.unlink(missing_ok=True)

    def clear(self) -> None:
        """Removes what was written of a run that was not begun, or trained nothing."""
        for file in (self.recipe_file, self.split_file, self.folds_file, self.last_file, self.model_file):
            file.unlink(missing_ok=True)
        self.metrics_file.unlink(missing_ok=True)

    def sweep(self) -> None:
        """Removes what a killed run was writing when it died; the files themselves are always whole."""
        for partial in self.path.glob(".*.partial"):
            partial.unlink()

    def part(self, name: str) -> list[tuple[str, str]]:
        """(path, class) of each image that was put in a part, by split.csv; empty where that is gone or damaged."""
        try:
            with open(self.split_file, encoding="utf-8", errors="surrogateescape", newline="") as file:
                return [(row["path"], row["class"]) for row in csv.DictReader(file) if row["part"] == name]
        except (OSError, KeyError, ValueError, csv.Error):
            return []

    def trained_on(self) -> set[str]:
        """The real paths of the images that the run trained on; empty where it keeps no list."""
        with contextlib.suppress(ValueError):  # no path
            return {os.path.realpath(path) for path, _ in self.part("train")}
        return set()

    def tested_on(self) -> set[str]:
        """The images that the run held back for its test: their real paths, or the data and the names within."""
        photos = [path for path, _ in self.part("test")]
        return {os.path.realpath(path) if Path(path).is_absolute() else f"{self.data}: {path}" for path in photos}

    def save_folds(self, rows: Iterable[Sequence[object]]) -> None:
        """Writes folds.csv."""
        _write(self.folds_file, _as_csv([("repeat", "fold", "path", "class", "predicted", "probability"), *rows]))

    def save_best(self, weights: Weights, card: Card) -> None:
        """Writes model.safetensors."""
        save_model(self.model_file, weights, card)

    def save_last(self, weights: Weights, optimizer: Weights, progress: Progress, card: Card) -> None:
        """Writes last.safetensors, then metrics.csv."""
        tensors = weights | {OPTIMIZER + name: value for name, value in optimizer.items()}
        save_tensors(self.last_file, tensors, card.metadata() | {"progress": json.dumps(asdict(progress))})
        if progress.rows:
            columns = list(progress.rows[0])
            _write(self.metrics_file, _as_csv([columns, *(row.values() for row in progress.rows)]))

    def read_last(self) -> tuple[Weights, Weights, Progress, Card]:
        """Weights, the optimizer's memory, progress and card, as last.safetensors holds them."""
        if not self.last_file.exists():
            raise RunError(f"{self.path} has no last.safetensors to go on from; start it anew with another --out")
        tensors, metadata = read_tensors(self.last_file)
        card = card_of(self.last_file, metadata)
        try:
            progress = Progress(**json.loads(metadata["progress"]))
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{self.last_file}: its progress is damaged: {error}") from error
        if progress.best is not None:
            progress.best = (progress.best[0], progress.best[1])
        weights = {name: value for name, value in tensors.items() if not name.startswith(OPTIMIZER)}
        optimizer = {
            name.removeprefix(OPTIMIZER): value for name, value in tensors.items() if name.startswith(OPTIMIZER)
        }
        return weights, optimizer, progress, card


def preprocessing_of(card: Card, file: Path) -> Preprocessing:
    """How a model file makes a photo its network's input. WeightsError, which names the file, where it does not say."""
    if not card.preprocessing:
        raise WeightsError(
            f"{file} does not say how a photo becomes the network's input, as nothing made of a publisher's weights"
            " does; from Python, build it by imori.read_weights and imori.build, and feed it what its publisher does"
        )
    try:
        made = Preprocessing.from_data(card.preprocessing)
    except DataError as error:
        raise WeightsError(f"{file}: its metadata are damaged: {error}") from error
    shape = (made.channels, *made.size)
    if shape != card.input:
        raise WeightsError(f"{file}: its metadata are damaged: photos become {shape}, and its input is {card.input}")
    return made


@contextlib.contextmanager
def claimed(paths: Iterable[Path]) -> Iterator[Run]:
    """The first of `paths` where a run can start; until it does, no other process can start one there.

    What the block leaves empty is removed again. RunError says why the last of the paths is not free.
    """
    taken = ""
    for run in map(Run, paths):
        made = [folder for folder in (run.path, *run.path.parents) if not folder.exists()]
        with contextlib.ExitStack() as held:
            try:
                run.path.mkdir(parents=True, exist_ok=True)
                claim = held.enter_context(locked(run.claim_file, wait=False))
                if not (run.claim_file.exists() and os.path.samestat(os.fstat(claim.fileno()), run.claim_file.stat())):
                    raise BlockingIOError  # who held it has removed it, and another may have made it anew
            except BlockingIOError:
                taken = f"another imori train is starting in {run.path}; choose another --out"
                continue
            except OSError as error:
                raise RunError(
                    f"no run can be made in {run.path}: {error.strerror}; {remedy(error, run.path)}"
                ) from error
            try:
                taken = _taken(run)
                if not taken:
                    yield run
                    return
            finally:
                run.unclaim()
                held.close()
                if sys.platform == "win32":
                    run.unclaim()
                for folder in made:
                    with contextlib.suppress(OSError):  # not empty
                        folder.rmdir()
    raise RunError(taken)


def _taken(run: Run) -> str:
    """Why no run can start in a directory; "" where one can."""
    if run.recipe_file.exists():
        return f"{run.path} holds a run already; choose another --out, or go on with it by --resume"
    for file in (run.model_file, run.metrics_file):
        if file.exists():
            return f"{file} is there already, and would be overwritten; choose another --out"
    return ""


def find_run(path: str | Path) -> Run:
    """The run at `path`; a last part "latest" that does not exist means the newest run beside it."""
    path = Path(path)
    if path.name == "latest" and not path.exists():
        runs = [file.parent for file in path.parent.glob("*/recipe.json")]
        if not runs:
            raise RunError(
                f"there is no run in {path.parent}; train one first: imori train DATA --out {path.parent}/NAME"
            )
        path = max(runs, key=lambda run: (run / "recipe.json").stat().st_mtime_ns)
    if not path.is_dir():
        raise RunError(f"{path} is no run directory; name the directory that `imori train` wrote")
    return Run(path)


def _as_csv(rows: Iterable[Iterable[Any]]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def _write(path: Path, text: str) -> None:
    with written(path) as beside:
        beside.write_text(text, encoding="utf-8", errors="surrogateescape")  # a photo's name may be no UTF-8


def metrics_of(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a model file says of itself, from a row of metrics.csv."""
    return {name: row[name] for name in ("phase", "epoch", "val_loss", "val_accuracy") if name in row}
