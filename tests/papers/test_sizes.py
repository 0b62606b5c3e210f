"""The smallest input of every network, and the refusals below it."""

import pytest

import imori
from imori.catalogue import list_models, model, variants
from imori.errors import SizeError
from imori.shapes import resolve, smallest

# The smallest height and width, by hand: what is left of them must fill the kernel of the last pool or convolution.
SMALLEST = {
    "simple_convnet": 6, "deep_convnet": 4,
    "lenet": 16, "alexnet": 83, "alexnet-paper": 67, "alexnet-ungrouped": 67, "alexnet-torchvision": 63,
    "zfnet": 67, "zfnet-paper": 47, "zfnet_gap": 67, "zfnet_gap-paper": 47, "nin": 7, "nin-imagenet": 39,
    "vgg16": 32, "vgg16-timm": 224, "vgg19": 32, "vgg19-timm": 224, "vgg16_bn": 32, "vgg16_bn-timm": 224,
    "vgg19_bn": 32, "vgg19_bn-timm": 224, "googlenet": 79, "googlenet-torchvision": 15, "xception": 7,
    "densenet121": 29, "densenet161": 29, "densenet169": 29, "densenet201": 29, "densenet264": 29,
    "mobilenet_v1-keras": 31,
}  # fmt: skip


@pytest.mark.parametrize("name", list_models())
def test_a_smaller_input_is_refused_with_the_smallest(name: str) -> None:
    for variant in variants(name):
        tree = model(name, 5, variant=variant)
        least = SMALLEST.get(f"{name}-{variant}", SMALLEST.get(name, 1))
        assert smallest(tree, 3) == least, variant
        assert resolve(tree, (3, least, least)).output == (5,)
        if least > 1:
            with pytest.raises(SizeError, match=f"the smallest input of this network is 3×{least}×{least}"):
                imori.build(tree, (3, least - 1, least - 1), "numpy")


def test_heads_forbid_no_size_at_inference() -> None:
    whole = model("googlenet", 5)
    assert smallest(whole, 3) == 79, "the auxiliary heads' 5×5 averages need maps of 5×5"
    assert smallest(model("googlenet", 5, upto="fc"), 3) == 31
