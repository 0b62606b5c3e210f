"""Workers: what they tell each other, and what happens when one fails."""

import threading
import warnings

import numpy as np
import pytest

from imori.engine.fast.team import Threads, each, run, share


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_all_are_told_what_each_has(workers: int) -> None:
    team, heard = Threads(workers), [[0]] * workers

    def work(worker: int) -> None:
        for moment in range(20):
            heard[worker] = team.tell(moment, worker, 10 * moment + worker)

    run([lambda worker=worker: work(worker) for worker in range(workers)], team)  # type: ignore[misc]
    assert heard == [[190 + worker for worker in range(workers)]] * workers


def test_what_is_drawn_is_drawn_once() -> None:
    team, rng = Threads(3), np.random.default_rng(0)
    drawn: list[float] = []
    run([lambda: drawn.append(team.draw("mask", lambda: rng.random(3)).sum())] * 3, team)
    assert len(set(drawn)) == 1
    assert team.draw("another", lambda: rng.random(3)).sum() not in drawn


@pytest.mark.parametrize("failing", [0, 1])
def test_nobody_waits_for_one_that_failed(failing: int) -> None:
    team, before = Threads(2), threading.active_count()

    def work(worker: int) -> None:
        if worker == failing:
            raise ValueError("out of numbers")
        team.tell("moment", worker, None)

    with pytest.raises(ValueError, match="out of numbers"):
        run([lambda: work(0), lambda: work(1)], team)
    assert threading.active_count() == before


def test_a_worker_is_as_quiet_as_its_caller() -> None:
    with warnings.catch_warnings(), np.errstate(over="ignore"):
        warnings.simplefilter("error")
        run([lambda: None, lambda: np.exp(np.float32(1000)) and None], Threads(2))


def test_parts_differ_by_one_at_most() -> None:
    for count in range(1, 20):
        for parts in range(1, count + 1):
            sizes = [part.stop - part.start for part in share(count, parts)]
            assert sum(sizes) == count
            assert max(sizes) - min(sizes) <= 1
            assert min(sizes) > 0


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_every_item_is_done_once(workers: int) -> None:
    done: list[int] = []
    each(done.append, range(100), workers)
    assert sorted(done) == list(range(100))


@pytest.mark.parametrize("workers", [1, 2])
def test_an_item_that_fails_is_told(workers: int) -> None:
    with pytest.raises(ZeroDivisionError):
        each(lambda item: 1 // item and None, [1, 2, 0, 3], workers)
    with pytest.raises(IndexError):
        each(lambda item: [][item], [1, 2], workers)
