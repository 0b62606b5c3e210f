"""`imori test` and `imori predict`."""

import csv
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import imori
from imori import frameworks
from imori.weights import read_model, save_model


def test_test_prints_what_score_finds(command, digits_run: Path) -> None:
    answer = command("test", digits_run, "digits")
    score = imori.load(digits_run).score("digits")
    assert (answer.code, answer.err) == (0, "")
    assert score.images == 359
    right = int(score.confusion.trace())
    assert f"accuracy  {100 * right / 359:.2f} %  ({right} of 359 images, with numpy)" in answer.out
    assert f"top-5     {100 * score.top5:.2f} %" in answer.out
    lines = answer.out.splitlines()
    start = lines.index(next(line for line in lines if line.startswith("class ")))
    for one, line in zip(score.per_class, lines[start + 2 :], strict=False):
        cells = [cell.strip() for cell in line.split("  ") if cell.strip()]
        shares = [f"{100 * share:.2f} %" if share is not None else "-" for share in (one.precision, one.recall)]
        assert cells == [one.name, *shares, str(one.images)]
    matrix = [[int(cell) for cell in line.split()[1:]] for line in lines[-10:]]
    assert matrix == score.confusion.tolist()


def test_test_as_json(command, digits_run: Path) -> None:
    answer = command("test", digits_run / "model.safetensors", "digits", "--json")
    said = json.loads(answer.out)
    assert said == json.loads(json.dumps(imori.load(digits_run).score("digits").to_data()))
    assert sum(map(sum, said["confusion"])) == said["images"] == 359
    assert "top-5" not in answer.out


def test_test_without_data_takes_the_part_held_back(command, pets_run: Path) -> None:
    answer = command("test", pets_run)
    assert answer.code == 0
    assert "of 4 images" in answer.out
    assert "top-5" not in answer.out, "with two classes it would say nothing"


def test_test_says_what_was_trained_on(command, pets_run: Path) -> None:
    answer = command("test", pets_run, pets_run.parent / "photos")
    assert answer.code == 0
    assert "of 40 images" in answer.out
    assert "trained on 32 of these 40 images" in answer.err


def test_test_names_a_bad_photo(command, pets_run: Path, photos) -> None:
    folder = photos("new", cat=3, dog=3)
    (folder / "dog" / "cut.png").write_bytes((folder / "dog" / "dog1.png").read_bytes()[:900])
    answer = command("test", pets_run, folder)
    assert answer.code == 0
    assert "dog/cut.png" in answer.err
    assert "1 photo could not be read" in answer.err
    assert "of 6 images" in answer.out
    command("test", pets_run, folder, "--strict").refuses("dog/cut.png")


def test_test_refuses_other_classes(command, pets_run: Path, photos) -> None:
    command("test", pets_run, photos("unknown", cat=2, horse=2)).refuses("dog", "horse")
    command("test", pets_run, photos("missing", cat=2)).refuses("cat, dog", "missing has cat")


def test_test_with_many_classes_lists_mistakes(command, tmp_path: Path, photos) -> None:
    names = {f"class{i:02}": 3 for i in range(21)}
    run = imori.train(
        photos("many", **names), model="lenet", framework="numpy", iterations=1, batch_size=4, out=tmp_path / "run"
    )
    answer = command("test", run.path, tmp_path / "many")
    assert answer.code == 0
    assert "most frequent mistakes" in answer.out
    assert "confusion matrix" not in answer.out
    rows = [line.split() for line in answer.out.split("true class")[1].splitlines()[2:]]
    assert rows
    assert all(row[0] != row[1] and int(row[2]) > 0 for row in rows)


# --- predict ----------------------------------------------------------------------------------------------------------


def test_predict_as_table(command, pets_run: Path, photos) -> None:
    folder = photos("new", cat=2, dog=2)
    answer = command("predict", pets_run, folder, "--top", 1)
    assert (answer.code, answer.err) == (0, "")
    rows = [line.split() for line in answer.out.splitlines()[2:]]
    assert [(Path(row[0]).name, row[1]) for row in rows] == [
        ("cat0.png", "cat"),
        ("cat1.png", "cat"),
        ("dog0.png", "dog"),
        ("dog1.png", "dog"),
    ]
    assert all(50 < float(row[2]) <= 100 for row in rows)


def test_predict_as_json_and_csv(command, pets_run: Path, photos) -> None:
    folder = photos("new", cat=2, dog=1)
    expected = imori.load(pets_run).predict(folder, top=5)
    said = json.loads(command("predict", pets_run, folder, "--top", 5, "--format", "json").out)
    assert [one["photo"] for one in said] == [one.path for one in expected]
    for one, other in zip(said, expected, strict=True):
        assert [(top["class"], top["probability"]) for top in one["top"]] == list(other.top)
        assert sum(top["probability"] for top in one["top"]) == pytest.approx(1)
    rows = list(csv.DictReader(command("predict", pets_run, folder, "--format", "csv").out.splitlines()))
    assert [row["photo"] for row in rows] == [one.path for one in expected]
    assert [row["class_1"] for row in rows] == ["cat", "cat", "dog"]
    assert float(rows[0]["probability_1"]) == pytest.approx(expected[0].probability, abs=1e-6)
    assert list(rows[0]) == ["photo", "class_1", "probability_1", "class_2", "probability_2", "error"]


@pytest.mark.parametrize("name", ["answers.csv", "answers.JSON", "answers --format csv", "x.xls --format json"])
def test_predict_into_a_file(command, pets_run: Path, photos, tmp_path: Path, name: str) -> None:
    folder = photos("new", cat=1, dog=1)
    as_json = name.lower().endswith("json")
    name, *flags = name.split()
    answer = command("predict", pets_run, folder, "--output", tmp_path / name, *flags)
    assert (answer.code, answer.out) == (0, "")
    text = (tmp_path / name).read_text(encoding="utf-8")
    assert text.startswith("[") == as_json
    assert "dog0.png" in text
    shown = command("predict", pets_run, folder, "--format", "json" if as_json else "csv").out
    assert text == shown


def test_predict_takes_folders_files_and_patterns(command, pets_run: Path, photos, monkeypatch) -> None:
    folder = photos("new", cat=2, dog=2)
    monkeypatch.chdir(folder.parent)
    answer = command("predict", pets_run, "new/cat", "new/dog/dog1.png", "new/*/*0.png", "--format", "csv")
    named = [line.split(",")[0] for line in answer.out.splitlines()[1:]]
    assert sorted(set(named)) == ["new/cat/cat0.png", "new/cat/cat1.png", "new/dog/dog0.png", "new/dog/dog1.png"]


def test_predict_goes_on_past_a_bad_photo(command, pets_run: Path, photos) -> None:
    folder = photos("new", cat=2, dog=2)
    (folder / "cat" / "bad.jpg").write_text("no picture")
    answer = command("predict", pets_run, folder, "--format", "csv")
    assert answer.code == 0
    assert "cat/bad.jpg" in answer.err
    assert "1 of 5 photos could not be read" in answer.err
    rows = {Path(row["photo"]).name: row for row in csv.DictReader(answer.out.splitlines())}
    assert rows["bad.jpg"]["class_1"] == ""
    assert "bad.jpg" in rows["bad.jpg"]["error"]
    assert [rows[f"{name}{i}.png"]["class_1"] for name in ("cat", "dog") for i in (0, 1)] == [
        "cat",
        "cat",
        "dog",
        "dog",
    ]
    assert "could not be read" in command("predict", pets_run, folder).out
    command("predict", pets_run, folder, "--strict").refuses("cat/bad.jpg")
    command("predict", pets_run, folder / "cat" / "bad.jpg").refuses("bad.jpg", "1 photo given, and none could be read")


def test_predict_refuses(command, pets_run: Path, photos, tmp_path: Path) -> None:
    folder = photos("new", cat=1, dog=1)
    command("predict", pets_run, tmp_path / "nothing.jpg").refuses("nothing.jpg")
    command("predict", pets_run, tmp_path / "no*.jpg").refuses("no*.jpg")
    command("predict", pets_run, folder, "--top", 0).refuses("--top is 0", "from 1")
    command("predict", pets_run, folder, "--output", tmp_path / "x.txt", "--format", "table").refuses("x.txt", "csv")
    for name in ("x.xls", "x.json.gz", "csv", "x."):
        answer = command("predict", pets_run, folder, "--output", tmp_path / name)
        answer.refuses(f"{name} does not end in .csv or .json; name it so, or choose by --format csv or json")
    assert {path.name for path in tmp_path.iterdir()} == {"new"}
    command("predict", tmp_path / "norun", folder).refuses("norun")
    command("predict", pets_run, folder, "--framework", "caffe").refuses("'caffe'", "numpy")
    command("predict", pets_run, folder, "--device", "abacus").refuses("'abacus'", "cpu")


def test_a_folder_that_is_no_run_is_said(command, pets_run: Path, photos) -> None:
    folder = photos("new", cat=1, dog=1)
    for arguments in (("test", folder), ("predict", folder, pets_run), ("test", folder, folder)):
        command(*arguments).refuses(f"{folder} is no run; name the directory that `imori train` wrote")


def test_data_that_were_moved_are_said_with_a_remedy(command, photos, tmp_path: Path) -> None:
    folder, run = photos("pets", cat=6, dog=6), tmp_path / "run"
    flags = ("--model", "lenet", "--framework", "numpy", "--iterations", 2, "-b", 4)
    assert command("train", folder, *flags, "--out", run).code == 0
    moved = folder.rename(tmp_path / "elsewhere")
    for arguments in (("test", run), ("train", "--resume", run)):
        command(*arguments).refuses(f"the data of {run} are no longer in {folder}; put them back there, or a link to")
    assert command("test", run, moved).code == 0
    folder.symlink_to(moved)
    assert command("test", run).code == 0
    assert command("train", "--resume", run).code == 0


def test_a_line_end_in_a_name_does_not_break_the_table(command, pets_run: Path, photos) -> None:
    folder = photos("new", cat=1, dog=1)
    (folder / "cat" / "cat0.png").rename(folder / "cat" / "two\nlines.png")
    lines = command("predict", pets_run, folder).out.splitlines()
    assert len(lines) == 4
    assert f"{folder}/cat/two\\nlines.png  cat " in lines[2]


def test_latest_is_the_newest_run(command, pets_run: Path, digits_run: Path, tmp_path: Path) -> None:
    for i, run in enumerate((digits_run, pets_run)):
        shutil.copytree(run, tmp_path / "runs" / run.parent.name)
        os.utime(tmp_path / "runs" / run.parent.name / "recipe.json", (1e9 + i, 1e9 + i))
    answer = command("show", tmp_path / "runs" / "latest")
    assert "2 classes: cat, dog" in answer.out
    command("test", tmp_path / "none" / "latest").refuses("there is no run", "imori train")


def test_show_a_run(command, digits_run: Path) -> None:
    answer = command("show", digits_run)
    assert answer.code == 0
    assert "lenet, trained with numpy" in answer.out
    assert "10 classes: 0, 1, 2" in answer.out
    assert "input 1 x 32 x 32" in answer.out
    assert "59,086 trainable" in answer.out
    shown = json.loads(command("show", digits_run / "model.safetensors", "--json").out)
    assert shown["classes"] == [str(i) for i in range(10)]
    command("show", digits_run, "--classes", 3).refuses("--classes", "settled")


def test_another_framework_than_trained_it_is_said(command, pets_run: Path, tmp_path: Path, monkeypatch) -> None:
    weights, card = read_model(pets_run / "model.safetensors")
    save_model(tmp_path / "model.safetensors", weights, replace(card, framework="chainer"))
    monkeypatch.setattr(frameworks, "installed", lambda name: name == "numpy")
    answer = command("predict", tmp_path / "model.safetensors", pets_run.parent / "photos" / "cat" / "cat0.png")
    assert answer.code == 0
    assert "note: chainer trained this model and is not installed; numpy runs it" in answer.err
