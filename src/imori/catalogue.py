"""The networks by name. Each line says where a name's function is and what it is called with; none is imported yet."""

from __future__ import annotations

import contextlib
import difflib
import fnmatch
import functools
import importlib
import importlib.util
import inspect
import operator
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, SupportsIndex, get_args

from imori.errors import ImoriError, NameUnknown, TreeError
from imori.tree import Tree, cut, from_json

DEFAULT_SIZE = 224
MIN_WIDTH, MAX_WIDTH = 0.05, 16
MAX_COUNT = 2**20
"""Of classes, and of channels: ImageNet's largest edition has 21,841 classes."""


@dataclass(frozen=True)
class Entry:
    """Where a network is written, and the height and width that its paper feeds it."""

    function: str
    size: int
    arguments: tuple[Any, ...] = ()
    without: tuple[str, ...] = ()
    """The paper's variants that this network was not published in."""
    same: tuple[str, ...] = ()
    """Those that do not differ from the default in this network."""


CATALOGUE: dict[str, Entry] = {
    "lenet": Entry("lenet:lenet", 32),
    "alexnet": Entry("alexnet:alexnet", 227),
    "zfnet": Entry("zfnet:zfnet", 224),
    "zfnet_gap": Entry("zfnet:zfnet", 224, (True,)),
    "nin": Entry("nin:nin", 128),
    "vgg16": Entry("vgg:vgg", 224, (16,)),
    "vgg19": Entry("vgg:vgg", 224, (19,)),
    "vgg16_bn": Entry("vgg:vgg", 224, (16, True), without=("keras",)),
    "vgg19_bn": Entry("vgg:vgg", 224, (19, True), without=("keras",)),
    "googlenet": Entry("googlenet:googlenet", 224),
    "resnet18": Entry("resnet:resnet", 224, (18,), without=("keras",), same=("paper",)),
    "resnet34": Entry("resnet:resnet", 224, (34,), without=("keras",), same=("paper",)),
    "resnet50": Entry("resnet:resnet", 224, (50,)),
    "resnet101": Entry("resnet:resnet", 224, (101,)),
    "resnet152": Entry("resnet:resnet", 224, (152,)),
    "resnet_mnist_plain": Entry("resnet_mnist:resnet_mnist", 28, ("plain",)),
    "resnet_mnist_bottleneck": Entry("resnet_mnist:resnet_mnist", 28, ("bottleneck",)),
    "resnext50_32x4d": Entry("resnext:resnext", 224, (50, 32, 4)),
    "resnext101_32x4d": Entry("resnext:resnext", 224, (101, 32, 4)),
    "resnext101_32x8d": Entry("resnext:resnext", 224, (101, 32, 8)),
    "resnext101_64x4d": Entry("resnext:resnext", 224, (101, 64, 4)),
    "xception": Entry("xception:xception", 299),
    "densenet121": Entry("densenet:densenet", 224, (121,)),
    "densenet161": Entry("densenet:densenet", 224, (161,), without=("keras",)),
    "densenet169": Entry("densenet:densenet", 224, (169,)),
    "densenet201": Entry("densenet:densenet", 224, (201,)),
    "densenet264": Entry("densenet:densenet", 224, (264,), without=("keras",)),
    "simple_convnet": Entry("deep_convnet:simple_convnet", 28, same=("paper",)),
    "deep_convnet": Entry("deep_convnet:deep_convnet", 28),
    "mobilenet_v1": Entry("mobilenet_v1:mobilenet_v1", 224),
    "mobilenet_v2": Entry("mobilenet_v2:mobilenet_v2", 224),
}


def list_models(pattern: str = "*") -> list[str]:
    """The names in the catalogue that fit `pattern` ("resnet*"), in the catalogue's order."""
    return [name for name in CATALOGUE if fnmatch.fnmatchcase(name, pattern.lower())]


def variants(name: str) -> tuple[str, ...]:
    """The forms of a network of the catalogue that differ, "default" first. NameUnknown for a name that is unknown."""
    return _variants(_entry(name))


def size_of(name: str) -> int:
    """The height and width that a network is fed: its paper's, a user's own file's SIZE, or 224 where none is said."""
    if not _is_own(name):
        return DEFAULT_SIZE if name.endswith(".json") else _entry(name.partition("@")[0]).size
    path, _ = _split(name)
    size = getattr(_own_module(path), "SIZE", DEFAULT_SIZE)
    if type(size) is not int or size < 1:
        raise TreeError(f"{path}: SIZE is {size!r:.80}; it must be a whole number from 1")
    return size


def model(
    name: str | os.PathLike[str] | Tree,
    classes: SupportsIndex = 1000,
    channels: SupportsIndex = 3,
    variant: str | None = None,
    width: float | None = None,
    upto: str | None = None,
) -> Tree:
    """A network as a value.

    `name` is a name of the catalogue, perhaps with its variant ("resnet50@paper"), "path/my_net.py:function" (your own
    function that returns a tree; it is called with `classes` if it takes that), the path of a tree in JSON, or a tree,
    which is returned as it is. `variant` is one of `variants(name)`, or a publisher whose form does not differ from the
    default. `width` multiplies the filters of the networks that have a width multiplier, as `mobilenet_v2`. `upto` cuts
    the network behind the layer or block of that path, to use its output as features (`tree.cut`). A tree does not
    state its input channels, so `channels` is checked and changes nothing. Raises NameUnknown with the nearest names,
    or TreeError for a network that cannot be made.
    """
    classes, _ = whole("classes", classes), whole("channels", channels)
    name = os.fspath(name) if isinstance(name, os.PathLike) else name
    if not isinstance(name, str):
        tree = _checked(name, "the model")
    elif _is_own(name):
        tree = _own_tree(name, classes)
    elif name.endswith(".json"):
        tree = _read_json(name)
    else:
        tree = _from_paper(name, classes, variant or "default", width)
        return tree if upto is None else cut(tree, upto)
    if variant not in (None, "default"):
        raise NameUnknown(f"a network of your own has no variant {variant!r}; variants belong to the catalogue's names")
    if width is not None:
        raise NameUnknown(f"a network of your own has no width {width!r}; give its function the filters you want")
    return tree if upto is None else cut(tree, upto)


def whole(what: str, value: object) -> int:
    """How many classes or channels, be it Python's number or NumPy's. TreeError for none, and for too many."""
    if isinstance(value, SupportsIndex) and not isinstance(value, bool) and 1 <= operator.index(value) <= MAX_COUNT:
        return operator.index(value)
    raise TreeError(f"{what} is {value!r:.80}; it must be a whole number from 1 to {MAX_COUNT:,}")


def _from_paper(name: str, classes: int, variant: str, width: float | None) -> Tree:
    """A name of the catalogue; a publisher's form that does not differ from the default is the default."""
    name, _, written = name.partition("@")
    if written and variant not in ("default", written):
        raise NameUnknown(f"{name}@{written} is asked for in the variant {variant!r}; name one of the two")
    variant = written or variant
    entry = _entry(name)
    known, same = _variants(entry), (*_paper(entry).SAME, *entry.same)
    if variant not in (*known, *same):
        like = f" ({', '.join(same)}: the same as the default)" if same else ""
        raise NameUnknown(f"{name} has no variant {variant!r}; it has {', '.join(known)}{like}")
    function = _function(entry)
    more = {} if width is None else {"width": _width(name, width)}
    return function(*entry.arguments, classes=classes, variant=variant if variant in known else "default", **more)


def _width(name: str, width: Any) -> float:
    """A width multiplier, of a network that has one."""
    if not has_width(name):
        wide = ", ".join(other for other in CATALOGUE if has_width(other))
        raise NameUnknown(f"{name} has no width multiplier; these have: {wide}")
    if isinstance(width, bool) or not isinstance(width, (int, float)) or not MIN_WIDTH <= width <= MAX_WIDTH:
        raise TreeError(
            f"width is {width!r:.80}; it must be a number from {MIN_WIDTH} to {MAX_WIDTH}, 1 for the paper's"
        )
    return float(width)


def has_width(name: str) -> bool:
    """Whether a network of the catalogue has a width multiplier."""
    return "width" in inspect.signature(_function(_entry(name))).parameters


def _function(entry: Entry) -> Callable[..., Tree]:
    return getattr(_paper(entry), entry.function.partition(":")[2])  # type: ignore[no-any-return]


def _variants(entry: Entry) -> tuple[str, ...]:
    return tuple(variant for variant in _paper(entry).VARIANTS if variant not in (*entry.without, *entry.same))


def _entry(name: str) -> Entry:
    if name not in CATALOGUE:
        near = difflib.get_close_matches(name.lower(), CATALOGUE, n=5, cutoff=0.5) or list(CATALOGUE)
        raise NameUnknown(
            f"there is no model {name!r}; the nearest names are {', '.join(near)}."
            " `imori models` lists all; your own is written as path/my_net.py:function"
        )
    return CATALOGUE[name]


def _paper(entry: Entry) -> Any:
    return importlib.import_module(f"imori.papers.{entry.function.partition(':')[0]}")


# --- a user's own networks -------------------------------------------------------------------------------------------


def _is_own(name: str) -> bool:
    return name.endswith(".py") or name.rpartition(":")[0].endswith(".py")


def _split(name: str) -> tuple[str, str]:
    path, _, function = name.rpartition(":")
    return (name, "") if name.endswith(".py") else (path, function)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise NameUnknown(f"{path} cannot be read as a network: {error}") from error


def _read_json(path: str) -> Tree:
    try:
        return from_json(_read(path))
    except TreeError as error:
        raise TreeError(f"{path}: {error}") from error


def _own_module(path: str) -> ModuleType:
    """The user's own file, run as the Python that it is: once, until it changes."""
    return _run(path, _read(path))


@functools.lru_cache(maxsize=16)
def _run(path: str, text: str) -> ModuleType:
    name = f"_own_{Path(path).stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        with _neighbours(path):
            spec.loader.exec_module(module)
    except Exception as error:
        raise TreeError(f"{path} stopped with {type(error).__name__}: {error}; mend the file") from error
    return module


@contextlib.contextmanager
def _neighbours(path: str) -> Iterator[None]:
    """Inside, the files beside `path` can be imported, as Python does for a script."""
    folder = str(Path(path).resolve().parent)
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):  # the file took it away itself
            sys.path.remove(folder)


def _own_tree(name: str, classes: int) -> Tree:
    path, function = _split(name)
    if not function:
        raise NameUnknown(f"{name} names no function; write {path}:function, for one in it that returns a tree")
    module = _own_module(path)
    make = getattr(module, function, None)
    if not inspect.isfunction(make):
        own = [value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__]
        there = [value.__name__ for value in own if inspect.isfunction(value)]
        raise NameUnknown(f"{path} has no function {function!r}; it has {', '.join(there) or 'none'}")
    try:
        with _neighbours(path):
            made = make(classes=classes) if "classes" in inspect.signature(make).parameters else make()
    except ImoriError:
        raise
    except Exception as error:
        raise TreeError(f"{name} stopped with {type(error).__name__}: {error}; mend the file") from error
    return _checked(made, name)


def _checked(made: Any, name: str) -> Tree:
    if not isinstance(made, get_args(Tree)):
        raise TreeError(f"{name} is {made!r:.80}; it must be a tree, as in Chain(Conv(8, 3), ...)")
    return made  # type: ignore[no-any-return]
