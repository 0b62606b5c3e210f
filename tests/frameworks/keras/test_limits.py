"""What Keras cannot do, or does otherwise, seen in Keras itself: each test is an entry of docs/limits.md.

What depends on the backend is seen in a fresh process on that one, with nothing of imori in it.
"""

import copy
import functools
import inspect
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers as k
from keras import ops

BEGIN = """
import keras, numpy as np
from keras import layers as k, ops

keras.config.set_floatx("float64")
keras.config.set_dtype_policy("float64")

def run(layer, x):
    inside = keras.Input(x.shape[1:], dtype="float64")
    return ops.convert_to_numpy(keras.Model(inside, layer(inside))(x))

def refuses(layer, x):
    try:
        run(layer, x)
    except Exception:
        return True

def single(y):
    return y.dtype == "float64" and np.array_equal(y, y.astype("float32"))

def draws(layer):
    import torch
    before = torch.get_rng_state()
    layer(np.ones(3), training=True)
    return not torch.equal(before, torch.get_rng_state())

x = np.random.default_rng(0).standard_normal((2, 5, 6, 3))
single_tenth = float(np.float32(0.1))
ramp = np.arange(16.0).reshape(1, 4, 4, 1)
"""
DOUBLE = (
    "single(run(k.BatchNormalization(), x)) and single(run(k.GlobalAveragePooling2D(), x))"
    " and not single(run(k.Conv2D(2, 3), x))"
)
CLAIMS = {
    "tensorflow": {
        "none": "k.Conv2D(4, 3, use_bias=False, dtype='float32')(np.zeros((0, 5, 5, 2))).shape == (0, 5, 5, 2)",
        "double": f"not ({DOUBLE})",
        "strides": "refuses(k.DepthwiseConv2D(3, (1, 2)), x)",
        "relu": "run(k.ReLU(1.1), np.full((1, 1), 2.0)) == float(np.float32(1.1))",
        "leaky": "run(k.LeakyReLU(0.1), np.full((1, 1), -1.0)) == -float(np.float32(0.1))",
        "average": "run(k.AveragePooling2D(3, 2, 'same'), ramp)[0, 1, 1, 0] == 12.5",
    },
    "jax": {"double": DOUBLE},
    "torch": {
        "double": DOUBLE,
        "dropout": "draws(k.Dropout(0.5)) and not draws(k.Dropout(0.5, seed=1))",
        "dots": "refuses(k.Dense(2, name='a.b'), np.ones((1, 2)))",
        "average": "np.allclose(run(k.AveragePooling2D(3, 2, 'same'), ramp)[0, 1, 1, 0], 13 + 1 / 3)",
        # As it is where the user has set nothing; last, for it changes the setting.
        "constants": "keras.config.set_floatx('float32') or run(lambda x: x * 0.1, np.ones((1, 1))) == single_tenth",
    },
}


@functools.cache
def seen(backend: str) -> set[str]:
    """The claims that are true on a backend, in float64 by every public setting that there is for it."""
    code = BEGIN + "".join(f"\nif {claim}:\n    print({name!r})" for name, claim in CLAIMS[backend].items())
    settings = {"KERAS_BACKEND": backend, "JAX_ENABLE_X64": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **settings},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return set(done.stdout.split())


@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_float64_beyond_tensorflow(backend: str) -> None:
    """What says that it is float64 has the values of float32; on TensorFlow it is what it says."""
    assert "double" in seen(backend)
    assert "double" in seen("tensorflow")


def test_convolution_of_no_images() -> None:
    assert "none" in seen("tensorflow")


def test_threads_on_jax() -> None:
    """Seen in the code: when the buffers are gone is a matter of chance."""
    trainer = Path(keras.__file__).parent / "src" / "backend" / "jax" / "trainer.py"
    predicting = trainer.read_text().partition("def make_predict_function")[2]
    assert "donate_argnums=0" in predicting.partition("def fit")[0]


def small(layer: Any) -> Any:
    inside = keras.Input((4, 4, 2))
    return keras.Model(inside, layer(inside))


def test_copies_are_loaded_files() -> None:
    model = small(k.ReLU())
    model.noted = object()
    for twin in (copy.copy(model), copy.deepcopy(model), keras.models.clone_model(model)):
        assert not hasattr(twin, "noted")


def test_operations_in_legacy_h5(tmp_path: Path) -> None:
    for name, layer in (("layer", k.ReLU()), ("operation", lambda x: ops.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))))):
        small(layer).save(tmp_path / f"{name}.h5")
    keras.saving.load_model(tmp_path / "layer.h5")
    with pytest.raises(ValueError, match="Unknown layer: 'Pad'"):
        keras.saving.load_model(tmp_path / "operation.h5")


def test_unequal_strides_of_depthwise() -> None:
    assert "strides" in seen("tensorflow")


def test_limits_and_slopes_in_float32() -> None:
    assert {"relu", "leaky"} <= seen("tensorflow")


def test_same_average_pools_on_torch() -> None:
    assert "average" in seen("tensorflow"), "the padding is not counted"
    assert "average" in seen("torch"), "the last row and column are counted twice"


def test_constants_on_torch() -> None:
    assert "constants" in seen("torch")


def test_dropout_on_torch() -> None:
    assert "dropout" in seen("torch")


def test_dots_in_names_on_torch() -> None:
    assert "dots" in seen("torch")


def test_sum_of_a_convolution_and_a_pad() -> None:
    code = (
        "import keras\n"
        "x = keras.Input((4, 4, 3))\n"
        "pads = ((0, 0), (0, 0), (0, 0), (0, 2))\n"
        "y = keras.layers.Add()([keras.layers.Conv2D(5, 1)(x), keras.ops.pad(x, pads)])\n"
        "keras.Model(x, y).predict_on_batch(keras.ops.ones((2, 4, 4, 3)))"
    )
    settings = {"KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, env={**os.environ, **settings}, check=False
    )
    assert done.returncode == -signal.SIGSEGV, done.stderr.decode()[-2000:]


def test_biased_running_variance() -> None:
    x = np.random.default_rng(0).standard_normal((2, 3, 3, 4)).astype("float32")
    norm = k.BatchNormalization(momentum=0.0)
    norm(x, training=True)
    variance = ops.convert_to_numpy(norm.moving_variance)
    assert np.abs(variance - x.var((0, 1, 2))).max() < 1e-5
    assert np.abs(variance - x.var((0, 1, 2), ddof=1)).max() > 1e-2


def test_batch_norm_of_one_value() -> None:
    """Its variance is 0, and its output the bias alone, whatever the value is."""
    y = k.BatchNormalization()(np.ones((1, 1, 1, 2), "float32"), training=True)
    assert not ops.convert_to_numpy(y).any()


def test_names_of_operations() -> None:
    keras.utils.clear_session()
    x = keras.Input((2,))
    y = ops.add(k.Dense(2, name="add")(x), 1)
    with pytest.raises(ValueError, match='The name "add" is used 2 times'):
        keras.Model(x, y)


def test_strides_with_dilation() -> None:
    with pytest.raises(ValueError, match="not supported in conjunction with"):
        k.Conv2D(2, 3, strides=2, dilation_rate=2)


def test_groups_of_transposed_convolutions() -> None:
    assert "groups" in inspect.signature(k.Conv2D.__init__).parameters
    assert "groups" not in inspect.signature(k.Conv2DTranspose.__init__).parameters


@pytest.mark.parametrize("layer", [k.Conv2D, k.Conv2DTranspose, k.MaxPooling2D, k.AveragePooling2D])
def test_padding_by_numbers(layer: Any) -> None:
    arguments = (2, 3) if "Conv" in layer.__name__ else (3,)
    with pytest.raises((ValueError, AttributeError), match=r"padding|lower"):
        layer(*arguments, padding=((1, 0), (0, 1)))(np.ones((1, 4, 4, 2), "float32"))


def test_slopes_below_0() -> None:
    with pytest.raises(ValueError, match="negative_slope"):
        k.LeakyReLU(-0.1)


def test_order_of_flatten() -> None:
    x = np.arange(8.0).reshape(1, 2, 2, 2)
    flat = k.Flatten(data_format="channels_first")(x)
    assert ops.convert_to_numpy(flat)[0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7], "channels go last"


def test_local_response_normalization() -> None:
    assert not [name for name in dir(k) if "response" in name.lower()]


def test_formulas_of_optimizers() -> None:
    """As PyTorch has them, the first two steps of momentum come to 0.119, and Adam's first to a half."""

    def stepped(optimizer: Any, gradient: float, rates: tuple[float, ...]) -> float:
        variable = keras.Variable([0.0])
        optimizer.build([variable])
        for rate in rates:
            optimizer.learning_rate = rate
            optimizer.apply([ops.ones(1) * gradient])
        return float(ops.convert_to_numpy(variable)[0])

    sgd = keras.optimizers.SGD(momentum=0.9)
    assert stepped(sgd, 1.0, (0.1, 0.01)) == pytest.approx(-0.2), "the velocity keeps the rate that it was made by"
    assert stepped(keras.optimizers.Adam(epsilon=1e-8), 1e-8, (1.0,)) == pytest.approx(-0.0307, abs=1e-3)


FULL_DISK = """
import resource, sys, h5py, numpy as np
resource.setrlimit(resource.RLIMIT_FSIZE, (9000, resource.RLIM_INFINITY))
try:
    with h5py.File(sys.argv[1], "w") as file:
        for i in range(20):
            file[f"{i}/a"] = np.zeros(100)
except Exception:
    print("caught", flush=True)
"""


def test_full_disk_in_hdf5(tmp_path: Path) -> None:
    pytest.importorskip("resource", reason="this system has no limits on files")
    done = subprocess.run([sys.executable, "-c", FULL_DISK, tmp_path / "a.h5"], capture_output=True, check=False)
    assert b"Exception ignored in" in done.stderr, "whether or not the process then crashes"
