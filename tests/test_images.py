"""Pictures as a person sees them: Pillow's own ``exif_transpose`` and hand-computed pixels are the truth."""

import io
import struct
import zlib

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from phi3v_dist.images import ImageError, open_image, read_header


def encoded(picture: Image.Image, form: str, **options) -> bytes:
    memory = io.BytesIO()
    picture.save(memory, form, **options)
    return memory.getvalue()


def noise(width: int, height: int, channels: int = 3) -> Image.Image:
    pixels = numpy.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=numpy.uint8)
    return Image.fromarray(pixels)


def opened(data: bytes) -> Image.Image:
    return open_image(data, max_megapixels=1)


def reason_of(data: bytes, max_megapixels: float = 1) -> str:
    with pytest.raises(ImageError) as caught:
        open_image(data, max_megapixels=max_megapixels)
    return caught.value.reason


def deep_png(values: list, colour: int, transparent: int | None = None) -> bytes:
    """A PNG of one row of 16-bit pixels; Pillow can't write it. ``colour``: 0 grey, 2 RGB, 4 grey, alpha, 6 RGBA."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", len(values), 1, 16, colour, 0, 0, 0))
    key = b"" if transparent is None else chunk(b"tRNS", struct.pack(">H", transparent))
    row = b"\0" + numpy.array(values, dtype=">u2").tobytes()
    return b"\x89PNG\r\n\x1a\n" + header + key + chunk(b"IDAT", zlib.compress(row)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turn_equals_pillows(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(noise(6, 4), form, exif=exif)
    truth = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    picture = opened(data)
    assert numpy.array_equal(numpy.asarray(picture), numpy.asarray(truth))
    assert read_header(data).size == picture.size == ((4, 6) if orientation > 4 else (6, 4))
    assert ImageOps.exif_transpose(picture).size == picture.size  # nothing is left to turn again


def test_transparency_is_laid_on_white() -> None:
    picture = Image.new("RGBA", (2, 1))
    picture.putpixel((0, 0), (100, 0, 0, 0))
    picture.putpixel((1, 0), (100, 0, 0, 255))
    picture = opened(encoded(picture, "PNG"))
    assert [picture.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (100, 0, 0)]


@pytest.mark.parametrize("mode", ["LA", "P", "L"])
def test_every_kind_of_transparency_becomes_white(mode: str) -> None:
    if mode == "LA":
        data = encoded(Image.new("LA", (3, 3), (10, 0)), "PNG")
    else:
        grey = Image.new(mode, (3, 3), 7)
        if mode == "P":
            grey.putpalette([level for level in range(256) for _ in "rgb"])
        data = encoded(grey, "PNG", transparency=7)
    assert opened(data).getpixel((1, 1)) == (255, 255, 255)


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    values = numpy.array([[0, 256, 32_768, 65_535]], dtype=numpy.uint16)
    for form in ("PNG", "TIFF"):
        picture = opened(encoded(Image.fromarray(values), form))
        assert [picture.getpixel((x, 0)) for x in range(4)] == [(v, v, v) for v in (0, 1, 128, 255)]


def test_16_bit_colour_and_alpha_are_scaled() -> None:
    grey = opened(deep_png([[0, 65_535], [32_768, 65_535], [65_535, 65_535], [32_768, 0], [0, 32_768]], 4))
    assert [grey.getpixel((x, 0))[0] for x in range(5)] == [0, 128, 255, 255, 127]  # clear is white, half clear is grey
    assert opened(deep_png([[256, 32_768, 65_535]], 2)).getpixel((0, 0)) == (1, 128, 255)
    colour = opened(deep_png([[65_535, 0, 256, 65_535], [65_535, 0, 0, 0]], 6))
    assert [colour.getpixel((x, 0)) for x in range(2)] == [(255, 0, 1), (255, 255, 255)]


def test_transparent_16_bit_grey_becomes_white() -> None:
    picture = opened(deep_png([[300], [301], [40_000]], 0, transparent=300))
    assert [picture.getpixel((x, 0))[0] for x in range(3)] == [255, 1, 156]


def test_floating_point_pixels_are_refused() -> None:
    assert reason_of(encoded(Image.new("F", (4, 4), 0.5), "TIFF")) == "pixel type"


def test_cmyk_and_palette_become_rgb() -> None:
    cmyk = opened(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    assert cmyk.mode == "RGB"
    assert numpy.allclose(cmyk.getpixel((4, 4)), (255, 0, 0), atol=3)
    assert opened(encoded(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "TIFF")).getpixel((4, 4)) == (255, 0, 0)
    palette = Image.new("P", (2, 2), 1)
    palette.putpalette([0, 0, 0, 12, 34, 56])
    assert opened(encoded(palette, "PNG")).getpixel((0, 0)) == (12, 34, 56)


def test_a_palette_with_alpha_is_laid_on_white() -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([12, 34, 56, 255, 0, 0, 255, 0], "RGBA")
    picture.putpixel((1, 0), 1)
    picture = opened(encoded(picture, "PNG"))
    assert [picture.getpixel((x, 0)) for x in (0, 1)] == [(12, 34, 56), (255, 255, 255)]


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(form: str) -> None:
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], form, save_all=True, append_images=frames[1:])
    red, _, blue = opened(data).getpixel((2, 2))
    assert red > 200
    assert blue < 60


@pytest.mark.parametrize("form", ["JPEG", "PNG", "GIF", "TIFF", "BMP"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_cut_picture_is_truncated(form: str, share: float) -> None:
    data = encoded(noise(64, 64), form)
    assert reason_of(data[: int(len(data) * share)]) in ("truncated", "damaged", "not a picture")
    if form in ("JPEG", "PNG"):
        assert reason_of(data[: int(len(data) * share)]) == "truncated"


def test_a_bomb_is_refused_before_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = encoded(Image.new("1", (12_000, 12_000)), "PNG")
    assert len(bomb) < 100_000
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("pixels were decoded"))
    assert reason_of(bomb, max_megapixels=100) == "too large"
    assert read_header(bomb).size == (12_000, 12_000)


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "empty"), (b"<html>404</html>", "not a picture"), (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not a picture")],
)
def test_what_is_no_picture_says_so(data: bytes, reason: str) -> None:
    assert reason_of(data) == reason


def test_a_broken_exif_note_turns_nothing() -> None:
    data = encoded(noise(6, 4), "JPEG", exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xff")
    assert opened(data).size == read_header(data).size == (6, 4)


@settings(max_examples=60, deadline=None)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255), form=st.sampled_from(["JPEG", "PNG", "GIF", "WEBP"]))
def test_a_changed_byte_gives_a_picture_or_an_image_error(position: int, value: int, form: str) -> None:
    data = bytearray(encoded(noise(24, 16), form))
    data[position % len(data)] = value
    try:
        picture = opened(bytes(data))
    except ImageError:
        return
    assert picture.mode == "RGB"
    assert picture.size == read_header(bytes(data)).size


def photograph(width: int = 320, height: int = 200) -> Image.Image:
    """A smooth picture with some grain, as JPEGs of a camera are."""
    across, down = numpy.meshgrid(numpy.linspace(0, 6, width), numpy.linspace(0, 4, height))
    waves = numpy.stack([numpy.sin(across + k) * numpy.cos(down * (k + 1)) for k in range(3)], axis=-1)
    grain = numpy.random.default_rng(1).normal(0, 6, waves.shape)
    return Image.fromarray(numpy.clip(128 + 90 * waves + grain, 0, 255).astype(numpy.uint8))


JPEGS = {
    "baseline": encoded(photograph(), "JPEG", quality=90),
    "progressive": encoded(photograph(), "JPEG", quality=85, progressive=True),
    "4:4:4": encoded(photograph(), "JPEG", subsampling=0),
    "grey": encoded(photograph().convert("L"), "JPEG"),
    "CMYK": encoded(photograph().convert("CMYK"), "JPEG"),
    "behind bytes of another program": encoded(photograph(), "JPEG") + b"padding" * 9,
}


@pytest.mark.parametrize("kind", JPEGS)
def test_the_strict_decoder_gives_pillows_pixels(kind: str) -> None:
    strict, lenient = open_image(JPEGS[kind], strict=True), open_image(JPEGS[kind])
    assert numpy.array_equal(numpy.asarray(strict), numpy.asarray(lenient))


@pytest.mark.parametrize("kind", JPEGS)
def test_a_jpeg_with_a_hole_in_its_middle_passes_pillow_and_is_found(kind: str) -> None:
    data = bytearray(JPEGS[kind])
    middle = len(data) // 2
    data[middle : middle + 900] = bytes(900)
    open_image(bytes(data))
    with pytest.raises(ImageError, match="damaged inside"):
        open_image(bytes(data), strict=True)


def test_a_jpeg_that_ends_early_is_truncated_for_the_strict_decoder_too() -> None:
    with pytest.raises(ImageError, match="truncated"):
        open_image(JPEGS["baseline"][:-2000], strict=True)


def test_oddities_are_named() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [photograph(20, 10).convert("P"), Image.new("P", (20, 10))]
    assert read_header(encoded(photograph(), "JPEG", exif=exif)).oddities == ("turned",)
    assert read_header(JPEGS["CMYK"]).oddities == ("cmyk",)
    assert read_header(deep_png([1, 2, 3], 0)).oddities == ("deep",)
    assert read_header(encoded(Image.new("RGBA", (4, 4)), "PNG")).oddities == ("transparent",)
    assert "animated" in read_header(encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])).oddities
    assert read_header(JPEGS["baseline"]).oddities == read_header(JPEGS["grey"]).oddities == ()


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [("JPEG", "jpg"), ("MPO", "jpg"), ("PNG", "png"), ("WEBP", "webp"), ("TIFF", "tiff"), ("GIF", "gif")],
)
def test_a_suffix_tells_the_content(kind: str, suffix: str) -> None:
    data = io.BytesIO()
    Image.new("RGB", (4, 4)).save(data, kind)
    assert read_header(data.getvalue()).suffix == suffix


def test_what_is_no_picture_has_no_suffix() -> None:
    with pytest.raises(ImageError, match="not a picture"):
        read_header(b"<html>")


def test_a_gif_that_is_damaged_behind_its_first_frame_is_animated() -> None:
    frames = [photograph(20, 10).convert("P"), photograph(20, 10).rotate(90).convert("P")]
    whole = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    found = [read_header(whole[:length]).oddities for length in range(len(whole) // 2, len(whole))]
    assert all(kinds in ((), ("animated",)) for kinds in found)
