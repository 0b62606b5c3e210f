"""What Flax and JAX cannot do, or do otherwise, seen in them alone: each test is an entry of docs/limits.md."""

import inspect
import pickle
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx


def batch() -> jax.Array:
    return jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 3, 4)), "float32")


def test_biased_running_variance() -> None:
    x, norm = batch(), nnx.BatchNorm(4, momentum=0.0, rngs=nnx.Rngs(0))
    norm(x)
    assert np.abs(norm.var[...] - x.var((0, 1, 2))).max() < 1e-5
    assert np.abs(norm.var[...] - x.var((0, 1, 2), ddof=1)).max() > 1e-2


def test_batch_norm_of_one_value() -> None:
    """Its variance is 0, and its output the bias alone, whatever the value is."""
    assert not nnx.BatchNorm(4, rngs=nnx.Rngs(0))(jnp.ones((1, 1, 1, 4))).any()


def test_fast_variance() -> None:
    """An input far from 0 is normalised to other values than the same one nearby."""
    x = batch()
    near, far = (nnx.BatchNorm(4, rngs=nnx.Rngs(0))(x + mean) for mean in (0, 1000))
    assert np.abs(near - far).max() > 1e-2


def test_groups_of_transposed_convolutions() -> None:
    assert "feature_group_count" in inspect.signature(nnx.Conv.__init__).parameters
    assert "feature_group_count" not in inspect.signature(nnx.ConvTranspose.__init__).parameters


def test_float64_without_x64() -> None:
    assert jnp.asarray(np.ones(1, "float64")).dtype == "float32"
    with jax.enable_x64(True):
        assert jnp.asarray(np.ones(1, "float64")).dtype == "float64"


def test_gradient_at_a_limit() -> None:
    """It would be 0, as that of `nnx.relu6` is."""
    assert jax.grad(nnx.relu6)(6.0) == 0
    assert jax.grad(lambda x: jnp.minimum(nnx.relu(x), 6.0))(6.0) == 0.5
    assert jax.grad(lambda x: jnp.clip(x, 0.0, 6.0))(6.0) == 0.5


def test_gradient_of_leaky_relu_at_0() -> None:
    assert jax.grad(lambda x: nnx.leaky_relu(x, 0.2))(0.0) == 1


@pytest.mark.parametrize("counted", [True, False])
def test_average_pools_count_all_padding_or_none(counted: bool) -> None:
    """Padded by 1, and by 1 more below that a pool rounded up would not count: the means would be 2/3, 1 and 1/2."""
    ones = jnp.ones((1, 4, 1, 1))
    pooled = nnx.avg_pool(ones, (3, 1), (2, 1), ((1, 2), (0, 0)), count_include_pad=counted)
    assert pooled[0, :, 0, 0].tolist() == pytest.approx([2 / 3, 1, 1 / 3] if counted else [1, 1, 1])


def test_functions_are_not_pickled() -> None:
    with pytest.raises(pickle.PicklingError, match="not the same object"):
        pickle.dumps(nnx.relu)


def test_layers_that_are_missing() -> None:
    assert not [name for name in dir(nnx) if "adaptive" in name.lower() or "response" in name.lower()]


def test_time_of_a_whole_trace() -> None:
    """Eight times as many layers take more than eight times as long: each asks for its place among all before it."""

    def layers(count: int) -> nnx.List:
        return nnx.List([nnx.Conv(2, 2, (1, 1), rngs=nnx.Rngs(0)) for _ in range(count)])

    def seconds(count: int) -> float:
        began = time.process_time()
        nnx.eval_shape(lambda: layers(count))
        return time.process_time() - began

    seconds(40)  # what is compiled or imported at first
    assert seconds(320) > 12 * seconds(40)
