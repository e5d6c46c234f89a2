"""Pictures are judged by their bytes, and what is known of good ones is true."""

import io
from pathlib import Path

import numpy as np
import pytest
import xxhash
from PIL import Image

from phi3v_dist.catalog.checks import Product, Reject
from phi3v_dist.catalog.picture_checks import GoodPicture, check_pictures, saved_anew
from phi3v_dist.catalog.pictures import Picture
from phi3v_dist.config.options import CatalogOptions, PolicyOptions
from phi3v_dist.images import open_image

OPTIONS = CatalogOptions(table="shop/products.csv")


def policy(**kinds: str) -> CatalogOptions:
    return OPTIONS.model_copy(update={"policy": PolicyOptions(**kinds)})


def checked(*sources: Path | str | bytes, options: CatalogOptions = OPTIONS) -> list[GoodPicture]:
    found = check_pictures(with_pictures(*sources), options)
    assert not isinstance(found, Reject), found
    return found


def reason(content: bytes, options: CatalogOptions = OPTIONS) -> str:
    found = check_pictures(with_pictures(content), options)
    return found.reason if isinstance(found, Reject) else "good"


def encoded(picture: Image.Image, form: str, **how: object) -> bytes:
    memory = io.BytesIO()
    picture.save(memory, form, **how)
    return memory.getvalue()


def noise(width: int = 60, height: int = 40) -> Image.Image:
    return Image.effect_noise((width, height), 60).convert("RGB")


def with_pictures(*sources: Path | str | bytes) -> Product:
    return Product(7, "1", "Red Tie", "TIES", 1.0, "EUR", tuple(map(Picture, sources)))


def picture_reason(tmp_path: Path, data: bytes | None, options: CatalogOptions = OPTIONS) -> str | None:
    path = tmp_path / "1.png"
    if data is not None:
        path.write_bytes(data)
    reject = check_pictures(with_pictures(path), options)
    if not isinstance(reject, Reject):
        return None
    assert (reject.row, reject.product_code) == (7, "1")
    assert str(path) in reject.value
    return reject.reason


def png(tmp_path: Path, width: int, height: int) -> bytes:
    path = tmp_path / "drawn.png"
    Image.effect_noise((width, height), 50).save(path)
    return path.read_bytes()


def test_pictures_are_judged(tmp_path: Path) -> None:
    good = png(tmp_path, 16, 40)
    assert picture_reason(tmp_path, None) == "picture: missing"
    assert picture_reason(tmp_path, good) is None
    assert picture_reason(tmp_path, good[:-100]) == "picture: truncated"
    assert picture_reason(tmp_path, b"<html>") == "picture: not a picture"
    assert picture_reason(tmp_path, b"") == "picture: empty"
    assert picture_reason(tmp_path, png(tmp_path, 15, 40)) == "picture: too small"
    small = OPTIONS.model_copy(update={"max_image_megapixels": 0.0005})
    assert picture_reason(tmp_path, good, small) == "picture: too large"


def test_a_folder_in_the_place_of_a_picture_is_a_missing_picture(tmp_path: Path) -> None:
    (tmp_path / "1.png").mkdir()
    assert picture_reason(tmp_path, None) == "picture: missing"


def test_the_first_wrong_picture_of_several_is_named(tmp_path: Path) -> None:
    good = png(tmp_path, 16, 40)
    assert [good.number for good in checked(good, tmp_path / "drawn.png")] == [0, 1]
    url = "https://x.invalid/1.jpg"
    for wrong, reason, value in (
        (url, "picture: not fetched", url),
        (good[:-100], "picture: truncated", f"{len(good) - 100} bytes in the table"),
        (tmp_path / "none.png", "picture: missing", str(tmp_path / "none.png")),
    ):
        reject = check_pictures(with_pictures(good, wrong, b"<html>"), OPTIONS)
        assert reject == Reject("shop/products.csv", 7, "1", reason, value)


def test_a_damaged_picture_among_others_may_be_left_out() -> None:
    good = encoded(noise(), "PNG")
    found = checked(b"<html>", good, b"", good, options=policy(bad_picture="repair"))
    assert [picture.number for picture in found] == [1, 3]
    assert reason(b"<html>", policy(bad_picture="repair")) == "picture: not a picture"


def test_a_jpeg_with_a_hole_is_rejected_or_kept() -> None:
    content = bytearray(encoded(noise(300, 200), "JPEG"))
    content[len(content) // 2 : len(content) // 2 + 500] = bytes(500)
    assert reason(bytes(content)) == "picture: damaged inside"
    assert reason(bytes(content), policy(damaged_inside="keep")) == "good"


def test_an_extreme_shape_is_rejected_or_kept() -> None:
    content = encoded(noise(2000, 40), "PNG")
    assert reason(content) == "picture: extreme shape"
    assert reason(content, policy(extreme_shape="keep")) == "good"


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(noise(), "JPEG", exif=exif, quality=95)


ODD = {
    "turned": turned(),
    "cmyk": encoded(noise().convert("CMYK"), "JPEG", quality=95),
    "deep": encoded(Image.fromarray(np.arange(2400, dtype=np.uint16).reshape(40, 60) * 27), "PNG"),
    "transparent": encoded(Image.merge("RGBA", (*noise().split(), noise().getchannel(0))), "PNG"),
    "animated": encoded(noise(), "GIF", save_all=True, append_images=[noise(), noise()]),
}


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_picture_is_kept_rejected_or_repaired_into_what_training_would_see(kind: str) -> None:
    content = ODD[kind]
    (kept,) = checked(content)
    assert not kept.save_anew
    assert reason(content, policy(**{kind: "reject"})) == f"picture: {kind}"
    options = policy(**{kind: "repair"})
    (repaired,) = checked(content, options=options)
    assert repaired.save_anew and repaired.xxh3 == xxhash.xxh3_128_digest(content)
    anew = saved_anew(content, options)
    plain = Image.open(io.BytesIO(anew))
    assert (plain.format, plain.mode, plain.getexif().get(0x0112, 1)) == ("JPEG", "RGB", 1)
    seen, before = np.asarray(plain, np.int16), np.asarray(open_image(content), np.int16)
    assert np.abs(seen - before).mean() < 4


def test_a_picture_that_is_too_large_is_saved_anew_smaller() -> None:
    content = encoded(noise(300, 150), "PNG")
    options = OPTIONS.model_copy(update={"max_image_side": 100})
    (found,) = checked(content, options=options)
    assert found.save_anew
    assert open_image(saved_anew(content, options)).size == (100, 50)
    (small,) = checked(encoded(noise(100, 50), "PNG"), options=options)
    assert not small.save_anew


UNCHECKED = OPTIONS.model_copy(update={"check_pictures": False})


def test_without_checks_a_header_still_has_to_be_a_pictures(tmp_path: Path) -> None:
    small = UNCHECKED.model_copy(update={"max_image_megapixels": 0.0005})
    assert picture_reason(tmp_path, None, UNCHECKED) == "picture: missing"
    assert picture_reason(tmp_path, b"", UNCHECKED) == "picture: empty"
    assert picture_reason(tmp_path, b"<html>", UNCHECKED) == "picture: not a picture"
    assert picture_reason(tmp_path, png(tmp_path, 15, 40), UNCHECKED) == "picture: too small"
    assert picture_reason(tmp_path, png(tmp_path, 16, 40), small) == "picture: too large"
    assert picture_reason(tmp_path, png(tmp_path, 16, 400), UNCHECKED) == "picture: extreme shape"


def test_without_checks_a_damaged_picture_passes_unless_it_has_to_be_saved_anew() -> None:
    cut = turned()[:-300]
    assert reason(cut) == "picture: truncated"
    assert checked(cut, options=UNCHECKED) == [GoodPicture(0, len(cut), "jpg", 40, 60, None, None, save_anew=False)]
    repair = UNCHECKED.model_copy(update={"policy": PolicyOptions(turned="repair")})
    assert reason(cut, repair) == "picture: truncated"
    assert checked(turned(), options=repair)[0].save_anew


@pytest.mark.parametrize("kind", ODD)
def test_without_checks_odd_pictures_are_still_known_by_their_header(kind: str) -> None:
    options = UNCHECKED.model_copy(update={"policy": PolicyOptions(**{kind: "reject"})})
    assert reason(ODD[kind], options) == f"picture: {kind}"
