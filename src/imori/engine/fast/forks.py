"""Workers that are processes: forks of this one, which stay as long as their network, or until it trains anew.

Threads of Python have one interpreter, and each of them waits for it between any two calls of NumPy: a layer of a dozen
short calls gains nothing by a second thread. A fork has an interpreter of its own. It begins as a copy of this process,
the network included, so that nothing has to be described to it (fork(2)). What changes from then on lies in memory that
all of them see (mmap(2), MAP_SHARED): the weights and each batch, and what comes of its parts. Nothing is sent but one
byte, "I have come here", by which they wait for each other.

The work is that of threads, in the same order, and so are the numbers. Threads do it where a fork is not to be had:
macOS's libraries do not bear one, and Windows has none; and where Python has no lock, they do not wait.
"""

from __future__ import annotations

import contextlib
import gc
import math
import mmap
import os
import select
import signal
import sys
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from imori.engine.layer import Array

SECOND = 1000
"""Milliseconds after which one that waits looks whether the others are still there."""
READY = 20.0
"""Seconds in which a fork must have shown that it works."""
MOST = 256
"""Workers, whose numbers are bytes."""
SIGNALS = (signal.SIGINT, signal.SIGTERM) + ((signal.SIGHUP,) if sys.platform != "win32" else ())
"""What all processes of a terminal are sent, and the first one answers."""
ROOM = 4096
"""Bytes for the last words of a fork."""


def possible() -> bool:
    """Whether forks are to be had, and better than threads."""
    return sys.platform == "linux" and bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def shared(shape: tuple[int, ...], dtype: npt.DTypeLike, strides: tuple[int, ...] | None = None) -> Array:
    """Zeros, in memory that forks have in common; `strides` are those of a contiguous array, its axes in any order."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return np.ndarray(shape, dtype, mmap.mmap(-1, max(1, size)), strides=strides)


def moved(array: Array) -> Array:
    """The array, or else a copy of it in such memory, in the same order there."""
    if is_shared(array):
        return array
    copy = shared(array.shape, array.dtype, array.strides)
    copy[...] = array
    return copy


def is_shared(array: Array) -> bool:
    """Whether it lies in such memory."""
    return isinstance(array.base, mmap.mmap)


class Forks:
    """Worker 0, which is this process, and its forks.

    `work` is what a fork does whenever all have met, and is given its copy of this. `told` is how many numbers a worker
    tells the others at a time, at most. OSError where it comes to nothing.
    """

    def __init__(self, workers: int, told: int, work: Callable[[Forks], None]) -> None:
        self.workers, self.worker = workers, 0
        self._parent = os.getpid()
        self._forks: list[int] = []
        self._told, self._moment = shared((2, workers, told), np.float64), 0
        self._words = shared((workers, ROOM), np.uint8)
        self._drawn: dict[Any, Array] = {}
        self._came = [0] * workers
        self._doors: list[tuple[int, int]] = []
        self._end = weakref.finalize(self, _end, self._parent, self._forks, self._doors)
        try:
            for _ in range(workers):
                self._doors.append(os.pipe())
            for worker in range(1, workers):
                before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until a fork ignores them
                try:
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")  # that other threads run: a fork has nothing to do with them
                        fork = os.fork()
                    if not fork:
                        self._serve(worker, work, before)
                    self._forks.append(fork)
                finally:
                    signal.pthread_sigmask(signal.SIG_SETMASK, before)
            self._meet(READY)
        except BaseException:
            self.end()
            raise

    @property
    def alive(self) -> bool:
        """Whether the forks are this process's, and have not been ended."""
        return self._end.alive and os.getpid() == self._parent

    def end(self) -> None:
        """The forks are no more."""
        self._end()

    @contextlib.contextmanager
    def step(self) -> Iterator[None]:
        """Inside, the forks are at work; when it ends, they have done it. After an error they are no more.

        MemoryError where one has had no memory, RuntimeError where it has ended by something else.
        """
        try:
            self._begin()
            yield
            self._meet()
        except BaseException:
            self.end()
            raise

    def tell(self, key: Any, worker: int, value: Array) -> list[Array]:
        """Every worker's vector of float64, in their order, once all have told it."""
        # two places each, in turn: who tells the next one has been told this one by all, who then have read the last
        place = self._told[self._moment % 2, :, : len(value)]
        self._moment += 1
        place[worker] = value
        self._meet()
        return list(place.copy())

    def draw(self, key: Any, make: Callable[[], Array]) -> Array:
        """What `make` makes, once in a step: every worker draws the same."""
        if key not in self._drawn:
            self._drawn[key] = make()
        return self._drawn[key]

    def _begin(self) -> None:
        self._drawn.clear()
        self._meet()

    def _serve(self, worker: int, work: Callable[[Forks], None], mask: set[int | signal.Signals]) -> NoReturn:
        """A fork's life. It ends by a signal, or when the one that it is a copy of is no more."""
        try:
            gc.disable()  # what is no longer needed is the other's to clear away
            for number in SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            self.worker = worker
            with np.errstate(all="ignore"):
                np.matmul(*np.ones((2, 64, 64), np.float32))  # BLAS works here, too
                self._meet()
                while True:
                    self._begin()
                    work(self)
                    self._meet()
        except BaseException as error:
            words = f"{type(error).__name__}: {error}".encode()[:ROOM]
            self._words[worker, : len(words)] = list(words)
        finally:
            os._exit(1)

    def _meet(self, seconds: float = math.inf) -> None:
        """Goes on when all have come here."""
        for other, (_, door) in enumerate(self._doors):
            if other != self.worker:
                os.write(door, bytes([self.worker]))
        entry, last = self._doors[self.worker][0], time.monotonic() + seconds
        poll = select.poll()
        poll.register(entry, select.POLLIN)
        self._came[self.worker] += 1
        while not all(self._came):
            if poll.poll(SECOND):
                for other in os.read(entry, 4 * MOST):
                    self._came[other] += 1
            elif time.monotonic() > last:
                raise TimeoutError("a fork does not answer")
            else:
                self._look()
        self._came = [count - 1 for count in self._came]

    def _look(self) -> None:
        """Whether all are still there."""
        if self.worker:
            if os.getppid() != self._parent:
                os._exit(1)
            return
        for worker, fork in enumerate(self._forks, 1):
            try:
                ended, status = os.waitpid(fork, os.WNOHANG)
            except ChildProcessError:  # somebody else has waited for it, and knows how it ended
                ended, status = fork, 0
            if ended:
                self._forks.remove(fork)
                kind, _, words = self._words[worker].tobytes().rstrip(b"\0").decode(errors="replace").partition(": ")
                if kind == "MemoryError" or os.WIFSIGNALED(status):  # the system kills one where memory is full
                    raise MemoryError(words or "a worker has been killed, as the system does where memory is full")
                raise RuntimeError(f"a worker has ended by {kind}: {words}" if kind else "a worker has ended")


def _end(parent: int, forks: list[int], doors: list[tuple[int, int]]) -> None:
    if os.getpid() != parent:  # a copy, made by somebody else
        return
    while forks:
        fork = forks.pop()
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(fork, signal.SIGKILL)
            os.waitpid(fork, 0)
    while doors:
        for door in doors.pop():
            os.close(door)
