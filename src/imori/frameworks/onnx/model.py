"""The whole graph of a model: from images to logits, or from photos to probabilities."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto, TensorProto
from onnx.compose import add_prefix_graph

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


def averaged(models: Sequence[ModelProto], orders: Sequence[Sequence[int]]) -> ModelProto:
    """Several models of `from_photos` as one, whose probabilities are the mean of theirs, each taken in its order.

    What is in the first has "0/" before its name, and so on.
    """
    graph = Graph()
    found = []
    for i, (model, order) in enumerate(zip(models, orders, strict=True)):
        part = add_prefix_graph(model.graph, f"{i}/")
        graph.add("Identity", ["photos"], part.input[0].name)
        graph.nodes += part.node
        graph.initializers += part.initializer
        places = graph.constant(order, "int64", f"{i}//order")
        found.append(graph.add("Gather", [part.output[0].name, places], f"{i}//ordered", axis=1))
    graph.add("Mean", found, "probabilities")
    photos, probabilities = models[0].graph.input, models[0].graph.output
    return graph.model(photos, probabilities)
