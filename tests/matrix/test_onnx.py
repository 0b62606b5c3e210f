"""Every net as a model of ONNX: valid, its padding in numbers, and of free sizes where the net is."""

from typing import Any

import pytest

import imori
from imori.catalogue import list_models, size_of, variants
from imori.shapes import summary

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

WIDE = ("alexnet", "zfnet", "vgg", "resnet", "resnext101", "densenet", "xception")
"""They are looked at with a quarter of their filters."""
ANY_SIZE = [("resnet18", None), ("vgg16", "torchvision"), ("mobilenet_v2", None), ("densenet121", None)]


def attributes(model: Any) -> set[str]:
    return {attribute.name for node in model.graph.node for attribute in node.attribute}


@pytest.mark.parametrize("name", list_models())
def test_every_network_is_valid_and_says_its_padding_in_numbers(matrix: Any, name: str) -> None:
    side = size_of(name)
    shape = (3, side, side + 11) if name.startswith("resnet") else (3, side, side)
    for variant in variants(name):
        tree = imori.model(name, 7, variant=variant)
        tree = matrix.thinned(tree, 4) if name.startswith(WIDE) else tree
        native = imori.build(tree, shape, "onnx")
        onnx.checker.check_model(native.proto, full_check=True)
        assert not attributes(native.proto) & {"auto_pad", "ceil_mode"}
        (images,) = native.proto.graph.input
        dims = [dim.dim_param or dim.dim_value for dim in images.type.tensor_type.shape.dim]
        assert dims == (["N", *shape] if summary(tree, shape).sized else ["N", 3, "H", "W"])


@pytest.mark.parametrize(("name", "variant"), ANY_SIZE)
def test_one_model_takes_batches_and_photos_of_any_size(matrix: Any, name: str, variant: str | None) -> None:
    tree = matrix.thinned(imori.model(name, 5, variant=variant), 8 if name == "vgg16" else 1)
    weights = matrix.randomised(tree, (3, 96, 96))
    model, reference = (imori.build(tree, (3, 96, 96), each, weights, "float32") for each in ("onnx", "numpy"))
    for shape in ((3, 96, 96), (3, 75, 110), (3, 131, 68)):
        for count in (1, 3):
            images, _, _ = matrix.batch(shape, 5, count)
            images = images.astype("float32")
            assert matrix.difference(imori.logits(model, images), imori.logits(reference, images)) <= 1e-4
