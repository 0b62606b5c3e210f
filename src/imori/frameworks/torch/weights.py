"""A module's tensors under canonical names, and where and how exactly it computes."""

from __future__ import annotations

import contextlib
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from imori import tree as t
from imori.frameworks.base import Array, weight_name
from imori.frameworks.torch.layers import hook_of
from imori.shapes import flat

FEW = 1100
"""Products that a value of a convolution's output sums: 1152 are 128 channels under a 3×3 kernel."""

_ROLES = {"running_mean": "mean", "running_var": "var"}


def canonical(key: str) -> str | None:
    """The canonical name of a key of the state dict; None for a batch norm's count of batches, which is no weight."""
    path, _, role = key.rpartition(".")
    return None if role == "num_batches_tracked" else weight_name(path, _ROLES.get(role, role))


def unwrapped(native: nn.Module) -> nn.Module:
    """The module itself, out of the wrapper that `torch.compile` puts around it."""
    inside: Any = getattr(native, "_orig_mod", native)
    return inside  # type: ignore[no-any-return]


def tensors(native: nn.Module) -> dict[str, Tensor]:
    """Canonical name -> the module's own parameter or buffer, in the order in which the layers run."""
    state = unwrapped(native).state_dict(keep_vars=True)
    return {name: tensor for key, tensor in state.items() if (name := canonical(key)) is not None}


def as_array(tensor: Tensor) -> Array:
    """A contiguous copy."""
    return np.array(tensor.detach().cpu().numpy(), order="C")


def place(native: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where the module computes, and in what; without weights, on the CPU in the dtype that it was built in."""
    first = next(native.parameters(), None)
    return (torch.device("cpu"), hook_of(unwrapped(native)).dtype) if first is None else (first.device, first.dtype)


def channels_last(native: nn.Module, training: bool = False) -> bool:
    """Whether to compute channels last in memory: where that is fastest, and it changes no result but by rounding.

    So it is on a CPU, in float32, where half of the convolutions or more sum few products; and in training, where the
    weights lie so too, for every net but those with a map of one place or with LRN. A step's time then, beside its time
    in torch's usual layout (torch 2.13 with oneDNN, one core of an AMD EPYC): mobilenet_v2 at 32 px 0.55,
    resnet_mnist_plain 0.81, resnet18 at 96 px 0.95, at 64 px from 0.91 to 1.01, vgg16 at 64 px 0.97. Of those that stay
    in the usual layout, it would be: resnet18 at 32 px 1.19, alexnet at 128 px 1.03.
    """
    device, dtype = place(native)
    convolutions = [module for module in native.modules() if isinstance(module, nn.Conv2d)]
    if device.type != "cpu" or dtype != torch.float32 or not convolutions:
        return False
    if statistics.median(module.weight[0].numel() for module in convolutions) < FEW:
        return True
    nodes = list(flat(hook_of(unwrapped(native)).check.root))
    least = min(math.prod(node.output[1:]) for node in nodes if isinstance(node.layer, t.Conv | t.Depthwise))
    return training and least > 1 and not any(isinstance(node.layer, t.LRN) for node in nodes)


@dataclass(frozen=True)
class AsImages:
    """Batches (N, C, H, W) for a module, copied only where they must be. It looks at the module once, to save time."""

    device: torch.device
    dtype: torch.dtype
    last: bool
    """Channels last in memory."""

    @classmethod
    def of(cls, native: nn.Module, training: bool = False) -> AsImages:
        """As the module wants them now."""
        return cls(*place(native), channels_last(native, training))

    def __call__(self, images: Array) -> Tensor:
        """The batch."""
        batch = torch.as_tensor(np.require(images, requirements=["C", "W"]), dtype=self.dtype, device=self.device)
        return batch.contiguous(memory_format=torch.channels_last) if self.last and batch.ndim == 4 else batch


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """CUDA without the short floats of TF32, and with sums in the same order in every run."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
