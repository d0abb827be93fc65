"""Files that others' decoders have stumbled over: each is kept or named, none is fatal, none is lost.

They lie beside the repository (skipped where they do not); Pillow's own test files, one made for the purpose.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards.pack import pack
from shards.pixels import decode
from shards.verify import verify

KEPT = "kept"  # its bytes are the file's
NO_IMAGE_BY_NAME = "not an image, by its name"

# What becomes of each, and with --transcode where that is another thing; reasons as they begin.
TABLE: dict[str, tuple[str, ...]] = {
    "broken.png": ("not an image",),
    "decompression_bomb_extents.gif": ("a gif: pack with --transcode", "made: from gif, png"),
    "hopper_16bit.pgm": ("a pgm: pack with --transcode", "made: from 16-bit pgm, png"),
    "hopper_bad_exif.jpg": (KEPT,),
    "hopper_gray.jpg": (KEPT,),
    "hopper_idat_after_image_end.png": (KEPT,),
    "hopper_orientation_6.jpg": ("made: rotated, jpg",),
    "hopper_orientation_6.webp": ("made: rotated, png", "made: from webp, rotated, jpg"),
    "icc-after-SOF.jpg": (KEPT,),
    "iss634.gif": ("a gif: pack with --transcode", "made: from gif, png"),
    "junk_jpeg_header.jpg": (KEPT,),
    "manifest.csv": (NO_IMAGE_BY_NAME,),
    "mode_16bit.png": ("animated, 3 frames: pack with --transcode", "made: from 16-bit png, png"),
    "p_trns_single.png": (KEPT,),
    "pil_sample_cmyk.jpg": (KEPT, "made: from cmyk jpg, jpg"),
    "png_decompression_dos.png": ("cannot decode: Decompressed data too large",),
    "pngtest_bad.png.bin": (NO_IMAGE_BY_NAME,),
    "reallybig.bmp": ("a bmp: pack with --transcode", "more than 16,000,000 pixels"),
    "rot1mir0.avif": ("an avif or heic: pack with --transcode", "made: from avif, rotated, jpg"),
    "sugarshack.mpo": (KEPT,),
    "synthetic_zero_byte.jpg": ("empty file",),
    "transparent.gif": ("a gif: pack with --transcode", "made: from gif, png"),
    "truncated_exif_dpi.jpg": (KEPT,),
    "truncated_image.png": ("cannot decode: image file is truncated",),
    "truncated_jpeg.jpg": ("cannot decode: image file is truncated",),
    "zero_width.gif": ("a gif: pack with --transcode", "not an image"),
}


def outcome(real: Path, out: Path, **how: Any) -> dict[str, str]:
    """What became of each file: "kept", how it was made anew, or why it was left out."""
    shards = pack(real / "broken", out, source="folder", max_left_out="100%", **{"workers": 1} | how)
    assert verify(out, decode=True)["damaged"] == [] and len(shards.counts) == 1
    found = {
        line["path"]: line["reason"] for line in map(json.loads, (out / "left_out.jsonl").read_text().splitlines())
    }
    for origin, sample in zip(shards.origins(0), shards.samples_in_order(), strict=True):
        path = origin.partition(":")[2]
        assert path not in found
        made = sample.face.made if sample.face else None
        found[path] = f"made: {made}" if made else "kept"
        if not made:
            assert sample.image == (real / "broken" / path).read_bytes()
    return found


@pytest.mark.parametrize("how", [{}, {"transcode": True}, {"decode_check": False}, {"max_px": 10_000, "workers": 2}])
def test_each_broken_file_is_kept_or_named(real: Path, tmp_path: Path, how: dict[str, Any]) -> None:
    found = outcome(real, tmp_path / "set", **how)
    assert sorted(found) == sorted(TABLE) and len(TABLE) == 26
    for path, expected in TABLE.items():
        wanted = expected[-1 if "transcode" in how else 0]
        assert found[path].startswith(wanted), path


def test_what_was_turned_or_made_anew_is_the_same_upright_portrait(real: Path, tmp_path: Path) -> None:
    shards = pack(real / "broken", tmp_path / "set", source="folder", max_left_out="100%", workers=1, transcode=True)
    pixels = {
        origin.partition(":")[2]: decode(sample.image).mean(axis=2)
        for origin, sample in zip(shards.origins(0), shards.samples_in_order(), strict=True)
    }
    for name in ("hopper_16bit.pgm", "hopper_orientation_6.jpg", "hopper_orientation_6.webp"):
        assert np.abs(pixels[name] - pixels["hopper_gray.jpg"]).mean() < 12, name
    assert pixels["rot1mir0.avif"].shape[0] < pixels["rot1mir0.avif"].shape[1]
