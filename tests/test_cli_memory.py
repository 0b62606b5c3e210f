"""The command line keeps the memory that was freed, where glibc can be told so."""

import ctypes
import os
import subprocess
import sys

import pytest

from imori.cli import main, memory

GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
AGAIN = """
import resource
import numpy as np
from imori.cli import memory

def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(8 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

memory.keep()
print(pages(), pages())
"""


def pages(**environment: str) -> list[int]:
    """How many pages of memory a process was given for 64 MiB, and for 64 MiB again after they were freed."""
    usual = {name: value for name, value in os.environ.items() if name not in memory.CHOSEN}
    done = subprocess.run(
        [sys.executable, "-c", AGAIN], env={**usual, **environment}, check=True, capture_output=True, text=True
    )
    return [int(count) for count in done.stdout.split()]


@pytest.mark.skipif(not GLIBC, reason="only glibc can be told")
def test_what_was_freed_is_had_again_without_the_system() -> None:
    first, again = pages()
    assert first > 20
    assert again < first / 10


@pytest.mark.skipif(not GLIBC, reason="only glibc can be told")
def test_who_has_chosen_otherwise_is_left_alone() -> None:
    first, again = pages(MALLOC_TRIM_THRESHOLD_="131072")
    assert again > first / 2


def test_where_there_is_no_such_function_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in memory.CHOSEN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    memory.keep()
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", None)
    memory.keep()


def test_a_command_keeps_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    asked: list[str] = []
    monkeypatch.setattr(memory, "keep", lambda: asked.append("keep"))
    assert main(["show", "lenet", "--classes", "3"]) == 0
    assert asked == ["keep"]
    capsys.readouterr()
