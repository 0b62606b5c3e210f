"""Work spread over threads, with results in order. Pillow and NumPy let other threads run while they compute."""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
Progress: TypeAlias = Callable[[int, int], None]
"""Called with what is done and the total."""

CHUNK = 16
AHEAD = 32
"""So many items a thread are begun before they are asked for."""


def workers_or_cores(workers: int) -> int:
    """The number of threads that is meant: `workers`, or one a core that this process may use where it is 0."""
    if workers:
        return workers
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def ordered(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int = 0, progress: Progress | None = None
) -> list[Result]:
    """`function` of every item, in the items' order. The first error ends it: what has not begun is not done."""
    results: list[Result] = []

    def chunk(start: int) -> list[Result]:
        return [function(item) for item in items[start : start + CHUNK]]

    pool = ThreadPoolExecutor(workers_or_cores(workers), thread_name_prefix="imori-data")
    try:
        done: Iterable[list[Result]] = pool.map(chunk, range(0, len(items), CHUNK))
        for part in done:
            results += part
            if progress is not None:
                progress(len(results), len(items))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return results


def ahead(function: Callable[[Item], Result], items: Sequence[Item], workers: int = 0) -> Generator[Result, None, None]:
    """`function` of every item, in the items' order and one by one; few are done before they are asked for.

    Closing it stops its threads: use `contextlib.closing`.
    """
    workers = workers_or_cores(workers)
    pool = ThreadPoolExecutor(workers, thread_name_prefix="imori-data")
    waiting = iter(items)
    try:
        begun = deque(pool.submit(function, item) for item in itertools.islice(waiting, AHEAD * workers))
        while begun:
            result = begun.popleft().result()
            begun.extend(pool.submit(function, item) for item in itertools.islice(waiting, 1))
            yield result
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
