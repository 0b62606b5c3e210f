"""A file that `imori.export_onnx` wrote, read back as plain data: its weights, and what it says of itself.

Its graph is not read, for imori makes its own from the tree. Nothing outside the file is opened.
"""

from __future__ import annotations

import importlib.util
import re
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from imori.errors import FrameworkMissing, WeightsError
from imori.weights.names import Weights

MOST_BYTES = 2**31 - 1
"""Of a model in one file, as protobuf has it."""
STEP = re.compile(r"(\d+/)?/")
"""How the name of a constant begins that is no weight; a member of an ensemble has its number before it."""
OURS = "name a file that imori.export_onnx wrote; any other is run by ONNX Runtime itself"


def onnx_tensors(path: Path) -> tuple[Weights, dict[str, str]]:
    """The weights of a file by their names, unchecked, and its metadata.

    WeightsError for a file that is cut short or not imori's, and for weights outside it; FrameworkMissing without onnx.
    """
    model = _parsed(path)
    metadata = {each.key: each.value for each in model.metadata_props}
    tensors = {each.name: each for each in model.graph.initializer}
    if not all(isinstance(text, str) for text in (*metadata, *metadata.values(), *tensors)):
        raise WeightsError(f"{path} is damaged: protobuf holds bytes where a text should be; {OURS}")
    if "imori" not in metadata:
        raise WeightsError(f"{path} was not written by imori, or is cut short: its metadata name no tree; {OURS}")
    return {name: _values(each, name, path) for name, each in tensors.items() if not STEP.match(name)}, metadata


def _parsed(path: Path) -> Any:
    """The ModelProto."""
    if importlib.util.find_spec("onnx") is None:
        raise FrameworkMissing(
            f"{path} is read by onnx, which is not installed; install it by: pip install 'imori[onnx]'"
        )
    from onnx import ModelProto

    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise WeightsError(f"{path} has {size:,} bytes, and an ONNX file at most {MOST_BYTES:,}; {OURS}")
        return ModelProto.FromString(path.read_bytes())
    except FileNotFoundError:
        raise WeightsError(f"{path} is not there; name a run, a model.safetensors or a .onnx") from None
    except OSError as error:
        raise WeightsError(f"{path} cannot be read: {error.strerror or error}; {OURS}") from error
    except WeightsError:
        raise
    except Exception as error:  # protobuf has errors of its own
        raise WeightsError(f"{path} cannot be read as ONNX; it is cut short or another kind of file; {OURS}") from error


def _values(tensor: Any, name: str, path: Path) -> Any:
    """A weight, which must stand in the file itself, as many float32 numbers as its shape says."""
    shape = tuple(tensor.dims)
    inside = tensor.data_type == tensor.FLOAT and tensor.data_location == tensor.DEFAULT and min(shape, default=0) >= 0
    try:
        if inside and len(tensor.raw_data) == 4 * prod(shape):
            return np.frombuffer(tensor.raw_data, "<f4").reshape(shape).astype("float32")
    except ValueError:  # a shape that no array has
        pass
    raise WeightsError(f"{path}: {name[:80]!r} is not held as float32 numbers in the file itself; {OURS}")
