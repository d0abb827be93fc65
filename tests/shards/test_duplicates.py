"""Groups of copies: exact, near, and by a chain."""

import numpy as np
import numpy.typing as npt
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.duplicates import NEAR_BITS, groups, near_pairs

Bytes = npt.NDArray[np.uint8]


def random_hashes(n: int, seed: int = 0) -> tuple[Bytes, Bytes]:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, 16), dtype=np.uint8), rng.integers(0, 256, (n, 32), dtype=np.uint8)


def flipped(hash_: Bytes, first: int, count: int) -> Bytes:
    """The hash with `count` bits changed from bit `first` on."""
    bits = np.unpackbits(hash_)
    bits[first : first + count] ^= 1
    return np.packbits(bits)


def test_loners_are_groups_of_their_own() -> None:
    assert groups(*random_hashes(300)).tolist() == list(range(300))


def test_exact_near_and_chained_copies_are_one_group_named_by_its_first() -> None:
    pixels, perceptual = random_hashes(10)
    pixels[7] = pixels[2]  # exact, whatever the other hash says
    perceptual[5] = flipped(perceptual[7], 0, NEAR_BITS)  # near to 7, which is 2 again: not compared
    perceptual[4] = flipped(perceptual[2], 0, NEAR_BITS)
    perceptual[9] = flipped(perceptual[4], 200, NEAR_BITS)  # near to 4, far from 2
    perceptual[8] = flipped(perceptual[0], 0, NEAR_BITS + 1)
    assert groups(pixels, perceptual).tolist() == [0, 1, 2, 3, 2, 5, 6, 2, 8, 2]


@given(st.integers(0, 2**32), st.integers(2, 400), st.integers(0, 130))
@settings(max_examples=25, deadline=None)
def test_near_pairs_are_those_of_a_plain_comparison(seed: int, n: int, near_bits: int) -> None:
    _, hashes = random_hashes(n, seed)
    hashes[n // 2 :] = hashes[: n - n // 2] ^ (hashes[n // 2 :] & 0x11 if seed % 2 else 0)
    different = np.unpackbits(hashes[:, None] ^ hashes[None], axis=2).sum(axis=2)
    expected = np.argwhere(np.triu(different <= near_bits, 1))
    found = near_pairs(hashes, near_bits)
    assert np.array_equal(found[np.lexsort(found.T[::-1])], expected)


def test_none_and_one_have_groups_too() -> None:
    assert groups(*random_hashes(0)).tolist() == []
    assert groups(*random_hashes(1)).tolist() == [0]
