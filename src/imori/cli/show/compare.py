"""Networks side by side."""

from __future__ import annotations

from typing import Any

from imori import tree as t
from imori.cli.show import Shown
from imori.cli.show.written import larger, memory, shape_of, sides, square
from imori.errors import ImoriError
from imori.shapes import Node, Summary, flat, resolve, smallest


def compare(networks: list[Shown], as_json: bool) -> int:
    """Prints a column for each network."""
    from imori.cli.output import write, write_json, write_table

    if len(networks) == 1:
        raise ImoriError(f"there is nothing to compare {networks[0].name} with; name two networks or more")
    figures = [_figures(shown) for shown in networks]
    if as_json:
        write_json(figures)
        return 0
    columns = [_words(own) for own in figures]
    names = [shown.name for shown in networks]
    write_table(("", *names), ((row, *(column[row] for column in columns)) for row in columns[0]), names)
    write("\nFor one image, in float32. Depth: the convolutions and dense layers on the longest way through.")
    return 0


def depth_of(node: Node) -> int:
    """How many convolutions and dense layers follow each other on the longest way through: the 50 of ResNet-50."""
    match node.layer:
        case t.Chain():
            return sum(map(depth_of, node.children))
        case t.Sum() | t.Concat():
            return max(map(depth_of, node.children))
        case t.Conv() | t.Depthwise() | t.ConvTranspose() | t.Linear():
            return 1
        case _:
            return 0


def _figures(shown: Shown) -> dict[str, Any]:
    root = resolve(shown.tree, shown.shape)
    counted = Summary(root.input, root.output, tuple(flat(root)))
    maps = [row for row in counted.rows if len(row.output) == len(root.input) and not row.training_only]
    return {
        "model": shown.name,
        "parameters": counted.parameters,
        "inference_parameters": counted.inference_parameters,
        "total": counted.total,
        "macs": counted.macs,
        "weights_bytes": 4 * counted.total,
        "activations_bytes": counted.activations,
        "weighted_layers": sum(bool(row.weights) for row in counted.rows),
        "depth": depth_of(root),
        "receptive_field": root.receptive_field,
        "stride": maps[-1].stride if maps else (1, 1),
        "input": counted.input,
        "smallest": smallest(shown.tree, shown.shape[0]),
        "sized": counted.sized,
    }


def _words(figures: dict[str, Any]) -> dict[str, str]:
    """What a column says, row by row."""
    return {
        "parameters, trainable": f"{figures['parameters']:,}",
        "... with running statistics": f"{figures['total']:,}",
        "... without auxiliary heads": f"{figures['inference_parameters']:,}",
        "MACs": f"{figures['macs']:,}",
        "MACs, rounded": larger(figures["macs"]),
        "memory of the weights": memory(figures["total"]),
        "memory of input and outputs": memory(figures["activations_bytes"] // 4),
        "layers with weights": f"{figures['weighted_layers']:,}",
        "depth": f"{figures['depth']:,}",
        "receptive field at the end": sides(figures["receptive_field"]),
        "stride of the last map": sides(figures["stride"]),
        "input": shape_of(figures["input"]),
        "smallest input": square(figures["smallest"]),
        "bound to its input size by": figures["sized"][0] if figures["sized"] else "-",
    }
