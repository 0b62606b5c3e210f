"""`imori convert` through the command line: what it says, what the file is, and every refusal."""

import ast
import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import imori
from imori import conversion, frameworks
from imori.cli import stopping
from imori.cli.stopping import SOON
from imori.comparison import largest_difference
from imori.errors import ConversionError, ImoriError
from imori.tree import Chain, Conv, GlobalAvgPool, Linear
from imori.weights import Card, initial_weights, read_model, save_model


@pytest.fixture
def refused(command, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Checks that a conversion into this folder is refused with these mentions, and that it left nothing there."""
    out = tmp_path / "out"
    out.mkdir()

    def check(model: object, to: str, name: str, *mentions: str, flags: tuple[object, ...] = ()) -> None:
        command("convert", model, "--to", to, out / name, *flags).refuses(*mentions)
        assert not list(out.iterdir())

    return check


@pytest.fixture
def converted(command, tmp_path: Path) -> Callable[..., Path]:
    """Converts, and gives the file."""

    def run(model: object, to: str, name: str, *flags: object) -> Path:
        answer = command("convert", model, "--to", to, tmp_path / name, *flags)
        assert answer.code == 0, answer.err
        return tmp_path / name

    return run


# --- what it does -----------------------------------------------------------------------------------------------------


def test_it_says_the_difference_the_images_and_how_to_open_the_file(command, digits_run: Path, tmp_path: Path) -> None:
    answer = command("convert", digits_run, "--to", "torch", tmp_path / "a.pth")
    assert answer.code == 0, answer.err
    difference, images, written, opening = answer.out.splitlines()
    assert 0 < float(difference.split()[2]) < 1e-5
    assert difference.endswith("of the largest logit, numpy against torch")
    assert images.endswith("32 test images of the run")
    assert written.endswith(str(tmp_path / "a.pth"))
    assert opening.endswith(f"torch.load({str(tmp_path / 'a.pth')!r}, weights_only=True)")
    assert [file.name for file in tmp_path.iterdir()] == ["a.pth"]


@pytest.mark.parametrize("name", [f"{'a' * 251}.npz", "a\"b'c\\d.npz"], ids=["as long as can be", "quotes"])
def test_unusual_names(command, digits_run: Path, tmp_path: Path, name: str) -> None:
    answer = command("convert", digits_run, "--to", "numpy", tmp_path / name)
    assert answer.code == 0, answer.err
    call = ast.parse(answer.out.splitlines()[-1].removeprefix("open it by").strip(), mode="eval").body
    assert ast.literal_eval(call.args[0]) == str(tmp_path / name)
    assert (tmp_path / name).is_file()


def test_a_pth_is_the_state_dict_of_the_module(converted, digits_run: Path) -> None:
    state = torch.load(converted(digits_run, "torch", "a.pth"), weights_only=True)
    weights, card = read_model(digits_run / "model.safetensors")
    native = imori.build(card.tree, card.input, "torch", weights)
    assert list(state) == list(native.state_dict())
    assert all(torch.equal(state[key], value) for key, value in native.state_dict().items())


def test_a_converted_model_file_is_that_of_the_run(converted, digits_run: Path) -> None:
    there = converted(converted(digits_run, "torch", "a.safetensors"), "numpy", "b.safetensors")
    assert there.read_bytes() == (digits_run / "model.safetensors").read_bytes()


def test_class_names_and_preprocessing_go_along(converted, digits_run: Path) -> None:
    _, card = read_model(digits_run / "model.safetensors")
    model = imori.load(converted(converted(digits_run, "numpy", "a.npz"), "numpy", "b.safetensors"))
    assert model.classes == card.classes
    assert model.card.preprocessing == card.preprocessing


def test_a_state_dict_needs_the_name_of_its_network(converted, digits_run: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("".join(f"digit {i}\n" for i in range(10)))
    flags = ("--model", "lenet", "--classes", tmp_path / "names.txt", "--channels", 1)
    there = converted(converted(digits_run, "torch", "a.pth"), "numpy", "b.npz", *flags)
    weights, _ = read_model(digits_run / "model.safetensors")
    with np.load(there) as held:
        assert json.loads(json.loads(str(held["imori"]))["classes"])[3] == "digit 3"
        assert all((held[name] == value).all() for name, value in weights.items())


def test_published_weights(converted, tmp_path: Path) -> None:
    tree = imori.model("vgg16_bn", classes=7, variant="torchvision")
    published = imori.model("mobilenet_v2", classes=7)
    assert tree != published
    from imori.weights.published import their_shapes
    from imori.weights.tables import PUBLISHERS, names_in

    root = imori.shapes.resolve(published, (3, 64, 64))
    table = next(t for t in PUBLISHERS["torchvision"].values() if names_in(t, root))
    weights = initial_weights(published, (3, 64, 64), seed=3)
    names = names_in(table, root)
    shapes = their_shapes(root, names)
    state = {theirs: torch.tensor(weights[ours].reshape(shapes[theirs])) for ours, theirs in names.items()}
    torch.save(state, tmp_path / "theirs.pth")
    flags = ("--source", "torchvision", "--model", "mobilenet_v2", "--classes", 7, "--size", 64)
    there = converted(tmp_path / "theirs.pth", "numpy", "b.npz", *flags)
    with np.load(there) as held:
        assert all((held[name] == value).all() for name, value in weights.items())


@pytest.mark.parametrize("end", [".pth", ".h5"])
def test_a_published_file_for_other_classes_asks_for_its_publisher(refused, tmp_path: Path, end: str) -> None:
    file = tmp_path / f"theirs{end}"
    if end == ".pth":
        torch.save({"layer1.0.conv1.weight": torch.zeros(3)}, file)
    else:
        file.write_bytes(b"x")
    flags = ("--model", "resnet18", "--classes", 7)
    refused(file, "numpy", "b.npz", "If the file is of torchvision, timm or keras", "--source keras", flags=flags)


@pytest.mark.parametrize("name", ["a.npz", "a.safetensors", "a.onnx", "a.pth"])
def test_an_extension_in_capitals_is_read(converted, command, digits_run: Path, tmp_path: Path, name: str) -> None:
    file = converted(digits_run, {"a.pth": "torch", "a.onnx": "onnx"}.get(name, "numpy"), name)
    file = file.rename(tmp_path / "b").rename(tmp_path / name.upper())
    flags = ("--model", "lenet", "--classes", 10, "--channels", 1) if name == "a.pth" else ()
    with np.load(converted(file, "numpy", "c.npz", *flags)) as held:
        weights, _ = read_model(digits_run / "model.safetensors")
        assert all((held[name] == value).all() for name, value in weights.items())
    if name in ("a.safetensors", "a.onnx"):
        assert command("show", file).code == 0
        assert imori.load(file).classes == imori.load(digits_run).classes


def test_auxiliary_heads_are_left_out(converted, tmp_path: Path) -> None:
    tree = imori.model("googlenet", classes=3)
    save_model(
        tmp_path / "g.safetensors", initial_weights(tree, (3, 79, 79)), Card(tree, (3, 79, 79), ("a", "b", "c"), {})
    )
    with np.load(converted(tmp_path / "g.safetensors", "numpy", "g.npz")) as held:
        assert not [name for name in held if name.startswith("aux")]


def test_float64_stays(converted, tmp_path: Path) -> None:
    tree = Chain(conv=Conv(3, 3), gap=GlobalAvgPool(), fc=Linear(2))
    weights = initial_weights(tree, (1, 8, 8), dtype="float64")
    save_model(tmp_path / "d.safetensors", weights, Card(tree, (1, 8, 8), ("a", "b"), {}))
    state = torch.load(converted(tmp_path / "d.safetensors", "torch", "d.pth"), weights_only=True)
    assert all(tensor.dtype == torch.float64 for tensor in state.values())


def test_onnx_takes_photos_and_gives_probabilities(command, digits_run: Path, tmp_path: Path) -> None:
    there = tmp_path / "a.onnx"
    answer = command("convert", digits_run, "--to", "onnx", there)
    assert answer.code == 0, answer.err
    difference, images, _, opening = answer.out.splitlines()
    assert float(difference.split()[2]) < 1e-5
    assert difference.endswith("of the largest probability, numpy against onnx")
    assert images.endswith("32 test images of the run")
    assert opening.endswith(f"onnxruntime.InferenceSession({str(there)!r})")
    imori.load(digits_run).export_onnx(tmp_path / "same.onnx")
    assert there.read_bytes() == (tmp_path / "same.onnx").read_bytes()


def test_onnx_without_preprocessing_gives_logits(command, digits_run: Path, tmp_path: Path) -> None:
    answer = command("convert", digits_run, "--to", "onnx", tmp_path / "a.onnx", "--no-preprocessing")
    assert answer.code == 0, answer.err
    assert "of the largest logit, numpy against onnx" in answer.out
    imori.load(digits_run).export_onnx(tmp_path / "same.onnx", preprocessing=False)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "same.onnx").read_bytes()


@pytest.mark.parametrize("flags", [(), ("--no-preprocessing",)])
def test_onnx_there_and_back_is_the_same_file(converted, digits_run: Path, flags: tuple[str, ...]) -> None:
    back = converted(converted(digits_run, "onnx", "a.onnx", *flags), "numpy", "b.safetensors")
    assert back.read_bytes() == (digits_run / "model.safetensors").read_bytes()


def test_a_photo_network_of_no_run_is_compared_on_random_photos(command, digits_run: Path, tmp_path: Path) -> None:
    (tmp_path / "alone.safetensors").write_bytes((digits_run / "model.safetensors").read_bytes())
    answer = command("convert", tmp_path / "alone.safetensors", "--to", "onnx", tmp_path / "a.onnx")
    assert "of the largest probability" in answer.out
    assert "8 random images" in answer.out


def test_onnx_of_wide_weights_is_of_float32(converted, tmp_path: Path) -> None:
    tree = Chain(conv=Conv(3, 3), gap=GlobalAvgPool(), fc=Linear(2))
    weights = initial_weights(tree, (1, 8, 8), dtype="float64")
    save_model(tmp_path / "d.safetensors", weights, Card(tree, (1, 8, 8), ("a", "b"), {}))
    held, _ = read_model(converted(tmp_path / "d.safetensors", "onnx", "d.onnx"))
    assert all((held[name] == value.astype("float32")).all() for name, value in weights.items())


# --- what it refuses --------------------------------------------------------------------------------------------------


def test_an_unknown_framework(refused, digits_run: Path) -> None:
    refused(digits_run, "tourch", "a.pth", "there is no framework 'tourch'", "did you mean torch?")


@pytest.mark.parametrize(
    ("to", "takes"), [("torch", ".pth or .safetensors or .pt2"), ("numpy", ".npz or .safetensors")]
)
def test_an_extension_of_another_framework(refused, digits_run: Path, to: str, takes: str) -> None:
    refused(digits_run, to, "a.keras", "a.keras is no file for", takes)


@pytest.mark.parametrize(("to", "name"), [("torch", ".pth"), ("numpy", ".npz"), ("keras", ".keras")])
def test_an_extension_without_a_name(refused, digits_run: Path, to: str, name: str) -> None:
    refused(digits_run, to, name, f"{name} is no file for {to}", "name it so")


def test_preprocessing_is_left_out_of_onnx_alone(refused, digits_run: Path) -> None:
    flags = ("--no-preprocessing",)
    refused(digits_run, "numpy", "a.npz", "a file for numpy never holds the preprocessing", "onnx", flags=flags)


def test_a_framework_that_is_not_installed(refused, digits_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frameworks, "installed", lambda name: name == "numpy")
    refused(digits_run, "torch", "a.pth", "torch is not installed", "imori[torch]")


def test_a_file_is_never_overwritten(command, digits_run: Path, tmp_path: Path) -> None:
    for name in ("a.npz", "b.npz"):
        (tmp_path / "a.npz").write_text("mine")
        (tmp_path / "b.npz").unlink(missing_ok=True)
        (tmp_path / "b.npz").symlink_to("nowhere")
        command("convert", digits_run, "--to", "numpy", tmp_path / name).refuses(name, "is there already")
    assert (tmp_path / "a.npz").read_text() == "mine"
    assert (tmp_path / "b.npz").is_symlink()


def test_a_folder_that_does_not_exist(refused, digits_run: Path) -> None:
    refused(digits_run, "numpy", "none/a.npz", "none is no folder", "make it first")


def test_no_such_model(refused, tmp_path: Path) -> None:
    refused(tmp_path / "none.pth", "numpy", "a.npz", "none.pth is not there")


def test_a_file_that_is_no_weights(refused, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    flags = ("--model", "lenet", "--classes", 10)
    for given in (flags, ()):
        refused(tmp_path / "a.txt", "numpy", "a.npz", "a.txt is no file of weights", ".pth", ".npz", flags=given)


def test_weights_of_nobody_knows_what(refused, converted, digits_run: Path) -> None:
    refused(converted(digits_run, "torch", "a.pth"), "numpy", "a.npz", "does not say of what", "--model", "--classes")


def test_a_file_that_says_what_it_is(refused, digits_run: Path) -> None:
    flags = ("--model", "lenet", "--classes", 10, "--source", "timm")
    mentions = ("says itself what network it is", "leave out model, classes, source")
    refused(digits_run, "numpy", "a.npz", *mentions, flags=flags)


def test_two_classes_of_one_name(refused, converted, digits_run: Path, tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("a\nb\n\na\n")
    flags = ("--model", "lenet", "--classes", tmp_path / "names.txt")
    refused(converted(digits_run, "torch", "a.pth"), "numpy", "a.npz", "'a' names two of the classes", flags=flags)


def test_classes_that_are_no_number_and_no_file(refused, digits_run: Path) -> None:
    for classes in ("ten", "9" * 5000):
        flags = ("--model", "lenet", "--classes", classes)
        refused(digits_run, "numpy", "a.npz", f"--classes {classes[:80]} is no number", flags=flags)


@pytest.mark.parametrize(
    ("flag", "value", "said"),
    [
        ("--classes", 99999999999999, "classes is 99999999999999; it must be a whole number from 1 to 1,048,576"),
        ("--classes", 0, "classes is 0; it must be a whole number from 1"),
        ("--channels", 0, "channels is 0; it must be a whole number from 1"),
        ("--source", "foo", "there is no source 'foo' of weights; there are imori, torchvision, timm, keras"),
    ],
)
def test_flags_out_of_range(refused, command, converted, digits_run: Path, flag: str, value: object, said: str) -> None:
    file, flags = converted(digits_run, "torch", "a.pth"), ("--model", "lenet", "--classes", 10)
    refused(file, "numpy", "a.npz", said, flags=(*flags, flag, value))
    command("compare", file, *flags, "--frameworks", "numpy", flag, value).refuses(said)
    if flag != "--source":
        command("compare", "lenet", "--frameworks", "numpy", flag, value).refuses(said)


def test_a_class_that_is_no_text(converted, digits_run: Path, tmp_path: Path) -> None:
    file, names = converted(digits_run, "torch", "a.pth"), [*"012345678", "\ud800"]
    with pytest.raises(ConversionError, match=r"'\\ud800' holds half of a character.*another name"):
        imori.convert(file, "numpy", tmp_path / "b.npz", model="lenet", classes=names, channels=1)


@pytest.mark.parametrize("classes", [[1, 2], "cd", 2.5, ["a", None], object])
def test_classes_of_a_program_are_a_number_or_names(
    converted, digits_run: Path, tmp_path: Path, classes: object
) -> None:
    file = converted(digits_run, "torch", "a.pth")
    with pytest.raises(ConversionError, match=r"classes is .*; it must be their number, or a list of their names"):
        imori.convert(file, "numpy", tmp_path / "b.npz", model="lenet", classes=classes, channels=1)
    assert not (tmp_path / "b.npz").exists()


@pytest.mark.parametrize("value", ["", None, 5])
def test_paths_of_a_program(digits_run: Path, tmp_path: Path, value: object) -> None:
    with pytest.raises(ImoriError, match=f"file is {value!r}; it must be a path"):
        imori.convert(digits_run, "numpy", value)
    with pytest.raises(ImoriError, match=f"path is {value!r}; it must be a path"):
        imori.convert(value, "numpy", tmp_path / "a.npz")
    with pytest.raises(ImoriError, match=f"model is {value!r}; it must be a path"):
        imori.compare(value, ["numpy"])


def test_a_file_of_the_wrong_net(refused, converted, digits_run: Path) -> None:
    flags = ("--model", "alexnet", "--classes", 10)
    refused(converted(digits_run, "torch", "a.pth"), "numpy", "a.npz", "missing: conv3.weight", flags=flags)


def test_a_tensor_of_the_wrong_shape(refused, converted, digits_run: Path, tmp_path: Path) -> None:
    state = torch.load(converted(digits_run, "torch", "a.pth"), weights_only=True)
    name, tensor = next(iter(state.items()))
    torch.save(state | {name: tensor[:, :, :-1]}, tmp_path / "b.pth")
    flags = ("--model", "lenet", "--classes", 10, "--channels", 1)
    refused(tmp_path / "b.pth", "numpy", "a.npz", f"misshaped: {name} is", flags=flags)


@pytest.mark.parametrize("dtype", ["complex64", "int32", "datetime64[s]", "U3"])
def test_weights_that_are_no_floats(refused, converted, digits_run: Path, tmp_path: Path, dtype: str) -> None:
    with np.load(converted(digits_run, "numpy", "a.npz")) as held:
        arrays = dict(held)
    wrong = np.ones(arrays["conv2.weight"].shape, "i4").astype(dtype)
    np.savez(tmp_path / "b.npz", **arrays | {"conv2.weight": wrong})
    refused(tmp_path / "b.npz", "numpy", "c.npz", "conv2.weight is of", "weights are floats")


class Payload:
    """An object whose unpickling makes a file."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.place),)


@pytest.mark.parametrize("end", [".pth", ".npz"])
def test_code_in_a_file_is_never_run(refused, converted, digits_run: Path, tmp_path: Path, end: str) -> None:
    sprung = tmp_path / "sprung"
    if end == ".pth":
        state = torch.load(converted(digits_run, "torch", "a.pth"), weights_only=True)
        torch.save(state | {"more": Payload(sprung)}, tmp_path / "bad.pth")
        torch.load(tmp_path / "bad.pth", weights_only=False)
    else:
        np.savez(tmp_path / "bad.npz", **{"conv1.weight": np.array([Payload(sprung)], object)})
        dict(np.load(tmp_path / "bad.npz", allow_pickle=True))
    assert sprung.is_dir(), "the payload works where it is let run"
    sprung.rmdir()
    flags = ("--model", "lenet", "--classes", 10, "--channels", 1)
    refused(tmp_path / f"bad{end}", "numpy", "a.npz", "could run code, and was not read", flags=flags)
    assert not sprung.exists()


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors", "a.npz", "a.onnx"])
def test_a_file_cut_short(refused, converted, digits_run: Path, name: str) -> None:
    file = converted(digits_run, {"a.npz": "numpy", "a.onnx": "onnx"}.get(name, "torch"), name)
    file.write_bytes(file.read_bytes()[:-1000])
    flags = ("--model", "lenet", "--classes", 10) if name == "a.pth" else ()
    refused(file, "numpy", "b.npz", name, "cut short", flags=flags)


def test_an_archive_that_declares_too_much(refused, digits_run: Path, converted) -> None:
    file = converted(digits_run, "numpy", "a.npz")
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("more.npy", bytes(40_000_000))
    refused(file, "numpy", "b.npz", "declares more than this network holds")


def test_a_file_for_another_framework_is_no_model_to_test(command, digits_run: Path, tmp_path: Path) -> None:
    assert command("convert", digits_run, "--to", "torch", tmp_path / "a.safetensors").code == 0
    command("test", tmp_path / "a.safetensors", "digits").refuses("a.safetensors was written for pt", "imori convert")


# --- other numbers ----------------------------------------------------------------------------------------------------


def test_other_numbers_are_refused_with_the_first_layer(refused, digits_run: Path, monkeypatch) -> None:
    build = frameworks.build

    def off(tree: object, shape: object, framework: str, weights: dict[str, np.ndarray], *rest: object) -> object:
        if framework == "torch":
            weights = weights | {"conv2.weight": weights["conv2.weight"] * np.float32(1.01)}
        return build(tree, shape, framework, weights, *rest)

    monkeypatch.setattr(frameworks, "build", off)
    refused(digits_run, "torch", "a.pth", "numpy and torch give other numbers, first at conv2:", "nothing was written")


def test_the_file_is_compared_and_not_the_model_in_memory(refused, digits_run: Path, monkeypatch) -> None:
    from imori.frameworks import numpy as target

    save = target.save

    def off(native: object, path: Path, about: object) -> None:
        weights = native.weights["fc2.weight"]
        weights *= 1.01
        save(native, path, about)

    monkeypatch.setattr(target, "save", off)
    refused(digits_run, "numpy", "a.npz", "opened again, it gives another logit, by ")


def test_a_graph_with_another_preprocessing_is_refused(refused, digits_run: Path, monkeypatch) -> None:
    export = conversion.export_onnx

    def off(path: Path, weights: object, card: Card) -> None:
        export(path, weights, replace(card, preprocessing=card.preprocessing | {"scale": 1 / 250}))

    monkeypatch.setattr(conversion, "export_onnx", off)
    refused(digits_run, "onnx", "a.onnx", "opened again, it gives another probability, by ")


@pytest.fixture
def usual_signals() -> Iterator[None]:
    """The handlers of a process that nothing is said to: one that a shell began in the background ignores Ctrl-C."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("usual_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_nothing(command, digits_run: Path, tmp_path: Path, monkeypatch, number: int) -> None:
    from imori.frameworks import numpy as target

    def save(native: object, path: Path, about: object) -> None:
        path.write_bytes(b"half")
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt:
            raise SystemError("as a library may have it") from None

    monkeypatch.setattr(target, "save", save)
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    answer = command("convert", digits_run, "--to", "numpy", tmp_path / "a.npz")
    assert (answer.code, answer.out, answer.err) == (130, "", "stopped\n")
    assert not list(tmp_path.iterdir())
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


@pytest.mark.usefixtures("usual_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_a_callback_loses_comes_again(
    command, digits_run: Path, tmp_path: Path, monkeypatch, number: int
) -> None:
    """As in JAX, which has Python's garbage collector call it: nothing can be raised there."""
    from imori.frameworks import numpy as target

    lost: list[str] = []

    def callback(phase: str, info: object) -> None:
        if len(lost) < 4:
            lost.append(phase)
            signal.raise_signal(number)

    def save(native: object, path: Path, about: object) -> None:
        path.write_bytes(b"half")
        gc.callbacks.append(callback)
        gc.collect()
        gc.callbacks.remove(callback)
        ends = time.monotonic() + 20  # where it does not come
        while time.monotonic() < ends:
            time.sleep(0.001)

    monkeypatch.setattr(target, "save", save)
    answer = command("convert", digits_run, "--to", "numpy", tmp_path / "a.npz")
    assert (answer.code, answer.out, answer.err) == (130, "", "stopped\n")
    assert lost
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("usual_signals")
def test_a_signal_waits_for_a_compiled_module(command, digits_run: Path, tmp_path: Path, monkeypatch) -> None:
    """In the initialisation of JAX's, the exception ended the process by SIGABRT."""
    from imori.frameworks import numpy as target

    initialised: list[int] = []

    def initialise() -> None:
        signal.raise_signal(signal.SIGINT)
        time.sleep(3 * SOON)
        initialised.append(signal.SIGINT)

    def save(native: object, path: Path, about: object) -> None:
        initialise()
        time.sleep(20)

    monkeypatch.setattr(stopping, "COMPILED", {initialise.__code__})
    monkeypatch.setattr(target, "save", save)
    answer = command("convert", digits_run, "--to", "numpy", tmp_path / "a.npz")
    assert (answer.code, answer.err) == (130, "stopped\n")
    assert initialised
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("usual_signals")
def test_a_signal_that_a_library_keeps_to_itself_ends_the_command_too(
    command, digits_run: Path, tmp_path: Path, monkeypatch
) -> None:
    from imori.frameworks import numpy as target

    save = target.save

    def off(native: object, path: Path, about: object) -> None:
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        save(native, path, about)

    monkeypatch.setattr(target, "save", off)
    answer = command("convert", digits_run, "--to", "numpy", tmp_path / "a.npz")
    assert answer.code == 130
    assert answer.err == "stopped\n"


def test_logits_that_are_no_numbers_are_refused(refused, tmp_path: Path) -> None:
    tree = Chain(gap=GlobalAvgPool(), fc=Linear(2))
    weights = {"fc.weight": np.full((2, 1), 3e38, np.float32), "fc.bias": np.full(2, 3e38, np.float32)}
    save_model(tmp_path / "m.safetensors", weights, Card(tree, (1, 1, 1), ("a", "b"), {}))
    refused(tmp_path / "m.safetensors", "torch", "a.pth", "not finite")


def test_a_difference_of_exactly_nothing_passes() -> None:
    assert largest_difference(np.zeros((2, 3)), np.zeros((2, 3))) == 0
    assert largest_difference(np.zeros((2, 3)), np.zeros((2, 4))) == np.inf
    assert not largest_difference(np.ones((1, 2)), np.array([[1, np.nan]])) <= 1


# --- where imori is not -----------------------------------------------------------------------------------------------

FRESH = """
import sys
class NoImori:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "imori":
            raise ImportError("imori is not here")
sys.meta_path.insert(0, NoImori())
import numpy as np
images = np.load(sys.argv[2])
path = sys.argv[1]
"""
ALONE = {
    "a.onnx": """
import onnxruntime
logits = onnxruntime.InferenceSession(path).run(None, {"images": images})[0]
""",
    "a.pth": """
import torch
from torch import nn
state = torch.load(path, weights_only=True)
net = nn.Sequential()
for name, layer in {
    "conv": nn.Conv2d(1, 4, 3), "relu": nn.ReLU(), "gap": nn.AdaptiveAvgPool2d(1), "flat": nn.Flatten(),
    "fc": nn.Linear(4, 3),
}.items():
    net.add_module(name, layer)
net.load_state_dict(state)
logits = net(torch.tensor(images)).detach().numpy()
""",
    "a.pt2": """
import torch
logits = torch.export.load(path).module()(torch.tensor(images)).detach().numpy()
""",
    "a.keras": """
import keras
logits = keras.saving.load_model(path).predict(images.transpose(0, 2, 3, 1), verbose=0)
""",
    "a": """
import tensorflow as tf
serve = tf.saved_model.load(path).signatures["serving_default"]
logits = serve(images=tf.constant(images.transpose(0, 2, 3, 1)))["logits"].numpy()
""",
    "a.safetensors": """
import jax
from flax import nnx
from safetensors.flax import load_file
class Net(nnx.Module):
    def __init__(self):
        self.conv = nnx.Conv(1, 4, (3, 3), padding="VALID", rngs=nnx.Rngs(0))
        self.fc = nnx.Linear(4, 3, rngs=nnx.Rngs(0))
    def __call__(self, x):
        return self.fc(nnx.relu(self.conv(x)).mean((1, 2)))
net = Net()
state = nnx.state(net)
held = {tuple(name.split(".")): nnx.Param(value) for name, value in load_file(path).items()}
nnx.update(net, nnx.from_flat_state(held))
logits = np.asarray(net(images.transpose(0, 2, 3, 1)))
""",
    "a.npz": """
import types, warnings
warnings.simplefilter("ignore")
np.sctypes = {"int": [np.int64], "float": [np.float32, np.float64]}
for name in ("numpy.distutils", "numpy.distutils.system_info", "pkg_resources"):
    module = sys.modules[name] = types.ModuleType(name)
    module.get_info = lambda name: {}
    module.require = lambda name: None
    module.DistributionNotFound = module.VersionConflict = LookupError
np.__dict__["distutils"] = sys.modules["numpy.distutils"]
np.distutils.system_info = sys.modules["numpy.distutils.system_info"]
import chainer
import chainer.functions as F
import chainer.links as L
net = chainer.Chain(conv=L.Convolution2D(1, 4, 3), fc=L.Linear(4, 3))
chainer.serializers.load_npz(path, net)
logits = net.fc(F.average(F.relu(net.conv(images)), axis=(2, 3))).array
""",
}
OF = {
    "a.onnx": "onnx",
    "a.pth": "torch",
    "a.pt2": "torch",
    "a.keras": "keras",
    "a": "tensorflow",
    "a.safetensors": "flax",
    "a.npz": "chainer",
}


HEAVY = ("keras", "tensorflow", "flax", "torch", "chainer")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if OF[name] in HEAVY else ())
        for name in ALONE
        if frameworks.installed(OF[name])
    ],
)
def test_the_file_opens_where_imori_is_not(process, tmp_path: Path, name: str) -> None:
    tree = Chain(conv=Conv(4, 3), relu=imori.tree.ReLU(), gap=GlobalAvgPool(), fc=Linear(3))
    weights = initial_weights(tree, (1, 9, 8), seed=2)
    save_model(tmp_path / "m.safetensors", weights, Card(tree, (1, 9, 8), ("a", "b", "c"), {}))
    images = np.random.default_rng(4).standard_normal((5, 1, 9, 8)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    out = tmp_path / "out"
    out.mkdir()
    answer = process("convert", tmp_path / "m.safetensors", "--to", OF[name], out / name)
    assert answer.code == 0, answer.err
    code = FRESH + ALONE[name] + "\nassert 'imori' not in sys.modules\nnp.save(sys.argv[3], logits)\n"
    arguments = [out / name, tmp_path / "images.npy", tmp_path / "logits.npy"]
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    expected = imori.logits(imori.build(tree, (1, 9, 8), "numpy", weights), images)
    found = np.load(tmp_path / "logits.npy")
    assert np.abs(found - expected).max() <= 1e-5 * np.abs(expected).max()
    assert [file.name for file in out.iterdir()] == [name]
