"""What every net of the matrix is tried with: random weights, images and targets, and the measure of agreement."""

import gc
import hashlib
import json
import os
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import imori
from imori import frameworks
from imori import tree as t
from imori.frameworks.base import Array, Setup, Weights
from imori.optimizers import SGD
from imori.shapes import Shape, resolve, walk
from imori.weights import shapes_of

PLAIN = "plain"


class Matrix:
    """The helpers, in one fixture."""

    @staticmethod
    def randomised(tree: t.Tree, shape: Shape, seed: int = 0) -> Weights:
        """Weights in float64, every one random: one that is swapped, forgotten or transposed changes the logits.

        Batch norms' weights and variances are uniform from 0.5 to 1.5, their biases and means of deviation 0.2, all
        other weights and biases of deviation sqrt(1.6 / fan in), so that deep nets neither vanish nor explode.
        """
        fans = {node.path: node.fans[0] for node in walk(tree, shape) if node.weights and "mean" not in node.weights}
        weights = {}
        for name, size in shapes_of(resolve(tree, shape)).items():
            rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
            path, _, role = name.rpartition(".")
            if path in fans:
                weights[name] = rng.standard_normal(size) * (1.6 / fans[path]) ** 0.5
            elif role in ("weight", "var"):
                weights[name] = rng.uniform(0.5, 1.5, size)
            else:
                weights[name] = rng.standard_normal(size) * 0.2
        return weights

    @staticmethod
    def batch(shape: Shape, classes: int, count: int, seed: int = 1) -> tuple[Array, Array, Array]:
        """Images (count, C, H, W), a little off centre, soft targets (count, classes) and sample weights (count,)."""
        rng = np.random.default_rng(seed)
        targets = rng.random((count, classes))
        images = rng.standard_normal((count, *shape)) + 0.1
        return images, targets / targets.sum(axis=1, keepdims=True), rng.uniform(0.5, 1.5, count)

    @staticmethod
    def without_dropout(tree: t.Tree) -> t.Tree:
        """The same network and names; frameworks draw dropout differently."""
        match tree:
            case t.Chain() | t.Sum() | t.Concat():
                children = tuple((segment, Matrix.without_dropout(child)) for segment, child in tree.segments())
                return type(tree).of(children)  # type: ignore[return-value]
            case t.Aux(head, weight):
                return t.Aux(Matrix.without_dropout(head), weight)
            case t.Dropout():
                return t.Identity()
            case _:
                return tree

    @staticmethod
    def thinned(tree: t.Tree, by: int) -> t.Tree:
        """The same network with a part of the filters and dense units in every layer, but for the classes."""
        match tree:
            case t.Chain() | t.Sum() | t.Concat():
                children = tuple((segment, Matrix.thinned(child, by)) for segment, child in tree.segments())
                return type(tree).of(children)  # type: ignore[return-value]
            case t.Conv(out) | t.Linear(out) | t.PadChannels(out) if out % by == 0:
                return replace(tree, out=out // by)
            case _:
                return tree

    @staticmethod
    def difference(ours: Array, theirs: Array) -> float:
        """The largest difference, beside the largest value: never elementwise, which fails correct code."""
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype
        return float(np.abs(ours - theirs).max() / np.abs(theirs).max())

    @staticmethod
    def agree(ours: Mapping[str, Array], theirs: Mapping[str, Array], tolerance: float, floor: float = 0.0) -> float:
        """Each array differs by no more than `tolerance` times its own largest value, or `floor` if that is larger."""
        assert ours.keys() == theirs.keys()
        errors = {
            name: float(np.abs(ours[name] - theirs[name]).max() / max(np.abs(theirs[name]).max(), floor, 1e-300))
            for name in theirs
        }
        worst = max(errors, key=lambda name: errors[name])
        assert errors[worst] <= tolerance, f"{worst} is off by {errors[worst]:.2e} of its size"
        return errors[worst]

    @staticmethod
    def once(what: str, tree: t.Tree, shape: Shape, make: Callable[[], dict[str, Array]]) -> dict[str, Array]:
        """What `make` gives, made once for all the processes that share the folder IMORI_MATRIX."""
        folder = os.environ.get("IMORI_MATRIX")
        if not folder:
            return make()
        key = hashlib.sha256(f"{what} {shape} {t.to_json(tree)}".encode()).hexdigest()
        path = Path(folder, f"{key}.npz")
        if not path.exists():
            with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
                np.savez(file, **make())
            Path(file.name).replace(path)
        with np.load(path, allow_pickle=False) as kept:
            return dict(kept)

    @staticmethod
    def built(tree: t.Tree, shape: Shape, framework: str, weights: Weights, dtype: str) -> Any:
        """A model in a framework; PLAIN is NumPy's plain engine, which all are compared with."""
        if framework == PLAIN:
            return imori.build(tree, shape, "numpy", weights, dtype, engine="plain")
        return imori.build(tree, shape, framework, weights, dtype)

    @staticmethod
    def same_logits(
        tree: t.Tree, shape: Shape, framework: str, classes: int, only: str | None = None
    ) -> dict[str, float]:
        """The logits agree with NumPy's: in float64 to 5e-10, in float32 to 1e-4. Weights go in and out unchanged.

        In `only` one of them where the framework has it; in float32 where it has no other.
        """
        known = frameworks.get(framework).DTYPES
        dtypes = (only,) if only in known else known
        weights = Matrix.randomised(tree, shape)
        images, _, _ = Matrix.batch(shape, classes, count=2)
        changed: list[str] = []

        def of(name: str) -> dict[str, Array]:
            found = {}
            for dtype in frameworks.get("numpy").DTYPES if name == PLAIN else dtypes:
                native = Matrix.built(tree, shape, name, weights, dtype)
                found[dtype] = imori.logits(native, images.astype(dtype))
                dumped = imori.dump_weights(native)
                assert dumped.keys() == weights.keys()
                changed.extend(key for key in weights if not np.array_equal(dumped[key], weights[key].astype(dtype)))
            return found

        ours, theirs = of(framework), Matrix.once("logits", tree, shape, lambda: of(PLAIN))
        assert np.abs(theirs["float64"]).max() > 0.1, "logits near zero would hide a difference"
        found = {dtype: Matrix.difference(ours[dtype], theirs[dtype]) for dtype in ours}
        assert found.get("float64", 0.0) <= 5e-10
        assert found.get("float32", 0.0) <= 1e-4
        assert Matrix.difference(ours[dtypes[0]].astype(float), theirs["float64"]) <= 1e-4
        assert not changed, "these weights are others there and back"
        return found

    @staticmethod
    def one_step(
        tree: t.Tree, shape: Shape, framework: str, classes: int, count: int, dtype: str = "float64"
    ) -> dict[str, Any]:
        """What a first step of SGD with momentum does; its memory is then the gradient."""
        weights = Matrix.randomised(tree, shape)
        native = Matrix.built(tree, shape, framework, weights, dtype)
        trainable = frozenset(name for name in weights if name.rpartition(".")[2] in ("weight", "bias"))
        step = frameworks.of(native).prepare(native, Setup(SGD(), trainable, precision=dtype))
        loss, logits = step(*Matrix.batch(shape, classes, count), rate=0.05, key=1)
        state = step.state()
        assert state.pop("time") == 1
        return {"loss": loss, "logits": logits, "gradients": state, "weights": imori.dump_weights(native)}

    @staticmethod
    def same_step(tree: t.Tree, shape: Shape, framework: str, classes: int, count: int = 4) -> dict[str, float]:
        """A step agrees with NumPy's to 5e-10: loss, logits, gradients, new weights and running statistics."""
        ours = Matrix.one_step(tree, shape, framework, classes, count)
        theirs = Matrix.numpy_step(tree, shape, classes, count)
        assert ours["loss"] == pytest.approx(float(theirs["loss"]), rel=5e-10)
        assert Matrix.difference(ours["logits"], theirs["logits"]) <= 5e-10
        # A bias before a batch norm has a gradient of exactly 0, of which each framework makes its own noise.
        floor = 1e-3 * max(np.abs(gradient).max() for gradient in theirs["gradients"].values())
        return {
            "gradients": Matrix.agree(ours["gradients"], theirs["gradients"], 5e-10, floor),
            "weights": Matrix.agree(ours["weights"], theirs["weights"], 5e-10),
        }

    @staticmethod
    def numpy_step(tree: t.Tree, shape: Shape, classes: int, count: int) -> dict[str, Any]:
        """A step of NumPy's in float64, made once."""
        kept = Matrix.once(
            f"step {count}", tree, shape, lambda: Matrix.apart(Matrix.one_step(tree, shape, PLAIN, classes, count))
        )
        return Matrix.together(kept)

    @staticmethod
    def smooth(tree: t.Tree) -> t.Tree:
        """The same network without kinks, at which float32 and float64 take different ways: Tanh, and average pools."""
        match tree:
            case t.Chain() | t.Sum() | t.Concat():
                children = tuple((segment, Matrix.smooth(child)) for segment, child in tree.segments())
                return type(tree).of(children)  # type: ignore[return-value]
            case t.Aux(head, weight):
                return t.Aux(Matrix.smooth(head), weight)
            case t.ReLU():
                return t.Tanh()
            case t.MaxPool(kernel, stride, pad, ceil):
                return t.AvgPool(kernel, stride, pad, ceil)
            case _:
                return tree

    @staticmethod
    def keep(label: str, framework: str, figures: Mapping[str, float]) -> None:
        """Adds a line to the file that IMORI_DIFFERENCES names, of which benchmarks/differences.py makes a table."""
        if path := os.environ.get("IMORI_DIFFERENCES"):
            backend = os.environ.get("KERAS_BACKEND", "tensorflow") if framework == "keras" else ""
            row = {"net": label, "framework": f"{framework}:{backend}" if backend else framework, **figures}
            with open(path, "a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")

    @staticmethod
    def apart(step: dict[str, Any]) -> dict[str, Array]:
        """A step in one level, to be kept in a file; `together` is the way back."""
        flat = {"loss": np.array(step["loss"]), "logits": step["logits"]}
        return flat | {f"{part} {name}": a for part in ("gradients", "weights") for name, a in step[part].items()}

    @staticmethod
    def together(flat: dict[str, Array]) -> dict[str, Any]:
        """What `apart` took apart."""
        parts = {
            part: {name.partition(" ")[2]: a for name, a in flat.items() if name.startswith(f"{part} ")}
            for part in ("gradients", "weights")
        }
        return {"loss": flat["loss"], "logits": flat["logits"], **parts}


@pytest.fixture(scope="session")
def matrix() -> Matrix:
    return Matrix()


@pytest.fixture(autouse=True)
def memory_given_back(request: pytest.FixtureRequest) -> Iterator[None]:
    """After a net at full width, what the framework keeps of it goes: all of them are more than a machine has."""
    yield
    if request.node.get_closest_marker("exhaustive"):
        if "jax" in sys.modules:
            sys.modules["jax"].clear_caches()
        if "keras" in sys.modules:
            sys.modules["keras"].utils.clear_session()
        gc.collect()
