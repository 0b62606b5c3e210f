"""The networks of keras.applications, in every file that Keras saves of them, are read and give the same logits."""

import json
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

import imori
from imori.shapes import Shape

# Our name and width -> theirs, and the height and width of the images.
NETWORKS = {
    "mobilenet_v1": ("MobileNet", {}, 32),
    "mobilenet_v1-0.25": ("MobileNet", {"alpha": 0.25}, 64),
    "mobilenet_v2": ("MobileNetV2", {}, 64),
    "mobilenet_v2-1.3": ("MobileNetV2", {"alpha": 1.3}, 32),
    "xception": ("Xception", {}, 71),
    "densenet121": ("DenseNet121", {}, 32),
    "densenet169": ("DenseNet169", {}, 32),
    "densenet201": ("DenseNet201", {}, 32),
    "resnet50": ("ResNet50", {}, 32),
    "resnet101": ("ResNet101", {}, 32),
    "resnet152": ("ResNet152", {}, 32),
    "vgg16": ("VGG16", {}, 64),
    "vgg19": ("VGG19", {}, 64),
}
CLASSES = 5


@pytest.fixture
def in_float64() -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(before)


def randomised(name: str) -> Any:
    """Their network, of which every number is random, in a session that has numbered other layers before."""
    make, options, size = NETWORKS[name]
    for _ in range(9):
        keras.layers.Conv2D(1, 1)
        keras.layers.BatchNormalization()
    form = {"weights": None, "classifier_activation": None, "input_shape": (size, size, 3), "classes": CLASSES}
    model = getattr(keras.applications, make)(**form, **options)
    rng = np.random.default_rng(0)
    for variable in model.weights:
        fan = np.prod(variable.shape[:-2] if variable.shape[-1] == 1 else variable.shape[:-1])
        value = rng.standard_normal(variable.shape) * ((1.6 / fan) ** 0.5 if len(variable.shape) > 1 else 0.2)
        positive = variable.path.endswith(("gamma", "variance"))
        variable.assign(rng.uniform(0.5, 1.5, variable.shape) if positive else value)
    return model


def tree_of(name: str) -> imori.tree.Tree:
    name, _, width = name.partition("-")
    return imori.model(name, CLASSES, variant="keras", width=float(width) if width else None)


# --- the files --------------------------------------------------------------------------------------------------------


def save(model: Any, path: Path) -> None:
    model.save(path)


def save_weights(model: Any, path: Path) -> None:
    model.save_weights(path)


def save_legacy_weights(model: Any, path: Path) -> None:
    with h5py.File(path, "w") as file:
        save_weights_to_hdf5_group(file, model)


def without_names(save: Callable[[Any, Path], None]) -> Callable[[Any, Path], None]:
    """As Keras saved before it wrote the layers' names."""

    def saved(model: Any, path: Path) -> None:
        save(model, path)
        weights = path
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                config = archive.read("config.json")
                weights = Path(archive.extract("model.weights.h5", path.parent))
        with h5py.File(weights, "a") as file:
            groups: list[Any] = []
            file.visititems(lambda _, held: groups.append(held) if "name" in held.attrs else None)
            assert groups
            for group in groups:
                del group.attrs["name"]
        if path.suffix == ".keras":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("config.json", config)
                archive.write(weights, "model.weights.h5")
            weights.unlink()

    return saved


def in_keras_2(model: Any, path: Path) -> None:
    """As Keras 2 spelt it: a colon and a number after each name, depthwise kernels by their own name."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer.name.encode() for layer in model.layers]
        for layer in model.layers:
            group = file.create_group(layer.name)
            depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
            names = [
                f"{weight.path.replace('/kernel', '/depthwise_kernel') if depthwise else weight.path}:0"
                for weight in layer.weights
            ]
            group.attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, layer.weights, strict=True):
                group[name] = keras.ops.convert_to_numpy(weight)


FILES = {
    "a.keras": save,
    "a.weights.h5": save_weights,
    "a.h5": save,
    "older.keras": without_names(save),
    "older.weights.h5": without_names(save_weights),
    "weights-alone.h5": save_legacy_weights,
    "keras2.h5": in_keras_2,
}


@pytest.mark.usefixtures("in_float64")
@pytest.mark.parametrize(
    "name", [name if name == "mobilenet_v1-0.25" else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
)
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_the_logits_are_theirs_from_every_file(name: str, tmp_path: Path) -> None:
    theirs, tree, size = randomised(name), tree_of(name), NETWORKS[name][-1]
    shape = (3, size, size)
    first: dict[str, np.ndarray] = {}
    for file in ("a.keras", "a.h5", "older.weights.h5") if name.startswith("vgg") else FILES:  # VGG's have 300 MB
        FILES[file](theirs, tmp_path / file)
        weights = imori.read_weights(tmp_path / file, tree, "keras", shape)
        (tmp_path / file).unlink()
        first = first or weights
        assert all(value.dtype == "float64" and np.array_equal(value, first[own]) for own, value in weights.items()), (
            file
        )
    ours = imori.build(tree, shape, "keras", first)
    assert ours.count_params() == theirs.count_params()
    assert_same_logits(ours, theirs, shape, 1e-9)


def assert_same_logits(ours: Any, theirs: Any, shape: Shape, tolerance: float) -> None:
    images = np.random.default_rng(1).standard_normal((2, *shape), dtype=np.float32)  # which is what their Input takes
    expected = keras.ops.convert_to_numpy(theirs(images.transpose(0, 2, 3, 1), training=False))
    assert np.abs(expected).max() > 0.1
    assert np.abs(imori.logits(ours, images.astype(ours.dtype)) - expected).max() <= tolerance * np.abs(expected).max()


# --- published weights ------------------------------------------------------------------------------------------------

PUBLISHED = {
    "mobilenet_0.25_128": ("mobilenet_v1", 0.25),
    "mobilenet_0.5_160": ("mobilenet_v1", 0.5),
    "mobilenet_v2_1.0_224": ("mobilenet_v2", 1.0),
}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("float64", 1e-9)])
@pytest.mark.parametrize("name", PUBLISHED)
def test_published_weights_give_theirs_too(
    data_root: Path, in_float64: None, name: str, dtype: str, tolerance: float
) -> None:
    model, width = PUBLISHED[name]
    size = int(name.rpartition("_")[2])
    path = data_root / "pretrained" / f"{name}_imagenet.weights.h5"
    keras.config.set_dtype_policy(dtype)
    make = keras.applications.MobileNet if model == "mobilenet_v1" else keras.applications.MobileNetV2
    theirs = make(input_shape=(size, size, 3), alpha=width, weights=None, classifier_activation=None)
    theirs.load_weights(path)
    tree = imori.model(model, variant="keras", width=width)
    weights = imori.read_weights(path, tree, source="keras", shape=(3, size, size))
    ours = imori.build(tree, (3, size, size), "keras", weights, dtype=dtype)
    assert_same_logits(ours, theirs, (3, size, size), tolerance)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "make", "alpha", "size"),
    [
        ("mobilenet_v2_1.0_224_imagenet", "MobileNetV2", 1.0, 224),
        ("mobilenet_0.5_160_imagenet", "MobileNet", 0.5, 160),
        ("mobilenet_0.25_128_imagenet", "MobileNet", 0.25, 128),
    ],
)
def test_the_logits_that_every_framework_is_compared_with_are_keras_s(
    data_root: Path, in_float64: None, file: str, make: str, alpha: float, size: int
) -> None:
    form = {"weights": None, "classifier_activation": None, "input_shape": (size, size, 3), "alpha": alpha}
    model = getattr(keras.applications, make)(**form)
    model.load_weights(data_root / "pretrained" / f"{file}.weights.h5")
    kept = Path(__file__).parents[2] / "pretrained" / "keras_logits.json"
    expected = np.array(json.loads(kept.read_text(encoding="utf-8"))[file])
    images = np.random.default_rng(0).uniform(-1, 1, (len(expected), 3, size, size)).astype(np.float32)
    logits = keras.ops.convert_to_numpy(model(images.transpose(0, 2, 3, 1), training=False))
    assert np.abs(logits[:, : expected.shape[1]] - expected).max() <= 1e-12 * np.abs(expected).max()
