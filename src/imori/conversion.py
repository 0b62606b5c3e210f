"""A model into the files of another framework, with the proof that it gives the same numbers there.

The weights are read under canonical names, the model is built in the framework and saved, and the file is opened again
by the framework's own loader. Its logits must be those of the model that was given; of an ONNX file that takes photos,
its probabilities. Until they are, nothing is at the place that was asked for. Auxiliary heads, which count in training
alone, are left out.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from imori import frameworks
from imori import tree as t
from imori.classifier import Ensemble, held_back, load
from imori.comparison import TOLERANCE, largest_difference
from imori.errors import ConversionError, DataError, ImoriError, RunError
from imori.export import check_folder, export_onnx
from imori.frameworks.base import Array, Framework, Native
from imori.shapes import flat, resolve
from imori.sources import Source, source_of
from imori.train.metrics import averaged, softmax
from imori.train.run import preprocessing_of
from imori.weights import Card, restrict
from imori.weights.ensemble import is_ensemble
from imori.weights.file import partial_of, path_of, remedy
from imori.weights.names import Weights

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The system's errors that a framework may hand on as text alone."""
REAL, DRAWN = 32, 8
"""How many test images are compared, and how many random ones where a model has none."""


@dataclass(frozen=True)
class Conversion:
    """What was written, and how it was compared."""

    file: Path
    framework: str
    reference: str
    """The framework that ran the model as it was given."""
    difference: float
    """The largest between two values, as a share of the largest one."""
    values: str
    """What was compared: "logit", or "probability" of a file that takes photos."""
    images: str
    """What both ran on, in words."""
    opening: str
    """How the framework's users open the file."""


def convert(
    path: str | Path,
    to: str,
    file: str | Path,
    *,
    model: str | None = None,
    classes: int | Sequence[str] | None = None,
    source: str = "imori",
    channels: int | None = None,
    size: int | tuple[int, int] | None = None,
    preprocessing: bool = True,
) -> Conversion:
    """Writes a model for the users of the framework `to` into `file`, whose end says the form.

    `path` is a run, a model.safetensors, or a file of weights. One that does not say what it is needs `model`, a name
    of the catalogue or "name@variant", and its `classes`, and perhaps `channels` (3) and `size` (the paper's); `source`
    is whose file it is, as in `read_weights`. Both sides run on test images of the run, or on random ones. An ONNX file
    takes photos and gives probabilities, as `export_onnx` has it, where the model's preprocessing is known; without
    `preprocessing` it takes images that are preprocessed, and gives logits, as the other frameworks' files do.

    ConversionError where the numbers differ by more than 1e-4 of the largest logit, with the first layer that differs
    where the models do and not the file alone, and where `file` cannot be written so. No file is replaced, and nothing
    is left behind.
    """
    file = path_of("file", file)
    target = frameworks.get(to)
    opening = _form(target, to, file)
    _check_place(file)
    if to != "onnx" and not preprocessing:
        raise ConversionError(f"a file for {to} never holds the preprocessing; leave the flag out, it is for onnx")
    path = path_of("path", path)
    if is_ensemble(path):
        if to != "onnx" or not preprocessing:
            raise ConversionError(
                f"{path} is an ensemble, which goes into one file alone, from photos to probabilities: convert it"
                " --to onnx, with its preprocessing, or its members by themselves"
            )
        return _together(path, file, opening)
    given = source_of(path, model, classes, source, channels, size)
    tree = t.without_heads(given.card.tree)
    card, weights = replace(given.card, tree=tree), restrict(given.weights, tree)
    wide = any(value.dtype == np.float64 for value in weights.values())
    dtype = "float64" if wide and "float64" in target.DTYPES else "float32"
    photos = to == "onnx" and preprocessing and bool(card.preprocessing)

    def made(name: str, weights: Weights) -> Native:
        return frameworks.build(tree, card.input, name, weights, dtype)

    reference = _reference(card, to)
    first, native = made(reference, weights), made(to, weights)
    pictures, images, described = _images(given)
    expected = frameworks.logits(first, images)
    _check_logits(expected, given.file)
    if not largest_difference(expected, frameworks.logits(native, images)) <= TOLERANCE:
        raise ConversionError(_parting(first, native, tree, images, f"{reference} and {to}"))
    with _placed(file) as beside:
        if photos:
            _save(lambda: export_onnx(beside, weights, card), beside, file)
            found = _from_photos(beside, pictures)
            expected, values = softmax(expected), "probability"
        else:
            _save(lambda: target.save(native, beside, card.metadata()), beside, file)
            twin = made(to, {name: np.zeros_like(value) for name, value in weights.items()})
            found, values = target.answers(twin, beside, images), "logit"
        difference = _agreeing(expected, found, values, file)
    return Conversion(file, to, reference, difference, values, described, opening.format(repr(str(file))))


def _together(path: Path, file: Path, opening: str) -> Conversion:
    """`convert` of an ensemble, to ONNX."""
    model = load(path)
    assert isinstance(model, Ensemble)
    pictures, _, described = _images(Source(model.members[0].card, {}, path))
    answers = model.answers([np.stack([one.preprocessing(each) for each in pictures]) for one in model.members])
    with _placed(file) as beside:
        _save(lambda: model.export_onnx(beside), beside, file)
        difference = _agreeing(softmax(averaged(answers)), _from_photos(beside, pictures), "probability", file)
    opened = opening.format(repr(str(file)))
    return Conversion(file, "onnx", model.framework_name, difference, "probability", described, opened)


def _agreeing(expected: Array, found: Array, values: str, file: Path) -> float:
    """How far a file's answers are from the model's. ConversionError where that is too far."""
    difference = largest_difference(expected, found)
    if not difference <= TOLERANCE:
        raise ConversionError(
            f"{file} was not written: opened again, it gives another {values}, by {difference:.1e} of the largest,"
            f" and {TOLERANCE:.0e} is let pass"
        )
    return difference


# --- where to --------------------------------------------------------------------------------------------------------


def _form(target: Framework, to: str, file: Path) -> str:
    """How a file of this name is opened. ConversionError for a name whose end is none of the framework's."""
    for end, opening in target.FORMS.items():
        if file.name.endswith(end) and file.name != end if end else not file.suffix and not file.name.startswith("."):
            return opening
    ends = " or ".join(end or "a folder, whose name has no extension" for end in target.FORMS)
    raise ConversionError(f"{file} is no file for {to}, which takes {ends}; name it so")


def _check_place(file: Path) -> None:
    """ConversionError where something is there already, or no folder to write to."""
    if os.path.lexists(file):
        raise ConversionError(f"{file} is there already, and would be overwritten; choose another name")
    check_folder(file)


@contextlib.contextmanager
def _placed(file: Path) -> Iterator[Path]:
    """A path of the same name, in a folder beside; what is there takes its place at the end, if all went well."""
    folder = partial_of(file)
    try:
        folder.mkdir()
        yield folder / file.name
        _check_place(file)
        (folder / file.name).rename(file)
    except OSError as error:
        said = os.strerror(error.errno) if error.errno else str(error).splitlines()[0]
        raise RunError(f"{file} could not be written: {said}; {remedy(error, file)}") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _save(write: Callable[[], None], beside: Path, file: Path) -> None:
    try:
        write()
        for written in (beside, *beside.rglob("*")):
            if written.is_file():
                with open(written, "rb+") as opened:
                    os.fsync(opened.fileno())
    except RunError as error:
        raise RunError(str(error).replace(str(beside), str(file))) from error
    except ImoriError:
        raise
    except Exception as error:  # each framework has its own errors of a full disk
        if isinstance(error, OSError) and error.errno:
            raise
        for code in FULL:
            if os.strerror(code) in str(error):
                raise OSError(code, os.strerror(code)) from error
        text = re.sub(r"\{\{.*?\}\} ?", "", str(error)).replace(str(beside), str(file))
        said = f"{type(error).__name__}: {text}".splitlines()[0][:200]
        raise RunError(
            f"{file} could not be written ({said}); the disk may be full: free some space, or choose another place"
        ) from error


# --- both sides ------------------------------------------------------------------------------------------------------


def _reference(card: Card, to: str) -> str:
    """The framework that trained the model; NumPy where that is the same as the target, or is not installed."""
    known = card.framework in frameworks.names() and frameworks.installed(card.framework)
    return card.framework if known and card.framework != to else "numpy"


def _images(given: Source) -> tuple[list[Image.Image], Array, str]:
    """Pictures to compare on where they are preprocessed, the images (N, C, H, W) of them, and what they are in words.

    Random ones are of two sizes, and of patches: their details survive a resize.
    """
    card = given.card
    preprocessing = preprocessing_of(card, given.file) if card.preprocessing else None
    if given.run is not None and preprocessing is not None:
        with contextlib.suppress(DataError, RunError):  # none were held back, or they are not there any more
            found = held_back(given.run, card)
            chosen = np.unique(np.linspace(0, len(found) - 1, min(REAL, len(found))).astype(int)).tolist()
            pictures = [found.open(i, preprocessing.least) for i in chosen]
            return (
                pictures,
                np.stack([preprocessing(each) for each in pictures]),
                f"{len(chosen)} test images of the run",
            )
    rng, described = np.random.default_rng(0), f"{DRAWN} random images"
    if preprocessing is None or preprocessing.channels not in (1, 3):
        return [], rng.standard_normal((DRAWN, *card.input), dtype=np.float32), described
    patches = rng.integers(0, 256, (DRAWN, 5, 7, 3), dtype=np.uint8)
    high, wide = preprocessing.size
    sizes = [(wide + 40, 2 * high + 10), (2 * wide + 10, high // 2 + 20)]
    pictures = [Image.fromarray(each).resize(sizes[i % 2], Image.Resampling.BICUBIC) for i, each in enumerate(patches)]
    mode = "L" if preprocessing.channels == 1 else "RGB"
    return pictures, np.stack([preprocessing(each.convert(mode)) for each in pictures]), described


def _from_photos(file: Path, pictures: list[Image.Image]) -> Array:
    """Probabilities (N, classes) by an ONNX file."""
    from imori.frameworks.onnx.saving import probabilities

    return np.stack([probabilities(file, np.asarray(each.convert("RGB"))) for each in pictures])


def _check_logits(logits: Array, file: Path) -> None:
    if not np.isfinite(logits).all():
        raise ConversionError(f"{file} gives logits that are not finite, which cannot be compared; use another model")


def _parting(first: Native, second: Native, tree: t.Tree, images: Array, who: str) -> str:
    """What is said of two models that differ: the first layer where they do."""
    paths = [node.path for node in flat(resolve(tree, images.shape[1:]))]
    for path in paths:
        one, two = (frameworks.outputs(native, images[:2], [path])[path] for native in (first, second))
        if not (difference := largest_difference(one, two)) <= TOLERANCE:
            return (
                f"{who} give other numbers, first at {path or 'the only layer'}: they differ by {difference:.1e} of the"
                f" largest value, and {TOLERANCE:.0e} is let pass; nothing was written"
            )
    return f"{who} give other logits, though no layer alone differs by more than {TOLERANCE:.0e}; nothing was written"
