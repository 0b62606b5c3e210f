"""A Keras model is Keras's own: its layers, its names, its files, its training; and has imori's numbers."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

import imori
from imori import frameworks
from imori import tree as t
from imori.errors import ImoriError, TreeError
from imori.frameworks.base import Array, Setup, Weights
from imori.frameworks.keras import backend
from imori.optimizers import SGD
from imori.shapes import Shape, resolve
from imori.weights import shapes_of

SHAPE, CLASSES = (4, 12, 15), 3
HEAD = t.Chain(gap=t.GlobalAvgPool(), fc=t.Linear(CLASSES))
NET = t.Chain(
    conv=t.Conv(8, 3, stride=2, pad=1, groups=2, bias=False),
    bn=t.BatchNorm(),
    leaky=t.LeakyReLU(-0.3),
    mixed=t.Concat(
        dilated=t.Conv(4, 3, pad=2, dilation=2),
        pooled=t.Chain(pool=t.MaxPool(3, 1, pad=1), tanh=t.Tanh()),
        averaged=t.AvgPool(3, 1, pad=1, count_include_pad=False),
    ),
    lrn=t.LRN(size=3, alpha=0.5),
    seen=t.Select((3, 0, *range(4, 18))),
    aux=t.Aux(HEAD, 0.4),
    down=t.Sum(
        body=t.Chain(depthwise=t.Depthwise(3, 2, pad="same"), relu=t.ReLU(max=1.1), point=t.Conv(20, 1)),
        shortcut=t.Chain(sub=t.Subsample(2), pad=t.PadChannels(20)),
    ),
    up=t.ConvTranspose(6, 3, stride=2, pad=1, output_pad=1, groups=2),
    sigmoid=t.Sigmoid(),
    drop=t.Dropout(0.3),
    same=t.MaxPool(3, 2, pad="same"),
    identity=t.Identity(),
    ends=t.Concat(
        grid=t.Chain(pool=t.AdaptiveAvgPool((2, 1)), flatten=t.Flatten()),
        shares=t.Chain(softmax=t.Softmax(), gap=t.GlobalAvgPool()),
    ),
    fc=t.Linear(CLASSES),
)
"""Every kind of node. What is named after an operation of Keras's must not meet its name."""


def randomised(tree: t.Tree, shape: Shape = SHAPE, dtype: str = "float64") -> Weights:
    rng = np.random.default_rng(5)
    return {
        name: (rng.uniform(0.5, 1.5, size) if name.endswith("var") else rng.standard_normal(size) / 2).astype(dtype)
        for name, size in shapes_of(resolve(tree, shape)).items()
    }


def images(shape: Shape = SHAPE, count: int = 3) -> Array:
    return np.random.default_rng(6).standard_normal((count, *shape))


def build(tree: t.Tree = NET, shape: Shape = SHAPE, dtype: str = "float64") -> Any:
    return imori.build(tree, shape, "keras", randomised(tree, shape), dtype)


def channels_last(batch: Array, dtype: str = "float32") -> Array:
    return np.moveaxis(batch, 1, -1).astype(dtype)


def off(ours: Array, theirs: Array) -> float:
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def numpys(tree: t.Tree = NET, shape: Shape = SHAPE) -> Any:
    return imori.build(tree, shape, "numpy", randomised(tree, shape))


# --- the model is Keras's own -----------------------------------------------------------------------------------------


def test_the_net_has_every_kind() -> None:
    kinds = {type(node.layer).__name__ for node in imori.walk(NET, SHAPE)} | {"Chain", "Aux"}
    assert kinds == set(t.KINDS)


def test_the_layers_are_stock_and_called_by_their_paths() -> None:
    native = build()
    assert type(native).__module__.startswith("keras.")
    names = [operation.name for operation in native.operations]
    assert len(set(names)) == len(names)
    for operation in native.operations:
        assert type(operation).__module__.startswith("keras."), operation
        path = operation.name.replace("-", ".")
        assert any(f"{path}.".startswith(f"{node.path}.") for node in imori.walk(NET, SHAPE)) or path == "input", path
    assert isinstance(native.get_layer("down-body-depthwise"), keras.layers.DepthwiseConv2D)
    assert isinstance(native.get_layer("bn"), keras.layers.BatchNormalization)
    assert native.output.shape == (None, CLASSES)


def test_it_takes_channels_last_and_any_size_where_nothing_binds_it() -> None:
    free = t.Chain(conv=t.Conv(5, 3, 2, 1), pool=t.MaxPool(3, 2, 1), gap=t.GlobalAvgPool(), fc=t.Linear(CLASSES))
    native = build(free)
    assert native.input.shape == (None, None, None, 4)
    for shape in (SHAPE, (4, 17, 10)):
        expected = imori.logits(numpys(free), images(shape))
        assert off(imori.logits(native, images(shape)), expected) <= 1e-12
        # Keras itself may hand images on in float32.
        assert off(native.predict(channels_last(images(shape), "float64"), verbose=0), expected) <= 1e-6
    assert build().input.shape == (None, 12, 15, 4)
    with pytest.raises(TreeError, match=r"gets 4×12×16; .*binds it"):
        imori.logits(build(), images((4, 12, 16)))


def test_an_adaptive_pool_binds_the_model_to_its_size() -> None:
    tree = t.Chain(pool=t.AdaptiveAvgPool((2, 3)), flatten=t.Flatten())
    with pytest.raises(TreeError, match="pool binds it to that size"):
        imori.logits(build(tree), images((4, 9, 9)))


def test_a_head_is_no_part_of_the_model_but_of_what_is_dumped() -> None:
    native, weights = build(), randomised(NET)
    assert not [layer.name for layer in native.layers if layer.name.startswith("aux")]
    dumped = imori.dump_weights(native)
    assert list(dumped) == list(weights)
    assert all(np.array_equal(dumped[name], value) for name, value in weights.items())
    weights["aux.fc.weight"] += 1
    frameworks.get("keras").load(native, weights)
    assert np.array_equal(imori.dump_weights(native)["aux.fc.weight"], weights["aux.fc.weight"])


def test_a_heads_flatten_binds_training_alone() -> None:
    tree = t.Chain(t.Conv(2, 3), t.Aux(t.Chain(flatten=t.Flatten(), fc=t.Linear(CLASSES))), t.GlobalAvgPool())
    native = build(tree)
    assert off(imori.logits(native, images((4, 7, 9))), imori.logits(numpys(tree), images((4, 7, 9)))) <= 1e-12


def test_the_dtype_is_the_models_own() -> None:
    before = keras.config.floatx(), keras.config.dtype_policy().name
    native = build()
    assert {layer.compute_dtype for layer in native.layers if layer.name != "input"} == {"float64"}
    assert (keras.config.floatx(), keras.config.dtype_policy().name) == before == ("float32", "float32")


# --- numbers ----------------------------------------------------------------------------------------------------------

LAYERS: dict[str, t.Layer] = {
    "depthwise-multiplied": t.Depthwise(3, pad=1, multiplier=3),
    "depthwise-unequal-strides": t.Depthwise(3, (2, 1), pad=1, multiplier=2),
    "depthwise-dilated-strides": t.Depthwise((3, 2), 2, pad=(0, 2, 1, 0), dilation=(1, 2)),
    "conv-dilated-strides": t.Conv(6, 3, (2, 3), pad="same", dilation=2),
    "conv-same-strides": t.Conv(6, (4, 3), (3, 2), pad="same"),
    "conv-centred": t.Conv(6, (4, 5), pad=(1, 2, 2, 2)),
    "conv-grouped-strides": t.Conv(8, 3, 2, groups=4),
    "transpose-kernel-below-stride": t.ConvTranspose(6, (1, 2), stride=(3, 4), pad=(0, 0, 1, 0)),
    "transpose-grown": t.ConvTranspose(6, 2, stride=(3, 2), output_pad=(2, 1)),
    "transpose-grouped": t.ConvTranspose(6, 3, stride=2, pad=1, output_pad=1, groups=2),
    "max-wide-pad": t.MaxPool(3, 1, pad=2),
    "max-same": t.MaxPool((2, 3), 2, pad="same"),
    "max-ceil": t.MaxPool(2, 2, pad=(0, 1, 1, 0), ceil=True),
    "average-same": t.AvgPool((2, 3), 2, pad="same"),
    "average-ceil": t.AvgPool(3, 2, pad=1, ceil=True),
    "adaptive": t.AdaptiveAvgPool((5, 7)),
    "lrn": t.LRN(size=5, alpha=0.3, beta=0.6, k=1.3),
    "leaky-steep": t.LeakyReLU(1.7),
}


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_a_layer_and_its_gradients_are_numpys(layer: t.Layer) -> None:
    tree = t.Chain(before=t.Conv(4, 1), it=layer, flatten=t.Flatten(), fc=t.Linear(CLASSES))
    targets, weights = np.eye(CLASSES)[[1, 0, 2]], np.array([0.5, 1.0, 1.5])
    given = []
    for native in (build(tree), numpys(tree)):
        before = imori.dump_weights(native)
        setup = Setup(SGD(), frozenset(before), precision="float64")
        step = frameworks.of(native).prepare(native, setup)
        loss, logits = step(images(), targets, weights, 0.1, 0)
        assert off(imori.outputs(native, images(), [""])[""], imori.logits(native, images())) <= 1e-12
        given.append({"loss": np.array(loss), "logits": logits, **step.state()})
    for name, value in given[1].items():
        assert off(given[0][name], value) <= 1e-10, name


def test_float32_is_near_float64() -> None:
    expected = imori.logits(numpys(), images())
    assert off(imori.logits(build(dtype="float32"), images()), expected) <= 1e-5


# --- files ------------------------------------------------------------------------------------------------------------

READER = """
import sys
import keras, numpy as np
folder = sys.argv[1]
batch = np.load(folder + "/batch.npy")
model = keras.models.load_model(folder + "/net.keras")
first = model.predict(batch, verbose=0)
for variable in model.weights:
    variable.assign(variable * 0)
model.load_weights(folder + "/net.weights.h5")
np.savez(folder + "/read.npz", first=first, second=model.predict(batch, verbose=0))
assert not [name for name in sys.modules if name.startswith("imori")]
"""


@pytest.mark.parametrize("name", [name for name in ("tensorflow", "jax", "torch") if find_spec(name)])
def test_its_files_are_read_without_imori_on_every_backend(name: str, tmp_path: Path) -> None:
    native = build(dtype="float32")
    batch = channels_last(images())
    np.save(tmp_path / "batch.npy", batch)
    native.save(tmp_path / "net.keras")
    native.save_weights(tmp_path / "net.weights.h5")
    environment = {**os.environ, "KERAS_BACKEND": name, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-c", READER, str(tmp_path)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = native.predict(batch, verbose=0)
    with np.load(tmp_path / "read.npz") as read:
        for part in ("first", "second"):
            assert off(read[part], expected) <= (1e-6 if name == keras.config.backend() else 1e-5)
    assert off(expected, imori.logits(numpys(), images())) <= 1e-5


# --- Keras's own training ---------------------------------------------------------------------------------------------


def test_it_compiles_and_fits_and_stays_imoris() -> None:
    native = build(dtype="float32")
    rng = np.random.default_rng(0)
    labels = np.arange(24) % CLASSES
    batch = rng.standard_normal((24, 12, 15, 4)).astype("float32") / 4
    batch[np.arange(24), :, :, labels] += 1
    before = imori.dump_weights(native)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    native.compile(optimizer=keras.optimizers.Adam(0.01), loss=loss, metrics=["accuracy"])
    history = native.fit(batch, labels, batch_size=8, epochs=8, verbose=0).history["loss"]
    assert history[-1] < 0.8 * history[0]
    after = imori.dump_weights(native)
    assert {name for name in after if np.array_equal(after[name], before[name])} == {"aux.fc.weight", "aux.fc.bias"}
    expected = imori.build(NET, SHAPE, "numpy", after)
    nchw = np.moveaxis(batch, -1, 1)
    assert off(imori.logits(native, nchw), imori.logits(expected, nchw)) <= 1e-4


# --- backends and devices ---------------------------------------------------------------------------------------------


def fresh(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


HIDDEN = """
import sys
sys.modules |= dict.fromkeys({hidden})
from imori import errors, frameworks
try:
    frameworks.get("keras")
except errors.FrameworkMissing as error:
    print(error)
assert "keras" not in sys.modules, "nothing heavy is imported before the refusal"
"""


def test_a_backend_that_is_not_installed_is_named_before_keras_is_imported(tmp_path: Path) -> None:
    said = fresh(HIDDEN.format(hidden=["jax", "tensorflow"]), KERAS_BACKEND="jax")
    assert "the backend of keras is jax, which is not installed" in said
    assert "pip install 'imori[flax]', or set KERAS_BACKEND=torch" in said
    (tmp_path / "keras.json").write_text(json.dumps({"backend": "torch"}))
    said = fresh(HIDDEN.format(hidden=["torch"]), KERAS_BACKEND="", KERAS_HOME=str(tmp_path))
    assert "the backend of keras is torch" in said
    said = fresh(HIDDEN.format(hidden=["tensorflow"]), KERAS_BACKEND="", KERAS_HOME=str(tmp_path / "none"))
    assert "the backend of keras is tensorflow" in said
    assert "imori[keras]" in said


def test_a_backend_that_keras_does_not_know_is_named_with_those_that_it_knows() -> None:
    code = "from imori import errors, frameworks\ntry: frameworks.get('keras')\nexcept errors.ImoriError as e: print(e)"
    said = fresh(code, KERAS_BACKEND="nonsense")
    assert "nonsense; set KERAS_BACKEND, or the backend of keras.json, to one of tensorflow, jax, torch" in said


def test_float64_is_refused_where_keras_rounds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "DOUBLE", set())
    monkeypatch.setattr("imori.frameworks.keras.model.DOUBLE", set())
    with pytest.raises(ImoriError, match=r"in float32, whatever their dtype; use dtype='float32', or KERAS_BACKEND"):
        build()


def test_devices() -> None:
    assert backend.device("cpu") == "cpu"
    assert backend.device("auto") in ("cpu", "gpu:0", "tpu:0")
    with pytest.raises(ImoriError, match=f"no device 'cuda' here; on {keras.config.backend()} it has .*cpu"):
        backend.device("cuda")


def test_what_is_not_built_here_is_not_ours() -> None:
    native = build()
    assert backend.keras is keras
    assert not frameworks.get("keras").owns(keras.models.clone_model(native))
    with pytest.raises(ImoriError, match="is no model of"):
        imori.logits(keras.models.clone_model(native), images())
