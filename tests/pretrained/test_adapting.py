"""Trained weights take other classes and channels."""

import numpy as np
import pytest
from PIL import Image

import imori
from imori import tree as t
from imori.data import Preprocessing
from imori.pretrained.adapting import adapted, in_channels, with_classes
from imori.shapes import resolve
from imori.weights import check

NET = t.Chain(
    conv1=t.Conv(5, 3, stride=2, bias=False), bn1=t.BatchNorm(), relu1=t.ReLU(), conv2=t.Conv(6, 3), relu2=t.ReLU(),
    gap=t.GlobalAvgPool(), drop=t.Dropout(0.5), fc=t.Linear(4),
)  # fmt: skip
SIZE = (16, 16)


def random_weights(tree: t.Tree, channels: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    start = imori.initial_weights(tree, (channels, *SIZE))
    return {name: rng.uniform(0.1, 1, value.shape).astype(np.float32) for name, value in start.items()}


@pytest.mark.parametrize("name", imori.list_models())
def test_a_network_with_other_classes_is_the_catalogue_s(name: str) -> None:
    for variant in imori.catalogue.variants(name):
        assert with_classes(imori.model(name, 1000, variant=variant), 7) == imori.model(name, 7, variant=variant)


def test_only_the_classifier_starts_anew() -> None:
    old = random_weights(NET, 3)
    new = adapted(old, with_classes(NET, 9), (3, *SIZE), seed=5)
    check(new, resolve(with_classes(NET, 9), (3, *SIZE)))
    assert {name for name in old if new[name] is not old[name]} == {"fc.weight", "fc.bias"}
    start = imori.initial_weights(with_classes(NET, 9), (3, *SIZE), seed=5)
    assert np.array_equal(new["fc.weight"], start["fc.weight"])
    assert adapted(old, NET, (3, *SIZE), anew=False) == old, "for the same classes nothing does"


def test_auxiliary_classifiers_start_anew_too() -> None:
    tree = imori.model("googlenet", 8, variant="torchvision")
    old = imori.initial_weights(imori.model("googlenet", 5, variant="torchvision"), (3, 224, 224), seed=1)
    new = adapted(old, tree, (3, 224, 224))
    changed = {name.rpartition(".")[0] for name in old if new[name] is not old[name]}
    assert changed == {"aux1.fc2", "aux2.fc2", "fc"}
    check(new, resolve(tree, (3, 224, 224)))


@pytest.mark.parametrize(("known", "wanted"), [(3, 1), (1, 3)])
def test_a_grey_photo_is_answered_alike_in_one_channel_and_in_three(known: int, wanted: int) -> None:
    how = Preprocessing(SIZE, known, mean=(0.5,) * known, std=(0.25,) * known)
    old = random_weights(NET, known)
    new = adapted(old, NET, (wanted, *SIZE), anew=False)
    photo = Image.fromarray(np.random.default_rng(1).integers(0, 256, (20, 20), np.uint8))
    logits = [
        imori.logits(imori.build(NET, (channels, *SIZE), "numpy", weights), in_channels(how, channels)(photo)[None])
        for channels, weights in ((known, old), (wanted, new))
    ]
    assert np.abs(logits[0] - logits[1]).max() <= 1e-5 * np.abs(logits[0]).max()


def test_four_channels_of_three_are_its_own_in_turn() -> None:
    old = random_weights(NET, 3)
    new = adapted(old, NET, (4, *SIZE), anew=False)["conv1.weight"]
    assert np.allclose(new, old["conv1.weight"][:, [0, 1, 2, 0]] * 0.75)


def test_the_preprocessing_takes_the_mean_of_all_channels() -> None:
    how = Preprocessing(SIZE, mean=(0.3, 0.4, 0.8), std=(0.1, 0.2, 0.6), order="bgr", share=0.9)
    grey = in_channels(how, 1)
    assert (grey.mean, grey.std, grey.share) == (pytest.approx((0.5,)), pytest.approx((0.3,)), 0.9)
    assert in_channels(grey, 3).mean == pytest.approx((0.5,) * 3)
    assert in_channels(how, 3) is how


def test_what_does_not_fit_is_left_as_it_is() -> None:
    old = random_weights(NET, 3) | {"conv2.weight": np.zeros((7, 5, 3, 3), np.float32)}
    assert adapted(old, NET, (3, *SIZE))["conv2.weight"].shape == (7, 5, 3, 3)
    del old["conv1.weight"]
    assert "conv1.weight" not in adapted(old, NET, (1, *SIZE))
