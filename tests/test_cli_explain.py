"""`imori explain`."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import imori
from imori.explain import drawing
from imori.weights import read_model, save_model


def test_it_writes_the_pictures_that_were_asked_for(command, digits_run: Path, pets_run: Path, tmp_path: Path) -> None:
    photo = pets_run.parent / "photos" / "cat" / "cat3.png"
    answer = command("explain", digits_run, "--filters", "--mistakes", "--features", photo, "--out", tmp_path / "seen")
    assert (answer.code, answer.err) == (0, "")
    names = ["features-cat3.png", "filters.png", "mistakes.png"]
    assert sorted(path.name for path in (tmp_path / "seen").iterdir()) == names
    for name in names:
        assert str(tmp_path / "seen" / name) in answer.out
        with Image.open(tmp_path / "seen" / name) as image:
            image.load()
            assert (image.format, image.mode) == ("PNG", "RGB")
    model = imori.load(digits_run)
    surest = imori.explain.mistakes(model, model.test_images())[0]
    assert [surest.name, surest.truth, surest.answer] == answer.out.splitlines()[4].split()[:3]


def test_pictures_lie_beside_the_model_and_are_not_replaced(command, pets_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(pets_run, tmp_path / "run")
    assert command("explain", run, "--filters").code == 0
    before = (run / "explain" / "filters.png").read_bytes()
    answer = command("explain", run, "--filters", "--mistakes")
    answer.refuses("filters.png is there already", "--out")
    assert [path.name for path in (run / "explain").iterdir()] == ["filters.png"]
    assert (run / "explain" / "filters.png").read_bytes() == before


def test_no_mistakes_make_no_picture(command, pets_run: Path, tmp_path: Path) -> None:
    answer = command("explain", pets_run, "--mistakes", "--out", tmp_path / "seen")
    assert answer.code == 0
    assert "none among 4 images" in answer.out
    assert not (tmp_path / "seen").exists()


def test_letters_that_cannot_be_drawn_are_said(command, pets_run: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(drawing, "_undrawn", lambda name, letters: letters & {"o"})
    photo = pets_run.parent / "photos" / "cat" / "cat3.png"
    answer = command("explain", pets_run, "--mistakes", "--features", photo, "--out", tmp_path / "seen")
    assert answer.code == 0
    assert answer.err.count("note: ") == 1
    assert "class 1 is dog\n" in answer.err


def test_photos_that_were_trained_on_are_said(command, pets_run: Path, tmp_path: Path) -> None:
    data = pets_run.parent / "photos"
    answer = command("explain", pets_run, "--mistakes", "--data", data, "--out", tmp_path / "seen")
    assert "trained on 32 of these 40 images" in answer.err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ((), ("--filters, --features IMAGE, --mistakes",)),
        (("--filters", "--data", "digits"), ("--data names the photos of --mistakes",)),
        (("--features", "none.jpg"), ("none.jpg", "cannot be used as a photo")),
        (("--mistakes", "--data", "none"), ("none does not exist",)),
    ],
    ids=["nothing", "data", "photo", "folder"],
)
def test_what_cannot_be_drawn_is_said(command, pets_run: Path, tmp_path: Path, flags, said) -> None:
    command("explain", pets_run, *flags, "--out", tmp_path / "seen").refuses(*said)
    assert not (tmp_path / "seen").exists()


@pytest.fixture
def both(pets_run: Path, tmp_path: Path) -> Path:
    """An ensemble of a network and of another that takes every cat for a dog, the surer of the two."""
    weights, card = read_model(pets_run / "model.safetensors")
    bias = next(name for name in reversed(weights) if name.endswith("bias"))
    swayed = weights | {bias: weights[bias] + np.array([0, 50], np.float32)}
    save_model(tmp_path / "other.safetensors", swayed, card)
    imori.ensemble([pets_run, tmp_path / "other.safetensors"]).save(tmp_path / "both.safetensors")
    return tmp_path / "both.safetensors"


def test_the_mistakes_of_an_ensemble_are_those_of_its_mean(command, pets_run: Path, both: Path, tmp_path: Path) -> None:
    data = pets_run.parent / "photos"
    answer = command("explain", both, "--mistakes", "--data", data, "--out", tmp_path / "seen")
    model, cats = imori.load(both), [str(path) for path in sorted((data / "cat").iterdir())]
    found = imori.explain.mistakes(model, model.test_images(data))
    said = {each.path: each for each in model.predict(cats)}
    wrong = {path: each.probability for path, each in said.items() if each.label == "dog"}
    assert answer.code == 0
    assert wrong
    assert {each.name: each.probability for each in found} == pytest.approx(wrong)
    assert (tmp_path / "seen" / "mistakes.png").exists()


@pytest.mark.parametrize(
    "flags", [("--filters",), ("--features", "cat3.png", "--mistakes")], ids=["filters", "features"]
)
def test_an_ensemble_is_not_looked_into(command, both: Path, tmp_path: Path, flags) -> None:
    command("explain", both, *flags, "--out", tmp_path / "seen").refuses("is an ensemble", "one member")
    assert not (tmp_path / "seen").exists()
