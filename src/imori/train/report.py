"""Whom a training run tells how it goes. The command line brings its own; a program hears nothing unless it asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Report(Protocol):
    """The listener."""

    def note(self, text: str) -> None:
        """Something that the user should know, in a sentence."""

    def scan(self, done: int, total: int) -> None:
        """Photos looked at while the data are opened."""

    def download(self, done: int, total: int) -> None:
        """Bytes of published weights that are there, and those of the whole file (0 where nobody knows)."""

    def features(self, done: int, total: int) -> None:
        """Photos whose features are there."""

    def folds(self, done: int, total: int) -> None:
        """Folds that were trained and tested."""

    def step(self, done: int, total: int, images_per_second: float, loss: float) -> None:
        """After each step of training."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """A row of metrics.csv, when its epoch ends."""


class Silent:
    """Listens and says nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def scan(self, done: int, total: int) -> None:
        """Nothing."""

    def download(self, done: int, total: int) -> None:
        """Nothing."""

    def features(self, done: int, total: int) -> None:
        """Nothing."""

    def folds(self, done: int, total: int) -> None:
        """Nothing."""

    def step(self, done: int, total: int, images_per_second: float, loss: float) -> None:
        """Nothing."""

    def epoch(self, row: Mapping[str, Any]) -> None:
        """Nothing."""
