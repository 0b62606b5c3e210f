"""The whole graph of a model: from images to logits, or from photos to probabilities."""

from __future__ import annotations

from onnx import ModelProto, TensorProto

from imori.data import Preprocessing
from imori.frameworks.base import Weights
from imori.frameworks.onnx.graph import Dim, Graph, dims_of, tensor
from imori.frameworks.onnx.layers import run
from imori.frameworks.onnx.photos import add_preprocessing
from imori.shapes import Node


def from_images(graph: Graph, root: Node, weights: Weights) -> ModelProto:
    """`images`, float32 (N, C, H, W), to `logits`; in `graph.outputs` are the nodes' outputs."""
    graph.add_weights(weights)
    graph.add("Identity", [run(graph, root, "images")], "logits")
    channels, *size = root.output
    free: list[Dim] = ["h", "w"]  # they follow from H and W
    dims = ["N", channels, *(free if size else [])]
    return graph.model(
        [tensor("images", TensorProto.FLOAT, dims_of(root))], [tensor("logits", TensorProto.FLOAT, dims)]
    )


def from_photos(graph: Graph, root: Node, weights: Weights, how: Preprocessing) -> ModelProto:
    """`photos`, uint8 (N, H, W, 3) of any size, to `probabilities` (N, classes)."""
    graph.add_weights(weights)
    logits = run(graph, root, add_preprocessing(graph, "photos", how))
    graph.add("Softmax", [logits], "probabilities", axis=1)
    return graph.model(
        [tensor("photos", TensorProto.UINT8, ["N", "H", "W", 3])],
        [tensor("probabilities", TensorProto.FLOAT, ["N", *root.output])],
    )
