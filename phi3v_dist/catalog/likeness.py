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

import numpy as np
from PIL import Image

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
_BLOCK = 65_536  # pictures, or pairs, at a time: keeps the memory small


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


def clusters_that_look_alike(fingerprints: np.ndarray) -> np.ndarray:
    """Pictures that look alike, also over others in between, have one number: uint8 [n, 768] → int32 [n]."""
    pairs = pairs_that_look_alike(fingerprints)
    labels = connected(len(fingerprints), pairs[:, 0], pairs[:, 1])
    share = _MOST_DIFFERENCE_SHARE
    most = max(_LARGE_CLUSTER, int(_LARGE_CLUSTER_SHARE * len(fingerprints)))
    while (share := share / 2) >= _STRICTEST_SHARE:
        members = np.flatnonzero(np.bincount(labels)[labels] > most) if len(labels) else labels
        if not len(members):
            break
        pairs = pairs_that_look_alike(fingerprints[members], share)
        labels[members] = connected(len(members), pairs[:, 0], pairs[:, 1]) + labels.max() + 1
        labels = np.unique(labels, return_inverse=True)[1].astype(np.int32)
    return labels


def pairs_that_look_alike(fingerprints: np.ndarray, most_share: float = _MOST_DIFFERENCE_SHARE) -> np.ndarray:
    """Pairs of pictures that look alike: uint8 [n, 768] → int64 [pairs, 2].

    Enough pairs to connect all that look alike, also over others in between. Among more than 4,096 pictures a few in a
    thousand are missed, of those that differ nearly as much as is allowed.
    """
    first, others, equals = _equal_ones(fingerprints)
    labels, found = np.arange(len(first)), [np.stack([equals, others], axis=1)]
    search = _all_pairs if len(first) <= _MOST_FOR_ALL_PAIRS else _neighbours
    for candidates in search(fingerprints, first):
        new = candidates[labels[candidates[:, 0]] != labels[candidates[:, 1]]]
        alike = new[_look_alike_by_blocks(fingerprints, first[new], most_share)]
        found.append(np.sort(first[alike], axis=1))
        labels = connected(len(first), alike[:, 0], alike[:, 1], labels)
    return np.concatenate(found)


def _look_alike_by_blocks(fingerprints: np.ndarray, pairs: np.ndarray, most_share: float) -> np.ndarray:
    alike = np.zeros(len(pairs), bool)
    for start in range(0, len(pairs), _BLOCK // 8):
        part = pairs[start : start + _BLOCK // 8]
        alike[start : start + len(part)] = look_alike(fingerprints[part[:, 0]], fingerprints[part[:, 1]], most_share)
    return alike


def connected(num_nodes: int, first: np.ndarray, second: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """Number of the connected part that each node is in, int32 [nodes]; nodes of one of ``labels`` are connected."""
    from scipy.sparse import coo_array  # 0.3 s and 13 MB, which processes that only take fingerprints don't need
    from scipy.sparse.csgraph import connected_components

    labels = np.arange(num_nodes) if labels is None else labels
    edges = coo_array((np.ones(len(first), bool), (labels[first], labels[second])), shape=(num_nodes, num_nodes))
    return connected_components(edges, directed=False)[1][labels]


def _equal_ones(fingerprints: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Numbers of different fingerprints; those of the others; and of each of the others its equal."""
    words = np.random.default_rng(0).integers(1, 2**63, FINGERPRINT_BYTES // 8, np.uint64) | np.uint64(1)
    hashes = np.empty(len(fingerprints), np.uint64)
    for start in range(0, len(fingerprints), _BLOCK // 8):
        part = np.ascontiguousarray(fingerprints[start : start + _BLOCK // 8])
        hashes[start : start + len(part)] = (part.view(np.uint64) * words).sum(1, dtype=np.uint64)  # wraps around
    _, first, which = np.unique(hashes, return_index=True, return_inverse=True)
    others = np.setdiff1d(np.arange(len(fingerprints)), first)
    return first, others, first[which[others]]


def _all_pairs(fingerprints: np.ndarray, chosen: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs by their distance, which a product of matrices gives at once."""
    values = fingerprints[chosen].astype(np.float32)
    squares = np.square(values).sum(1)
    most = (_MOST_DIFFERENCE_SHARE * values.var(1) + _NOISE) * FINGERPRINT_BYTES * 1.01 + 1  # rounding
    for start in range(0, len(values), 512):
        part = slice(start, start + 512)
        distance = squares[part, None] + squares[None] - 2 * values[part] @ values.T
        one, other = np.nonzero(distance <= most[part, None])
        keep = one + start < other
        yield np.stack([one[keep] + start, other[keep]], axis=1)


def _neighbours(fingerprints: np.ndarray, chosen: np.ndarray) -> Iterator[np.ndarray]:
    """Pairs that lie near each other in one of several sortings, and aren't far apart by their rough features."""
    random = np.random.default_rng(0)
    features, most = _rough_features(fingerprints, chosen, random)
    for _ in range(_SORTINGS):
        first, *others = random.permutation(_FEATURES)[: _CELL_FEATURES + 1]
        offsets = random.uniform(0, _CELL_LEVELS, _CELL_FEATURES).astype(np.float32)
        cells = np.floor((features[:, others] + offsets) / _CELL_LEVELS).astype(np.int16)
        order = np.lexsort((features[:, first], *cells.T))
        blocks = (order[start : start + _BLOCK + _NEIGHBOURS] for start in range(0, len(order), _BLOCK))
        yield np.concatenate([_near_in(block, features[block], most[block]) for block in blocks])


def _near_in(order: np.ndarray, features: np.ndarray, most: np.ndarray) -> np.ndarray:
    pairs = [np.empty((0, 2), np.int64)]
    for step in range(1, min(_NEIGHBOURS + 1, len(order))):
        distance = np.square(features[step:] - features[:-step]).sum(1)
        near = np.flatnonzero(distance <= np.minimum(most[step:], most[:-step]))
        pairs.append(np.stack([order[near], order[near + step]], axis=1))
    return np.concatenate(pairs)


def _rough_features(
    fingerprints: np.ndarray, chosen: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Colours of 4 × 4 places, turned at random so that each feature sees the whole picture: float32 [n, 12].

    And how far apart (squared) those of a picture can be that looks like it, float32 [n]: means over 4 × 4 pixels are
    at most a sixteenth as far apart as the fingerprints.
    """
    turn = np.linalg.qr(random.normal(size=(48, 48)))[0][:, :_FEATURES].astype(np.float32)
    features, most = np.empty((len(chosen), _FEATURES), np.float32), np.empty(len(chosen), np.float32)
    for start in range(0, len(chosen), _BLOCK // 8):
        part = fingerprints[chosen[start : start + _BLOCK // 8]].astype(np.float32)
        places = part.reshape(-1, 4, SIDE // 4, 4, SIDE // 4, 3).mean((2, 4)).reshape(-1, 48)
        features[start : start + len(part)] = places @ turn
        allowed = _MOST_DIFFERENCE_SHARE * part.var(1) + _NOISE
        most[start : start + len(part)] = allowed * FINGERPRINT_BYTES / 16 + 0.1  # rounding
    return features, most
