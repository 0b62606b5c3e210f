"""A module's tensors under canonical names, and where and how exactly it computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from imori.frameworks.base import Array, weight_name

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
    """Where the module computes, and in what; without weights, on the CPU in float32."""
    first = next(native.parameters(), torch.empty(0))
    return first.device, first.dtype


@contextlib.contextmanager
def exact() -> Iterator[None]:
    """CUDA without the short floats of TF32, and with sums in the same order in every run."""
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
