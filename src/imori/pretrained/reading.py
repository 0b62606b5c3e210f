"""A published checkpoint, with all that it takes to use it: its network, its class names and its preprocessing."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from imori import catalogue
from imori.data import Preprocessing
from imori.errors import DownloadError, FrameworkMissing, NameUnknown, WeightsError
from imori.pretrained.addresses import Checkpoint, checkpoints, chosen
from imori.pretrained.downloads import Progress, cache, fetched
from imori.weights import Card, read_weights
from imori.weights.checkpoint import PYTORCH, read_checkpoint
from imori.weights.hdf5 import opened
from imori.weights.names import Weights
from imori.weights.native import native_card
from imori.weights.tables import PUBLISHERS, families_of

HDF5 = (".h5", ".hdf5", ".keras")


@dataclass(frozen=True)
class Pretrained:
    """Weights that a publisher trained, and what they are of."""

    weights: Weights
    card: Card
    variant: str
    """The network's form, which is called as the publisher."""
    width: float | None
    """The width multiplier, of a network that has one."""
    file: Path


def pretrained(
    model: str,
    weights: str | Path,
    *,
    source: str | None = None,
    variant: str | None = None,
    width: float | None = None,
    size: int | tuple[int, int] | None = None,
    classes: Sequence[str] | None = None,
    note: Callable[[str], None] = lambda text: None,
    progress: Progress = lambda done, total: None,
) -> Pretrained:
    """A publisher's weights of a network of the catalogue, with its form, preprocessing and class names.

    Args:
        model: a name of the catalogue.
        weights: a file of torchvision, timm or Keras, which is recognised by its names; or "torchvision", "timm" or
            "keras", perhaps with a tag as in "torchvision:IMAGENET1K_V1", which is downloaded once.
        source: the publisher of a file, where its names are not to say.
        variant: the publisher's form of the network, which is meant unless given.
        width: the width multiplier; a file's own and 1 for a name unless given.
        size: height and width of the input, in pixels; the publisher's unless given.
        classes: the names of the logits; ImageNet's 1000 unless given.
        note: is told, in a sentence, what was taken for granted.
        progress: is told the bytes of a download.

    WeightsError for a file that cannot be read, holds code, or is of another network, with the names that are missing,
    unexpected or misshaped; NameUnknown for weights that nobody publishes; DownloadError; FrameworkMissing.
    """
    name, _, written = model.partition("@")
    catalogue.variants(name)  # NameUnknown, with the nearest names
    asked = publisher_in(weights)
    if source not in (None, *PUBLISHERS):
        raise NameUnknown(f"there is no source {source!r} of published weights; there are {', '.join(PUBLISHERS)}")
    check_name(weights)
    publisher, tag = asked or (source or _publisher_of(Path(weights), name), "")
    wrong = next((form for form in (written, variant) if form not in ("", None, publisher)), None)
    if wrong is not None:
        raise NameUnknown(f"{weights} is of {name}'s variant {publisher}, and not {wrong}; leave the variant out")
    classes = classes or imagenet_classes()
    if asked:
        one = chosen(publisher, name, tag, width, size if isinstance(size, int) else None)
        return _read(_downloaded(one, note, progress), publisher, name, one, width, size, classes, note)
    file = Path(weights)
    return _read(file, publisher, name, _identified(file, publisher, name), width, size, classes, note)


def publisher_in(weights: str | Path) -> tuple[str, str] | None:
    """("torchvision", "IMAGENET1K_V1") for "torchvision:IMAGENET1K_V1"; None for what is no publisher's name."""
    publisher, _, tag = str(weights).partition(":")
    return (publisher, tag) if publisher in PUBLISHERS else None


def check_name(weights: str | Path) -> None:
    """NameUnknown for what is neither there nor a publisher's name, and has no ending that a file would have."""
    path = Path(weights)
    if not (publisher_in(weights) or path.suffix or path.exists()):
        raise NameUnknown(
            f"{weights} is no file, no run, and no publisher of weights; the publishers are {', '.join(PUBLISHERS)}"
        )


def is_published(weights: str | Path) -> bool:
    """Whether weights are a publisher's, by name or as a file; not a run, and no file that imori wrote."""
    path = Path(weights)
    if publisher_in(weights):
        return True
    if path.is_dir() or path.suffix.lower() not in (".safetensors", *PYTORCH, *HDF5):
        return False
    return path.suffix in PYTORCH or not path.is_file() or native_card(path) is None


@functools.cache
def imagenet_classes() -> tuple[str, ...]:
    """ImageNet's 1000 classes, in the order of every publisher's logits.

    The names are torchvision's, of which no two are the same (pytorch/vision 1f1a920d685d, models/_meta.py).
    """
    return tuple(resources.files(__package__).joinpath("imagenet.txt").read_text(encoding="utf-8").splitlines())


# --- by name ---------------------------------------------------------------------------------------------------------


def _downloaded(one: Checkpoint, note: Callable[[str], None], progress: Progress) -> Path:
    """Its file on this machine. FrameworkMissing, before anything is downloaded, where it could not be read here."""
    for ends, library, extra in ((PYTORCH, "torch", "torch"), (HDF5, "h5py", "hdf5")):
        if one.file.endswith(ends) and importlib.util.find_spec(library) is None:
            raise FrameworkMissing(
                f"{library} is not installed, and {one.file} cannot be read without it; install it by: pip install"
                f" 'imori[{extra}]'"
            )
    file = cache() / one.publisher / one.file
    new = not file.exists()
    if new:
        note(f"{one.address} is downloaded into {file.parent}")
    fetched(one.address, file, one.checksum, progress)
    if new and not one.checksum:
        _check_opens(file, one.address)
    return file


def _check_opens(file: Path, address: str) -> None:
    """Removes what a server gave in place of the file, of which no checksum tells: DownloadError."""
    try:
        if file.suffix in HDF5:
            with opened(file, 0):
                pass
        else:
            read_checkpoint(file)
    except WeightsError as error:
        file.unlink(missing_ok=True)
        raise DownloadError(
            f"what {address} gave is cut short or another file, and is removed; try again, or fetch it where that works"
            f" and put it at {file} ({error})"
        ) from error


# --- by file ---------------------------------------------------------------------------------------------------------


def _publisher_of(path: Path, model: str) -> str:
    """Whose file it is, by the names in it. Where torchvision and timm share them, by the file's name and kind."""
    if path.suffix.lower() in HDF5:
        return "keras"
    names = read_checkpoint(path)
    known = list(dict.fromkeys(publisher for publisher, _ in families_of(names)))
    if not known:
        raise WeightsError(
            f"{path} has names that are not torchvision's, timm's or Keras's, as {next(iter(names))}; for weights that"
            " imori convert wrote, name the model.safetensors that they are of"
        )
    if len(known) > 1:
        owner = next((one for one in known if _called(path, checkpoints(one, model))), None)
        return owner or ("timm" if path.suffix.lower() == ".safetensors" else "torchvision")
    return known[0]


def _called(path: Path, known: Sequence[Checkpoint]) -> Checkpoint | None:
    """The checkpoint whose file's name is in the path, as in models--timm--resnet18.a1_in1k/…/model.safetensors."""
    return next((one for one in known if Path(one.file).stem in str(path.resolve())), None)


def _identified(path: Path, publisher: str, model: str) -> Checkpoint | None:
    """Which of a publisher's checkpoints a file is, by its name or by its checksum; None where neither tells."""
    known = checkpoints(publisher, model)
    if one := _called(path, known):
        return one
    sums = {one.checksum.partition(":")[2]: one for one in known if one.checksum.startswith("sha256:")}
    if not sums or not path.is_file():
        return None
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return next((one for start, one in sums.items() if digest.startswith(start)), None)


def _sized(path: Path, known: Sequence[Checkpoint]) -> Sequence[Checkpoint]:
    """Those for the size that the file's name has, as in mobilenet_0.5_160.h5; all of them where it has none."""
    numbers = re.findall(r"(?<![0-9a-z])\d+(?![0-9a-z])", path.name.lower())
    return [one for one in known if str(one.size) in numbers] or known


# --- both ------------------------------------------------------------------------------------------------------------


def _read(
    file: Path,
    publisher: str,
    model: str,
    one: Checkpoint | None,
    width: float | None,
    size: int | tuple[int, int] | None,
    classes: Sequence[str],
    note: Callable[[str], None],
) -> Pretrained:
    """Reads a file for the first of the published widths that it fits; WeightsError says why the nearest is not it."""
    published = checkpoints(publisher, model) or [chosen(publisher, model)]
    known = [one] if one else _sized(file, published)
    failed: WeightsError | None = None
    for wide in [width] if width is not None else dict.fromkeys(each.width for each in known):
        like = next((each for each in known if each.width == wide), known[0])
        multiplier = wide if catalogue.has_width(model) else None
        tree = catalogue.model(model, len(classes), 3, publisher, multiplier)
        side = size or like.size
        high, across = side if isinstance(side, tuple) else (side, side)
        try:
            weights = read_weights(file, tree, publisher, (3, high, across))
        except WeightsError as error:
            failed = min(failed or error, error, key=lambda each: each.names)
            continue
        if not one and (doubt := _doubt(like, known, size)):
            note(f"{file} may be {doubt}")
        elif not one and size is None and len(known) < len(published) and like.size != published[0].size:
            note(f"{file} is taken to be for {like.size} pixels, by its name; another size is said by --size")
        how = Preprocessing(**like.preprocessing() | {"size": (high, across)}).to_data()
        card = Card(tree, (3, high, across), tuple(classes), how, model=model)
        return Pretrained(weights, card, publisher, multiplier, file)
    assert failed is not None
    raise failed


def _doubt(like: Checkpoint, known: Sequence[Checkpoint], size: object) -> str:
    """What else a file may be, and how to say which; "" unless others of this width see a photo otherwise."""
    settled = {} if size is None else {"size": size}
    others = [each for each in known if each.width == like.width]
    if all(each.preprocessing() | settled == like.preprocessing() | settled for each in others):
        return ""
    if all(each.tag == like.tag for each in others):
        sizes = ", ".join(str(each.size) for each in others)
        return f"for {sizes} pixels, and is used as the first; name another size, as --size {others[-1].size}"
    tags = ", ".join(each.tag for each in others)
    return (
        f"{like.publisher}'s {tags}, and is used as the first; another is known by its publisher's name for the file,"
        f" as {others[-1].file}"
    )
