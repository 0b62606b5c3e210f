"""Where networks are cut: the parts together are the whole, and what a head starts from."""

import numpy as np
import pytest

import imori
from imori import tree as t
from imori.errors import RecipeError
from imori.shapes import resolve
from imori.transfer import parted, stages, with_mlp
from imori.transfer.features import as_images
from imori.weights import initial_weights, restrict, shapes_of

#        model, size -> the cut, what is there
CUTS = {
    "mobilenet_v2": ("gap", (1280,)),
    "resnet18": ("pool5", (512,)),
    "densenet121": ("gap", (1024,)),
    "vgg16": ("relu7", (4096,)),
    "googlenet": ("gap", (1024,)),
    "nin": ("relu3_2", (192, 31, 31)),
    "alexnet": ("relu7", (4096,)),
}


@pytest.mark.parametrize("name", CUTS)
def test_a_network_is_cut_before_its_classifier(name: str) -> None:
    size = 227 if name == "alexnet" else 224 if name != "nin" else 128
    parts = parted(imori.model(name, classes=5), (3, size, size))
    assert parts.cut == CUTS[name][0]
    assert parts.output == CUTS[name][1]
    assert resolve(parts.head, parts.shape).output == (5,)
    assert not any(isinstance(layer, t.Dropout) for _, layer in list(t.leaves(parts.body))[-1:])


@pytest.mark.parametrize("mlp", [False, True])
def test_the_parts_together_are_the_whole(mlp: bool) -> None:
    tree = t.Chain(
        conv1=t.Conv(4, 3),
        aux=t.Aux(t.Chain(t.GlobalAvgPool(), t.Linear(3))),
        rest=t.Chain(pool=t.AvgPool(2), flatten=t.Flatten(), fc1=t.Linear(9), relu=t.ReLU(), drop=t.Dropout(),
                     fc2=t.Linear(3)),
    )  # fmt: skip
    parts = parted(tree, (2, 7, 9))
    head, whole = parts.head, tree
    if mlp:
        head, whole = with_mlp(head), with_mlp(tree)
    assert parts.cut == "rest.relu"
    weights = initial_weights(whole, (2, 7, 9), seed=4)
    images = np.random.default_rng(2).standard_normal((3, 2, 7, 9)).astype(np.float32)
    body = imori.build(parts.body, (2, 7, 9), "numpy", restrict(weights, parts.body))
    features = imori.logits(body, images)
    assert features.shape == (3, *parts.output)
    answers = imori.logits(imori.build(head, parts.shape, "numpy", restrict(weights, head)), as_images(features))
    expected = imori.logits(imori.build(whole, (2, 7, 9), "numpy", weights), images)
    assert abs(answers - expected).max() < 1e-6 * abs(expected).max()
    inference = shapes_of(resolve(t.without_heads(whole), (2, 7, 9)))
    assert {*restrict(weights, parts.body), *restrict(weights, head)} == set(inference)


def test_a_convolution_in_place_of_a_classifier_has_maps_for_features() -> None:
    parts = parted(imori.model("nin", classes=4), (3, 64, 64))
    assert parts.output == parts.shape == (192, 15, 15)
    with pytest.raises(RecipeError, match="linear layer, and this network ends in"):
        with_mlp(parts.head)


def test_a_new_last_layer_starts_from_small_numbers() -> None:
    parts = parted(imori.model("resnet18", classes=50), (3, 64, 64))
    start = parts.start(7, "float32")
    assert start["fc.weight"].std() == pytest.approx(0.01, rel=0.05)
    assert not start["fc.bias"].any()
    assert not np.array_equal(parts.start(8, "float32")["fc.weight"], start["fc.weight"])


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (t.Chain(t.Flatten(), t.ReLU()), "no last layer of its own"),
        (t.Chain(fc=t.Linear(3)), "nothing of this network comes before"),
        (t.Chain(sum=t.Sum(t.Linear(3), t.Linear(3))), "no last layer of its own"),
    ],
)
def test_networks_without_parts_are_refused(tree: t.Tree, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parted(tree, (2, 4, 4))


def test_stages_are_the_sizes_of_the_maps() -> None:
    found = stages(resolve(imori.model("resnet18", classes=3), (3, 224, 224)))
    assert [stage[0].partition(".")[0] for stage in found] == ["conv1", "conv2", "conv3", "conv4", "conv5", "fc"]
    assert [stage[0] for stage in stages(resolve(imori.model("mobilenet_v2", classes=3), (3, 224, 224)))] == [
        "conv1", "block2.expand", "block4.expand", "block7.expand", "block14.expand", "fc",
    ]  # fmt: skip
