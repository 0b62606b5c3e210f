"""How flags are read: argparse, with messages that name the flag, the value and what would be right."""

from __future__ import annotations

import argparse
import difflib
import json
import textwrap
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from imori.errors import ImoriError

DEVICES = "auto, cpu, or a GPU as the framework calls it: cuda, cuda:1, mps, gpu:0 (default: auto)"
"""The help of --device."""


class UsageError(ImoriError, ValueError):
    """A command, a flag or a value that the command line does not know."""


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Flags as "-b, --batch-size N", where argparse repeats N."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        value = self._format_args(action, self._get_default_metavar_for_optional(action))
        return f"{', '.join(action.option_strings)} {value}"


class _HelpAsked(Exception):
    """--help was printed, and there is nothing more to do."""


class Parser(argparse.ArgumentParser):
    """One command's flags. What is not given is None in the result, unless a default is declared."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, allow_abbrev=False, formatter_class=_Formatter, add_help=False)
        self._positionals.title, self._optionals.title = "arguments", "general"
        self.add_argument("-h", "--help", action="help", help="print this and exit")

    def describe(self, usage: str, text: str, *examples: str) -> None:
        """The help's first lines and its last ones."""
        self.usage, self.description = f"{self.prog} {usage}", textwrap.fill(text, 78)
        self.epilog = "examples:\n" + "\n".join(f"  {line}" for line in examples)

    def machine(self) -> None:
        """The flags of the commands that compute on photos."""
        self.add_argument("--device", default="auto", metavar="NAME", help=DEVICES)
        self.add_argument(
            "--strict", action="store_true", help="stop at a photo that cannot be read; else leave it out"
        )

    def read(self, argv: Sequence[str]) -> argparse.Namespace | None:
        """The flags and arguments, in any order; None where --help was asked for and printed. Raises UsageError."""
        try:
            arguments, rest = self.parse_known_intermixed_args(argv)
        except _HelpAsked:
            return None
        if rest:
            self.error(self._unknown(next((part for part in rest if part.startswith("-")), rest[0])))
        return arguments

    def _unknown(self, part: str) -> str:
        if not part.startswith("-"):
            return f"there is one argument too many: {part!r}"
        flag = part.partition("=")[0]
        known = self._option_string_actions
        near = [name for name in known if name.startswith(flag)] or difflib.get_close_matches(flag, known, n=1)
        return f"there is no flag {flag}" + (f"; did you mean {near[0]}?" if near else "")

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        """After --help."""
        raise _HelpAsked

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        if "expected one argument" in message:
            message += "; one that begins with - is written behind =, as in --flag=-1"
        raise UsageError(f"{message.removeprefix('argument ')} ({self.prog} --help explains the flags)")


def number(value: str) -> float:
    """A number, as in 0.001 or 1e-3."""
    return float(_read(float, value, "a number, as 0.001 or 1e-3"))


def whole(value: str) -> int:
    """A whole number."""
    return int(_read(int, value, "a whole number"))


def _read(kind: Callable[[str], Any], value: str, right: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{value!r} is not {right}") from None


def size(value: str) -> int | tuple[int, int]:
    """Pixels: "224", or height and width as "180x240"."""
    try:
        height, *width = (int(part) for part in value.lower().split("x"))
    except ValueError:
        height, width = 0, []
    if height < 1 or len(width) > 1 or any(w < 1 for w in width):
        raise argparse.ArgumentTypeError(f"{value!r} is not a size in pixels; write 224, or height x width as 180x240")
    return (height, width[0]) if width else height


def folds(value: str) -> int | str:
    """A number of folds, or "loo"."""
    if value == "loo":
        return value
    return int(_read(int, value, "a number of folds, or loo"))


def class_weights(value: str) -> str | dict[str, float]:
    """ "none", "balanced", or a weight for each class: cat=2,dog=1 or {"cat": 2, "dog": 1}."""
    if value in ("none", "balanced"):
        return value
    try:
        pairs = (
            json.loads(value).items() if value.startswith("{") else (part.rsplit("=", 1) for part in value.split(","))
        )
        return {str(name): float(weight) for name, weight in pairs}
    except (ValueError, TypeError):
        raise argparse.ArgumentTypeError(
            f'{value!r} is not "none", "balanced" or weights such as cat=2,dog=1 or {{"cat": 2, "dog": 1}}'
        ) from None
