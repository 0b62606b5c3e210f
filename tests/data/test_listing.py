"""Folders and lists: what is found, what is left out and said, and what is refused with its remedy."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path

import pytest

from imori.data import open_splits
from imori.data.listing import WHOLE, read
from imori.errors import DataError


def names(part) -> list[str]:
    return sorted(f"{label}/{Path(path).name}" for path, label in part.photos)


# --- folders ---------------------------------------------------------------------------------------------------------


def test_an_undivided_folder(folder) -> None:
    found = read(folder({"dog": 2, "cat/inside/deeper": 1, "cat": 1}))
    assert list(found.parts) == [WHOLE]
    assert found.parts[WHOLE].classes == ("cat", "dog")
    assert names(found.parts[WHOLE]) == ["cat/0.png", "cat/0.png", "dog/0.png", "dog/1.png"]
    assert found.notes == ()


@pytest.mark.parametrize("val", ["val", "valid", "validation", "eval", "Val", "VALIDATION"])
@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Train", "TEST"), ("training", "testing")])
def test_a_divided_folder(folder, train: str, val: str, test: str) -> None:
    classes = {"a": 2, "b": 1}
    root = folder({f"{part}/{name}": count for part in (train, val, test) for name, count in classes.items()})
    found = read(root)
    assert sorted(found.parts) == ["test", "train", "val"]
    for part in found.parts.values():
        assert part.classes == ("a", "b")
        assert names(part) == ["a/0.png", "a/1.png", "b/0.png"]


def test_hidden_files_and_folders_are_no_part_of_the_data(folder) -> None:
    root = folder({"cat": 2, "dog": 2, ".ipynb_checkpoints": 1, "__MACOSX": 1, "cat/.thumbnails": 2, "@eaDir": 1})
    for name in (".DS_Store", "cat/Thumbs.db", "dog/desktop.ini", "dog/._0.png"):
        (root / name).write_bytes(b"system")
    found = read(root)
    assert found.parts[WHOLE].classes == ("cat", "dog")
    assert len(found.parts[WHOLE].photos) == 4
    assert found.notes == ()


def test_what_is_left_out_is_counted(folder) -> None:
    root = folder({"cat": 2, "dog": 2})
    for name in ("cat/notes.txt", "dog/clip.mov", "dog/more.txt", "dog/README", "list.doc"):
        (root / name).write_bytes(b"?")
    (root / "loose.png").write_bytes((root / "cat/0.png").read_bytes())
    (root / "cat/figure.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0")
    notes = read(root).notes
    assert len(notes) == 2
    assert "6 files that are no photos were left out: 1 .doc, 1 .eps, 1 .mov, 2 .txt, 1 no extension" in notes[0]
    assert "1 photo lies beside the class folders" in notes[1]
    assert "loose.png" in notes[1]
    divided = folder({"train/cat": 1, "train/dog": 1, "val/cat": 1, "val/dog": 1, "extra": 3}, "divided")
    (divided / "readme.md").write_text("?")
    notes = read(divided).notes
    assert "extra is none of train, val and test: the photos in it, 3, were left out" in notes[0]
    assert "1 file that is no photo was left out: 1 .md" in notes[1]


def test_a_class_of_files_that_pillow_cannot_open_says_what_they_are(folder) -> None:
    root = folder({"cat": 3, "dog": 0})
    for index in range(2):
        (root / f"dog/{index}.HEIC").write_bytes(b"?")
    says = r"class folder dog has no photos \(in \S+, 2 files that are no photos .* 2 \.heic .*\); put photos in"
    with pytest.raises(DataError, match=says):
        open_splits(root)


def test_names_in_any_script(folder) -> None:
    found = read(folder({"いもり": 1, "pommes d'été": 1, "Ω": 1}, "фото"))
    assert found.parts[WHOLE].classes == ("pommes d'été", "Ω", "いもり")
    decomposed = read(folder({"e\u0301te\u0301": 1, "b": 1}, "mac"))
    assert decomposed.parts[WHOLE].classes == ("b", "\u00e9t\u00e9"), "spelled as other systems spell it"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a name be no UTF-8")
def test_names_that_are_no_text(folder) -> None:
    root = folder({"cat": 4, "dog": 4})
    os.rename(root / "cat/0.png", os.fsencode(root) + b"/cat/caf\xe9.png")  # noqa: PTH104
    splits = open_splits(root)
    assert splits.test is not None
    assert len(splits.train) + len(splits.val) + len(splits.test) == 8
    assert splits.train.fingerprint()
    os.rename(root / "cat", os.fsencode(root) + b"/caf\xe9")  # noqa: PTH104
    with pytest.raises(
        DataError, match=r"the class folder '\S+udce9' has a name that is not in UTF-8; rename it"
    ) as raised:
        open_splits(root)
    assert str(raised.value).encode("utf-8"), "it can be printed"


def test_links_are_followed_and_never_for_ever(folder, tmp_path: Path) -> None:
    root = folder({"cat": 2, "dog": 1})
    elsewhere = folder({"owl": 3, "more": 2}, "elsewhere")
    (root / "owl").symlink_to(elsewhere / "owl")
    (root / "dog" / "more").symlink_to(elsewhere / "more")
    (elsewhere / "more" / "round").symlink_to(elsewhere / "more")
    (root / "cat" / "broken.png").symlink_to(tmp_path / "nowhere.png")
    found = read(root)
    assert found.parts[WHOLE].classes == ("cat", "dog", "owl")
    counts = Counter(label for _, label in found.parts[WHOLE].photos)
    assert counts == {"cat": 3, "owl": 3, "dog": 1 + 2}
    assert found.notes == (
        f"in {root}, 1 link that leads back to photos of the data set was left out (the first is"
        f" {root / 'dog' / 'more' / 'round'})",
    )
    splits = open_splits(root)
    assert [Path(one.path).name for one in splits.skipped].count("broken.png") >= 1
    assert splits.skipped[0].reason == "no such file or directory"


@pytest.mark.parametrize(
    "target",
    ["root", "parent", "cat", "cat/inside", "dog", "cat/0.png", "dog/0.png", "elsewhere/back"],
)
def test_a_link_brings_in_no_photo_of_the_set_again(folder, target: str) -> None:
    """Not of another class, and not a second time of its own."""
    root = folder({"cat": 2, "cat/inside": 1, "dog": 1})
    back = folder({"owl": 1}, "elsewhere") / "back"
    back.symlink_to(root / "cat")
    places = {"root": root, "parent": root.parent, "elsewhere/back": back}
    link = root / "dog" / f"link{Path(target).suffix}"
    link.symlink_to(places.get(target, root / target))
    found = read(root)
    assert names(found.parts[WHOLE]) == ["cat/0.png", "cat/0.png", "cat/1.png", "dog/0.png"]
    assert found.notes == (
        f"in {root}, 1 link that leads back to photos of the data set was left out (the first is {link})",
    )


@pytest.mark.parametrize("target", [".", "..", "cat", "cat/inside"])
def test_a_link_that_only_leads_back_is_no_class(folder, target: str) -> None:
    root = folder({"cat": 2, "cat/inside": 1, "dog": 1})
    (root / "also").symlink_to(root / target)
    found = read(root)
    assert found.parts[WHOLE].classes == ("cat", "dog")
    assert len(found.notes) == 1
    assert found.notes[0].endswith(f"was left out (the first is {root / 'also'})")


def test_a_link_brings_no_photo_of_another_part_in(folder) -> None:
    root = folder({"train/cat": 2, "train/dog": 2, "test/cat": 3, "test/dog": 1, "store/dog": 2})
    (root / "train" / "cat" / "more").symlink_to(root / "test")
    (root / "train" / "cat" / "too.png").symlink_to(root / "test" / "cat" / "0.png")
    (root / "train" / "dog" / "more").symlink_to(root / "store" / "dog")
    found = read(root)
    assert names(found.parts["train"]) == ["cat/0.png", "cat/1.png", *["dog/0.png"] * 2, *["dog/1.png"] * 2]
    assert "2 links that lead back to photos of the data set were left out" in found.notes[0]


def test_all_may_be_links(folder) -> None:
    """Divided sets are often made so: nothing but links into one store, which may lie in the folder itself."""
    root = folder({".store/a": 2, ".store/b": 2, "train": 0, "val": 0})
    for part in ("train", "val"):
        for name in "ab":
            (root / part / name).symlink_to(root / ".store" / name)
    (root / "test").symlink_to(root / "val")
    found = read(root)
    for part in ("train", "val", "test"):
        assert names(found.parts[part]) == ["a/0.png", "a/1.png", "b/0.png", "b/1.png"]
    assert found.notes == ()


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder, tmp: tmp / "none", r"none does not exist; give a folder of photos, .*list.*MNIST.*digits"),
        (lambda folder, tmp: folder({}, "").parent / tmp.name, r"is empty; put a folder for each class into it"),
        (lambda folder, tmp: folder({".": 3}), r"has photos but no class folders; put each photo into a folder"),
        (lambda folder, tmp: folder({"cat": 5}), r"one class only \(cat\); .* two or more.*give that folder instead"),
        (lambda folder, tmp: folder({"cat": 5, "dog": 0}), r"class folder dog has no photos; put photos in or remove"),
        (lambda folder, tmp: folder({"cat": 5}) / "cat/0.png", r"0\.png is a file; give the folder around .*\.csv"),
        (lambda folder, tmp: folder({"val/a": 1, "val/b": 1}), r"has val but no train part; add train/, or rename"),
        (lambda folder, tmp: folder({"a": 2, "b": 2, "test": 2}), r"has test beside a, b and no train; rename"),
        (
            lambda folder, tmp: folder({"bus": 2, "car": 2, "train/fast": 2, "train/slow": 2, "docs": 0}),
            r"has train beside bus, car, and no val or test: if all are classes, rename train; if it is",
        ),
        (lambda folder, tmp: folder({"train": 4}), r"train has photos but no class folders"),
        (lambda folder, tmp: folder({"train/a": 1, "val/a": 1, "valid/a": 1}), r"both mean val; keep one of them"),
        (
            lambda folder, tmp: folder({"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/dogs": 1}),
            r"classes differ: \S*train has cat, dog; \S*val has cat, dogs; "
            r"only \S*train has dog; only \S*val has dogs\. Rename",
        ),
        (
            lambda folder, tmp: folder({"train/cat": 2, "train/dog": 2, "test/cat": 1}),
            r"\S*train has cat, dog; \S*test has cat; only \S*train has dog\. Rename, add or remove the class folders",
        ),
        (lambda folder, tmp: folder({"train/a": 3, "train/b": 3, "val/a": 0, "val/b": 0}), r"val has no photos; put"),
    ],
    ids=[
        "missing", "empty", "only-photos", "one-class", "empty-class", "a-file", "val-alone", "a-class-called-test",
        "a-class-called-train",
        "photos-in-train", "two-vals", "val-differs", "test-differs", "empty-val",
    ],
)  # fmt: skip
def test_bad_folders_are_refused_with_a_remedy(folder, tmp_path: Path, make, says: str) -> None:
    with pytest.raises(DataError, match=says):
        open_splits(make(folder, tmp_path))


def test_a_folder_without_permission_is_named(folder, monkeypatch) -> None:
    root = folder({"cat": 2, "dog": 2})
    may = Path.iterdir

    def iterdir(path: Path):
        if path.name == "dog":
            raise PermissionError(13, "Permission denied", str(path))
        return may(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(DataError, match="dog cannot be read: Permission denied; check its permissions"):
        open_splits(root)


# --- lists -----------------------------------------------------------------------------------------------------------

ROWS = [("cat/0.png", "cat"), ("cat/1.png", "cat"), ("dog/0.png", "dog"), ("dog/1.png", "dog")]


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("list.csv", lambda rows: "path,label\n" + "".join(f"{path},{label}\n" for path, label in rows)),
        ("list.csv", lambda rows: "\ufeffLabel; File\r\n" + "".join(f'"{label}";{path}\r\n' for path, label in rows)),
        ("list.tsv", lambda rows: "n\timage\tclass\n" + "".join(f"1\t{path}\t{label}\n\n" for path, label in rows)),
        ("list.jsonl", lambda rows: "".join(json.dumps({"path": p, "label": c, "extra": [1]}) + "\n" for p, c in rows)),
        ("list.ndjson", lambda rows: "\n".join(json.dumps({"Filename": p, "class": c}) for p, c in rows)),
    ],
    ids=["csv", "excel", "tsv", "jsonl", "ndjson"],
)
def test_lists(folder, name: str, write) -> None:
    root = folder({"cat": 2, "dog": 2})
    (root / name).write_text(write(ROWS), "utf-8")
    found = read(root / name)
    assert found.parts[WHOLE].classes == ("cat", "dog")
    assert names(found.parts[WHOLE]) == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("name", ["list.tsv", "list.jsonl"])
def test_lists_come_from_any_editor(folder, encoding: str, end: str, name: str) -> None:
    root = folder({"cat": 1, "dog": 1})
    rows = {"cat/0.png": "chât", "dog/0.png": "犬"}
    lines = ["path\tlabel", *(f"{path}\t{label}" for path, label in rows.items())]
    if name.endswith("jsonl"):
        lines = [json.dumps({"path": path, "label": label}, ensure_ascii=False) for path, label in rows.items()]
    mark = "\ufeff" if encoding == "utf-16-be" else ""
    (root / name).write_bytes((mark + end.join(lines) + end).encode(encoding))
    assert read(root / name).parts[WHOLE].classes == ("chât", "犬")


@pytest.mark.parametrize("column", ["split", "part", "Subset"])
def test_a_list_may_name_the_part(folder, column: str) -> None:
    root = folder({"cat": 4, "dog": 4})
    rows = [
        f"{c}/{i}.png,{c},{part}" for c in ("cat", "dog") for i, part in enumerate(("train", "Train", "valid", "test"))
    ]
    (root / "list.csv").write_text(f"path,label,{column}\n" + "\n".join(rows))
    splits = open_splits(root / "list.csv")
    assert splits.test is not None
    assert (len(splits.train), len(splits.val), len(splits.test)) == (4, 2, 2)
    assert {Path(name).name for name in splits.val.names} == {"2.png"}


SPELLINGS = {
    "the same": lambda root: "cat/0.png",
    "dot": lambda root: "./cat/0.png",
    "up": lambda root: "dog/../cat/0.png",
    "absolute": lambda root: str(root / "cat" / "0.png"),
    "folder link": lambda root: "link/0.png",
    "file link": lambda root: "link.png",
}


@pytest.fixture
def linked(folder) -> Path:
    root = folder({"cat": 2, "dog": 2})
    (root / "link").symlink_to("cat")
    (root / "link.png").symlink_to(root / "cat" / "0.png")
    return root


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
@pytest.mark.parametrize(
    ("row", "says"),
    [
        (("dog", "train"), r"as dog in train where that line has cat in train"),
        (("cat", "val"), r"as cat in val where that line has cat in train"),
    ],
    ids=["label", "split"],
)
@pytest.mark.parametrize("name", ["list.csv", "list.jsonl"])
def test_a_photo_has_one_label_and_one_split(
    linked: Path, spelling, row: tuple[str, str], says: str, name: str
) -> None:
    rows = [("cat/0.png", "cat", "train"), ("dog/0.png", "dog", "train"), (spelling(linked), *row)]
    keys = ("path", "label", "split")
    lines = [json.dumps(dict(zip(keys, row, strict=True))) for row in rows]
    text = "\n".join(lines) if name.endswith("jsonl") else "\n".join(map(",".join, [keys, *rows]))
    (linked / name).write_text(text)
    first = 1 if name.endswith("jsonl") else 2
    with pytest.raises(DataError, match=rf"line {first + 2} has the photo of line {first} once more, {says}: .*keep"):
        read(linked / name)


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS)
def test_a_photo_that_is_listed_twice_alike_is_taken_once(linked: Path, spelling) -> None:
    again = spelling(linked)
    (linked / "list.csv").write_text(f"path,label\ncat/0.png,cat\ndog/0.png,dog\n{again},cat\n{again},cat\n")
    found = read(linked / "list.csv")
    assert names(found.parts[WHOLE]) == ["cat/0.png", "dog/0.png"]
    assert found.notes == (
        f"{linked / 'list.csv'}: 2 lines repeat photos with the same label, taken once: the first is line 4"
        f" ({linked / again})",
    )


def test_numbers_are_labels_too_and_absolute_paths_are_paths(folder, tmp_path: Path) -> None:
    root = folder({"cat": 2, "dog": 2})
    rows = [{"path": str(root / path), "label": int(label == "dog")} for path, label in ROWS]
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read(tmp_path / "list.jsonl").parts[WHOLE].classes == ("0", "1")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("a.csv", "", r"line 1 must name the columns path and label; it has nothing"),
        ("a.csv", "cat/0.png,cat\n", r"line 1 must name the columns path and label; it has cat/0\.png, cat"),
        ("a.csv", "path,label\n", r"a\.csv lists no photos; give a path and a label a line"),
        ("a.csv", "path,label\ncat/0.png,cat\ncat/1.png\n", r"line 3 has 1 fields where line 1 has 2"),
        ("a.csv", "path,label\ncat/0.png, \n", r"line 2 has no label; fill it in \(its name may be label, class\)"),
        ("a.csv", "path,label\ncat/9.png,cat\n", r"line 2: there is no file \S*9\.png; paths are relative"),
        (
            "a.csv",
            "path,label\ncat/0.png,cat\ncat/0.png,dog\n",
            r"line 3 has the photo of line 2 once more, as dog where that line has cat: \S*0\.png; keep one",
        ),
        ("a.csv", 'path,label\n"cat/0.png,cat\n', r"line \d is no CSV: .*; quote its fields"),
        (
            "a.csv",
            "path,label,split\ncat/0.png,cat,practice\n",
            r"line 2: the split 'practice' is unknown; there are train",
        ),
        (
            "a.csv",
            "path,label,split\ncat/0.png,cat,train\ncat/1.png,cat,\n",
            r"line 3 has no split where other lines have",
        ),
        ("a.csv", "path,label\ncat/0.png,caf\xe9\n".encode("latin-1"), r"a\.csv is not in UTF-8 \(byte \d+\); save it"),
        ("a.csv", "path,label\ncat/0.png,cat\ncat/1.png,cat\n", r"has one class only \(cat\)"),
        (
            "a.csv",
            "path,label,split\ncat/0.png,cat,train\ndog/0.png,dog,train\ncat/1.png,newt,val\n",
            r"\(train\) has cat, dog; \S*a\.csv \(val\) has newt; only .* has cat, dog; only .* has newt",
        ),
        ("a.csv", "path,label,split\ncat/0.png,cat,val\ndog/0.png,dog,val\n", r"has val but no train part"),
        (
            "a.jsonl",
            '{"path": "cat/0.png", "label": "cat"}\n{"path": \n',
            r"line 2 is no JSON: .* write a line as \{\"path",
        ),
        ("a.jsonl", "[1, 2]\n", r"line 1 is no JSON object; write it as"),
        ("a.jsonl", "[" * 200_000, r"line 1 is no JSON"),
        ("a.jsonl", '{"path": "cat/0.png"}\n', r"line 1 has no label; fill it in"),
        ("a.jsonl", '{"path": "cat/0.png", "label": true}\n', r"line 1: label is true; it must be a text or a number"),
        ("a.jsonl", '{"path": ["cat/0.png"], "label": "a"}\n', r"line 1: path is \[.*\]; it must be a text"),
        ("a.txt", "cat/0.png cat\n", r"a\.txt is a file; give the folder around its class folders, or a list \(\.csv"),
    ],
)
def test_bad_lists_are_refused_by_line(folder, name: str, text: str | bytes, says: str) -> None:
    root = folder({"cat": 2, "dog": 2})
    (root / name).write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(DataError, match=says):
        open_splits(root / name)
