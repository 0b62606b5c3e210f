"""`imori models` and `imori show`: what can be trained, and what a network is made of. Imports no NumPy."""

from __future__ import annotations

import argparse
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from imori import catalogue
from imori import tree as t
from imori.cli.parsing import Parser, size, whole
from imori.errors import ImoriError, NameUnknown
from imori.shapes import Shape, Summary, summary

CHANNELS, CLASSES = 3, 1000


def declare(parser: Parser, command: str) -> None:
    """The flags of `models` or `show`."""
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    if command == "models":
        parser.describe(
            "[PATTERN] [--json]",
            "Lists the networks by name, with their paper, year, input size and trainable parameters.",
            "imori models",
            "imori models 'resnet*'",
            "imori models --json",
        )
        parser.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="names that fit, as 'vgg*'")
        return
    parser.describe(
        "MODEL [flags]",
        "Prints a network as its paper's table: each layer with its kernel, filters, stride, padding, output shape,"
        " trainable parameters, multiply-accumulates (MACs) and receptive field, and the sums.",
        "imori show resnet50",
        "imori show lenet --classes 10 --channels 1",
        "imori show alexnet --variant paper",
        "imori show vgg16 --size 192x256",
        "imori show my_net.py:net --classes 2",
        "imori show runs/latest",
    )
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a name (imori models lists them), my_net.py:function, a tree's .json, a run, or a model.safetensors",
    )
    parser.add_argument("--classes", type=whole, metavar="N", help=f"classes (default: {CLASSES})")
    parser.add_argument("--channels", type=whole, metavar="N", help=f"1 for grey, 3 for colour (default: {CHANNELS})")
    parser.add_argument("--size", type=size, metavar="N|HxW", help="the input's pixels (default: the paper's)")
    parser.add_argument("--variant", metavar="NAME", help="a published form, as paper or torchvision")


def run(arguments: argparse.Namespace, command: str) -> int:
    """Runs `models` or `show`."""
    return _models(arguments) if command == "models" else _show(arguments)


class Paper(NamedTuple):
    """Where a network comes from."""

    title: str
    year: int
    link: str


def paper(name: str) -> Paper:
    """The paper of a network of the catalogue, as the first lines of its file say it."""
    file = catalogue.CATALOGUE[name].function.partition(":")[0]
    text = importlib.import_module(f"imori.papers.{file}").__doc__ or ""
    found = re.search(r'"(?P<title>[^"]+)",\s(?P<year>\d{4})\.\s+(?P<link>https?://[^\s,;]+)', text)
    assert found is not None, f"papers/{file}.py must open with authors, title, year and link"
    return Paper(found["title"], int(found["year"]), found["link"])


def _models(arguments: argparse.Namespace) -> int:
    names = catalogue.list_models(arguments.pattern)
    if not names:
        raise NameUnknown(f"no model fits {arguments.pattern!r}; `imori models` lists all, and 'resnet*' some")
    rows: list[dict[str, Any]] = []
    for name in names:
        pixels, source = catalogue.size_of(name), paper(name)
        counted = summary(catalogue.model(name), (CHANNELS, pixels, pixels))
        rows.append(
            {
                "name": name,
                "year": source.year,
                "input": pixels,
                "parameters": counted.parameters,
                "macs": counted.macs,
                "variants": list(catalogue.variants(name)),
                "paper": source.title,
                "link": source.link,
            }
        )
    from imori.cli.output import write, write_json, write_table

    if arguments.json:
        write_json(rows)
        return 0
    write_table(
        ("name", "year", "input", "parameters", "variants", "paper"),
        (
            (
                row["name"],
                row["year"],
                f"{row['input']} x {row['input']}",
                f"{row['parameters']:,}",
                ", ".join(variant for variant in row["variants"] if variant != "default") or "-",
                row["paper"],
            )
            for row in rows
        ),
        numbers=("parameters",),
    )
    write(f"\nParameters are the trainable ones, for {CLASSES} classes and colour photos.")
    return 0


class _Shown(NamedTuple):
    """What `show` was asked about."""

    title: str
    tree: t.Tree
    shape: Shape
    classes: tuple[str, ...]


def _show(arguments: argparse.Namespace) -> int:
    from imori.cli.output import write, write_json, write_table

    shown = _asked_for(arguments)
    counted = summary(shown.tree, shown.shape)
    if arguments.json:
        write_json(_data(arguments.model, shown, counted))
        return 0
    write(shown.title)
    write(f"input {_shape(shown.shape)} (channels x height x width)\n")
    heads = ("path", "layer", "kernel", "filters", "stride", "padding", "activation", "output")
    numbers = ("parameters", "MACs", "field")
    write_table((*heads, *numbers), _rows(shown, counted), numbers)
    write()
    for line in _sums(counted):
        write(line)
    return 0


def _asked_for(arguments: argparse.Namespace) -> _Shown:
    """The network of a name, of a user's file, or of a trained model."""
    name = arguments.model
    path = Path(name)
    looks_like_run = path.is_dir() or path.name == "latest" or (len(path.parts) > 1 and not path.suffix)
    trained = looks_like_run or path.suffix == ".safetensors"
    if trained:
        wrong = [f"--{flag}" for flag in ("classes", "channels", "variant") if getattr(arguments, flag) is not None]
        if wrong:
            raise ImoriError(f"{name} is a trained model, whose network is settled; leave out {', '.join(wrong)}")
        return _trained(path, arguments.size)
    classes = CLASSES if arguments.classes is None else arguments.classes
    channels = CHANNELS if arguments.channels is None else arguments.channels
    tree = catalogue.model(name, classes, channels, arguments.variant)
    pixels = arguments.size or catalogue.size_of(name)
    high, wide = pixels if isinstance(pixels, tuple) else (pixels, pixels)
    title = name
    if name in catalogue.CATALOGUE:
        source = paper(name)
        others = [variant for variant in catalogue.variants(name) if variant != "default"]
        title += f': "{source.title}", {source.year}, {source.link}'
        title += f"\nvariant {arguments.variant or 'default'}"
        title += f" (there are default, {', '.join(others)})" if others else ""
    return _Shown(title, tree, (channels, high, wide), ())


def _trained(path: Path, pixels: int | tuple[int, int] | None) -> _Shown:
    from imori.train.run import find_run
    from imori.weights import read_model

    file = path if path.suffix == ".safetensors" else find_run(path).model_file
    _, card = read_model(file)
    high, wide = card.input[1:] if pixels is None else pixels if isinstance(pixels, tuple) else (pixels, pixels)
    title = f"{file}: {card.model}, trained with {card.framework}"
    title += "".join(f", {key} {value:.4g}" for key, value in card.metrics.items() if isinstance(value, (int, float)))
    title += f"\n{len(card.classes)} classes: {', '.join(card.classes[:20])}"
    title += f" and {len(card.classes) - 20} more" if len(card.classes) > 20 else ""
    return _Shown(title, card.tree, (card.input[0], high, wide), card.classes)


def _rows(shown: _Shown, counted: Summary) -> Iterator[tuple[str, ...]]:
    """The rows of the paper's table, each with what it comes to at this input shape."""
    nodes = {node.path: node for node in counted.rows}
    for row in t.rows_of(shown.tree):
        node = nodes[row[0]]
        field = " x ".join(f"{side:g}" for side in dict.fromkeys(node.receptive_field))
        sums = (f"{number:,}" if number else "-" for number in (node.parameters, node.macs))
        path = f"{node.path} (training only)" if node.training_only else node.path
        yield (path, *row[1:], _shape(node.output), *sums, field)


def _shape(shape: Shape) -> str:
    return " x ".join(map(str, shape))


def _sums(counted: Summary) -> Iterator[str]:
    statistics = counted.total - counted.parameters
    yield f"parameters   {counted.parameters:,} trainable" + (
        f", and {statistics:,} running statistics" if statistics else ""
    )
    if counted.inference_parameters != counted.parameters:
        yield f"             {counted.inference_parameters:,} without the auxiliary heads, which serve training only"
    yield f"MACs         {counted.macs:,} ({_rounded(counted.macs, 'thousand', 'million', 'billion')}) for one image"
    weights, outputs = (_rounded(count, "kB", "MB", "GB") for count in (counted.total * 4, counted.activations))
    yield f"memory       {weights} of weights, and {outputs} of layers' outputs for one image, in float32"
    if counted.sized:
        yield f"input size   this one only, because of {', '.join(counted.sized[:3])}; build it anew for another"
    else:
        yield "input size   any"


def _rounded(number: float, *units: str) -> str:
    """The number to three digits, in the largest of the units (each 1,000 times the one before) that it fills."""
    unit = ""
    for larger in units:
        if not unit or number >= 999.5:
            number, unit = number / 1000, larger
    return f"{number:.3g} {unit}"


def _data(name: str, shown: _Shown, counted: Summary) -> dict[str, Any]:
    """For JSON."""
    return {
        "model": name,
        "input": counted.input,
        "output": counted.output,
        "classes": shown.classes or None,
        "parameters": counted.parameters,
        "inference_parameters": counted.inference_parameters,
        "total": counted.total,
        "macs": counted.macs,
        "activations_bytes": counted.activations,
        "sized": counted.sized,
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
                "receptive_field": node.receptive_field,
                "stride": node.stride,
                "training_only": node.training_only,
            }
            for node in counted.rows
        ],
    }
