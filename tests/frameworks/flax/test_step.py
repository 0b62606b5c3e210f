"""The training step: the loss, the optimizers' formulas, what trains and what stays, and what a key decides."""

from typing import Any

import jax
import numpy as np
import pytest

import imori
from imori import frameworks
from imori.errors import ImoriError, WeightsError
from imori.frameworks.base import Array, Setup, Weights
from imori.optimizers import SGD, Adam, AdamW, Optimizer, optimizer
from imori.shapes import Shape
from imori.tree import (
    Aux,
    BatchNorm,
    Chain,
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

SHAPE, CLASSES = (2, 6, 7), 3
DENSE = Chain(flatten=Flatten(), fc=Linear(CLASSES))
DROPPED = Chain(flatten=Flatten(), drop1=Dropout(0.4), drop2=Dropout(0.4), fc=Linear(CLASSES))
NET = Chain(
    conv1=Conv(6, 3, pad=1, bias=False),
    bn1=BatchNorm(),
    relu1=ReLU(),
    block=Sum(body=Chain(conv=Conv(6, 3, pad=1, bias=False), bn=BatchNorm(momentum=0.3)), shortcut=Identity()),
    aux=Aux(Chain(pool=GlobalAvgPool(), fc=Linear(CLASSES)), 0.3),
    pool=MaxPool(2),
    up=ConvTranspose(4, 3, 2, groups=2),
    flatten=Flatten(),
    fc=Linear(CLASSES),
)
OPTIMIZERS = {
    "sgd": optimizer("sgd", momentum=0.0, weight_decay=0.1),
    "sgd-nesterov-without-momentum": SGD(momentum=0.0, nesterov=True),
    "momentum": optimizer("momentum", momentum=0.8, weight_decay=0.1),
    "nesterov": optimizer("nesterov", weight_decay=0.1),
    "adagrad": optimizer("adagrad", weight_decay=0.1, eps=1e-3),
    "rmsprop": optimizer("rmsprop", weight_decay=0.1, alpha=0.9, eps=1e-3),
    "adam": optimizer("adam", weight_decay=0.1, beta1=0.8, beta2=0.95, eps=1e-3),
    "adamw": optimizer("adamw", weight_decay=0.1, eps=1e-3),
}


def batch(seed: int = 0, count: int = 5, shape: Shape = SHAPE) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    targets = rng.random((count, CLASSES))
    images = rng.standard_normal((count, *shape)) + 0.1
    return images, targets / targets.sum(axis=1, keepdims=True), rng.uniform(0.5, 1.5, count)


def trainable(native: Any) -> frozenset[str]:
    return frozenset(name for name in imori.dump_weights(native) if name.rpartition(".")[2] in ("weight", "bias"))


def build(tree: Tree = NET, dtype: str = "float64", weights: Weights | None = None, framework: str = "flax") -> Any:
    return imori.build(tree, SHAPE, framework, weights, dtype)


def prepare(native: Any, how: Optimizer | None = None, **choices: Any) -> Any:
    choices = {"trainable": trainable(native), "precision": "float64", **choices}
    return frameworks.of(native).prepare(native, Setup(how or SGD(), **choices))


def dumped(native: Any, step: Any) -> Weights:
    return {**imori.dump_weights(native), **step.state()}


def agree(ours: Weights, theirs: Weights, rtol: float, atol: float) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=rtol, atol=atol, err_msg=name)


# --- beside the other frameworks --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-4)])
@pytest.mark.parametrize("theirs", ["numpy", "torch"])
def test_steps_agree(theirs: str, dtype: str, tolerance: float) -> None:
    """Everything that a setup can say, at once: in float32 with one step less in which a kink could be crossed."""
    results = []
    for name in ("flax", theirs):
        native = build(dtype=dtype, framework=name)
        names = trainable(native)
        step = prepare(
            native,
            Adam(weight_decay=0.1, eps=1e-2),
            trainable=names - {"conv1.weight"},
            decayed=frozenset({"up.weight", "fc.weight"}),
            rates={"up.weight": 3.0, "fc.bias": 0.0},
            frozen=frozenset({"bn1"}),
            precision=dtype,
            clip=0.5,
        )
        losses, logits = zip(*(step(*batch(key), 0.02, key) for key in range(3)), strict=True)
        results.append({**dumped(native, step), "losses": np.array(losses), "logits": np.array(logits)})
    agree(*results, rtol=tolerance, atol=tolerance / 10)


@pytest.mark.parametrize("clip", [None, 0.2], ids=["whole", "clipped"])
@pytest.mark.parametrize("how", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_ten_steps_follow_the_formulas(how: Optimizer, clip: float | None) -> None:
    """As NumPy's do: the bias has a rate of its own and no decay, and the rate falls."""
    results = []
    for name in ("flax", "numpy"):
        native = build(DENSE, framework=name)
        step = prepare(native, how, decayed=frozenset({"fc.weight"}), rates={"fc.bias": 2.5}, clip=clip)
        for time in range(1, 11):
            step(*batch(time), 0.05 / time, time)
        results.append(dumped(native, step))
    assert results[0]["time"] == 10
    agree(*results, rtol=1e-10, atol=1e-13)


def test_adams_first_step_is_exact_in_float32_too() -> None:
    """1 - 0.999 in float32 is off by 1e-5 of itself; the step must not be."""
    moved = []
    for framework, dtype in (("flax", "float32"), ("numpy", "float64")):
        native = build(DENSE, dtype, framework=framework)
        before = imori.dump_weights(native)["fc.bias"].astype(float)
        prepare(native, Adam(), precision=dtype)(*batch(), 1.0, 0)
        moved.append(imori.dump_weights(native)["fc.bias"] - before)
    np.testing.assert_allclose(*moved, rtol=1e-6)


def test_a_sample_of_weight_0_does_not_count() -> None:
    images, targets, importance = batch()
    importance[3:] = 0
    one, other = build(DENSE), build(DENSE)
    prepare(one)(images, targets, importance, 0.1, key=0)
    prepare(other)(images[:3], targets[:3], importance[:3], 0.1, key=0)
    np.testing.assert_allclose(imori.dump_weights(one)["fc.weight"], imori.dump_weights(other)["fc.weight"], rtol=1e-12)


# --- what trains ------------------------------------------------------------------------------------------------------


def test_only_what_is_named_trains() -> None:
    native = build()
    names = frozenset({"fc.weight", "block.body.bn.bias"})
    before = imori.dump_weights(native)
    step = prepare(native, AdamW(weight_decay=0.5), trainable=names, decayed=trainable(native))
    for key in range(2):
        step(*batch(key), 0.1, key)
    after = imori.dump_weights(native)
    changed = {name for name in after if np.abs(after[name] - before[name]).max() > 0}
    assert changed == names | {f"{path}.{role}" for path in ("bn1", "block.body.bn") for role in ("mean", "var")}
    assert set(step.state()) == {f"{name}/{slot}" for name in names for slot in ("mean", "square")} | {"time"}


def test_a_frozen_batch_norm_runs_as_at_inference() -> None:
    native = build(Chain(conv=Conv(4, 1), bn=BatchNorm(), bn2=BatchNorm(), flatten=Flatten(), fc=Linear(CLASSES)))
    images, targets, importance = batch()
    before = imori.dump_weights(native)
    native.bn2.use_running_average = True  # the step does not ask in what mode the model is
    step = prepare(native, frozen=frozenset({"bn"}))
    step(images, targets, importance, 0.0, key=0)
    after = imori.dump_weights(native)
    for role in ("mean", "var"):
        np.testing.assert_array_equal(after[f"bn.{role}"], before[f"bn.{role}"])
        assert np.abs(after[f"bn2.{role}"] - before[f"bn2.{role}"]).max() > 0
    assert (native.bn.use_running_average, native.bn2.use_running_average) == (False, True)
    both = prepare(native, frozen=frozenset({"bn", "bn2"}))
    _, logits = both(images, targets, importance, 0.0, key=2)
    np.testing.assert_allclose(logits, imori.logits(native, images), rtol=1e-12)


# --- what a key decides, and going on ---------------------------------------------------------------------------------


def test_dropout_follows_the_key_alone() -> None:
    native = build(DROPPED)
    step, before = prepare(native), [np.array(v[...]) for v in (native.drop1.rngs.count, native.drop2.rngs.count)]
    logits = [step(*batch(), 0.0, key)[1] for key in (4, 5, 4, 2**63 - 1)]
    np.testing.assert_array_equal(logits[0], logits[2])
    assert not np.allclose(logits[0], logits[1])
    native.drop1(jax.numpy.ones(3))
    np.testing.assert_array_equal(step(*batch(), 0.0, 4)[1], logits[0])
    assert [int(v[...]) for v in (native.drop1.rngs.count, native.drop2.rngs.count)] == [int(before[0]) + 1, before[1]]


def test_two_dropouts_draw_apart() -> None:
    """Two masks that agree would keep a share of 0.6 of the values, two that do not 0.36."""
    tree = Chain(drop1=Dropout(0.4), drop2=Dropout(0.4), fc=Linear(1, bias=False))
    native = imori.build(tree, (20_000,), "flax", {"fc.weight": np.ones((1, 20_000))})
    _, logits = prepare(native)(np.ones((1, 20_000)), np.ones((1, 1)), np.ones(1), 0.0, key=3)
    assert logits[0, 0] * 0.36 / 20_000 == pytest.approx(0.36, abs=0.02)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_going_on_is_bit_identical(dtype: str) -> None:
    def steps(step: Any, first: int, last: int) -> list[float]:
        return [step(*batch(key), 0.05 / (key + 1), key)[0] for key in range(first, last)]

    tree = Chain(
        up=ConvTranspose(4, 3, 2, groups=2), bn=BatchNorm(), drop=Dropout(0.3), flatten=Flatten(), fc=Linear(3)
    )
    whole = build(tree, dtype)
    step = prepare(whole, Adam(), precision=dtype, clip=1.0)
    losses, state = steps(step, 0, 6), step.state()
    part = build(tree, dtype)
    step = prepare(part, Adam(), precision=dtype, clip=1.0)
    first = steps(step, 0, 3)
    held, memory = imori.dump_weights(part), step.state()
    imori.logits(part, batch()[0])
    part = build(tree, dtype, weights=held)
    step = prepare(part, Adam(), precision=dtype, clip=1.0)
    step.restore(memory)
    assert first + steps(step, 3, 6) == losses
    for name, value in imori.dump_weights(whole).items():
        np.testing.assert_array_equal(imori.dump_weights(part)[name], value, err_msg=name)
    assert list(step.state()) == list(state)
    for name, value in state.items():
        assert value.dtype == (np.int64 if name == "time" else dtype)
        np.testing.assert_array_equal(step.state()[name], value, err_msg=name)


@pytest.mark.parametrize("how", [OPTIMIZERS["sgd"], OPTIMIZERS["adam"]], ids=["sgd", "adam"])
def test_the_state_is_zero_at_first_and_a_copy(how: Optimizer) -> None:
    native = build(DENSE)
    step = prepare(native, how)
    start = step.state()
    assert start["time"] == 0
    assert not any(value.any() for value in start.values())
    shapes = {
        f"{name}/{slot}": imori.dump_weights(native)[name].shape for name in trainable(native) for slot in how.slots
    }
    assert {name: value.shape for name, value in start.items()} == {**shapes, "time": ()}
    step(*batch(), 0.1, key=0)
    assert not any(value.any() for value in start.values())
    for value in start.values():
        value.flags.writeable = False
    step.restore(start)
    step(*batch(), 0.1, key=1)
    assert step.state()["time"] == 1


def test_a_state_that_does_not_fit_is_refused() -> None:
    step = prepare(build(DENSE), Adam())
    state = prepare(build(DENSE), SGD()).state()
    with pytest.raises(WeightsError, match=r"optimizer's memory.*missing: fc\.weight/mean.*fc\.weight/velocity"):
        step.restore(state)


def test_a_step_is_compiled_once_for_each_shape() -> None:
    native = build(DENSE)
    step = prepare(native, Adam())
    for key in range(4):
        step(*batch(key), 0.1 / (key + 1), key)
        imori.logits(native, batch()[0])
        step.restore(step.state())
        frameworks.get("flax").load(native, imori.dump_weights(native))
    assert step._advance._cache_size() == 1
    step(*batch(count=3), 0.1, 0)
    assert step._advance._cache_size() == 2


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_single_value_for_a_batch_norm_is_refused() -> None:
    native = build(Chain(conv=Conv(4, (6, 7)), bn=BatchNorm(), pool=GlobalAvgPool(), fc=Linear(CLASSES)))
    with pytest.raises(ImoriError, match=r"a batch of 1 images 2×6×7 leaves it no more; use a larger batch"):
        prepare(native)(*batch(count=1), 0.1, key=0)


@pytest.mark.parametrize("spoiled", [0, 2], ids=["images", "weights"])
def test_a_loss_that_is_not_finite_changes_nothing(spoiled: int) -> None:
    native = build(Chain(bn=BatchNorm(), flatten=Flatten(), fc=Linear(CLASSES)))
    step = prepare(native, Adam())
    step(*batch(), 0.1, key=0)
    before, given = dumped(native, step), batch()
    given[spoiled].reshape(-1)[0] = np.inf
    loss, _ = step(*given, 0.1, key=1)
    assert not np.isfinite(loss)
    agree(dumped(native, step), before, rtol=0, atol=0)
    step(*batch(), 0.1, key=2)
    assert step.state()["time"] == 2


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"precision": "float32"}, "built in float64, not in 'float32'"),
        ({"world": 2}, "flax trains in one process, and there are 2"),
        ({"trainable": frozenset({"fc.wieght"})}, "no weight 'fc.wieght'"),
        ({"trainable": frozenset({"bn1.mean"})}, "bn1.mean is a running statistic"),
        ({"frozen": frozenset({"conv1"})}, "'conv1' is no batch norm"),
    ],
    ids=["precision", "world", "trainable", "statistic", "frozen"],
)
def test_a_setup_that_does_not_fit_is_refused(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(ImoriError) as error:
        prepare(build(), **choices)
    assert message in str(error.value)


def test_images_that_do_not_fit_are_refused() -> None:
    native = build()
    with pytest.raises(ImoriError, match=r"built for images 2×6×7 .* gets 2×7×7; flatten binds it"):
        prepare(native)(*batch(shape=(2, 7, 7)), 0.1, 0)
