"""Processes as workers: what they share and tell, and how they end."""

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from imori.engine.fast import forks as module
from imori.engine.fast.forks import Forks, is_shared, moved, possible, shared

pytestmark = pytest.mark.skipif(not possible(), reason="this system has no forks that can be trusted")


@pytest.fixture(autouse=True)
def nothing_is_left(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After every test there are no more processes and no more open files than before."""

    def now() -> tuple[str, int]:
        gc.collect()
        return Path("/proc/thread-self/children").read_text(encoding="utf-8"), len(
            list(Path("/proc/self/fd").iterdir())
        )

    monkeypatch.setattr(module, "SECOND", 50)
    before = now()
    yield
    assert now() == before


def gone(process: int) -> bool:
    """Whether it ends within some seconds."""
    for _ in range(100):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def numbers_of(forks: Forks) -> list[int]:
    return list(forks._forks)


@pytest.mark.parametrize("workers", [2, 3, 5])
def test_all_are_told_what_each_has(workers: int) -> None:
    heard = shared((workers, 50, workers, 2), float)

    def work(forks: Forks) -> None:
        for moment in range(50):
            mine = np.array([moment, forks.worker], float)
            heard[forks.worker, moment] = forks.tell(moment, forks.worker, mine)

    forks = Forks(workers, 4, work)
    for _ in range(3):
        heard[...] = -1
        with forks.step():
            work(forks)
        for told in heard:
            assert np.array_equal(told[..., 0], np.repeat(np.arange(50)[:, None], workers, 1))
            assert np.array_equal(told[..., 1], np.repeat(np.arange(workers)[None], 50, 0))
    forks.end()


def test_what_is_told_may_be_shorter_than_the_longest() -> None:
    heard = shared((2, 3), float)

    def work(forks: Forks) -> None:
        for length in (1, 3, 2):
            told = forks.tell(length, forks.worker, np.full(length, forks.worker + length, float))
            heard[forks.worker, length - 1] = sum(told)[-1]

    forks = Forks(2, 3, work)
    with forks.step():
        work(forks)
    assert heard.tolist() == [[3, 5, 7]] * 2
    forks.end()


def test_every_worker_draws_once_in_a_step() -> None:
    seen = shared((2, 4), float)

    def work(forks: Forks) -> None:
        draws = iter(np.arange(10.0) + 10 * forks.worker)
        seen[forks.worker] = [forks.draw(key, lambda: np.array(next(draws))) for key in ("a", "a", "b", "a")]

    forks = Forks(2, 1, work)
    for _ in range(2):
        seen[...] = 0
        with forks.step():
            work(forks)
        assert seen.tolist() == [[0, 0, 1, 0], [10, 10, 11, 10]]
    forks.end()


def test_a_moved_array_lies_as_it_did_and_is_seen_by_all() -> None:
    array = np.arange(24.0).reshape(2, 3, 4).transpose(2, 0, 1)
    copy = moved(array)
    assert is_shared(copy)
    assert not is_shared(array)
    assert copy.strides == array.strides
    assert np.array_equal(copy, array)
    assert moved(copy) is copy
    assert moved(np.zeros((0, 3))).shape == (0, 3)

    def work(forks: Forks) -> None:
        copy[...] += 1

    forks = Forks(2, 1, work)
    with forks.step():
        pass
    assert np.array_equal(copy, array + 1)
    forks.end()


@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (MemoryError("no room for it"), MemoryError, "no room for it"),
        (ValueError("out of numbers"), RuntimeError, "a worker has ended by ValueError: out of numbers"),
        (ValueError("ä" * 10_000), RuntimeError, "ended by ValueError: ää"),
        (KeyboardInterrupt(), RuntimeError, "KeyboardInterrupt"),
    ],
)
@pytest.mark.parametrize("tells", [False, True])
def test_an_error_in_a_fork_is_raised_here(
    error: BaseException, raised: type[Exception], message: str, tells: bool
) -> None:
    def work(forks: Forks) -> None:
        if forks.worker == 2:
            raise error
        if tells:
            forks.tell("it", forks.worker, np.zeros(1))

    forks = Forks(3, 1, work)
    processes = numbers_of(forks)
    assert forks.alive
    with pytest.raises(raised, match=message), forks.step():
        work(forks)
    assert not forks.alive
    assert all(map(gone, processes))


def test_a_fork_that_is_killed_has_had_no_memory() -> None:
    forks = Forks(2, 1, lambda forks: time.sleep(60))
    (process,) = numbers_of(forks)
    with pytest.raises(MemoryError), forks.step():
        os.kill(process, signal.SIGKILL)


def test_an_error_here_ends_the_forks() -> None:
    forks = Forks(2, 1, lambda forks: time.sleep(60))
    processes = numbers_of(forks)
    with pytest.raises(KeyboardInterrupt), forks.step():
        raise KeyboardInterrupt
    assert not forks.alive
    assert all(map(gone, processes))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_all_is_the_first_ones_to_answer(number: signal.Signals) -> None:
    done = shared((1,), int)

    def work(forks: Forks) -> None:
        done[0] += 1

    forks = Forks(2, 1, work)
    (process,) = numbers_of(forks)
    for _ in range(3):
        os.kill(process, number)
        with forks.step():
            pass
    assert done[0] == 3
    forks.end()


def test_forks_end_with_what_has_them() -> None:
    forks = Forks(3, 1, lambda forks: None)
    processes = numbers_of(forks)
    assert len(processes) == 2
    del forks
    assert all(map(gone, processes))


ORPHANS = """
import os, signal, sys, time
from imori.engine.fast.forks import Forks
forks = Forks(3, 1, lambda forks: None)
print(*forks._forks, flush=True)
if sys.argv[1] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[1] == "raises":
    raise SystemExit(3)
"""


@pytest.mark.parametrize("how", ["killed", "raises", "ends"])
def test_forks_end_with_the_process(how: str) -> None:
    done = subprocess.run([sys.executable, "-c", ORPHANS, how], capture_output=True, text=True, check=False)
    assert done.returncode == {"killed": -signal.SIGKILL, "raises": 3, "ends": 0}[how]
    processes = [int(number) for number in done.stdout.split()]
    assert len(processes) == 2
    assert all(map(gone, processes))
    assert done.stderr == ""


def test_forks_are_not_those_of_a_copy() -> None:
    forks = Forks(2, 1, lambda forks: None)
    copy = os.fork()
    if not copy:
        try:
            code = 0 if not forks.alive else 1
            forks.end()
        finally:
            os._exit(code)
    assert os.waitpid(copy, 0)[1] == 0
    with forks.step():  # the copy has not ended them
        pass
    forks.end()


def test_one_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "READY", 0.0)
    monkeypatch.setattr(module, "SECOND", 10)
    monkeypatch.setattr(Forks, "_serve", lambda *_: time.sleep(60))
    with pytest.raises(TimeoutError):
        Forks(2, 1, lambda forks: None)


def test_a_signal_that_comes_with_the_fork_does_not_let_it_go(monkeypatch: pytest.MonkeyPatch) -> None:
    really = os.fork

    def fork() -> int:
        process = really()
        if not process:
            os.kill(os.getpid(), signal.SIGINT)
        return process

    monkeypatch.setattr(os, "fork", fork)
    forks = Forks(2, 1, lambda forks: None)
    with forks.step():
        pass
    forks.end()
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
