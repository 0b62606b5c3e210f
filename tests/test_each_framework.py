"""Each framework that does not share this process has its tests run in one of its own, a process for each core.

What is installed is tested, Keras on each of its backends, or what IMORI_FRAMEWORKS names, as in
"tensorflow,keras:jax": that must be there.
"""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

import pytest

from imori import frameworks

ROOT = Path(__file__).parent.parent
TOGETHER = {"torch", "numpy", "onnx"}
BACKENDS = {"tensorflow": "tensorflow", "jax": "flax", "torch": "torch"}
"""Keras's backends, and the frameworks that bring them."""
EVERY_RUN = "not exhaustive"
Ending: TypeAlias = "Future[subprocess.CompletedProcess[str]]"
Endings: TypeAlias = Callable[[str, str], Ending]


def asked() -> list[str]:
    """The frameworks beyond those of this process; "keras:jax" is Keras on JAX."""
    named = os.environ.get("IMORI_FRAMEWORKS")
    if named:
        return named.split(",")
    there = [name for name in frameworks.names() if name not in TOGETHER and frameworks.installed(name)]
    backends = [f"keras:{backend}" for backend, name in BACKENDS.items() if frameworks.installed(name)]
    return [each for name in there for each in (backends if name == "keras" else [name])]


def ran(name: str, markers: str) -> "subprocess.CompletedProcess[str]":
    """Runs the tests of one framework, on one thread: the other cores have others."""
    framework, _, backend = name.partition(":")
    if markers == EVERY_RUN and backend not in ("", "tensorflow"):
        markers = "not slow and not long"  # the layers are the same on each backend: smaller nets show that it serves
    command = [sys.executable, "-m", "pytest", "-q", "--durations=20", "--framework", framework, "-m", markers]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TF_NUM_INTRAOP_THREADS": "1"}
    if backend:
        environment["KERAS_BACKEND"] = backend
    return subprocess.run(
        [*command, "tests/matrix", "tests/frameworks", "tests/pretrained/test_logits.py"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="session")
def ending() -> Iterator[Endings]:
    """How the tests of a framework end that fit an expression of markers; the first question begins them all."""
    begun: dict[tuple[str, str], Ending] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:

        def of(name: str, markers: str) -> Ending:
            for each in asked():
                if (each, markers) not in begun:
                    begun[each, markers] = pool.submit(ran, each, markers)
            return begun[name, markers]

        yield of
        pool.shutdown(cancel_futures=True)


def passes(name: str, ending: Ending) -> None:
    assert frameworks.installed(name.partition(":")[0]), f"{name} is asked for and not installed"
    done = ending.result()
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("name", asked())
def test_its_tests_pass(name: str, ending: Endings) -> None:
    passes(name, ending(name, EVERY_RUN))


@pytest.mark.slow
@pytest.mark.exhaustive
@pytest.mark.parametrize("name", asked())
def test_the_whole_matrix_agrees(name: str, ending: Endings) -> None:
    passes(name, ending(name, "exhaustive"))
