"""What Chainer cannot do, or does otherwise, seen in Chainer itself: each test is an entry of docs/limits.md."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from imori.frameworks.chainer.shims import F, L, chainer


def values(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape)


def test_import_on_numpy_2() -> None:
    done = subprocess.run([sys.executable, "-c", "import chainer"], capture_output=True, text=True, check=False)
    assert "Error" in done.stderr.splitlines()[-1], done.stderr


def test_four_sided_padding() -> None:
    x, weight, pad = values(1, 2, 5, 5), values(2, 2, 3, 3), (1, 0, 1, 0)
    with pytest.raises(ValueError, match="too many values to unpack"):
        F.convolution_2d(x, weight, pad=pad)
    with pytest.raises(ValueError, match="too many values to unpack"):
        F.deconvolution_2d(x, weight, pad=pad)
    for pool in (F.max_pooling_2d, F.average_pooling_2d):
        with pytest.raises((AssertionError, ValueError)):
            pool(x, 3, 2, pad)


def test_depthwise_multiplier_first() -> None:
    """Channels 1 and 10, by 1 and 2, and by 3 and 4: the filters of a channel lie apart in the weight."""
    x = np.array([1.0, 10.0]).reshape(1, 2, 1, 1)
    y = F.depthwise_convolution_2d(x, np.arange(1.0, 5).reshape(2, 2, 1, 1))
    assert y.array.ravel().tolist() == [1, 3, 20, 40]


def test_dilation_of_depthwise() -> None:
    with pytest.raises(TypeError, match="dilate"):
        L.DepthwiseConvolution2D(2, 1, 3, dilate=2)


def test_average_pools_count_padding() -> None:
    assert F.average_pooling_2d(np.ones((1, 1, 2, 2)), 2, 2, 1).array.max() == 0.25


def test_max_pools_of_no_images() -> None:
    with pytest.raises(chainer.utils.type_check.InvalidType, match=r"size > 0"):
        F.max_pooling_2d(values(0, 2, 5, 5), 2)


def test_flatten_includes_the_batch() -> None:
    assert F.flatten(values(2, 3, 4, 4)).shape == (96,)


def test_pools_that_are_missing() -> None:
    assert not [name for name in dir(F) if "adaptive" in name or "global" in name]


def test_children_by_name() -> None:
    chain = chainer.Chain()
    with chain.init_scope():
        chain.second, chain.first = L.Linear(1, 1), L.Linear(1, 1)
    assert [link.name for link in chain.children()] == ["first", "second"]


def test_dropout_from_numpys_global_state() -> None:
    def dropped() -> Any:
        np.random.seed(5)
        with chainer.using_config("train", True):
            return F.dropout(np.ones((9, 9)), 0.5).array

    assert np.array_equal(dropped(), dropped())


def test_one_mode_for_all_links() -> None:
    with pytest.raises(TypeError, match=r"unexpected keyword argument.* 'train'"):
        L.BatchNormalization(2)(values(3, 2).astype("float32"), train=False)


def test_batch_norm_of_one_value() -> None:
    """Its variance is 0, and its output the bias alone, whatever the value is."""
    with chainer.using_config("train", True), pytest.warns(UserWarning, match="no more than one sample"):
        assert not L.BatchNormalization(2)(np.ones((1, 2), "float32")).array.any()


def test_formulas_of_optimizers() -> None:
    """As PyTorch has them, Nesterov's first step comes to 1.9, and Adam's to a half where the gradient is eps."""

    def stepped(optimizer: Any, gradient: float) -> float:
        link = chainer.Link()
        with link.init_scope():
            link.p = chainer.Parameter(np.zeros(1))
        optimizer.setup(link)
        link.p.grad = np.full(1, gradient)
        optimizer.update()
        return float(link.p.array[0])

    assert stepped(chainer.optimizers.NesterovAG(lr=1, momentum=0.9), 1.0) == pytest.approx(-2.71)
    assert stepped(chainer.optimizers.Adam(alpha=1, eps=1e-8), 1e-8) == pytest.approx(-0.0307, abs=1e-3)
