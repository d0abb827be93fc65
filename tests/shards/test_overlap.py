"""Faces of one set in another: the nearest of each, as a plain comparison of all pairs finds it."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.duplicates import Bytes
from shards.overlap import EXACT, NONE, nearest


def hashes(rng: np.random.Generator, n: int) -> tuple[Bytes, Bytes]:
    """Hashes of which many are the same or near: few bits are set, and few pictures exist."""
    pixels = np.zeros((n, 16), np.uint8)
    pixels[:, 0] = rng.integers(0, 2 * n, n)
    perceptual = np.zeros((n, 32), np.uint8)
    perceptual[:, rng.integers(0, 32, 6)] = rng.integers(0, 256, (n, 6), dtype=np.uint8)
    return pixels, perceptual


def plainly(a: tuple[Bytes, Bytes], b: tuple[Bytes, Bytes], near_bits: int, within: bool) -> np.ndarray:
    """Bits of all pairs [N, M], EXACT where the pixels are the same, NONE where they do not count."""
    bits = np.unpackbits(a[1][:, None] ^ b[1][None], axis=2).sum(axis=2, dtype=np.int64)
    bits[bits > near_bits] = NONE
    bits[(a[0][:, None] == b[0][None]).all(axis=2)] = EXACT
    if within:
        bits[np.tril_indices(len(bits))] = NONE
    return bits


@given(st.integers(0, 2**32), st.integers(1, 60), st.integers(1, 60), st.integers(0, 40), st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_nearest_of_each_side_is_that_of_a_plain_comparison(
    seed: int, n: int, m: int, near_bits: int, within: bool
) -> None:
    rng = np.random.default_rng(seed)
    a = hashes(rng, n)
    b = a if within else hashes(rng, m)
    bits = plainly(a, b, near_bits, within)
    of_a, of_b = nearest(a, b, near_bits, within=within)
    assert of_a.bits.tolist() == bits.min(axis=1).tolist() and of_b.bits.tolist() == bits.min(axis=0).tolist()
    for found, table in ((of_a, bits), (of_b, bits.T)):
        assert ((found.at >= 0) == (found.bits < NONE)).all()
        assert all(table[i, found.at[i]] == found.bits[i] for i in np.flatnonzero(found.at >= 0))


def test_an_empty_side_has_no_copies() -> None:
    rng = np.random.default_rng(0)
    of_a, of_b = nearest(hashes(rng, 3), hashes(rng, 0), 18)
    assert of_a.at.tolist() == [-1, -1, -1] and of_b.at.tolist() == []
