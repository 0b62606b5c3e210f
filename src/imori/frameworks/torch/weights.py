"""A module's tensors under canonical names, and where and how exactly it computes."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from imori.frameworks.base import Array, weight_name
from imori.frameworks.torch.layers import hook_of

FEW = 1100
"""Products that a value of a convolution's output sums: 1152 are 128 channels under a 3×3 kernel."""

WRAPPERS = (AveragedModel, nn.DataParallel, nn.parallel.DistributedDataParallel)
"""PyTorch's modules that hold another one as `module`, and compute as it does."""
_ROLES = {"running_mean": "mean", "running_var": "var"}


def canonical(key: str) -> str | None:
    """The canonical name of a key of the state dict; None for a batch norm's count of batches, which is no weight."""
    path, _, role = key.rpartition(".")
    return None if role == "num_batches_tracked" else weight_name(path, _ROLES.get(role, role))


def unwrapped(native: nn.Module) -> nn.Module:
    """The module itself, out of what `torch.compile`, averaging or parallel training put around it."""
    if isinstance(native, WRAPPERS):
        return unwrapped(native.module)
    inside: Any = getattr(native, "_orig_mod", native)
    return inside if inside is native else unwrapped(inside)


def tensors(native: nn.Module) -> dict[str, Tensor]:
    """Canonical name -> the module's own parameter or buffer, in the order in which the layers run."""
    state = unwrapped(native).state_dict(keep_vars=True)
    return {name: tensor for key, tensor in state.items() if (name := canonical(key)) is not None}


def as_array(tensor: Tensor) -> Array:
    """A contiguous copy; of bfloat16, which NumPy has not, in float32."""
    values = tensor.detach().cpu()
    return np.array((values.float() if values.dtype == torch.bfloat16 else values).numpy(), order="C")


def place(native: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Where the module computes, and in what; without weights, on the CPU in the dtype that it was built in."""
    first = next(native.parameters(), None)
    return (torch.device("cpu"), hook_of(unwrapped(native)).dtype) if first is None else (first.device, first.dtype)


def channels_last(native: nn.Module) -> bool:
    """Whether to compute channels last in memory: where that is fastest, and it changes no result but by rounding.

    So it is on a CPU, in float32, where half of the convolutions or more are 1×1 or sum few products; in training the
    weights lie so too. A training step's speed then, beside that in torch's usual layout (torch 2.13 with oneDNN, one
    and two cores of an AMD EPYC): mobilenet_v2 at 64 px 1.52 and 1.49, densenet121 1.32 and 1.15, resnet_mnist_plain
    1.29 and 1.32, resnet50 1.06 and 1.03. Of those that stay in the usual layout, it would be: resnet18 at 48 px 0.85
    and 0.79, at 96 px 1.04 and 1.01, vgg16 at 64 px 0.97 and 0.91, alexnet at 96 px 0.95 and 0.91.
    """
    device, dtype = place(native)
    convolutions = [module for module in native.modules() if isinstance(module, nn.Conv2d)]
    small = [module.kernel_size == (1, 1) or module.weight[0].numel() < FEW for module in convolutions]
    return device.type == "cpu" and dtype == torch.float32 and bool(small) and 2 * sum(small) >= len(small)


@dataclass(frozen=True)
class AsImages:
    """Batches (N, C, H, W) for a module, copied only where they must be. It looks at the module once, to save time."""

    device: torch.device
    dtype: torch.dtype
    last: bool
    """Channels last in memory."""

    @classmethod
    def of(cls, native: nn.Module) -> AsImages:
        """As the module wants them now."""
        return cls(*place(native), channels_last(native))

    def __call__(self, images: Array) -> Tensor:
        """The batch."""
        batch = torch.as_tensor(np.require(images, requirements=["C", "W"]), dtype=self.dtype, device=self.device)
        return batch.contiguous(memory_format=torch.channels_last) if self.last and batch.ndim == 4 else batch


MODES = threading.RLock()
"""Held while the modes of modules are other than their owner left them."""


@contextlib.contextmanager
def evaluating(native: nn.Module) -> Iterator[None]:
    """Inside, the module is in evaluation; the mode of every submodule is left as it was.

    One thread after the other: none may give the mode back while another still computes.
    """
    with MODES:
        modes = [(module, module.training) for module in native.modules()]
        native.eval()
        try:
            yield
        finally:
            for module, mode in modes:
                module.training = mode


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """CUDA without the short floats of TF32, and with sums in the same order in every run."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
