"""Every kind of photo that Pillow opens, upright and in 8 bits; and every kind that cannot be used, by name."""

from __future__ import annotations

import io
import os
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageChops, PngImagePlugin

from imori.data import find_images, open_photo, photos
from imori.data.photos import check, in_channels
from imori.errors import DataError


def close(image: Image.Image, expected: np.ndarray, within: float) -> bool:
    values = np.asarray(image).astype(int)
    return values.shape == expected.shape and np.abs(values - expected.astype(int)).max() <= within


def mode_of(path: Path) -> str:
    with Image.open(path) as image:
        return image.mode


def grey_of(rgb: np.ndarray) -> np.ndarray:
    return rgb @ np.array([0.299, 0.587, 0.114])


# --- modes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "extension", "within"),
    [
        ("RGB", "png", 0),
        ("RGB", "jpg", 8),
        ("RGB", "webp", 12),
        ("RGB", "bmp", 0),
        ("RGB", "tif", 0),
        ("RGB", "ppm", 0),
        ("RGB", "jp2", 2),
        ("RGBA", "png", 0),
        ("P", "png", 60),
        ("P", "gif", 60),
        ("CMYK", "jpg", 8),
        ("CMYK", "tif", 0),
    ],
)
def test_colour(tmp_path: Path, paint, mode: str, extension: str, within: int) -> None:
    picture = paint()
    path = tmp_path / f"photo.{extension}"
    picture.convert(mode).save(path, quality=95) if extension in ("jpg", "webp") else picture.convert(mode).save(path)
    photo = open_photo(path, 3)
    assert photo.mode == "RGB"
    assert close(photo, np.asarray(picture), within)
    assert not check(str(path)).grey
    grey = open_photo(path, 1)
    assert grey.mode == "L"
    assert close(grey, grey_of(np.asarray(picture)), within + 1)


@pytest.mark.parametrize(
    ("mode", "extension", "within"),
    [("L", "png", 0), ("L", "jpg", 8), ("LA", "png", 0), ("L", "gif", 0), ("L", "pgm", 0)],
)
def test_grey(tmp_path: Path, paint, mode: str, extension: str, within: int) -> None:
    picture = paint().convert("L")
    path = tmp_path / f"photo.{extension}"
    picture.convert(mode).save(path)
    assert check(str(path)).grey
    assert close(open_photo(path, 1), np.asarray(picture), within)
    assert close(open_photo(path, 3), np.asarray(picture.convert("RGB")), within)


def test_black_and_white(tmp_path: Path) -> None:
    bits = np.random.default_rng(1).random((9, 14)) < 0.3
    path = tmp_path / "bits.png"
    Image.fromarray(bits).save(path)
    assert mode_of(path) == "1"
    assert check(str(path)).grey
    assert close(open_photo(path, 1), bits * 255, 0)


def test_ycck_jpeg(tmp_path: Path, paint) -> None:
    """A CMYK JPEG whose Adobe marker says YCCK: what many publishing programs write."""
    picture = paint()
    path = tmp_path / "ycck.jpg"
    planes = ImageChops.invert(picture).convert("YCbCr").split()
    inverted = [*map(ImageChops.invert, planes), Image.new("L", picture.size, 0)]  # Adobe's files are inverted
    Image.merge("CMYK", inverted).save(path, quality=95, subsampling=0)
    content = bytearray(path.read_bytes())
    content[content.index(b"Adobe") + 11] = 2  # the marker's byte for YCCK
    path.write_bytes(content)
    assert mode_of(path) == "CMYK"
    assert close(open_photo(path, 3), np.asarray(picture), 8)


@pytest.mark.parametrize("extension", ["png", "tif"])
@pytest.mark.parametrize("order", ["<u2", ">u2"])
def test_16_bit_grey_is_scaled_and_not_clipped(tmp_path: Path, extension: str, order: str) -> None:
    values = np.random.default_rng(2).integers(0, 65536, (11, 7)).astype(np.uint16)
    values[0, :3] = 0, 65535, 257
    path = tmp_path / f"deep.{extension}"
    mode = "I;16" if order == "<u2" else "I;16B"
    Image.frombytes(mode, (7, 11), values.astype(order).tobytes()).save(path)
    expected = np.rint(values / 257)
    assert check(str(path)).grey
    assert close(open_photo(path, 1), expected, 0)
    assert close(open_photo(path, 3), np.repeat(expected[..., None], 3, 2), 0)


def test_16_bit_grey_as_32_bit_whole_numbers(tmp_path: Path) -> None:
    values = np.random.default_rng(3).integers(0, 65536, (5, 8)).astype(np.int32)
    path = tmp_path / "deep.tif"
    Image.fromarray(values).save(path)
    assert mode_of(path) == "I"
    assert close(open_photo(path, 1), np.rint(values / 257), 0)
    for wrong in (values - 65536, values + 65536):
        Image.fromarray(wrong).save(path)
        with pytest.raises(
            DataError, match=r"deep\.tif cannot be .* run from -?\d+ to -?\d+ where 65535 is white; save"
        ):
            open_photo(path, 1)


def test_16_bit_colour(tmp_path: Path) -> None:
    """Pillow reads the high bytes of 16-bit RGB; the file is written by hand, since Pillow does not write one."""
    import struct
    import zlib

    values = np.random.default_rng(4).integers(0, 65536, (4, 6, 3)).astype(">u2")

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = b"".join(b"\0" + row.tobytes() for row in values)
    path = tmp_path / "deep.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 6, 4, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )  # fmt: skip
    assert close(open_photo(path, 3), values >> 8, 0)


def test_floats_run_from_0_to_1(tmp_path: Path) -> None:
    values = np.random.default_rng(5).random((6, 9)).astype(np.float32)
    path = tmp_path / "float.tif"
    Image.fromarray(values).save(path)
    assert check(str(path)).grey
    assert close(open_photo(path, 1), np.rint(values * 255), 0)
    for wrong, says in ((values * 300, "run from"), (values - 2, "run from"), (values * np.nan, "run from nan")):
        Image.fromarray(wrong).save(path)
        with pytest.raises(DataError, match=rf"float\.tif .*{says} .*save it in 8 bits"):
            open_photo(path, 1)


def test_lab(tmp_path: Path, paint) -> None:
    lab = paint().convert("LAB")
    path = tmp_path / "lab.tif"
    lab.save(path)
    assert mode_of(path) == "LAB"
    assert close(open_photo(path, 3), np.asarray(paint()), 4)
    assert close(open_photo(path, 1), grey_of(np.asarray(paint())), 4)


def test_a_mode_without_a_conversion_is_named() -> None:
    for channels in (1, 3):
        with pytest.raises(DataError, match="colour mode La cannot be converted; save it as RGB or grey"):
            in_channels(Image.new("La", (8, 6)), channels)


# --- transparency ----------------------------------------------------------------------------------------------------


def on_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return rgb * share + 255 * (1 - share)


def test_transparent_parts_lie_on_white(tmp_path: Path, paint) -> None:
    rgb = np.asarray(paint())
    alpha = np.random.default_rng(6).integers(0, 256, rgb.shape[:2]).astype(np.uint8)
    expected = on_white(rgb, alpha)
    for extension in ("png", "tif", "webp"):
        path = tmp_path / f"clear.{extension}"
        Image.fromarray(np.dstack([rgb, alpha])).save(path, **({"lossless": True} if extension == "webp" else {}))
        assert close(open_photo(path, 3), expected, 1)
        assert close(open_photo(path, 1), grey_of(expected), 2)
    path = tmp_path / "grey.png"
    grey = np.asarray(paint().convert("L"))
    Image.merge("LA", [Image.fromarray(grey), Image.fromarray(alpha)]).save(path)
    assert close(open_photo(path, 1), on_white(grey[..., None], alpha)[..., 0], 1)


def test_palette_with_transparency(tmp_path: Path, paint) -> None:
    quantised = paint().quantize(16)
    indices, rgb = np.asarray(quantised), np.asarray(quantised.convert("RGB"))
    alphas = bytes(np.random.default_rng(7).integers(0, 256, 16).astype(np.uint8))
    path = tmp_path / "palette.png"
    quantised.save(path, transparency=alphas)
    assert close(open_photo(path, 3), on_white(rgb, np.frombuffer(alphas, np.uint8)[indices]), 1)
    hidden = int(indices[3, 4])
    for extension in ("png", "gif"):
        path = tmp_path / f"one.{extension}"
        quantised.save(path, transparency=hidden)
        assert close(open_photo(path, 3), np.where((indices == hidden)[..., None], 255, rgb), 1)


@pytest.mark.parametrize("mode", ["RGB", "L", "I;16"])
def test_a_colour_declared_transparent(tmp_path: Path, paint, mode: str) -> None:
    path = tmp_path / "key.png"
    shape = (6, 5, 3) if mode == "RGB" else (6, 5)
    values = np.random.default_rng(8).integers(0, 65536, shape).astype(np.uint16)
    if mode != "I;16":
        values = (values >> 8).astype(np.uint8)
    Image.fromarray(values).save(
        path, transparency=tuple(values[2, 3].tolist()) if mode == "RGB" else int(values[2, 3])
    )
    with Image.open(path) as image:
        assert (image.mode, "transparency" in image.info) == (mode, True)
    expected = np.rint(values / 257) if mode == "I;16" else values
    expected[values == values[2, 3]] = 255
    assert (expected != 255).any()
    assert close(open_photo(path, 3 if mode == "RGB" else 1), expected, 0)


# --- orientation, frames, draft --------------------------------------------------------------------------------------

STORED = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: np.swapaxes(upright, 0, 1),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: np.rot90(np.swapaxes(upright, 0, 1), 2),
    8: lambda upright: np.rot90(upright, -1),
}
"""How a camera stores an upright picture under each EXIF orientation (TIFF 6.0: where row 0 and column 0 are)."""


@pytest.mark.parametrize("extension", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation(tmp_path: Path, paint, orientation: int, extension: str) -> None:
    upright = np.asarray(paint(64, 40))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{extension}"
    Image.fromarray(np.ascontiguousarray(STORED[orientation](upright))).save(path, exif=exif, quality=95)
    assert close(open_photo(path, 3), upright, {"jpg": 8, "webp": 12}.get(extension, 0))


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize(
    ("least", "size"),
    [
        ((100, 200), (100, 200)),
        ((101, 50), (200, 400)),
        ((50, 101), (100, 200)),
        ((400, 10), (400, 800)),
        ((9, 9), (50, 100)),
    ],
)
def test_draft_is_never_smaller_than_asked(
    tmp_path: Path, paint, orientation: int, least: tuple[int, int], size: tuple[int, int]
) -> None:
    upright = np.asarray(paint(800, 400))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "large.jpg"
    Image.fromarray(np.ascontiguousarray(STORED[orientation](upright))).save(path, exif=exif, quality=95)
    photo = open_photo(path, 3, least)
    assert photo.size == size[::-1]
    assert close(photo, np.asarray(Image.fromarray(upright).resize(photo.size, Image.Resampling.BOX)), 6)


@pytest.mark.parametrize("orientation", [0, 9, 4711])
def test_an_impossible_orientation_is_upright(tmp_path: Path, paint, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "odd.png"
    paint().save(path, exif=exif)
    assert close(open_photo(path, 3), np.asarray(paint()), 0)


@pytest.mark.parametrize(
    "broken", [b"no header", b"II*\0\xff\xff\xff\x7f", b"MM\0*\0\0\0\x08\x00\x01\x01\x12"], ids=["odd", "lost", "cut"]
)
def test_broken_exif_data_do_not_spoil_a_photo(tmp_path: Path, paint, broken: bytes) -> None:
    path = tmp_path / "exif.jpg"
    paint().save(path, exif=b"Exif\0\0" + broken, quality=95)
    assert close(open_photo(path, 3), np.asarray(paint()), 8)
    assert not check(str(path)).reason


def test_exif_data_that_cannot_even_be_unpacked(tmp_path: Path, paint) -> None:
    note = PngImagePlugin.PngInfo()
    note.add_text("Raw profile type exif", "\nexif\n 4\nno numbers\n")
    path = tmp_path / "exif.png"
    paint().save(path, pnginfo=note)
    assert close(open_photo(path, 3), np.asarray(paint()), 0)


@pytest.mark.parametrize("extension", ["gif", "webp", "png"])
def test_of_an_animation_the_first_frame(tmp_path: Path, paint, extension: str) -> None:
    frames = [paint(seed=seed).convert("RGB") for seed in range(3)]
    path = tmp_path / f"moving.{extension}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **({"lossless": True} if extension == "webp" else {}))
    with Image.open(path) as image:
        assert image.n_frames == 3
    assert close(open_photo(path, 3), np.asarray(frames[0]), 60 if extension == "gif" else 0)
    assert not close(open_photo(path, 3), np.asarray(frames[1]), 60)


# --- what cannot be used ---------------------------------------------------------------------------------------------


def jpeg(paint) -> bytes:
    file = io.BytesIO()
    paint(120, 90).save(file, "JPEG", quality=90)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("empty.jpg", b"", "it is empty or no picture"),
        ("text.png", b"not a picture at all", "no picture in a format that Pillow knows"),
        (
            "script.jpg",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "no picture in a format that Pillow knows",
        ),
        ("cut.jpg", None, "truncated"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, paint, name: str, content: bytes | None, says: str) -> None:
    path = tmp_path / name
    path.write_bytes(jpeg(paint)[:-400] if content is None else content)
    with pytest.raises(DataError, match=rf"{path} cannot be used as a photo: .*{says}.*; replace it or remove it"):
        open_photo(path)
    assert says in check(str(path)).reason


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.jpg", tmp_path):
        with pytest.raises(DataError, match=f"{path} cannot be used as a photo: (no such file|is a directory)"):
            open_photo(path)


@pytest.mark.parametrize("channels", [0, 2, 4])
def test_photos_have_1_or_3_channels(tmp_path: Path, channels: int) -> None:
    with pytest.raises(DataError, match=rf"photos cannot have {channels} channels; choose 1 \(grey\) or 3"):
        open_photo(tmp_path / "any.jpg", channels)


def test_decompression_bombs_are_refused_at_pillows_limit(tmp_path: Path, paint, monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    large, bomb = tmp_path / "large.png", tmp_path / "bomb.png"
    paint(15, 10).save(large)
    paint(30, 10).save(bomb)
    assert open_photo(large).size == (15, 10), "over Pillow's warning, below its error: no warning escapes"
    with pytest.raises(
        DataError, match=r"bomb\.png .*more than 200 pixels, Pillow's limit against decompression bombs"
    ):
        open_photo(bomb)


def test_warnings_are_silenced_in_threads_and_given_back(tmp_path: Path, paint, monkeypatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    path = tmp_path / "large.png"
    paint(15, 10).save(path)
    before, reasons = list(warnings.filters), []
    threads = [
        threading.Thread(target=lambda: [reasons.append(check(str(path)).reason) for _ in range(50)]) for _ in "abcd"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reasons == [""] * 200
    assert list(warnings.filters) == before
    with pytest.raises(Image.DecompressionBombWarning):
        Image.open(path)
    with photos._quiet():
        check(str(path))
        Image.open(path).close()  # silent as long as one decodes


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    extension=st.sampled_from(["jpg", "png", "gif", "tif", "webp", "bmp"]),
    cut=st.floats(0, 1),
    damage=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=6),
)
def test_a_damaged_file_opens_or_is_named(tmp_path: Path, paint, extension: str, cut: float, damage: list) -> None:
    path = tmp_path / f"damaged.{extension}"
    paint(40, 30).save(path)
    content = bytearray(path.read_bytes())
    for place, value in damage:
        content[int(place * (len(content) - 1))] = value
    path.write_bytes(content[: int(cut * len(content))])
    if check(str(path)).reason:
        with pytest.raises(DataError, match=f"{path} cannot be used"):
            open_photo(path, 3)
    else:
        assert open_photo(path, 3).mode == "RGB"


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "RGBX", "CMYK", "LAB"])
def test_an_image_in_memory_of_another_mode(paint, mode: str) -> None:
    assert close(in_channels(paint().convert(mode), 3), np.asarray(paint()), 8)


def test_an_image_in_memory_is_converted_as_a_file_is(paint) -> None:
    picture = paint().convert("RGBA")
    picture.putalpha(128)
    assert in_channels(picture, 3).mode == "RGB"
    assert in_channels(picture, 1).mode == "L"
    assert in_channels(picture, 3).getpixel((5, 5)) != picture.getpixel((5, 5))[:3]


# --- finding ---------------------------------------------------------------------------------------------------------


def test_find_images(tmp_path: Path, paint, monkeypatch) -> None:
    for name in (
        "a/2.png",
        "a/deep/1.JPG",
        "b/3.webp",
        "b/.hidden.png",
        "a/.ipynb_checkpoints/2.png",
        "__MACOSX/x.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        paint(9, 7).save(tmp_path / name)
    (tmp_path / "a/notes.txt").write_text("no photo")
    (tmp_path / "odd.data").write_bytes((tmp_path / "a/2.png").read_bytes())
    monkeypatch.chdir(tmp_path)

    def found(*paths: str) -> list[str]:
        return [Path(path).as_posix() for path in find_images(paths)]

    assert found("a") == ["a/2.png", "a/deep/1.JPG"]
    assert found("b", "a/2.png", "a") == ["b/3.webp", "a/2.png", "a/deep/1.JPG"], "each once, in the order given"
    assert found("*/*.png") == ["a/2.png"]
    assert found("**/*") == ["a/2.png", "a/deep/1.JPG", "b/3.webp"]
    assert found("odd.data") == ["odd.data"], "what is named itself is taken"
    for wrong, says in (
        ("none.jpg", "none.jpg does not exist"),
        ("*.gif", "matches no file"),
        ("*.data", "no photo in"),
    ):
        with pytest.raises(DataError, match=says):
            find_images([wrong])
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="there is no photo in empty"):
        find_images(["empty"])
    with pytest.raises(DataError, match="no photo was given"):
        find_images([])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(DataError, match=r"pipe\.jpg cannot be used as a photo: it is a pipe"):
        open_photo(tmp_path / "pipe.jpg")
