"""`imori show`: what a network is made of, what it costs and why, and beside others. Imports no NumPy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

from imori import catalogue
from imori import tree as t
from imori.cli.networks import CHANNELS, CLASSES, paper
from imori.cli.parsing import Parser, number, size, whole
from imori.errors import ImoriError
from imori.shapes import Shape, resolve

MODEL_FILES = (".safetensors", ".onnx")
SETTLED = ("classes", "channels", "variant", "width", "upto")
"""The flags that would change a trained model's network."""


def declare(parser: Parser, command: str) -> None:
    """The flags of `show`."""
    parser.describe(
        "MODEL... [flags]",
        "Prints a network as its paper's table: each layer with its kernel, filters, stride, padding, output shape,"
        " trainable parameters, multiply-accumulates (MACs), bytes of its output and receptive field, and the sums."
        " Equal blocks one after the other are printed once, as conv4.1-5 x 5. A published variant is written behind"
        " the name, as resnet50@paper, or chosen by --variant.",
        "imori show resnet50",
        "imori show lenet --classes 10 --channels 1",
        "imori show vgg16 --size 192x256 --depth",
        "imori show --compare resnet50 resnet50@paper vgg16",
        "imori show resnet18 --tree > mine.json; imori show mine.json",
        "imori show resnet50 --upto conv4",
        "imori show my_net.py:net --classes 2",
        "imori show runs/latest",
    )
    parser.add_argument(
        "models",
        nargs="+",
        metavar="MODEL",
        help="a name (imori models lists them), name@variant, my_net.py:function, a tree's .json, a run, a"
        " model.safetensors or a .onnx",
    )
    parser.add_argument("--classes", type=whole, metavar="N", help=f"classes (default: {CLASSES})")
    parser.add_argument("--channels", type=whole, metavar="N", help=f"1 for grey, 3 for colour (default: {CHANNELS})")
    parser.add_argument("--size", type=size, metavar="N|HxW", help="the input's pixels (default: the paper's)")
    parser.add_argument("--variant", metavar="NAME", help="a published form, as paper or torchvision")
    parser.add_argument("--width", type=number, metavar="X", help="multiplies the filters of mobilenet_v1 and -v2")
    parser.add_argument("--upto", metavar="PATH", help="cut the network behind this layer or block, as conv4")
    view = parser.add_mutually_exclusive_group()
    view.add_argument("--all", action="store_true", help="print every row, equal blocks too")
    view.add_argument("--compare", action="store_true", help="print the sums of several networks side by side")
    view.add_argument(
        "--macs", action="store_true", help="where the MACs are, and what each separable convolution saves"
    )
    view.add_argument("--depth", action="store_true", help="why depth pays: small kernels against one large one")
    view.add_argument(
        "--tree", action="store_true", help="print the tree as JSON, to edit and use as --model mine.json"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(arguments: argparse.Namespace, command: str) -> int:
    """Runs `show`."""
    if arguments.compare:
        from imori.cli.show.compare import compare

        return compare([asked(name, arguments, strictly=False) for name in arguments.models], arguments.json)
    if len(arguments.models) > 1:
        several = ", ".join(map(repr, arguments.models))
        raise ImoriError(f"show prints one network, and there are {several}; compare them by --compare")
    shown = asked(arguments.models[0], arguments, strictly=True)
    if arguments.tree:
        from imori.cli.show.written import write_tree

        return write_tree(shown.tree)
    root = resolve(shown.tree, shown.shape)
    if arguments.macs:
        from imori.cli.show.macs import macs

        return macs(shown, root, arguments.json)
    if arguments.depth:
        from imori.cli.show.depth import depth

        return depth(shown, root, arguments.json)
    from imori.cli.show.table import table

    return table(shown, root, arguments.json, folded=not arguments.all)


class Shown(NamedTuple):
    """A network that was asked about."""

    name: str
    title: str
    tree: t.Tree
    shape: Shape
    classes: tuple[str, ...] = ()


def asked(name: str, arguments: argparse.Namespace, strictly: bool) -> Shown:
    """The network of a name, of a user's file, or of a trained model.

    A trained model's network is settled: `strictly`, flags that would change it are refused, and else they are for the
    other networks.
    """
    path = Path(name)
    looks_like_run = path.is_dir() or path.name == "latest" or (len(path.parts) > 1 and not path.suffix)
    if looks_like_run or path.suffix.lower() in MODEL_FILES:
        wrong = [f"--{flag}" for flag in SETTLED if getattr(arguments, flag) is not None]
        if wrong and strictly:
            raise ImoriError(f"{name} is a trained model, whose network is settled; leave out {', '.join(wrong)}")
        return _trained(path, arguments.size)
    base, at, variant = name.partition("@")
    if not at or base not in catalogue.CATALOGUE:
        base, variant = name, arguments.variant
    if strictly and name.endswith(".json") and arguments.classes is not None:
        raise ImoriError(f"{name} has its classes written in it; leave out --classes, or print it anew by --tree")
    classes = CLASSES if arguments.classes is None else arguments.classes
    channels = CHANNELS if arguments.channels is None else arguments.channels
    tree = catalogue.model(base, classes, channels, variant, arguments.width, arguments.upto)
    return Shown(name, _title(base, variant), tree, (channels, *_sides(arguments.size or catalogue.size_of(base))))


def _title(name: str, variant: str | None) -> str:
    if name not in catalogue.CATALOGUE:
        return name
    source = paper(name)
    others = [other for other in catalogue.variants(name) if other != "default"]
    title = f'{name}: "{source.title}", {source.year}, {source.link}\nvariant {variant or "default"}'
    return title + (f" (there are default, {', '.join(others)})" if others else "")


def _sides(pixels: int | tuple[int, int]) -> tuple[int, int]:
    return pixels if isinstance(pixels, tuple) else (pixels, pixels)


def _trained(path: Path, pixels: int | tuple[int, int] | None) -> Shown:
    from imori.train.run import find_run
    from imori.weights import read_model

    file = path if path.suffix.lower() in MODEL_FILES else find_run(path).model_file
    _, card = read_model(file)
    title = f"{file}: {card.model}, trained with {card.framework}"
    title += "".join(f", {key} {value:.4g}" for key, value in card.metrics.items() if isinstance(value, (int, float)))
    title += f"\n{len(card.classes)} classes: {', '.join(card.classes[:20])}"
    title += f" and {len(card.classes) - 20} more" if len(card.classes) > 20 else ""
    shape = card.input if pixels is None else (card.input[0], *_sides(pixels))
    return Shown(str(path), title, card.tree, shape, card.classes)
