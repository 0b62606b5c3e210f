"""Where a network's multiply-accumulates are, and what its separable convolutions save."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

from imori import tree as t
from imori.cli.show import Shown
from imori.cli.show.lines import BETWEEN, lines
from imori.cli.show.written import larger, shape_of
from imori.shapes import Node, flat

EXAMPLE = """\
A small example: from 16 channels to 32 by 3 x 3, an ordinary convolution has 16 * 32 * 9 = 4,608 weights. Depthwise
first, as in the published Xception and MobileNets, it is 16 * 9 + 16 * 32 = 656; pointwise first, as Xception is often
explained, 16 * 32 + 32 * 9 = 800."""


class Separable(NamedTuple):
    """A depthwise convolution and its 1 x 1 convolution, in the order in which they run."""

    first: Node
    last: Node

    @property
    def depthwise(self) -> Node:
        """Of the two, the one that sees more than a pixel."""
        return self.first if isinstance(self.first.layer, t.Depthwise) else self.last

    @property
    def area(self) -> int:
        """Dk x Dk: the weights of one kernel."""
        return prod(self.depthwise.window.kernel)

    @property
    def channels(self) -> int:
        """N of the formula: the channels on the far side of the 1 x 1 convolution, its outputs if it comes last."""
        return self.last.output[0] if self.depthwise is self.first else self.first.input[0]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the pair."""
        return self.first.macs + self.last.macs

    @property
    def ordinary(self) -> int:
        """Those of the one convolution Dk x Dk from the pair's input channels to its outputs, of the same stride."""
        return self.first.input[0] * prod(self.last.output) * self.area

    @property
    def formula(self) -> float:
        """1 / N + 1 / Dk²: the ratio, if each channel has one kernel and both convolutions give maps of one size."""
        return 1 / self.channels + 1 / self.area

    @property
    def exact(self) -> bool:
        """Whether the formula is the ratio."""
        return self.macs * self.channels * self.area == self.ordinary * (self.channels + self.area)


def separables(root: Node) -> list[Separable]:
    """Every depthwise convolution with the 1 x 1 convolution after it, or else with the one before it."""
    found: list[Separable] = []
    for line in lines(root):
        line = [node for node in line if not isinstance(node.layer, BETWEEN)]
        taken: set[str] = set()
        for i, node in enumerate(line):
            if not isinstance(node.layer, t.Depthwise):
                continue
            if i + 1 < len(line) and _is_pointwise(line[i + 1]):
                found.append(Separable(node, line[i + 1]))
            elif i > 0 and _is_pointwise(line[i - 1]) and line[i - 1].path not in taken:
                found.append(Separable(line[i - 1], node))
            else:
                continue
            taken.add(found[-1].last.path)
    return found


def _is_pointwise(node: Node) -> bool:
    window = node.window
    return (
        isinstance(node.layer, t.Conv)
        and (window.kernel, window.stride, node.layer.groups) == ((1, 1), (1, 1), 1)
        and not any(window.pads)
    )


def kinds(root: Node) -> list[tuple[str, int, int, int]]:
    """(kind, layers, MACs, trainable parameters) of each kind of layer with MACs at inference, the costliest first."""
    layers, macs, parameters = Counter[str](), Counter[str](), Counter[str]()
    for node in flat(root):
        if node.macs and not node.training_only:
            kind = _kind(node)
            layers[kind] += 1
            macs[kind] += node.macs
            parameters[kind] += node.parameters
    return [(kind, layers[kind], count, parameters[kind]) for kind, count in macs.most_common()]


def _kind(node: Node) -> str:
    kernel = shape_of(node.window.kernel)
    match node.layer:
        case t.Linear():
            return "dense"
        case t.Depthwise():
            return f"{kernel} depthwise"
        case t.ConvTranspose():
            return f"{kernel} transposed convolution"
        case t.Conv(groups=groups) if groups > 1:
            return f"{kernel} convolution in {groups} groups"
        case _:
            return f"{kernel} convolution"


# --- what is printed -------------------------------------------------------------------------------------------------


def macs(shown: Shown, root: Node, as_json: bool) -> int:
    """Prints the MACs by kind of layer, and of every separable convolution beside the ordinary one."""
    from imori.cli.output import percent, write, write_json, write_table

    total = sum(node.macs for node in flat(root) if not node.training_only)
    pairs, rows = separables(root), kinds(root)
    if as_json:
        write_json(_data(shown, total, pairs, rows))
        return 0
    write(f"{shown.name} at {shape_of(shown.shape)}: {total:,} MACs ({larger(total)})\n")
    write_table(
        ("kind", "layers", "MACs", "share", "parameters"),
        ((kind, layers, f"{count:,}", percent(count / total), f"{held:,}") for kind, layers, count, held in rows),
        ("layers", "MACs", "share", "parameters"),
    )
    if pairs:
        write("\nA separable convolution, and the ordinary one Dk x Dk that it stands for:\n")
        heads = ("layers", "channels", "kernel", "MACs", "ordinary", "ratio", "1/N + 1/Dk^2")
        write_table(heads, map(_cells, pairs), heads[3:], ("kernel", "channels", "ordinary"))
        for line in _savings(total, pairs):
            write(line)
        write(f"\n{EXAMPLE}")
    return 0


def _cells(pair: Separable) -> tuple[str, ...]:
    first, last = pair
    return (
        f"{first.path} + {last.path}",
        f"{first.input[0]} to {last.output[0]}",
        shape_of(pair.depthwise.window.kernel),
        f"{pair.macs:,}",
        f"{pair.ordinary:,}",
        f"{pair.macs / pair.ordinary:.4f}",
        f"{pair.formula:.4f}" if pair.exact else f"not {pair.formula:.4f}",
    )


def _savings(total: int, pairs: list[Separable]) -> Iterator[str]:
    ours, theirs = sum(pair.macs for pair in pairs), sum(pair.ordinary for pair in pairs)
    yield f"\ntogether     {ours:,} MACs in place of {theirs:,}: {ours / theirs:.4f} of them"
    yield f"the network  {total:,} MACs; with ordinary convolutions {total - ours + theirs:,}"
    yield "N: the output channels of the 1 x 1 convolution, or its input channels where it comes first."
    if not all(pair.exact for pair in pairs):
        yield "not: the formula wants one kernel a channel, and the same map's size out of both convolutions."


def _data(shown: Shown, total: int, pairs: list[Separable], rows: list[tuple[str, int, int, int]]) -> dict[str, Any]:
    """For JSON."""
    return {
        "model": shown.name,
        "input": shown.shape,
        "macs": total,
        "kinds": [dict(zip(("kind", "layers", "macs", "parameters"), row, strict=True)) for row in rows],
        "separable": [
            {
                "paths": [pair.first.path, pair.last.path],
                "macs": pair.macs,
                "ordinary": pair.ordinary,
                "formula": pair.formula,
                "exact": pair.exact,
            }
            for pair in pairs
        ],
    }
