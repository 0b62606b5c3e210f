"""Each framework that does not share this process has its tests run in one of its own.

There it has the tests that are not slow; by hand, with --framework, it has all. What is installed is tested, or what
IMORI_FRAMEWORKS names, as in "tensorflow,keras:jax": that must be there.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from imori import frameworks

ROOT = Path(__file__).parent.parent
TOGETHER = {"torch", "numpy"}


def asked() -> list[str]:
    """The frameworks beyond those of this process; Keras on its own backend, or on another one as in "keras:jax"."""
    named = os.environ.get("IMORI_FRAMEWORKS")
    if named:
        return named.split(",")
    return [name for name in frameworks.names() if name not in TOGETHER and frameworks.installed(name)]


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the processes keep NumPy's numbers for each other."""
    return tmp_path_factory.mktemp("matrix")


@pytest.mark.slow
@pytest.mark.parametrize("name", asked())
def test_its_tests_pass(name: str, shared: Path, request: pytest.FixtureRequest) -> None:
    framework, _, backend = name.partition(":")
    assert frameworks.installed(framework), f"{framework} is asked for and not installed"
    chosen = ["-m", request.config.getoption("markexpr") or "not slow"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--framework", framework, "tests/matrix", "tests/frameworks", *chosen],
        cwd=ROOT,
        env={**os.environ, "IMORI_MATRIX": str(shared), **({"KERAS_BACKEND": backend} if backend else {})},
        capture_output=True,
        text=True,
        check=False,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
