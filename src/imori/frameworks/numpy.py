"""NumPy: a tree becomes the engine's own `Network`. It is always installed, and runs on the processor.

The forward and backward passes are `imori.engine`'s; what other frameworks share is in `base` and `optimizers`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias, assert_never

import numpy as np
from threadpoolctl import ThreadpoolController

from imori import engine as e
from imori import tree as t
from imori.engine import fast
from imori.errors import ImoriError, TreeError
from imori.frameworks.base import (
    Array,
    InputCheck,
    Memory,
    Setup,
    Weights,
    check_paths,
    check_setup,
    times,
    weight_name,
)
from imori.shapes import Node, flat
from imori.weights.file import read_tensors, write_tensors
from imori.weights.names import compare

DTYPES = ("float32", "float64")
FORMS = {".npz": "numpy.load({})", ".safetensors": "imori.load({})"}
Make: TypeAlias = Callable[[Node, list[e.Layer], Weights], e.Layer]
CACHE = 2**22
"""Bytes of the largest map of as many images as the fast engine works on at a time."""
SMALL = 2**26
"""Multiply-accumulates of one image. A network of fewer keeps to one of BLAS's threads: its products are so short that
the threads would wait for each other longer than they work, and many times as long on a machine that is busy."""
SHORT = 2**23
"""The same of a layer and a batch, on average. For fewer the fast engine has one thread: two would wait for the
interpreter, of which each layer needs some, and be slower."""
SHORT_FOR_PROCESSES = 3 * 2**19
"""The same where workers are processes, which wait for each other once a step, and at every batch norm."""
GRADIENTS = 2**31
"""Bytes of all workers' gradients: a network of more weights has fewer workers."""

_BLAS = ThreadpoolController()


def device(name: str) -> str:
    """The device is "cpu", which is also "auto"; ImoriError for any other."""
    if name not in ("auto", "cpu"):
        raise ImoriError(f"numpy has no device {name!r}; it runs on the cpu: choose cpu or auto")
    return "cpu"


# --- building --------------------------------------------------------------------------------------------------------


def build(root: Node, weights: Weights, dtype: str, device: str, engine: str = "fast") -> e.Network:
    """The network, with copies of the weights.

    The engine's two faces give the same numbers: "fast", `imori.engine.fast`, and "plain", `imori.engine` by itself.
    """
    if isinstance(root.layer, t.Aux):
        raise TreeError("the root is an Aux, which has no output of its own; put it into a Chain")
    layers: dict[str, e.Layer] = {}
    own = {name: np.array(value, dtype, order="C") for name, value in weights.items()}
    body = _layer(root, own, layers, _fast if engine == "fast" else _plain)
    nodes = list(flat(root))
    macs = sum(node.macs for node in nodes)
    if engine == "plain":
        return e.Network(body, layers, dtype, InputCheck(root), threads=1 if macs < SMALL else None)
    largest = max(math.prod(node.output) for node in nodes) * np.dtype(dtype).itemsize
    size = sum(array.nbytes for array in own.values())
    room, most = max(CACHE, size), min(_blas_threads(), max(1, GRADIENTS // max(1, size)))
    team = partial(workers, macs / sum(not node.children for node in nodes), most)
    return fast.FastNetwork(body, layers, dtype, InputCheck(root), team, max(1, room // largest))


def workers(macs: float, threads: int, batch: int, processes: bool) -> int:
    """How many workers the fast engine has for a batch: one, or `threads`, as many as BLAS has been given.

    `macs` is what a layer does with an image, on average; `processes` is whether the workers would be such.
    """
    return threads if macs * batch >= (SHORT_FOR_PROCESSES if processes else SHORT) else 1


def _blas_threads() -> int:
    return max((info["num_threads"] for info in _BLAS.info() if info["user_api"] == "blas"), default=1)


def _threads(native: e.Network) -> contextlib.AbstractContextManager[Any]:
    """Inside, BLAS has the threads that are best for the network."""
    limited: contextlib.AbstractContextManager[Any] = _BLAS.limit(limits=native.threads, user_api="blas")
    return limited


def _layer(node: Node, weights: Weights, named: dict[str, e.Layer], make: Make) -> e.Layer:
    """The layer of one node; it and those below are put into `named` by their paths, an `Aux` by its head's."""
    children = [_layer(child, weights, named, make) for child in node.children]
    own = {role: weights[weight_name(node.path, role)] for role in node.weights}
    made = make(node, children, own)
    if not isinstance(node.layer, t.Aux):
        named[node.path] = made
    return made


def _window(node: Node) -> e.Window:
    resolved = node.window
    return e.Window(resolved.kernel, resolved.stride, resolved.pads, resolved.dilation)


def _fast(node: Node, children: list[e.Layer], own: Weights) -> e.Layer:
    """The fast layer where there is one, else the plain one."""
    window = _window(node)
    match node.layer:
        case t.Conv(groups=groups) if fast.simple(window, groups):
            return fast.Convolution(own["weight"], own.get("bias"), window)
        case t.ConvTranspose(groups=groups) if fast.simple(window, groups):
            return fast.ConvTranspose(own["weight"], own.get("bias"), window, 1, node.window.output_pad)
        case t.Depthwise(multiplier=1) if window.dilation == (1, 1) or window.stride == (1, 1):
            return fast.Depthwise(own["weight"], own.get("bias"), window)
        case t.BatchNorm(eps, momentum):
            return fast.BatchNorm(own["weight"], own["bias"], own["mean"], own["var"], eps, momentum)
        case t.MaxPool():
            return fast.MaxPool(window)
        case t.Dropout(drop):
            return fast.Dropout(drop)
        case _:
            return _plain(node, children, own)


def _plain(node: Node, children: list[e.Layer], own: Weights) -> e.Layer:
    layer, resolved, window = node.layer, node.window, _window(node)
    match layer:
        case t.Chain():
            return e.Chain(children)
        case t.Sum():
            return e.Sum(children)
        case t.Concat():
            return e.Concat(children)
        case t.Aux(weight=weight):
            return e.Aux(children[0], weight)
        case t.Conv(groups=groups):
            return e.Convolution(own["weight"], own.get("bias"), window, groups)
        case t.Depthwise():
            return e.Depthwise(own["weight"], own.get("bias"), window)
        case t.ConvTranspose(groups=groups):
            return e.ConvTranspose(own["weight"], own.get("bias"), window, groups, resolved.output_pad)
        case t.Linear():
            return e.Affine(own["weight"], own.get("bias"))
        case t.BatchNorm(eps, momentum):
            return e.BatchNorm(own["weight"], own["bias"], own["mean"], own["var"], eps, momentum)
        case t.MaxPool():
            return e.MaxPool(window)
        case t.AvgPool():
            # Where every place counts the same, one number stands for all of them and holds for any input size.
            rows, columns = (counts if len(set(counts)) > 1 else counts[:1] for counts in resolved.counts)
            return e.AvgPool(window, (rows, columns))
        case t.AdaptiveAvgPool():
            return e.AdaptiveAvgPool((node.output[1], node.output[2]))
        case t.GlobalAvgPool():
            return e.GlobalAvgPool()
        case t.Flatten():
            return e.Flatten()
        case t.LRN(size, alpha, beta, k):
            return e.LRN(size, alpha, beta, k)
        case t.ReLU(limit):
            return e.ReLU(limit)
        case t.LeakyReLU(slope):
            return e.LeakyReLU(slope)
        case t.Sigmoid():
            return e.Sigmoid()
        case t.Tanh():
            return e.Tanh()
        case t.Softmax():
            return e.Softmax()
        case t.Dropout(drop):
            return e.Dropout(drop)
        case t.Identity():
            return e.Identity()
        case t.Subsample():
            return e.Subsample(resolved.stride)
        case t.PadChannels(out):
            return e.PadChannels(out)
        case t.Select(channels):
            return e.Select(channels)
        case _:
            assert_never(layer)


# --- weights, inference ----------------------------------------------------------------------------------------------


def owns(native: object) -> bool:
    """Whether it is the engine's network."""
    return isinstance(native, e.Network)


def load(native: e.Network, weights: Weights) -> None:
    """Copies canonical weights into the network's own arrays."""
    native.settle()
    own = native.weights
    compare(weights, {name: array.shape for name, array in own.items()})
    for name, array in own.items():
        array[...] = weights[name]


def dump(native: e.Network) -> Weights:
    """Copies of the network's arrays, which have canonical names and layouts."""
    return {name: array.copy() for name, array in native.weights.items()}


def logits(native: e.Network, images: Array) -> Array:
    """Inference on images (N, C, H, W)."""
    with _threads(native), np.errstate(over="ignore", invalid="ignore"):  # what is not finite shows in the logits
        return np.ascontiguousarray(native.forward(np.asarray(images)))


def outputs(native: e.Network, images: Array, paths: Sequence[str]) -> dict[str, Array]:
    """Inference on images (N, C, H, W): path -> a copy of that node's output, (N, C, H, W) or (N, F)."""
    asleep = {id(layer) for aux in e.every(native.body) if isinstance(aux, e.Aux) for layer in e.every(aux.children[0])}
    known = {path: layer for path, layer in native.layers.items() if id(layer) not in asleep}
    check_paths(paths, known)
    found: dict[str, Array] = {}

    def copy_as(path: str, y: Array) -> None:
        found[path] = np.array(y.swapaxes(0, 1), order="C")

    try:
        for path in paths:
            known[path].hook = partial(copy_as, path)
        logits(native, images)
    finally:
        for layer in known.values():
            layer.hook = None
    return {path: found[path] for path in paths}


# --- files -----------------------------------------------------------------------------------------------------------


def save(native: e.Network, path: Path, about: Mapping[str, str]) -> None:
    """Writes the arrays under canonical names: as .npz, with an entry "imori", or as a model.safetensors of our own."""
    if path.suffix == ".npz":
        entries: dict[str, Any] = {**native.weights, "imori": np.array(json.dumps(dict(about)))}
        np.savez(path, **entries)
    else:
        write_tensors(path, native.weights, dict(about))


def answers(twin: e.Network, path: Path, images: Array) -> Array:
    """Logits (N, classes) by a file."""
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as held:
            load(twin, {name: held[name] for name in twin.weights})
    else:
        load(twin, read_tensors(path)[0])
    return logits(twin, images)


# --- training --------------------------------------------------------------------------------------------------------


def prepare(native: e.Network, setup: Setup) -> NumpyStep:
    """A training step that changes the network in place."""
    return NumpyStep(native, setup)


class NumpyStep:
    """One step of training: `base.Step`."""

    def __init__(self, native: e.Network, setup: Setup) -> None:
        check_setup("numpy", setup, native.weights, native.dtype)
        self._native, self._setup, self._process = native, setup, os.getpid()
        self._take()
        self._trained = {name: place for name, place in native.places().items() if name in setup.trainable}
        weights = {name: layer.weights[role] for name, (layer, role) in self._trained.items()}
        self._memory = Memory(setup, weights, zeros_like=native.zeros_like)
        native.changes = self._changes = partial(_change, self._memory, self._trained)

    def __call__(self, images: Array, targets: Array, weights: Array, rate: float, key: int) -> tuple[float, Array]:
        """The loss before the step, and the logits that gave it. A loss that is not finite changes no weight.

        ImoriError in another process than it was prepared in.
        """
        if self._process != os.getpid():
            raise ImoriError("this training is of another process, whose weights it has; prepare one in this process")
        if self._native.changes is not self._changes:  # another training has had the network meanwhile
            self._take()
            self._native.changes = self._changes
        dtype = self._native.dtype
        targets, weights = np.asarray(targets, dtype), np.asarray(weights, dtype)
        quiet = np.errstate(over="ignore", invalid="ignore", divide="ignore")  # the loss tells
        with _threads(self._native), quiet:
            self._native.seed(key)
            loss, logits = self._learn(images, targets, weights)
            if math.isfinite(loss):
                self._memory.begin(_gradients(self._trained))
                self._native.change(float(rate), self._memory.time)
        return loss, np.ascontiguousarray(logits)

    def _take(self) -> None:
        """The network trains as this training wants it to."""
        for path, layer in self._native.layers.items():
            if isinstance(layer, e.BatchNorm):
                layer.frozen = path in self._setup.frozen
        self._native.train(self._setup.trainable)

    def _learn(self, images: Array, targets: Array, weights: Array) -> tuple[float, Array]:
        try:
            return self._native.learn(np.asarray(images), targets, weights)
        except e.SingleValueError as error:
            raise ImoriError(
                f"a batch norm cannot train on one value a channel, and a batch of {len(images)} images"
                f" {times(images.shape[1:])} leaves it no more; use a larger batch, or larger images"
            ) from error

    def state(self) -> Weights:
        """Copies of the optimizer's memory."""
        return self._memory.state()

    def restore(self, state: Weights) -> None:
        """Goes on from a state of any framework; WeightsError if it is of other weights or another optimizer."""
        self._memory.restore(state)


def _gradients(trained: Mapping[str, tuple[e.Layer, str]]) -> Weights:
    return {name: layer.gradients[role] for name, (layer, role) in trained.items()}


def _change(
    memory: Memory, trained: Mapping[str, tuple[e.Layer, str]], rate: float, time: int, worker: int, workers: int
) -> None:
    """A worker's share of an update of every weight."""
    memory.change(_gradients(trained), rate, time, worker, workers)
