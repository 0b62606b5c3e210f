"""The paper's table, with what each row comes to; equal blocks one after the other are folded into one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import takewhile
from math import prod
from string import digits
from typing import Any

from imori import tree as t
from imori.cli.show import Shown
from imori.cli.show.written import larger, memory, shape_of, sides, sizes_of
from imori.shapes import Node, Summary, flat, smallest


@dataclass(frozen=True)
class Row:
    """A layer with the activation behind it; or `times` of them, one in each of so many equal blocks."""

    path: str
    node: Node
    last: Node
    """The same layer in the last of the blocks, which sees the most of the input."""
    activation: Node | None = None
    times: int = 1

    @property
    def parameters(self) -> int:
        """Trainable numbers, in one block."""
        return self.node.parameters

    @property
    def macs(self) -> int:
        """Multiply-accumulates at inference, in one block."""
        return 0 if self.node.training_only else self.node.macs

    @property
    def values(self) -> int:
        """Numbers in the outputs of the layer and its activation at inference, in one block."""
        outputs = [node.output for node in (self.node, self.activation) if node is not None and not node.training_only]
        return sum(map(prod, outputs))


@dataclass(frozen=True)
class Part:
    """A child of a chain and the activation behind it: what makes it alike to another, and its rows."""

    key: tuple[Any, ...]
    rows: tuple[Row, ...]

    @property
    def is_activation(self) -> bool:
        """Whether it is nothing but an activation."""
        return len(self.rows) == 1 and isinstance(self.rows[0].node.layer, t.ACTIVATIONS)

    def then(self, activation: Node) -> Part:
        """With an activation in the row of its last layer."""
        *before, last = self.rows
        return Part((*self.key, activation.layer), (*before, replace(last, activation=activation)))


def rows(node: Node, folded: bool = True) -> list[Row]:
    """The rows of `imori.tree.table` over resolved nodes."""
    if isinstance(node.layer, t.Aux):
        return rows(node.children[0], folded)
    if not node.children:
        return [Row(node.path, node, node)]
    parts: list[Part] = []
    follows = False
    for child in node.children:
        if follows and isinstance(child.layer, t.ACTIVATIONS):
            parts[-1] = parts[-1].then(child)
        else:
            parts.append(Part((child.layer, child.input), tuple(rows(child, folded))))
        follows = isinstance(node.layer, t.Chain) and not isinstance(child.layer, (t.Chain, t.Aux, *t.ACTIVATIONS))
    if isinstance(node.layer, t.Chain):
        return list(_fold(parts) if folded else _listed(parts))
    return [*_listed(parts), Row(node.path, node, node)]


def _listed(parts: list[Part]) -> Iterator[Row]:
    return (row for part in parts for row in part.rows)


def _fold(parts: list[Part]) -> Iterator[Row]:
    """The rows of a chain's parts, where equal blocks follow each other those of the first alone.

    An activation in a row of its own belongs to the block before it. A lone layer is no block: it stays as it is.
    """
    at = 0
    while at < len(parts):
        length = 2 if at + 1 < len(parts) and parts[at + 1].is_activation else 1
        times = _repeats(parts, at, length) if len(parts[at].rows) > 1 else 1
        if times == 1:
            yield from parts[at].rows
            at += 1
            continue
        first = _listed(parts[at : at + length])
        at += length * times
        for row, last in zip(first, _listed(parts[at - length : at]), strict=True):
            yield replace(row, path=_span(row.path, last.path), last=last.last, times=row.times * times)


def _repeats(parts: list[Part], at: int, length: int) -> int:
    """How often the `length` parts from `at` stand there, one after the other."""
    first, *others = ([part.key for part in parts[i : i + length]] for i in range(at, len(parts), length))
    return 1 + len(list(takewhile(lambda group: group == first, others)))


def _span(first: str, last: str) -> str:
    """Two paths as one: "conv4.1.bn" and "conv4.5.bn" are "conv4.1-5.bn"."""
    return ".".join(map(_span_of_segment, first.split("."), last.split(".")))


def _span_of_segment(first: str, last: str) -> str:
    if first == last:
        return first
    stem, end = last.rstrip(digits), last[len(last.rstrip(digits)) :]
    return f"{first}-{end}" if first.rstrip(digits) == stem else f"{first}-{last}"


# --- what is printed -------------------------------------------------------------------------------------------------

HEADS = ("path", "layer", "kernel", "filters", "stride", "padding", "activation", "output")
NUMBERS = ("parameters", "MACs", "memory", "field")
LESS = ("memory", "field", "MACs", "padding", "parameters", "stride", "filters")
"""The columns that a narrow terminal does without, the first first."""


def table(shown: Shown, root: Node, as_json: bool, folded: bool) -> int:
    """Prints the network."""
    from imori.cli.output import write, write_json, write_table

    counted = Summary(root.input, root.output, tuple(flat(root)))
    if as_json:
        write_json(_data(shown, counted))
        return 0
    printed = rows(root, folded)
    write(shown.title)
    write(f"input {shape_of(shown.shape)} (channels x height x width)\n")
    write_table((*HEADS, *NUMBERS), map(_cells, printed), NUMBERS, LESS)
    write()
    if any(row.times > 1 for row in printed):
        write("x N: so many equal blocks, one after the other; their figures are those of one (--all prints each)\n")
    for line in _sums(shown, counted):
        write(line)
    return 0


def _cells(row: Row) -> tuple[str, ...]:
    node = row.node
    assert not isinstance(node.layer, (t.Chain, t.Aux))
    path = f"{row.path} (training only)" if node.training_only else row.path
    path += f" x {row.times}" if row.times > 1 else ""
    activation = t.describe(row.activation.layer) if row.activation else "-"  # type: ignore[arg-type]
    sums = (f"{number:,}" if number else "-" for number in (row.parameters, row.macs))
    field = sides(node.receptive_field)
    field += f"-{sides(row.last.receptive_field)}" if row.last.receptive_field != node.receptive_field else ""
    return (
        path,
        t.describe(node.layer),
        *t.columns(node.layer),
        activation,
        shape_of(node.output),
        *sums,
        memory(row.values) if row.values else "-",
        field,
    )


def _sums(shown: Shown, counted: Summary) -> Iterator[str]:
    statistics = counted.total - counted.parameters
    yield f"parameters   {counted.parameters:,} trainable" + (
        f", and {statistics:,} running statistics" if statistics else ""
    )
    if counted.inference_parameters != counted.parameters:
        yield f"             {counted.inference_parameters:,} without the auxiliary heads, which serve training only"
    yield f"MACs         {counted.macs:,} ({larger(counted.macs)}) for one image"
    outputs = f"{memory(counted.activations // 4)} of the input and layers' outputs for one image"
    yield f"memory       {memory(counted.total)} of weights, and {outputs}, in float32"
    yield f"input size   {sizes_of(shown.tree, shown.shape[0], counted.sized)}"


def _data(shown: Shown, counted: Summary) -> dict[str, Any]:
    """For JSON."""
    return {
        "model": shown.name,
        "input": counted.input,
        "output": counted.output,
        "classes": shown.classes or None,
        "parameters": counted.parameters,
        "inference_parameters": counted.inference_parameters,
        "total": counted.total,
        "macs": counted.macs,
        "activations_bytes": counted.activations,
        "sized": counted.sized,
        "smallest": smallest(shown.tree, shown.shape[0]),
        "rows": [
            {
                "path": node.path,
                "layer": type(node.layer).__name__
                if isinstance(node.layer, (t.Sum, t.Concat))
                else t.to_data(node.layer),
                "input": node.input,
                "output": node.output,
                "parameters": node.parameters,
                "macs": node.macs,
                "output_bytes": 4 * prod(node.output),
                "receptive_field": node.receptive_field,
                "stride": node.stride,
                "training_only": node.training_only,
            }
            for node in counted.rows
        ],
    }
