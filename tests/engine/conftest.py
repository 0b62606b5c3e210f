"""How every layer is checked: against finite differences, and against PyTorch. Arrays are channels first: (C, N, …)."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from imori import engine
from imori.engine import Layer

Array = np.ndarray[Any, np.dtype[Any]]
Make = Callable[[dict[str, Array]], Layer]
TOLERANCE = {"float64": 1e-10, "float32": 1e-4}


def agree(ours: Array, theirs: Array, tolerance: float, what: str) -> None:
    """The largest difference is small beside the largest value."""
    assert ours.shape == theirs.shape, f"{what}: {ours.shape}, and should be {theirs.shape}"
    scale = max(float(np.abs(theirs).max(initial=0)), 1e-12)
    error = float(np.abs(ours - theirs).max(initial=0)) / scale
    assert error <= tolerance, f"{what} is off by {error:.2e} of its size"


def read_only(array: Array) -> Array:
    """A copy into which nothing can be written: a layer must not change what it is given."""
    array = array.copy()
    array.flags.writeable = False
    return array


class Checks:
    """The checks, with random numbers of their own."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(7)
        self.agree = agree

    def normal(self, *shape: int) -> Array:
        """Random numbers in float64, a little off centre."""
        return self.rng.standard_normal(shape) + 0.1

    def run(self, layer: Layer, x: Array, dy: Array | None = None) -> tuple[Array, Array, Array]:
        """Forward and backward in training: y, dy (random unless given), dx."""
        y = layer.forward(read_only(x), training=True)
        dy = self.rng.standard_normal(y.shape).astype(x.dtype) if dy is None else dy
        dx = layer.backward(read_only(dy))
        assert dx is not None
        assert {a.dtype for a in (y, dx, *layer.gradients.values())} == {x.dtype}, "the dtype changed on the way"
        assert layer.recall() == (), "backward leaves nothing behind"
        return y, dy, dx

    def against_differences(self, layer: Layer, x: Array, tolerance: float = 1e-7) -> None:
        """Every gradient against (f(v + h) - f(v - h)) / 2h for each single value v, in float64."""
        running = {role: value.copy() for role, value in layer.weights.items() if role in ("mean", "var")}
        _, dy, dx = self.run(layer, x)
        gradients = {"x": dx, **layer.gradients}
        assert set(layer.gradients) == set(layer.weights) - {"mean", "var"}
        x = x.copy()
        for name, values in {"x": x, **{role: layer.weights[role] for role in layer.gradients}}.items():
            expected = np.empty(values.shape)
            for index in np.ndindex(values.shape):
                ends, middle = [], values[index]
                for step in (1e-5, -1e-5):
                    values[index] = middle + step
                    for role, value in running.items():
                        layer.weights[role][...] = value
                    ends.append(float((layer.forward(x, training=True) * dy).sum()))
                values[index] = middle
                expected[index] = (ends[0] - ends[1]) / 2e-5
            agree(gradients[name], expected, tolerance, f"the gradient by {name}")

    def against_torch(
        self, make: Make, function: Callable[..., torch.Tensor], x: Array, weights: Mapping[str, Array] | None = None
    ) -> None:
        """Output and gradients against a function of torch (x, **weights), in float64 and float32.

        torch sees x as (N, C, …).
        """
        for dtype, tolerance in TOLERANCE.items():
            own = {role: value.astype(dtype) for role, value in (weights or {}).items()}
            layer = make(own)
            y, dy, dx = self.run(layer, x.astype(dtype))
            # copies, because torch may keep the array's memory
            tensors = {role: torch.tensor(value, requires_grad=True) for role, value in own.items()}
            theirs = torch.tensor(x.astype(dtype).swapaxes(0, 1).copy(), requires_grad=True)
            out = function(theirs, **tensors)
            out.backward(torch.tensor(dy.swapaxes(0, 1).copy()))
            agree(y, out.detach().numpy().swapaxes(0, 1), tolerance, f"the output in {dtype}")
            agree(dx, theirs.grad.numpy().swapaxes(0, 1), tolerance, f"the gradient by x in {dtype}")
            for role, tensor in tensors.items():
                agree(layer.gradients[role], tensor.grad.numpy(), tolerance, f"the gradient by {role} in {dtype}")
            if not isinstance(layer.weights.get("mean"), np.ndarray):
                assert np.array_equal(layer.forward(x.astype(dtype)), y), "inference differs from training"
            assert layer.recall() == (), "inference keeps nothing"

    def against_plain(
        self, make: Callable[[Any], Layer], x: Array, dy: Array | None = None, tolerance: float = 1e-12
    ) -> None:
        """`make(engine.fast)` gives the output and the gradients of `make(engine)`, in both orders of memory."""
        for last in (False, True):
            plain, quick = make(engine), make(engine.fast)
            assert type(quick) is not type(plain)
            y, dy, dx = self.run(plain, x, dy)
            given, gradient = (channels_last(a) if last else a for a in (x, dy))
            found, _, back = self.run(quick, given, gradient)
            agree(found, y, tolerance, "the output")
            agree(back, dx, tolerance, "the gradient by x")
            for kind in ("gradients", "weights"):
                ours, theirs = getattr(quick, kind), getattr(plain, kind)
                assert ours.keys() == theirs.keys()
                for role in theirs:
                    agree(ours[role], theirs[role], tolerance, f"{role} of the {kind}")
            agree(quick.forward(given), plain.forward(x), tolerance, "the output at inference")
            assert quick.recall() == (), "inference keeps nothing"


def channels_last(x: Array) -> Array:
    """The same axes (C, N, ...), over memory that is (N, ..., C)."""
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(x, 0, -1)), -1, 0)


@pytest.fixture
def checks() -> Checks:
    return Checks()
