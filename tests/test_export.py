"""A file of ONNX: what it takes and gives, what it says of itself, and its life without imori."""

import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

import imori
from imori import tree as t
from imori.data import Preprocessing, open_photo
from imori.errors import DataError, FrameworkMissing, ImoriError, RunError, WeightsError
from imori.export import export_members
from imori.weights import Card, initial_weights, read_model
from imori.weights.file import partial_of

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
ort = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

NET = t.Chain(
    conv1=t.Conv(8, 3, 2, pad="same"),
    relu1=t.ReLU(),
    aux=t.Aux(t.Chain(pool=t.GlobalAvgPool(), fc=t.Linear(3))),
    conv2=t.Conv(8, 3),
    relu2=t.ReLU(),
    pool=t.GlobalAvgPool(),
    fc=t.Linear(3),
)
HOW = Preprocessing((32, 32), mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))
CARD = Card(NET, (3, 32, 32), ("cat", "dog", "イモリ"), HOW.to_data(), {"epoch": 2}, "net", "numpy")
README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
(WITHOUT_IT,) = (
    code
    for code in re.findall(r"^```python\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    if "InferenceSession" in code
)
"""How the README has a file used where imori is not."""


def session(path: Path) -> Any:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(path, options, ["CPUExecutionProvider"])


def weights_of(tree: t.Tree = NET, shape: tuple[int, ...] = CARD.input) -> dict[str, np.ndarray]:
    return initial_weights(tree, shape, seed=5)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    imori.export_onnx(tmp_path / "net.onnx", weights_of(), CARD)
    return tmp_path / "net.onnx"


def noise(height: int, width: int) -> np.ndarray:
    return np.random.default_rng([height, width]).integers(0, 256, (height, width, 3), dtype=np.uint8)


# --- the file --------------------------------------------------------------------------------------------------------


def test_photos_of_any_size_become_probabilities(file: Path) -> None:
    onnx.checker.check_model(onnx.load(file), full_check=True)
    made = session(file)
    (given,), (got,) = made.get_inputs(), made.get_outputs()
    assert (given.name, given.type, given.shape) == ("photos", "tensor(uint8)", ["N", "H", "W", 3])
    assert (got.name, got.type, got.shape) == ("probabilities", "tensor(float)", ["N", 3])
    native = imori.build(NET, CARD.input, "numpy", weights_of())
    for size in ((32, 32), (200, 301), (17, 9)):
        photos = np.stack([noise(*size), noise(*size)[::-1]])
        logits = imori.logits(native, np.stack([HOW(Image.fromarray(photo)) for photo in photos]))
        expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        np.testing.assert_allclose(made.run(None, {"photos": photos})[0], expected, atol=1e-6)


def test_without_preprocessing_images_become_logits(tmp_path: Path) -> None:
    bare = Card(NET, CARD.input, CARD.classes, {})
    imori.export_onnx(tmp_path / "net.onnx", weights_of(), bare, preprocessing=False)
    made = session(tmp_path / "net.onnx")
    assert "decode" not in made.get_modelmeta().custom_metadata_map
    (given,), (got,) = made.get_inputs(), made.get_outputs()
    assert (given.name, given.type, given.shape) == ("images", "tensor(float)", ["N", 3, 32, 32])
    assert (got.name, got.shape) == ("logits", ["N", 3])
    images = np.random.default_rng(0).standard_normal((4, *CARD.input)).astype("float32")
    expected = imori.logits(imori.build(NET, CARD.input, "numpy", weights_of()), images)
    np.testing.assert_allclose(made.run(None, {"images": images})[0], expected, rtol=1e-4, atol=1e-5)


def test_it_says_what_it_is(file: Path) -> None:
    said = session(file).get_modelmeta().custom_metadata_map
    assert json.loads(said["classes"]) == list(CARD.classes)
    assert Preprocessing.from_data(json.loads(said["preprocessing"])) == HOW
    assert t.from_json(said["tree"]) == imori.without_heads(NET)
    assert json.loads(said["decode"]) == ["RGB", [32, 32]]
    names = {each.name for each in onnx.load(file).graph.initializer}
    assert {name for name in names if not name.startswith("/")} == {n for n in weights_of() if not n.startswith("aux")}


def test_it_says_how_photos_are_decoded(tmp_path: Path) -> None:
    """As (width, height), no side smaller than any member needs, and in grey only where all of them are."""
    hows = [Preprocessing((24, 40), 1, share=0.875), Preprocessing((32, 32), 1), Preprocessing((16, 16), 3)]
    cards = [Card(NET, (how.channels, *how.size), CARD.classes, how.to_data()) for how in hows]
    members = [(weights_of(NET, card.input), card) for card in cards]
    for count, said in ((1, ["L", [46, 28]]), (2, ["L", [46, 32]]), (3, ["RGB", [46, 32]])):
        export_members(tmp_path / "net.onnx", members[:count])
        found = session(tmp_path / "net.onnx").get_modelmeta().custom_metadata_map["decode"]
        assert json.loads(found) == said


def test_equal_models_are_equal_files(file: Path, tmp_path: Path) -> None:
    imori.export_onnx(tmp_path / "again.onnx", weights_of(), CARD)
    assert (tmp_path / "again.onnx").read_bytes() == file.read_bytes()


def test_every_name_that_a_child_may_have_is_free(tmp_path: Path) -> None:
    tree = t.Chain(
        images=t.Conv(2, 3), photos=t.ReLU(), logits=t.GlobalAvgPool(), probabilities=t.Linear(4), step=t.Tanh(),
        x=t.Linear(2),
    )  # fmt: skip
    card = Card(tree, (3, 32, 32), ("a", "b"), HOW.to_data())
    for preprocessing in (True, False):
        imori.export_onnx(tmp_path / "net.onnx", weights_of(tree), card, preprocessing)
        assert session(tmp_path / "net.onnx")


WITHOUT_IMORI = """
import sys
sys.modules |= dict.fromkeys(("imori", "onnx", "PIL", "torch", "safetensors"))
import json
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
probabilities = session.run(None, {"photos": np.load(sys.argv[2])})[0]
classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])
print(json.dumps([classes[probabilities[0].argmax()], probabilities[0].tolist()]))
"""


def test_a_process_with_onnxruntime_alone_opens_it(file: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "photo.npy", noise(50, 70)[np.newaxis])
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_IMORI, file, tmp_path / "photo.npy"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    label, probabilities = json.loads(done.stdout)
    Image.fromarray(noise(50, 70)).save(tmp_path / "photo.png")
    (answer,) = imori.load(file, "numpy").predict(tmp_path / "photo.png")
    assert answer.label == label
    assert answer.probability == pytest.approx(max(probabilities), abs=1e-6)


# --- what is refused -------------------------------------------------------------------------------------------------


def test_what_is_no_whole_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    fewer = {name: value for name, value in weights_of().items() if name != "fc.bias"}
    with pytest.raises(WeightsError, match=r"the weights to export do not fit.*missing: fc\.bias"):
        imori.export_onnx(path, fewer, CARD)
    with pytest.raises(WeightsError, match=r"net\.onnx: nothing is known of .*preprocessing; leave it out: preproc"):
        imori.export_onnx(path, weights_of(), Card(NET, CARD.input, CARD.classes, {}))
    with pytest.raises(WeightsError, match="2 classes are named, and the network ends in"):
        imori.export_onnx(path, weights_of(), Card(NET, CARD.input, ("a", "b"), HOW.to_data()))
    five = Card(NET, (5, 32, 32), CARD.classes, Preprocessing((32, 32), 5).to_data())
    with pytest.raises(DataError, match="photos cannot have 5 channels"):
        imori.export_onnx(path, weights_of(NET, five.input), five)
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_leaves_the_old_file(file: Path) -> None:
    before = file.read_bytes()
    partial_of(file).symlink_to("/dev/full")
    with pytest.raises(RunError, match=r"net\.onnx could not be written: No space left on device; free some space"):
        imori.export_onnx(file, weights_of(), CARD)
    assert file.read_bytes() == before
    assert [each.name for each in file.parent.iterdir()] == [file.name]


@pytest.mark.parametrize(
    ("path", "match"),
    [
        ("e.txt", r"e\.txt is no file for onnx, which takes \.onnx; name it so"),
        (".onnx", r"\.onnx is no file for onnx"),
        ("x/e.onnx", r"x is no folder; make it first"),
        ("", r"path is ''; it must be a path"),
        (5, r"path is 5; it must be a path"),
    ],
)
def test_paths_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: Any, match: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ImoriError, match=match):
        imori.export_onnx(path, weights_of(), CARD)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imori.frameworks, "installed", lambda name: name != "onnx")
    with pytest.raises(FrameworkMissing, match=r"onnx is not installed; .*pip install 'imori\[onnx\]'"):
        imori.export_onnx(tmp_path / "net.onnx", weights_of(), CARD)


# --- beside imori's own prediction -----------------------------------------------------------------------------------


def largest_difference(file: Path, model: Any, photos: list[Path], read: Any) -> float:
    """The largest difference of a probability; the class must be the same."""
    made, largest = session(file), 0.0
    for photo, answer in zip(photos, model.predict(photos, top=len(model.classes)), strict=True):
        assert answer.path == str(photo)
        own = dict(answer.top)
        (found,) = made.run(None, {"photos": read(photo)[np.newaxis]})[0]
        largest = max(largest, *(abs(own[name] - p) for name, p in zip(model.classes, found, strict=True)))
        first, second = (probability for _, probability in answer.top[:2])
        assert first - second < 1e-5 or model.classes[found.argmax()] == answer.label, photo
    return largest


def by_pillow(file: Path) -> Any:
    """Reads a photo as the README says."""
    _, decoding, _ = re.split(r"^with .*\n|^probabilities", WITHOUT_IT, flags=re.MULTILINE)
    metadata = session(file).get_modelmeta().custom_metadata_map

    def read(path: Path) -> np.ndarray:
        with Image.open(path) as image:
            names: dict[str, Any] = {"np": np, "json": json, "ImageOps": ImageOps, "image": image, "metadata": metadata}
            exec(textwrap.dedent(decoding), names)  # noqa: S102
        return names["photo"]  # type: ignore[no-any-return]

    return read


LARGE = ((66, 66), (72, 90), (140, 75), (151, 160), (300, 310))
"""Heights and widths of JPEGs that are decoded at a half, a quarter or an eighth, and some that are just too small."""


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("share", [1.0, 0.875])
def test_the_lines_of_the_readme_get_imoris_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, channels: int, share: float
) -> None:
    monkeypatch.chdir(tmp_path)
    card = Card(NET, (channels, 32, 32), CARD.classes, Preprocessing((32, 32), channels, share=share).to_data())
    imori.export_onnx("pets.onnx", weights_of(NET, card.input), card)
    model, photo = imori.load("pets.onnx", "numpy"), Path("photos_new/cat/0.jpg")
    photo.parent.mkdir(parents=True)
    found, drafts = [], set()
    for height, width in LARGE:
        Image.fromarray(noise(height, width)).save(photo, quality=95)
        names: dict[str, Any] = {}
        exec(WITHOUT_IT, names)  # noqa: S102
        (answer,) = model.predict(photo, top=3)
        own = [dict(answer.top)[name] for name in names["classes"]]
        found.append(np.abs(names["probabilities"][0] - own).max())
        drafts.add(names["photo"].shape[0] / height)
    assert max(found) <= 2e-6
    assert len(drafts) > 2, "some are decoded smaller"


def of_every_mode(folder: Path) -> list[Path]:
    """Photos as cameras, scanners and programs write them; the last two are not for the lines of the README."""
    rng = np.random.default_rng(0)
    corners = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    photo = corners.resize((90, 70), Image.Resampling.BICUBIC)
    turned = Image.Exif()
    turned[0x0112] = 6
    frames = [photo.rotate(angle) for angle in (0, 90)]
    photo.save(folder / "colour.png")
    photo.save(folder / "photo.jpg", quality=90)
    photo.save(folder / "turned.jpg", exif=turned)
    photo.convert("L").save(folder / "grey.png")
    photo.convert("1").save(folder / "bits.png")
    photo.convert("P").save(folder / "palette.png")
    photo.convert("CMYK").save(folder / "cmyk.jpg")
    frames[0].save(folder / "animated.gif", save_all=True, append_images=frames[1:])
    alpha = np.asarray(photo.convert("L"))
    Image.fromarray(np.dstack([np.asarray(photo), alpha])).save(folder / "transparent.png")
    Image.fromarray(alpha.astype(np.uint16) * 257).save(folder / "sixteen.png")
    names = (
        "colour.png", "photo.jpg", "turned.jpg", "grey.png", "bits.png", "palette.png", "cmyk.jpg", "animated.gif",
        "transparent.png", "sixteen.png",
    )  # fmt: skip
    return [folder / name for name in names]


@pytest.mark.parametrize("channels", [1, 3])
def test_photos_of_every_mode_get_imoris_answer(tmp_path: Path, channels: int) -> None:
    how = Preprocessing((32, 32), channels, share=0.9)
    card = Card(NET, (channels, 32, 32), CARD.classes, how.to_data())
    imori.export_onnx(tmp_path / "net.onnx", weights_of(NET, card.input), card)
    model = imori.load(tmp_path / "net.onnx", "numpy")
    photos = of_every_mode(tmp_path)
    by_imori = largest_difference(
        tmp_path / "net.onnx", model, photos, lambda photo: np.asarray(open_photo(photo, least=how.least))
    )
    by_the_readme = largest_difference(tmp_path / "net.onnx", model, photos[:-2], by_pillow(tmp_path / "net.onnx"))
    print(f"{channels} channels: {by_imori:.1e} by imori.data.open_photo, {by_the_readme:.1e} by Pillow alone")
    assert max(by_imori, by_the_readme) <= 2e-6


def exported(run: Path, photos: list[Path]) -> float:
    """A run as ONNX: how far its answers to photos are from imori's own."""
    model = imori.load(run, "numpy")
    model.export_onnx(run / "model.onnx")
    return largest_difference(run / "model.onnx", model, photos, by_pillow(run / "model.onnx"))


def test_a_run_answers_as_imori_does_and_trains_on_from_its_file(pets_run: Path, tmp_path: Path) -> None:
    photos = pets_run.parent / "photos"
    assert exported(pets_run, sorted(photos.rglob("*.png"))) <= 2e-6
    more = imori.train(photos, framework="numpy", weights=pets_run / "model.onnx", epochs=1, lr=0.0, out=tmp_path / "b")
    ours, theirs = (read_model(run / "model.safetensors")[0] for run in (more.path, pets_run))
    assert all(np.array_equal(ours[name], value) for name, value in theirs.items())


@pytest.fixture(scope="module", params=[3, 1])
def cats_dogs(tmp_path_factory: pytest.TempPathFactory, data_root: Path, request: pytest.FixtureRequest) -> Path:
    """A short run on real photos, in colour or grey."""
    out = tmp_path_factory.mktemp("runs") / "cats_dogs"
    choices: dict[str, Any] = {
        "framework": "numpy",
        "size": 64,
        "iterations": 40,
        "lr": 0.01,
        "channels": request.param,
    }
    return imori.train(data_root / "cats_dogs", model=NET_OF_TWO, out=out, **choices).path


NET_OF_TWO = t.Chain(
    conv1=t.Conv(8, 3, 2), relu1=t.ReLU(), conv2=t.Conv(16, 3, 2), relu2=t.ReLU(), pool=t.GlobalAvgPool(),
    fc=t.Linear(2),
)  # fmt: skip


@pytest.mark.parametrize("every", [25, pytest.param(1, marks=pytest.mark.slow)])
def test_real_photos_get_imoris_answer(cats_dogs: Path, data_root: Path, every: int) -> None:
    photos = sorted((data_root / "cats_dogs").rglob("*.jpg"))[::every]
    difference = exported(cats_dogs, photos)
    print(f"{len(photos)} photos: probabilities differ by {difference:.1e}")
    assert difference <= 2e-6


def test_a_file_predicts_by_every_command(file: Path, tmp_path: Path, command: Any) -> None:
    Image.fromarray(noise(40, 60)).save(tmp_path / "photo.png")
    said = [
        command("predict", file, tmp_path / "photo.png", "--framework", name, "--format", "csv")
        for name in ("onnx", "numpy")
    ]
    assert [each.code for each in said] == [0, 0]
    assert said[0].out.splitlines()[0] == said[1].out.splitlines()[0]
    assert "3 classes: cat, dog, イモリ" in command("show", file).out
