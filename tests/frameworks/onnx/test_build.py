"""The model that a tree becomes, its weights, and its life without any other framework."""

import subprocess
import sys

import numpy as np
import pytest

import imori
from imori import frameworks
from imori import tree as t
from imori.errors import ImoriError, TreeError, WeightsError
from imori.frameworks.base import Setup
from imori.frameworks.onnx import graph
from imori.optimizers import SGD
from imori.shapes import resolve
from imori.weights import initial_weights

NET = t.Chain(
    conv=t.Conv(4, 3, pad=(0, 2, 1, 0)),
    pool=t.MaxPool(3, 2, ceil=True),
    aux=t.Aux(t.Chain(gap=t.GlobalAvgPool(), fc=t.Linear(2))),
    grid=t.AdaptiveAvgPool((3, 2)),
    flatten=t.Flatten(),
    fc=t.Linear(2),
)
SHAPE = (3, 9, 8)


@pytest.mark.parametrize("shape", [(2, 3, 2), (2, 7, 5), (2, 12, 12)])
def test_an_adaptive_pool_follows_the_size(shape: tuple[int, int, int]) -> None:
    tree = t.Chain(conv=t.Conv(2, 1), pool=t.AdaptiveAvgPool((3, 5)))
    weights = initial_weights(tree, (2, 6, 6))
    images = np.random.default_rng(0).standard_normal((2, *shape)).astype("float32")
    ours, theirs = (imori.logits(imori.build(tree, (2, 6, 6), each, weights), images) for each in ("onnx", "numpy"))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


def test_images_that_do_not_fit_are_refused_in_our_words() -> None:
    native = imori.build(NET, SHAPE, "onnx")
    with pytest.raises(TreeError, match=r"built for images 3×9×8.*gets 3×9×9.*pool"):
        imori.logits(native, np.zeros((1, 3, 9, 9)))


def test_a_step_is_refused() -> None:
    native = imori.build(NET, SHAPE, "onnx")
    with pytest.raises(ImoriError, match=r"onnx predicts and does not train; train in another framework"):
        frameworks.get("onnx").prepare(native, Setup(SGD(), frozenset({"fc.weight"})))
    with pytest.raises(ImoriError, match=r"onnx predicts and does not train; train in one of torch, .*numpy"):
        imori.train("digits", model="lenet", framework="onnx")


def test_weights_are_taken_and_given() -> None:
    native = imori.build(NET, SHAPE, "onnx", seed=1)
    images = np.random.default_rng(0).standard_normal((2, *SHAPE))
    before = imori.logits(native, images)
    other = initial_weights(NET, SHAPE, seed=2)
    frameworks.get("onnx").load(native, other)
    assert all(np.array_equal(value, other[name]) for name, value in imori.dump_weights(native).items())
    again = imori.build(NET, SHAPE, "onnx", other)
    np.testing.assert_array_equal(imori.logits(native, images), imori.logits(again, images))
    assert not np.array_equal(imori.logits(native, images), before)
    with pytest.raises(WeightsError, match=r"missing: fc\.bias"):
        frameworks.get("onnx").load(native, {name: value for name, value in other.items() if name != "fc.bias"})


@pytest.mark.parametrize(("said", "threads"), [("1", 1), ("2,1", 2), ("", 0), ("all", 0)])
def test_threads_are_as_many_as_the_other_frameworks_take(
    said: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    native = imori.build(NET, SHAPE, "onnx")
    assert native.session.get_session_options().intra_op_num_threads == threads


def test_equal_models_are_equal_bytes() -> None:
    one, two = (imori.build(NET, SHAPE, "onnx", seed=1).proto.SerializeToString(deterministic=True) for _ in range(2))
    assert one == two


def test_a_network_that_no_file_holds_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graph, "MOST_BYTES", 500)
    with pytest.raises(WeightsError, match=r"holds 500 bytes of weights, and this network has [\d,]+; use"):
        imori.build(NET, SHAPE, "onnx")


def test_odd_layers_agree_with_numpy() -> None:
    """What ONNX Runtime refuses, or what comes to nothing."""
    for tree in (
        t.LRN(alpha=0.0, k=3.0),
        t.LRN(beta=0.0),
        t.PadChannels(3),
        t.Sum(t.Conv(2, 1)),
        t.Concat(t.Conv(2, 1)),
        t.Sum(t.Conv(2, 1), t.Conv(2, 1), t.Conv(2, 1)),
        t.Flatten(),
        t.ConvTranspose(2, 2, 3, pad=(3, 0, 0, 2)),
        t.MaxPool(2, 3, pad=(1, 1, 0, 1), ceil=True),
        t.AvgPool(3, 2, pad=(2, 0, 1, 2), ceil=True),
        t.Identity(),
    ):
        shape = (3, 7, 8)
        weights = initial_weights(tree, shape)
        images = np.random.default_rng(0).standard_normal((2, *shape)).astype("float32")
        ours, theirs = (imori.logits(imori.build(tree, shape, each, weights), images) for each in ("onnx", "numpy"))
        assert ours.shape == (2, *resolve(tree, shape).output)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6, err_msg=repr(tree))


def test_no_other_framework_is_imported() -> None:
    code = (
        "import sys, imori; imori.logits(imori.build(imori.model('lenet'), (3, 32, 32), 'onnx'),"
        " __import__('numpy').zeros((1, 3, 32, 32))); print(*sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"torch", "tensorflow", "keras", "jax", "flax", "chainer"} & set(done.stdout.split())
