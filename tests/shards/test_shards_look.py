"""A sample as a person sees it: the right one, all its fields, its bytes, and damage in words."""

import pytest
from PIL import Image

from phi3v_dist.errors import ShardError
from phi3v_dist.shards.index import load_index
from phi3v_dist.shards.look import number_of, read_sample, sample_rows, save_pictures, spread, write_grid
from phi3v_dist.shards.read import ShardReader


@pytest.fixture
def reader(made) -> ShardReader:
    return ShardReader(load_index(made.folder))


def _damage(folder, index, number: int) -> None:
    row = index.row(number)
    path = folder / row["shard"]
    content = bytearray(path.read_bytes())
    content[row["image_offset"][0] + 9] ^= 1
    path.write_bytes(content)


def test_a_sample_is_found_by_number_key_and_code(reader):
    for number in range(19):
        row = reader.index.row(number)
        assert number_of(reader.index, number, None) == number
        assert number_of(reader.index, None, row["key"]) == number
        assert number_of(reader.index, None, row["product_code"]) == number


@pytest.mark.parametrize(("number", "key"), [(19, None), (-1, None), (None, "nobody")])
def test_a_sample_that_is_not_there_is_one_line(reader, number, key):
    with pytest.raises(ShardError, match="no s"):
        number_of(reader.index, number, key)


def test_all_fields_of_a_sample_are_told(reader, good_rows):
    number = number_of(reader.index, None, "ß 4711")
    rows = dict(sample_rows(reader, read_sample(reader, number)))
    truth, place = good_rows["ß 4711"], reader.index.row(number)
    assert (rows["title"], rows["category"]) == (truth["title"], truth["category3_code"])
    assert rows["price"] == f"{float(truth['full_price']):g} EUR"
    assert rows["place"] == f"{place['shard']}, byte {min(place['json_offset'], *place['image_offset'])}"
    assert int(rows["XXH3"], 16) == place["xxh3"] and rows["split"] == place["split"]
    (width, height), (size,) = reader.index.sizes(number)[0], place["image_bytes"]
    assert f"{width} × {height} pixels, {size:,} bytes" in rows["picture 0"]


def test_saved_pictures_are_the_original_bytes(reader, catalog, good_rows, tmp_path):
    for code in ("P0010", "P0011"):
        sample = read_sample(reader, number_of(reader.index, None, code))
        (path,) = save_pictures(sample, tmp_path / "new")
        truth = good_rows[code]["local_image_path"]
        assert path.suffix == "." + truth.rpartition(".")[2]
        assert (path.parent, path.read_bytes()) == (tmp_path / "new", sample.images[0])


def test_damage_is_one_line_for_one_sample_and_grey_in_the_grid(damaged_copy, tmp_path):
    index = load_index(damaged_copy)
    _damage(damaged_copy, index, 1)
    reader = ShardReader(index)
    with pytest.raises(ShardError, match=f"sample 1 is damaged: {index.row(1)['shard']}, byte"):
        read_sample(reader, 1)
    damages = write_grid(reader, [0, 1, 2, 3], tmp_path / "grid.png")
    assert len(damages) == 1 and index.row(1)["shard"] in damages[0]
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (6 + 2 * 166, 6 + 2 * 166)
        assert grid.getpixel((6 + 166 + 150, 150)) == (128, 128, 128)  # right of the first one
        assert grid.getpixel((6 + 150, 6 + 166 + 150)) != (128, 128, 128)


def test_a_grid_is_spread_over_all_samples(reader):
    assert spread(reader.index) == list(range(19))
    assert spread(reader.index, 3) == [0, 9, 18]
