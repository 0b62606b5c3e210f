"""What a framework file offers, what a training step is prepared with, and what these files share.

A framework is one module of this package, named as the framework is imported ("torch", "numpy"), that fits the
`Framework` protocol. Nothing lists them: a new file is found by its name. It sees resolved nodes (`shapes.Node`:
paths, shapes, padding in whole numbers) and canonical weights, and hands out the framework's own objects.

Arrays at the boundary are NumPy's, images (N, C, H, W), already preprocessed.
"""

from __future__ import annotations

import contextlib
import difflib
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from imori import tree as t
from imori.errors import ImoriError, NameUnknown, TreeError
from imori.optimizers import Optimizer, clip, update_in_place
from imori.shapes import Node, Shape, flat, resolve
from imori.weights.names import Weights, compare, weight_name

Array: TypeAlias = npt.NDArray[Any]
DTypeLike: TypeAlias = npt.DTypeLike
Native: TypeAlias = Any

__all__ = [
    "Array",
    "DTypeLike",
    "Framework",
    "InputCheck",
    "Memory",
    "Native",
    "Setup",
    "Step",
    "Weights",
    "check_paths",
    "check_setup",
    "common_dtype",
    "dtype_name",
    "filled",
    "quiet",
    "times",
    "weight_name",
]


@dataclass(frozen=True)
class Setup:
    """Everything that a training step is prepared with. Names are canonical: path + "." + role."""

    optimizer: Optimizer
    trainable: frozenset[str]
    """The names that train; every other weight stays as it is."""
    decayed: frozenset[str] = frozenset()
    """The names that the optimizer's weight decay acts on."""
    rates: Mapping[str, float] = field(default_factory=dict)
    """A multiplier of the rate by name; 1 where a name is absent."""
    frozen: frozenset[str] = frozenset()
    """Paths of the batch norms that run as at inference: their statistics are used and not updated."""
    precision: str = "float32"
    """What the step computes in: the dtype that the model was built in."""
    clip: float | None = None
    """The largest L2 norm of the whole gradient; a longer one is scaled down to it."""
    rank: int = 0
    world: int = 1
    """This process among those that train together, and how many they are."""


class Step(Protocol):
    """One step of training, and the optimizer's memory between steps.

    The loss is sum(wᵢ CEᵢ) / sum(wᵢ), the cross-entropy of softmax(logits) against soft targets, plus the same loss
    of each auxiliary head times the head's weight. Where all weights of a batch are 0, the loss is 0 and so is its
    gradient. Then the gradient is clipped, then the optimizer acts: its momentum and decay also on a gradient of 0.
    """

    def __call__(self, images: Array, targets: Array, weights: Array, rate: float, key: int) -> tuple[float, Array]:
        """Images (N, C, H, W), targets (N, classes) summing to 1, sample weights (N,), the rate, and a seed for
        this step's dropout -> the loss before the step, and the logits (N, classes) that gave it."""
        ...

    def state(self) -> Weights:
        """The optimizer's memory: "<weight's name>/<slot>" for `optimizer.slots`, and "time" (int64, steps taken)."""
        ...

    def restore(self, state: Weights) -> None:
        """Goes on from what `state` gave, in this framework or another one."""
        ...


class Framework(Protocol):
    """A module of this package."""

    @property
    def DTYPES(self) -> tuple[str, ...]:  # noqa: N802
        """The dtypes that it builds in: "float32", "float64"."""
        ...

    @property
    def FORMS(self) -> Mapping[str, str]:  # noqa: N802
        """How the names of the files end that `save` writes, and how the framework's users open each; "" is a folder.

        {} stands for the file's name, as Python writes a text.
        """
        ...

    def device(self, name: str) -> str:
        """The device that `name` means here: "auto" is the fastest that is there. ImoriError for one that is not."""
        ...

    def build(self, root: Node, weights: Weights, dtype: str, device: str) -> Native:
        """The framework's own model, with `weights` (complete and checked) cast to `dtype`."""
        ...

    def owns(self, native: Native) -> bool:
        """Whether the object is one of this framework's models."""
        ...

    def load(self, native: Native, weights: Weights) -> None:
        """Copies canonical weights into the model; WeightsError if names or shapes differ."""
        ...

    def dump(self, native: Native) -> Weights:
        """The model's weights under canonical names, in canonical layouts, in its dtype: copies."""
        ...

    def logits(self, native: Native, images: Array) -> Array:
        """Inference: images (N, C, H, W) -> logits (N, classes) in the model's dtype; the model is left as it was.

        There is one image or more, and they are floats: `filled` sees to that.
        """
        ...

    def outputs(self, native: Native, images: Array, paths: Sequence[str]) -> dict[str, Array]:
        """Inference: images (N, C, H, W) -> by path, in the order asked for, the output of each node.

        A node is a layer, a `Sum`, a `Concat` or a chain; "" is the root. Its output is (N, C, H, W) or (N, F) in the
        model's dtype: a copy, whatever the layers after it do to the original. `check_paths` refuses any other path;
        an auxiliary head does not run at inference, and so has none.
        """
        ...

    def save(self, native: Native, path: Path, about: Mapping[str, str]) -> None:
        """Writes the file that the framework's own users load, in the form that its name's end says.

        `about` is what the file says of itself; it goes along where the form has a place for it.
        """
        ...

    def answers(self, twin: Native, path: Path, images: Array) -> Array:
        """As `logits`, by what the framework itself loads from a file that `save` wrote.

        `twin` is a model of the same network and dtype; where the file holds weights alone, it takes them.
        """
        ...

    def prepare(self, native: Native, setup: Setup) -> Step:
        """A training step that changes the model in place. ImoriError where the framework only predicts."""
        ...


# --- importing -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, TensorFlow is imported without its log, unless the variable TF_CPP_MIN_LOG_LEVEL asks for one.

    The variable, which is read once, quiets what TensorFlow logs later; what it logs before is written nowhere.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ or sys.__stderr__ is None:
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    kept = os.dup(2)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


# --- checks ----------------------------------------------------------------------------------------------------------


class InputCheck:
    """What a model calls before it runs, with the shape of its images (N, C, H, W) and whether it trains.

    It raises TreeError for images that the model was not built for, and remembers the sizes that fit.
    """

    def __init__(self, root: Node) -> None:
        self.root = root
        self._fitting = {(root.input, False), (root.input, True)}
        sized = [node for node in flat(root) if node.sized]
        self._bound = {
            training: [node for node in sized if training or not node.training_only] for training in (False, True)
        }

    def __call__(self, images: Shape, training: bool) -> None:
        """TreeError that names what does not fit, and where it is a map that is too small, the layer."""
        shape = images[1:]
        if (shape, training) not in self._fitting:
            self.binds(shape, training)
            resolve(self.root.layer if training else t.without_heads(self.root.layer), shape)
            self._fitting.add((shape, training))

    def binds(self, shape: Shape, training: bool) -> None:
        """The part of the check that compares sizes alone, as a compiler can follow it; shape (C, H, W)."""
        built, bound = self.root.input, self._bound[training]
        if len(shape) != len(built) or shape[0] != built[0]:
            raise TreeError(f"the network takes images {times(built)} (C×H×W), in a batch, and gets {times(shape)}")
        if bound and shape != built:
            raise TreeError(
                f"the network was built for images {times(built)} (C×H×W) and gets {times(shape)};"
                f" {bound[0].path or type(bound[0].layer).__name__} binds it to that size: resize the images, or build"
                f" it for {times(shape)}"
            )


def times(shape: Shape) -> str:
    """A shape as people write it."""
    return "×".join(map(str, shape))


def filled(images: Array) -> Array:
    """Images (N, C, H, W) as an array of floats; where there are none, one of zeros, for not all frameworks take none.

    ImoriError for what is not floats: a photo's levels from 0 to 255 would pass for preprocessed ones.
    """
    batch = np.asarray(images)
    if batch.dtype.kind != "f":
        raise ImoriError(
            f"the images are {batch.dtype.name}, and must be floats that are preprocessed, (N, C, H, W); give photos to"
            " imori.load(...).predict, or prepare them by imori.data.Preprocessing"
        )
    if batch.shape[:1] == (0,):
        return np.zeros((1, *batch.shape[1:]), batch.dtype)
    return batch.astype(batch.dtype.newbyteorder("="), copy=False)


def common_dtype(weights: Weights) -> str:
    """The dtype that holds the values of all weights: "float64" where some are in float32 and others in float64."""
    return np.result_type(*{value.dtype for value in weights.values()}).name if weights else "float32"


def dtype_name(dtype: DTypeLike) -> str:
    """What NumPy calls a dtype, be it given as "float32", np.float32 or np.dtype("float32"); others as they print."""
    try:
        return np.dtype(dtype).name
    except (TypeError, ValueError):
        return str(dtype)


def check_setup(framework: str, setup: Setup, names: Collection[str], dtype: str) -> None:
    """ImoriError for a setup that a model with these weights, built in `dtype`, cannot follow in one process."""
    if setup.precision != dtype:
        raise ImoriError(f"the model was built in {dtype}, not in {setup.precision!r}; use one dtype for both")
    if setup.world > 1:
        raise ImoriError(
            f"{framework} trains in one process, and there are {setup.world}; use one, or another framework"
        )
    for name in sorted({*setup.trainable, *setup.decayed, *setup.rates}):
        if name not in names:
            raise ImoriError(f"the model has no weight {name!r}; its first is {next(iter(names), None)!r}")
    for path in sorted(setup.frozen):
        if weight_name(path, "mean") not in names:
            raise ImoriError(f"{path!r} is no batch norm of the model, and cannot be frozen as one")
    statistics = sorted(name for name in setup.trainable if name.rpartition(".")[2] in ("mean", "var"))
    if statistics:
        raise ImoriError(f"{statistics[0]} is a running statistic, which follows the data and cannot be trained")
    if not setup.trainable:
        raise ImoriError("nothing trains: name at least one weight as trainable")


def check_paths(paths: Sequence[str], known: Collection[str]) -> None:
    """NameUnknown for a path that is not among `known`: those of a model's nodes that run at inference."""
    if isinstance(paths, str):
        raise NameUnknown(f"paths is {paths!r}; it must be a list of paths, as in [{paths!r}]")
    for path in paths:
        if path not in known:
            near = difflib.get_close_matches(str(path), known, n=3, cutoff=0)
            raise NameUnknown(f"no node {path!r} runs at inference; the nearest paths are {', '.join(map(repr, near))}")


# --- training --------------------------------------------------------------------------------------------------------


def line(array: Array, like: Array) -> Array:
    """The values of `array` one after the other, as they lie in the memory of `like`: a view where both lie alike."""
    order = sorted(range(like.ndim), key=lambda axis: -int(like.strides[axis]))
    return array.transpose(order).reshape(-1)


class Memory:
    """An optimizer and its memory between steps, where the weights are arrays that can be changed in place.

    `weights` are those that train: the model's own arrays, contiguous in any order of their axes. `xp` is their module:
    numpy, or one like it. `zeros_like` makes the memory, by default the module's.
    """

    def __init__(
        self, setup: Setup, weights: Weights, xp: Any = np, zeros_like: Callable[[Array], Array] | None = None
    ) -> None:
        self._setup, self._weights, self._xp = setup, weights, xp
        self.time = 0
        """How many updates there have been."""
        zeros = zeros_like or xp.zeros_like
        self._slots = {name: {slot: zeros(array) for slot in setup.optimizer.slots} for name, array in weights.items()}

    def update(self, gradients: Weights, rate: float) -> None:
        """One update of every weight by its gradient, after clipping."""
        self.begin(gradients)
        self.change(gradients, rate, self.time)

    def begin(self, gradients: Weights) -> None:
        """What comes before the weights change: the gradients are clipped, and time goes on."""
        if self._setup.clip is not None:
            clip(list(gradients.values()), self._setup.clip)
        self.time += 1

    def change(self, gradients: Weights, rate: float, time: int, worker: int = 0, workers: int = 1) -> None:
        """The update of every weight, or a worker's share of it."""
        setup = self._setup
        for name, weight in self._weights.items():
            memory = {slot: line(array, weight) for slot, array in self._slots[name].items()}
            multiplied, decayed = rate * setup.rates.get(name, 1.0), name in setup.decayed
            values, slopes = line(weight, weight), line(gradients[name], weight)
            update_in_place(
                setup.optimizer, values, slopes, memory, multiplied, time, decayed, worker=worker, workers=workers
            )

    def _arrays(self) -> Weights:
        return {f"{name}/{slot}": array for name, own in self._slots.items() for slot, array in own.items()}

    def state(self) -> Weights:
        """`Step.state`."""
        return {
            **{name: array.copy() for name, array in self._arrays().items()},
            "time": np.array(self.time, np.int64),
        }

    def restore(self, state: Weights) -> None:
        """`Step.restore`; WeightsError if the state is of other weights or another optimizer."""
        arrays = self._arrays()
        compare(state, {**{name: array.shape for name, array in arrays.items()}, "time": ()}, "the optimizer's memory")
        for name, array in arrays.items():
            array[...] = self._xp.asarray(state[name])
        self.time = int(state["time"])
