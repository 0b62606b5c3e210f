"""The table of what publishers have fits the catalogue, the readers and `Preprocessing`."""

import re
from urllib.parse import urlsplit

import pytest

import imori
from imori import catalogue
from imori.data import Preprocessing
from imori.errors import NameUnknown
from imori.pretrained.addresses import CHECKPOINTS, Checkpoint, checkpoints, chosen
from imori.shapes import resolve
from imori.weights.tables import PUBLISHERS, names_in

HOSTS = {
    "torchvision": {"download.pytorch.org"},
    "timm": {"huggingface.co", "github.com"},
    "keras": {"storage.googleapis.com"},
}
FORMS = {(one.publisher, one.model, one.width): one for one in CHECKPOINTS}
"""One for each network that its reader must know."""


@pytest.mark.parametrize("one", CHECKPOINTS, ids=lambda one: f"{one.publisher}-{one.file}")
def test_each_is_an_address_a_file_and_a_preprocessing(one: Checkpoint) -> None:
    address = urlsplit(one.address)
    assert address.scheme == "https"
    assert address.hostname in HOSTS[one.publisher]
    assert re.fullmatch(r"|md5:[0-9a-f]{32}|sha256:[0-9a-f]{8,9}", one.checksum)
    assert one.file.endswith((".pth", ".safetensors", ".h5"))
    assert one.file == address.path.rpartition("/")[2] or one.file.endswith(".safetensors")
    how = Preprocessing(**one.preprocessing())
    assert how.size == (one.size, one.size)
    assert 0.8 < how.share < 1
    assert how.resize == ("crop" if one.publisher == "keras" else "torchvision")


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form)))
def test_each_is_of_a_network_that_its_publisher_s_reader_knows(form: tuple[str, str, float]) -> None:
    publisher, model, width = form
    multiplier = width if catalogue.has_width(model) else None
    tree = imori.model(model, variant=publisher, width=multiplier)
    root = resolve(tree, (3, FORMS[form].size, FORMS[form].size))
    assert any(names_in(table, root) is not None for table in PUBLISHERS[publisher].values())


def test_no_two_are_one_file() -> None:
    assert len({(one.publisher, one.file) for one in CHECKPOINTS}) == len({one.address for one in CHECKPOINTS})
    assert len({one.address for one in CHECKPOINTS}) == len(CHECKPOINTS) > 100


def test_every_network_that_somebody_publishes_is_there() -> None:
    nobody = {"lenet", "zfnet", "zfnet_gap", "nin", "resnet_mnist_plain", "resnet_mnist_bottleneck", "densenet264"}
    of_the_book = {"simple_convnet", "deep_convnet"}
    assert {one.model for one in CHECKPOINTS} == set(imori.list_models()) - nobody - of_the_book


@pytest.mark.parametrize(
    ("publisher", "model", "choices", "file", "cut"),
    [
        ("torchvision", "resnet50", {}, "resnet50-11ad3fa6.pth", (224, 224 / 232, "bilinear")),
        ("torchvision", "resnet50", {"tag": "IMAGENET1K_V1"}, "resnet50-0676ba61.pth", (224, 0.875, "bilinear")),
        ("timm", "resnet18", {}, "resnet18.a1_in1k.safetensors", (224, 224 / 235, "bicubic")),
        ("timm", "resnet18", {"tag": "a3_in1k"}, "resnet18.a3_in1k.safetensors", (160, 160 / 168, "bicubic")),
        ("timm", "xception", {}, "xception-43020ad28.pth", (299, 299 / 333, "bicubic")),
        ("timm", "mobilenet_v2", {"width": 1.4}, "mobilenetv2_140.ra_in1k.safetensors", (224, 0.875, "bicubic")),
        ("keras", "mobilenet_v1", {"width": 0.5, "size": 150}, "mobilenet_5_0_160_tf.h5", (160, 0.875, "bilinear")),
        ("keras", "xception", {}, "xception_weights_tf_dim_ordering_tf_kernels.h5", (299, 0.875, "bilinear")),
    ],
)
def test_what_is_chosen(publisher: str, model: str, choices: dict, file: str, cut: tuple) -> None:
    one = chosen(publisher, model, **choices)
    assert one.file == file
    assert (one.size, one.share, one.interpolation) == cut


def test_numbers_are_the_publisher_s() -> None:
    caffe = Preprocessing(**chosen("keras", "vgg16").preprocessing())
    assert (caffe.order, caffe.scale, caffe.mean) == ("bgr", 1.0, (103.939, 116.779, 123.68))
    assert {chosen("keras", f"densenet{depth}").numbers for depth in (121, 169, 201)} == {"imagenet"}
    assert chosen("torchvision", "googlenet").numbers == "half", "it turns the usual numbers into these itself"
    assert {one.numbers for one in CHECKPOINTS if one.publisher == "torchvision" and one.model != "googlenet"} == {
        "imagenet"
    }


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("keras", "resnet18"), "keras publishes no weights of resnet18; there are some of torchvision, timm"),
        (("timm", "lenet"), "timm publishes no weights of lenet; nor does anyone else"),
        (("torchvision", "resnet50", "V3"), "has no 'V3' of resnet50; it has IMAGENET1K_V2, IMAGENET1K_V1"),
        (("timm", "mobilenet_v2", "", 0.6), "has mobilenet_v2 in no width 0.6; it has 1, 0.5, 1.4"),
    ],
)
def test_what_is_not_published_is_refused_with_what_is(asked: tuple, said: str) -> None:
    with pytest.raises(NameUnknown, match=said):
        chosen(*asked)
    assert checkpoints("nobody", "resnet18") == []
