"""The training step on Keras: what trains and what stays, what a key decides, and what a step leaves alone."""

from typing import Any

import keras
import numpy as np
import pytest

import imori
from imori import frameworks
from imori import tree as t
from imori.errors import ImoriError, WeightsError
from imori.frameworks.base import Array, Setup, Step
from imori.frameworks.keras.step import KerasStep
from imori.optimizers import SGD, Adam, AdamW, optimizer
from imori.shapes import resolve
from imori.weights import shapes_of

SHAPE, CLASSES = (2, 6, 7), 3
NET = t.Chain(
    conv1=t.Conv(6, 3, pad=1, bias=False),
    bn1=t.BatchNorm(),
    relu1=t.ReLU(),
    aux=t.Aux(t.Chain(gap=t.GlobalAvgPool(), fc=t.Linear(CLASSES)), 0.4),
    block=t.Sum(
        body=t.Chain(conv=t.Conv(6, 3, pad=1, bias=False), bn=t.BatchNorm(momentum=0.3)), shortcut=t.Identity()
    ),
    up=t.ConvTranspose(4, 2, groups=2),
    pool=t.MaxPool(2),
    flatten=t.Flatten(),
    fc=t.Linear(CLASSES),
)
DROPPING = t.Chain(flatten=t.Flatten(), drop=t.Dropout(0.5), hidden=t.Linear(9), drop2=t.Dropout(0.5), fc=t.Linear(3))
NAMES = frozenset(name for name in shapes_of(resolve(NET, SHAPE)) if name.endswith(("weight", "bias")))


def batch(seed: int = 0, count: int = 5) -> tuple[Array, Array, Array]:
    rng = np.random.default_rng(seed)
    targets = rng.random((count, CLASSES))
    images = rng.standard_normal((count, *SHAPE)) + 0.1
    return images, targets / targets.sum(axis=1, keepdims=True), rng.uniform(0.5, 1.5, count)


def build(tree: t.Tree = NET, framework: str = "keras", dtype: str = "float64") -> Any:
    rng = np.random.default_rng(5)
    weights = {
        name: rng.uniform(0.5, 1.5, size) if name.endswith("var") else rng.standard_normal(size) / 2
        for name, size in shapes_of(resolve(tree, SHAPE)).items()
    }
    return imori.build(tree, SHAPE, framework, weights, dtype)


def prepare(native: Any, **choices: Any) -> Step:
    names = frozenset(name for name in imori.dump_weights(native) if name.endswith(("weight", "bias")))
    setup = Setup(**{"optimizer": SGD(), "trainable": names, "precision": "float64", **choices})
    return frameworks.of(native).prepare(native, setup)


def agree(ours: dict[str, Array], theirs: dict[str, Array], tolerance: float) -> None:
    assert list(ours) == list(theirs)
    for name, value in theirs.items():
        assert np.abs(ours[name] - value).max() <= tolerance * max(np.abs(value).max(), 1e-3), name


SETUPS: dict[str, dict[str, Any]] = {
    "momentum": {"optimizer": SGD(weight_decay=0.1), "decayed": frozenset({"fc.weight", "up.weight"})},
    "sgd-clipped": {"optimizer": SGD(momentum=0.0), "clip": 0.05},
    "wide-clip": {"clip": 1e3},
    "frozen": {"frozen": frozenset({"bn1"})},
    "all-frozen": {"frozen": frozenset({"bn1", "block.body.bn"}), "optimizer": Adam()},
    "subset": {"trainable": frozenset({"block.body.bn.weight", "fc.bias", "up.bias"})},
    "rates": {"rates": {"fc.weight": 0.1, "conv1.weight": 3.0, "aux.fc.bias": 0.0}, "optimizer": Adam()},
    "adamw": {"optimizer": AdamW(weight_decay=0.3), "decayed": NAMES},
    "adagrad": {"optimizer": optimizer("adagrad", weight_decay=0.1), "decayed": NAMES},
    "rmsprop": {"optimizer": optimizer("rmsprop")},
    "nesterov": {"optimizer": optimizer("nesterov")},
}


@pytest.mark.parametrize("choices", SETUPS.values(), ids=SETUPS)
def test_three_steps_are_numpys(choices: dict[str, Any]) -> None:
    natives = build(), build(framework="numpy")
    steps = [prepare(native, **choices) for native in natives]
    for i in range(3):
        (loss, logits), (expected, reference) = (step(*batch(i, 5 - i // 2), 0.1 / (i + 1), i) for step in steps)
        assert loss == pytest.approx(expected, rel=1e-11)
        np.testing.assert_allclose(logits, reference, rtol=1e-9, atol=1e-11)
    agree(*(imori.dump_weights(native) for native in natives), 1e-9)
    agree(*(step.state() for step in steps), 1e-8)


@pytest.mark.parametrize("choices", SETUPS.values(), ids=SETUPS)
def test_float32_follows_float64(choices: dict[str, Any]) -> None:
    given = []
    for dtype in ("float32", "float64"):
        native = build(dtype=dtype)
        step = prepare(native, precision=dtype, **choices)
        losses = [step(*batch(i), 0.01, i)[0] for i in range(3)]
        given.append({**imori.dump_weights(native), "loss": np.array(losses)})
    agree(*given, 1e-4)


# --- what a step leaves alone -----------------------------------------------------------------------------------------


def test_the_models_own_flags_and_seeds_stay_and_do_not_matter() -> None:
    native, other = build(), build()
    native.trainable = False
    native.get_layer("bn1").trainable = True
    flags = [layer.trainable for layer in native.layers]
    for each in (native, other):
        prepare(each, frozen=frozenset({"bn1"}))(*batch(), 0.1, 0)
    assert [layer.trainable for layer in native.layers] == flags
    agree(imori.dump_weights(native), imori.dump_weights(other), 1e-12)
    dropping = build(DROPPING)
    seeds = [keras.ops.convert_to_numpy(v.value) for v in dropping.non_trainable_variables]
    state = keras.random.SeedGenerator(1).next()
    prepare(dropping)(*batch(), 0.1, 0)
    assert np.array_equal(keras.ops.convert_to_numpy(state), [1, 0])
    for before, variable in zip(seeds, dropping.non_trainable_variables, strict=True):
        assert np.array_equal(keras.ops.convert_to_numpy(variable.value), before)


@pytest.mark.parametrize("wrong", [np.nan, np.inf], ids=str)
def test_a_loss_that_is_not_finite_changes_nothing(wrong: float) -> None:
    native = build()
    step = prepare(native, optimizer=Adam())
    step(*batch(1), 0.1, 0)
    weights, state = imori.dump_weights(native), step.state()
    images, targets, importance = batch()
    images[0, 0, 0, 0] = wrong
    loss, logits = step(images, targets, importance, 0.1, key=0)
    assert not np.isfinite(loss)
    assert not np.isfinite(logits).all()
    for name, value in {**imori.dump_weights(native), **step.state()}.items():
        assert np.array_equal(value, {**weights, **state}[name]), name
    assert np.isfinite(step(*batch(), 0.1, key=0)[0]), "it goes on"


def test_it_is_traced_once_for_each_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = []
    forward = KerasStep._forward

    def spy(self: KerasStep, *arguments: Any) -> Any:
        traced.append(1)
        return forward(self, *arguments)

    monkeypatch.setattr(KerasStep, "_forward", spy)
    step = prepare(build(dtype="float32"), precision="float32")
    for i in range(4):
        step(*batch(i), 0.1 / (i + 1), key=i)
    step(*batch(count=3), 0.1, key=9)
    assert len(traced) == (5 if keras.config.backend() == "torch" else 2)


# --- what a key decides, and going on ---------------------------------------------------------------------------------


def test_dropout_follows_the_key_alone_and_differs_between_layers() -> None:
    def logits(key: int) -> Array:
        return prepare(build(DROPPING))(*batch(), 0.1, key)[1]

    first = logits(4)
    keras.utils.set_random_seed(3)
    np.testing.assert_array_equal(logits(4), first)
    assert not np.allclose(logits(5), first)
    assert not np.allclose(logits(4 + 2**62), first)
    twice = t.Chain(flatten=t.Flatten(), both=t.Concat(one=t.Dropout(0.5), two=t.Dropout(0.5)))
    native = imori.build(t.Chain(it=twice, fc=t.Linear(168)), SHAPE, "keras", dtype="float64")
    frameworks.get("keras").load(native, {"fc.weight": np.eye(168), "fc.bias": np.zeros(168)})
    targets = np.full((5, 168), 1 / 168)
    _, seen = prepare(native)(batch()[0], targets, np.ones(5), 0.0, 7)
    one, two = seen[:, :84] == 0, seen[:, 84:] == 0
    assert 0.4 < one.mean() < 0.6
    assert not np.array_equal(one, two)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_going_on_is_bit_identical(dtype: str) -> None:
    def prepared(weights: Any = None, state: Any = None) -> tuple[Any, Step]:
        native = build(DROPPING, dtype=dtype)
        if weights:
            frameworks.get("keras").load(native, weights)
        step = prepare(native, optimizer=Adam(), precision=dtype, clip=1.0)
        if state:
            step.restore(state)
        return native, step

    whole, step = prepared()
    for i in range(4):
        step(*batch(i), 0.05, i)
    part, first = prepared()
    for i in range(2):
        first(*batch(i), 0.05, i)
    part, second = prepared(imori.dump_weights(part), first.state())
    for i in range(2, 4):
        second(*batch(i), 0.05, i)
    ours, theirs = ({**imori.dump_weights(n), **s.state()} for n, s in ((part, second), (whole, step)))
    for name, value in theirs.items():
        assert value.dtype == (np.int64 if name == "time" else dtype)
        assert np.array_equal(ours[name], value), name


def test_a_state_that_does_not_fit_is_refused_and_one_that_is_given_is_a_copy() -> None:
    step = prepare(build(), optimizer=Adam())
    state = step.state()
    state["fc.weight/mean"] += 1
    assert not step.state()["fc.weight/mean"].any()
    with pytest.raises(WeightsError, match=r"the optimizer's memory .*missing: .*/velocity.*unexpected: .*/mean"):
        prepare(build()).restore(state)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_single_value_for_a_batch_norm_is_refused() -> None:
    tree = t.Chain(conv=t.Conv(4, (6, 7)), bn=t.BatchNorm(), gap=t.GlobalAvgPool(), fc=t.Linear(CLASSES))
    with pytest.raises(ImoriError, match=r"a batch of 1 images 2×6×7 leaves it no more; use a larger batch"):
        prepare(build(tree))(*batch(count=1), 0.1, key=0)
    prepare(build(tree), frozen=frozenset({"bn"}))(*batch(count=1), 0.1, key=0)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "precision": ({"precision": "float32"}, "built in float64, not in 'float32'"),
    "world": ({"world": 2}, "keras trains in one process, and there are 2"),
    "unknown": ({"trainable": frozenset({"fc.weights"})}, "no weight 'fc.weights'"),
    "statistic": ({"trainable": frozenset({"bn1.mean"})}, "bn1.mean is a running statistic"),
    "frozen": ({"frozen": frozenset({"fc"})}, "'fc' is no batch norm"),
}


@pytest.mark.parametrize(("choices", "message"), REFUSED.values(), ids=REFUSED)
def test_a_setup_that_does_not_fit_is_refused(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(ImoriError, match=message):
        prepare(build(), **choices)
