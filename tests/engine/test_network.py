"""Layers put together."""

from typing import Any

import numpy as np
import pytest
import torch

from imori import engine as e


def affine(checks: Any, out: int, inputs: int) -> e.Affine:
    return e.Affine(checks.normal(out, inputs), checks.normal(out))


def block(checks: Any) -> tuple[e.Layer, dict[str, e.Layer]]:
    """A chain with every way of branching, and its layers with weights by name."""
    layers = {"first": affine(checks, 4, 3), "left": affine(checks, 2, 4), "right": affine(checks, 4, 4)}
    layers |= {"third": affine(checks, 4, 4), "head": affine(checks, 2, 6), "last": affine(checks, 2, 6)}
    side = e.Sum([e.Chain([layers["right"], e.Tanh()]), e.Sigmoid(), layers["third"]])
    body = [layers["first"], e.Tanh(), e.Concat([layers["left"], side]), e.Aux(layers["head"], 0.3), layers["last"]]
    return e.Chain(body), layers


@pytest.mark.parametrize("kind", [e.Chain, e.Sum, e.Concat], ids=lambda kind: kind.__name__)
def test_containers_have_the_gradients_of_finite_differences(checks: Any, kind: Any) -> None:
    x = checks.normal(3, 2)
    layers = [affine(checks, 3, 3), e.Tanh(), e.Identity()]
    container = kind(layers)
    _, dy, dx = checks.run(container, x)
    expected = np.empty(x.shape)
    for index in np.ndindex(x.shape):
        ends = []
        for step in (1e-6, -1e-6):
            moved = x.copy()
            moved[index] += step
            ends.append((container.forward(moved) * dy).sum())
        expected[index] = (ends[0] - ends[1]) / 2e-6
    checks.agree(dx, expected, 1e-8, "the gradient by x")


def test_one_child_is_enough(checks: Any) -> None:
    x = checks.normal(3, 2)
    for kind in (e.Chain, e.Sum, e.Concat):
        y, dy, dx = checks.run(kind([e.Identity()]), x)
        assert np.array_equal(y, x)
        assert np.array_equal(dx, dy)


def test_a_network_takes_images_first(checks: Any) -> None:
    weight, bias = checks.normal(5, 3, 2, 2), checks.normal(5)
    conv = e.Convolution(weight, bias, e.Window((2, 2)))
    network = e.Network(e.Chain([conv, e.GlobalAvgPool()]), {"conv": conv}, "float64")
    images = checks.normal(4, 3, 6, 7)
    expected = torch.nn.functional.conv2d(*map(torch.tensor, (images, weight, bias))).mean((2, 3)).numpy()
    checks.agree(network.forward(images), expected, 1e-12, "the logits")
    assert list(network.weights) == ["conv.weight", "conv.bias"]
    assert network.weights["conv.weight"] is conv.weights["weight"]


def gradients(network: e.Network, images: Any, dy: Any, own: Any) -> dict[str, Any]:
    network.forward(images, training=True)
    for layer in e.every(network.body):
        if isinstance(layer, e.Aux):
            layer.gradient = own
    network.backward(dy)
    return {
        f"{path}.{role}": gradient
        for path, layer in network.layers.items()
        for role, gradient in layer.gradients.items()
    }


def test_the_head_adds_its_gradient_in_training_alone(checks: Any) -> None:
    body, layers = block(checks)
    network = e.Network(body, layers, "float64")
    images, dy, own = checks.normal(5, 3), checks.normal(5, 2), checks.normal(5, 2)
    aux = next(layer for layer in e.every(body) if isinstance(layer, e.Aux))
    logits = network.forward(images)
    assert aux.logits is None
    assert np.array_equal(network.forward(images, training=True), logits)
    assert aux.logits is not None
    assert aux.logits.shape == (5, 2)
    both = gradients(network, images, dy, own)
    none = gradients(network, images, dy, 0 * own)
    alone = gradients(network, images, 0 * dy, own)
    assert not none["head.weight"].any()
    assert not alone["last.weight"].any()
    for name in both:
        checks.agree(both[name], none[name] + alone[name], 1e-12, name)


@pytest.mark.parametrize(
    "names",
    [{"last.bias"}, {"head.weight"}, {"third.bias", "last.weight"}, {"left.weight"}, {"first.bias"}, set()],
    ids=lambda names: "+".join(sorted(names)) or "nothing",
)
def test_only_what_trains_is_worked_out_and_it_is_the_same(checks: Any, names: set[str]) -> None:
    body, layers = block(checks)
    network = e.Network(body, layers, "float64")
    images, dy, own = checks.normal(5, 3), checks.normal(5, 2), checks.normal(5, 2)
    whole = gradients(network, images, dy, own)
    network.train(names)
    part = gradients(network, images, dy, own)
    assert set(part) == names
    assert all(np.array_equal(part[name], whole[name]) for name in names)


def test_nothing_is_kept_below_what_trains(checks: Any) -> None:
    body, layers = block(checks)
    network = e.Network(body, layers, "float64")
    network.train({"last.weight"})
    network.forward(checks.normal(5, 3), training=True)
    kept = [path for path, layer in layers.items() if layer.recall()]
    assert kept == ["last"]


def test_the_key_alone_decides_the_dropout(checks: Any) -> None:
    network = e.Network(e.Chain([e.Dropout(0.5), e.Chain([e.Dropout(0.5)])]), {}, "float32")
    images = checks.normal(50, 9)

    def run(key: int) -> Any:
        network.seed(key)
        return network.forward(images, training=True)

    assert np.array_equal(run(1), run(1))
    assert not np.array_equal(run(1), run(2))
    network.seed(1)
    first, second = (network.forward(images, training=True) for _ in range(2))
    assert not np.array_equal(first, second)
