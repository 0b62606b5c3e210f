"""NumPy as a framework: building, loading, inference, and the step of training."""

import sys
import zlib
from typing import Any

import numpy as np
import pytest

import imori
from imori import engine, frameworks, optimizers
from imori.errors import ImoriError, TreeError, WeightsError
from imori.frameworks import numpy as numpy_framework
from imori.frameworks.base import Setup, Weights
from imori.optimizers import SGD, Adam, AdamW
from imori.shapes import Shape, resolve
from imori.tree import (
    Aux,
    AvgPool,
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
    PadChannels,
    ReLU,
    Subsample,
    Sum,
    Tree,
)
from imori.weights import shapes_of

INPUT = (2, 8, 7)
HEAD = Chain(pool=GlobalAvgPool(), fc=Linear(3))
NET = Chain(
    conv1=Conv(4, 3, pad=1, bias=False),
    bn1=BatchNorm(momentum=0.3),
    relu1=ReLU(),
    block=Sum(body=Chain(conv=Conv(4, 3, pad=1, bias=False), bn=BatchNorm()), shortcut=Identity()),
    aux=Aux(HEAD, 0.3),
    mixed=Concat(a=Conv(2, 1), b=Chain(pool=MaxPool(3, 1, 1), conv=Conv(3, 1))),
    pool=MaxPool(2),
    flatten=Flatten(),
    fc=Linear(3),
)


WORKERS = numpy_framework.workers
FACES = {"plain": ("plain", 1), "fast": ("fast", 1), "fast-two-workers": ("fast", 2)}
face = ""


@pytest.fixture(autouse=True, params=list(FACES.values()), ids=list(FACES))
def engine_of_the_tests(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test here runs on the plain engine, and on the fast one with one worker and with two."""
    name, workers = request.param
    monkeypatch.setattr(sys.modules[__name__], "face", name)
    monkeypatch.setattr(numpy_framework, "workers", lambda *_: workers)


def random_weights(tree: Tree, shape: Shape = INPUT, seed: int = 0, dtype: str = "float64") -> Weights:
    """Every weight at random, by its name, statistics too."""
    weights = {}
    for name, size in shapes_of(resolve(tree, shape)).items():
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        weights[name] = (rng.random(size) + 0.5 if name.endswith("var") else rng.standard_normal(size) / 2).astype(
            dtype
        )
    return weights


def build(tree: Tree = NET, shape: Shape = INPUT, dtype: str = "float64", weights: Weights | None = None) -> Any:
    return imori.build(tree, shape, "numpy", weights or random_weights(tree, shape), dtype, engine=face)


def images(shape: Shape = INPUT, count: int = 5, seed: int = 1) -> Any:
    return np.random.default_rng(seed).standard_normal((count, *shape))


def batch(seed: int = 1, count: int = 5, classes: int = 3) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    targets = rng.random((count, classes))
    return images(count=count, seed=seed), targets / targets.sum(axis=1, keepdims=True), rng.random(count) + 0.1


def trainable(weights: Weights) -> frozenset[str]:
    return frozenset(name for name in weights if name.rpartition(".")[2] in ("weight", "bias"))


def setup_of(**changed: Any) -> Setup:
    chosen = {"optimizer": SGD(momentum=0.0), "trainable": trainable(random_weights(NET)), "precision": "float64"}
    return Setup(**{**chosen, **changed})


def moved(before: Weights, after: Weights) -> set[str]:
    return {name for name in before if not np.array_equal(before[name], after[name])}


# --- building, loading, inference ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_weights_come_back_as_they_went_in(dtype: str) -> None:
    weights = random_weights(NET)
    given = {name: value.copy() for name, value in weights.items()}
    native = build(dtype=dtype, weights=given)
    for value in given.values():
        value += 1  # the network has copies
    dumped = imori.dump_weights(native)
    assert list(dumped) == list(weights)
    for name, value in weights.items():
        assert dumped[name].dtype == dtype
        assert np.array_equal(dumped[name], value.astype(dtype))
        dumped[name] += 1
    assert moved(imori.dump_weights(native), dumped) == set(weights), "what is dumped is a copy"
    assert imori.logits(native, images()).dtype == dtype


def test_loading_takes_the_place_of_every_weight() -> None:
    native, other = build(), random_weights(NET, seed=9)
    numpy_framework.load(native, other)
    assert moved(imori.dump_weights(native), other) == set()
    assert np.array_equal(imori.logits(native, images()), imori.logits(build(weights=other), images()))


def test_loading_is_strict() -> None:
    native, weights = build(), random_weights(NET)
    weights["extra.weight"] = weights.pop("bn1.var")
    weights["fc.bias"] = np.zeros((1, 3))
    before = imori.dump_weights(native)
    with pytest.raises(WeightsError, match=r"missing: bn1\.var; unexpected: extra\.weight; misshaped: fc\.bias is 1×3"):
        numpy_framework.load(native, weights)
    assert moved(before, imori.dump_weights(native)) == set()


def test_devices() -> None:
    assert numpy_framework.device("auto") == numpy_framework.device("cpu") == "cpu"
    with pytest.raises(ImoriError, match=r"no device 'cuda'.*cpu or auto"):
        numpy_framework.device("cuda")


def test_the_model_is_the_engines_own() -> None:
    native = build()
    assert type(native) is {"plain": engine.Network, "fast": engine.fast.FastNetwork}[face]
    assert numpy_framework.owns(native)
    assert not numpy_framework.owns(object())
    assert frameworks.of(native) is numpy_framework


def test_inference_leaves_the_model_as_it_was() -> None:
    native = build(Chain(NET, Dropout(0.5), Linear(3)))
    before, x = imori.dump_weights(native), images()
    given = x.copy()
    first = imori.logits(native, x)
    assert np.array_equal(first, imori.logits(native, x))
    assert np.array_equal(x, given)
    assert moved(before, imori.dump_weights(native)) == set()
    assert all(layer.recall() == () for layer in engine.every(native.body))
    one_by_one = np.concatenate([imori.logits(native, x[i : i + 1]) for i in range(len(x))])
    assert first == pytest.approx(one_by_one, rel=1e-12)


def test_no_images_have_no_logits() -> None:
    assert imori.logits(build(), images(count=0)).shape == (0, 3)


def test_an_aux_alone_is_no_network() -> None:
    with pytest.raises(TreeError, match="the root is an Aux"):
        build(Aux(HEAD))


# --- input sizes -----------------------------------------------------------------------------------------------------

FREE = Chain(
    conv=Conv(3, 3, 2, 1),
    pool=MaxPool(2),
    average=AvgPool(2, 1, 1),
    block=Sum(Chain(Conv(4, 1, 2)), Chain(Subsample(2), PadChannels(4))),
    up=ConvTranspose(2, 3, 2),
    gap=GlobalAvgPool(),
)


def test_a_network_without_fixed_parts_runs_at_any_size() -> None:
    native, weights = build(FREE, (2, 16, 16)), random_weights(FREE, (2, 16, 16))
    for size in ((16, 16), (20, 33), (9, 10), (5, 5)):
        there = build(FREE, (2, *size), weights=weights)
        assert np.array_equal(imori.logits(native, images((2, *size))), imori.logits(there, images((2, *size))))


def test_a_map_that_is_too_small_names_the_layer() -> None:
    with pytest.raises(TreeError, match=r"pool: a kernel of 2×2 does not fit into its input 3×1×1 \(C×H×W\)"):
        imori.logits(build(FREE, (2, 16, 16)), images((2, 2, 2)))


def test_other_channels_are_refused() -> None:
    with pytest.raises(TreeError, match=r"takes images 2×8×7 .* gets 3×8×7"):
        imori.logits(build(), images((3, 8, 7)))
    with pytest.raises(TreeError, match=r"takes images 2×8×7 .* gets 56"):
        imori.logits(build(), images((56,)))


SIZED: dict[str, Tree] = {
    "flatten": Chain(conv=Conv(2, 1), bound=Flatten(), fc=Linear(3)),
    "same": Chain(bound=Conv(3, 3, 2, "same"), gap=GlobalAvgPool()),
    "ceil": Chain(conv=Conv(3, 1), bound=MaxPool(3, 2, ceil=True), gap=GlobalAvgPool()),
    "uncounted": Chain(conv=Conv(3, 1), bound=AvgPool(3, 1, 1, count_include_pad=False), gap=GlobalAvgPool()),
}


@pytest.mark.parametrize("tree", list(SIZED.values()), ids=list(SIZED))
def test_a_network_bound_to_its_size_refuses_another(tree: Tree) -> None:
    native = build(tree, (2, 8, 8))
    assert imori.logits(native, images((2, 8, 8))).shape == (5, 3)
    with pytest.raises(TreeError, match=r"built for images 2×8×8 .* gets 2×8×9; bound binds it .* build it for 2×8×9"):
        imori.logits(native, images((2, 8, 9)))
    with pytest.raises(TreeError, match="Flatten binds it"):
        imori.logits(build(Flatten(), (2, 8, 8)), images((2, 8, 9)))


def test_a_head_binds_training_alone() -> None:
    head = Chain(pool=AvgPool(5, 1), flatten=Flatten(), fc=Linear(3))
    tree = Chain(Chain(conv=Conv(3, 1)), Aux(head), Chain(gap=GlobalAvgPool()))
    native = build(tree, (2, 8, 8))
    small = imori.logits(native, images((2, 4, 4)))  # too small for the head's pool
    conv = imori.dump_weights(native)
    expected = np.einsum("oc,nchw->no", conv["0.conv.weight"][:, :, 0, 0], images((2, 4, 4))) / 16
    assert small == pytest.approx(expected + conv["0.conv.bias"], rel=1e-12)
    step = numpy_framework.prepare(native, setup_of(trainable=frozenset({"0.conv.weight"})))
    _, targets, weights = batch()
    with pytest.raises(TreeError, match=r"1\.flatten binds it to that size"):
        step(images((2, 4, 4)), targets, weights, 0.1, 0)


# --- the step --------------------------------------------------------------------------------------------------------

NAMES = trainable(random_weights(NET))
SETUPS: dict[str, dict[str, Any]] = {
    "sgd": {},
    "momentum": {"optimizer": SGD(weight_decay=0.1), "decayed": frozenset({"fc.weight", "conv1.weight"})},
    "adamw": {"optimizer": AdamW(weight_decay=0.1), "decayed": NAMES},
    "clip": {"clip": 0.05},
    "wide-clip": {"clip": 1e3},
    "frozen": {"frozen": frozenset({"bn1"})},
    "subset": {"trainable": frozenset({"block.body.bn.weight", "fc.bias"})},
    "rates": {"rates": {"fc.weight": 0.1, "conv1.weight": 3.0}, "optimizer": Adam()},
}


@pytest.mark.parametrize("changed", list(SETUPS.values()), ids=list(SETUPS))
def test_three_steps_equal_torch(changed: dict[str, Any]) -> None:
    ours, theirs = build(), imori.build(NET, INPUT, "torch", random_weights(NET), "float64")
    steps = (
        numpy_framework.prepare(ours, setup_of(**changed)),
        frameworks.get("torch").prepare(theirs, setup_of(**changed)),
    )
    for i in range(3):
        (loss, logits), (expected, reference) = (step(*batch(i), 0.1 / (i + 1), i) for step in steps)
        assert loss == pytest.approx(expected, rel=1e-11)
        assert logits == pytest.approx(reference, rel=1e-9, abs=1e-10)
    reference = imori.dump_weights(theirs)
    for name, value in imori.dump_weights(ours).items():
        assert np.abs(value - reference[name]).max() <= 1e-9 * np.abs(reference[name]).max(), name
    states = [step.state() for step in steps]
    assert states[0].keys() == states[1].keys()
    for name, value in states[0].items():
        assert value == pytest.approx(states[1][name], rel=1e-8, abs=1e-12), name


def test_the_loss_is_the_formula() -> None:
    native, (x, targets, weights) = build(), batch()
    step = numpy_framework.prepare(native, setup_of())
    loss, logits = step(x, targets, weights, 0.0, 0)

    def cross_entropy(z: Any) -> float:
        each = np.log(np.exp(z).sum(axis=1)) - (targets * z).sum(axis=1)
        return float((weights * each).sum() / weights.sum())

    head = next(layer for layer in engine.every(native.body) if isinstance(layer, engine.Aux))
    assert loss == pytest.approx(cross_entropy(logits) + 0.3 * cross_entropy(head.logits), rel=1e-12)


def test_a_stopped_run_goes_on_bit_for_bit() -> None:
    tree = Chain(NET, Dropout(0.5), Linear(3))
    weights = random_weights(tree, dtype="float32")
    names = trainable(weights)

    def start(from_weights: Weights, state: Weights | None) -> tuple[Any, Any]:
        native = build(tree, dtype="float32", weights=from_weights)
        step = numpy_framework.prepare(native, Setup(Adam(), names))
        if state is not None:
            step.restore(state)
        return native, step

    native, step = start(weights, None)
    halfway: Any = None
    for i in range(6):
        if i == 3:
            halfway = imori.dump_weights(native), step.state()
        step(*batch(i), 0.01, i)
    again, resumed = start(*halfway)
    for i in range(3, 6):
        resumed(*batch(i), 0.01, i)
    assert moved(imori.dump_weights(native), imori.dump_weights(again)) == set()
    assert moved(step.state(), resumed.state()) == set()
    assert step.state()["time"] == 6
    assert step.state()["time"].dtype == np.int64
    assert {value.dtype for name, value in step.state().items() if name != "time"} == {np.dtype("float32")}


def test_a_state_is_a_copy_and_restoring_is_strict() -> None:
    step = numpy_framework.prepare(build(), setup_of(optimizer=Adam()))
    state = step.state()
    state["fc.weight/mean"] += 1
    assert not step.state()["fc.weight/mean"].any()
    other = numpy_framework.prepare(build(), setup_of(optimizer=SGD()))
    with pytest.raises(WeightsError, match=r"the optimizer's memory .*missing: .*/velocity.*unexpected: .*/mean"):
        other.restore(state)


def test_only_what_trains_moves() -> None:
    native = build()
    before = imori.dump_weights(native)
    chosen = frozenset({"block.body.conv.weight", "fc.bias"})
    step = numpy_framework.prepare(native, setup_of(trainable=chosen, frozen=frozenset({"bn1"})))
    step(*batch(), 0.1, 0)
    statistics = {"block.body.bn.mean", "block.body.bn.var"}
    assert moved(before, imori.dump_weights(native)) == chosen | statistics
    worked_out = {f"{path}.{role}" for path, layer in native.layers.items() for role in layer.gradients}
    assert worked_out == chosen, "no gradient is spent on what does not train"
    assert set(step.state()) == {"time"}
    everything = numpy_framework.prepare(native, setup_of())  # a later step may train more
    between = imori.dump_weights(native)
    everything(*batch(), 0.1, 0)
    assert moved(between, imori.dump_weights(native)) == set(before)


def test_frozen_batch_norms_run_as_at_inference() -> None:
    native = build()
    frozen = frozenset({"bn1", "block.body.bn"})
    expected = imori.logits(native, batch()[0])
    before = imori.dump_weights(native)
    _, logits = numpy_framework.prepare(native, setup_of(frozen=frozen))(*batch(), 0.1, 0)
    assert logits == pytest.approx(expected, rel=1e-12)
    assert moved(before, imori.dump_weights(native)) == NAMES


def test_clipping_bounds_the_whole_gradient() -> None:
    native = build()
    before = imori.dump_weights(native)
    numpy_framework.prepare(native, setup_of(clip=0.01))(*batch(), 1.0, 0)
    after = imori.dump_weights(native)
    length = np.sqrt(sum(((after[name] - before[name]) ** 2).sum() for name in NAMES))
    assert length == pytest.approx(0.01, rel=1e-3)


def test_rates_multiply() -> None:
    changes = []
    for rates in ({}, {"fc.weight": 0.25, "conv1.weight": 0.0}):
        native = build()
        before = imori.dump_weights(native)
        numpy_framework.prepare(native, setup_of(rates=rates))(*batch(), 0.1, 0)
        after = imori.dump_weights(native)
        changes.append({name: after[name] - before[name] for name in before})
    plain, scaled = changes
    assert scaled["fc.weight"] == pytest.approx(plain["fc.weight"] * 0.25, rel=1e-9)
    assert not scaled["conv1.weight"].any()
    assert np.array_equal(scaled["fc.bias"], plain["fc.bias"])


def test_the_head_steers_training_and_not_inference() -> None:
    without = Chain.of(tuple((name, Identity() if name == "aux" else child) for name, child in NET.children))
    weights = random_weights(NET)
    plain = {name: value for name, value in weights.items() if not name.startswith("aux.")}
    ours, theirs = build(), build(without, weights=plain)
    assert np.array_equal(imori.logits(ours, images()), imori.logits(theirs, images()))
    numpy_framework.prepare(ours, setup_of())(*batch(), 0.1, 0)
    numpy_framework.prepare(theirs, setup_of(trainable=trainable(plain)))(*batch(), 0.1, 0)
    after, reference = imori.dump_weights(ours), imori.dump_weights(theirs)
    different = {name for name in plain if not np.array_equal(after[name], reference[name])}
    before_it = {name for name in trainable(plain) if name.startswith(("conv1", "bn1", "block"))}
    assert different == before_it


def test_the_key_decides_the_dropout() -> None:
    tree = Chain(flatten=Flatten(), drop=Dropout(0.5), fc=Linear(3))
    losses = []
    for key in (4, 4, 5):
        step = numpy_framework.prepare(build(tree), setup_of(trainable=frozenset({"fc.weight"})))
        losses.append(step(*batch(), 0.1, key)[0])
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize("wrong", [np.nan, np.inf], ids=str)
def test_a_loss_that_is_no_number_trains_nothing(wrong: float) -> None:
    native = build()
    before, (x, targets, weights) = imori.dump_weights(native), batch()
    x[1, 0, 3, 3] = wrong
    step = numpy_framework.prepare(native, setup_of(optimizer=Adam()))
    loss, _ = step(x, targets, weights, 0.1, 0)
    assert not np.isfinite(loss)
    assert not moved(before, imori.dump_weights(native)) & NAMES
    assert step.state()["time"] == 0


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for chunk in (optimizers.CHUNK, 7):
        monkeypatch.setattr(optimizers, "CHUNK", chunk)
        native = build()
        step = numpy_framework.prepare(native, setup_of(optimizer=Adam(weight_decay=0.1), decayed=NAMES))
        for i in range(2):
            step(*batch(i), 0.1, i)
        results.append({**imori.dump_weights(native), **step.state()})
    assert moved(*results) == set()


def test_a_batch_norm_of_one_value_is_refused() -> None:
    tree = Chain(conv=Conv(3, (8, 7)), bn=BatchNorm(), flatten=Flatten())
    step = numpy_framework.prepare(build(tree), setup_of(trainable=frozenset({"conv.weight"})))
    with pytest.raises(ImoriError, match=r"a batch of 1 images 2×8×7 leaves it no more; use a larger batch"):
        step(*batch(count=1), 0.1, 0)


def blas_threads() -> set[int]:
    return {info["num_threads"] for info in numpy_framework._BLAS.info() if info["user_api"] == "blas"}


@pytest.mark.parametrize(("filters", "threads"), [(8, 1), (4096, None)], ids=["small", "large"])
def test_a_small_network_and_the_fast_engine_keep_to_one_thread_of_blas(
    filters: int, threads: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = Chain(conv1=Conv(filters, 3), pool1=GlobalAvgPool(), fc1=Linear(3))
    native = frameworks.build(tree, (3, 40, 40), "numpy", engine=face)
    before, seen = blas_threads(), set[int]()
    forward = native.forward

    def spy(images: np.ndarray, training: bool = False) -> np.ndarray:
        seen.update(blas_threads())
        return forward(images, training)

    monkeypatch.setattr(native, "forward", spy)
    frameworks.logits(native, np.random.default_rng(0).standard_normal((1, 3, 9, 8)))
    assert seen == ({threads} if threads else before if face == "plain" else {1})
    assert blas_threads() == before


def test_two_workers_share_a_batch_whose_layers_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numpy_framework, "workers", WORKERS)
    with numpy_framework._BLAS.limit(limits=2, user_api="blas"):
        quick, long = (
            imori.build(imori.model(name, 10, 1), (1, 28, 28), "numpy") for name in ("lenet", "deep_convnet")
        )
    sizes = (1, 10, 100, 1000)
    assert [native.workers(batch, False) for native in (quick, long) for batch in sizes] == [1, 1, 1, 2, 1, 1, 2, 2]
    assert [native.workers(batch, True) for native in (quick, long) for batch in sizes] == [1, 1, 2, 2, 1, 2, 2, 2]
    monkeypatch.setattr(numpy_framework, "GRADIENTS", 2**19)  # which the weights of one worker fill
    with numpy_framework._BLAS.limit(limits=2, user_api="blas"):
        heavy = imori.build(imori.model("deep_convnet", 10, 1), (1, 28, 28), "numpy")
    assert heavy.workers(1000, True) == 1
    for native, batch, workers in ((quick, 10, 1), (long, 100, 2)):
        native.learn(np.zeros((batch, 1, 28, 28)), np.eye(10)[[0] * batch], np.ones(batch))
        assert native._at_work == workers
