"""The command line: `imori train`, `test`, `predict`, `ensemble`, `explain`, `convert`, `compare`, `models`, `show`.

It parses with argparse, because a command must answer at once: the alternatives take longer to import than `imori
show` takes to run. Each command is a module that is imported when it is called; it declares its flags in a function
and runs in another. Everything heavy is imported inside the latter.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import importlib
import io
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import TextIO

from imori.cli import memory
from imori.cli.parsing import Parser, UsageError
from imori.cli.stopping import stoppable
from imori.errors import ImoriError, ImoriWarning, SizeError

OK, WRONG, STOPPED, PIPE_CLOSED = 0, 2, 130, 141
COMMANDS = {
    "train": "training",
    "test": "testing",
    "predict": "predicting",
    "ensemble": "ensembling",
    "explain": "explaining",
    "convert": "converting",
    "compare": "comparing",
    "models": "networks",
    "show": "show",
}
HELP = """\
imori: a folder of photos becomes an image classifier, with any classic CNN, in the framework you use.

  imori train photos/ --model resnet18         train on a folder with a folder of photos for each class
  imori test runs/latest photos_test/          accuracy, precision and recall of each class, confusion matrix
  imori predict runs/latest holiday.jpg        what is in a photo, with probabilities
  imori ensemble runs/a runs/b                 several models as one: their probabilities averaged
  imori explain runs/a --filters --mistakes    pictures of what a network has learned, and of its errors
  imori convert runs/a --to keras a.keras      the model for another framework
  imori compare runs/a                         its numbers, speed and memory in every framework
  imori models                                 the networks that can be trained
  imori show resnet18                          a network's table: shapes, parameters, multiply-accumulates

Try it without photos of your own, on 1,797 small handwritten digits that come with imori:

  imori train digits --model lenet --out runs/digits
  imori test runs/digits

imori COMMAND --help explains a command's flags; imori --version prints the version.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns the exit code.

    0: done. 2: an error in what was asked or given, said in one line on stderr. 130: stopped by Ctrl-C or SIGTERM.
    """
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115  (None where the shell has closed it)
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        with stoppable(), _noting():
            code = _run(list(sys.argv[1:] if argv is None else argv))
        sys.stdout.flush()
        return code
    except ImoriError as error:
        return _say(f"error: {error}", WRONG)
    except KeyboardInterrupt as stop:
        return _say(str(stop) or "stopped", STOPPED)
    except BrokenPipeError:
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PIPE_CLOSED
    except MemoryError:
        return _say("error: the memory is full; close other programs", WRONG)
    except OSError as error:
        return _say(f"error: {_system(error)}", WRONG)


@contextlib.contextmanager
def _noting() -> Iterator[None]:
    """Inside, what imori warns of is a note on standard error, as its other notes are."""

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, ImoriWarning):
            from imori.cli.output import warn

            warn(f"note: {message}")
        else:
            usual(message, category, filename, lineno, file, line)

    with warnings.catch_warnings():
        warnings.simplefilter("always", ImoriWarning)
        usual, warnings.showwarning = warnings.showwarning, show
        yield


def parser(command: str) -> Parser:
    """The flags of one command."""
    made = Parser(prog=f"imori {command}")
    importlib.import_module(f"imori.cli.{COMMANDS[command]}").declare(made, command)
    return made


def _run(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help", "help"):
        sys.stdout.write(HELP)
        return OK
    command, *rest = argv
    if command == "--version":
        from imori import __version__

        print(f"imori {__version__}")
        return OK
    if command not in COMMANDS:
        near = difflib.get_close_matches(command, COMMANDS, n=1, cutoff=0.5)
        meant = f"; did you mean imori {near[0]}?" if near else ""
        raise UsageError(f"there is no command {command!r}; there are {', '.join(COMMANDS)}{meant}")
    arguments = parser(command).read(rest)
    if arguments is None:
        return OK
    memory.keep()
    try:
        code: int = importlib.import_module(f"imori.cli.{COMMANDS[command]}").run(arguments, command)
    except SizeError as error:
        if "size" not in arguments:
            raise
        raise ImoriError(f"{error} (--size {error.smallest[1]})") from error
    except MemoryError as error:
        given = next(filter(None, (getattr(arguments, name, None) for name in ("model_file", "data", "model"))), "it")
        smaller = "use a smaller --batch-size or --size, or " if "batch_size" in arguments else ""
        raise ImoriError(f"{given} takes more memory than is free; {smaller}close other programs") from error
    return code


def _say(message: str, code: int) -> int:
    from imori.cli.output import visible

    with contextlib.suppress(OSError):
        print(visible(message), file=sys.stderr, flush=True)
    return code


def _system(error: OSError) -> str:
    place = f"{error.filename}: " if error.filename else ""
    if error.errno == errno.ENOSPC:
        return f"{place}the disk is full; free some space and try again"
    return f"{place}{error.strerror or error}"
