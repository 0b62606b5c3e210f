import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import imori
from imori import tree as t
from imori.errors import DataError, FrameworkMissing, RunError, WeightsError
from imori.weights import read_model, save_model

NET = t.Chain(conv1=t.Conv(6, 3, stride=2), relu1=t.ReLU(), pool1=t.GlobalAvgPool(), fc1=t.Linear(2))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(1)
    for name, shade in (("dark", 20), ("light", 170)):
        (folder / name).mkdir()
        for i in range(16):
            pixels = (shade + rng.integers(0, 60, (30, 24 + i, 3))).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.jpg")
    return folder


@pytest.fixture(scope="module")
def run(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "shades"
    imori.train(photos, model=NET, framework="numpy", size=16, epochs=12, batch_size=8, lr=0.05, out=out)
    return out


def test_it_learns_and_predicts_what_photos_show(run: Path, photos: Path) -> None:
    model = imori.load(run)
    assert model.classes == ("dark", "light")
    answers = model.predict(photos / "dark", top=1)
    assert len(answers) == 16
    assert {answer.label for answer in answers} == {"dark"}
    both = model.predict([photos / "light" / "3.jpg"])[0]
    assert [name for name, _ in both.top] == ["light", "dark"]
    assert sum(p for _, p in both.top) == pytest.approx(1)
    assert both.probability == both.top[0][1] > 0.5


def test_a_prediction_does_not_depend_on_its_batch(run: Path, photos: Path) -> None:
    model = imori.load(run)
    together = {answer.path: answer.probability for answer in model.predict(photos)}
    for name in ("0.jpg", "7.jpg"):
        alone = model.predict(photos / "dark" / name)[0]
        assert alone.probability == pytest.approx(together[alone.path], abs=1e-6)


def test_training_test_and_prediction_see_the_same_pixels(run: Path, photos: Path) -> None:
    model = imori.load(run)
    score = model.score(photos)
    answers = model.predict(photos, top=1)
    right = sum(Path(answer.path).parent.name == answer.label for answer in answers)
    assert score.images == len(answers) == 32
    assert score.accuracy == pytest.approx(right / 32)
    assert score.confusion.sum() == 32
    assert score.seen == 24 or score.seen == 26
    assert score.to_data()["per_class"][0]["name"] == "dark"


def test_photos_that_were_trained_on_are_known_however_their_path_is_written(
    run: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(photos.parent)
    seen = imori.load(run).score(photos).seen
    assert seen > 0
    assert imori.load(run).score(photos.name).seen == seen
    assert imori.load(run).score(photos / "dark" / "..").seen == seen


def test_a_bad_photo_is_answered_by_its_reason_or_stops_when_strict(run: Path, photos: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes((photos / "dark" / "0.jpg").read_bytes()[:300])
    good = photos / "light" / "1.jpg"
    model = imori.load(run)
    answers = model.predict([bad, good])
    assert [answer.label for answer in answers] == [None, "light"]
    assert "bad.jpg" in (answers[0].error or "")
    with pytest.raises(DataError, match=r"bad\.jpg"):
        model.predict([bad, good], strict=True)


def test_other_classes_are_an_error_that_lists_both_sides(run: Path, photos: Path, tmp_path: Path) -> None:
    for name in ("dark", "bright"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes((photos / "dark" / "0.jpg").read_bytes())
    with pytest.raises(DataError, match=r"(?s)bright.*light|light.*bright"):
        imori.load(run).score(tmp_path)


def test_a_file_is_enough_and_latest_is_the_newest_run(run: Path, photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes((run / "model.safetensors").read_bytes())
    alone, latest = imori.load(file), imori.load(run.parent / "latest")
    photo = photos / "dark" / "2.jpg"
    assert alone.predict(photo) == latest.predict(photo) == imori.load(run).predict(photo)
    with pytest.raises(RunError, match="no test part"):
        alone.score()


def test_the_other_framework_gives_the_same_probabilities(run: Path, photos: Path) -> None:
    here, there = imori.load(run, framework="numpy"), imori.load(run, framework="torch")
    assert (here.framework_name, there.framework_name) == ("numpy", "torch")
    for one, other in zip(here.predict(photos), there.predict(photos), strict=True):
        assert one.label == other.label
        assert one.probability == pytest.approx(other.probability, abs=1e-5)


def test_the_framework_that_trained_is_taken_where_it_is_installed(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert imori.load(run).framework_name == "numpy"
    from imori import frameworks

    monkeypatch.setattr(frameworks, "installed", lambda name: name == "torch")
    assert imori.load(run).framework_name == "torch"
    with pytest.raises(FrameworkMissing, match=r"imori\[numpy\]"):
        imori.load(run, framework="numpy")


@pytest.mark.parametrize("what", ["absent", "folder", "truncated", "text"])
def test_what_is_no_model_is_named(run: Path, tmp_path: Path, what: str) -> None:
    path = tmp_path / what
    if what == "folder":
        path.mkdir()
    elif what == "truncated":
        path.write_bytes((run / "model.safetensors").read_bytes()[:-5])
    elif what == "text":
        path.write_text("hello")
    with pytest.raises((WeightsError, RunError), match=what):
        imori.load(path)


def test_logits_that_are_not_finite_are_refused(run: Path, photos: Path, tmp_path: Path, framework: str) -> None:
    weights, card = read_model(run / "model.safetensors")
    file = tmp_path / "huge.safetensors"
    save_model(file, {name: np.full_like(value, 3e38) for name, value in weights.items()}, card)
    model = imori.load(file, framework)
    photo = photos / "light" / "0.jpg"
    with pytest.raises(WeightsError, match=rf"{file} answers {photo} with logits that are not finite"):
        model.predict(photo)
    with pytest.raises(WeightsError, match=rf"{file} answers {photos}.* with logits that are not finite"):
        model.score(photos)


def test_the_part_held_back_stays_what_it_was(pets_run: Path, tmp_path: Path) -> None:
    photos = shutil.copytree(pets_run.parent / "photos", tmp_path / "photos")
    model = imori.load(train_pets(photos, tmp_path / "run"))
    before = model.score()
    assert (before.images, before.seen) == (4, 0)
    for name in ("a", "b"):
        shutil.copy(photos / "cat" / "cat0.png", photos / "cat" / f"{name}.png")
    assert model.score().to_data() == before.to_data(), "photos that were added since divide nothing anew"
    assert model.run is not None
    gone, _ = model.run.part("test")[0]
    Path(gone).unlink()
    after = model.score()
    assert (after.images, after.seen) == (3, 0)
    assert [skipped.path for skipped in after.skipped] == [gone]
    split = model.run.split_file.read_text()
    model.run.split_file.write_text(split.replace(",dog,", ",cow,"))
    with pytest.raises(DataError, match=r"split\.csv has photos of cow; the model knows cat, dog"):
        model.score()
    model.run.split_file.write_text(split.replace(",test\n", ",train\n"))
    with pytest.raises(RunError, match="held back no test part"):
        model.score()


def train_pets(photos: Path, out: Path) -> Path:
    return imori.train(photos, model=NET, framework="numpy", size=16, epochs=1, out=out).path


@pytest.mark.parametrize("damage", ["path,class,part\na\0b,cat,train\n", 'path,class,part\n"a', "\0", "path\nx\n", ""])
def test_a_damaged_list_of_what_was_trained_on_says_nothing(pets_run: Path, tmp_path: Path, damage: str) -> None:
    run = shutil.copytree(pets_run, tmp_path / "run")
    (run / "split.csv").write_text(damage)
    assert imori.load(run).score(pets_run.parent / "photos").seen == 0
