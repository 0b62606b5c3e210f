"""Several workers at one batch: each has some of the images and a copy of the layers, and some layers act as one.

NumPy lets go of the interpreter while it works, so that threads of Python use as many cores. They had better have
different images than share each product: BLAS, told to keep to one thread, then never waits for another core, and all
that is no product runs twice as fast too. That is data parallelism, as over several graphics cards, and batch norm's
statistics are put together over the workers as there ("cross-GPU batch normalisation",
https://arxiv.org/abs/1711.07240).
"""

from __future__ import annotations

import contextvars
import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from imori.engine.layer import Array, Layer

Item = TypeVar("Item")


class Team(Protocol):
    """What the workers of one pass share."""

    def tell(self, key: Any, worker: int, value: Array) -> list[Array]:
        """Every worker's vector of float64, in their order, once all have told it. A key is used once in a pass."""
        ...

    def draw(self, key: Any, make: Callable[[], Array]) -> Array:
        """What is made for this key, which is the same for all."""
        ...


class Threads:
    """A team of threads, for one pass."""

    def __init__(self, workers: int = 1) -> None:
        self._barrier = threading.Barrier(workers)
        self._lock = threading.Lock()
        self._told: dict[Any, list[Any]] = {}
        self._drawn: dict[Any, Array] = {}
        self._workers = workers

    def tell(self, key: Any, worker: int, value: Array) -> list[Array]:
        """As in a `Team`."""
        with self._lock:
            told = self._told.setdefault(key, [None] * self._workers)
        told[worker] = value
        self._barrier.wait()
        return told

    def draw(self, key: Any, make: Callable[[], Array]) -> Array:
        """As in a `Team`; the first worker that asks makes it."""
        with self._lock:
            if key not in self._drawn:
                self._drawn[key] = make()
            return self._drawn[key]

    def abandon(self) -> None:
        """Nobody waits any longer."""
        self._barrier.abort()


@dataclass(frozen=True)
class Member:
    """A worker's part of the batch."""

    team: Team
    worker: int
    images: slice
    """Its own."""
    batch: int
    """All of the batch's."""


class Shared(Layer):
    """A layer whose copies, one a worker, act as one."""

    member: Member | None = None
    """The worker whose copy this is; one alone where there is none."""

    @property
    def leads(self) -> bool:
        """Whether it is the copy that changes what the others have too."""
        return self.member is None or self.member.worker == 0

    def tell(self, moment: str, value: Array) -> list[Array]:
        """What every copy tells at this moment of a pass, in the order of the workers: vectors of float64."""
        if self.member is None:
            return [value]
        return self.member.team.tell((id(self.weights), moment), self.member.worker, value)


def run(tasks: Sequence[Callable[[], None]], team: Threads) -> None:
    """Does the tasks at once, the first in this thread; the first error is raised again when all have ended."""
    errors: list[BaseException | None] = [None] * len(tasks)

    def attempt(number: int) -> None:
        try:
            tasks[number]()
        except BaseException as error:
            errors[number] = error
            team.abandon()

    # a thread knows nothing of np.errstate where it was started, unless it takes the context along
    others = range(1, len(tasks))
    threads = [threading.Thread(target=contextvars.copy_context().run, args=(attempt, number)) for number in others]
    for thread in threads:
        thread.start()
    attempt(0)
    for thread in threads:
        thread.join()
    raised = [error for error in errors if error is not None]
    for error in sorted(raised, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error


def each(task: Callable[[Item], None], items: Iterable[Item], workers: int) -> None:
    """task(item) for every item; a worker that is free takes the next. The items have nothing to do with each other."""
    left = deque(items)

    def work() -> None:
        while left:
            try:
                item = left.popleft()
            except IndexError:  # another worker was faster
                return
            task(item)

    run([work] * workers, Threads(workers))


def share(count: int, parts: int) -> list[slice]:
    """`count` images in `parts` parts that differ by one at most."""
    ends = [count * part // parts for part in range(parts + 1)]
    return [slice(begin, end) for begin, end in itertools.pairwise(ends)]
