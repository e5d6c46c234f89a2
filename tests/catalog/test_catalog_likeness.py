"""What looks alike, against Pillow's own re-encoding and resizing, and the fast search against all pairs."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.datasets import load_sample_images

from phi3v_dist.catalog import likeness
from phi3v_dist.catalog.likeness import (
    clusters_that_look_alike,
    fingerprint,
    look_alike,
    parts_that_look_alike,
)
from phi3v_dist.mapped_arrays import arrays_in


@pytest.fixture(scope="module")
def products() -> list[Image.Image]:
    """Sixty cuttings of two photographs, on white pages as shops show products."""
    random = np.random.default_rng(0)
    pictures = []
    for photograph in map(Image.fromarray, load_sample_images().images):
        for row, column in ((row, column) for row in range(5) for column in range(6)):
            cut = photograph.crop((column * 100, row * 85, column * 100 + 99, row * 85 + 84))
            page = Image.new("RGB", (300, 300), "white")
            side = int(random.integers(120, 280))
            page.paste(cut.resize((side, side)), ((300 - side) // 2, (300 - side) // 2))
            pictures.append(page)
    return pictures


def saved_again(picture: Image.Image, quality: int = 50) -> Image.Image:
    memory = io.BytesIO()
    picture.save(memory, "JPEG", quality=quality)
    return Image.open(memory).convert("RGB")


def shrunk(picture: Image.Image) -> Image.Image:
    return saved_again(picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS), 85)


def prints(pictures) -> np.ndarray:
    return np.stack([fingerprint(picture) for picture in pictures])


@pytest.mark.parametrize("change", [saved_again, shrunk, lambda picture: picture.convert("P").convert("RGB")])
def test_a_picture_saved_again_or_made_smaller_looks_alike(products, change) -> None:
    alike = look_alike(prints(products), prints(map(change, products)))
    assert alike.mean() >= 0.95


def test_different_products_do_not_look_alike(products) -> None:
    one, other = np.triu_indices(len(products), 1)
    shown = prints(products)
    assert look_alike(shown[one], shown[other]).mean() <= 0.01


def test_another_colour_of_the_same_shape_does_not_look_alike() -> None:
    shirts = []
    for colour in ("darkred", "navy", "black", "olive", "gold"):
        shirts.append(Image.new("RGB", (300, 300), "white"))
        ImageDraw.Draw(shirts[-1]).rounded_rectangle((60, 40, 240, 260), 30, colour)
    assert clusters_that_look_alike(prints(shirts)).tolist() == [0, 1, 2, 3, 4]


def test_white_pages_look_alike_in_spite_of_noise() -> None:
    page = Image.new("RGB", (50, 40), "white")
    assert look_alike(prints([page]), prints([saved_again(page)])).all()


def drawn(number: int, seed: int) -> np.ndarray:
    """Fingerprints of discs with patches of colour on white, of which the last tenth are others with grain."""
    random = np.random.default_rng(seed)
    patches = np.repeat(np.repeat(random.normal(128, 50, (number, 4, 4, 3)), 4, 1), 4, 2)
    patches += random.normal(0, 12, patches.shape)
    down, across = np.mgrid[:16, :16] - 7.5
    inside = down**2 + across**2 < random.uniform(3, 8, (number, 1, 1)) ** 2
    pages = np.where(inside[..., None], patches, 255.0).reshape(number, -1)
    copied = number // 10
    grain = np.sqrt(pages[:copied].var(1, keepdims=True) * random.uniform(0.0005, 0.008, (copied, 1)))
    pages[-copied:] = pages[:copied] + grain * random.normal(size=(copied, pages.shape[1]))
    return np.clip(pages, 0, 255).round().astype(np.uint8)


def parts(fingerprints: np.ndarray) -> set[frozenset[int]]:
    labels = parts_that_look_alike(fingerprints)
    found = (frozenset(np.flatnonzero(labels == label).tolist()) for label in np.unique(labels))
    return {part for part in found if len(part) > 1}


def test_among_few_all_are_compared_with_all() -> None:
    fingerprints = drawn(400, 3)
    one, other = np.triu_indices(400, 1)
    alike = look_alike(fingerprints[one], fingerprints[other])
    edges = coo_array((np.ones(alike.sum()), (one[alike], other[alike])), shape=(400, 400))
    wanted = connected_components(edges, directed=False)[1]
    _, first = np.unique(wanted, return_index=True)
    assert (parts_that_look_alike(fingerprints) == first[wanted]).all()


def test_the_search_among_many_connects_what_all_pairs_connect(monkeypatch, tmp_path) -> None:
    fingerprints = drawn(4000, 3)
    exact = parts(fingerprints)
    assert len(exact) > 300
    monkeypatch.setattr(likeness, "_MOST_FOR_ALL_PAIRS", 0)
    fast = parts(fingerprints)
    assert all(any(part <= whole for whole in exact) for part in fast)
    assert len(fast & exact) >= 0.99 * len(exact)
    assert (parts_that_look_alike(fingerprints, new=arrays_in(tmp_path)) == parts_that_look_alike(fingerprints)).all()


@pytest.mark.parametrize("grain", [0, 1])
def test_thousands_of_the_same_picture_are_one_part(grain: int) -> None:
    same = np.repeat(drawn(10, 4)[:1], 5000, axis=0)
    fingerprints = same ^ np.random.default_rng(0).integers(0, grain + 1, same.shape, np.uint8)
    assert parts(fingerprints) == {frozenset(range(5000))}


def test_a_chain_of_chance_likenesses_falls_apart_and_copies_stay_together() -> None:
    ends = drawn(20, 6)[:2].astype(np.float32)
    grain = np.random.default_rng(8).normal(0, (0.001 * ends.var()) ** 0.5, (300, ends.shape[1]))
    steps = ends[0] + np.linspace(0, 1, 300)[:, None] * (ends[1] - ends[0]) + grain
    chain = np.clip(steps, 0, 255).round().astype(np.uint8)
    fingerprints = np.concatenate([chain, chain[::100], drawn(50, 7)])
    assert len(parts(fingerprints)) < 10
    clusters = clusters_that_look_alike(fingerprints)
    assert np.bincount(clusters).max() <= 200
    assert (clusters[:300:100] == clusters[300:303]).all()


def test_few_or_no_pictures_look_like_no_other() -> None:
    assert clusters_that_look_alike(drawn(10, 5)[:1]).tolist() == [0]
    assert clusters_that_look_alike(np.empty((0, likeness.FINGERPRINT_BYTES), np.uint8)).tolist() == []
