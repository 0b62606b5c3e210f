"""Parameters to the last digit, multiply-accumulates, receptive fields, and what binds a network to its size."""

import pytest

from imori.catalogue import list_models, model, size_of, variants
from imori.shapes import Summary, resolve, summary
from imori.tree import Flatten

# Trainable parameters at 1000 and at 2 classes. Those of the publishers (torchvision 0.29.1, timm 1.0.31, the authors'
# Caffe files) at 1000; the default LeNet and AlexNet and the book's two
# networks follow from their tables by hand.
PARAMETERS = {
    ("lenet", "default"): (123_736, 58_866),
    ("lenet", "paper"): (146_156, 61_326),
    ("lenet", "original"): (145_300, 60_470),
    ("simple_convnet", "default"): (535_380, 434_582),
    ("deep_convnet", "default"): (174_330, 123_432),
    ("deep_convnet", "paper"): (174_330, 123_432),
    ("alexnet", "default"): (50_844_008, 46_755_202),
    ("alexnet", "paper"): (60_965_224, 56_876_418),
    ("alexnet", "ungrouped"): (62_378_344, 58_289_538),
    ("alexnet", "torchvision"): (61_100_840, 57_012_034),
    ("zfnet", "default"): (50_823_272, 46_734_466),
    ("zfnet", "paper"): (62_357_608, 58_268_802),
    ("zfnet_gap", "default"): (3_983_464, 3_726_978),
    ("zfnet_gap", "paper"): (3_983_464, 3_726_978),
    ("nin", "default"): (1_158_056, 965_442),
    ("nin", "imagenet"): (7_595_176, 6_572_226),
    ("vgg16", "default"): (138_357_544, 134_268_738),
    ("vgg16", "torchvision"): (138_357_544, 134_268_738),
    ("vgg16", "timm"): (138_357_544, 134_268_738),
    ("vgg16", "keras"): (138_357_544, 134_268_738),
    ("vgg19", "default"): (143_667_240, 139_578_434),
    ("vgg19", "torchvision"): (143_667_240, 139_578_434),
    ("vgg19", "timm"): (143_667_240, 139_578_434),
    ("vgg19", "keras"): (143_667_240, 139_578_434),
    ("vgg16_bn", "default"): (138_365_992, 134_277_186),
    ("vgg16_bn", "torchvision"): (138_365_992, 134_277_186),
    ("vgg16_bn", "timm"): (138_365_992, 134_277_186),
    ("vgg19_bn", "default"): (143_678_248, 139_589_442),
    ("vgg19_bn", "torchvision"): (143_678_248, 139_589_442),
    ("vgg19_bn", "timm"): (143_678_248, 139_589_442),
    ("googlenet", "default"): (13_378_280, 10_309_430),
    ("googlenet", "batch_norm"): (13_385_816, 10_316_966),
    ("googlenet", "torchvision"): (13_004_888, 9_936_038),
    ("resnet18", "default"): (11_689_512, 11_177_538),
    ("resnet18", "option_a"): (11_515_688, 11_003_714),
    ("resnet34", "default"): (21_797_672, 21_285_698),
    ("resnet34", "option_a"): (21_623_848, 21_111_874),
    ("resnet50", "default"): (25_557_032, 23_512_130),
    ("resnet50", "paper"): (25_557_096, 23_512_194),
    ("resnet50", "keras"): (25_583_592, 23_538_690),
    ("resnet50", "option_a"): (22_780_456, 20_735_554),
    ("resnet101", "default"): (44_549_160, 42_504_258),
    ("resnet101", "paper"): (44_549_160, 42_504_258),
    ("resnet101", "keras"): (44_601_832, 42_556_930),
    ("resnet101", "option_a"): (41_772_584, 39_727_682),
    ("resnet152", "default"): (60_192_808, 58_147_906),
    ("resnet152", "paper"): (60_192_808, 58_147_906),
    ("resnet152", "keras"): (60_268_520, 58_223_618),
    ("resnet152", "option_a"): (57_416_232, 55_371_330),
    ("resnet_mnist_plain", "default"): (336_824, 271_954),
    ("resnet_mnist_plain", "option_a"): (334_072, 269_202),
    ("resnet_mnist_bottleneck", "default"): (567_544, 311_058),
    ("resnet_mnist_bottleneck", "option_a"): (524_664, 268_178),
    ("resnext50_32x4d", "default"): (25_028_904, 22_984_002),
    ("resnext101_32x4d", "default"): (44_177_704, 42_132_802),
    ("resnext101_32x8d", "default"): (88_791_336, 86_746_434),
    ("resnext101_64x4d", "default"): (83_455_272, 81_410_370),
    ("xception", "default"): (22_855_952, 20_811_050),
    ("xception", "keras"): (22_855_952, 20_811_050),
    ("xception", "timm"): (22_855_952, 20_811_050),
    ("densenet121", "default"): (7_978_856, 6_955_906),
    ("densenet121", "keras"): (7_978_856, 6_955_906),
    ("densenet161", "default"): (28_681_000, 26_476_418),
    ("densenet169", "default"): (14_149_480, 12_487_810),
    ("densenet169", "keras"): (14_149_480, 12_487_810),
    ("densenet201", "default"): (20_013_928, 18_096_770),
    ("densenet201", "keras"): (20_013_928, 18_096_770),
    ("densenet264", "default"): (33_337_704, 30_654_082),
    ("mobilenet_v1", "default"): (4_231_976, 3_209_026),
    ("mobilenet_v1", "keras"): (4_231_976, 3_209_026),
    ("mobilenet_v1", "timm"): (4_231_976, 3_209_026),
    ("mobilenet_v2", "default"): (3_504_872, 2_226_434),
    ("mobilenet_v2", "keras"): (3_504_872, 2_226_434),
}

# Giga multiply-accumulates at the paper's size: torchvision's published figures; ResNet's paper form, its table 1.
GIGA_MACS = {
    ("googlenet", "torchvision"): 1.498,
    ("resnext50_32x4d", "default"): 4.230,
    ("resnext101_32x8d", "default"): 16.414,
    ("resnext101_64x4d", "default"): 15.460,
    ("densenet121", "default"): 2.834,
    ("densenet161", "default"): 7.728,
    ("densenet169", "default"): 3.360,
    ("densenet201", "default"): 4.291,
    ("mobilenet_v2", "default"): 0.301,
    ("mobilenet_v1", "default"): 0.569,
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

# (receptive field, stride) of a layer's output. AlexNet, VGG16, ResNet's paper form and MobileNet-v1: A. Araujo et al.,
# "Computing receptive fields of convolutional neural networks", Distill 2019; the others by hand.
FIELDS = {
    ("lenet", "default"): {"conv1": (5, 1), "pool1": (6, 2), "conv2": (14, 2), "pool2": (16, 4)},
    ("simple_convnet", "default"): {"conv1": (5, 1), "pool1": (6, 2)},
    ("deep_convnet", "default"): {"pool1": (6, 2), "conv2_2": (14, 2), "pool2": (16, 4), "pool3": (36, 8)},
    ("alexnet", "default"): {"conv1": (11, 4), "pool1": (19, 8), "conv2": (51, 8), "pool2": (67, 16)},
    ("alexnet", "paper"): {"pool5": (195, 32)},
    ("vgg16", "default"): {
        "conv1_2": (5, 1), "pool1": (6, 2), "pool2": (16, 4), "pool3": (44, 8), "pool4": (100, 16), "pool5": (212, 32),
    },
    ("vgg19", "default"): {"pool3": (52, 8), "pool5": (268, 32)},
    ("zfnet", "default"): {"conv2": (27, 8), "pool2": (43, 16), "conv5": (139, 16), "pool5": (171, 32)},
    ("zfnet", "paper"): {"pool5": (171, 32)},
    ("nin", "default"): {"conv1_3": (5, 1), "pool1": (7, 2), "conv2_1": (15, 2), "pool2": (19, 4), "conv3_3": (27, 4)},
    ("googlenet", "default"): {
        "pool2": (27, 8), "inception3a": (59, 8), "inception3b": (91, 8), "pool3": (107, 16), "inception4e": (427, 16),
        "pool4": (459, 32), "inception5b": (715, 32),
    },
    ("resnet50", "paper"): {"pool1": (11, 4), "conv5": (483, 32)},
    ("resnet50", "default"): {"conv2": (35, 4), "conv3": (91, 8), "conv4": (267, 16), "conv5": (427, 32)},
    ("resnext50_32x4d", "default"): {"conv5": (427, 32)},
    ("xception", "default"): {"block2": (19, 4), "block4": (91, 16), "block12": (859, 16), "block14": (1083, 32)},
    ("densenet121", "default"): {"dense1": (59, 4), "dense2": (255, 8), "dense3": (1031, 16), "dense4": (2071, 32)},
    ("mobilenet_v1", "default"): {"block1": (7, 2), "block6": (59, 16), "block13": (315, 32)},
    ("mobilenet_v2", "default"): {"block1": (7, 2), "block7": (75, 16), "block17": (491, 32)},
    ("resnet101", "paper"): {"conv5": (1027, 32)},
    ("resnet152", "paper"): {"conv5": (1507, 32)},
}  # fmt: skip


# The forms whose padding depends on the input's size: pools that round up, and "same" at a stride.
ROUNDED = {
    ("zfnet", "paper"), ("zfnet_gap", "paper"), ("nin", "imagenet"), ("xception", "default"), ("xception", "keras"),
    ("googlenet", "default"), ("googlenet", "batch_norm"), ("googlenet", "torchvision"), ("mobilenet_v1", "keras"),
    ("mobilenet_v2", "keras"),
}  # fmt: skip


def summed(name: str, variant: str, classes: int = 1000) -> Summary:
    size = 224 if variant in ("torchvision", "imagenet") else size_of(name)
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
    layers = [node for node in summed(name, variant).rows if node.sized and not node.training_only]
    flattened = [node.path for node in layers if isinstance(node.layer, Flatten)]
    rounded = {node.path for node in layers} - set(flattened)
    dense = name in ("lenet", "simple_convnet", "deep_convnet", "alexnet", "zfnet") or (
        name.startswith("vgg") and variant in ("default", "keras")
    )
    assert flattened == (["flatten"] if dense and variant != "torchvision" else [])
    assert all(
        getattr(node.layer, "ceil", False) or node.layer.pad == "same" for node in layers if node.path in rounded
    )
    assert bool(rounded) == ((name, variant) in ROUNDED)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("name", list_models())
def test_channels_change_the_first_weight_alone(name: str, channels: int) -> None:
    size = size_of(name)
    first, *rest = (node for node in summary(model(name), (channels, size, size)).rows if node.parameters)
    assert first.weights["weight"][1] == channels
    rgb = [node.weights for node in summary(model(name), (3, size, size)).rows if node.parameters]
    assert [node.weights for node in rest] == rgb[1:]


# Figures at other inputs, classes or counts: the running statistics too, or without the auxiliary heads.
OTHERS = {
    "LeNet-5": (61_706, lambda: summary(model("lenet", 10, variant="paper"), (1, 32, 32)).parameters),
    "LeNet-5 at 28 px": (44_426, lambda: summary(model("lenet", 10, variant="paper"), (1, 28, 28)).parameters),
    "NIN for CIFAR-10": (966_986, lambda: summary(model("nin", 10), (3, 32, 32)).parameters),
    "GoogLeNet": (6_998_552, lambda: summed("googlenet", "default").inference_parameters),
    "GoogLeNet with BN": (7_005_832, lambda: summed("googlenet", "batch_norm").inference_parameters),
    "GoogLeNet of torchvision": (6_624_904, lambda: summed("googlenet", "torchvision").inference_parameters),
    "ResNet50 of Keras": (25_636_712, lambda: summed("resnet50", "keras").total),
    "ResNet101 of Keras": (44_707_176, lambda: summed("resnet101", "keras").total),
    "ResNet152 of Keras": (60_419_944, lambda: summed("resnet152", "keras").total),
    "Xception of Keras": (22_910_480, lambda: summed("xception", "keras").total),
    "DenseNet121 of Keras": (8_062_504, lambda: summed("densenet121", "keras").total),
    "DenseNet169 of Keras": (14_307_880, lambda: summed("densenet169", "keras").total),
    "DenseNet201 of Keras": (20_242_984, lambda: summed("densenet201", "keras").total),
    "MobileNet of Keras": (4_253_864, lambda: summed("mobilenet_v1", "keras").total),
    "MobileNetV2 of Keras": (3_538_984, lambda: summed("mobilenet_v2", "keras").total),
}


@pytest.mark.parametrize("figure", OTHERS)
def test_published_figures_of_other_kinds(figure: str) -> None:
    published, count = OTHERS[figure]
    assert count() == published
