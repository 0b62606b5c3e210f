"""What the commands print: tables, JSON and sentences, on a terminal, into a pipe, and in any locale."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.cells import cell_len

GAP = "  "


def visible(text: str) -> str:
    """The text with every control character but a line's end written out: a file's name may not steer a terminal."""
    return "".join(c if c.isprintable() or c in "\n\xa0\u3000" else ascii(c)[1:-1] for c in text)


def write(text: str = "") -> None:
    """A line on standard output."""
    print(visible(text))


def warn(text: str) -> None:
    """A line on standard error."""
    print(visible(text), file=sys.stderr)


def write_json(data: Any) -> None:
    """Data as JSON on standard output, in ASCII alone where the locale has no more."""
    utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    print(json.dumps(data, indent=2, ensure_ascii=not utf8))


def percent(share: float | None) -> str:
    """A share as "97.22 %"; "-" where there is none."""
    return "-" if share is None else f"{100 * share:.2f} %"


def counted(number: int, thing: str) -> str:
    """ "1 photo", "1,204 photos"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def write_table(
    heads: Sequence[str], rows: Iterable[Sequence[Any]], numbers: Sequence[str] = (), less: Sequence[str] = ()
) -> None:
    """A table; the columns named in `numbers` stand to the right.

    On a terminal that is too narrow, and only there, the columns `less` are left out, the first first and no more than
    must be, and then cells fold.
    """
    cells = [[visible(str(cell)).replace("\n", "\\n") for cell in row] for row in (heads, *rows)]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    if sys.stdout.isatty() and _over(widths) > 0:
        kept = _kept(heads, widths, less)
        cells = [[row[i] for i in kept] for row in cells]
        widths = [widths[i] for i in kept]
        left_out = [head for i, head in enumerate(heads) if i not in kept]
        if left_out:
            warn(f"this terminal is too narrow for: {', '.join(left_out)}")
    right = [head in numbers for head in cells[0]]
    if sys.stdout.isatty() and _over(widths) > 0:
        return _write_folded(cells, right)
    cells.insert(1, ["-" * width for width in widths])
    for row in cells:
        spaces = [" " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)]
        padded = (space + cell if r else cell + space for cell, space, r in zip(row, spaces, right, strict=True))
        print(GAP.join(padded).rstrip())
    return None


def _over(widths: Sequence[int]) -> int:
    """By how many columns the table is wider than the terminal."""
    return sum(widths) + len(GAP) * (len(widths) - 1) - shutil.get_terminal_size().columns


def _kept(heads: Sequence[str], widths: Sequence[int], less: Sequence[str]) -> list[int]:
    """The places of the columns that stay."""
    kept = list(range(len(heads)))
    for head in less:
        if _over([widths[i] for i in kept]) > 0:
            kept.remove(heads.index(head))
    return kept


def _write_folded(cells: list[list[str]], right: list[bool]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for head, is_right in zip(cells[0], right, strict=True):
        table.add_column(head, justify="right" if is_right else "left", overflow="fold")
    for row in cells[1:]:
        table.add_row(*row)
    Console(highlight=False, markup=False, emoji=False).print(table)
