"""One step of training in PyTorch; the formulas of `imori.optimizers` are worked out by the functions of `torch.optim`.

Its classes call the same functions, but import PyTorch's compiler for it, which takes more than a second.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any, assert_never

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.optim.adagrad import adagrad
from torch.optim.adam import adam
from torch.optim.rmsprop import rmsprop
from torch.optim.sgd import sgd

from imori import optimizers as o
from imori.errors import ImoriError
from imori.frameworks.base import Array, Setup, Weights, check_setup, times
from imori.frameworks.torch.layers import head_weights
from imori.frameworks.torch.weights import AsImages, as_array, exact, tensors, unwrapped
from imori.shapes import Shape
from imori.weights.names import compare

Memory = dict[str, Tensor]
"""What the optimizer remembers of one weight, by the slots' names, and "time": how many steps there were, a scalar."""


class TorchStep:
    """Changes the module in place, its layout in memory too, and keeps it in training mode: `base.Step`."""

    def __init__(self, native: nn.Module, setup: Setup) -> None:
        self._native, self._how, self._clip = native, setup.optimizer, setup.clip
        self._as_images = AsImages.of(native)
        if self._as_images.last:
            native.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch forgot to say so
        self._device = self._as_images.device
        check_setup("torch", setup, list(tensors(native)), str(self._as_images.dtype).removeprefix("torch."))
        frozen = {module for path, module in unwrapped(native).named_modules() if path in setup.frozen}
        self._modes = [(module, module not in frozen) for module in native.modules()]
        self._draws = any(isinstance(module, nn.Dropout) for module in native.modules())
        self._loss_weights = (1.0, *head_weights(unwrapped(native)))
        self._trained: dict[str, nn.Parameter] = {}
        self._groups: dict[tuple[float, bool], list[str]] = {}
        """The trained weights by the multiplier of their rate, and by whether they decay."""
        for name, tensor in tensors(native).items():
            if not isinstance(tensor, nn.Parameter):
                continue  # running statistics, which batch norms keep for themselves
            tensor.requires_grad_(name in setup.trainable)
            if name in setup.trainable:
                self._trained[name] = tensor
                self._groups.setdefault((setup.rates.get(name, 1.0), name in setup.decayed), []).append(name)
        self._memory: dict[str, Memory] = {}
        self.restore({name: np.zeros(shape) for name, shape in self._shapes().items()})

    def __call__(self, images: Array, targets: Array, weights: Array, rate: float, key: int) -> tuple[float, Array]:
        """The loss before the step, and the logits that gave it. A loss that is not finite changes no weight.

        ImoriError where a batch norm gets a single value a channel.
        """
        x = self._as_images(images)
        with np.errstate(invalid="ignore"):  # what is not finite shows in the loss
            shares = targets * (weights / -(weights.sum(dtype=float) or 1.0))[:, np.newaxis]
        shares = torch.as_tensor(shares, dtype=x.dtype, device=x.device)
        for module, training in self._modes:
            if module.training != training:  # to set it again would cost a small net more than to look
                module.training = training
        for parameter in self._trained.values():
            parameter.grad = None
        with contextlib.ExitStack() as surroundings:
            if self._device.type == "cuda":
                surroundings.enter_context(exact())
            if self._draws:
                surroundings.enter_context(_seeded(key, self._device))
            outputs = self._forward(x)
            losses = [
                (weight * shares * F.log_softmax(out, 1)).sum()
                for out, weight in zip(outputs, self._loss_weights, strict=True)
            ]
            loss = sum(losses[1:], losses[0])
            value = float(loss.item())
            if math.isfinite(value):
                loss.backward()  # type: ignore[no-untyped-call]
                self._update(rate)
        return value, as_array(outputs[0])

    def _update(self, rate: float) -> None:
        if self._clip is not None:
            nn.utils.clip_grad_norm_(self._trained.values(), self._clip)
        with torch.no_grad():
            for (multiplier, decayed), names in self._groups.items():
                met = [name for name in names if self._trained[name].grad is not None]
                if met:
                    weights, memory = [self._trained[name] for name in met], [self._memory[name] for name in met]
                    _update(self._how, weights, memory, rate * multiplier, decayed)
        self._time += 1

    def _forward(self, x: Tensor) -> tuple[Tensor, ...]:
        try:
            outputs = self._native(x)
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            raise ImoriError(
                f"a batch norm cannot train on one value a channel, and a batch of {len(x)} images"
                f" {times(x.shape[1:])} leaves it no more; use a larger batch, or larger images"
            ) from error
        return outputs if isinstance(outputs, tuple) else (outputs,)

    def _shapes(self) -> dict[str, Shape]:
        """The names and shapes of the state."""
        slots = {f"{name}/{slot}": tuple(p.shape) for name, p in self._trained.items() for slot in self._how.slots}
        return {**slots, "time": ()}

    def state(self) -> Weights:
        """The optimizer's memory under our names: copies."""
        slots = {
            f"{name}/{slot}": as_array(self._memory[name][slot]) for name in self._trained for slot in self._how.slots
        }
        return {**slots, "time": np.array(self._time, np.int64)}

    def restore(self, state: Weights) -> None:
        """Goes on from a state of any framework. WeightsError if its names or shapes are others."""
        compare(state, self._shapes(), "the optimizer's memory")
        self._time = int(state["time"])
        for name, parameter in self._trained.items():
            memory = {"time": torch.tensor(float(self._time), device=self._device)}
            for slot in self._how.slots:
                # Laid out in memory as the weight is: the fused functions walk through both side by side.
                memory[slot] = torch.empty_like(parameter, requires_grad=False)
                memory[slot].copy_(torch.tensor(state[f"{name}/{slot}"]))
            self._memory[name] = memory


@contextlib.contextmanager
def _seeded(key: int, device: torch.device) -> Iterator[None]:
    """Dropout drawn from `key` alone; afterwards the user's own random numbers go on as if nothing had been drawn."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        # torch.manual_seed would look at every kind of device, which costs a small net a tenth of its step.
        (torch.default_generator if device.type == "cpu" else torch).manual_seed(key)
        yield


def _update(how: o.Optimizer, weights: list[nn.Parameter], memory: list[Memory], rate: float, decayed: bool) -> None:
    """Changes weights by their gradients, and what is remembered of them; fused into one kernel where that is there."""
    values: list[Any] = [*weights]
    gradients: list[Any] = [weight.grad for weight in weights]
    slots: dict[str, list[Any]] = {slot: [each[slot] for each in memory] for slot in how.slots}
    times = [each["time"] for each in memory]
    common: dict[str, Any] = {"lr": rate, "weight_decay": how.weight_decay if decayed else 0.0, "maximize": False}
    match how:
        case o.SGD(momentum=momentum, nesterov=nesterov):
            common |= {"momentum": momentum, "dampening": 0.0, "nesterov": nesterov and momentum > 0, "fused": True}
            sgd(values, gradients, slots.get("velocity", []), **common)
        case o.AdaGrad(eps=eps):
            common |= {"lr_decay": 0.0, "eps": eps, "fused": values[0].device.type == "cpu"}
            adagrad(values, gradients, slots["square"], times, **common)
        case o.RMSProp(alpha=alpha, eps=eps):
            common |= {"alpha": alpha, "eps": eps, "momentum": 0.0, "centered": False, "foreach": True}
            rmsprop(values, gradients, slots["square"], [], [], times, **common)
        case o.Adam(beta1=beta1, beta2=beta2, eps=eps):
            common |= {"beta1": beta1, "beta2": beta2, "eps": eps, "amsgrad": False, "fused": True}
            common["decoupled_weight_decay"] = how.decoupled
            adam(values, gradients, slots["mean"], slots["square"], [], times, **common)
        case _:
            assert_never(how)
