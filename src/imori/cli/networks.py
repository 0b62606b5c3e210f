"""`imori models`: what can be trained. Imports no NumPy."""

from __future__ import annotations

import argparse
import importlib
import re
from typing import Any, NamedTuple

from imori import catalogue
from imori.cli.parsing import Parser
from imori.errors import NameUnknown
from imori.shapes import summary

CHANNELS, CLASSES = 3, 1000


def declare(parser: Parser, command: str) -> None:
    """The flags of `models`."""
    parser.describe(
        "[PATTERN] [--json]",
        "Lists the networks by name, with their paper, year, input size and trainable parameters.",
        "imori models",
        "imori models 'resnet*'",
        "imori models --json",
    )
    parser.add_argument("pattern", nargs="?", default="*", metavar="PATTERN", help="names that fit, as 'vgg*'")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


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


def run(arguments: argparse.Namespace, command: str) -> int:
    """Runs `models`."""
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
