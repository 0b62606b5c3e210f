"""Which photo has which class, and belongs to which part: read from folders, or from a CSV or JSON-lines list."""

from __future__ import annotations

import csv
import io
import json
import os
import unicodedata
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from imori.data.photos import entries, extensions, folders_above, leads_to, left_out, left_out_links, walk
from imori.errors import DataError

PARTS = {
    "train": "train", "training": "train",
    "val": "val", "valid": "val", "validation": "val", "eval": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
"""What a part of a data set may be called, in small letters."""
WHOLE = "all"
COLUMNS = {
    "path": ("path", "file", "filename", "image"),
    "label": ("label", "class"),
    "part": ("split", "part", "subset"),
}
LISTS = (".csv", ".tsv", ".jsonl", ".ndjson")


@dataclass(frozen=True)
class Part:
    """The photos of one part: the class names that it shows, sorted, and (path, class name) of each photo."""

    place: str
    classes: tuple[str, ...]
    photos: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Listing:
    """The parts "train", "val" and "test", as far as they are there, or the one part WHOLE."""

    root: str
    parts: Mapping[str, Part]
    notes: tuple[str, ...]


def read(path: Path) -> Listing:
    """A folder or a list. DataError where it is neither."""
    if not path.exists():
        raise DataError(
            f"{path} does not exist; give a folder of photos, a CSV or JSON-lines list, a folder with the MNIST files, "
            'or the word "digits"'
        )
    if path.is_dir():
        return read_folder(path)
    if path.suffix.lower() in LISTS:
        return read_list(path)
    raise DataError(f"{path} is a file; give the folder around its class folders, or a list ({', '.join(LISTS)})")


# --- folders ---------------------------------------------------------------------------------------------------------


def read_folder(root: Path) -> Listing:
    """root/train/class/… with val and test beside train, or root/class/…; see PARTS for their names.

    Whatever lies inside a class folder, at any depth, is of that class. Links are followed, but not to the set's own
    class folders: they would bring photos in twice. DataError says what is amiss and where.
    """
    parts: dict[str, Path] = {}
    strangers: list[Path] = []
    for entry in sorted(entries(root)):
        part = PARTS.get(entry.name.lower()) if entry.is_dir() else None
        if part is None:
            strangers.append(entry)
        elif part in parts:
            raise DataError(f"{parts[part]} and {entry} both mean {part}; keep one of them")
        else:
            parts[part] = entry
    if not parts:
        whole, notes = _classes(root, _class_folders(root)[0])
        return Listing(str(root), {WHOLE: whole}, notes)
    beside = {entry: len(walk(entry)[0]) for entry in strangers if entry.is_dir()}
    if beside and "train" not in parts:
        raise DataError(
            f"{root} has {', '.join(sorted(parts))} beside {_names(beside)} and no train; rename what is meant as a "
            "class, or put the class folders into train"
        )
    if parts.keys() == {"train"} and any(beside.values()):
        named = _names(entry for entry, count in beside.items() if count)
        raise DataError(
            f"{root} has {parts['train'].name} beside {named}, and no val or test: if all are classes, rename"
            f" {parts['train'].name}; if it is the training part, move {named} elsewhere"
        )
    own = [folder for part in parts.values() for folder in _class_folders(part)[0]]
    read = {name: _classes(folder, own) for name, folder in parts.items()}
    notes = tuple(note for _, noted in read.values() for note in noted)
    for entry, count in beside.items():
        notes += (f"{entry} is none of train, val and test: the photos in it, {count}, were left out",)
    notes += left_out([entry for entry in strangers if not entry.is_dir()], "beside the parts, ")
    return Listing(str(root), {name: listed for name, (listed, _) in read.items()}, notes)


def _names(folders: Iterable[Path]) -> str:
    return ", ".join(folder.name for folder in folders)


def _class_folders(folder: Path) -> tuple[list[Path], list[Path]]:
    """The class folders of a folder, and the links in it that only lead to those, above them or into them."""
    folders = sorted(entry for entry in entries(folder) if entry.is_dir())
    kept = [entry for entry in folders if not entry.is_symlink()]
    real = set(map(os.path.realpath, kept))
    above = folders_above([*real, os.path.realpath(folder / "any")])
    links = []
    for entry in filter(Path.is_symlink, folders):
        place = os.path.realpath(entry)
        if leads_to(place, real, above):
            links.append(entry)
        else:
            kept.append(entry)
            real.add(place)
            above |= folders_above([place])
    return sorted(kept), links


def _classes(folder: Path, own: list[Path]) -> tuple[Part, tuple[str, ...]]:
    """The photos of a folder of class folders, and notes on the files that were left out; `own` as in `walk`."""
    inside = sorted(entries(folder))
    classes, links = _class_folders(folder)
    loose = [entry for entry in inside if not entry.is_dir()]
    known = extensions()
    stray = [entry for entry in loose if entry.suffix.lower() in known]
    if not inside:
        raise DataError(f"{folder} is empty; put a folder for each class into it, with that class's photos")
    if not classes:
        holds = "photos but no class folders" if stray else "no class folders"
        raise DataError(f"{folder} has {holds}; put each photo into a folder that is named as its class")
    photos, others = [], [entry for entry in loose if entry.suffix.lower() not in known]
    real = frozenset(map(os.path.realpath, own))
    for entry in classes:
        found, rest, back = walk(entry, real)
        label = unicodedata.normalize("NFC", entry.name)  # macOS may spell "é" in two characters
        if any("\ud800" <= letter <= "\udfff" for letter in label):
            raise DataError(f"the class folder {str(entry)!r} has a name that is not in UTF-8; rename it")
        photos += [(str(photo), label) for photo in found]
        others += rest
        links += back
    notes = left_out(others, f"in {folder}, ") + left_out_links(links, f"in {folder}, ")
    if stray:
        lie = f"{len(stray)} photos lie" if len(stray) > 1 else "1 photo lies"
        notes += (f"{lie} beside the class folders of {folder}, of no class: left out (the first is {stray[0]})",)
    labels = {unicodedata.normalize("NFC", entry.name) for entry in classes}
    return Part(str(folder), tuple(sorted(labels)), tuple(sorted(photos, key=lambda photo: photo[::-1]))), notes


# --- lists -----------------------------------------------------------------------------------------------------------


def read_list(path: Path) -> Listing:
    """A list with a path and a label a line, and perhaps a split; COLUMNS has their other names.

    Paths are relative to the list's own folder. A photo that is listed again in the same way, under any spelling of its
    path, is taken once, and noted; with another label or split it is refused. DataError names the line.
    """
    photos: dict[str, list[tuple[str, str]]] = {}
    lines: dict[str, tuple[int, str, str]] = {}
    repeats: list[str] = []
    for line, row in _json_rows(path) if path.suffix.lower() in (".jsonl", ".ndjson") else _csv_rows(path):
        where = f"{path}, line {line}"
        photo = str(path.parent / _field(row, "path", where))
        if not Path(photo).is_file():
            raise DataError(f"{where}: there is no file {photo}; paths are relative to the list's own folder")
        label, part = unicodedata.normalize("NFC", _field(row, "label", where)), _part(row, where)
        first, *said = lines.setdefault(os.path.realpath(photo), (line, label, part))
        if said != [label, part]:
            raise DataError(
                f"{where} has the photo of line {first} once more, as {_put(label, part)} where that line has"
                f" {_put(*said)}: {photo}; keep one of them"
            )
        if first == line:
            photos.setdefault(part, []).append((photo, label))
        else:
            repeats.append(f"line {line} ({photo})")
    if not photos:
        raise DataError(f"{path} lists no photos; give a path and a label a line")
    if WHOLE in photos and len(photos) > 1:
        line = next(line for line, _, part in lines.values() if part == WHOLE)
        raise DataError(f"{path}, line {line} has no split where other lines have one; write train, val or test there")
    parts = {
        name: Part(f"{path} ({name})", tuple(sorted({label for _, label in listed})), tuple(listed))
        for name, listed in sorted(photos.items())
    }
    notes: tuple[str, ...] = ()
    if repeats:
        number = f"{len(repeats)} lines repeat photos" if len(repeats) > 1 else "1 line repeats a photo"
        notes = (f"{path}: {number} with the same label, taken once: the first is {repeats[0]}",)
    return Listing(str(path.parent), parts, notes)


def _put(label: str, part: str) -> str:
    return label if part == WHOLE else f"{label} in {part}"


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    text = _text(path)
    head = text.partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=head.count), strict=True)
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        for role in ("path", "label"):
            if not set(COLUMNS[role]) & set(header):
                has = ", ".join(filter(None, header)) or "nothing"
                raise DataError(f"{path}, line 1 must name the columns path and label; it has {has}")
        for row in reader:
            if any(cell.strip() for cell in row):
                if len(row) != len(header):
                    raise DataError(
                        f"{path}, line {reader.line_num} has {len(row)} fields where line 1 has {len(header)}; "
                        "put a field that contains the separator in double quotes"
                    )
                yield reader.line_num, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num} is no CSV: {error}; quote its fields") from error


def _json_rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    for line, text in enumerate(_text(path).split("\n"), 1):
        if not text.strip():
            continue
        example = '{"path": "cat/1.jpg", "label": "cat"}'
        try:
            row = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}, line {line} is no JSON: {error}; write a line as {example}") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {line} is no JSON object; write it as {example}")
        roles = [key for keys in COLUMNS.values() for key in keys]
        fields = {key.strip().lower(): value for key, value in row.items()}
        for key in roles:
            value = fields.get(key)
            if value is not None and (isinstance(value, bool) or not isinstance(value, (str, int))):
                raise DataError(f"{path}, line {line}: {key} is {json.dumps(value)}; it must be a text or a number")
        yield line, {key: str(fields[key]) for key in roles if fields.get(key) is not None}


def _text(path: Path) -> str:
    """In UTF-8, or in UTF-16 where it begins with that encoding's mark, as Excel's "Unicode text" does."""
    try:
        with path.open("rb") as file:
            mark = file.read(2)
        return path.read_text("utf-16" if mark in (BOM_UTF16_LE, BOM_UTF16_BE) else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not in UTF-8 (byte {error.start}); save it as UTF-8") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check its permissions") from error


def _field(row: Mapping[str, str], role: str, where: str) -> str:
    for name in COLUMNS[role]:
        if row.get(name, "").strip():
            return row[name].strip()
    raise DataError(f"{where} has no {role}; fill it in (its name may be {', '.join(COLUMNS[role])})")


def _part(row: Mapping[str, str], where: str) -> str:
    named = next((row[name].strip() for name in COLUMNS["part"] if row.get(name, "").strip()), None)
    if named is None:
        return WHOLE
    if named.lower() not in PARTS:
        raise DataError(f"{where}: the split {named!r} is unknown; there are train, val and test")
    return PARTS[named.lower()]
