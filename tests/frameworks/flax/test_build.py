"""The module that comes out: its names, its weights, its modes and sizes, and its life without imori around it."""

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from flax import nnx

import imori
from imori import frameworks
from imori.errors import ImoriError, TreeError, WeightsError
from imori.frameworks import flax as framework
from imori.frameworks.base import Setup
from imori.frameworks.flax.layers import Combinator
from imori.optimizers import AdamW
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
BLOCK = Sum(body=Chain(conv=Conv(4, 3, pad=(0, 2, 1, 1), bias=False), bn=BatchNorm()), shortcut=Identity())
NET = Chain(
    Conv(4, 3, pad=1),
    BatchNorm(),
    ReLU(),
    block=BLOCK,
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
GROWN = Chain(
    up=ConvTranspose(4, 3, 2), ups=ConvTranspose(6, (3, 2), 2, groups=2, bias=False), pool=GlobalAvgPool(), fc=Linear(3)
)


def random_images(shape: Shape = SHAPE, count: int = 3, seed: int = 1) -> Any:
    return np.random.default_rng(seed).standard_normal((count, *shape))


def build(tree: Tree = NET, shape: Shape = SHAPE, dtype: str = "float64") -> Any:
    """With every weight random."""
    native = imori.build(tree, shape, "flax", dtype=dtype)
    rng = np.random.default_rng(2)
    framework.load(native, {name: rng.uniform(0.2, 1, value.shape) for name, value in framework.dump(native).items()})
    return native


def channels_last(images: Any, dtype: str = "float32") -> Any:
    return jnp.asarray(images.transpose(0, 2, 3, 1), dtype)


def aligned(array: Any) -> Any:
    """A copy at an address that JAX would read from without copying."""
    room = np.empty(array.size + 8, array.dtype)
    copied = room[-room.ctypes.data % 64 // array.itemsize :][: array.size].reshape(array.shape)
    copied[...] = array
    return copied


# --- names and weights ------------------------------------------------------------------------------------------------


def test_the_state_reads_as_the_canonical_names() -> None:
    native = build()
    paths = {".".join(path): type(v) for path, v in nnx.to_flat_state(nnx.state(native, nnx.Not(nnx.RngState)))}
    norms = ("1", "block.body.bn")
    assert paths == {
        **dict.fromkeys(("0.kernel", "0.bias", "block.body.conv.kernel", "fc.kernel", "fc.bias"), nnx.Param),
        **{f"{path}.{role}": nnx.Param for path in norms for role in ("scale", "bias")},
        **{f"{path}.{role}": nnx.BatchStat for path in norms for role in ("mean", "var")},
    }
    assert isinstance(native[0], nnx.Conv)
    assert native["block"].body.conv is native.block["body"]["conv"]
    assert isinstance(native[1], nnx.BatchNorm)
    assert native.fc.kernel.shape == (4 * 3 * 3, 3)


@pytest.mark.parametrize("tree", [NET, TAPPED, GROWN], ids=["net", "heads", "grown"])
def test_dump_has_the_canonical_names_and_comes_back(tree: Tree) -> None:
    native = build(tree)
    weights = imori.dump_weights(native)
    assert list(weights) == list(imori.initial_weights(tree, SHAPE))
    again = imori.build(tree, SHAPE, "flax", weights)
    for name, value in imori.dump_weights(again).items():
        assert value.flags.c_contiguous
        np.testing.assert_array_equal(value, weights[name])
    np.testing.assert_array_equal(imori.logits(again, random_images()), imori.logits(native, random_images()))


def test_dump_gives_copies_and_load_copies_too() -> None:
    native = build()
    variable, images = native.fc.kernel, random_images()
    weights, logits = imori.dump_weights(native), imori.logits(native, images)
    imori.dump_weights(native)["fc.bias"][:] = 7
    np.testing.assert_array_equal(imori.dump_weights(native)["fc.bias"], weights["fc.bias"])
    framework.load(native, {name: value * 2 for name, value in weights.items()})
    assert native.fc.kernel is variable
    np.testing.assert_array_equal(variable[...], weights["fc.weight"].T * 2)
    for value in weights.values():
        value.flags.writeable = False
    framework.load(native, weights)
    np.testing.assert_array_equal(imori.logits(native, images), logits)


def test_weights_that_are_changed_later_change_no_model() -> None:
    """JAX may read an array where it lies, if it is large and at such an address."""
    rng = np.random.default_rng(3)
    given = {role: aligned(rng.uniform(0.2, 1, 4096)) for role in ROLES}
    native = imori.build(BatchNorm(), (4096,), "flax", given)
    expected = {role: value.copy() for role, value in given.items()}
    for value in given.values():
        value[...] = 0
    for role, value in imori.dump_weights(native).items():
        np.testing.assert_array_equal(value, expected[role])


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
    native = build()
    made = {*dir(native), *dir(native.block)} - {"block", "drop", "pool", "flatten", "fc", "relu_0", "body", "shortcut"}
    names = {name for name in made if re.fullmatch("[A-Za-z][A-Za-z0-9_]*", name)}
    assert names - RESERVED - set(ROLES) == set()


def test_a_lone_aux_is_no_network() -> None:
    with pytest.raises(TreeError, match="put it into a Chain"):
        imori.build(Aux(Chain(GlobalAvgPool(), Linear(2))), SHAPE, "flax")


# --- running ----------------------------------------------------------------------------------------------------------


def test_logits_leave_the_modes_and_the_random_numbers_as_they_were() -> None:
    native = build()
    native.block.eval()
    before = nnx.state(native)
    images = random_images()
    logits = imori.logits(native, images)
    theirs = imori.build(NET, SHAPE, "numpy", imori.dump_weights(native))
    np.testing.assert_allclose(logits, imori.logits(theirs, images), rtol=1e-9)
    np.testing.assert_array_equal(imori.logits(native, images), logits)
    assert (native.block.body.bn.use_running_average, native[1].use_running_average) == (True, False)
    assert not native.drop.deterministic
    assert jax.tree.all(jax.tree.map(lambda one, other: bool((one == other).all()), before, nnx.state(native)))


def test_it_comes_in_training_mode_and_takes_images_channels_last() -> None:
    native = build(dtype="float32")
    images = random_images()
    once, twice = native(channels_last(images)), native(channels_last(images))
    assert not np.array_equal(once, twice), "dropout draws anew"
    native.train()
    native.eval()
    expected = imori.logits(native, images)
    np.testing.assert_allclose(native(channels_last(images)), expected, rtol=1e-5)
    viewed = nnx.view(build(TAPPED, dtype="float32"), deterministic=True)
    np.testing.assert_allclose(viewed(channels_last(images)), imori.logits(viewed, images), rtol=1e-5)


def test_inference_is_compiled_once_for_a_network_and_a_shape() -> None:
    one, other = nnx.graphdef(build()), nnx.graphdef(build())
    assert (one, hash(one)) == (other, hash(other))
    framework._infer.clear_cache()
    for native in (build(), build()):
        for count in (2, 2, 3):
            imori.logits(native, random_images(count=count))
    assert framework._infer._cache_size() == 2
    imori.logits(build(Chain(pool=GlobalAvgPool())), random_images())
    assert framework._infer._cache_size() == 3


@pytest.mark.parametrize("name", ["cuda", "gpu", "gpu:0", "tpu", "cpu:9", ""])
def test_a_device_that_is_not_here_is_refused(name: str) -> None:
    with pytest.raises(ImoriError, match=rf"no device '{name}' here; it has cpu"):
        framework.device(name)
    assert framework.device("cpu") == "cpu"


def test_auto_prefers_what_jax_prefers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(
        jax, "devices", lambda platform: [f"{platform}{i}" for i in range(2 if platform == "gpu" else 1)]
    )
    assert framework.device("auto") == "gpu"
    assert framework.device("gpu:1") == "gpu:1"
    with pytest.raises(ImoriError, match="it has gpu, gpu:0, gpu:1, cpu"):
        framework.device("gpu:2")


def test_another_size_is_refused_where_a_layer_depends_on_it() -> None:
    native = build(dtype="float32")
    for mode in (native.train, native.eval):
        mode()
        with pytest.raises(TreeError, match=r"built for images 2×6×7 .* gets 2×8×7; flatten .* \(N, H, W, C\)"):
            native(jnp.zeros((1, 8, 7, 2)))
    with pytest.raises(TreeError, match=r"takes images 2×6×7 .* gets 7×2×6; a Flax model itself"):
        native(jnp.zeros((1, 2, 6, 7)))
    with pytest.raises(TreeError, match=r"takes images 2×6×7 .* gets 3×6×7$"):
        imori.logits(native, random_images((3, 6, 7)))
    with pytest.raises(TreeError, match=r"in a batch, and gets 6×7$"):
        imori.logits(native, random_images()[0])
    free = build(Chain(conv=Conv(4, 3), pool=GlobalAvgPool(), fc=Linear(3)))
    assert imori.logits(free, random_images((2, 9, 4))).shape == (3, 3)
    with pytest.raises(TreeError, match="kernel of 3×3 does not fit"):
        imori.logits(free, random_images((2, 2, 4)))


# --- 64 bits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("enabled", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_jaxs_own_setting_is_neither_needed_nor_changed(dtype: str, enabled: bool) -> None:
    with jax.enable_x64(enabled):
        native = build(dtype=dtype)
        assert imori.logits(native, random_images()).dtype == dtype
        names = frozenset({"0.weight", "fc.weight"})
        step = frameworks.get("flax").prepare(native, Setup(AdamW(), names, precision=dtype))
        _, logits = step(random_images(), np.full((3, 3), 1 / 3), np.ones(3), 0.1, key=1)
        assert logits.dtype == dtype
        assert {str(value.dtype) for value in imori.dump_weights(native).values()} == {dtype}
        assert {str(value.dtype) for value in step.state().values()} == {dtype, "int64"}
        assert jnp.result_type(float) == ("float64" if enabled else "float32")


def test_a_float64_model_says_where_jax_has_no_float64() -> None:
    native, images = build(), random_images()
    native.eval()
    with pytest.raises(ImoriError, match=r"in float64, .* jax\.enable_x64\(True\)"):
        native(channels_last(images))
    with jax.enable_x64(True):
        np.testing.assert_allclose(native(channels_last(images, "float64")), imori.logits(native, images), rtol=1e-12)


def test_nothing_is_computed_in_short_floats(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(
        Combinator, "__call__", lambda self, x: seen.append(jax.config.jax_default_matmul_precision) or x
    )
    imori.logits(build(Chain(conv=Conv(3, 5), pool=GlobalAvgPool())), random_images())
    assert seen == ["highest"]
    assert jax.config.jax_default_matmul_precision is None


# --- auxiliary heads --------------------------------------------------------------------------------------------------


def test_heads_answer_in_training_only() -> None:
    native, images = build(TAPPED), random_images()
    theirs = imori.build(TAPPED, SHAPE, "torch", imori.dump_weights(native))
    with jax.enable_x64(True):
        outputs = native(channels_last(images, "float64"))
        native.eval()
        alone = native(channels_last(images, "float64"))

    expected = theirs(torch.tensor(images))
    assert len(outputs) == len(expected) == 4
    for out, wanted in zip(outputs, expected, strict=True):
        np.testing.assert_allclose(out, wanted.detach(), rtol=1e-10)
    np.testing.assert_allclose(alone, expected[0].detach(), rtol=1e-10)
    np.testing.assert_allclose(imori.logits(native, images), expected[0].detach(), rtol=1e-10)


def test_heads_bind_no_size_at_inference() -> None:
    native = build(TAPPED, dtype="float32")
    assert imori.logits(native, random_images((2, 9, 5))).shape == (3, 3)
    with pytest.raises(TreeError, match=r"inner\.side\.flatten binds it"):
        native(jnp.zeros((1, 9, 5, 2)))


# --- without imori around it ------------------------------------------------------------------------------------------


def trained_by_hand(native: Any, tx: Any, batches: list[tuple[Any, Any]]) -> None:
    optimizer = nnx.Optimizer(native, tx, wrt=nnx.Param)

    @nnx.jit
    def step(model: Any, optimizer: Any, images: Any, targets: Any) -> None:
        def loss(model: Any) -> Any:
            return optax.softmax_cross_entropy(model(images), targets).mean()

        optimizer.update(model, nnx.grad(loss)(model))

    for images, targets in batches:
        step(native, optimizer, channels_last(images, "float64"), jnp.asarray(targets))


def test_a_loop_by_hand_with_optax_does_what_our_step_does() -> None:
    tree = Chain(conv=Conv(4, 3), bn=BatchNorm(), relu=ReLU(), pool=GlobalAvgPool(), fc=Linear(3))
    by_hand, by_step = build(tree), build(tree)
    names = frozenset(name for name in imori.dump_weights(by_hand) if name.rpartition(".")[2] in ("weight", "bias"))
    setup = Setup(AdamW(weight_decay=0.1), names, decayed=names, precision="float64")
    step = frameworks.get("flax").prepare(by_step, setup)
    batches = [(random_images(seed=seed), np.eye(3)[[seed % 3, 1, 2]]) for seed in range(3)]
    for images, targets in batches:
        step(images, targets, np.ones(3), 0.05, key=0)
    with jax.enable_x64(True):
        trained_by_hand(by_hand, optax.adamw(0.05, weight_decay=0.1), batches)
    for name, value in imori.dump_weights(by_step).items():
        np.testing.assert_allclose(imori.dump_weights(by_hand)[name], value, rtol=1e-9, atol=1e-12, err_msg=name)


def test_split_merged_copied_and_restored_models_are_still_ours() -> None:
    native, images = build(), random_images()
    expected = imori.logits(native, images)
    graph, state = nnx.split(native)
    saved = nnx.to_pure_dict(nnx.state(native, nnx.Not(nnx.RngState)))
    other = imori.build(NET, SHAPE, "flax", dtype="float64", seed=5)
    assert np.abs(imori.logits(other, images) - expected).max() > 0.1
    rest = nnx.state(other, nnx.Not(nnx.RngState))
    nnx.replace_by_pure_dict(rest, saved)
    nnx.update(other, rest)
    for model in (nnx.merge(graph, state), nnx.clone(native), copy.deepcopy(native), other):
        assert frameworks.of(model) is framework
        np.testing.assert_array_equal(imori.logits(model, images), expected)
        assert list(imori.dump_weights(model)) == list(imori.dump_weights(native))


def test_a_step_changes_the_variables_that_the_user_holds() -> None:
    native = build()
    held, before = native.fc.kernel, native.fc.kernel[...]
    copied = np.array(before)
    step = frameworks.get("flax").prepare(native, Setup(AdamW(), frozenset({"fc.weight"}), precision="float64"))
    step(random_images(), np.full((3, 3), 1 / 3), np.ones(3), 0.1, key=1)
    assert native.fc.kernel is held
    assert not np.array_equal(held[...], copied)
    np.testing.assert_array_equal(before, copied)  # JAX's arrays never change, and none was given away


def test_a_fresh_process_gives_the_same_numbers(tmp_path: Path) -> None:
    native, images = build(), random_images()
    np.savez(tmp_path / "weights.npz", **imori.dump_weights(native))
    code = (
        "import sys, numpy as np, imori\n"
        "from tests_tree import NET\n"
        f"weights = dict(np.load({str(tmp_path / 'weights.npz')!r}))\n"
        f"native = imori.build(NET, {SHAPE}, 'flax', weights)\n"
        f"images = np.random.default_rng(1).standard_normal((3, *{SHAPE}))\n"
        f"np.save({str(tmp_path / 'logits.npy')!r}, imori.logits(native, images))\n"
        "assert 'torch' not in sys.modules\n"
    )
    (tmp_path / "tests_tree.py").write_text(f"from imori.tree import *\nNET = {NET!r}\n", encoding="utf-8")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), imori.logits(native, images))


def test_without_jax_the_extra_is_named() -> None:
    code = (
        "import sys\nsys.modules['jax'] = None\nimport imori\nfrom imori.errors import FrameworkMissing\n"
        "try:\n    imori.build(imori.model('lenet'), (1, 28, 28), 'flax')\n"
        "except FrameworkMissing as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "flax needs jax, which is not installed; install both by: pip install 'imori[flax]'"
