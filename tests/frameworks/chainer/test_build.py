"""The link that comes out: its names, its weights, its modes and sizes, and its life without imori around it."""

import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imori
from imori import frameworks
from imori.errors import ImoriError, TreeError, WeightsError
from imori.shapes import Shape
from imori.tree import (
    RESERVED,
    ROLES,
    Aux,
    BatchNorm,
    Chain,
    Concat,
    Conv,
    ConvTranspose,
    Depthwise,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Identity,
    Linear,
    MaxPool,
    ReLU,
    Sum,
    Tree,
)

framework = pytest.importorskip("imori.frameworks.chainer", reason="chainer is not installed")
chainer = framework.chainer
F, L = chainer.functions, chainer.links

SHAPE = (2, 6, 7)
BLOCK = Sum(body=Chain(conv=Conv(4, 3, pad=(0, 2, 1, 1), bias=False), bn=BatchNorm()), shortcut=Identity())
NET = Chain(
    Conv(4, 3, pad=1),
    BatchNorm(),
    ReLU(),
    block=BLOCK,
    thin=Depthwise(3, pad=1),
    drop=Dropout(0.5),
    pool=MaxPool(2),
    flatten=Flatten(),
    fc=Linear(3),
)
TAPPED = Chain(
    conv=Conv(4, 3, pad=1),
    inner=Concat(
        a=Chain(Conv(3, 1), Aux(Chain(pool=GlobalAvgPool(), fc=Linear(3)), 0.2), ReLU()),
        side=Aux(Chain(flatten=Flatten(), fc=Linear(3)), 0.3),
        b=Identity(),
    ),
    pool=GlobalAvgPool(),
    last=Aux(Chain(Linear(5), Aux(Linear(3), 0.1), Linear(3)), 0.4),
    fc=Linear(3),
)


def random_images(shape: Shape = SHAPE, count: int = 3, seed: int = 1) -> Any:
    return np.random.default_rng(seed).standard_normal((count, *shape))


def build(tree: Tree = NET, shape: Shape = SHAPE, dtype: str = "float64") -> Any:
    """With every weight random."""
    native = imori.build(tree, shape, "chainer", dtype=dtype)
    rng = np.random.default_rng(2)
    framework.load(native, {name: rng.uniform(0.2, 1, value.shape) for name, value in framework.dump(native).items()})
    return native


# --- names and weights ------------------------------------------------------------------------------------------------


def test_links_are_chainers_own_under_the_canonical_names() -> None:
    native = build()
    assert isinstance(native, chainer.Chain)
    assert type(native["0"]) is L.Convolution2D
    assert type(native["1"]) is type(native.block.body.bn) is L.BatchNormalization
    assert type(native.thin) is L.DepthwiseConvolution2D
    assert type(native.fc) is L.Linear
    assert {path for path, _ in native.namedparams()} == {
        *("/0/W", "/0/b", "/1/gamma", "/1/beta", "/block/body/conv/W", "/block/body/bn/gamma", "/block/body/bn/beta"),
        *("/thin/W", "/thin/b", "/fc/W", "/fc/b"),
    }
    assert native.thin.W.shape == (1, 4, 3, 3)
    named = [re.match(r"  \((\w+)\)", line) for line in str(native).splitlines()]
    order = [match[1] for match in named if match]
    assert order == ["0", "1", "relu_0", "block", "thin", "drop", "pool", "flatten", "fc"], "in the order of running"
    assert "(pool): Function(function=max_pooling_2d, ksize=(2, 2), stride=(2, 2), pad=(0, 0), cover_all=F" in str(
        native
    )
    assert "(drop): Dropout(ratio=0.5)" in str(native)


@pytest.mark.parametrize("tree", [NET, TAPPED], ids=["net", "heads"])
def test_dump_has_the_canonical_names_and_comes_back(tree: Tree) -> None:
    native = build(tree)
    weights = imori.dump_weights(native)
    assert list(weights) == list(imori.initial_weights(tree, SHAPE))
    again = imori.build(tree, SHAPE, "chainer", weights)
    for name, value in imori.dump_weights(again).items():
        np.testing.assert_array_equal(value, weights[name])
        assert value.flags.c_contiguous
    np.testing.assert_array_equal(imori.logits(again, random_images()), imori.logits(native, random_images()))


def test_dump_gives_copies_and_load_fills_the_same_arrays() -> None:
    native = build()
    arrays = [parameter.array for parameter in native.params()]
    weights, logits = imori.dump_weights(native), imori.logits(native, random_images())
    for name in ("fc.weight", "thin.weight", "1.mean"):
        imori.dump_weights(native)[name][:] = 7
        np.testing.assert_array_equal(imori.dump_weights(native)[name], weights[name])
    framework.load(native, {name: value * 2 for name, value in weights.items()})
    assert all(parameter.array is array for parameter, array in zip(native.params(), arrays, strict=True))
    np.testing.assert_array_equal(native.fc.W.array, weights["fc.weight"] * 2)
    framework.load(native, weights)
    np.testing.assert_array_equal(imori.logits(native, random_images()), logits)


def test_load_lists_all_that_does_not_fit_and_changes_nothing() -> None:
    native = build()
    weights = imori.dump_weights(native)
    wrong = {**weights, "fc2.weight": weights["fc.weight"], "0.bias": weights["0.bias"][:2]}
    del wrong["1.mean"]
    with pytest.raises(WeightsError) as error:
        framework.load(native, {name: value * 2 for name, value in wrong.items()})
    for part in ("missing: 1.mean", "unexpected: fc2.weight", "misshaped: 0.bias is 2 and must be 4"):
        assert part in str(error.value)
    np.testing.assert_array_equal(imori.dump_weights(native)["fc.bias"], weights["fc.bias"])


def test_building_leaves_the_users_chainer_alone() -> None:
    state, dtype = np.random.get_state()[1], chainer.config.dtype
    native = imori.build(NET, SHAPE, "chainer", dtype="float64")
    assert {parameter.dtype.name for parameter in native.params()} == {"float64"}
    assert native["1"].avg_mean.dtype == np.float64
    assert native["1"].avg_var.dtype == np.float64
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    assert chainer.config.dtype == dtype == np.float32
    assert all(parameter.grad is None for parameter in native.params()), "gradients take memory"


def test_names_hide_no_attribute_of_a_chain() -> None:
    made = framework.link_of(imori.shapes.resolve(NET, SHAPE))
    inside = {child.name for child in made.children()}
    names = {name for name in dir(made) if re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name)}
    assert names - RESERVED - set(ROLES) - inside == set()


def test_a_lone_aux_is_no_network() -> None:
    with pytest.raises(TreeError, match="put it into a Chain"):
        imori.build(Aux(Chain(GlobalAvgPool(), Linear(2))), SHAPE, "chainer")


# --- running ----------------------------------------------------------------------------------------------------------


def test_logits_are_those_of_inference_whatever_chainer_is_set_to() -> None:
    native, images = build(), random_images()
    weights, logits = imori.dump_weights(native), imori.logits(native, images)
    for train, backprop in ((True, True), (False, False)):
        with chainer.using_config("train", train), chainer.using_config("enable_backprop", backprop):
            np.testing.assert_array_equal(imori.logits(native, images), logits)
            assert (chainer.config.train, chainer.config.enable_backprop) == (train, backprop)
    np.testing.assert_array_equal(imori.dump_weights(native)["1.mean"], weights["1.mean"])
    with chainer.using_config("train", False):
        np.testing.assert_array_equal(native(images).array, logits)
    assert not np.array_equal(native(images).array, logits), "Chainer trains unless it is told not to"
    assert np.abs(imori.dump_weights(native)["1.mean"] - weights["1.mean"]).max() > 0


def test_inference_keeps_no_graph() -> None:
    native, seen = build(), []
    native.fc.add_hook(Spy(seen))
    imori.logits(native, random_images())
    assert seen == [(False, None)]
    native(random_images())
    assert seen[1][0]
    assert seen[1][1] is not None


class Spy(chainer.LinkHook):  # type: ignore[misc]
    name = "spy"

    def __init__(self, seen: list[Any]) -> None:
        self.seen = seen

    def forward_postprocess(self, args: Any) -> None:
        self.seen.append((chainer.config.train, args.out.creator))


@pytest.mark.parametrize("name", ["cuda", "cuda:9", "gpu", "cpu:1", ""])
def test_a_device_that_is_not_here_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chainer.backends.cuda, "available", False)
    with pytest.raises(ImoriError, match=rf"no device '{name}' here; it has cpu; it uses a GPU through CuPy"):
        framework.device(name)
    assert framework.device("auto") == framework.device("cpu") == "cpu"


def test_another_size_is_refused_where_a_layer_depends_on_it() -> None:
    native = build()
    for train in (True, False):
        with (
            chainer.using_config("train", train),
            pytest.raises(TreeError, match=r"built for images 2×6×7 .* gets 2×8×7; flatten binds it"),
        ):
            native(np.zeros((1, 2, 8, 7)))
    with pytest.raises(TreeError, match=r"takes images 2×6×7 .* gets 3×6×7"):
        imori.logits(native, random_images((3, 6, 7)))
    with pytest.raises(TreeError, match=r"in a batch, and gets 6×7"):
        imori.logits(native, random_images()[0])
    with pytest.raises(TreeError, match="Flatten binds it"):
        imori.logits(imori.build(Flatten(), SHAPE, "chainer"), random_images((2, 5, 7)))
    with pytest.raises(TreeError, match=r"conv: a kernel of 3×3 does not fit"):
        imori.logits(build(Chain(conv=Conv(4, 3), pool=GlobalAvgPool())), random_images((2, 2, 2)))
    free = build(Chain(conv=Conv(4, 3), up=ConvTranspose(3, 3, 2, output_pad=1), pool=GlobalAvgPool(), fc=Linear(3)))
    assert imori.logits(free, random_images((2, 9, 4))).shape == (3, 3)


# --- auxiliary heads --------------------------------------------------------------------------------------------------


def test_heads_answer_in_training_only() -> None:
    native, images = build(TAPPED), random_images()
    twin = imori.build(TAPPED, SHAPE, "torch", imori.dump_weights(native))
    outputs, expected = native(images), twin(frameworks.torch.torch.tensor(images))
    assert len(outputs) == len(expected) == 5
    for out, wanted in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(out.array, wanted.detach().numpy(), rtol=1e-10)
    assert framework.step.head_weights(native) == (0.2, 0.3, 0.4, 0.1)
    with chainer.using_config("train", False):
        np.testing.assert_allclose(native(images).array, outputs[0].array, rtol=1e-12)


def test_heads_bind_no_size_at_inference() -> None:
    native = build(TAPPED)
    assert imori.logits(native, random_images((2, 9, 5))).shape == (3, 3)
    with pytest.raises(TreeError, match=r"inner\.side\.flatten binds it"):
        native(random_images((2, 9, 5)))


# --- without imori around it ------------------------------------------------------------------------------------------


def train(native: Any, out: Path, dtype: str) -> list[float]:
    """Chainer's own Trainer, as its users write it; the loss at each iteration."""
    rng, losses = np.random.default_rng(3), []
    labels = rng.integers(0, 3, 24).astype(np.int32)
    images = (rng.standard_normal((24, *SHAPE)) + labels[:, None, None, None]).astype(dtype)
    model = L.Classifier(native)
    optimizer = chainer.optimizers.MomentumSGD(0.02).setup(model)
    optimizer.add_hook(chainer.optimizer_hooks.WeightDecay(1e-4))
    batches = chainer.iterators.SerialIterator(chainer.datasets.TupleDataset(images, labels), 8, shuffle=False)
    updater = chainer.training.updaters.StandardUpdater(batches, optimizer)
    trainer = chainer.training.Trainer(updater, (30, "iteration"), out=str(out))
    trainer.extend(chainer.training.extensions.LogReport(trigger=(1, "iteration")))
    trainer.extend(chainer.training.extensions.snapshot_object(native, "native.npz"), trigger=(30, "iteration"))

    @trainer.extend  # type: ignore[untyped-decorator]
    def collect(trainer: Any) -> None:
        losses.append(float(trainer.observation["main/loss"].array))

    trainer.run()
    return losses


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_chainers_trainer_trains_it(dtype: str, tmp_path: Path) -> None:
    native = imori.build(NET, SHAPE, "chainer", dtype=dtype)
    before = imori.dump_weights(native)
    losses = train(native, tmp_path, dtype)
    assert np.mean(losses[-3:]) < 0.6 * np.mean(losses[:3])
    after = imori.dump_weights(native)
    assert all(np.abs(after[name] - before[name]).max() > 0 for name in after)
    assert frameworks.of(native) is framework
    again = imori.build(NET, SHAPE, "chainer", dtype=dtype)
    chainer.serializers.load_npz(tmp_path / "native.npz", again)
    np.testing.assert_array_equal(imori.logits(again, random_images()), imori.logits(native, random_images()))


READ = """
import sys
import numpy as np
from imori import frameworks, tree
from imori.frameworks.chainer import chainer

path, text, images, out = sys.argv[1:]
native = frameworks.build(tree.from_json(text), (2, 6, 7), "chainer", dtype="float64", seed=9)
with np.load(path, allow_pickle=False) as file:
    chainer.serializers.NpzDeserializer(file).load(native)
np.save(out, frameworks.logits(native, np.load(images)))
"""


def test_npz_files_hold_arrays_alone_and_are_read_in_a_fresh_process(tmp_path: Path) -> None:
    native, path, images, out = build(), tmp_path / "a.npz", tmp_path / "images.npy", tmp_path / "out.npy"
    chainer.serializers.save_npz(path, native)
    with np.load(path, allow_pickle=False) as file:
        assert {"0/W", "1/avg_var", "thin/W", "block/body/conv/W", "fc/b"} <= set(file)
        assert all(file[name].dtype != object for name in file)
    np.save(images, random_images())
    arguments = [sys.executable, "-W", "error", "-c", READ, path, imori.tree.to_json(NET), images, out]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    np.testing.assert_array_equal(np.load(out), imori.logits(native, random_images()))


@pytest.mark.parametrize("tree", [NET, TAPPED], ids=["net", "heads"])
def test_copies_stand_alone(tree: Tree) -> None:
    native, images = build(tree), random_images()
    logits = imori.logits(native, images)
    for twin in (native.copy("copy"), pickle.loads(pickle.dumps(native))):  # noqa: S301
        assert frameworks.of(twin) is framework
        np.testing.assert_array_equal(imori.logits(twin, images), logits)
        twin.fc.W.array[...] = 0
        assert not np.array_equal(imori.logits(twin, images), logits)
        np.testing.assert_array_equal(imori.logits(native, images), logits)


# --- the import -------------------------------------------------------------------------------------------------------

IMPORT = """
import sys
import numpy as np

ABSENT = {absent}

class Without:  # finds none of these, as a newer Python, NumPy and setuptools
    def find_spec(self, name, path=None, target=None):
        if name in ABSENT:
            raise ModuleNotFoundError(name)

for name in [name for name in sys.modules if name.startswith(ABSENT)]:
    del sys.modules[name]
vars(np).pop("distutils", None)
importlib_util = __import__("importlib.util").util
find = importlib_util.find_spec
importlib_util.find_spec = lambda name: None if name in ABSENT else find(name)
sys.meta_path.insert(0, Without())
from imori.frameworks.chainer import chainer

for name in ABSENT:
    assert name not in sys.modules and name.rpartition(".")[2] not in vars(np), "what was put there is left behind"
x = chainer.Variable(np.arange(6.0, dtype=np.float32))
y = chainer.functions.as_strided(x, (2, 3), (1, 1))
y.grad = np.ones((2, 3), np.float32)
y.backward()
print(x.grad)
"""


@pytest.mark.parametrize("absent", [(), ("numpy.distutils", "pkg_resources")], ids=["as-it-is", "newer"])
def test_it_is_imported_without_a_warning_and_its_gradients_work(absent: tuple[str, ...]) -> None:
    code = IMPORT.replace("{absent}", repr(absent))
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == "[1. 2. 2. 1. 0. 0.]"


def test_macos_asks_numpy_for_its_libraries() -> None:
    code = """
import sys
import numpy as np
from imori.frameworks.chainer.shims import SHIMS

for name in [name for name in sys.modules if name.startswith("numpy.distutils")]:
    del sys.modules[name]
with SHIMS["numpy.distutils"]():
    import numpy.distutils.system_info
    assert numpy.distutils.system_info.get_info("blas_opt") == {}
assert "distutils" not in vars(np)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
