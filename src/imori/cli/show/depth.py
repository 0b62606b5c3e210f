"""Why depth pays: stacks of small kernels, each beside the one large kernel that sees as much."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any, NamedTuple

from imori import tree as t
from imori.cli.show import Shown
from imori.cli.show.lines import BETWEEN, lines
from imori.cli.show.written import shape_of
from imori.shapes import Node

WHY = """\
Two 3 x 3 convolutions see 5 x 5 pixels, three see 7 x 7. Between maps of C channels they have 18 C^2 and 27 C^2
weights, and the single large kernels 25 C^2 and 49 C^2. So the stack is cheaper, an activation after each of its layers
lets it express what no single linear step can, and every layer added widens what a value sees."""


class Stack(NamedTuple):
    """Convolutions of stride 1 with kernels larger than 1 that follow each other."""

    convolutions: list[Node]
    between: int = 0
    """Activations between them, which one convolution in their place would not have."""
    after: int = 0
    """Activations behind the last, which it would."""

    @property
    def kernel(self) -> tuple[int, int]:
        """The one kernel that sees as much."""
        reach = [_reach(node) for node in self.convolutions]
        return 1 + sum(high - 1 for high, _ in reach), 1 + sum(wide - 1 for _, wide in reach)

    @property
    def weights(self) -> int:
        """The weights of the kernels, without biases."""
        return sum(prod(node.weights["weight"]) for node in self.convolutions)

    @property
    def single(self) -> int:
        """The weights of the one convolution from the stack's input channels to its outputs."""
        return self.convolutions[0].input[0] * self.convolutions[-1].output[0] * prod(self.kernel)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the stack."""
        return sum(node.macs for node in self.convolutions)

    @property
    def single_macs(self) -> int:
        """Those of the one convolution that gives the same map."""
        return self.single * prod(self.convolutions[-1].output[1:])


def _reach(node: Node) -> tuple[int, int]:
    (high, wide), (down, right) = node.window.kernel, node.window.dilation
    return down * (high - 1) + 1, right * (wide - 1) + 1


def stacks(root: Node) -> list[Stack]:
    """Every run of two or more ordinary convolutions of stride 1 and a kernel larger than 1 x 1."""
    found: list[Stack] = []
    for line in lines(root):
        stack = Stack([])
        for node in line:
            if _is_small(node):
                stack = Stack([*stack.convolutions, node], stack.between + stack.after)
            elif isinstance(node.layer, BETWEEN):
                stack = stack._replace(after=stack.after + isinstance(node.layer, t.ACTIVATIONS))
            else:
                found.append(stack)
                stack = Stack([])
        found.append(stack)
    return [stack for stack in found if len(stack.convolutions) > 1]


def _is_small(node: Node) -> bool:
    is_convolution = isinstance(node.layer, t.Conv) and node.layer.groups == 1
    return is_convolution and node.window.stride == (1, 1) and prod(node.window.kernel) > 1


# --- what is printed -------------------------------------------------------------------------------------------------


def depth(shown: Shown, root: Node, as_json: bool) -> int:
    """Prints every stack beside the single convolution."""
    from imori.cli.output import write, write_json, write_table

    found = stacks(root)
    if as_json:
        write_json({"model": shown.name, "input": shown.shape, "stacks": list(map(_data, found))})
        return 0
    write(f"{shown.name} at {shape_of(shown.shape)}: stacks of convolutions, and the one kernel that sees as much\n")
    if found:
        heads = ("stack", "kernels", "channels", "weights", "MACs", "activations", "one", "its weights", "its MACs")
        numbers = ("weights", "MACs", "activations", "one", "its weights", "its MACs")
        write_table(heads, map(_cells, found), numbers, ("channels", "its MACs", "MACs", "activations"))
        write()
        for line in _totals(found):
            write(line)
    else:
        write("There is none: no two convolutions of stride 1 with kernels larger than 1 x 1 follow each other here.")
    write(f"\n{WHY}")
    return 0


def _cells(stack: Stack) -> tuple[str, ...]:
    first, last = stack.convolutions[0], stack.convolutions[-1]
    channels = [first.input[0], *(node.output[0] for node in stack.convolutions)]
    return (
        f"{first.path} to {last.path}",
        ", ".join(shape_of(node.window.kernel) for node in stack.convolutions),
        ", ".join(map(str, channels)),
        f"{stack.weights:,}",
        f"{stack.macs:,}",
        f"{stack.between + stack.after} against {stack.after}",
        shape_of(stack.kernel),
        f"{stack.single:,}",
        f"{stack.single_macs:,}",
    )


def _totals(found: list[Stack]) -> Iterator[str]:
    for what, ours, theirs in (
        ("weights", sum(stack.weights for stack in found), sum(stack.single for stack in found)),
        ("MACs", sum(stack.macs for stack in found), sum(stack.single_macs for stack in found)),
    ):
        yield f"{what:12} {ours:,} in the stacks, {theirs:,} in single kernels: {ours / theirs:.2f} of them"
    between, after = sum(stack.between for stack in found), sum(stack.after for stack in found)
    yield f"activations  {between + after} with the stacks, {after} with single kernels"
    if any(stack.weights > stack.single for stack in found):
        yield "A stack whose input has few channels, as an image's three, has more weights than the single kernel."


def _data(stack: Stack) -> dict[str, Any]:
    """For JSON."""
    return {
        "paths": [node.path for node in stack.convolutions],
        "weights": stack.weights,
        "macs": stack.macs,
        "activations": stack.between + stack.after,
        "single_kernel": stack.kernel,
        "single_weights": stack.single,
        "single_macs": stack.single_macs,
        "single_activations": stack.after,
    }
