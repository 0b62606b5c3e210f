"""An ONNX graph in the making, and the model that it becomes.

A weight is an initializer under its canonical name, in its canonical layout, which is ONNX's own. Every other value
begins with "/": "/conv4.0.body" is the output of that node, and "/conv4.0.body-word" a step on the way to it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from imori.errors import WeightsError
from imori.frameworks.base import Weights
from imori.shapes import Node, flat

OPSET, IR = 18, 8
"""Pinned, for a runtime refuses files that are newer than itself: ONNX Runtime reads these since 1.14."""
MOST_BYTES = 2_000_000_000
"""Of weights: the whole file must stay below the 2^31 of protobuf."""
Dim: TypeAlias = int | str


class Graph:
    """Nodes and initializers, in the order in which they were added."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self.outputs: dict[str, str] = {}
        """Path of a tree's node -> the value that it gives; none of an auxiliary head."""

    def add(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        """One operation, called as the value that it gives."""
        self.nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    def constant(self, value: Any, dtype: str, name: str) -> str:
        """Numbers that are part of the graph."""
        self.initializers.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def add_weights(self, weights: Weights) -> None:
        """All of them in float32, those of auxiliary heads too, which nothing reads at inference."""
        for name, value in weights.items():
            self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(value, "float32"), name))

    def model(self, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]) -> ModelProto:
        """The whole. WeightsError where it is larger than a file of ONNX can be."""
        size = sum(len(tensor.raw_data) for tensor in self.initializers)
        if size > MOST_BYTES:
            raise WeightsError(
                f"an ONNX file holds {MOST_BYTES:,} bytes of weights, and this network has {size:,}; use fewer filters"
            )
        graph = helper.make_graph(self.nodes, "imori", inputs, outputs, self.initializers)
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR, producer_name="imori"
        )


def describe(model: ModelProto, metadata: Mapping[str, str]) -> None:
    """Writes into a model what it says of itself."""
    for key, value in sorted(metadata.items()):
        model.metadata_props.add(key=key, value=value)


def tensor(name: str, dtype: int, dims: Sequence[Dim]) -> ValueInfoProto:
    """An input or output; a dimension that has a name is free."""
    return helper.make_tensor_value_info(name, dtype, dims)


def dims_of(root: Node) -> list[Dim]:
    """Of a network's images: batches of any size, and maps of any height and width where no layer is bound to one."""
    bound = any(node.sized and not node.training_only for node in flat(root))
    return ["N", *root.input] if bound or len(root.input) == 1 else ["N", root.input[0], "H", "W"]


def weights_in(model: ModelProto) -> Weights:
    """The weights of a model, by their canonical names: copies."""
    named = (each for each in model.graph.initializer if not each.name.startswith("/"))
    return {each.name: np.array(numpy_helper.to_array(each)) for each in named}
