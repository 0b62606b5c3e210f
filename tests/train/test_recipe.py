import json
from dataclasses import fields, replace

import pytest

from imori import optimizers
from imori.errors import RecipeError
from imori.train.recipe import Recipe, from_data, read_recipe

OTHER = {
    "model": "lenet",
    "variant": "paper",
    "width": 0.5,
    "framework": "numpy",
    "engine": "plain",
    "size": (48, 64),
    "channels": 1,
    "resize": "stretch",
    "phases": "tune",
    "head": "mlp",
    "head_epochs": 11,
    "head_lr": 0.5,
    "feature_passes": 2,
    "freeze": "norms,conv1*",
    "unfreeze_at": "conv4",
    "stage_rate": 0.75,
    "folds": "loo",
    "repeats": 3,
    "duplicates": "apart",
    "epochs": 3,
    "iterations": 40,
    "batch_size": 7,
    "opt": "rmsprop",
    "lr": 0.25,
    "momentum": None,
    "weight_decay": 0.125,
    "schedule": "onecycle",
    "warmup_epochs": 1.5,
    "step_epochs": 2.0,
    "step_factor": 0.5,
    "label_smoothing": 0.1,
    "class_weights": {"cat": 2.0},
    "clip": 1.5,
    "patience": 4,
    "shift": 0.1,
    "rotate": 12.0,
    "crop": 0.5,
    "flip": 0.25,
    "colour": 0.3,
    "erase": 0.2,
    "val": 0.2,
    "test": 0.3,
    "precision": "float64",
    "seed": 9,
    "checkpoint_steps": 17,
}


def test_every_field_survives_json() -> None:
    assert set(OTHER) == {part.name for part in fields(Recipe)}
    recipe = Recipe(**OTHER)
    assert from_data(json.loads(json.dumps(recipe.to_data()))) == recipe


def test_every_field_is_checked() -> None:
    for part in fields(Recipe):
        with pytest.raises(RecipeError, match=part.name):
            Recipe(**{part.name: object()})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 0),
        ("epochs", True),
        ("epochs", 1.5),
        ("folds", 1),
        ("folds", "all"),
        ("repeats", 0),
        ("phases", "first"),
        ("head", "dense"),
        ("stage_rate", 0.0),
        ("batch_size", -1),
        ("lr", -0.1),
        ("lr", float("nan")),
        ("label_smoothing", 1.0),
        ("schedule", "linear"),
        ("class_weights", {"cat": -1}),
        ("size", (10, 20, 30)),
        ("size", 0),
        ("val", 0.95),
        ("precision", "float16"),
        ("flip", 1.1),
        ("crop", 0),
    ],
)
def test_impossible_values_name_the_field_and_what_is_right(name: str, value: object) -> None:
    with pytest.raises(RecipeError, match=rf"{name} is .*must be"):
        Recipe(**{name: value})


def test_the_optimizer_takes_the_options_that_are_given() -> None:
    assert Recipe(opt="nesterov", weight_decay=0.1).optimizer() == optimizers.SGD(0.1, 0.9, True)
    assert Recipe(opt="sgd", momentum=0.5).optimizer() == optimizers.SGD(0.0, 0.5)
    assert Recipe().optimizer() == optimizers.AdamW()
    with pytest.raises(RecipeError, match="adam has no momentum"):
        Recipe(opt="adam", momentum=0.5)
    with pytest.raises(RecipeError, match=r"'lion'.*adamw"):
        Recipe(opt="lion")


def test_an_unknown_field_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"'epoch'.*epochs"):
        from_data({"epoch": 3})


def test_a_recipe_file_may_be_a_runs_or_a_part(tmp_path) -> None:
    recipe = replace(Recipe(), epochs=7, size=(8, 9))
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"format": 1, "data": "digits", "recipe": recipe.to_data()}))
    assert read_recipe(path) == recipe
    path.write_text('{"epochs": 7}')
    assert read_recipe(path) == Recipe(epochs=7)


@pytest.mark.parametrize(
    ("text", "match"),
    [("{", "not JSON"), ("[1]", "must be an object"), ('{"format": 9}', "format 9"), ('{"lr": "x"}', "lr is 'x'")],
)
def test_a_damaged_recipe_file_is_named(tmp_path, text: str, match: str) -> None:
    path = tmp_path / "mine.json"
    path.write_text(text)
    with pytest.raises(RecipeError, match=match) as error:
        read_recipe(path)
    assert "mine.json" in str(error.value)
    with pytest.raises(RecipeError, match="absent"):
        read_recipe(tmp_path / "absent.json")
