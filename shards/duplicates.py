"""Groups of exact and near copies in a set, so that no split tears one apart.

Measured on FERPlus (28,386 training images; 2,240 lie in 1,025 groups of exact copies) against pairs of 16x16
pictures with a correlation above .985: 631 pairs beside the exact ones, 9.8 % of all images in groups of up to
18. Two images count as near when their perceptual hashes of 256 bits differ in at most

    bits   pairs found   further pairs, with a correlation under .97, .95, .90   images in groups   largest
      12           436        129                             6    0    0                 9.7 %        15
      16           598        355                            43    5    0                11.0 %        18
      18           627        563                           115   15    0                11.7 %        20
      20           628        802                           231   49    0                12.3 %        20
      24           631      1,384                           650  278   38                14.0 %        33
      28           631      2,382                         1,616 1,027 333                16.0 %       270

NEAR_BITS misses 4 of 631, and what it finds beyond them is alike too: a pair too many costs a split little,
a pair missed is a leak.
"""

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Ints = npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]

NEAR_BITS = 18
_PAIRS_AT_ONCE = 1 << 21  # 16 MB a word of their hashes


def groups(pixels: Bytes, perceptual: Bytes) -> Ints:
    """A group's number for each of N samples: the smallest index in its group, so a loner has its own.

    `pixels` [N, 16] and `perceptual` [N, 32] are ShardSet.hashes(). Whoever is joined by a chain of copies
    is in one group. Compares all pairs: 28 k samples take seconds, 280 k some minutes.
    """
    _, first, inverse = np.unique(pixels, axis=0, return_index=True, return_inverse=True)
    label = first[inverse.reshape(-1)].astype(np.int64)  # exact copies: the first of them
    kept = np.unique(label)
    parent = np.arange(len(pixels), dtype=np.int64)
    for a, b in kept[near_pairs(perceptual[kept])].tolist():
        one, other = sorted((_root(parent, a), _root(parent, b)))
        parent[other] = one
    roots = np.array([_root(parent, int(i)) for i in kept], np.int64)
    return roots[np.searchsorted(kept, label)]


def near_pairs(perceptual: Bytes, near_bits: int = NEAR_BITS) -> Ints:
    """All pairs a < b of N hashes [N, 32] that differ in at most `near_bits` bits, [M, 2]."""
    words = as_words(perceptual)
    pairs, chunk = [np.empty((0, 2), np.int64)], max(1, _PAIRS_AT_ONCE // max(1, words.shape[1]))
    for start in range(0, words.shape[1], chunk):
        a, b, _ = compare(words[:, start : start + chunk], words[:, start:], near_bits)
        pairs.append(np.stack([a[a < b], b[a < b]], axis=1) + start)
    return np.concatenate(pairs)


def as_words(perceptual: Bytes) -> Words:
    """The hashes [N, 32] as compare() takes them, [4, N]."""
    return np.ascontiguousarray(np.ascontiguousarray(perceptual).view(np.uint64).T)


def compare(rows: Words, others: Words, near_bits: int) -> tuple[Ints, Ints, Ints]:
    """Row, other and differing bits of all pairs of `rows` [4, N] and `others` [4, M] in at most `near_bits` bits.

    Takes 13 bytes of memory a pair that is compared.
    """
    # Half of the bits rule nearly all pairs out, and cost half.
    half = np.bitwise_count(rows[0][:, None] ^ others[0])
    half += np.bitwise_count(rows[1][:, None] ^ others[1])
    a, b = np.nonzero(half <= near_bits)
    bits = half[a, b] + np.bitwise_count(rows[2:, a] ^ others[2:, b]).sum(axis=0, dtype=np.int64)
    near = bits <= near_bits
    return a[near], b[near], bits[near]


def _root(parent: Ints, i: int) -> int:
    """The smallest index of i's group; shortens the way to it."""
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = int(parent[i])
    return i
