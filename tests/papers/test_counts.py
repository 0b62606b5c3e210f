"""Parameters to the last digit, multiply-accumulates, receptive fields, and what binds a network to its size."""

import pytest

from imori.catalogue import list_models, model, size_of, variants
from imori.shapes import Summary, resolve, summary

# Trainable parameters at 1000 and at 2 classes. Those of the publishers (torchvision 0.29.1, timm 1.0.31, the authors'
# Caffe files) at 1000; the default LeNet and AlexNet follow from their tables by hand.
PARAMETERS = {
    ("lenet", "default"): (123_736, 58_866),
    ("lenet", "paper"): (146_156, 61_326),
    ("alexnet", "default"): (50_844_008, 46_755_202),
    ("alexnet", "paper"): (60_965_224, 56_876_418),
    ("alexnet", "torchvision"): (61_100_840, 57_012_034),
    ("vgg16", "default"): (138_357_544, 134_268_738),
    ("vgg16", "torchvision"): (138_357_544, 134_268_738),
    ("vgg19", "default"): (143_667_240, 139_578_434),
    ("vgg19", "torchvision"): (143_667_240, 139_578_434),
    ("vgg16_bn", "default"): (138_365_992, 134_277_186),
    ("vgg16_bn", "torchvision"): (138_365_992, 134_277_186),
    ("vgg19_bn", "default"): (143_678_248, 139_589_442),
    ("vgg19_bn", "torchvision"): (143_678_248, 139_589_442),
    ("resnet18", "default"): (11_689_512, 11_177_538),
    ("resnet18", "paper"): (11_689_512, 11_177_538),
    ("resnet34", "default"): (21_797_672, 21_285_698),
    ("resnet34", "paper"): (21_797_672, 21_285_698),
    ("resnet50", "default"): (25_557_032, 23_512_130),
    ("resnet50", "paper"): (25_557_096, 23_512_194),
    ("resnet101", "default"): (44_549_160, 42_504_258),
    ("resnet101", "paper"): (44_549_160, 42_504_258),
    ("resnet152", "default"): (60_192_808, 58_147_906),
    ("resnet152", "paper"): (60_192_808, 58_147_906),
    ("resnet_mnist_plain", "default"): (336_824, 271_954),
    ("resnet_mnist_bottleneck", "default"): (567_544, 311_058),
}

# Giga multiply-accumulates at the paper's size: torchvision's published figures; ResNet's paper form, its table 1.
GIGA_MACS = {
    ("alexnet", "torchvision"): 0.714,
    ("vgg16", "default"): 15.470,
    ("vgg16_bn", "default"): 15.470,
    ("vgg19", "default"): 19.632,
    ("resnet18", "default"): 1.814,
    ("resnet34", "default"): 3.664,
    ("resnet50", "default"): 4.089,
    ("resnet101", "default"): 7.801,
    ("resnet152", "default"): 11.514,
    ("resnet50", "paper"): 3.858,
    ("resnet101", "paper"): 7.570,
    ("resnet152", "paper"): 11.282,
}

# (receptive field, stride) of a layer's output. AlexNet, VGG16 and ResNet's paper form: Araujo, Norris and Sim,
# "Computing receptive fields of convolutional neural networks", Distill 2019; the others by hand.
FIELDS = {
    ("lenet", "default"): {"conv1": (5, 1), "pool1": (6, 2), "conv2": (14, 2), "pool2": (16, 4)},
    ("alexnet", "default"): {"conv1": (11, 4), "pool1": (19, 8), "conv2": (51, 8), "pool2": (67, 16)},
    ("alexnet", "paper"): {"pool5": (195, 32)},
    ("vgg16", "default"): {
        "conv1_2": (5, 1), "pool1": (6, 2), "pool2": (16, 4), "pool3": (44, 8), "pool4": (100, 16), "pool5": (212, 32),
    },
    ("vgg19", "default"): {"pool3": (52, 8), "pool5": (268, 32)},
    ("resnet50", "paper"): {"pool1": (11, 4), "conv5": (483, 32)},
    ("resnet101", "paper"): {"conv5": (1027, 32)},
    ("resnet152", "paper"): {"conv5": (1507, 32)},
}  # fmt: skip


def summed(name: str, variant: str, classes: int = 1000) -> Summary:
    size = 224 if variant == "torchvision" else size_of(name)
    return summary(model(name, classes=classes, variant=variant), (3, size, size))


def test_every_network_is_counted() -> None:
    assert set(PARAMETERS) == {(name, variant) for name in list_models() for variant in variants(name)}


@pytest.mark.parametrize(("name", "variant"), PARAMETERS, ids=map("-".join, PARAMETERS))
def test_parameters(name: str, variant: str) -> None:
    assert tuple(summed(name, variant, classes).parameters for classes in (1000, 2)) == PARAMETERS[name, variant]


@pytest.mark.parametrize(("name", "variant"), GIGA_MACS, ids=map("-".join, GIGA_MACS))
def test_multiply_accumulates(name: str, variant: str) -> None:
    assert round(summed(name, variant).macs / 1e9, 3) == GIGA_MACS[name, variant]


@pytest.mark.parametrize(("name", "variant"), FIELDS, ids=map("-".join, FIELDS))
def test_receptive_fields(name: str, variant: str) -> None:
    size = size_of(name)
    nodes = resolve(model(name, variant=variant), (3, size, size)).children
    found = {node.name: (*node.receptive_field, *node.stride) for node in nodes if node.name in FIELDS[name, variant]}
    assert found == {path: (see, see, step, step) for path, (see, step) in FIELDS[name, variant].items()}


@pytest.mark.parametrize(("name", "variant"), PARAMETERS, ids=map("-".join, PARAMETERS))
def test_only_a_flattened_map_binds_to_the_size(name: str, variant: str) -> None:
    free = name.startswith("resnet") or variant == "torchvision"
    assert summed(name, variant).sized == (() if free else ("flatten",))


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", list_models())
def test_channels_change_the_first_weight_alone(name: str, channels: int) -> None:
    size = size_of(name)
    first, *rest = (node for node in summary(model(name), (channels, size, size)).rows if node.parameters)
    assert first.weights["weight"][1] == channels
    rgb = [node.weights for node in summary(model(name), (3, size, size)).rows if node.parameters]
    assert [node.weights for node in rest] == rgb[1:]
