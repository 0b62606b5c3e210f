"""How a training run shows its progress: a bar on a terminal, a line an epoch in a pipe or a log."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from imori.cli.output import percent, visible
from imori.train.report import Report

NARROW = 72


def reporting() -> contextlib.AbstractContextManager[Report]:
    """The listener for where standard output goes."""
    console = Console(highlight=False, markup=False, emoji=False)
    if console.is_terminal and not console.is_dumb_terminal:
        return Bar(console)
    return contextlib.nullcontext(Lines())


@contextlib.contextmanager
def downloading() -> Iterator[Callable[[int, int], None]]:
    """What shows the bytes of a download on standard error: a bar where that is a terminal, else nothing."""
    console = Console(highlight=False, markup=False, emoji=False, stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        yield lambda done, total: None
        return
    with Bar(console) as bar:
        yield bar.download


class Lines:
    """Plain lines: one an epoch, and the notes."""

    def __init__(self) -> None:
        self.total = 0

    def note(self, text: str) -> None:
        """A sentence."""
        self._line(f"note: {text}")

    def scan(self, done: int, total: int) -> None:
        """Nothing: a log needs no moving numbers."""

    def download(self, done: int, total: int) -> None:
        """Nothing, likewise."""

    def features(self, done: int, total: int) -> None:
        """Nothing, likewise."""

    def folds(self, done: int, total: int) -> None:
        """Nothing, likewise."""

    def step(self, done: int, total: int, images_per_second: float, loss: float) -> None:
        """Keeps the number of steps in all."""
        self.total = total

    def epoch(self, row: Mapping[str, Any]) -> None:
        """The epoch, of how many, and what it came to."""
        self._line(epoch_line(row, self.total))

    def _line(self, text: str) -> None:
        print(visible(text), flush=True)


class Bar(Lines):
    """The same lines, and under them a bar with the rate, the loss and the time left."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        columns = [TextColumn("{task.description}"), BarColumn(bar_width=None), TextColumn("{task.fields[said]}")]
        left = [TimeRemainingColumn(compact=True), TextColumn("left")] if console.width >= NARROW else []
        self.bar = Progress(*columns, *left, console=console, transient=True, expand=True)
        self.task: TaskID | None = None
        self.doing = ""

    def __enter__(self) -> Bar:
        self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bar.stop()

    def scan(self, done: int, total: int) -> None:
        """A bar of the photos looked at."""
        self._show("looking at photos", done, total, f"{done:,} of {total:,}")

    def download(self, done: int, total: int) -> None:
        """A bar of the bytes that are there."""
        self._show("downloading", done, total or done, megabytes(done, total))

    def features(self, done: int, total: int) -> None:
        """A bar of the photos whose features are there."""
        self._show("computing features", done, total, f"{done:,} of {total:,}")

    def folds(self, done: int, total: int) -> None:
        """A bar of the folds."""
        self._show("training in folds", done, total, f"{done} of {total}")

    def step(self, done: int, total: int, images_per_second: float, loss: float) -> None:
        """The bar of the run."""
        super().step(done, total, images_per_second, loss)
        self._show("training", done, total, f"{images_per_second:,.3g} images/s  loss {loss:.4f}")

    def _show(self, doing: str, done: int, total: int, said: str) -> None:
        if self.task is None or self.doing != doing:
            if self.task is not None:
                self.bar.remove_task(self.task)
            self.task, self.doing = self.bar.add_task(doing, total=total, completed=done, said=said), doing
        self.bar.update(self.task, completed=done, total=total, said=said)

    def _line(self, text: str) -> None:
        self.bar.console.print(visible(text), soft_wrap=True)


def megabytes(done: int, total: int) -> str:
    """ "12.3 of 102.5 MB", or "12.3 MB" of a file whose size nobody knows."""
    return f"{done / 1e6:.1f} of {total / 1e6:.1f} MB" if total else f"{done / 1e6:.1f} MB"


def epoch_line(row: Mapping[str, Any], total: int) -> str:
    """A row of metrics.csv in one line; `total` is the run's number of steps, from which the epochs are counted."""
    epochs = -(-total * row["epoch"] // row["step"]) if total else row["epoch"]
    line = f"epoch {row['epoch']:>{len(str(epochs))}}/{epochs}"
    line += f"  train {percent(row['train_accuracy'])} loss {row['train_loss']:.4f}"
    if row.get("val_accuracy") is not None:
        line += f"  val {percent(row['val_accuracy'])} loss {row['val_loss']:.4f}"
    return f"{line}  lr {row['lr']:.3g}  {row['seconds']:.1f} s"
