"""PyTorch: a tree becomes an ordinary `torch.nn.Module`, which needs imori no more.

Its modules are called by the segments of the canonical paths, so `state_dict` reads as our names do; a batch norm's
mean and var are torch's own running_mean and running_var. It works with `torch.compile` and `torch.export`, and comes
in training mode, as every torch module does: call `.eval()` before using it without imori. With auxiliary heads
(`Aux`) it returns (logits, logits of each head, ...) in training, and the logits alone in evaluation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from imori import tree as t
from imori.errors import ImoriError, TreeError
from imori.frameworks.base import Array, Setup, Weights, check_paths
from imori.frameworks.torch.layers import InputHook, awake, module_of
from imori.frameworks.torch.saving import FORMS, answers, save
from imori.frameworks.torch.step import TorchStep
from imori.frameworks.torch.weights import AsImages, as_array, canonical, evaluating, exact, tensors, unwrapped
from imori.shapes import Node
from imori.weights.names import compare

__all__ = [
    "DTYPES",
    "FORMS",
    "answers",
    "build",
    "device",
    "dump",
    "load",
    "logits",
    "outputs",
    "owns",
    "prepare",
    "save",
]

DTYPES = ("float32", "float64")


def device(name: str) -> str:
    """The device that `name` means; "auto" is CUDA, else Apple's "mps", else "cpu". ImoriError if it is not there."""
    there = ["cpu"]
    if torch.backends.mps.is_available():
        there.insert(0, "mps")
    if torch.cuda.is_available():
        there = ["cuda", *(f"cuda:{i}" for i in range(torch.cuda.device_count())), *there]
    if name == "auto":
        return there[0]
    if name not in there:
        raise ImoriError(f"torch has no device {name!r} here; it has {', '.join(there)}, and auto is the fastest")
    return name


def build(root: Node, weights: Weights, dtype: str, device: str) -> nn.Module:
    """The module, in training mode. TreeError for a lone Aux, ImoriError for mps in float64."""
    if isinstance(root.layer, t.Aux):
        raise TreeError("the root is an Aux, which only passes its input through; put it into a Chain with the rest")
    if device == "mps" and dtype == "float64":
        raise ImoriError("mps has no float64; use device='cpu', or dtype='float32'")
    with torch.device("meta"):  # no memory, and no random start for weights that are replaced at once
        native = module_of(root)
    state = {}
    for key in native.state_dict():
        name = canonical(key)
        if name is None:
            state[key] = torch.tensor(0, device=device)
        else:
            state[key] = torch.tensor(np.asarray(weights[name], dtype), device=device)
    native.load_state_dict(state, assign=True)
    native.to(device=device, dtype=getattr(torch, dtype))
    native.register_forward_pre_hook(InputHook(root, getattr(torch, dtype)))
    return native


def owns(native: object) -> bool:
    """Whether `build` made the module, be it trained or compiled since."""
    if not isinstance(native, nn.Module):
        return False
    return any(isinstance(hook, InputHook) for hook in unwrapped(native)._forward_pre_hooks.values())


def load(native: nn.Module, weights: Weights) -> None:
    """Copies canonical weights into the module's own tensors; an optimizer of yours keeps hold of them."""
    mine = tensors(native)
    compare(weights, {name: tuple(tensor.shape) for name, tensor in mine.items()})
    with torch.no_grad():
        for name, tensor in mine.items():
            tensor.copy_(torch.tensor(weights[name].astype(weights[name].dtype.newbyteorder("="))))


def dump(native: nn.Module) -> Weights:
    """Canonical weights, as arrays: copies."""
    return {name: as_array(tensor) for name, tensor in tensors(native).items()}


def logits(native: nn.Module, images: Array) -> Array:
    """Inference on images (N, C, H, W) -> (N, classes); the mode of every submodule is left as it was."""
    batch = AsImages.of(native)(images)
    with evaluating(native), torch.inference_mode(), exact():
        return as_array(native(batch))


def outputs(native: nn.Module, images: Array, paths: Sequence[str]) -> dict[str, Array]:
    """Inference on images (N, C, H, W): path -> a copy of that node's output, (N, C, H, W) or (N, F)."""
    inside = unwrapped(native)  # what torch.compile has compiled would not see the hooks
    known = dict(awake(inside))
    check_paths(paths, known)
    found: dict[str, Array] = {}

    def hook(path: str) -> Callable[[nn.Module, Any, Tensor], None]:
        def copy(module: nn.Module, inputs: Any, output: Tensor) -> None:
            found[path] = as_array(output)  # at once: a layer that follows may work in place

        return copy

    with contextlib.ExitStack() as stack:
        for path in dict.fromkeys(paths):
            stack.enter_context(known[path].register_forward_hook(hook(path)))
        logits(inside, images)
    return {path: found[path] for path in paths}


def prepare(native: nn.Module, setup: Setup) -> TorchStep:
    """A training step that changes the module in place; only what trains keeps `requires_grad`."""
    return TorchStep(native, setup)
