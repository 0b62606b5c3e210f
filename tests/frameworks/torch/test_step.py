"""The training step: the loss, the optimizers' formulas, what trains and what stays, and what a key decides."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

import imori
from imori import frameworks
from imori.errors import ImoriError, WeightsError
from imori.frameworks.base import Array, Setup, Step, Weights
from imori.optimizers import SGD, Adam, AdamW, Optimizer, optimizer
from imori.shapes import Shape
from imori.tree import (
    Aux,
    BatchNorm,
    Chain,
    Conv,
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
NET = Chain(
    conv1=Conv(6, 3, pad=1, bias=False),
    bn1=BatchNorm(),
    relu1=ReLU(),
    block=Sum(body=Chain(conv=Conv(6, 3, pad=1, bias=False), bn=BatchNorm(momentum=0.3)), shortcut=Identity()),
    pool=MaxPool(2),
    drop=Dropout(0.4),
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


def build(tree: Tree = NET, dtype: str = "float64", weights: Weights | None = None) -> Any:
    return imori.build(tree, SHAPE, "torch", weights, dtype)


def prepare(native: Any, how: Optimizer | None = None, **choices: Any) -> Step:
    choices = {"trainable": trainable(native), "precision": "float64", **choices}
    return frameworks.get("torch").prepare(native, Setup(how or SGD(), **choices))


def softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def cross_entropy(logits: Array, targets: Array, weights: Array) -> float:
    each = -(targets * np.log(softmax(logits))).sum(axis=1)
    return float((weights * each).sum() / weights.sum())


# --- loss and optimizers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip", [None, 0.2], ids=["whole", "clipped"])
@pytest.mark.parametrize("how", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_ten_steps_follow_the_formulas(how: Optimizer, clip: float | None) -> None:
    """A dense layer's gradient by hand, then `Optimizer.update`; the bias has a rate of its own and no decay."""
    native = build(DENSE)
    step = prepare(native, how, decayed=frozenset({"fc.weight"}), rates={"fc.bias": 2.5}, clip=clip)
    weights = imori.dump_weights(native)
    slots = {name: {slot: np.zeros_like(value) for slot in how.slots} for name, value in weights.items()}
    for time in range(1, 11):
        images, targets, importance = batch(seed=time)
        x, rate = images.reshape(len(images), -1), 0.05 / time
        logits = x @ weights["fc.weight"].T + weights["fc.bias"]
        error = (softmax(logits) - targets) * (importance / importance.sum())[:, None]
        gradients = {"fc.weight": error.T @ x, "fc.bias": error.sum(axis=0)}
        norm = np.sqrt(sum((gradient**2).sum() for gradient in gradients.values()))
        scale = 1.0 if clip is None else min(clip / (norm + 1e-6), 1.0)
        assert clip is None or scale < 1
        loss, given = step(images, targets, importance, rate, key=time)
        assert loss == pytest.approx(cross_entropy(logits, targets, importance), rel=1e-12)
        np.testing.assert_allclose(given, logits, rtol=1e-10)
        for name in weights:
            own = rate * (2.5 if name == "fc.bias" else 1.0)
            weights[name], slots[name] = how.update(
                weights[name], gradients[name] * scale, slots[name], own, time, name == "fc.weight"
            )
    state = step.state()
    assert state.pop("time") == 10
    assert set(state) == {f"{name}/{slot}" for name in weights for slot in how.slots}
    for name, value in imori.dump_weights(native).items():
        np.testing.assert_allclose(value, weights[name], rtol=1e-10, atol=1e-13)
        for slot in how.slots:
            np.testing.assert_allclose(state[f"{name}/{slot}"], slots[name][slot], rtol=1e-10, atol=1e-13)


def test_heads_add_their_loss() -> None:
    head = Chain(flatten=Flatten(), fc=Linear(CLASSES))
    tree = Chain(aux1=Aux(head, 0.3), flatten=Flatten(), side=Aux(Linear(CLASSES), 0.7), fc=Linear(CLASSES))
    native = build(tree)
    images, targets, importance = batch()
    weights = imori.dump_weights(native)
    step = prepare(native, SGD(momentum=0.0))
    loss, logits = step(images, targets, importance, 0.1, key=0)
    flat, gradients = images.reshape(len(images), -1), {}
    expected = 0.0
    for path, share in (("fc", 1.0), ("aux1.fc", 0.3), ("side", 0.7)):
        out = flat @ weights[f"{path}.weight"].T + weights[f"{path}.bias"]
        expected += share * cross_entropy(out, targets, importance)
        error = share * (softmax(out) - targets) * (importance / importance.sum())[:, None]
        gradients[f"{path}.weight"] = error.T @ flat
    assert loss == pytest.approx(expected, rel=1e-12)
    np.testing.assert_allclose(logits, flat @ weights["fc.weight"].T + weights["fc.bias"], rtol=1e-10)
    for name, gradient in gradients.items():
        np.testing.assert_allclose(imori.dump_weights(native)[name], weights[name] - 0.1 * gradient, rtol=1e-10)


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
    for key in range(3):
        step(*batch(key), 0.1, key)
    after = imori.dump_weights(native)
    changed = {name for name in after if np.abs(after[name] - before[name]).max() > 0}
    statistics = {f"{path}.{role}" for path in ("bn1", "block.body.bn") for role in ("mean", "var")}
    assert changed == names | statistics
    assert {name for name, parameter in native.named_parameters() if parameter.requires_grad} == names
    assert set(step.state()) == {f"{name}/{slot}" for name in names for slot in ("mean", "square")} | {"time"}
    prepare(native)
    assert all(parameter.requires_grad for parameter in native.parameters())


def test_a_frozen_batch_norm_runs_as_at_inference() -> None:
    native = build(Chain(conv=Conv(4, 1), bn=BatchNorm(), bn2=BatchNorm(), flatten=Flatten(), fc=Linear(CLASSES)))
    images, targets, importance = batch()
    before = imori.dump_weights(native)
    native.bn2.eval()
    step = prepare(native, frozen=frozenset({"bn"}))
    for key in range(2):
        step(images, targets, importance, 0.0, key)
    after = imori.dump_weights(native)
    for role in ("mean", "var"):
        np.testing.assert_array_equal(after[f"bn.{role}"], before[f"bn.{role}"])
        assert np.abs(after[f"bn2.{role}"] - before[f"bn2.{role}"]).max() > 0
    both = prepare(native, frozen=frozenset({"bn", "bn2"}))
    _, logits = both(images, targets, importance, 0.0, key=2)
    np.testing.assert_allclose(logits, imori.logits(native, images), rtol=1e-12)


def test_the_rate_is_multiplied_by_name() -> None:
    moved = {}
    for factor in (1.0, 0.25, 0.0):
        native = build(DENSE)
        before = imori.dump_weights(native)
        prepare(native, rates={"fc.weight": factor})(*batch(), 0.1, key=0)
        moved[factor] = imori.dump_weights(native)["fc.weight"] - before["fc.weight"]
    np.testing.assert_allclose(moved[0.25], moved[1.0] / 4, rtol=1e-8)
    assert np.abs(moved[1.0]).max() > 0
    assert not moved[0.0].any()


# --- what a key decides, and going on ---------------------------------------------------------------------------------


def test_dropout_follows_the_key_alone() -> None:
    def logits(key: int) -> Array:
        return prepare(build())(*batch(), 0.1, key)[1]

    torch.manual_seed(1)
    first, state = logits(4), torch.get_rng_state()
    torch.rand(3)
    np.testing.assert_array_equal(logits(4), first)
    assert not np.allclose(logits(5), first)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state), "the user's own random numbers were used"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("how", [SGD(), Adam()], ids=["sgd", "adam"])
def test_going_on_is_bit_identical(how: Optimizer, dtype: str) -> None:
    def steps(step: Step, first: int, last: int) -> list[float]:
        return [step(*batch(key), 0.05 / (key + 1), key)[0] for key in range(first, last)]

    whole = build(dtype=dtype)
    step = prepare(whole, how, precision=dtype, clip=1.0)
    losses, state = steps(step, 0, 6), step.state()
    part = build(dtype=dtype)
    step = prepare(part, how, precision=dtype, clip=1.0)
    first = steps(step, 0, 3)
    held, memory = imori.dump_weights(part), step.state()
    imori.logits(part, batch()[0])
    part = build(dtype=dtype, weights=held)
    step = prepare(part, how, precision=dtype, clip=1.0)
    step.restore(memory)
    assert first + steps(step, 3, 6) == losses
    for name, value in imori.dump_weights(whole).items():
        np.testing.assert_array_equal(imori.dump_weights(part)[name], value, err_msg=name)
    assert list(step.state()) == list(state)
    for name, value in state.items():
        assert value.dtype == (np.int64 if name == "time" else dtype)
        np.testing.assert_array_equal(step.state()[name], value, err_msg=name)


@pytest.mark.parametrize("how", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_state_is_zero_at_first_and_a_copy(how: Optimizer) -> None:
    native = build()
    step = prepare(native, how)
    start = step.state()
    assert start["time"] == 0
    assert not any(value.any() for value in start.values())
    assert {name: value.shape for name, value in start.items()} == {
        **{
            f"{name}/{slot}": imori.dump_weights(native)[name].shape for name in trainable(native) for slot in how.slots
        },
        "time": (),
    }
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


def test_any_memory_layout_trains_alike() -> None:
    tree = Chain(
        conv=Conv(6, 3, bias=False), bn=BatchNorm(), relu=ReLU(), conv2=Conv(5, 2), flatten=Flatten(), fc=Linear(3)
    )
    after = []
    for layout in (torch.contiguous_format, torch.channels_last):
        native = build(tree).to(memory_format=layout)
        step = prepare(native, Adam())
        for key in range(3):
            step(*batch(key), 0.05, key)
            step.restore(step.state())
        after.append({**imori.dump_weights(native), **step.state()})
    usual, other = after
    for name, value in usual.items():
        np.testing.assert_allclose(other[name], value, rtol=1e-8, atol=1e-10, err_msg=name)


def test_float32_follows_float64() -> None:
    tree = Chain(conv=Conv(6, 3, pad=1), bn=BatchNorm(), relu=ReLU(), pool=GlobalAvgPool(), fc=Linear(CLASSES))
    dumped = {}
    for dtype in ("float32", "float64"):
        native = build(tree, dtype)
        step = prepare(native, precision=dtype)
        losses = [step(*batch(key), 0.1, key)[0] for key in range(4)]
        dumped[dtype] = {**imori.dump_weights(native), "loss": np.array(losses)}
    for name, value in dumped["float64"].items():
        np.testing.assert_allclose(dumped["float32"][name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_no_optimizer_imports_the_compiler() -> None:
    """It takes more than a second, and a head trains in less."""
    code = """
import sys, numpy, imori
from imori import frameworks, optimizers
from imori.frameworks.base import Setup
for name in ("sgd", "adagrad", "rmsprop", "adam"):
    native = imori.build(imori.model("lenet", 10, 1), (1, 28, 28), "torch")
    step = frameworks.of(native).prepare(native, Setup(optimizers.optimizer(name), frozenset({"fc3.weight"})))
    step(numpy.zeros((1, 1, 28, 28)), numpy.full((1, 10), 0.1), numpy.ones(1), 0.1, 0)
assert "torch._dynamo" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_single_value_for_a_batch_norm_is_refused() -> None:
    native = build(Chain(conv=Conv(4, (6, 7)), bn=BatchNorm(), pool=GlobalAvgPool(), fc=Linear(CLASSES)))
    with pytest.raises(ImoriError, match=r"a batch of 1 images 2×6×7 leaves it no more; use a larger batch"):
        prepare(native)(*batch(count=1), 0.1, key=0)


def test_other_value_errors_are_not_hidden() -> None:
    native = build(DENSE)

    def stop(*_: Any) -> None:
        raise ValueError("of the user's own hook")

    native.fc.register_forward_hook(stop)
    with pytest.raises(ValueError, match="of the user's own hook"):
        prepare(native)(*batch(), 0.1, key=0)


def test_a_loss_that_is_not_finite_changes_no_weight() -> None:
    native = build(DENSE)
    step, before = prepare(native), imori.dump_weights(native)
    images, targets, importance = batch()
    images[0, 0, 0, 0] = np.inf
    loss, logits = step(images, targets, importance, 0.1, key=0)
    assert not np.isfinite(loss)
    assert not np.isfinite(logits[0]).all()
    np.testing.assert_array_equal(imori.dump_weights(native)["fc.weight"], before["fc.weight"])
    assert step.state()["time"] == 0


def test_a_setup_that_does_not_fit_changes_nothing() -> None:
    native = build()
    with pytest.raises(ImoriError, match="'conv1' is no batch norm"):
        prepare(native, trainable=frozenset({"fc.weight"}), frozen=frozenset({"conv1"}))
    assert all(parameter.requires_grad for parameter in native.parameters())
