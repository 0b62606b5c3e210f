"""How the command line reads what it is given, and how it ends."""

import errno
import re
import shlex
from dataclasses import fields
from typing import get_args

import pytest

import imori
from imori import cli, frameworks
from imori.cli import COMMANDS, HELP, parser
from imori.cli.training import DUPLICATES, FRAMEWORKS, SCHEDULES
from imori.cli.training import OPTIMIZERS as OFFERED
from imori.optimizers import OPTIMIZERS
from imori.train.recipe import Duplicates, Recipe, Schedule


def actions(command: str) -> dict:
    return {action.dest: action for action in parser(command)._actions}


# --- flags and the recipe ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", fields(Recipe), ids=lambda field: field.name)
def test_every_choice_of_a_recipe_is_a_flag(field) -> None:
    action = actions("train")[field.name]
    assert f"--{field.name.replace('_', '-')}" in action.option_strings
    assert action.default is None, "a flag that is not given leaves a --recipe's choice alone"
    said = re.search(r"\(default: ([\w.]+)\)", action.help)
    if field.default is not None:
        assert said is not None, f"the help does not say the default {field.default!r}"
        assert type(field.default)(said[1]) == field.default
    else:
        assert said is None or not said[1][0].isdigit() or field.name in ("momentum", "weight_decay")


def test_offered_optimizers_and_schedules_are_the_recipes() -> None:
    assert {*OFFERED} == {*OPTIMIZERS, "momentum", "nesterov"}
    assert get_args(Schedule) == SCHEDULES
    assert get_args(Duplicates) == DUPLICATES
    assert Recipe(opt="momentum").optimizer().momentum == 0.9


def test_conventional_names() -> None:
    line = "photos -b 7 -j 3 --lr 1e-3 --opt nesterov --output runs/x --size 48x64 --class-weights cat=2,dog=0.5"
    given = parser("train").read(line.split())
    assert given.data == "photos"
    assert (given.batch_size, given.workers, given.lr, given.opt) == (7, 3, 0.001, "nesterov")
    assert (given.out, given.size) == ("runs/x", (48, 64))
    assert given.class_weights == {"cat": 2.0, "dog": 0.5}
    assert parser("train").read(["--size", "48", "--out", "runs/y"]).size == 48


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("none", "none"),
        ("balanced", "balanced"),
        ("cat=2", {"cat": 2.0}),
        ("a=b=0.25,c=1e2", {"a=b": 0.25, "c": 100.0}),
        ('{"cat, small": 3}', {"cat, small": 3.0}),
    ],
)
def test_class_weights(written: str, read: object) -> None:
    assert parser("train").read(["--class-weights", written]).class_weights == read


@pytest.mark.parametrize("written", ["cat", "cat=two", "{cat: 2}", '["cat"]', "", '{"cat": null}'])
def test_class_weights_refuse(command, written: str) -> None:
    command("train", "digits", "--class-weights", written).refuses("--class-weights", repr(written), "cat=2,dog=1")


# --- arguments in any order, and what is not known --------------------------------------------------------------------


@pytest.mark.parametrize("order", ["RUN DATA --json", "RUN --json DATA", "--json RUN DATA", "--json RUN --strict DATA"])
def test_arguments_and_flags_in_any_order(order: str) -> None:
    given = parser("test").read(order.split())
    assert (given.model, given.data, given.json) == ("RUN", "DATA", True)


def test_photos_before_and_after_a_flag() -> None:
    given = parser("predict").read(["RUN", "a.jpg", "--top", "2", "b.jpg"])
    assert (given.model, given.images, given.top) == ("RUN", ["a.jpg", "b.jpg"], 2)


REFUSED = {
    "unknown-command": (("trian",), ("'trian'", "did you mean imori train?", "predict")),
    "unknown-flag": (("train", "digits", "--epoch", "3"), ("--epoch", "did you mean --epochs?", "imori train --help")),
    "unlike-any-flag": (("train", "digits", "--zzz"), ("--zzz", "imori train --help")),
    "abbreviation": (("train", "digits", "--iter", "3"), ("there is no flag --iter;", "did you mean --iterations?")),
    "argument-too-many": (("models", "lenet", "alexnet"), ("'alexnet'", "too many")),
    "no-argument": (("test",), ("RUN", "imori test --help")),
    "no-photos": (("predict", "runs/a"), ("IMAGES", "imori predict --help")),
    "no-value": (("train", "digits", "--epochs"), ("--epochs", "expected one argument")),
    "minus-value": (("train", "digits", "--class-weights", "-1=2"), ("--class-weights", "behind =, as in --flag=-1")),
    "word-for-a-number": (("train", "digits", "--lr", "fast"), ("--lr", "'fast'", "0.001")),
    "fraction-for-a-count": (("train", "digits", "--epochs", "2.5"), ("--epochs", "'2.5'", "whole number")),
    "unknown-choice": (("train", "digits", "--opt", "lamb"), ("--opt", "lamb", "adamw")),
    "unknown-format": (("predict", "runs/a", "x.jpg", "--format", "xml"), ("--format", "xml", "csv")),
    "unknown-model": (("train", "digits", "--model", "lenett"), ("'lenett'", "lenet", "imori models")),
    "unknown-framework": (("train", "digits", "--framework", "caffe"), ("'caffe'", "numpy")),
}


@pytest.mark.parametrize(("arguments", "mentions"), REFUSED.values(), ids=REFUSED)
def test_refuses(command, arguments, mentions, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    command(*arguments).refuses(*mentions)
    assert not list(tmp_path.iterdir()), "nothing is left behind"


# --- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",), ("help",)], ids=str)
def test_help(command, arguments) -> None:
    answer = command(*arguments)
    assert (answer.code, answer.err) == (0, "")
    assert all(f"imori {name} " in answer.out or f"imori {name}\n" in answer.out for name in COMMANDS)


def test_version(command) -> None:
    assert command("--version") == (0, f"imori {imori.__version__}\n", "")


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_explains_every_flag(command, name: str) -> None:
    answer = command(name, "--help")
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(f"usage: imori {name} ")
    for action in actions(name).values():
        assert action.help
        assert all(flag in answer.out for flag in action.option_strings)


def written_commands() -> list[str]:
    """Every command that a help text shows as an example."""
    texts = [HELP, *(parser(name).epilog or "" for name in COMMANDS)]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return [re.split(r"\s{2,}", line)[0] for line in lines if re.match(r"imori \w+ ", line) and "COMMAND" not in line]


@pytest.mark.parametrize("line", written_commands())
def test_examples_in_the_help_can_be_read(line: str) -> None:
    _, name, *rest = shlex.split(line)
    assert parser(name).read(rest) is not None


def test_every_command_has_examples() -> None:
    for name in COMMANDS:
        assert sum(line.startswith(f"imori {name}") for line in written_commands()) >= 2


def test_every_framework_that_trains_is_in_the_help() -> None:
    assert tuple(name for name in frameworks.names() if name not in frameworks.PREDICTING) == FRAMEWORKS


# --- how it ends ------------------------------------------------------------------------------------------------------


ENDS = {
    "disk-full": (
        OSError(errno.ENOSPC, "No space left on device", "runs/a"),
        2,
        "error: runs/a: the disk is full; free",
    ),
    "not-allowed": (PermissionError(errno.EACCES, "Permission denied", "x.csv"), 2, "error: x.csv: Permission denied"),
    "memory-full": (MemoryError(), 2, "error: the memory is full; close other programs"),
    "ctrl-c": (KeyboardInterrupt(), 130, "stopped"),
    "ctrl-c-saved": (KeyboardInterrupt("stopped after step 3 of 9; go on by: …"), 130, "stopped after step 3 of 9"),
    "pipe-closed": (BrokenPipeError(), 141, ""),
    "ours": (imori.ImoriError("wrong \x1b[31m name"), 2, "error: wrong \\x1b[31m name\n"),
}


@pytest.mark.parametrize(("error", "code", "message"), ENDS.values(), ids=ENDS)
def test_how_it_ends(command, monkeypatch, error: BaseException, code: int, message: str) -> None:
    def stops(argv: list[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "_run", stops)
    monkeypatch.setattr(cli.os, "dup2", lambda *_: None)
    answer = command("models")
    assert answer.code == code
    assert answer.out == ""
    assert answer.err.startswith(message)
    assert bool(answer.err) == bool(message)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (("train", "digits"), "digits takes more memory than is free; use a smaller --batch-size or --size, or close"),
        (("convert", "a.npz", "--to", "numpy", "b.npz"), "a.npz takes more memory than is free; close other programs"),
    ],
    ids=["train", "convert"],
)
def test_what_takes_too_much_memory_is_named(command, monkeypatch, line: tuple[str, ...], said: str) -> None:
    def stops(arguments: object, command: str) -> int:
        raise MemoryError

    monkeypatch.setattr(f"imori.cli.{COMMANDS[line[0]]}.run", stops)
    command(*line).refuses(said)


def test_a_mistake_of_ours_is_not_hidden(command, monkeypatch) -> None:
    monkeypatch.setattr(cli, "_run", lambda argv: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        command("models")
