"""The networks of keras.applications, with their weights copied over, give the same logits."""

import re
from typing import Any

import keras
import numpy as np
import pytest

import imori

SIZES = {
    "mobilenet_v1": ("MobileNet", 64),
    "mobilenet_v2": ("MobileNetV2", 64),
    "xception": ("Xception", 96),
    "densenet121": ("DenseNet121", 64),
    "resnet50": ("ResNet50", 64),
    "vgg16": ("VGG16", 32),
}


def held(model: Any) -> dict[str, list[Any]]:
    """Name -> the variables of each layer in order; a separable convolution is two of ours."""
    found: dict[str, list[Any]] = {}
    for layer in model.layers:
        own = [variable for variable in layer.weights if "seed" not in variable.path]
        parts = [[each] for each in own] if isinstance(layer, keras.layers.SeparableConv2D) else [own]
        found |= {f"{layer.name}{i}": part for i, part in enumerate(parts) if part}
    return found


def randomise(model: Any) -> None:
    rng = np.random.default_rng(0)
    for variable in (each for variables in held(model).values() for each in variables):
        fan = np.prod(variable.shape[:-2] if "depthwise" in variable.path else variable.shape[:-1])
        value = rng.standard_normal(variable.shape) * ((1.6 / fan) ** 0.5 if len(variable.shape) > 1 else 0.2)
        positive = variable.path.endswith(("gamma", "variance"))
        variable.assign(rng.uniform(0.5, 1.5, variable.shape) if positive else value)


def resnets(name: str) -> str:
    """What we call a layer of theirs: shortcuts stand elsewhere in the order, and share their shapes with others."""
    block = re.fullmatch(r"conv(\d)_block(\d+)_(\d)_(conv|bn)0", name)
    if block is None:
        return {"conv1_conv0": "conv1", "conv1_bn0": "bn1", "predictions0": "fc"}[name] + "0"
    stage, number, place, kind = block.groups()
    return f"conv{stage}-{int(number) - 1}-{f'shortcut-{kind}' if place == '0' else f'body-{kind}{place}'}0"


@pytest.mark.slow
@pytest.mark.parametrize("name", SIZES)
def test_the_logits_are_theirs(name: str) -> None:
    make, size = SIZES[name]
    options = {"weights": None, "classifier_activation": None, "input_shape": (size, size, 3), "classes": 7}
    theirs = getattr(keras.applications, make)(**options)
    randomise(theirs)
    ours = imori.build(imori.model(name, 7, variant="keras"), (3, size, size), "keras")
    assert ours.count_params() == theirs.count_params()
    mine, given = held(ours), held(theirs)
    pairs = {resnets(key): value for key, value in given.items()} if name == "resnet50" else given
    names = mine if name == "resnet50" else pairs
    for own, key in zip(mine, names, strict=True):
        for target, source in zip(mine[own], pairs[key], strict=True):
            value = keras.ops.convert_to_numpy(source)
            if own == "fc60":  # after the flattening, which is in channel, height, width order in ours
                value = value.reshape(size // 32, size // 32, 512, -1).transpose(2, 0, 1, 3).reshape(value.shape)
            target.assign(value)
    images = np.random.default_rng(1).standard_normal((2, size, size, 3)).astype("float32")
    expected = theirs.predict(images, verbose=0)
    assert np.abs(expected).max() > 0.1
    assert np.abs(ours.predict(images, verbose=0) - expected).max() <= 1e-5 * np.abs(expected).max()
