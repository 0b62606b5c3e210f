"""A model, and ONNX Runtime's session that runs it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import onnxruntime as ort
from onnx import ModelProto

from imori.frameworks.base import InputCheck, Weights
from imori.frameworks.onnx.graph import Graph
from imori.frameworks.onnx.model import from_images
from imori.shapes import Node

PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
"""imori's names of devices, the fastest first, and ONNX Runtime's."""
ERRORS_ALONE = 3
"""The level of ONNX Runtime's log that leaves out its warnings."""


class OnnxModel:
    """`proto`, from the input `images` to the output `logits`, and the session of ONNX Runtime that runs it."""

    def __init__(self, root: Node, weights: Weights, device: str) -> None:
        self.check, self.device = InputCheck(root), device
        self.fill(weights)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "session"}  # which cannot be copied

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self.session = session(self.proto, self.device)

    def fill(self, weights: Weights) -> None:
        """Makes both anew, with these weights."""
        graph = Graph()
        self.proto = from_images(graph, self.check.root, weights)
        self.values = graph.outputs
        """The path of each node that runs at inference -> its output in the graph."""
        self.session = session(self.proto, self.device)


def session(model: ModelProto | Path, device: str = "cpu") -> ort.InferenceSession:
    """What runs a model or the file of one, on a device."""
    options = ort.SessionOptions()
    options.log_severity_level = ERRORS_ALONE
    threads = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    options.intra_op_num_threads = int(threads) if threads.isdecimal() else 0  # 0: one for each core
    given = str(model) if isinstance(model, Path) else model.SerializeToString()
    return ort.InferenceSession(given, options, [PROVIDERS[device]])
