"""Whether two pictures show the same, though their files differ: saved again, made smaller, cut by a hair.

Enters: decoded pictures, later their fingerprints. Leaves: clusters of pictures that look alike. A fingerprint is the
picture squeezed to 16 × 16 colours. Two look alike when the mean square of the difference is at most 1 % of the
contrast (variance) of the flatter one. Measured (tests/catalog/test_catalog_likeness.py has the kinds): saved again at
quality 50, or at half the size, pictures differ by less than 0.5 % in 19 of 20 cases; two products of one catalogue by
3 to 20 %, and less than 1.6 % in one case of a hundred. A hash of bits would be smaller, but on a white page most bits
are noise.

A million pictures are not compared each with each. Those that look alike lie side by side when sorted by a few rough
features, unless a border falls between them; so they are sorted several times by other features with other borders,
and each is compared with the next few.

Among very many, chains of chance likenesses would tie thousands of products together. A cluster that grows too large
is searched again more strictly, until it falls apart or only copies are left.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
from PIL import Image

from phi3v_dist.catalog.connected import Parts
from phi3v_dist.mapped_arrays import NewArray, Sorting, blocks, chosen

SIDE = 16
FINGERPRINT_BYTES = SIDE * SIDE * 3
_MOST_DIFFERENCE_SHARE = 0.01
_STRICTEST_SHARE = 0.0005
_LARGE_CLUSTER, _LARGE_CLUSTER_SHARE = 200, 0.01  # pictures; of all pictures
_NOISE = 1.0  # grey levels, squared: two empty pages look alike whatever their contrast
_MOST_FOR_ALL_PAIRS = 4096
_SORTINGS = 8
_NEIGHBOURS = 24
_FEATURES = 12
_CELL_FEATURES = 3
_CELL_LEVELS = 24.0  # several times what pictures that look alike differ by
_PAIRS_AT_A_TIME = 2048  # fingerprints of so many pairs are in memory, 12 MB as numbers


def fingerprint(picture: Image.Image) -> np.ndarray:
    """An RGB picture's fingerprint, uint8 [768]."""
    small = picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR, reducing_gap=2.0)
    return np.asarray(small, np.uint8).reshape(FINGERPRINT_BYTES)


def look_alike(one: np.ndarray, other: np.ndarray, most_share: float = _MOST_DIFFERENCE_SHARE) -> np.ndarray:
    """Row by row, whether two pictures look alike. uint8 [n, 768] each → bool [n]."""
    first, second = one.astype(np.float32), other.astype(np.float32)
    difference = np.square(first - second).mean(1)
    contrast = np.minimum(first.var(1), second.var(1))
    return difference <= most_share * contrast + _NOISE


def clusters_that_look_alike(fingerprints: np.ndarray, new: NewArray = np.zeros) -> np.ndarray:
    """Pictures that look alike, also over others in between, have the number of the first: uint8 [n, 768] → int64 [n].

    Among more than 4,096 pictures a few in a thousand are missed, of those that differ nearly as much as is allowed.
    ``new`` makes the arrays: n rows never stand in memory unless it does so.
    """
    clusters = parts_that_look_alike(fingerprints, new=new)
    most, share = max(_LARGE_CLUSTER, int(_LARGE_CLUSTER_SHARE * len(clusters))), _MOST_DIFFERENCE_SHARE
    while (share := share / 2) >= _STRICTEST_SHARE:
        sizes = new(len(clusters), "i8")
        for part in blocks(len(clusters)):
            np.add.at(sizes, clusters[part], 1)
        members = chosen(new, len(clusters), lambda part, sizes=sizes: sizes[clusters[part]] > most)
        if not len(members):
            break
        of_members = new((len(members), FINGERPRINT_BYTES), "u1")
        for part in blocks(len(members)):
            of_members[part] = fingerprints[members[part]]
        smaller = parts_that_look_alike(of_members, share, new)
        for part in blocks(len(members)):
            clusters[members[part]] = members[smaller[part]]
    return clusters


def parts_that_look_alike(
    fingerprints: np.ndarray, most_share: float = _MOST_DIFFERENCE_SHARE, new: NewArray = np.zeros
) -> np.ndarray:
    """As above, however large a part grows: uint8 [n, 768] → int64 [n]."""
    parts = Parts(len(fingerprints), new)
    different = _join_equal_ones(fingerprints, parts, new)
    search = _all_pairs if len(different) <= _MOST_FOR_ALL_PAIRS else _neighbours
    for candidates in search(fingerprints, different, new):
        pairs = candidates[parts.of(candidates[:, 0]) != parts.of(candidates[:, 1])]
        for start in range(0, len(pairs), _PAIRS_AT_A_TIME):
            one, other = pairs[start : start + _PAIRS_AT_A_TIME].T
            alike = look_alike(fingerprints[one], fingerprints[other], most_share)
            parts.join(one[alike], other[alike])
    return parts.settled()


def _join_equal_ones(fingerprints: np.ndarray, parts: Parts, new: NewArray) -> np.ndarray:
    """Numbers of the pictures that are the first of their fingerprint, int64, rising."""
    words = np.random.default_rng(0).integers(1, 2**63, FINGERPRINT_BYTES // 8, np.uint64) | np.uint64(1)
    hashes, is_first = new(len(fingerprints), "u8"), new(len(fingerprints), "?")
    for start in range(0, len(fingerprints), _PAIRS_AT_A_TIME):
        some = np.ascontiguousarray(fingerprints[start : start + _PAIRS_AT_A_TIME])
        hashes[start : start + len(some)] = (some.view(np.uint64) * words).sum(1, dtype=np.uint64)  # wraps around
    for block in Sorting(new, len(hashes), hashes.__getitem__).whole_blocks():
        _, first, which = np.unique(hashes[block], return_index=True, return_inverse=True)
        is_first[block[first]] = True
        parts.join(block, block[first[which]])
    return chosen(new, len(is_first), is_first.__getitem__)


def _all_pairs(fingerprints: np.ndarray, different: np.ndarray, new: NewArray) -> Iterator[np.ndarray]:
    """Pairs by their distance, which a product of matrices gives at once."""
    values = fingerprints[different].astype(np.float32)
    squares = np.square(values).sum(1)
    most = (_MOST_DIFFERENCE_SHARE * values.var(1) + _NOISE) * FINGERPRINT_BYTES * 1.01 + 1  # rounding
    for start in range(0, len(values), 512):
        part = slice(start, start + 512)
        distance = squares[part, None] + squares[None] - 2 * values[part] @ values.T
        one, other = np.nonzero(distance <= most[part, None])
        keep = one + start < other
        yield np.stack([different[one[keep] + start], different[other[keep]]], axis=1)


def _neighbours(fingerprints: np.ndarray, different: np.ndarray, new: NewArray) -> Iterator[np.ndarray]:
    """Pairs that lie near each other in one of several sortings, and aren't far apart by their rough features."""
    random = np.random.default_rng(0)
    features, most = _rough_features(fingerprints, different, random, new)
    for _ in range(_SORTINGS):
        axes = random.permutation(_FEATURES)[: _CELL_FEATURES + 1]
        offsets = random.uniform(0, _CELL_LEVELS, _CELL_FEATURES).astype(np.float32)
        order = Sorting(new, len(different), partial(_key, features, axes, offsets))
        for part in blocks(len(different)):
            near = order[slice(part.start, part.stop + _NEIGHBOURS)]
            yield different[_near_in(near, features[near], most[near])]


def _key(features: np.ndarray, axes: np.ndarray, offsets: np.ndarray, part: slice) -> np.ndarray:
    """Pictures by cells of three features, then by one: uint64. A feature is within ± 1767, its cell within ± 74."""
    first, *others = axes
    cells = np.floor((features[part][:, others] + offsets) / _CELL_LEVELS).astype(np.int64) + 128
    fine = ((features[part, first] + 2048) * 2**20).astype(np.uint64)  # of 2 × 2048 levels: 32 bits
    key = np.zeros(len(cells), np.uint64)
    for cell in cells.T:
        key = (key << np.uint64(8)) | cell.astype(np.uint64)
    return (key << np.uint64(40)) | (fine << np.uint64(8))


def _near_in(order: np.ndarray, features: np.ndarray, most: np.ndarray) -> np.ndarray:
    pairs = [np.empty((0, 2), np.int64)]
    for step in range(1, min(_NEIGHBOURS + 1, len(order))):
        distance = np.square(features[step:] - features[:-step]).sum(1)
        near = np.flatnonzero(distance <= np.minimum(most[step:], most[:-step]))
        pairs.append(np.stack([order[near], order[near + step]], axis=1))
    return np.concatenate(pairs)


def _rough_features(
    fingerprints: np.ndarray, different: np.ndarray, random: np.random.Generator, new: NewArray
) -> tuple[np.ndarray, np.ndarray]:
    """Colours of 4 × 4 places, turned at random so that each feature sees the whole picture: float32 [n, 12].

    And how far apart (squared) those of a picture can be that looks like it, float32 [n]: means over 4 × 4 pixels are
    at most a sixteenth as far apart as the fingerprints.
    """
    turn = np.linalg.qr(random.normal(size=(48, 48)))[0][:, :_FEATURES].astype(np.float32)
    features, most = new((len(different), _FEATURES), "f4"), new(len(different), "f4")
    for start in range(0, len(different), _PAIRS_AT_A_TIME):
        part = fingerprints[different[start : start + _PAIRS_AT_A_TIME]].astype(np.float32)
        places = part.reshape(-1, 4, SIDE // 4, 4, SIDE // 4, 3).mean((2, 4)).reshape(-1, 48)
        features[start : start + len(part)] = places @ turn
        allowed = _MOST_DIFFERENCE_SHARE * part.var(1) + _NOISE
        most[start : start + len(part)] = allowed * FINGERPRINT_BYTES / 16 + 0.1  # rounding
    return features, most
