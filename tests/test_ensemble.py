"""Several models as one: `imori.ensemble`, its file, and the command."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import imori
from imori.errors import ConversionError, DataError, RunError, WeightsError
from imori.frameworks import installed
from imori.tree import Chain, Conv, GlobalAvgPool, Linear, ReLU
from imori.weights import read_members, read_model, save_model
from imori.weights.file import read_tensors, save_tensors

GREY = Chain(conv=Conv(3, 3, stride=2), relu=ReLU(), pool=GlobalAvgPool(), fc=Linear(2))


@pytest.fixture(scope="module")
def runs(pets_run: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two that held back the same photos, of two networks: one on colours, one on larger grey images."""
    out = tmp_path_factory.mktemp("runs") / "grey"
    data = pets_run.parent / "photos"
    imori.train(data, model=GREY, framework="numpy", size=(24, 20), channels=1, epochs=2, lr=0.05, out=out)
    return [pets_run, out]


@pytest.fixture(scope="module")
def saved(runs: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("files") / "both.safetensors"
    imori.ensemble(runs).save(file)
    return file


def shares(model, photos: Path) -> np.ndarray:
    """P(cat) of each photo."""
    return np.array([dict(answer.top)["cat"] for answer in model.predict(photos)])


def test_its_probabilities_are_the_mean_of_its_members(runs: list[Path]) -> None:
    photos = runs[0].parent / "photos"
    one, two = (shares(imori.load(run), photos) for run in runs)
    together = shares(imori.ensemble(runs), photos)
    assert np.abs(one - two).max() > 0.05, "they differ, or it would show nothing"
    assert np.abs(together - (one + two) / 2).max() < 1e-7


def test_each_is_scored_as_by_itself_and_all_together(runs: list[Path]) -> None:
    photos = runs[0].parent / "photos"
    model = imori.ensemble(runs)
    *members, together = model.scores(photos)
    assert [score.to_data() for score in members] == [imori.load(run).score(photos).to_data() for run in runs]
    truth = [Path(answer.path).parent.name for answer in model.predict(photos)]
    right = [dict(answer.top)[name] for answer, name in zip(model.predict(photos), truth, strict=True)]
    assert together.loss == pytest.approx(-np.log(right).mean(), rel=1e-6)
    assert together.accuracy == np.mean(np.array(right) > 0.5)
    assert together.seen == members[0].seen == 32
    assert model.score().images == 4, "the test part that both held back"


def test_saved_it_is_one_model(runs: list[Path], saved: Path, tmp_path: Path) -> None:
    photos, model = runs[0].parent / "photos", imori.load(saved)
    assert isinstance(model, imori.Ensemble)
    assert np.array_equal(shares(model, photos), shares(imori.ensemble(runs), photos))
    assert [one.card for one in model.members] == [imori.load(run).card for run in runs]
    model.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()
    weights, card = read_model(runs[0] / "model.safetensors")
    save_model(tmp_path / "third.safetensors", {name: 0.9 * array for name, array in weights.items()}, card)
    three = imori.ensemble([saved, tmp_path / "third.safetensors"])
    assert len(three.members) == 3, "an ensemble counts by its members"


def test_beside_a_run_it_is_not_what_that_run_trained(runs: list[Path], tmp_path: Path) -> None:
    run = shutil.copytree(runs[0], tmp_path / "run")
    imori.ensemble(runs).save(run / "both.safetensors")
    with pytest.raises(RunError, match="no test part"):
        imori.load(run / "both.safetensors").score()


def test_classes_in_another_order_are_put_in_order(pets_run: Path, tmp_path: Path) -> None:
    weights, card = read_model(pets_run / "model.safetensors")
    turned = weights | {name: weights[name][::-1] for name in ("fc.weight", "fc.bias")}
    save_model(tmp_path / "turned.safetensors", turned, replace(card, classes=card.classes[::-1]))
    photos = pets_run.parent / "photos"
    both = imori.ensemble([pets_run, tmp_path / "turned.safetensors"])
    assert np.allclose(shares(both, photos), shares(imori.load(pets_run), photos), atol=1e-7)
    assert both.score(photos).confusion.tolist() == imori.load(pets_run).score(photos).confusion.tolist()


def test_what_is_no_ensemble(runs: list[Path], digits_run: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"the classes differ: .*cat"):
        imori.ensemble([runs[0], digits_run])
    with pytest.raises(RunError, match="two models or more"):
        imori.ensemble(runs[:1])
    with pytest.raises(RunError, match="named twice"):
        imori.ensemble([runs[0], runs[0] / "model.safetensors"])
    with pytest.raises(RunError, match=r"copy has the weights of .*model\.safetensors; each model .* counts once"):
        imori.ensemble([runs[0], shutil.copytree(runs[0], tmp_path / "copy")])
    alone = shutil.copy(runs[1] / "model.safetensors", tmp_path / "alone.safetensors")
    with pytest.raises(RunError, match="no test part"):
        imori.ensemble([runs[0], alone]).score()


def test_runs_that_held_back_other_photos_are_not_scored_on_them(runs: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "other"
    imori.train(runs[0].parent / "photos", model=GREY, framework="numpy", size=16, epochs=1, seed=1, out=other)
    with pytest.raises(RunError, match=r"held back different test photos.*imori train .*split\.csv --seed 1"):
        imori.ensemble([runs[0], other]).score()
    same = tmp_path / "same"
    imori.train(runs[0] / "split.csv", model=GREY, framework="numpy", size=16, epochs=1, seed=1, out=same)
    assert imori.ensemble([runs[0], same]).score().images == 4, "as the error says"


def test_where_one_network_is_asked_for_an_ensemble_is_refused(command, saved: Path, tmp_path: Path) -> None:
    for words in (("show", saved), ("compare", saved), ("train", "digits", "--weights", saved)):
        command(*words).refuses(str(saved), "is an ensemble", "name the run of one member")
    with pytest.raises(ConversionError, match=r"is an ensemble.*--to onnx"):
        imori.convert(saved, "numpy", tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"ensemble": "["}, "metadata are damaged"),
        ({"ensemble": "[{}]"}, "names no two members"),
        ({"ensemble": "[{}, 1]"}, "names no two members"),
        ({"ensemble": '[{"imori": 1}, {}]'}, "names no two members"),
        ({"ensemble": "[{}, {}]"}, "written by imori|not there"),
    ],
)
def test_damaged_metadata_are_refused(saved: Path, tmp_path: Path, change: dict[str, str], said: str) -> None:
    tensors, metadata = read_tensors(saved)
    save_tensors(tmp_path / "bad.safetensors", tensors, metadata | change)
    with pytest.raises(WeightsError, match=said):
        imori.load(tmp_path / "bad.safetensors")


def test_weights_of_no_member_and_lacking_ones_are_refused(saved: Path, tmp_path: Path) -> None:
    tensors, metadata = read_tensors(saved)
    save_tensors(tmp_path / "more.safetensors", tensors | {"2/fc.bias": np.zeros(2, np.float32)}, metadata)
    with pytest.raises(WeightsError, match=r"2/fc\.bias is of none of its 2 members"):
        imori.load(tmp_path / "more.safetensors")
    del tensors["1/fc.bias"]
    save_tensors(tmp_path / "less.safetensors", tensors, metadata)
    with pytest.raises(WeightsError, match=r"missing: fc\.bias"):
        imori.load(tmp_path / "less.safetensors")


@pytest.mark.skipif(not (installed("onnx") and installed("onnxruntime")), reason="onnx is not installed")
def test_as_onnx_it_is_one_file_from_photos_to_probabilities(runs: list[Path], saved: Path, tmp_path: Path) -> None:
    done = imori.convert(saved, "onnx", tmp_path / "both.onnx")
    assert done.values == "probability"
    assert done.difference < 1e-5
    members = read_members(tmp_path / "both.onnx")
    for (weights, card), (own, said) in zip(members, read_members(saved), strict=True):
        assert card == said
        assert all(np.array_equal(weights[name], own[name]) for name in own)
    photos = runs[0].parent / "photos"
    assert np.allclose(shares(imori.load(tmp_path / "both.onnx", "onnx"), photos), shares(imori.load(saved), photos))


@pytest.mark.skipif(not (installed("onnx") and installed("onnxruntime")), reason="onnx is not installed")
def test_as_onnx_classes_in_another_order_are_put_in_order(pets_run: Path, tmp_path: Path) -> None:
    weights, card = read_model(pets_run / "model.safetensors")
    save_model(tmp_path / "turned.safetensors", weights, replace(card, classes=card.classes[::-1]))
    imori.ensemble([pets_run, tmp_path / "turned.safetensors"]).save(tmp_path / "both.safetensors")
    assert imori.convert(tmp_path / "both.safetensors", "onnx", tmp_path / "both.onnx").difference < 1e-5


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_shows_each_and_saves_them(command, runs: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "both.safetensors"
    answer = command("ensemble", *runs, "--out", out)
    assert (answer.code, answer.err) == (0, "")
    *members, together = imori.ensemble(runs).scores()
    rows = [line.split() for line in answer.out.splitlines()[2:5]]
    for row, name, score in zip(rows, (*map(str, runs), "ensemble"), (*members, together), strict=True):
        assert row[0] == name
        assert row[-4:] == [f"{100 * score.accuracy:.2f}", "%", str(4 - score.confusion.trace()), f"{score.loss:.4f}"]
    assert "of 4 images" in answer.out
    assert command("test", out, runs[0].parent / "photos").code == 0
    assert command("predict", out, runs[0].parent / "photos" / "cat" / "cat1.png").out.count("cat1.png") == 1


def test_the_command_as_json_and_on_other_photos(command, runs: list[Path], photos) -> None:
    data = photos("new", cat=3, dog=2)
    said = json.loads(command("ensemble", *runs, "--data", data, "--json").out)
    assert [score["images"] for score in (*said["members"], said["ensemble"])] == [5, 5, 5]
    answer = command("ensemble", *runs, "--data", runs[0].parent / "photos")
    assert "trained on 32 of these 40 images" in answer.err


def test_the_command_replaces_nothing(command, runs: list[Path], saved: Path, tmp_path: Path) -> None:
    before = saved.read_bytes()
    command("ensemble", tmp_path / "none", "--out", saved).refuses(f"{saved} is there already", "--out")
    assert saved.read_bytes() == before
    command("ensemble", *runs, "--out", tmp_path / "a.pth").refuses("does not end in .safetensors")
    command("ensemble", runs[0]).refuses("two models or more")
    assert not list(tmp_path.iterdir())
