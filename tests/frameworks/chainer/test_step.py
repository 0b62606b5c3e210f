"""The training step, beside PyTorch's and NumPy's: what trains and what stays, and what a key decides."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import imori
from imori import frameworks
from imori.errors import ImoriError, WeightsError
from imori.frameworks.base import Array, Setup, Step, Weights
from imori.optimizers import SGD, Adam, AdamW, Optimizer, optimizer
from imori.shapes import Shape, resolve
from imori.tree import (
    Aux,
    BatchNorm,
    Chain,
    Conv,
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
from imori.weights import shapes_of

framework = pytest.importorskip("imori.frameworks.chainer", reason="chainer is not installed")
chainer = framework.chainer

Agree = Callable[[Weights, Weights, float], None]

SHAPE, CLASSES = (2, 6, 7), 3
DENSE = Chain(flatten=Flatten(), fc=Linear(CLASSES))
HEAD = Chain(pool=GlobalAvgPool(), fc=Linear(CLASSES))
NET = Chain(
    conv1=Conv(6, 3, pad=1, bias=False),
    bn1=BatchNorm(momentum=0.3),
    relu1=ReLU(),
    aux=Aux(HEAD, 0.3),
    block=Sum(body=Chain(conv=Depthwise(3, pad=1, bias=False), bn=BatchNorm()), shortcut=Identity()),
    pool=MaxPool(2),
    flatten=Flatten(),
    side=Aux(Linear(CLASSES), 0.7),
    fc=Linear(CLASSES),
)
THINNED = Chain(net=NET, drop=Dropout(0.4), last=Linear(CLASSES))


def random_weights(tree: Tree) -> Weights:
    """Every weight at random, statistics too."""
    rng = np.random.default_rng(4)
    return {
        name: rng.uniform(0.5, 1.5, size) if name.endswith("var") else rng.standard_normal(size) / 2
        for name, size in shapes_of(resolve(tree, SHAPE)).items()
    }


def batch(seed: int = 0, count: int = 5, shape: Shape = SHAPE) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    targets = rng.random((count, CLASSES))
    images = rng.standard_normal((count, *shape)) + 0.1
    return images, targets / targets.sum(axis=1, keepdims=True), rng.uniform(0.5, 1.5, count)


def build(tree: Tree = NET, dtype: str = "float64", name: str = "chainer") -> Any:
    return imori.build(tree, SHAPE, name, random_weights(tree), dtype)


def trainable(native: Any) -> frozenset[str]:
    return frozenset(name for name in imori.dump_weights(native) if name.rpartition(".")[2] in ("weight", "bias"))


def prepare(native: Any, how: Optimizer | None = None, **choices: Any) -> Step:
    choices = {"trainable": trainable(native), "precision": "float64", **choices}
    return frameworks.of(native).prepare(native, Setup(how or SGD(), **choices))


def changed(before: Weights, after: Weights) -> set[str]:
    return {name for name in before if not np.array_equal(before[name], after[name])}


# --- loss and optimizers ----------------------------------------------------------------------------------------------

NAMES = trainable(build(name="numpy"))
SETUPS: dict[str, dict[str, Any]] = {
    "sgd": {"how": SGD(momentum=0.0), "decayed": NAMES},
    "momentum": {"how": optimizer("momentum", weight_decay=0.1), "decayed": frozenset({"fc.weight", "conv1.weight"})},
    "nesterov": {"how": optimizer("nesterov", weight_decay=0.1), "decayed": NAMES},
    "adagrad": {"how": optimizer("adagrad", weight_decay=0.1, eps=1e-3), "decayed": NAMES},
    "rmsprop": {"how": optimizer("rmsprop", alpha=0.9, eps=1e-3)},
    "adam": {"how": optimizer("adam", weight_decay=0.1, beta1=0.8, eps=1e-3), "decayed": NAMES},
    "adamw": {"how": optimizer("adamw", weight_decay=0.1, eps=1e-3), "decayed": NAMES},
    "clip": {"clip": 0.05},
    "wide-clip": {"clip": 1e3},
    "frozen": {"frozen": frozenset({"bn1"})},
    "subset": {"trainable": frozenset({"block.body.bn.weight", "block.body.conv.weight", "fc.bias"})},
    "rates": {"rates": {"fc.weight": 0.1, "conv1.weight": 3.0}, "how": Adam(eps=1e-3)},
}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-9), ("float32", 1e-4)])
@pytest.mark.parametrize("other", ["torch", "numpy"])
@pytest.mark.parametrize("choices", SETUPS.values(), ids=SETUPS)
def test_steps_equal_those_of(agree: Agree, choices: dict[str, Any], other: str, dtype: str, tolerance: float) -> None:
    natives = [build(dtype=dtype), build(dtype=dtype, name=other)]
    steps = [prepare(native, **{"precision": dtype, **choices}) for native in natives]
    for time in range(4 if dtype == "float64" else 2):
        (loss, logits), (expected, reference) = (step(*batch(time), 0.1 / (time + 1), time) for step in steps)
        assert loss == pytest.approx(expected, rel=tolerance)
        agree({"logits": logits}, {"logits": reference}, tolerance)
    agree(*map(imori.dump_weights, natives), tolerance)
    agree(*(step.state() for step in steps), tolerance)
    assert changed(random_weights(NET), imori.dump_weights(natives[0])) >= choices.get("trainable", NAMES)


def test_a_sample_of_weight_0_does_not_count(agree: Agree) -> None:
    images, targets, importance = batch()
    importance[3:] = 0
    one, other = build(DENSE), build(DENSE)
    prepare(one)(images, targets, importance, 0.1, key=0)
    prepare(other)(images[:3], targets[:3], importance[:3], 0.1, key=0)
    agree(imori.dump_weights(one), imori.dump_weights(other), 1e-12)
    loss, _ = prepare(one)(images, targets, importance * 0, 0.1, key=0)
    assert loss == 0


# --- what trains ------------------------------------------------------------------------------------------------------


def test_only_what_is_named_trains() -> None:
    native = build()
    names = frozenset({"fc.weight", "block.body.bn.bias", "block.body.conv.weight"})
    before = imori.dump_weights(native)
    step = prepare(native, AdamW(weight_decay=0.5), trainable=names, decayed=trainable(native))
    for key in range(3):
        step(*batch(key), 0.1, key)
    statistics = {f"{path}.{role}" for path in ("bn1", "block.body.bn") for role in ("mean", "var")}
    after = imori.dump_weights(native)
    assert changed(before, after) == names | statistics
    assert set(step.state()) == {f"{name}/{slot}" for name in names for slot in ("mean", "square")} | {"time"}
    prepare(native)(*batch(), 0.1, 0)  # a later step may train more
    assert changed(after, imori.dump_weights(native)) == set(after)


def test_a_frozen_batch_norm_runs_as_at_inference() -> None:
    native = build(Chain(conv=Conv(4, 1), bn=BatchNorm(), bn2=BatchNorm(), flatten=Flatten(), fc=Linear(CLASSES)))
    before = imori.dump_weights(native)
    step = prepare(native, frozen=frozenset({"bn"}))
    for key in range(2):
        step(*batch(), 0.0, key)
    assert changed(before, imori.dump_weights(native)) == {"bn2.mean", "bn2.var"}
    expected = imori.logits(native, batch()[0])
    _, logits = prepare(native, frozen=frozenset({"bn", "bn2"}))(*batch(), 0.0, key=2)
    np.testing.assert_allclose(logits, expected, rtol=1e-12)
    assert chainer.config.train
    native(batch()[0])
    assert "bn.mean" in changed(before, imori.dump_weights(native)), "a step alone freezes, and nothing is left of it"


def test_the_users_gradients_and_settings_stay_as_they_are() -> None:
    native = build()
    gradient = native.fc.W.grad = np.ones_like(native.fc.W.array)
    with chainer.using_config("train", False), chainer.using_config("enable_backprop", False):
        prepare(native)(*batch(), 0.1, key=0)
        assert (chainer.config.train, chainer.config.enable_backprop) == (False, False)
    assert native.fc.W.grad is gradient
    assert (gradient == 1).all()
    assert native.fc.b.grad is None


# --- what a key decides, and going on ---------------------------------------------------------------------------------


def test_dropout_follows_the_key_alone() -> None:
    def logits(key: int) -> Array:
        return prepare(build(THINNED))(*batch(), 0.1, key)[1]

    state = np.random.get_state()[1].copy()
    first = logits(4)
    np.testing.assert_array_equal(np.random.get_state()[1], state)
    np.random.seed(1)
    np.testing.assert_array_equal(logits(4), first)
    assert not np.allclose(logits(5), first)
    assert not np.allclose(logits(2**62), logits(2**61))
    native = build(THINNED)
    prepare(native)(*batch(), 0.1, key=4)
    own = []
    for _ in range(2):
        np.random.seed(1)
        own.append(native(batch()[0])[0].array)
    np.testing.assert_array_equal(*own, "after a step, dropout is Chainer's own again")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("how", [SGD(), Adam()], ids=["sgd", "adam"])
def test_going_on_is_bit_identical(how: Optimizer, dtype: str) -> None:
    def steps(step: Step, first: int, last: int) -> list[float]:
        return [step(*batch(key), 0.05 / (key + 1), key)[0] for key in range(first, last)]

    whole, part = build(THINNED, dtype), build(THINNED, dtype)
    step = prepare(whole, how, precision=dtype, clip=1.0)
    losses, state = steps(step, 0, 6), step.state()
    step = prepare(part, how, precision=dtype, clip=1.0)
    first = steps(step, 0, 3)
    held, memory = imori.dump_weights(part), step.state()
    part = imori.build(THINNED, SHAPE, "chainer", held)
    step = prepare(part, how, precision=dtype, clip=1.0)
    step.restore(memory)
    assert first + steps(step, 3, 6) == losses
    assert changed(imori.dump_weights(whole), imori.dump_weights(part)) == set()
    assert list(step.state()) == list(state)
    assert changed(step.state(), state) == set()
    assert {str(value.dtype) for name, value in state.items() if name != "time"} == {dtype}


def test_the_state_is_zero_at_first_and_a_copy() -> None:
    native = build()
    step = prepare(native, Adam())
    start = step.state()
    assert start["time"] == 0
    assert start["time"].dtype == np.int64
    assert start["block.body.conv.weight/mean"].shape == (6, 1, 3, 3)
    assert not any(value.any() for value in start.values())
    step(*batch(), 0.1, key=0)
    assert not any(value.any() for value in start.values())
    step.restore(start)
    step(*batch(), 0.1, key=1)
    assert step.state()["time"] == 1
    with pytest.raises(WeightsError, match=r"optimizer's memory.*missing: .*/velocity.*unexpected: .*/mean"):
        prepare(build(), SGD()).restore(start)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [np.nan, np.inf], ids=str)
def test_a_loss_that_is_not_finite_changes_nothing(wrong: float) -> None:
    native = build()
    step, before = prepare(native), imori.dump_weights(native)
    images, targets, importance = batch()
    images[0, 0, 0, 0] = wrong
    loss, logits = step(images, targets, importance, 0.1, key=0)
    assert not np.isfinite(loss)
    assert not np.isfinite(logits[0]).all()
    assert changed(before, imori.dump_weights(native)) == set()
    assert step.state()["time"] == 0


@pytest.mark.parametrize("size", [SHAPE, (8,)], ids=["map", "flat"])
def test_a_single_value_for_a_batch_norm_is_refused(size: Shape) -> None:
    bn = Chain(conv=Conv(4, (6, 7)), bn=BatchNorm(), pool=GlobalAvgPool()) if len(size) == 3 else Chain(bn=BatchNorm())
    native = imori.build(Chain(bn=bn, fc=Linear(CLASSES)), size, "chainer")
    step = prepare(native, precision="float32")
    written = "×".join(map(str, size))
    with pytest.raises(ImoriError, match=rf"a batch of 1 images {written} leaves it no more; use a larger batch"):
        step(*batch(count=1, shape=size), 0.1, key=0)
    assert chainer.config.train
    step(*batch(count=2, shape=size), 0.1, key=0)
    prepare(native, precision="float32", frozen=frozenset({"bn.bn"}))(*batch(count=1, shape=size), 0.1, key=0)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"precision": "float32"}, "built in float64, not in 'float32'"),
        ({"world": 2}, "chainer trains in one process, and there are 2"),
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
