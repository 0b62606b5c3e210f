"""How `imori show` writes numbers, shapes and trees."""

from __future__ import annotations

import json
from itertools import islice
from typing import Any

from imori import tree as t
from imori.shapes import Shape, sizes

TRIED = 64
"""How many sizes without a gap are taken for "any"."""


def shape_of(shape: Shape) -> str:
    """ "3 x 224 x 224"."""
    return " x ".join(map(str, shape))


def square(n: int | None) -> str:
    """ "32 x 32"; "none" where there is none."""
    return "none" if n is None else f"{n} x {n}"


def sides(pair: tuple[float, float]) -> str:
    """A pair (vertical, horizontal): "5", or "1 x 7"."""
    return " x ".join(f"{side:g}" for side in dict.fromkeys(pair))


def rounded(number: float, *units: str) -> str:
    """The number to three digits, in the largest of the units (each 1,000 times the one before) that it fills."""
    unit = ""
    for larger in units:
        if not unit or number >= 999.5:
            number, unit = number / 1000, larger
    return f"{number:.3g} {unit}"


def memory(values: int) -> str:
    """What so many numbers take in float32."""
    return rounded(4 * values, "kB", "MB", "GB")


def larger(number: int) -> str:
    """A large number in words: "4.09 billion"."""
    return rounded(number, "thousand", "million", "billion")


def sizes_of(tree: t.Tree, channels: int, sized: tuple[str, ...]) -> str:
    """The input sizes that a tree takes, in words."""
    first = list(islice(sizes(tree, channels), TRIED))
    if not first:
        return "this one"
    least = square(first[0])
    if sized:
        return f"this one only, because of {', '.join(sized[:3])}; build it anew for another, from {least}"
    if first == list(range(first[0], first[0] + TRIED)):
        return f"any from {least}"
    return f"from {least}, but not every one: {', '.join(map(str, first[:4]))}, ..."


def write_tree(tree: t.Tree) -> int:
    """Prints the tree as JSON with a line a layer: `imori.tree.from_json` reads it back."""
    data = json.loads(t.to_json(tree))
    print(f'{{"format": {data["format"]}, "tree": {_indented(data["tree"], "")}}}')
    return 0


def _indented(data: dict[str, Any], margin: str) -> str:
    """A combinator over several lines, a layer on one."""
    inner = margin + "  "
    if "children" in data:
        children = ",\n".join(
            f"{inner}[{json.dumps(name)}, {_indented(child, inner)}]" for name, child in data["children"]
        )
        return f'{{"kind": "{data["kind"]}", "children": [\n{children}\n{margin}]}}'
    if "head" in data:
        return f'{{"kind": "Aux", "weight": {json.dumps(data["weight"])}, "head": {_indented(data["head"], margin)}}}'
    return json.dumps(data)
