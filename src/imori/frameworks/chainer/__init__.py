"""Chainer 7.8.1: a tree becomes an ordinary `chainer.Chain` of Chainer's own links, which needs imori no more.

Its links are called by the segments of the canonical paths: a numbered one is `native["0"]`, and is saved as "0/W" as a
`ChainList` would save it. It works with Chainer's Trainer, optimizers and serializers. With auxiliary heads (`Aux`) it
returns (logits, logits of each head, ...) where `chainer.config.train` is set, as it is by default, and the logits
alone elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from imori import tree as t
from imori.errors import ImoriError, TreeError
from imori.frameworks.base import Array, InputCheck, Setup, Weights, check_paths
from imori.frameworks.chainer.links import link_of, walk
from imori.frameworks.chainer.saving import FORMS, answers, save
from imori.frameworks.chainer.shims import chainer
from imori.frameworks.chainer.step import ChainerStep
from imori.frameworks.chainer.weights import Built, arrays, as_array, as_variable, running
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
    """The device that `name` means; "auto" is CUDA where CuPy finds it, else "cpu". ImoriError if it is not there."""
    there = ["cpu"]
    if chainer.backends.cuda.available:
        count = chainer.backends.cuda.cupy.cuda.runtime.getDeviceCount()
        there = ["cuda", *(f"cuda:{i}" for i in range(count)), "cpu"]
    if name == "auto":
        return there[0]
    if name not in there:
        raise ImoriError(f"chainer has no device {name!r} here; it has {', '.join(there)}; it uses a GPU through CuPy")
    return name


def build(root: Node, weights: Weights, dtype: str, device: str) -> chainer.Link:
    """The model. TreeError for a lone Aux."""
    if isinstance(root.layer, t.Aux):
        raise TreeError("the root is an Aux, which only passes its input through; put it into a Chain with the rest")
    with chainer.using_config("dtype", np.dtype(dtype)):
        native = link_of(root)
    native.cleargrads()  # gradients that would take as much memory as the weights
    if device != "cpu":
        native.to_device(f"@cupy:{device.partition(':')[2] or 0}")
    load(native, weights)
    native.add_hook(Built(InputCheck(root), dtype))
    return native


def owns(native: object) -> bool:
    """Whether `build` made the link, be it trained or copied since."""
    return isinstance(native, chainer.Link) and isinstance(native.local_link_hooks.get(Built.name), Built)


def load(native: chainer.Link, weights: Weights) -> None:
    """Copies canonical weights into the model's own arrays; an optimizer of yours keeps hold of them."""
    own = arrays(native)
    compare(weights, {name: array.shape for name, array in own.items()})
    for name, array in own.items():
        array[...] = native.xp.asarray(weights[name])


def dump(native: chainer.Link) -> Weights:
    """Canonical weights, as arrays: copies."""
    return {name: as_array(array) for name, array in arrays(native).items()}


def logits(native: chainer.Link, images: Array) -> Array:
    """Inference on images (N, C, H, W) -> (N, classes)."""
    with running(native, train=False):
        return as_array(native(as_variable(native, images)).array)


class _Taps(chainer.LinkHook):
    """While it is entered, copies the outputs of some links."""

    name = "imori.outputs"

    def __init__(self, links: Mapping[str, chainer.Link]) -> None:
        self.links = links
        self.found: dict[str, Array] = {}

    def forward_postprocess(self, args: Any) -> None:
        """A copy by the link's path."""
        self.found |= {path: as_array(args.out.array) for path, link in self.links.items() if link is args.link}


def outputs(native: chainer.Link, images: Array, paths: Sequence[str]) -> dict[str, Array]:
    """Inference on images (N, C, H, W): path -> a copy of that node's output, (N, C, H, W) or (N, F)."""
    known = dict(walk(native, heads=False))
    check_paths(paths, known)
    with _Taps({path: known[path] for path in paths}) as taps:
        logits(native, images)
    return {path: taps.found[path] for path in paths}


def prepare(native: chainer.Link, setup: Setup) -> ChainerStep:
    """A training step that changes the model in place."""
    return ChainerStep(native, setup)
