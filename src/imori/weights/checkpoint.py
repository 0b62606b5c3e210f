"""Tensors out of files that others wrote: .safetensors, and PyTorch's .pth, of which no code is ever run."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import pickletools
import re
import warnings
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import safetensors

from imori.errors import FrameworkMissing, WeightsError
from imori.shapes import Shape
from imori.weights.file import opened
from imori.weights.names import Weights

PYTORCH = (".pth", ".pt", ".bin", ".tar")
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")
"""Where training scripts keep the weights. Averaged ones come first: they are what such a script publishes."""
PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel, averaging and torch.compile put before every name."""
MOST_SHARED = 4
"""How many tensors may have the same bytes of a file, on average: any number can, and each becomes an array."""
MOST_PICKLE = 2**16
"""Bytes of a pickle that are looked through for the name of what it holds."""
COUNTERS = ("num_batches_tracked", "n_averaged")
"""Counts of batches and of averaged models, which no network computes with: left out, and nothing else is."""


def read_checkpoint(path: Path, layers: Collection[str] = ()) -> Weights:
    """Name -> array under the file's own names, out of its wrappers, without counters.

    `layers` are the paths of the network's own, where they are known: what begins them is no wrapper's prefix.

    Values keep their dtype where NumPy has it; bfloat16, which it has not, becomes float32. WeightsError for a file
    that cannot be read, holds code, or holds anything but floats.
    """
    suffix = path.suffix.lower()
    if suffix == ".safetensors":
        held = _read_safetensors(path)
    elif suffix in PYTORCH:
        held = _read_pytorch(path)
    else:
        known = ", ".join((".safetensors", *PYTORCH, ".h5", ".keras"))
        raise WeightsError(f"{path} is no checkpoint that can be read; name a file that ends in one of {known}")
    names = [name for name in held if name.rpartition(".")[2] not in COUNTERS]
    if not names:
        raise WeightsError(f"{path} holds no weights; save model.state_dict()")
    start = len(_prefix(names, layers))
    tensors = {name[start:]: held[name] for name in names}
    for name, value in tensors.items():
        if value.dtype.kind != "f":
            raise WeightsError(f"{path}: {name} holds {value.dtype}, and weights are floats; save the float model")
    return tensors


def _prefix(names: list[str], layers: Collection[str]) -> str:
    """The wrappers' prefixes that all names have, before those of the layers."""
    prefix = ""
    while more := next((p for p in PREFIXES if all(name.startswith(prefix + p) for name in names)), ""):
        if any(name.removeprefix(prefix).rpartition(".")[0] in layers for name in names):
            break
        prefix += more
    return prefix


def _read_safetensors(path: Path) -> Weights:
    with opened(path) as file:
        kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        tensors: Weights = {name: file.get_tensor(name) for name, kind in kinds.items() if kind != "BF16"}
        if len(tensors) < len(kinds):
            every = safetensors.deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
            tensors |= {name: widened(raw["data"], raw["shape"]) for name, raw in every if kinds[name] == "BF16"}
    return tensors


def widened(data: bytes, shape: Shape) -> npt.NDArray[np.float32]:
    """Bytes of bfloat16, which is the upper half of a float32, as float32."""
    bits = np.frombuffer(data, "<u2").astype(np.uint32) << 16
    return bits.view(np.float32).reshape(shape)


def computable(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Floats that every framework computes with: in the machine's byte order, long doubles as float64."""
    if values.dtype.kind != "f":
        return values
    with np.errstate(over="ignore"):  # it becomes infinite, which is refused where the names are known
        return values.astype(f"f{min(values.dtype.itemsize, 8)}", copy=False)


def _read_pytorch(path: Path) -> Weights:
    if importlib.util.find_spec("torch") is None:
        raise FrameworkMissing(
            f"{path} is a file of PyTorch, which is not installed; install it by: pip install 'imori[torch]', or take"
            " the checkpoint as .safetensors"
        )
    import torch

    try:
        mapped = zipfile.is_zipfile(path) and _is_plain(path)
        # Training scripts keep their arguments beside the weights: plain values, in an argparse.Namespace.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of old pickles: what cannot be read is said below
            held = torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)
    except FileNotFoundError:
        raise WeightsError(f"{path} is not there; name a checkpoint") from None
    except WeightsError:
        raise
    except Exception as error:  # torch raises nearly anything at a damaged file
        raise WeightsError(f"{path} {_refusal(path, error)}") from error
    try:
        state = {str(name): tensor.detach() for name, tensor in _state(held).items()}
        size, most = sum(tensor.numel() * tensor.element_size() for tensor in state.values()), path.stat().st_size
        if size <= MOST_SHARED * most:
            return {name: _as_array(tensor) for name, tensor in state.items()}
    except (AttributeError, TypeError, RuntimeError, ValueError) as error:
        raise WeightsError(f"{path} holds more than arrays by name ({error}); save model.state_dict()") from error
    raise WeightsError(f"{path} has {most:,} bytes and declares weights of {size:,}, and was not read; it is damaged")


def _is_plain(path: Path) -> bool:
    """True. WeightsError for an archive that is packed, which could unpack to any size, or damaged.

    torch.save packs none. Its checksums are 0 where it was told not to compute them; torch.load compares none.
    """
    with zipfile.ZipFile(path) as archive:
        held = archive.infolist()
        packed = next((info.filename for info in held if info.compress_type != zipfile.ZIP_STORED), None)
        if packed is not None:
            raise WeightsError(f"{path} holds {packed!r:.80} packed, and was not read; save it by torch.save")
        damaged = archive.testzip() if any(info.CRC for info in held) else None
    if damaged is not None:
        raise WeightsError(f"{path}: its {damaged!r:.80} is damaged: the checksum is another; fetch or copy it anew")
    return True


def _refusal(path: Path, error: Exception) -> str:
    """What is said of a file that PyTorch refuses: not its advice, which is to let the code in it run."""
    refused = re.search(r"GLOBAL ([\w.]+)", str(error))
    if name := refused[1] if refused else _first_object(path):
        return (
            f"holds {name}, which could run code, and was not read: only tensors are; save model.state_dict() by"
            " torch.save, or as .safetensors"
        )
    said = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    why = "" if "weights_only" in said else f" ({said})"
    return f"cannot be read as a checkpoint of PyTorch{why}; it may be cut short or another kind of file"


def _first_object(path: Path) -> str:
    """What a pickle that is no archive names first, as "os.system"; "" for one that names nothing, and no pickle."""
    with open(path, "rb") as file:
        start = file.read(MOST_PICKLE)
    if not start.startswith(b"\x80"):  # the opcode PROTO, with which every pickle of Python 3 begins
        return ""
    texts: list[str] = []
    with contextlib.suppress(ValueError):  # where it is cut, and at what is no pickle
        for code, argument, _ in pickletools.genops(start):
            if code.name == "GLOBAL":
                return str(argument).replace(" ", ".")
            if code.name == "STACK_GLOBAL":
                return ".".join(texts[-2:])
            if isinstance(argument, str):
                texts.append(argument)
    return ""


def _state(held: Any) -> Mapping[str, Any]:
    """The tensors by name, out of the wrapper of a training checkpoint."""
    wrapped = (held.get(key) for key in WRAPPERS)
    return next((state for state in wrapped if isinstance(state, Mapping)), held)


def _as_array(tensor: Any) -> npt.NDArray[Any]:
    """A contiguous copy, in float32 for bfloat16. An error for a tensor that NumPy cannot hold."""
    import torch

    wide = tensor.float() if tensor.dtype == torch.bfloat16 else tensor
    return np.array(wide.numpy(), order="C")
