"""The optimizers' formulas, ten steps each, against `torch.optim`."""

from typing import Any

import numpy as np
import pytest
import torch

from imori.errors import RecipeError
from imori.optimizers import OPTIMIZERS, SGD, Adam, AdamW, optimizer

CASES: dict[str, tuple[str, dict[str, Any], Any, dict[str, Any]]] = {
    "sgd": ("sgd", {"momentum": 0.0}, torch.optim.SGD, {}),
    "sgd-decay": ("sgd", {"momentum": 0.0, "weight_decay": 0.1}, torch.optim.SGD, {"weight_decay": 0.1}),
    "momentum": ("momentum", {}, torch.optim.SGD, {"momentum": 0.9}),
    "momentum-decay": (
        "momentum",
        {"momentum": 0.7, "weight_decay": 0.1},
        torch.optim.SGD,
        {"momentum": 0.7, "weight_decay": 0.1},
    ),
    "nesterov": ("nesterov", {}, torch.optim.SGD, {"momentum": 0.9, "nesterov": True}),
    "nesterov-decay": (
        "nesterov",
        {"momentum": 0.8, "weight_decay": 0.1},
        torch.optim.SGD,
        {"momentum": 0.8, "nesterov": True, "weight_decay": 0.1},
    ),
    "adagrad": ("adagrad", {}, torch.optim.Adagrad, {}),
    "adagrad-decay": (
        "adagrad",
        {"weight_decay": 0.1, "eps": 1e-3},
        torch.optim.Adagrad,
        {"weight_decay": 0.1, "eps": 1e-3},
    ),
    "rmsprop": ("rmsprop", {}, torch.optim.RMSprop, {}),
    "rmsprop-decay": (
        "rmsprop",
        {"weight_decay": 0.1, "alpha": 0.8, "eps": 1e-3},
        torch.optim.RMSprop,
        {"weight_decay": 0.1, "alpha": 0.8, "eps": 1e-3},
    ),
    "adam": ("adam", {}, torch.optim.Adam, {}),
    "adam-decay": (
        "adam",
        {"weight_decay": 0.1, "beta1": 0.8, "beta2": 0.9, "eps": 1e-3},
        torch.optim.Adam,
        {"weight_decay": 0.1, "betas": (0.8, 0.9), "eps": 1e-3},
    ),
    "adamw": ("adamw", {}, torch.optim.AdamW, {"weight_decay": 0.01}),
    "adamw-decay": ("adamw", {"weight_decay": 0.2}, torch.optim.AdamW, {"weight_decay": 0.2}),
}


@pytest.mark.parametrize(("name", "options", "kind", "theirs"), list(CASES.values()), ids=list(CASES))
def test_ten_steps_equal_torch(name: str, options: dict[str, Any], kind: Any, theirs: dict[str, Any]) -> None:
    rng = np.random.default_rng(3)
    weight = rng.standard_normal((3, 4))
    tensor = torch.tensor(weight, requires_grad=True)
    how, reference = optimizer(name, **options), kind([tensor], lr=0.1, **theirs)
    slots = {slot: np.zeros_like(weight) for slot in how.slots}
    for time in range(1, 11):
        gradient = rng.standard_normal(weight.shape) * 10.0 ** rng.integers(-6, 2, weight.shape)  # eps matters
        rate = 0.1 / time  # the rate changes: momentum that holds rates would show
        reference.param_groups[0]["lr"] = rate
        tensor.grad = torch.tensor(gradient)
        reference.step()
        weight, slots = how.update(weight, gradient, slots, rate, time, True)
        assert set(slots) == set(how.slots)
        assert weight == pytest.approx(tensor.detach().numpy(), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_weights_that_do_not_decay(name: str) -> None:
    rng = np.random.default_rng(4)
    weight, gradient = rng.standard_normal((2, 3, 4))
    decaying, plain = optimizer(name, weight_decay=0.3), optimizer(name, weight_decay=0.0)
    slots = {slot: np.zeros_like(weight) for slot in plain.slots}
    expected, _ = plain.update(weight, gradient, slots, 0.1, 1, True)
    assert np.array_equal(decaying.update(weight, gradient, slots, 0.1, 1, False)[0], expected)
    assert not np.array_equal(decaying.update(weight, gradient, slots, 0.1, 1, True)[0], expected)


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_float32_stays_float32(name: str) -> None:
    weight, gradient = np.random.default_rng(5).standard_normal((2, 3, 4)).astype("float32")
    how = optimizer(name, weight_decay=0.1)
    slots = {slot: np.zeros_like(weight) for slot in how.slots}
    updated, slots = how.update(weight, gradient, slots, 0.1, 1, True)
    assert {updated.dtype, *(slot.dtype for slot in slots.values())} == {np.dtype("float32")}


def test_names_and_options() -> None:
    assert optimizer("momentum", momentum=0.5) == SGD(momentum=0.5)
    assert optimizer("nesterov") == SGD(nesterov=True)
    assert optimizer("sgd", momentum=0.0).slots == ()
    assert isinstance(optimizer("adamw"), AdamW)
    assert type(optimizer("adam")) is Adam
    with pytest.raises(RecipeError, match=r"no optimizer 'adm'; there are .*adam.*nesterov"):
        optimizer("adm")
    with pytest.raises(RecipeError, match=r"adam has no momentum; it has .*beta1"):
        optimizer("adam", momentum=0.9)
