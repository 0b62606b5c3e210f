"""What TensorFlow cannot do, seen in TensorFlow itself: each test is an entry of docs/limits.md."""

import copy
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

Error = tf.errors.OpError


def values(*shape: int, dtype: str = "float64") -> Any:
    return tf.constant(np.random.default_rng(0).standard_normal(shape), dtype)


def gradient(function: Callable[[Any], Any], x: Any) -> Any:
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return tape.gradient(y, x)


def test_gradient_of_groups() -> None:
    x = values(2, 5, 5, 4)
    with pytest.raises(Error, match="grouped convolutions are not supported"):
        gradient(lambda kernel: tf.nn.conv2d(x, kernel, 1, "VALID"), values(3, 3, 2, 4))


def test_gradient_of_dilation() -> None:
    x = values(2, 9, 9, 2)
    with pytest.raises(Error, match="dilation rates larger than 1"):
        gradient(lambda kernel: tf.nn.conv2d(x, kernel, 1, "VALID", dilations=2), values(3, 3, 2, 4))


def test_unequal_strides_of_depthwise() -> None:
    with pytest.raises(Error, match="equal length strides"):
        tf.nn.depthwise_conv2d(values(1, 6, 6, 2), values(3, 3, 2, 1), (1, 1, 2, 1), "VALID")


def test_lrn_in_float64() -> None:
    with pytest.raises(Error, match="double is not in the list of allowed values"):
        tf.nn.local_response_normalization(values(1, 3, 3, 5))


def test_fused_batch_norm_in_float64() -> None:
    each = tf.ones(4)
    with pytest.raises(Error, match="double is not in the list of allowed values"):
        tf.raw_ops.FusedBatchNormV3(x=values(1, 3, 3, 4), scale=each, offset=each, mean=each, variance=each)


PADS = [[0, 0], [0, 1], [1, 1], [0, 0]]


def test_padding_of_average_pools() -> None:
    with pytest.raises(TypeError, match="Expected string for argument 'padding'"):
        tf.nn.avg_pool2d(values(1, 4, 4, 1), 3, 2, PADS)


def test_padding_of_max_pools_under_xla() -> None:
    pool = tf.function(lambda x: tf.nn.max_pool2d(x, 3, 2, PADS), jit_compile=True, autograph=False)
    with pytest.raises(Error, match="does not support pooling ops with explicit padding"):
        pool(values(1, 4, 4, 1))


def test_leaky_slope_in_float32() -> None:
    slope = -tf.nn.leaky_relu(tf.constant([-1.0], "float64"), 0.1).numpy()[0]
    assert slope != 0.1
    assert slope == float(np.float32(0.1))


def test_gradient_at_a_limit() -> None:
    """It would be 0 at both ends, as that of `tf.nn.relu6` is."""
    at = tf.constant([0.0, 6.0])
    assert gradient(tf.nn.relu6, at).numpy().tolist() == [0, 0]
    assert gradient(lambda x: tf.minimum(tf.nn.relu(x), 6.0), at).numpy().tolist() == [0, 1]
    assert gradient(lambda x: tf.clip_by_value(x, 0.0, 6.0), at).numpy().tolist() == [1, 1]


def test_convolution_of_no_images() -> None:
    assert tf.nn.conv2d(tf.zeros((0, 5, 5, 2)), tf.zeros((3, 3, 2, 4)), 1, "VALID").shape == (0, 5, 5, 2)


def test_traced_functions_are_not_copied() -> None:
    function = tf.function(lambda x: x, input_signature=[tf.TensorSpec([])])
    copy.deepcopy(function)
    function(1.0)
    with pytest.raises(TypeError, match="FuncGraph"):
        copy.deepcopy(function)


def test_adaptive_pools() -> None:
    assert not [name for name in dir(tf.nn) if "adaptive" in name.lower()]


def test_short_floats_on_gpus() -> None:
    code = "import tensorflow as tf; print(tf.config.experimental.tensor_float_32_execution_enabled())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True\n", "unless it is turned off"


CRASHING = """
import tensorflow as tf

@tf.function(autograph=False)
def block(x):
    y = tf.nn.bias_add(tf.nn.conv2d(x, tf.ones((1, 1, 3, 5)), 1, "VALID"), tf.ones(5))
    return y + tf.pad(x, [[0, 0], [0, 0], [0, 0], [0, 2]])

block(tf.ones((2, 4, 4, 3)))
"""


def test_sum_of_a_convolution_and_a_pad() -> None:
    done = subprocess.run([sys.executable, "-c", CRASHING], capture_output=True, env=os.environ, check=False)
    assert done.returncode == -signal.SIGSEGV, done.stderr.decode()[-2000:]
