"""Fixtures that every test may ask for."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from imori.cli import main


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real photos, MNIST and published references that some tests read."""
    root = os.environ.get("IMORI_DATA")
    if not root:
        pytest.skip("IMORI_DATA is not set: it names the folder with mnist/, cats_dogs/ and newts/")
    assert Path(root).is_dir(), f"IMORI_DATA is {root}, which is no folder"
    return Path(root)


class Answer(NamedTuple):
    """What a command came to."""

    code: int
    out: str
    err: str

    def refuses(self, *mentions: str) -> None:
        """Checks that the command stopped with 2 and one clear sentence that names each of `mentions`."""
        assert self.code == 2, self
        assert self.err.splitlines()[-1].startswith("error: "), self.err
        assert "Traceback" not in self.err
        for mention in mentions:
            assert mention in self.err, f"{mention!r} is not in {self.err!r}"


Command = Callable[..., Answer]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs the command line in this process: `command("show", "lenet")`."""

    def run(*arguments: object) -> Answer:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        return Answer(code, *capsys.readouterr())

    return run


@pytest.fixture
def process() -> Command:
    """Runs the command line in a fresh process, with `environment` in place of some variables."""

    def run(*arguments: object, environment: dict[str, str] | None = None, cwd: Path | None = None) -> Answer:
        done = subprocess.run(
            [sys.executable, "-m", "imori", *map(str, arguments)],
            capture_output=True,
            env={**os.environ, **(environment or {})},
            cwd=cwd,
            check=False,
        )
        return Answer(done.returncode, done.stdout.decode(errors="strict"), done.stderr.decode(errors="strict"))

    return run
