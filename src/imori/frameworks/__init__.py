"""The frameworks in which a tree can be built: one file each, found by name and imported when asked for."""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Sequence
from typing import cast

from imori.errors import FrameworkMissing, ImoriError, NameUnknown
from imori.frameworks.base import Array, DTypeLike, Framework, Native, Weights, common_dtype, dtype_name, filled
from imori.shapes import Shape, resolve
from imori.tree import Tree
from imori.weights import check, initial_weights

ALSO = {"flax": ("jax", "optax"), "onnx": ("onnxruntime",)}
"""What a framework's file imports beside the framework. All of it is looked for before any of it is imported."""
BY_HAND = {"chainer": "pip install 'setuptools<81' wheel && pip install --no-build-isolation 'imori[chainer]'"}
"""How to install a framework that its extra does not install by itself: Chainer is built by an older setuptools."""
ENGINES = {"numpy": ("fast", "plain")}
"""The engines of a framework that has a choice of them, the usual one first."""
PREFERRED = ("torch", "keras", "tensorflow", "flax", "chainer", "numpy", "onnx")
PREDICTING = ("onnx",)
"""The frameworks that predict and do not train. They stand behind NumPy, so that none is taken unless it is named."""


def names() -> tuple[str, ...]:
    """Every framework that imori knows, installed or not, the preferred ones first."""
    found = {module.name for module in pkgutil.iter_modules(__path__)} - {"base"}
    known = [name for name in PREFERRED if name in found]
    return (*known, *sorted(found - set(known)))


def installed(name: str) -> bool:
    """Whether the framework can be imported; it is not imported."""
    return importlib.util.find_spec(name) is not None


def ready(name: str) -> bool:
    """Whether a framework is installed with all that its file imports."""
    return all(map(installed, (name, *ALSO.get(name, ()))))


def get(name: str | None = None) -> Framework:
    """The framework called `name`, or the preferred one that is installed. FrameworkMissing names its extra."""
    if name is None:
        name = next(candidate for candidate in names() if installed(candidate))
    check_installed(name)
    try:
        return cast(Framework, importlib.import_module(f"{__name__}.{name}"))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("imori"):
            raise  # a fault of our own
        raise _incomplete(name, error.name) from error


def check_installed(name: str) -> None:
    """NameUnknown for no framework's name; FrameworkMissing where it or what it needs is not installed."""
    if name not in names():
        near = difflib.get_close_matches(name, names(), n=2)
        meant = f"; did you mean {' or '.join(near)}?" if near else ""
        raise NameUnknown(f"there is no framework {name!r}; there are {', '.join(names())}{meant}")
    if not installed(name):
        raise FrameworkMissing(f"{name} is not installed; install it by: {_how(name)}")
    for package in ALSO.get(name, ()):
        if not installed(package):
            raise _incomplete(name, package)


def engine_of(name: str, engine: str | None = None) -> str | None:
    """The engine of the framework called `name`: the usual one unless one is named, None where it has no choice.

    ImoriError for an engine that it does not have.
    """
    known = ENGINES.get(name, ())
    if engine is None or engine in known:
        return engine or next(iter(known), None)
    raise ImoriError(
        f"{name} has no engine {engine!r}; " + (f"choose {' or '.join(known)}" if known else "leave it out")
    )


def trainer(name: str | None = None) -> Framework:
    """As `get`, for training. ImoriError for a framework that only predicts."""
    if name in PREDICTING:
        others = ", ".join(other for other in names() if other not in PREDICTING)
        raise ImoriError(f"{name} predicts and does not train; train in one of {others}")
    return get(name)


def _incomplete(name: str, package: str) -> FrameworkMissing:
    return FrameworkMissing(f"{name} needs {package}, which is not installed; install both by: {_how(name)}")


def _how(name: str) -> str:
    return BY_HAND.get(name, f"pip install 'imori[{name}]'")


def name_of(framework: Framework) -> str:
    """The name by which `get` finds a framework."""
    return cast(str, framework.__name__).rpartition(".")[2]  # type: ignore[attr-defined]


def of(native: Native) -> Framework:
    """The framework that made a native model."""
    for name in names():
        if name in sys.modules and get(name).owns(native):
            return get(name)
    raise ImoriError(
        f"{type(native).__name__} is no model of {', '.join(names())} that imori built; build one by imori.build(tree,"
        " shape, framework, weights). Of a model that a framework copied or loaded, imori reads the saved file:"
        " imori convert FILE --model NAME"
    )


def build(
    tree: Tree,
    shape: Shape,
    framework: str | None = None,
    weights: Weights | None = None,
    dtype: DTypeLike | None = None,
    device: str = "cpu",
    seed: int = 0,
    engine: str | None = None,
) -> Native:
    """The framework's own model of `tree` for images of `shape` (C, H, W).

    `weights` are canonical; without them the model starts from `initial_weights(tree, shape, seed)`. `dtype`,
    "float32" or "float64", is the one that holds all of the weights unless given. The preferred framework that is
    installed is taken unless one is named.
    """
    chosen = get(framework)
    root = resolve(tree, shape)
    if weights is None:
        weights = initial_weights(tree, shape, seed)
    check(weights, root)
    kind = common_dtype(weights) if dtype is None else dtype_name(dtype)
    if kind not in chosen.DTYPES:
        raise ImoriError(f"{name_of(chosen)} does not build in {kind!r}; it builds in {', '.join(chosen.DTYPES)}")
    engine = engine_of(name_of(chosen), engine)
    options = {} if engine is None else {"engine": engine}
    return chosen.build(root, weights, kind, chosen.device(device), **options)


def logits(native: Native, images: Array) -> Array:
    """Inference on preprocessed images (N, C, H, W): logits (N, classes); of no images (0, classes).

    ImoriError for images that are not floats, as a photo's levels from 0 to 255.
    """
    return of(native).logits(native, filled(images))[: len(images)]


def outputs(native: Native, images: Array, paths: Sequence[str]) -> dict[str, Array]:
    """Inference on preprocessed images (N, C, H, W): path -> that node's output, (N, C, H, W) or (N, F).

    A node is a layer, a `Sum`, a `Concat` or a chain, as "conv4" or "conv4.0.body.conv2"; "" is the whole network.
    NameUnknown for a path that is none, with the nearest.
    """
    found = of(native).outputs(native, filled(images), paths)
    return {path: output[: len(images)] for path, output in found.items()}


def dump_weights(native: Native) -> Weights:
    """The model's weights under canonical names and in canonical layouts."""
    return of(native).dump(native)
