"""Looks: alike for copies of one photo, and unlike for two photos."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from imori.data import duplicates
from imori.data.duplicates import NEAR, groups, look, near_pairs


def picture(seed: int, size: tuple[int, int] = (160, 120)) -> Image.Image:
    """Something smooth with structure, as photos are."""
    coarse = np.random.default_rng(seed).integers(0, 255, (11, 13, 3), np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def saved(image: Image.Image, quality: int) -> Image.Image:
    kept = io.BytesIO()
    image.save(kept, "JPEG", quality=quality)
    return Image.open(kept).convert("RGB")


def differing(one: int, two: int) -> int:
    return (one ^ two).bit_count()


COPIES = {
    "smaller": lambda image: image.resize((80, 60)),
    "saved": lambda image: saved(image, 40),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.15),
    "grey": lambda image: image.convert("L"),
}


@pytest.mark.parametrize("copy", COPIES)
def test_copies_look_alike(copy: str) -> None:
    for seed in range(5):
        image = picture(seed)
        assert differing(look(image), look(COPIES[copy](image))) <= NEAR


def test_others_do_not() -> None:
    looks = [look(picture(seed)) for seed in range(60)]
    assert near_pairs(looks) == []
    assert all(0 <= one < 2**128 for one in looks)


def test_a_mirrored_photo_is_another() -> None:
    image = picture(1)
    assert differing(look(image), look(image.transpose(Image.Transpose.FLIP_LEFT_RIGHT))) > NEAR


def test_pairs_are_found_across_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", 4)
    looks = [look(picture(seed)) for seed in range(11)]
    looks[9] = looks[6] ^ 0b1011
    looks[3] = looks[1]
    assert near_pairs(looks) == [(1, 3), (6, 9)]
    assert near_pairs([]) == []


def test_plain_pictures_are_near_only_where_they_look_the_same() -> None:
    faint = 0b111 << 60
    assert near_pairs([faint, faint ^ 1, faint, 0, 0]) == [(0, 2), (3, 4)]


def test_of_very_many_photos_the_same_looks_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "MOST", 3)
    looks = [look(picture(seed)) for seed in (1, 2, 1, 3, 1)]
    assert near_pairs(looks) == [(0, 2), (0, 4)]


def test_groups_are_what_pairs_link() -> None:
    found = groups(6, [(0, 3), (3, 5), (1, 2)])
    assert found[0] == found[3] == found[5] != found[1] == found[2]
    assert len(set(found.tolist())) == 3


def test_two_copies_among_a_thousand_photos(data_root: Path) -> None:
    from imori.data import PhotoFiles, open_splits

    splits = open_splits(data_root / "cats_dogs", test=0)
    assert isinstance(splits.train, PhotoFiles)
    pool = splits.train.joined(splits.val)
    pairs = [{Path(pool.names[i]).name, Path(pool.names[j]).name} for i, j in near_pairs(pool.looks)]
    assert pairs == [{"dog.180.jpg", "dog.74.jpg"}]
