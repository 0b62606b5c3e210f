"""Several ways to do the same thing, timed in turns, so that what else the machine does falls on all of them alike."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path

import imori

LEAST = 0.05
"""Seconds that a turn takes at least, by doing quick things several times."""


def machine(*packages: str) -> str:
    """What the figures were taken on and with."""
    model = ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return (
        f"imori {imori.__version__}, {versions}, Python {platform.python_version()};"
        f" {platform.machine()} {model}, {os.cpu_count()} cores"
    )


def take_turns(ways: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """The median of each way, in seconds, over `rounds` rounds; each round begins with another of them.

    One call each, for what is compiled or allocated at first, and one round are not counted.
    """
    names = list(ways)
    for way in ways.values():
        way()
    repeats = {name: max(1, round(LEAST / _seconds(way, 1))) for name, way in ways.items()}
    taken: dict[str, list[float]] = {name: [] for name in names}
    for i in range(rounds + 1):
        first = i % len(names)
        for name in names[first:] + names[:first]:
            once = _seconds(ways[name], repeats[name])
            if i:
                taken[name].append(once)
    return {name: statistics.median(times) for name, times in taken.items()}


def take_fresh_turns(makers: Mapping[str, Callable[[], Callable[[], object]]], rounds: int) -> dict[str, float]:
    """`take_turns` as many times as there are ways, all made anew each time: the median of the medians.

    Each is made first once, because what is made first in a process may lie worse in memory, for as long as it lives.
    """
    names = list(makers)
    found: dict[str, list[float]] = {name: [] for name in names}
    for first in range(len(names)):
        made = {name: makers[name]() for name in names[first:] + names[:first]}
        for name, seconds in take_turns(made, rounds).items():
            found[name].append(seconds)
    return {name: statistics.median(seconds) for name, seconds in found.items()}


def _seconds(way: Callable[[], object], repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        way()
    return (time.perf_counter() - began) / repeats


def print_medians(what: str, medians: Mapping[str, float], ours: str = "imori") -> None:
    """A row for each way; beside the others' time, ours as a part of their speed: above 1 is faster than they are."""
    print(what)
    for name, seconds in medians.items():
        speed = "" if name == ours else f"   imori has {seconds / medians[ours]:.2f} of its speed"
        print(f"  {name:34}{1000 * seconds:9.1f} ms{speed}", flush=True)
