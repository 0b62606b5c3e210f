"""What fine-tuning trains, how fast, and what it leaves as it is."""

import pytest

from imori import tree as t
from imori.errors import NameUnknown, RecipeError
from imori.frameworks.base import Setup
from imori.shapes import resolve
from imori.train.recipe import Recipe
from imori.train.tuning import explained, setup_of
from imori.weights import initial_weights

NET = t.Chain(
    conv1=t.Conv(4, 3, pad=1), bn1=t.BatchNorm(), pool1=t.MaxPool(2),
    conv2=t.Conv(4, 3, pad=1), bn2=t.BatchNorm(), pool2=t.MaxPool(2),
    conv3=t.Chain(t.Conv(4, 3, pad=1), t.BatchNorm()), gap=t.GlobalAvgPool(), fc=t.Linear(2),
)  # fmt: skip
ROOT = resolve(NET, (3, 16, 16))


def setup(**choices: object) -> Setup:
    recipe = Recipe(**{"phases": "both", "freeze": "norms", "epochs": 5, "lr": 1e-4, **choices})
    return setup_of(recipe, ROOT, initial_weights(NET, (3, 16, 16)))


def layers(found: Setup) -> set[str]:
    return {name.rpartition(".")[0] for name in found.trainable}


def test_the_last_stage_and_the_head_train() -> None:
    found = setup()
    assert layers(found) == {"conv3.0", "conv3.1", "fc"}
    assert found.frozen == {"bn1", "bn2", "conv3.1"}
    assert found.rates == {f"{layer}.{role}": 0.5 for layer in ("conv3.0", "conv3.1") for role in ("weight", "bias")}


def test_rates_fall_stage_by_stage() -> None:
    found = setup(unfreeze_at="all", stage_rate=0.25)
    expected = {"conv1": 1 / 64, "bn1": 1 / 64, "conv2": 1 / 16, "bn2": 1 / 16, "conv3.0": 1 / 4, "conv3.1": 1 / 4}
    assert {name.rpartition(".")[0]: rate for name, rate in found.rates.items()} == expected


@pytest.mark.parametrize(
    ("at", "first"), [("conv2", "conv2"), ("bn2", "bn2"), ("conv3", "conv3.0"), ("conv3.1", "conv3.1")]
)
def test_it_begins_at_a_node(at: str, first: str) -> None:
    order = ["conv1", "bn1", "conv2", "bn2", "conv3.0", "conv3.1", "fc"]
    assert layers(setup(unfreeze_at=at)) == set(order[order.index(first) :])


def test_norms_train_with_their_layers_if_asked_and_never_below() -> None:
    found = setup(unfreeze_at="bn2", freeze="none")
    assert found.frozen == {"bn1"}


def test_layers_stay_by_their_names() -> None:
    found = setup(unfreeze_at="all", freeze="conv[12],conv3")
    assert layers(found) == {"bn1", "bn2", "fc"}
    assert found.frozen == {"conv3.1"}


def test_without_phases_everything_trains() -> None:
    found = setup(phases="none", freeze=None)
    assert layers(found) == {"conv1", "bn1", "conv2", "bn2", "conv3.0", "conv3.1", "fc"}
    assert not found.rates
    assert not found.frozen


@pytest.mark.parametrize(
    ("choices", "error", "message"),
    [
        ({"unfreeze_at": "conv4"}, NameUnknown, "'conv4', which is no node with weights; the nearest are conv"),
        ({"unfreeze_at": "gap"}, NameUnknown, "no node with weights"),
        ({"freeze": "norms,block*"}, NameUnknown, "'block\\*', and no layer with weights is so called; the nearest"),
        ({"freeze": "none,conv1"}, RecipeError, "none stands by itself"),
        ({"freeze": "*"}, RecipeError, "leaves nothing to train"),
    ],
)
def test_what_names_nothing_is_refused(choices: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        setup(**choices)


def test_it_is_said_what_trains() -> None:
    said = explained(Recipe(phases="both", freeze="norms", epochs=5, lr=1e-4), ROOT)
    assert said == (
        "fine-tuning, 5 epochs: conv3.0 and what follows train, 166 of 442 numbers, at a rate of 0.0001 in the head and"
        " 0.5 times that at each stage below; the statistics of batch norms stay"
    )
