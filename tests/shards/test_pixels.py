"""Which bytes a set may hold as images, and what tells copies of them apart."""

from collections.abc import Callable

import numpy as np
import pytest
from coded import coded
from PIL import Image

from shards.pixels import BadImage, decode, grey_cells, perceptual_hashes, pixel_hash

FLAT = "ebcae92e5ee6551202a9ce2daa5e0d22"
RAMP = "263bb535e87702f3c5b185f11e927f46bcdf8c9f833ba965758d6d9b7e385f79"


def perceptual_hash(pixels: np.ndarray) -> bytes:
    return perceptual_hashes(grey_cells(pixels)).tobytes()


def differing_bits(one: bytes, other: bytes) -> int:
    return (int.from_bytes(one) ^ int.from_bytes(other)).bit_count()


@pytest.mark.parametrize("mode", ["L", "1", "P", "RGBA", "LA"])
def test_every_usual_mode_becomes_rgb(mode: str) -> None:
    pixels = decode(coded(Image.new("RGB", (9, 5), "red").convert(mode), "png"))
    assert pixels.shape == (5, 9, 3)


def test_png_pixels_are_exact_and_cmyk_is_read() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    assert np.array_equal(decode(coded(Image.fromarray(noise), "png")), noise)
    assert decode(coded(Image.new("CMYK", (8, 8)), "jpeg")).mean() > 250


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("side", [60, 61, 128, 8])
def test_memory_to_decode_into_changes_no_pixel_whatever_fits(mode: str, side: int) -> None:
    data = coded(Image.effect_noise((61, 59), 60).convert("RGB").convert(mode), "jpeg")
    assert np.array_equal(decode(data, np.full((side, side, 3), 7, np.uint8)), decode(data))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"hello", "not an image"),
        (coded(Image.new("RGB", (8, 8)), "gif"), "not an image"),
        (coded(Image.new("I;16", (8, 8)), "png"), "mode I;16: convert it to 8-bit RGB"),
    ],
)
def test_what_no_set_holds_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        decode(data)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_an_image_cut_short_anywhere_is_refused_or_whole(image: Callable[..., bytes], kind: str) -> None:
    data = image(5, 40, kind)
    whole = decode(data)
    for length in range(1, len(data), max(1, len(data) // 60)):
        try:
            pixels = decode(data[:length])
        except BadImage:
            continue
        assert np.array_equal(pixels, whole)


def test_the_pixel_hash_is_of_pixels_and_size_not_of_the_file(image: Callable[..., bytes]) -> None:
    pixels = decode(image(1))
    again = decode(coded(Image.fromarray(pixels), "png"))
    assert pixel_hash(again) == pixel_hash(pixels)
    flat = np.zeros((4, 6, 3), np.uint8)
    assert pixel_hash(flat) != pixel_hash(flat.reshape(6, 4, 3))
    assert pixel_hash(flat).hex() == FLAT


def test_the_perceptual_hash_is_frozen() -> None:
    """It lies in packed sets: another one would not find copies among them."""
    ramp = np.arange(20 * 30 * 3, dtype=np.uint32).reshape(20, 30, 3) ** 2 % 251
    assert perceptual_hash(ramp.astype(np.uint8)).hex() == RAMP


def test_near_copies_share_nearly_all_bits_and_others_half(image: Callable[..., bytes]) -> None:
    pixels = decode(image(1, 64))
    face = Image.fromarray(pixels)
    copies = [
        coded(face, "jpeg", quality=60),
        coded(face.resize((48, 48), Image.Resampling.BICUBIC), "png"),
        coded(face.point(lambda value: value * 0.6 + 50), "png"),
        coded(face.convert("L"), "webp"),
    ]
    hash_ = perceptual_hash(pixels)
    assert max(differing_bits(hash_, perceptual_hash(decode(copy))) for copy in copies) <= 18
    others = [differing_bits(hash_, perceptual_hash(decode(image(n, 64)))) for n in range(2, 40)]
    assert min(others) > 60 and 110 < np.mean(others) < 146
