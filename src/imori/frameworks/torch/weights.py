"""A module's tensors under canonical names, and where and how exactly it computes."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from imori.frameworks.base import Array, weight_name
from imori.frameworks.torch.layers import built_in

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
    return (torch.device("cpu"), built_in(unwrapped(native))) if first is None else (first.device, first.dtype)


def channels_last(native: nn.Module) -> bool:
    """Whether the images should lie channels last in memory: what is fastest, and changes no result but by rounding.

    So it is on a CPU, in float32, where half of the convolutions or more sum few products. A step's time then, beside
    its time in torch's usual layout (torch 2.13 with oneDNN, one core of an AMD EPYC): resnet50 at 64 px 0.72,
    resnet_mnist_plain 0.78, lenet 0.83. Of those that stay in the usual layout, it would be: alexnet 1.04, resnet18 at
    32 px 1.15, vgg16_bn at 64 px 1.21.
    """
    device, dtype = place(native)
    products = [module.weight[0].numel() for module in native.modules() if isinstance(module, nn.Conv2d)]
    return device.type == "cpu" and dtype == torch.float32 and bool(products) and statistics.median(products) < FEW


def as_images(images: Array, native: nn.Module) -> Tensor:
    """A batch (N, C, H, W) for the module: a copy."""
    device, dtype = place(native)
    batch = torch.tensor(images, dtype=dtype, device=device)
    if batch.ndim != 4 or not channels_last(native):
        return batch
    return torch.empty(batch.shape, dtype=dtype, memory_format=torch.channels_last).copy_(batch)


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """CUDA without the short floats of TF32, and with sums in the same order in every run."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
