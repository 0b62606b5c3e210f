"""Squares of numbers, letters, and how they are laid out."""

import numpy as np
import pytest
from PIL import Image

from imori.explain import drawing
from imori.explain.labels import labels_of

RNG = np.random.default_rng(4)


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3)], ids=["grey", "one channel", "colour"])
def test_what_is_small_is_enlarged_by_a_whole_number(shape: tuple[int, ...]) -> None:
    pixels = RNG.integers(0, 256, shape, np.uint8)
    drawn = np.asarray(drawing.square(pixels, 24))
    assert drawn.shape == (15, 21, 3)
    expected = np.broadcast_to(pixels.reshape(5, 7, -1), (5, 7, 3))
    assert np.array_equal(drawn, expected.repeat(3, axis=0).repeat(3, axis=1))


def test_what_is_large_is_averaged() -> None:
    pixels = RNG.integers(0, 256, (40, 60), np.uint8)
    drawn = np.asarray(drawing.square(pixels, 25))[..., 0].astype(float)
    assert drawn.shape == (14, 20)
    assert np.abs(drawn[:13] - pixels[:39].reshape(13, 3, 20, 3).mean((1, 3))).max() <= 1


def test_signed_numbers_have_grey_for_nothing() -> None:
    assert drawing.signed(np.array([-2.0, 0.0, 2.0]), 2.0).tolist() == [0, 128, 255]
    assert drawing.signed(np.zeros(2), 0.0).tolist() == [128, 128]


def test_heat_rises_evenly_from_dark_to_bright() -> None:
    grey = drawing.heat(np.linspace(-3, 5, 64).reshape(8, 8)).astype(int) @ [299, 587, 114]
    assert (np.diff(grey.ravel()) > 0).all()
    assert drawing.heat(np.full((2, 2), 7.0)).max() <= 4, "where all is alike, all is dark"


def test_a_grid_has_its_tiles_in_rows() -> None:
    tiles = [Image.new("RGB", (4, 3), (shade, 0, 0)) for shade in (10, 20, 30)]
    drawn = np.asarray(drawing.grid(tiles, 2, 5))
    assert drawn.shape == (11, 13, 3)
    assert (drawn[:3, :4, 0] == 10).all()
    assert (drawn[:3, 9:, 0] == 20).all()
    assert (drawn[8:, :4, 0] == 30).all()
    assert (drawn[:, 4:9] == 255).all()
    assert (drawn[8:, 4:] == 255).all()


def test_letters_are_drawn_and_too_many_are_cut() -> None:
    assert np.asarray(drawing.text("cat")).min() < 100
    whole, cut = drawing.text("a long name of a class"), drawing.text("a long name of a class", width=60)
    assert cut.width == 60 < whole.width
    assert np.asarray(cut)[:, -1].min() == 255, "the last letter is whole"


def test_letters_that_a_font_lacks_are_known() -> None:
    assert drawing.drawable("Cat 3 %", None)
    for lacking in ("猫", "\U0010fffd", "ca\u732b"):
        assert not drawing.drawable(lacking, None)


def test_a_class_is_called_by_its_number_where_no_font_has_its_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "FONTS", ("none.ttf",))
    assert labels_of(["cat", "猫"]) == (None, {"cat": "cat", "猫": "class 1"})


def test_a_font_of_the_system_is_taken_where_it_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_undrawn", lambda name, letters: set() if name == "meiryo.ttc" else {*letters})
    assert labels_of(["cat", "猫"]) == ("meiryo.ttc", {"cat": "cat", "猫": "猫"})
