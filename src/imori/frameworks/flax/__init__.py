"""Flax NNX: a tree becomes an ordinary `nnx.Module`, made of Flax's own layers wherever it has them.

Its attributes are called by the segments of the canonical paths, numbers included, so that the paths of `nnx.state`
read as our names do, and all of their keys are strings, as checkpoints like them. A combinator's children are its
items too: `model.conv2[0].body.conv1.kernel`. It works with `nnx.split`, `nnx.jit`, `nnx.Optimizer(model, tx,
wrt=nnx.Param)`, `model.train()` and `model.eval()`, and comes in training mode, as every NNX module does.

Called without imori it takes images (N, H, W, C), as Flax does. With auxiliary heads (`Aux`) it returns (logits,
logits of each head, ...) in training, and the logits alone in evaluation. A lone layer is `model.layer`.

JAX has float64 only where x64 is enabled. imori enables it around its own calls and leaves the user's setting as it
is; a float64 model that is called where x64 is off says so.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import jax
import numpy as np
from flax import nnx

from imori import tree as t
from imori.errors import ImoriError, TreeError
from imori.frameworks.base import Array, Setup, Weights, check_paths
from imori.frameworks.flax.layers import Combinator, Tensor, channels_first, channels_last, root_of
from imori.frameworks.flax.saving import FORMS, answers, save
from imori.frameworks.flax.step import FlaxStep
from imori.frameworks.flax.weights import exact, fill, module_at, origin, outward, places
from imori.shapes import Node
from imori.weights.names import compare

__all__ = [
    "DTYPES",
    "FORMS",
    "answers",
    "build",
    "device",
    "dump",
    "load",
    "logits",
    "outputs",
    "owns",
    "prepare",
    "save",
]

DTYPES = ("float32", "float64")


def device(name: str) -> str:
    """The device that `name` means; "auto" is a GPU or TPU where there is one. ImoriError if it is not there."""
    there = _devices()
    if name == "auto":
        return next(iter(there))
    if name not in there:
        raise ImoriError(f"flax has no device {name!r} here; it has {', '.join(there)}, and auto is the fastest")
    return name


def _devices() -> dict[str, jax.Device]:
    """JAX's devices by name, the fastest first: "gpu", also "gpu:0" where there are several, and "cpu"."""
    found: dict[str, jax.Device] = {}
    for platform in (jax.default_backend(), "cpu"):
        with contextlib.suppress(RuntimeError):  # JAX_PLATFORMS may leave the cpu out
            devices = jax.devices(platform)
            found.setdefault(platform, devices[0])
            if len(devices) > 1:
                found |= {f"{platform}:{i}": each for i, each in enumerate(devices)}
    return found


def build(root: Node, weights: Weights, dtype: str, device: str) -> Combinator:
    """The module, in training mode. TreeError for a lone Aux."""
    if isinstance(root.layer, t.Aux):
        raise TreeError("the root is an Aux, which only passes its input through; put it into a Chain with the rest")
    with exact():
        native = root_of(root, dtype)
        nnx.reseed(native, dropout=0)
        fill(native, weights, _devices()[device])
    return native


def owns(native: object) -> bool:
    """Whether `build` made the module, be it trained, cloned or merged since."""
    return isinstance(native, Combinator) and native._origin is not None


def load(native: Combinator, weights: Weights) -> None:
    """Copies canonical weights into the module's own variables, on the devices where they are."""
    compare(weights, {name: node.weights[name.rpartition(".")[2]] for name, (node, _) in places(native).items()})
    with exact():
        fill(native, weights)


def dump(native: Combinator) -> Weights:
    """Canonical weights, as arrays: copies."""
    return {name: outward(node, variable[...]) for name, (node, variable) in places(native).items()}


def logits(native: Combinator, images: Array) -> Array:
    """Inference on images (N, C, H, W) -> (N, classes); the model is left as it was. Compiled once for each shape."""
    return outputs(native, images, [""])[""]


def outputs(native: Combinator, images: Array, paths: Sequence[str]) -> dict[str, Array]:
    """Inference on images (N, C, H, W): path -> a copy of that node's output, (N, C, H, W) or (N, F)."""
    made = origin(native)
    check_paths(paths, list(_awake(made.root)))
    images = np.asarray(images, made.dtype)
    made.check(images.shape, False)
    with exact():
        found = _infer(native, images, tuple(paths))
    return {path: np.array(found[path], order="C") for path in paths}


def _awake(node: Node) -> Iterator[str]:
    """The paths of all that runs at inference."""
    if not isinstance(node.layer, t.Aux):
        yield node.path
        for child in node.children:
            yield from _awake(child)


@partial(jax.jit, static_argnames="paths")
def _infer(native: Combinator, images: Tensor, paths: tuple[str, ...]) -> dict[str, Tensor]:
    """The outputs at `paths`. What is passed in is JAX's copy of the module for this call, and may be changed."""
    native.eval()
    found: dict[str, Tensor] = {}

    def tapped(path: str, module: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        found[path] = module(x)
        return found[path]

    split = {path: path.rpartition(".") for path in paths if path}
    parents = {path: module_at(native, parent) for path, (parent, _, _) in split.items()}
    for path, (_, _, name) in split.items():
        setattr(parents[path], name, partial(tapped, path, getattr(parents[path], name)))
    out = native(channels_last(images))
    assert not isinstance(out, tuple), "heads do not run in evaluation"
    found[""] = out
    return {path: channels_first(found[path]) for path in paths}


def prepare(native: Combinator, setup: Setup) -> FlaxStep:
    """A training step that changes the model in place."""
    return FlaxStep(native, setup)
