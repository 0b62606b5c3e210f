"""The one training loop, for every framework: it feeds a step, validates, keeps the best, and can stop at any moment.

Everything random is a function of the seed and of the step, so a run that was interrupted and resumed ends in the same
bits as one that was not (on the same machine, versions and threads).
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from types import FrameType
from typing import Any

import numpy as np
import numpy.typing as npt

from imori.data import Loader
from imori.errors import RunError
from imori.frameworks.base import Array, Framework, Native, Step
from imori.train.metrics import Tally, soft_targets
from imori.train.recipe import Recipe
from imori.train.report import Report
from imori.train.run import Progress, Run, metrics_of
from imori.train.schedules import rate_at, step_key
from imori.weights import Card, read_model


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, after the step was finished and everything was saved."""


@dataclass(frozen=True)
class Job:
    """Everything that a run works with."""

    recipe: Recipe
    framework: Framework
    native: Native
    step: Step
    training: Loader
    validation: Loader
    test: Loader | None
    class_weights: npt.NDArray[np.floating[Any]]
    card: Card
    run: Run
    report: Report
    rank: int = 0

    @property
    def total(self) -> int:
        """Steps in all."""
        if self.recipe.iterations:
            return self.recipe.iterations
        assert self.recipe.epochs is not None
        return self.recipe.epochs * self.training.steps_per_epoch


def fit(job: Job, progress: Progress) -> None:
    """Trains from `progress` to the end, then reads the test images once. Raises `Interrupted` on Ctrl-C."""
    if not progress.finished:
        if progress.step < job.total and not progress.stopped:
            with _interruptible() as asked_to_stop:
                _train(job, progress, asked_to_stop)
        _finish(job, progress)


def _train(job: Job, progress: Progress, asked_to_stop: Callable[[], bool]) -> None:
    recipe, loader, classes = job.recipe, job.training, len(job.card.classes)
    began, earlier = time.perf_counter(), progress.seconds
    with contextlib.closing(loader.training(progress.step, job.total)) as batches:
        for batch in batches:
            targets = soft_targets(batch.labels, classes, recipe.label_smoothing, recipe.precision)
            weights = batch.weights * job.class_weights[batch.labels]
            rate = rate_at(recipe, progress.step, job.total, loader.steps_per_epoch)
            loss, logits = job.step(
                batch.images, targets, weights, rate, step_key(recipe.seed, progress.step, job.rank)
            )
            if not np.isfinite(loss):
                kept = f". The last checkpoint is kept in {job.run.path}" if progress.step else ""
                raise RunError(
                    f"the loss is {loss} at step {progress.step + 1}: training went astray; use a lower --lr (it was"
                    f" {rate:g}) or --clip 1{kept}"
                )
            progress.step += 1
            progress.images += len(batch.labels)
            progress.loss_sum += loss * len(batch.labels)
            progress.correct += int((logits.argmax(axis=1) == batch.labels).sum())
            progress.seconds = earlier + time.perf_counter() - began
            job.report.step(progress.step, job.total, progress.images / progress.seconds, loss)
            epoch_ends = progress.step % loader.steps_per_epoch == 0 or progress.step == job.total
            if epoch_ends:
                _close_epoch(job, progress, rate)
                began, earlier = time.perf_counter(), 0.0
            stop = asked_to_stop()
            if epoch_ends or stop or progress.step % recipe.checkpoint_steps == 0:
                _save_last(job, progress)
            if progress.stopped:
                return
            if stop and progress.step < job.total:
                raise Interrupted(
                    f"stopped after step {progress.step} of {job.total}; go on by: imori train --resume {job.run.path}"
                )


def _close_epoch(job: Job, progress: Progress, rate: float) -> None:
    """Validates, writes the best weights if these are, and adds a row of metrics."""
    tally = evaluate(partial(job.framework.logits, job.native), job.validation, len(job.card.classes))
    phase = {"phase": "tune"} if job.recipe.phases in ("tune", "both") else {}
    row: dict[str, Any] = phase | {
        "epoch": 1 + sum(row.get("phase") != "head" for row in progress.rows),
        "step": progress.step,
        "lr": rate,
        "train_loss": progress.loss_sum / progress.images,
        "train_accuracy": progress.correct / progress.images,
        "val_loss": tally.loss,
        "val_accuracy": tally.accuracy,
        "seconds": round(progress.seconds, 3),
    }
    score = (tally.accuracy, -tally.loss)
    better = progress.best is None or score > progress.best
    progress.best = score if better else progress.best
    progress.stale = 0 if better else progress.stale + 1
    progress.stopped = job.recipe.patience is not None and progress.stale >= job.recipe.patience
    progress.rows.append(row)
    progress.images, progress.loss_sum, progress.correct, progress.seconds = 0, 0.0, 0, 0.0
    if better and job.rank == 0:
        job.run.save_best(job.framework.dump(job.native), replace(job.card, metrics=metrics_of(row)))
    job.report.epoch(row)
    if progress.stopped:
        job.report.note(f"stopped early: validation has not become better for {progress.stale} epochs")


def evaluate(logits: Callable[[Array], Array], loader: Loader, classes: int) -> Tally:
    """The answers to every image of a loader, tallied; `logits`: images (N, C, H, W) -> (N, classes)."""
    tally = Tally(classes)
    with contextlib.closing(loader.evaluation()) as batches:
        for batch in batches:
            tally.add(logits(batch.images), batch.labels, batch.weights)
    return tally


def _save_last(job: Job, progress: Progress) -> None:
    if job.rank == 0:
        job.run.save_last(job.framework.dump(job.native), job.step.state(), progress, job.card)


def _finish(job: Job, progress: Progress) -> None:
    """Reads the test images, once, with the best weights, and writes the result into model.safetensors."""
    if job.rank:
        return
    last = job.framework.dump(job.native)
    weights, card = read_model(job.run.model_file)
    job.framework.load(job.native, weights)
    if job.test is not None:
        tally = evaluate(partial(job.framework.logits, job.native), job.test, len(card.classes))
        tested = {"test_loss": tally.loss, "test_accuracy": tally.accuracy, "test_images": tally.images}
        job.run.save_best(weights, replace(card, metrics={**card.metrics, **tested}))
    progress.finished = True
    job.run.save_last(last, job.step.state(), progress, job.card)


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Inside, a first Ctrl-C (or the system's SIGTERM) only asks to stop, and a second one stops at once.

    What is yielded answers whether it was asked.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return

    def ask(number: int, frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
