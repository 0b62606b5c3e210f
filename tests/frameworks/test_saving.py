"""The files of each framework: by its own loader they give the same logits, and read as data the same weights."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import imori
from imori import frameworks
from imori.cli.converting import FORMS
from imori.errors import ImoriError, RunError, WeightsError
from imori.shapes import resolve
from imori.tree import (
    BatchNorm,
    Chain,
    Concat,
    Conv,
    ConvTranspose,
    Depthwise,
    Flatten,
    Linear,
    ReLU,
    Sum,
    Tree,
)
from imori.weights import Card, initial_weights, save_model
from imori.weights.native import native_card, read_native


def net(classes: int) -> Chain:
    return Chain(
        conv1=Conv(8, 3, 2, pad=1, groups=2),
        bn1=BatchNorm(),
        relu1=ReLU(),
        both=Sum(a=Chain(Depthwise(3, pad=1, multiplier=2), BatchNorm()), b=Conv(16, 1, bias=False)),
        apart=Concat(up=ConvTranspose(6, 2, 2, groups=2), wide=ConvTranspose(3, (2, 3), 2, pad=(0, 0, 0, 1))),
        odd=Depthwise((3, 2), (2, 1)),
        flatten=Flatten(),
        fc=Linear(classes),
    )


NET = net(5)
LONE = Linear(3)
SHAPE = (4, 9, 12)


def weights_of(tree: Tree, shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Random throughout: no two weights are alike, and none is at its start."""
    rng = np.random.default_rng(5)
    start = initial_weights(tree, shape)
    return {name: rng.uniform(0.5, 1.5, value.shape).astype(value.dtype) for name, value in start.items()}


def card_of(tree: Tree, shape: tuple[int, ...]) -> Card:
    classes = tuple(f"class {i}" for i in range(resolve(tree, shape).output[0]))
    return Card(tree, shape, classes, {"size": [9, 12]})


@pytest.fixture(params=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_form_gives_the_same_logits_and_weights(framework: str, dtype: str, tmp_path: Path) -> None:
    target = frameworks.get(framework)
    if dtype not in target.DTYPES:
        with pytest.raises(ImoriError, match=f"{framework} .*{dtype}"):
            frameworks.build(NET, SHAPE, framework, dtype=dtype)
        return
    weights = {name: value.astype(dtype) for name, value in weights_of(NET, SHAPE).items()}
    native = frameworks.build(NET, SHAPE, framework, weights)
    images = np.random.default_rng(1).standard_normal((3, *SHAPE)).astype(dtype)
    expected = frameworks.logits(native, images)
    card = card_of(NET, SHAPE)
    for end in target.FORMS:
        path = tmp_path / f"net{end}"
        target.save(native, path, card.metadata())
        twin = frameworks.build(NET, SHAPE, framework, {name: np.zeros_like(w) for name, w in weights.items()})
        found = target.answers(twin, path, images)
        assert found.shape == expected.shape
        assert np.abs(found - expected).max() <= 1e-6 * np.abs(expected).max(), end
        if end in ("", ".pt2"):
            continue
        read = read_native(path, resolve(NET, SHAPE))
        assert list(read) == list(weights)
        for name, value in weights.items():
            np.testing.assert_array_equal(read[name], value, f"{name} of {end}")
            assert read[name].dtype == value.dtype
        assert native_card(path) == (None if end in (".pth", ".weights.h5") else card)


def test_a_lone_layer(framework: str, tmp_path: Path) -> None:
    target = frameworks.get(framework)
    weights = weights_of(LONE, (7,))
    native = frameworks.build(LONE, (7,), framework, weights)
    for end in {*target.FORMS} - {"", ".pt2"}:
        target.save(native, tmp_path / f"net{end}", card_of(LONE, (7,)).metadata())
        read = read_native(tmp_path / f"net{end}", resolve(LONE, (7,)))
        assert read.keys() == weights.keys()
        assert all((read[name] == weights[name]).all() for name in weights)


def test_a_file_cut_short_is_refused(framework: str, tmp_path: Path) -> None:
    target = frameworks.get(framework)
    native = frameworks.build(NET, SHAPE, framework, weights_of(NET, SHAPE))
    for end in {*target.FORMS} - {"", ".pt2"}:
        path = tmp_path / f"net{end}"
        target.save(native, path, card_of(NET, SHAPE).metadata())
        whole = path.read_bytes()
        for part in (0, len(whole) // 3, len(whole) - 40):
            path.write_bytes(whole[:part])
            with pytest.raises(WeightsError, match=f"net{end}.*cut short|net{end}.*damaged"):
                read_native(path, resolve(NET, SHAPE))


def test_the_wrong_net_is_refused_by_its_names(framework: str, tmp_path: Path) -> None:
    target = frameworks.get(framework)
    native = frameworks.build(NET, SHAPE, framework, weights_of(NET, SHAPE))
    other = Chain(conv1=Conv(8, 3, 2, pad=1, groups=2), last=Conv(2, 1), flatten=Flatten(), fc=Linear(5))
    wider = net(6)
    for end in {*target.FORMS} - {"", ".pt2"}:
        path = tmp_path / f"net{end}"
        target.save(native, path, card_of(NET, SHAPE).metadata())
        with pytest.raises(WeightsError, match=r"missing: last\.weight.*unexpected: "):
            read_native(path, resolve(other, SHAPE))
        with pytest.raises(WeightsError, match=r"misshaped: fc\.weight is 5×\d+ and must be 6×"):
            read_native(path, resolve(wider, SHAPE))


def test_the_help_names_every_form(framework: str) -> None:
    (line,) = (line for line in FORMS.splitlines() if line.split()[:1] == [framework])
    for end in frameworks.get(framework).FORMS:
        assert end in line if end else "a folder" in line


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model file, large enough that a full disk cuts its weights."""
    tree = Chain(conv=Conv(64, 5), bn=BatchNorm(), flatten=Flatten(), fc=Linear(3))
    card = Card(tree, (3, 12, 9), ("a", "b", "c"), {})
    save_model(tmp_path / "model.safetensors", weights_of(tree, card.input), card)
    return tmp_path / "model.safetensors"


def test_there_and_back_is_the_same_file(framework: str, model: Path, tmp_path: Path) -> None:
    settled = {"model": f"{tmp_path / 'tree.json'}", "classes": ["a", "b", "c"], "size": (12, 9)}
    (tmp_path / "tree.json").write_text(imori.tree.to_json(native_card(model).tree))
    for i, end in enumerate(end for end in frameworks.get(framework).FORMS if end not in ("", ".pt2")):
        there, back = tmp_path / f"there{end}", tmp_path / f"back{i}.safetensors"
        done = imori.convert(model, framework, there)
        assert done.reference == "numpy"
        assert done.difference <= 1e-6
        says_so = end not in (".pth", ".weights.h5")
        imori.convert(there, "numpy", back, **({} if says_so else settled))
        if says_so:
            assert back.read_bytes() == model.read_bytes()
        else:
            assert imori.weights.file.read_tensors(back)[0].keys() == imori.weights.file.read_tensors(model)[0].keys()


@contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Inside, no file can be larger, as on a disk with little room."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_leaves_nothing(framework: str, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for end in frameworks.get(framework).FORMS:
        with files_up_to(9_000), pytest.raises(RunError) as refusal:
            imori.convert(model, framework, out / f"net{end}")
        said = str(refusal.value)
        assert said.startswith(f"{out / f'net{end}'} could not be written: File too large; the system takes no file")
        assert "\n" not in said
        assert not list(out.iterdir())
