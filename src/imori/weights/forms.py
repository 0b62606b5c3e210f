"""Whether a tree is in the form that a publisher's weights are of, which neither their names nor their shapes tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from imori import catalogue
from imori import tree as t
from imori.errors import NameUnknown, TreeError
from imori.shapes import Node, flat, resolve

UNSEEN = {
    *("kernel", "stride", "pad", "output_pad", "dilation", "ceil", "count_include_pad"),  # in the window, as numbers
    *("out", "bias", "multiplier", "children"),  # seen in the weights
    *("init", "momentum"),  # for training alone
}
"""Fields of layers that are not compared."""
WIDTHS = (1, 0.25, 0.35, 0.5, 0.75, 1.3, 1.4)
"""The width multipliers that are published: the narrowest have shortcuts that the others have not."""


def departure(root: Node, publisher: str) -> str:
    """Where a tree is not as its publisher has the network that these weights are of, in words; "" where it is.

    The publisher's networks are the catalogue's; of others nothing is known, and "" is said. A tree that was cut is
    compared as far as it goes.
    """
    root = resolve(t.without_heads(root.layer), root.input)
    ours, cut = _layers(root), len(root.output) > 1
    nearest, found = (-1, -1), ""
    for name, width in _published():
        theirs = _theirs(name, publisher, width, root)
        if cut:
            theirs = theirs[: len(ours)]
        if [node.path for node in theirs if node.weights] != [node.path for node in ours if node.weights]:
            continue
        if [_form(node) for node in theirs] == [_form(node) for node in ours]:
            return ""
        both = list(zip(ours, theirs, strict=False))
        place = next((i for i, (one, two) in enumerate(both) if _form(one) != _form(two)), len(both))
        alike = sum(one.weights == two.weights for one, two in both)
        if (place, alike) > nearest:
            nearest, found = (place, alike), _told(name, publisher, ours[place:], theirs[place:])
    return found


def _published() -> Iterator[tuple[str, float | None]]:
    """The catalogue's names, with the widths that each comes in."""
    for name in catalogue.CATALOGUE:
        for width in WIDTHS if catalogue.has_width(name) else (None,):
            yield name, width


def _theirs(name: str, publisher: str, width: float | None, root: Node) -> list[Node]:
    """The layers of a publisher's network for the same images; none where it is another one, or is not published."""
    try:
        tree = t.without_heads(catalogue.model(name, root.output[0], variant=publisher, width=width))
        stages = {node.path.partition(".")[0] for node in flat(root) if node.weights}
        alike = isinstance(tree, t.Chain) and stages <= {child for child, _ in tree.children}  # saves to resolve it
        return _layers(resolve(tree, root.input)) if alike else []
    except (NameUnknown, TreeError):
        return []


def _layers(root: Node) -> list[Node]:
    """What changes numbers at inference, as it runs."""
    return [node for node in flat(root) if not _idle(node)]


def _idle(node: Node) -> bool:
    same = isinstance(node.layer, t.AdaptiveAvgPool) and node.output == node.input
    return same or isinstance(node.layer, (t.Dropout, t.Identity, t.Flatten))


def _form(node: Node) -> dict[str, Any]:
    """What kind of layer it is, and its settings that no weight shows."""
    own = {field.name: getattr(node.layer, field.name) for field in fields(node.layer) if field.name not in UNSEEN}
    return {"kind": type(node.layer).__name__, **own, **vars(node.window)}


def _told(name: str, publisher: str, ours: list[Node], theirs: list[Node]) -> str:
    """The difference between the first layer of each; one of them may have none left."""
    one, two = (_form(nodes[0]) if nodes else {"kind": "nothing"} for nodes in (ours, theirs))
    keys = ["kind"] if one["kind"] != two["kind"] else [key for key in one if one[key] != two[key]]
    mine, own = (", ".join(f"{key} {form[key]}" for key in keys).removeprefix("kind ") for form in (one, two))
    return (
        f"the weights are of {publisher}'s {name}, and the tree is another form of it, which gives other numbers: at"
        f" {(ours or theirs)[0].path} it has {mine}, and {publisher}'s {own}; make it by imori.model({name!r},"
        f" variant={publisher!r}), or load the file by imori.load({name!r}, weights=...), which does so"
    )
