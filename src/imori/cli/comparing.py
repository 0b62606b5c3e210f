"""`imori compare`: one model in every framework, on this machine."""

from __future__ import annotations

import argparse
import os
import platform
from dataclasses import asdict
from typing import TYPE_CHECKING

from imori.cli.parsing import Parser, size, whole

if TYPE_CHECKING:
    from imori.comparison import Figures

DIFFERS = 1
"""The exit code where a framework gives other numbers, or none."""
FIGURES = ("framework", "version", "float64", "float32", "prediction", "step", "memory", "in training")


def declare(parser: Parser, command: str) -> None:
    """The flags of `compare`."""
    parser.describe(
        "MODEL [flags]",
        "Runs a model in several frameworks, each in a process of its own, on the same random images, and prints how"
        " far their logits differ from the first one's (of the largest logit, in float64 and float32), the time of a"
        " batch and of a training step, and the memory that the process had at most. The exit code is 1 where a"
        " framework differs by more than 1e-4 in float32 or 1e-9 in float64, or fails.",
        "imori compare runs/latest",
        "imori compare resnet18 --classes 10 --size 64 --frameworks numpy,torch,keras:jax",
        "imori compare pets.onnx --frameworks torch,onnx --layers",
    )
    parser.add_argument(
        "model_file",
        metavar="MODEL",
        help="a run, a model.safetensors, weights as imori convert takes them, or a name of imori models",
    )
    parser.add_argument(
        "--frameworks",
        default="all",
        metavar="NAMES",
        help="all that are installed, or names with commas, the first to compare with (keras:jax is Keras on JAX)",
    )
    parser.add_argument("--layers", action="store_true", help="how far each layer differs, and where two first do")
    parser.add_argument("-b", "--batch-size", type=whole, default=8, metavar="N", help="images at once (default: 8)")
    parser.add_argument("--rounds", type=whole, default=9, metavar="N", help="of which times are medians (default: 9)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    add = parser.add_argument_group("a name, or a file that does not say what it is").add_argument
    add("--model", metavar="NAME", help="of a file: its network, as resnet18 or resnet50@paper")
    add("--classes", type=whole, metavar="N", help="how many classes (of a name: 1000)")
    add("--channels", type=whole, metavar="N", help="1 for grey, 3 for colour (default: 3)")
    add("--size", type=size, metavar="N|HxW", help="the input's pixels (default: the paper's)")
    add("--source", default="imori", metavar="NAME", help="torchvision, timm or keras, whose file it is")


def run(arguments: argparse.Namespace, command: str) -> int:
    """Runs `compare`."""
    from imori.cli.output import write, write_json, write_table
    from imori.comparison import compare

    asked = [] if arguments.frameworks == "all" else [name.strip() for name in arguments.frameworks.split(",")]
    found = compare(
        arguments.model_file,
        asked,
        classes=arguments.classes,
        source=arguments.source,
        network=arguments.model,
        channels=arguments.channels,
        size=arguments.size,
        batch=arguments.batch_size,
        rounds=arguments.rounds,
        layers=arguments.layers,
    )
    agreed = all(figures.agrees for figures in found)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    if arguments.json:
        rows = [asdict(figures) | {"agrees": figures.agrees} for figures in found]
        write_json({"machine": machine, "batch": arguments.batch_size, "rounds": arguments.rounds, "frameworks": rows})
        return 0 if agreed else DIFFERS
    write_table(FIGURES, map(_row, found), numbers=FIGURES[2:], less=("version", "in training"))
    write(
        f"\nfloat64, float32: the largest difference from {found[0].framework}, of the largest logit. Times are medians"
        f" of {arguments.rounds} for {arguments.batch_size} images in float32, on {machine}."
    )
    if arguments.layers:
        names = [figures.framework for figures in found[1:] if figures.layers]
        write()
        write_table(("layer", *names), _layers(found[1:]), numbers=names)
    for figures in found:
        if figures.failed is not None:
            write(f"{figures.framework}: {figures.failed}")
        elif figures.parts_at:
            write(f"{figures.framework} and {found[0].framework} first differ at {figures.parts_at}")
    return 0 if agreed else DIFFERS


def _row(figures: Figures) -> tuple[str, ...]:
    return (
        figures.framework,
        figures.version or "-",
        _share(figures.float64),
        _share(figures.float32),
        _time(figures.prediction),
        _time(figures.step),
        _memory(figures.memory),
        _memory(figures.training_memory),
    )


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1e}"


def _time(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1000 * seconds:,.1f} ms"


def _memory(size: int | None) -> str:
    return "-" if size is None else f"{size / 2**20:,.0f} MiB"


def _layers(found: list[Figures]) -> list[tuple[str, ...]]:
    """A row a layer, in the order of the network."""
    compared = [figures.layers for figures in found if figures.layers]
    paths = list(compared[0]) if compared else []
    return [(path, *(_share(layers.get(path)) for layers in compared)) for path in paths]
