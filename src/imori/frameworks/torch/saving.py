"""The files that PyTorch's users load: a state dict, as .pth or .safetensors, and an exported program, as .pt2."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from imori.frameworks.base import Array
from imori.frameworks.torch.layers import hook_of
from imori.frameworks.torch.weights import as_array, evaluating, exact, place, unwrapped
from imori.shapes import flat
from imori.weights.file import FORM, read_tensors, write_tensors

FORMS = {
    ".pth": "torch.load({}, weights_only=True)",
    ".safetensors": "safetensors.torch.load_file({})",
    ".pt2": "torch.export.load({}).module()",
}


def save(native: nn.Module, path: Path, about: Mapping[str, str]) -> None:
    """Writes the module's tensors, or with .pt2 the program that computes its logits, which runs without its class.

    A .pth holds tensors alone; the two others say what they are.
    """
    inside = unwrapped(native)
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in inside.state_dict().items()}
    match path.suffix:
        case ".pth":
            path.write_bytes(_in_memory(torch.save, state))
        case ".safetensors":
            write_tensors(path, {key: as_array(tensor) for key, tensor in state.items()}, {**about, FORM: "pt"})
        case _:
            program = _exported(inside)
            said = {"imori.json": json.dumps(dict(about))}
            path.write_bytes(_in_memory(torch.export.save, program, extra_files=said))


def _in_memory(write: Callable[..., None], *values: Any, **options: Any) -> bytes:
    """What torch would write. Where the disk is full, its writer throws when destroyed, which ends the process."""
    buffer = io.BytesIO()
    write(*values, buffer, **options)
    return buffer.getvalue()


def _exported(native: nn.Module) -> torch.export.ExportedProgram:
    """For batches of any size, and for images of any size if no layer is bound to one."""
    root, (device, dtype) = hook_of(native).check.root, place(native)
    bound = any(node.sized and not node.training_only for node in flat(root))
    free = {0: torch.export.Dim.AUTO} if bound else dict.fromkeys((0, 2, 3), torch.export.Dim.AUTO)
    with evaluating(native):
        example = torch.zeros((2, *root.input), dtype=dtype, device=device)
        return torch.export.export(native, (example,), dynamic_shapes=(free,))


def answers(twin: nn.Module, path: Path, images: Array) -> Array:
    """Logits (N, classes) by a file."""
    batch = torch.tensor(images, dtype=hook_of(twin).dtype)
    runs: Callable[[Tensor], Tensor] = twin
    match path.suffix:
        case ".pth":
            twin.load_state_dict(torch.load(path, weights_only=True))
        case ".safetensors":
            twin.load_state_dict({key: torch.tensor(value) for key, value in read_tensors(path)[0].items()})
        case _:
            runs = torch.export.load(path).module()
    with evaluating(twin), torch.inference_mode(), exact():
        return as_array(runs(batch))
