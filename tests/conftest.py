"""Fixtures that every test may ask for."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from imori import frameworks
from imori.cli import main
from imori.train import train
from imori.tree import Chain, Conv, GlobalAvgPool, Linear, ReLU

TOGETHER = ("torch", "numpy", "onnx")
"""The frameworks whose tests run in one process. Each other one has a process of its own: test_each_framework.py."""


LIMITS = "test_limits"
"""The modules in the frameworks' folders that show what is wanting in the frameworks themselves."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--framework", metavar="NAME", help="run the frameworks' tests for this one alone")


def pytest_configure(config: pytest.Config) -> None:
    """What must be set before a framework is imported, and where the processes keep NumPy's numbers for each other.

    Keras rounds to float32 on JAX and PyTorch. It is kept from that here, so that formulas are compared exactly. JAX
    compiles each network for one or two runs: without the costly part of its optimisations.
    """
    os.environ.setdefault(
        "XLA_FLAGS",
        "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
        " --xla_cpu_use_fusion_emitters=false",
    )
    if "IMORI_MATRIX" not in os.environ:
        folder = tempfile.TemporaryDirectory(prefix="imori-matrix-")
        os.environ["IMORI_MATRIX"] = folder.name
        config.add_cleanup(folder.cleanup)
    if "IMORI_CACHE" not in os.environ:  # the user's own is no test's to fill
        cache = tempfile.TemporaryDirectory(prefix="imori-cache-")
        os.environ["IMORI_CACHE"] = cache.name
        config.add_cleanup(cache.cleanup)
    backend = os.environ.get("KERAS_BACKEND", "tensorflow")
    if config.getoption("--framework") == "keras" and backend != "tensorflow":
        os.environ["JAX_ENABLE_X64"] = "1"
        from keras.src.backend.common import dtypes

        from imori.frameworks.keras.backend import DOUBLE  # before all else of Keras

        dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"
        DOUBLE.add(backend)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test of `framework` runs for every one of this process; one of `peer` for those that are not NumPy's own.

    One that is marked `trains` runs for those that train.
    """
    asked = metafunc.config.getoption("--framework")
    names = [asked] if asked else [name for name in TOGETHER if frameworks.ready(name)]
    if metafunc.definition.get_closest_marker("trains"):
        names = [name for name in names if name not in frameworks.PREDICTING]
    for argument in {"framework", "peer"} & set(metafunc.fixturenames):
        metafunc.parametrize(argument, [name for name in names if argument == "framework" or name != "numpy"])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With --framework, its own tests alone; of one that only predicts, none that trains."""
    asked = config.getoption("--framework")
    if not asked:
        return

    def own(item: pytest.Item) -> bool:
        if asked in frameworks.PREDICTING and item.get_closest_marker("trains"):
            return False
        return bool({"framework", "peer"} & set(getattr(item, "fixturenames", ()))) or asked in item.path.parts

    config.hook.pytest_deselected(items=[item for item in items if not own(item)])
    items[:] = [item for item in items if own(item)]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """No framework is excused from a test that is written for all, and a limit that is gone says what to do."""
    report = yield
    given = item.callspec.params if hasattr(item, "callspec") else {}
    alike = any(isinstance(given.get(argument), str) for argument in ("framework", "peer"))
    if report.skipped and alike and {"matrix", "frameworks"} & set(item.path.parts):
        reason = report.wasxfail if hasattr(report, "wasxfail") else report.longrepr[2]
        report.outcome, report.longrepr = "failed", f"no framework is excused from a test: {reason}"
    if report.failed and item.path.stem == LIMITS and "frameworks" in item.path.parts:
        report.sections.append(("if the limit is gone", "remove its workaround and its entry: see docs/limits.md"))
    return report


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The folders of frameworks that do not run in this process are not even imported."""
    if collection_path.parent.name != "frameworks" or not collection_path.is_dir():
        return None
    asked = config.getoption("--framework")
    return collection_path.name not in ([asked] if asked else filter(frameworks.ready, TOGETHER))


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
    """Runs the command line in a fresh process, on one thread, with `environment` in place of some variables."""

    def run(*arguments: object, environment: dict[str, str] | None = None, cwd: Path | None = None) -> Answer:
        done = subprocess.run(
            [sys.executable, "-m", "imori", *map(str, arguments)],
            capture_output=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
            cwd=cwd,
            check=False,
        )
        return Answer(done.returncode, done.stdout.decode(errors="strict"), done.stderr.decode(errors="strict"))

    return run


@pytest.fixture(scope="session")
def digits_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of LeNet on the embedded digits, in NumPy."""
    return train(
        "digits", model="lenet", framework="numpy", iterations=60, out=tmp_path_factory.mktemp("runs") / "a"
    ).path


def save_photos(folder: Path, **counts: int) -> Path:
    """A folder of class folders; in the photos of a class, noise with a tint of the class's own."""
    rng = np.random.default_rng(3)
    for tint, (name, count) in enumerate(sorted(counts.items())):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 150, (33, 47, 3), dtype=np.uint8)
            pixels[:, :, tint % 3] += 100
            Image.fromarray(pixels).save(folder / name / f"{name}{i}.png")
    return folder


Photos = Callable[..., Path]


@pytest.fixture
def photos(tmp_path: Path) -> Photos:
    """Makes a folder of class folders: `photos("pets", cat=12, dog=9)`."""
    return lambda name, **counts: save_photos(tmp_path / name, **counts)


@pytest.fixture(scope="session")
def pets_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that tells cats from dogs, which differ by their tint; its photos are in "photos" beside it."""
    folder = tmp_path_factory.mktemp("pets")
    data = save_photos(folder / "photos", cat=20, dog=20)
    net = Chain(conv=Conv(4, 3), relu=ReLU(), pool=GlobalAvgPool(), fc=Linear(2))
    return train(data, model=net, framework="numpy", size=16, epochs=12, lr=0.05, out=folder / "run").path
