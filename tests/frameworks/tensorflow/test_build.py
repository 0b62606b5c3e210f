"""The module that comes out: its names, variables and sizes, and its life without imori around it."""

import copy
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

import imori
from imori import frameworks
from imori.errors import ImoriError, TreeError, WeightsError
from imori.frameworks import tensorflow as framework
from imori.frameworks.tensorflow.modules import Block, Layer
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

SHAPE = (2, 6, 7)
NET = Chain(
    Conv(4, 3, pad=1, groups=2),
    BatchNorm(),
    ReLU(),
    block=Sum(body=Chain(conv=Conv(4, 3, pad=(0, 2, 1, 1), bias=False), bn=BatchNorm()), shortcut=Identity()),
    depthwise=Depthwise((3, 2), multiplier=3),
    up=ConvTranspose(6, (2, 3), groups=2),
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
    last=Aux(Linear(3), 0.4),
    fc=Linear(3),
)
FREE = Chain(conv=Conv(4, 3), bn=BatchNorm(), pool=GlobalAvgPool(), fc=Linear(3))


def random_images(shape: Shape = SHAPE, count: int = 3, seed: int = 1) -> Any:
    return np.random.default_rng(seed).standard_normal((count, *shape))


def last(images: Any) -> Any:
    """Channels last."""
    return np.ascontiguousarray(np.moveaxis(images, 1, -1))


def build(tree: Tree = NET, shape: Shape = SHAPE, dtype: str = "float64") -> Any:
    """With every weight random."""
    native = imori.build(tree, shape, "tensorflow", dtype=dtype)
    rng = np.random.default_rng(2)
    framework.load(native, {name: rng.uniform(0.2, 1, value.shape) for name, value in framework.dump(native).items()})
    return native


def fresh(code: str, **environment: str) -> str:
    """What a fresh process prints."""
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# --- names and weights ------------------------------------------------------------------------------------------------


def test_modules_and_variables_are_called_as_the_paths() -> None:
    native = build()
    assert isinstance(native, tf.Module)
    assert {variable.name: tuple(variable.shape) for variable in native.variables} == {
        "0/kernel:0": (3, 3, 1, 4),
        "0/bias:0": (4,),
        **{f"1/{name}:0": (4,) for name in ("gamma", "beta", "moving_mean", "moving_variance")},
        "block/body/conv/kernel:0": (3, 3, 4, 4),
        **{f"block/body/bn/{name}:0": (4,) for name in ("gamma", "beta", "moving_mean", "moving_variance")},
        "depthwise/kernel:0": (3, 2, 4, 3),
        "depthwise/bias:0": (12,),
        "up/kernel:0": (2, 3, 3, 12),
        "up/bias:0": (6,),
        "fc/kernel:0": (48, 3),
        "fc/bias:0": (3,),
    }
    statistics = {f"{path}/moving_{kind}:0" for path in ("1", "block/body/bn") for kind in ("mean", "variance")}
    assert {variable.name for variable in native.non_trainable_variables} == statistics
    assert native.block.body.conv.kernel.name == "block/body/conv/kernel:0"
    assert getattr(native, "1").gamma.dtype == tf.float64
    graph = tf.function(native).get_concrete_function(tf.TensorSpec((2, 6, 7, 2), tf.float64)).graph
    assert any(operation.name.startswith("block/body/conv/") for operation in graph.get_operations())


@pytest.mark.parametrize("tree", [NET, TAPPED], ids=["net", "heads"])
def test_dump_has_the_canonical_names_and_comes_back(tree: Tree) -> None:
    native = build(tree)
    weights = imori.dump_weights(native)
    assert list(weights) == list(imori.initial_weights(tree, SHAPE))
    again = imori.build(tree, SHAPE, "tensorflow", weights)
    for name, value in imori.dump_weights(again).items():
        assert value.flags.c_contiguous
        np.testing.assert_array_equal(value, weights[name])
    np.testing.assert_array_equal(imori.logits(again, random_images()), imori.logits(native, random_images()))


def test_dump_gives_copies_and_load_fills_the_same_variables() -> None:
    native = build()
    variable, images = native.fc.kernel, random_images()
    weights, logits = imori.dump_weights(native), imori.logits(native, images)
    for value in imori.dump_weights(native).values():
        value[:] = 7
    np.testing.assert_array_equal(imori.dump_weights(native)["fc.weight"], weights["fc.weight"])
    for value in weights.values():
        value.flags.writeable = False
    framework.load(native, {name: value * 2 for name, value in weights.items()})
    assert native.fc.kernel is variable
    np.testing.assert_array_equal(variable.numpy(), weights["fc.weight"].T * 2)
    framework.load(native, weights)
    np.testing.assert_array_equal(imori.logits(native, images), logits)


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


def test_names_hide_no_attribute_of_a_module() -> None:
    native = build(FREE)
    children = {name for name, _ in FREE.segments()}
    names = {name for name in dir(native) if re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name)} - children
    assert names - RESERVED - set(ROLES) == set()
    assert "signatures" in RESERVED  # which `tf.saved_model.save` keeps to itself


def test_a_lone_layer_is_a_child_by_its_kind() -> None:
    native = build(Conv(4, 3))
    assert tuple(native.conv.kernel.shape) == (3, 3, 2, 4)
    assert set(imori.dump_weights(native)) == {"weight", "bias"}


def test_a_lone_aux_is_no_network() -> None:
    with pytest.raises(TreeError, match="put it into a Chain"):
        imori.build(Aux(Chain(GlobalAvgPool(), Linear(2))), SHAPE, "tensorflow")


def test_building_draws_no_random_numbers() -> None:
    tf.random.set_seed(3)
    expected = tf.random.normal((2,)).numpy()
    tf.random.set_seed(3)
    build()
    np.testing.assert_array_equal(tf.random.normal((2,)).numpy(), expected)


# --- running ----------------------------------------------------------------------------------------------------------


def test_it_is_called_with_images_channels_last() -> None:
    native, images = build(), random_images()
    logits = imori.logits(native, images)
    assert logits.dtype == np.float64
    np.testing.assert_allclose(native(last(images)).numpy(), logits, rtol=1e-12)
    np.testing.assert_allclose(tf.function(native)(tf.constant(last(images))).numpy(), logits, rtol=1e-12)
    before = imori.dump_weights(native)["1.mean"]
    assert not np.allclose(native(last(images), training=True).numpy(), logits)
    assert not np.allclose(imori.dump_weights(native)["1.mean"], before)
    inner = native.block(tf.constant(random_images((6, 7, 4))))
    assert inner.shape == (3, 6, 7, 4)


def test_inference_changes_nothing() -> None:
    native, images = build(), random_images()
    kept, before, first = images.copy(), imori.dump_weights(native), imori.logits(native, images)
    np.testing.assert_array_equal(imori.logits(native, images), first)
    np.testing.assert_array_equal(images, kept)
    for name, value in imori.dump_weights(native).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.slow
@pytest.mark.parametrize("tree", [NET, TAPPED], ids=["net", "heads"])
def test_it_compiles_with_xla(tree: Tree) -> None:
    native, images = build(tree), random_images()
    compiled = tf.function(native, jit_compile=True)
    np.testing.assert_allclose(compiled(tf.constant(last(images))).numpy(), imori.logits(native, images), rtol=1e-10)
    compiled(tf.constant(last(images)), training=True)


def test_a_map_comes_back_channels_first() -> None:
    native, images = build(Chain(conv=Conv(4, 3))), random_images()
    logits = imori.logits(native, images)
    assert logits.shape == (3, 4, 4, 5)
    assert logits.flags.c_contiguous
    np.testing.assert_allclose(np.moveaxis(native(last(images)).numpy(), -1, 1), logits, rtol=1e-12)


def test_nothing_is_computed_in_short_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    native, seen = build(), []
    flag = tf.config.experimental.tensor_float_32_execution_enabled
    monkeypatch.setattr(native, "serve", lambda images: seen.append(flag()) or {"logits": tf.zeros((3, 3))})
    for allowed in (True, False):
        tf.config.experimental.enable_tensor_float_32_execution(allowed)
        imori.logits(native, random_images())
        assert flag() == allowed
    tf.config.experimental.enable_tensor_float_32_execution(True)
    assert seen == [False, False]


@pytest.mark.parametrize("name", ["cuda", "gpu", "gpu:0", "cpu:1", ""])
def test_a_device_that_is_not_here_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: [])
    with pytest.raises(ImoriError, match=rf"no device '{name}' here; it has cpu"):
        framework.device(name)
    assert framework.device("auto") == framework.device("cpu") == "cpu"


def test_auto_prefers_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: {"GPU": ["a", "b"]}[kind])
    assert framework.device("auto") == "gpu:0"
    assert framework.device("gpu:1") == "gpu:1"
    assert framework.device("cpu") == "cpu"
    with pytest.raises(ImoriError, match="gpu:2"):
        framework.device("gpu:2")


SECOND = """
import numpy as np
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)

import imori
from imori.frameworks import tensorflow as framework
from imori.frameworks.base import Setup
from imori.frameworks.tensorflow import step as module
from imori.optimizers import SGD
from imori.shapes import resolve
from imori.tree import Chain, Conv, GlobalAvgPool, Linear

seen, as_array = set(), framework.as_array
def spy(output):
    seen.add(output.device[-5:])
    return as_array(output)
framework.as_array = module.as_array = spy

tree, images = Chain(conv=Conv(3, 3), gap=GlobalAvgPool(), fc=Linear(2)), np.ones((2, 2, 6, 7))
weights = imori.initial_weights(tree, (2, 6, 7))
native = framework.build(resolve(tree, (2, 6, 7)), weights, "float32", "cpu:1")
imori.logits(native, images)
imori.outputs(native, images, ["conv"])
step = framework.prepare(native, Setup(SGD(), frozenset(weights)))
step(images, np.eye(2), np.ones(2), 0.1, 0)
seen |= {variable.device[-5:] for variable in (*native.variables, step._time, *step._slots["conv.weight"].values())}
print(*seen)
"""


@pytest.mark.slow
def test_all_is_computed_on_the_models_device() -> None:
    """On the second of two logical CPUs, which stands in for a GPU."""
    assert fresh(SECOND) == "CPU:1"


# --- sizes ------------------------------------------------------------------------------------------------------------


def test_another_size_is_refused_where_a_layer_depends_on_it() -> None:
    native = build()
    for training in (True, False):
        with pytest.raises(TreeError, match=r"^the network was built for images 2×6×7 .* gets 2×8×7; flatten binds it"):
            native(np.zeros((1, 8, 7, 2)), training=training)
    with pytest.raises(TreeError, match=r"takes images 2×6×7 .* gets 3×6×7"):
        imori.logits(native, random_images((3, 6, 7)))
    with pytest.raises(TreeError, match=r"in a batch, and gets 6×7"):
        imori.logits(native, random_images()[0])
    with pytest.raises(TreeError, match=r"Flatten binds it"):
        imori.logits(imori.build(Flatten(), SHAPE, "tensorflow"), random_images((2, 5, 7)))
    assert imori.logits(build(FREE), random_images((2, 9, 4))).shape == (3, 3)


def test_a_map_that_is_too_small_is_refused_by_the_layers_name() -> None:
    free = build(Chain(conv=Conv(4, 3), pool=MaxPool(2), gap=GlobalAvgPool(), fc=Linear(3)), (2, 16, 16))
    for _ in range(2):
        with pytest.raises(TreeError, match=r"^pool: a kernel of 2×2 does not fit into its input 4×1×7 "):
            free(np.zeros((2, 3, 9, 2)))
    assert free(np.zeros((2, 6, 9, 2))).shape == (2, 3)


def test_the_sizes_of_serving_are_free_where_no_layer_is_bound() -> None:
    for tree, expected in ((FREE, (None, None, None, 2)), (NET, (None, 6, 7, 2)), (TAPPED, (None, None, None, 2))):
        assert tuple(build(tree).serve.input_signature[0].shape) == expected
    assert tuple(build(Linear(3), (5,)).serve.input_signature[0].shape) == (None, 5)


# --- auxiliary heads --------------------------------------------------------------------------------------------------


def test_heads_answer_in_training_only() -> None:
    native, images = build(TAPPED), random_images()
    outputs = native(last(images), training=True)
    assert [tuple(out.shape) for out in outputs] == [(3, 3)] * 4
    w = imori.dump_weights(native)

    def conv1(name: str, x: Any) -> Any:
        return np.einsum("nchw,oc->nohw", x, w[f"{name}.weight"][:, :, 0, 0]) + w[f"{name}.bias"][:, None, None]

    def dense(name: str, features: Any) -> Any:
        return features @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    stem = imori.outputs(native, images, ["conv"])["conv"]
    inner = conv1("inner.a.0", stem)
    joined = np.concatenate([np.maximum(inner, 0), stem, stem], 1).mean((2, 3))
    expected = [
        dense("fc", joined),
        dense("inner.a.1.fc", inner.mean((2, 3))),
        dense("inner.side.fc", stem.reshape(3, -1)),
        dense("last", joined),
    ]
    for out, wanted in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(out.numpy(), wanted, rtol=1e-10)
    np.testing.assert_allclose(imori.logits(native, images), expected[0], rtol=1e-10)
    assert tf.is_tensor(native(last(images)))


def test_heads_bind_no_size_at_inference() -> None:
    native = build(TAPPED)
    assert imori.logits(native, random_images((2, 9, 5))).shape == (3, 3)
    with pytest.raises(TreeError, match=r"inner\.side\.flatten binds it"):
        native(last(random_images((2, 9, 5))), training=True)


# --- without imori around it ------------------------------------------------------------------------------------------

SERVE = """
import sys
import numpy as np
import tensorflow as tf
loaded = tf.saved_model.load({folder!r})
serve = loaded.signatures["serving_default"]
for i in range({count}):
    images = np.load({folder!r} + f"/images{{i}}.npy")
    np.save({folder!r} + f"/logits{{i}}.npy", serve(images=tf.constant(images))["logits"].numpy())
    np.testing.assert_array_equal(loaded.serve(images)["logits"], serve(images=tf.constant(images))["logits"])
assert not any(name.partition(".")[0] == "imori" for name in sys.modules)
"""


@pytest.mark.parametrize(
    ("tree", "dtype", "batches"),
    [
        (NET, "float32", [(1, 6, 7), (5, 6, 7)]),
        (TAPPED, "float64", [(2, 6, 7), (3, 9, 12)]),
    ],
    ids=["bound-float32", "free-float64"],
)
def test_a_saved_model_serves_where_imori_is_not(
    tree: Tree, dtype: str, batches: list[tuple[int, int, int]], tmp_path: Path
) -> None:
    native = build(tree, dtype=dtype)
    tf.saved_model.save(native, str(tmp_path))
    images = [random_images((2, *size), count).astype(dtype) for count, *size in batches]
    for i, batch in enumerate(images):
        np.save(tmp_path / f"images{i}.npy", last(batch))
    fresh(SERVE.format(folder=str(tmp_path), count=len(images)))
    for i, batch in enumerate(images):
        np.testing.assert_array_equal(np.load(tmp_path / f"logits{i}.npy"), imori.logits(native, batch))


def test_a_checkpoint_goes_by_the_names(tmp_path: Path) -> None:
    native, other = build(), imori.build(NET, SHAPE, "tensorflow", dtype="float64")
    path = tf.train.Checkpoint(model=native).write(str(tmp_path / "model"))
    assert "model/block/body/conv/kernel/.ATTRIBUTES/VARIABLE_VALUE" in dict(tf.train.list_variables(path))
    tf.train.Checkpoint(model=other).read(path).assert_consumed()
    for name, value in imori.dump_weights(native).items():
        np.testing.assert_array_equal(imori.dump_weights(other)[name], value)


def test_a_module_that_was_trained_elsewhere_is_still_ours() -> None:
    native, images = build(), tf.constant(last(random_images(count=8)))
    before, logits = imori.dump_weights(native), imori.logits(native, random_images())

    @tf.function
    def step() -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.reduce_logsumexp(native(images, training=True), 1))
        for variable, gradient in zip(
            native.trainable_variables, tape.gradient(loss, native.trainable_variables), strict=True
        ):
            variable.assign_sub(0.01 * gradient)

    for _ in range(2):
        step()
    after = imori.dump_weights(native)
    assert all(np.abs(after[name] - before[name]).max() > 0 for name in after)
    assert not np.allclose(imori.logits(native, random_images()), logits)
    again = imori.build(NET, SHAPE, "tensorflow", after)
    np.testing.assert_array_equal(imori.logits(again, random_images()), imori.logits(native, random_images()))


def test_a_copy_is_a_model_of_its_own() -> None:
    native, images = build(FREE), random_images()
    other, expected = copy.deepcopy(native), imori.logits(native, images)
    framework.load(native, {name: value * 2 for name, value in imori.dump_weights(native).items()})
    assert frameworks.of(other) is framework
    np.testing.assert_array_equal(imori.logits(other, images), expected)


# --- importing --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "expected"), [(None, "2"), ("0", "0\nloud")])
def test_the_log_is_quiet_unless_it_is_asked_for(given: str | None, expected: str, tmp_path: Path) -> None:
    stub = tmp_path / "tensorflow" / "__init__.py"
    stub.parent.mkdir()
    stub.write_text(
        "import os\nprint(os.environ['TF_CPP_MIN_LOG_LEVEL'], flush=True)\nos.write(2, b'loud')\nraise SystemExit(0)\n"
    )
    source = str(Path(imori.__file__).parents[1])
    path = os.pathsep.join([str(tmp_path), source])
    environment = {"PYTHONPATH": path, **({} if given is None else {"TF_CPP_MIN_LOG_LEVEL": given})}
    code = "import os, sys\nos.dup2(1, 2)\n" + (
        "os.environ.pop('TF_CPP_MIN_LOG_LEVEL', None)\n" if given is None else ""
    )
    assert fresh(code + "import imori.frameworks.tensorflow", **environment) == expected


def test_layers_and_blocks_are_tensorflows_modules() -> None:
    native = build(TAPPED)
    assert isinstance(native.inner, Block)
    assert all(isinstance(module, Layer) for module in native.submodules)
