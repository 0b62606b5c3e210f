"""The network in parts: the same numbers as in one, the same bits every time, and a bounded memory."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import imori
from imori import frameworks
from imori.frameworks.base import Setup
from imori.optimizers import Adam
from imori.tree import (
    Aux,
    BatchNorm,
    Chain,
    Conv,
    Depthwise,
    Dropout,
    Flatten,
    GlobalAvgPool,
    Linear,
    MaxPool,
    ReLU,
    Tree,
)
from imori.weights import initial_weights

SHAPE, CLASSES, COUNT = (3, 12, 11), 4, 9
HEAD = Chain(pool=GlobalAvgPool(), drop=Dropout(0.3), fc=Linear(CLASSES))
STEM = Chain(conv=Conv(9, 3, pad=1), relu=ReLU(), drop=Dropout(0.2), pool=MaxPool(2))
END = Chain(flatten=Flatten(), drop=Dropout(0.5), fc=Linear(CLASSES))
WISE = Depthwise(3, 2, 1, bias=False)
NETS: dict[str, Tree] = {
    "without-norms": Chain(stem=STEM, aux=Aux(HEAD, 0.3), conv2=Conv(8, 3), end=END),
    "with-norms": Chain(stem=STEM, bn=BatchNorm(), aux=Aux(HEAD, 0.3), wise=WISE, bn2=BatchNorm(), end=END),
}
EVERY = pytest.mark.parametrize("tree", list(NETS.values()), ids=list(NETS))


def taken(tree: Tree, engine: str, dtype: str = "float64", images: int = 2, workers: int = 1, steps: int = 1) -> Any:
    """The losses of some steps, the gradients of the last, and the weights after it."""
    weights = initial_weights(tree, SHAPE, dtype=dtype)
    native = imori.build(tree, SHAPE, "numpy", weights, dtype, engine=engine)
    if engine == "fast":
        native.images, native.workers = images, lambda *_: workers
    names = frozenset(name for name in weights if name.endswith(("weight", "bias")))
    step = frameworks.get("numpy").prepare(native, Setup(Adam(), names, precision=dtype))
    rng = np.random.default_rng(1)
    losses = []
    for key in range(steps):
        targets = np.eye(CLASSES)[rng.integers(0, CLASSES, COUNT)]
        losses.append(step(rng.standard_normal((COUNT, *SHAPE)), targets, rng.random(COUNT), 0.01, key)[0])
    gradients = {name: layer.gradients[role] for name, (layer, role) in native.places().items() if name in names}
    return losses, gradients, imori.dump_weights(native)


@EVERY
@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("images", [1, 2, 4, 100])
def test_parts_add_up_to_the_plain_engines_step(checks: Any, tree: Tree, workers: int, images: int) -> None:
    """The masks of dropout are the same too."""
    losses, gradients, weights = taken(tree, "plain")
    found, ours, after = taken(tree, "fast", images=images, workers=workers)
    assert found == pytest.approx(losses, rel=1e-13)
    assert ours.keys() == gradients.keys()
    for name, gradient in gradients.items():
        checks.agree(ours[name], gradient, 1e-11, name)
    for name in weights:
        if name.endswith((".mean", ".var")):
            checks.agree(after[name], weights[name], 1e-13, name)


@EVERY
@pytest.mark.parametrize("workers", [1, 2])
def test_the_same_workers_give_the_same_bits(tree: Tree, workers: int) -> None:
    first, *others = (taken(tree, "fast", "float32", workers=workers, steps=5) for _ in range(4))
    for other in others:
        assert other[0] == first[0]
        assert all(np.array_equal(other[2][name], first[2][name]) for name in first[2])


def test_without_norms_the_bits_are_the_same_for_any_number_of_workers() -> None:
    one, two = (taken(NETS["without-norms"], "fast", "float32", workers=workers, steps=5) for workers in (1, 2))
    assert one[0] == two[0]
    assert all(np.array_equal(one[2][name], two[2][name]) for name in one[2])


@pytest.mark.parametrize("images", [1, 3, 4, 20, 1000])
@pytest.mark.parametrize("batch", [2, 6, 12, 100])
def test_two_workers_have_as_many_parts(batch: int, images: int) -> None:
    native = imori.build(NETS["without-norms"], SHAPE, "numpy")
    native.workers, native.images = lambda *_: 2, images
    parts = native._parts(batch, whole=False, processes=False)
    assert len(parts) % 2 == 0
    assert sum(part.stop - part.start for part in parts) == batch
    assert max(part.stop - part.start for part in parts) <= images or len(parts) == 2


@EVERY
def test_inference_in_parts_is_the_same(tree: Tree) -> None:
    native = imori.build(tree, SHAPE, "numpy", dtype="float64")
    images = np.random.default_rng(0).standard_normal((COUNT, *SHAPE))
    native.images = 100
    whole = imori.logits(native, images)
    for images_a_part, workers in ((1, 1), (2, 2), (4, 3)):
        native.images, native.workers = images_a_part, lambda *_, workers=workers: workers
        assert imori.logits(native, images) == pytest.approx(whole, rel=1e-12)
    assert all(layer.recall() == () for layer in native.layers.values())


def test_an_error_in_one_part_is_raised_and_the_network_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    native = imori.build(NETS["with-norms"], SHAPE, "numpy", dtype="float64")
    native.workers = lambda *_: 2
    images = np.random.default_rng(0).standard_normal((COUNT, *SHAPE))
    targets = np.eye(CLASSES)[np.arange(COUNT) % CLASSES]
    layer = type(native.layers["bn2"])
    really = layer.backward

    def fails(self: Any, dy: Any) -> Any:
        if self.member.worker == 1:
            raise MemoryError("no more")
        return really(self, dy)

    monkeypatch.setattr(layer, "backward", fails)
    with pytest.raises(MemoryError, match="no more"):
        native.learn(images, targets, np.ones(COUNT))
    monkeypatch.undo()
    assert np.isfinite(native.learn(images, targets, np.ones(COUNT))[0])


VGG16 = """
import resource, numpy as np, imori
from imori import frameworks
from imori.frameworks.base import Setup
from imori.optimizers import SGD

tree = imori.model("vgg16", 1000)
native = imori.build(tree, (3, 224, 224), "numpy")
names = frozenset(native.weights)
step = frameworks.get("numpy").prepare(native, Setup(SGD(), names))
images = np.random.default_rng(0).standard_normal((8, 3, 224, 224), dtype=np.float32)
step(images, np.eye(1000)[:8], np.ones(8), 0.001, 0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.slow
def test_a_step_of_vgg16_with_eight_images_fits_into_six_gibibytes() -> None:
    done = subprocess.run([sys.executable, "-c", VGG16], capture_output=True, text=True, check=True)
    peak = int(done.stdout) * (1 if sys.platform == "darwin" else 1024)
    assert peak < 6 * 2**30, f"{peak / 2**30:.2f} GiB"
