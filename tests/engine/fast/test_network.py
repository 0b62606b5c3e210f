"""The network in parts: the same numbers as in one, the same bits every time, and a bounded memory."""

import copy
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

import imori
from imori import engine, frameworks, optimizers
from imori.engine import every
from imori.engine.fast import crew, forks
from imori.engine.fast.forks import moved, possible
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
HOW = pytest.mark.parametrize("processes", [False, True] if possible() else [False])


def taken(
    tree: Tree,
    engine: str,
    dtype: str = "float64",
    images: int = 2,
    workers: int = 1,
    steps: int = 1,
    processes: bool = possible(),
) -> Any:
    """The losses of some steps, the gradients of the last, and the weights after it."""
    weights = initial_weights(tree, SHAPE, dtype=dtype)
    native = imori.build(tree, SHAPE, "numpy", weights, dtype, engine=engine)
    if engine == "fast":
        native.images, native.workers, native.processes = images, lambda *_: workers, processes
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
@HOW
@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("images", [1, 2, 4, 100])
def test_parts_add_up_to_the_plain_engines_step(
    checks: Any, tree: Tree, processes: bool, workers: int, images: int
) -> None:
    """The masks of dropout are the same too."""
    losses, gradients, weights = taken(tree, "plain")
    found, ours, after = taken(tree, "fast", images=images, workers=workers, processes=processes)
    assert found == pytest.approx(losses, rel=1e-13)
    assert ours.keys() == gradients.keys()
    for name, gradient in gradients.items():
        checks.agree(ours[name], gradient, 1e-11, name)
    for name in weights:
        if name.endswith((".mean", ".var")):
            checks.agree(after[name], weights[name], 1e-13, name)


@EVERY
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_same_workers_give_the_same_bits_in_threads_and_in_processes(tree: Tree, workers: int) -> None:
    ways = (False, False, possible(), possible())
    first, *others = (taken(tree, "fast", "float32", workers=workers, steps=5, processes=way) for way in ways)
    for other in others:
        assert other[0] == first[0]
        assert all(np.array_equal(other[1][name], first[1][name]) for name in first[1])
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
import numpy as np, imori
from imori import frameworks
from imori.comparison import peak_memory
from imori.frameworks.base import Setup
from imori.optimizers import SGD

tree = imori.model("vgg16", 1000)
native = imori.build(tree, (3, 224, 224), "numpy")
names = frozenset(native.weights)
step = frameworks.get("numpy").prepare(native, Setup(SGD(), names))
images = np.random.default_rng(0).standard_normal((8, 3, 224, 224), dtype=np.float32)
step(images, np.eye(1000)[:8], np.ones(8), 0.001, 0)
print(peak_memory())
"""


@pytest.mark.slow
def test_a_step_of_vgg16_with_eight_images_fits_into_six_gibibytes() -> None:
    done = subprocess.run([sys.executable, "-c", VGG16], capture_output=True, text=True, check=True)
    peak = int(done.stdout)
    assert 2**30 < peak < 6 * 2**30, f"{peak / 2**30:.2f} GiB"


# --- workers that are processes ---------------------------------------------------------------------------------------

FORKS = pytest.mark.skipif(not possible(), reason="this system has no forks that can be trusted")


@pytest.fixture(params=["one adds up", "all add up"])
def who_adds_up(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether these weights are so many that all workers go through them, each every second stretch."""
    if request.param == "all add up":
        monkeypatch.setattr(crew, "LARGE", 0)
        monkeypatch.setattr(crew, "STRETCH", 7)
        monkeypatch.setattr(optimizers, "CHUNK", 5)


class Training:
    """Steps of one network, its workers processes or threads."""

    def __init__(self, tree: Tree, processes: bool, names: frozenset[str] = frozenset()) -> None:
        self.native = imori.build(tree, SHAPE, "numpy", dtype="float64")
        self.native.workers, self.native.processes = lambda *_: 2, processes
        self.found: list[Any] = []
        self.prepare(names)

    def prepare(self, names: frozenset[str] = frozenset()) -> None:
        """Begins anew, with these weights, or all of them."""
        names = names or frozenset(name for name in self.native.weights if name.endswith(("weight", "bias")))
        self.step = frameworks.get("numpy").prepare(self.native, Setup(Adam(), names, precision="float64"))

    def __call__(self, key: int, count: int = COUNT, shape: tuple[int, ...] = SHAPE) -> None:
        """A step."""
        rng = np.random.default_rng(key)
        images, targets = rng.standard_normal((count, *shape)), np.eye(CLASSES)[rng.integers(0, CLASSES, count)]
        self.found.append(self.step(images, targets, rng.random(count), 0.01, key))

    @property
    def forks(self) -> list[int]:
        """The processes that learned the last batch."""
        return list(self.native._learned._forks._forks) if self.native._learned else []


def changes(training: Training, what: str) -> None:
    """Something that the forks, as copies, cannot know."""
    native = training.native
    match what:
        case "nothing":
            pass
        case "other weights":
            frameworks.get("numpy").load(
                native, {name: 0.9 * array for name, array in imori.dump_weights(native).items()}
            )
        case "another array":
            layer = native.layers["stem.conv"]
            layer.weights["bias"] = layer.weights["bias"] + 1
        case "another array in shared memory":
            layer = native.layers["stem.conv"]
            layer.weights["bias"] = moved(layer.weights["bias"] + 1)
        case "another training":
            training.prepare()
        case "others train":
            training.prepare(frozenset({"end.fc.weight", "stem.conv.bias"}))
        case "a state":
            training.step.restore({name: 0 * array for name, array in training.step.state().items()})
        case "another drop":
            native.layers["end.drop"].drop = 0.9
        case "another count of workers":
            native.workers = lambda *_: 3
        case "smaller parts":
            native.images = 1
        case "somebody looks on":
            native.layers["stem.conv"].hook = lambda y: None


WHAT = ["nothing", "other weights", "another array", "another array in shared memory", "another training"]
WHAT += ["others train", "a state", "another drop", "another count of workers", "smaller parts", "somebody looks on"]


@FORKS
@EVERY
@pytest.mark.parametrize("what", WHAT)
@pytest.mark.usefixtures("who_adds_up")
def test_what_changes_between_two_steps_changes_for_all(tree: Tree, what: str) -> None:
    forked, threaded = Training(tree, True), Training(tree, False)
    for training in (forked, threaded):
        training(1)
        training(2)
        changes(training, what)
        training(3)
        training(4)
    assert bool(forked.forks) == (what not in {"another array", "somebody looks on"})
    assert not threaded.forks
    for (loss, logits), (expected, expected_logits) in zip(forked.found, threaded.found, strict=True):
        assert loss == expected
        assert np.array_equal(logits, expected_logits)
    for name, weight in threaded.native.weights.items():
        assert np.array_equal(forked.native.weights[name], weight), name


@FORKS
@EVERY
@pytest.mark.usefixtures("who_adds_up")
def test_batches_of_any_size_are_learned_by_the_same_processes(tree: Tree) -> None:
    forked, threaded = Training(tree, True), Training(tree, False)
    first: list[int] = []
    forked.native.images = threaded.native.images = 2  # so that a smaller batch has fewer parts
    for key, count in enumerate([9, 5, 2, 9, 8]):
        forked(key, count)
        threaded(key, count)
        first = first or forked.forks
        assert forked.forks == first
        for head, expected in zip(every(forked.native.body), every(threaded.native.body), strict=True):
            if isinstance(head, engine.Aux):
                assert np.array_equal(head.logits, expected.logits)
    forked(9, 20)
    threaded(9, 20)
    assert forked.forks != first
    assert [loss for loss, _ in forked.found] == [loss for loss, _ in threaded.found]
    assert all(np.array_equal(forked.native.weights[name], own) for name, own in threaded.native.weights.items())


@FORKS
def test_masks_that_go_on_from_where_they_were_are_drawn_by_threads() -> None:
    found = []
    for processes in (True, False):
        training = Training(NETS["without-norms"], processes)
        training(0)
        images, targets = np.ones((COUNT, *SHAPE)), np.eye(CLASSES)[np.arange(COUNT) % CLASSES]
        found.append([training.native.learn(images, targets, np.ones(COUNT))[0] for _ in range(3)])
        assert not training.forks
    assert found[0] == found[1]
    assert len(set(found[0])) == 3


@FORKS
@pytest.mark.parametrize("worker", [0, 1])
def test_after_an_error_others_go_on(monkeypatch: pytest.MonkeyPatch, worker: int) -> None:
    forked, threaded = Training(NETS["with-norms"], True), Training(NETS["with-norms"], False)
    layer = type(forked.native.layers["bn2"])
    really = layer.backward

    def fails(self: Any, dy: Any) -> Any:
        if self.member.worker == worker:
            raise MemoryError("no more")
        return really(self, dy)

    monkeypatch.setattr(layer, "backward", fails)
    with pytest.raises(MemoryError, match="no more"):
        forked(1)
    monkeypatch.undo()
    assert not forked.found
    for training in (forked, threaded):
        frameworks.get("numpy").load(training.native, initial_weights(NETS["with-norms"], SHAPE, dtype="float64"))
        training(2)
    assert forked.forks
    assert forked.found[0][0] == threaded.found[0][0]


@FORKS
def test_without_a_process_to_be_had_threads_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    def fork() -> int:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    forked, threaded = Training(NETS["with-norms"], True), Training(NETS["with-norms"], False)
    monkeypatch.setattr("os.fork", fork)
    for training in (forked, threaded):
        training(1)
        training(2)
    assert not forked.forks
    assert forked.native.processes is False
    assert [loss for loss, _ in forked.found] == [loss for loss, _ in threaded.found]


@FORKS
def test_a_copy_of_a_network_learns_by_itself() -> None:
    training = Training(NETS["without-norms"], True)
    training(1)
    twin, before = copy.deepcopy(training.native), imori.dump_weights(training.native)
    step = frameworks.get("numpy").prepare(twin, Setup(Adam(), frozenset(["end.fc.bias"]), precision="float64"))
    step(np.ones((COUNT, *SHAPE)), np.eye(CLASSES)[np.arange(COUNT) % CLASSES], np.ones(COUNT), 0.01, 1)
    assert all(np.array_equal(array, before[name]) for name, array in imori.dump_weights(training.native).items())
    assert not np.array_equal(twin.weights["end.fc.bias"], before["end.fc.bias"])
    processes = training.forks
    training(2)
    assert training.forks == processes


@FORKS
def test_the_processes_end_with_their_network() -> None:
    training = Training(NETS["without-norms"], True)
    training(1)
    (process,) = training.forks
    os.kill(process, 0)
    del training
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


@FORKS
@pytest.mark.parametrize("what", ["prepares", "loads", "learns", "goes on"])
def test_what_a_copy_of_the_process_does_changes_no_weight_here(what: str) -> None:
    training = Training(NETS["with-norms"], True)
    training(1)
    before = {name: array.copy() for name, array in training.native.weights.items()}
    process = os.fork()
    if not process:
        code = 1
        try:
            match what:
                case "prepares":
                    training.prepare()
                    training(2)
                    code = 0 if training.forks else 2
                    training.native.train(())
                case "loads":
                    frameworks.get("numpy").load(training.native, {name: 0 * array for name, array in before.items()})
                    code = 0 if not training.native.weights["end.fc.weight"].any() else 2
                case "learns":
                    training.native.learn(np.ones((COUNT, *SHAPE)), np.eye(CLASSES)[[0] * COUNT], np.ones(COUNT))
                    code = 0
                case "goes on":
                    with pytest.raises(imori.ImoriError, match="another process"):
                        training(2)
                    code = 0
        finally:
            os._exit(code)
    assert os.waitpid(process, 0)[1] == 0
    assert all(np.array_equal(array, before[name]) for name, array in training.native.weights.items())
    processes = training.forks
    training(2)
    assert training.forks == processes


@HOW
def test_two_trainings_of_one_network_take_turns(processes: bool) -> None:
    names = frozenset({"end.fc.weight", "stem.conv.weight"})
    found = []
    for alone in (False, True):
        native = imori.build(NETS["with-norms"], SHAPE, "numpy", dtype="float64")
        native.workers, native.processes = lambda *_: 2, processes
        weights = imori.dump_weights(native)
        prepare = frameworks.get("numpy").prepare
        first = prepare(native, Setup(Adam(), names, precision="float64"))
        second = prepare(native, Setup(Adam(), frozenset({"end.fc.bias"}), precision="float64"))
        images, targets = np.ones((COUNT, *SHAPE)), np.eye(CLASSES)[np.arange(COUNT) % CLASSES]
        for key, step in enumerate([first, second, first, second]):
            if alone and step is second:
                continue
            frameworks.get("numpy").load(native, weights)
            step(images, targets, np.ones(COUNT), 0.01, key)
        found.append(first.state())
    assert found[0].keys() == found[1].keys()
    assert found[0]["time"] == 2
    assert all(np.array_equal(array, found[1][name]) for name, array in found[0].items())


@FORKS
def test_without_dropout_any_key_will_do() -> None:
    tree = Chain(conv=Conv(8, 3), flatten=Flatten(), fc=Linear(CLASSES))
    losses = []
    for processes in (True, False):
        training = Training(tree, processes)
        training(2**63 + 1)
        assert bool(training.forks) == processes
        losses.append(training.found[0][0])
    assert losses[0] == losses[1]


@FORKS
def test_if_the_processes_end_at_once_threads_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks.Forks, "_serve", lambda *_: os._exit(3))
    monkeypatch.setattr(forks, "SECOND", 50)
    training = Training(NETS["with-norms"], True)
    training(1)
    assert not training.forks
    assert training.native.processes is False
