"""What becomes of an image on its way into a set: bytes that stay, images that are made, and reasons to leave out."""

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from coded import coded
from PIL import Image, ImageOps

from shards.pixels import BadImage, decode
from shards.prepare import Prepared, Rules, prepare

Picture = Callable[..., bytes]
STRICT, TRANSCODE = Rules(), Rules(transcode=True)

QUARTERS = np.zeros((16, 24, 3), np.uint8)  # four colours, so that every turn of it is another picture
QUARTERS[:8, 12:], QUARTERS[8:, :12], QUARTERS[8:, 12:] = (250, 20, 20), (20, 250, 20), (20, 20, 250)


def turned(kind: str, orientation: int, **how: object) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return coded(Image.fromarray(QUARTERS), kind, exif=exif, **how)


def header(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data))


def close(one: np.ndarray, other: np.ndarray) -> bool:
    """The same picture but for the losses of two codings."""
    return one.shape == other.shape and np.abs(one.astype(int) - other).mean() < 8


# ------------------------------------------------------------------------------------------------ bytes that stay


@pytest.mark.parametrize("rules", [STRICT, TRANSCODE, Rules(max_px=20), Rules(decode_check=False)])
@pytest.mark.parametrize(("kind", "extension"), [("jpeg", "jpg"), ("png", "png"), ("mpo", "jpg")])
def test_bytes_that_can_stay_stay(image: Picture, kind: str, extension: str, rules: Rules) -> None:
    data = image(1, 20, kind)
    found = prepare(data, rules)
    assert (found.data, found.extension, found.size, found.made) == (data, extension, (20, 20), None)
    assert (found.pixels is None) == (not rules.decode_check)
    assert found.pixels is None or np.array_equal(found.pixels, decode(data))


def test_without_more_webp_and_cmyk_and_palettes_and_deep_colours_stay(image: Picture) -> None:
    deep = deep_png()
    for data in (
        image(1, 20, "webp"),
        coded(Image.new("CMYK", (8, 8)), "jpeg"),
        coded(Image.fromarray(QUARTERS).quantize(8), "png"),
        deep,
    ):
        assert prepare(data, STRICT).data == data
    assert decode(deep).tolist() == [[[0x12, 0x56, 0x9A]]]


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def deep_png() -> bytes:
    """A png of one pixel with 16 bits a channel, which Pillow cannot write."""
    head, row = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0), zlib.compress(b"\0\x12\x34\x56\x78\x9a\xbc")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", row) + chunk(b"IEND", b"")


# ------------------------------------------------------------------------------------------------ turned


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "extension"), [("jpeg", "jpg"), ("png", "png"), ("webp", "png")])
def test_what_exif_turns_or_mirrors_is_upright_in_the_set(kind: str, extension: str, orientation: int) -> None:
    data = turned(kind, orientation, quality=95)
    found = prepare(data, STRICT)
    seen = np.asarray(ImageOps.exif_transpose(header(data)).convert("RGB"))
    assert found.pixels is not None and close(found.pixels, seen) and close(decode(found.data), seen)
    assert found.size == ((24, 16) if orientation < 5 else (16, 24))
    if orientation == 1:
        assert found.data == data and found.made is None
    else:
        assert (found.extension, found.made) == (extension, f"rotated, {extension}")
        assert not header(found.data).getexif()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_which_pillow_turns_by_itself_is_upright_in_the_set(orientation: int) -> None:
    data = turned("tiff", orientation)
    found, seen = prepare(data, TRANSCODE), np.asarray(ImageOps.exif_transpose(header(data)))
    assert found.made == ("from tiff, png" if orientation == 1 else "from tiff, rotated, png")
    assert np.array_equal(decode(found.data), seen) and found.size == seen.shape[1::-1]


def test_a_jpg_made_anew_keeps_its_colours_and_carries_no_profile() -> None:
    found = prepare(turned("jpeg", 6, icc_profile=b"profile", comment="mine"), STRICT)
    made = header(found.data)
    assert [layer[1:3] for layer in made.layer] == [(1, 1)] * 3  # 4:4:4
    assert sum(made.quantization[0]) == sum(header(coded(made, "jpeg", quality=95)).quantization[0])
    assert not {"exif", "icc_profile", "comment"} & set(made.info)
    grey = Image.Exif()
    grey[0x0112] = 3
    assert header(prepare(coded(Image.new("L", (9, 5)), "jpeg", exif=grey), STRICT).data).mode == "L"


@pytest.mark.parametrize("orientation", [0, 9, 1000])
def test_an_orientation_that_does_not_exist_turns_nothing(orientation: int) -> None:
    assert prepare(turned("jpeg", orientation), STRICT).made is None


def test_a_broken_exif_block_harms_nothing(image: Picture) -> None:
    data = image(1)
    broken = data[:2] + b"\xff\xe1" + struct.pack(">H", 12) + b"Exif\0\0MM\0\x2a" + data[2:]
    assert prepare(broken, STRICT).data == broken


def test_an_orientation_in_xmp_counts_too(image: Picture) -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    assert prepare(coded(Image.fromarray(QUARTERS), "jpeg", xmp=xmp), STRICT).made == "rotated, jpg"


# ------------------------------------------------------------------------------------------------ other formats


def animated(kind: str) -> bytes:
    frames = [Image.fromarray(QUARTERS), Image.fromarray(255 - QUARTERS)]
    return coded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)


def sixteen() -> Image.Image:
    return Image.fromarray((np.arange(384, dtype=np.uint16) * 170).reshape(16, 24))


FOREIGN = {
    "gif": (coded(Image.fromarray(QUARTERS), "gif"), "from gif, png", "a gif: pack with --transcode"),
    "animated gif": (animated("gif"), "from gif, png", "a gif: pack with --transcode, or convert it to png first"),
    "bmp": (coded(Image.fromarray(QUARTERS), "bmp"), "from bmp, png", "a bmp"),
    "tiff": (coded(Image.fromarray(QUARTERS), "tiff"), "from tiff, png", "a tiff"),
    "tiff of jpeg": (
        coded(Image.fromarray(QUARTERS), "tiff", compression="jpeg", quality=95),
        "from tiff, jpg",
        "a tiff",
    ),
    "ppm": (coded(Image.fromarray(QUARTERS), "ppm"), "from ppm, png", "a ppm"),
    "pgm": (coded(Image.fromarray(QUARTERS[:, :, 0]), "ppm"), "from pgm, png", "a pgm"),
    "avif": (coded(Image.fromarray(QUARTERS), "avif", quality=95), "from avif, jpg", "an avif or heic: pack with"),
    "animated png": (animated("png"), "from animated png, png", "animated, 2 frames: pack with --transcode"),
    "animated webp": (animated("webp"), "from animated webp, png", "animated, 2 frames: pack with --transcode"),
    "grey of 16 bits": (coded(sixteen(), "png"), "from 16-bit png, png", "mode I;16: pack with --transcode"),
    "pgm of 16 bits": (coded(sixteen(), "ppm"), "from 16-bit pgm, png", "a pgm"),
    "tiff of 16 bits": (coded(sixteen(), "tiff"), "from 16-bit tiff, png", "a tiff"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_formats_that_training_should_not_meet_are_made_anew_or_left_out(name: str) -> None:
    data, made, reason = FOREIGN[name]
    found = prepare(data, TRANSCODE)
    assert found.made == made and header(found.data).format == ("PNG" if made.endswith("png") else "JPEG")
    seen = QUARTERS
    if "16" in name:
        seen = np.repeat((np.asarray(sixteen()) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    elif name == "pgm":
        seen = np.repeat(QUARTERS[:, :, :1], 3, axis=2)
    assert found.pixels is not None and np.array_equal(found.pixels, decode(found.data))
    assert np.array_equal(found.pixels, seen) if made.endswith("png") else close(found.pixels, seen)
    with pytest.raises(BadImage, match=reason):
        prepare(data, STRICT)


KEPT_WITHOUT = {
    "lossless webp": (coded(Image.fromarray(QUARTERS), "webp", lossless=True), "from webp, png"),
    "webp": (coded(Image.fromarray(QUARTERS), "webp", quality=95), "from webp, jpg"),
    "webp with alpha": (
        coded(Image.fromarray(QUARTERS).convert("RGBA"), "webp", quality=95, exact=True),
        "from webp, jpg",
    ),
    "cmyk": (coded(Image.fromarray(QUARTERS).convert("CMYK"), "jpeg", quality=95), "from cmyk jpg, jpg"),
}


@pytest.mark.parametrize("name", KEPT_WITHOUT)
def test_with_transcode_also_webp_and_cmyk_are_made_anew(name: str) -> None:
    data, made = KEPT_WITHOUT[name]
    assert prepare(data, STRICT).data == data
    found = prepare(data, TRANSCODE)
    assert found.made == made and header(found.data).mode == "RGB"
    assert found.pixels is not None and close(found.pixels, QUARTERS)


def test_deep_colours_lose_their_lower_bits_with_transcode() -> None:
    found = prepare(deep_png(), TRANSCODE)
    assert found.made == "from 16-bit png, png" and found.data[24] == 8
    assert decode(found.data).tolist() == [[[0x12, 0x56, 0x9A]]]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"hello", "not an image"),
        (coded(Image.new("F", (8, 8)), "tiff"), "mode F: convert it to 8-bit RGB first"),
        (coded(Image.new("I", (8, 8)), "tiff"), "mode I: convert it to 8-bit RGB first"),
        (b"\0\0\0\x18ftypheic" + bytes(60), "an avif or heic that Pillow does not read"),
        (b"BM" + bytes(60), "cannot decode|not an image"),
        (coded(Image.new("RGB", (30, 30)), "bmp")[:-900], "cannot decode: image file is truncated"),
    ],
)
def test_what_cannot_be_transcoded_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=reason):
        prepare(data, TRANSCODE)


# ------------------------------------------------------------------------------------------------ reduced


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_a_longer_side_above_the_cap_is_reduced_as_the_reader_reduces(kind: str) -> None:
    large = Image.effect_noise((240, 160), 100).convert("RGB")  # which only a reduction without aliasing makes grey
    found = prepare(coded(large, kind, quality=95), Rules(max_px=60))
    assert (found.size, found.made, header(found.data).format) == ((60, 40), "reduced, jpg", "JPEG")
    assert found.pixels is not None
    assert close(found.pixels, np.asarray(large.resize((60, 40), Image.Resampling.BICUBIC)))


def test_the_cap_itself_is_not_reduced_and_no_side_becomes_0(image: Picture) -> None:
    data = image(1, 60)
    assert prepare(data, Rules(max_px=60)).data == data
    line = coded(Image.new("RGB", (3000, 2)), "png")
    assert prepare(line, Rules(max_px=100)).size == (100, 1)


def test_all_that_was_done_is_said_in_its_order() -> None:
    found = prepare(turned("webp", 6), Rules(transcode=True, max_px=12))
    assert (found.made, found.size) == ("from webp, rotated, reduced, jpg", (8, 12))


# ------------------------------------------------------------------------------------------------ bombs


def gif(side_px: int) -> bytes:
    return b"GIF89a" + struct.pack("<HHBBB", side_px, side_px, 0x80, 0, 0) + bytes(6) + b"," + struct.pack(
        "<HHHHB", 0, 0, side_px, side_px, 0) + b"\x02\x02\x4c\x01\x00;"  # fmt: skip


def webp(side_px: int) -> bytes:
    inner = coded(Image.new("RGB", (4, 4)), "webp", lossless=True)[12:]
    canvas = b"VP8X" + struct.pack("<II", 10, 0) + 2 * (side_px - 1).to_bytes(3, "little")
    frame = bytes(6) + 2 * (3).to_bytes(3, "little") + bytes(4) + inner
    chunks = b"WEBP" + canvas.replace(b"VP8X\x0a\0\0\0\0", b"VP8X\x0a\0\0\0\x02")
    chunks += b"ANIM" + struct.pack("<I", 6) + bytes(6) + b"ANMF" + struct.pack("<I", len(frame)) + frame
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


def bombs(side_px: int) -> dict[str, bytes]:
    """Small files of many black pixels, or their headers alone."""
    png = struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)
    bmp = coded(Image.new("RGB", (4, 4)), "bmp")
    jpeg = coded(Image.new("RGB", (16, 16)), "jpeg")
    size = jpeg.index(b"\xff\xc0") + 5
    tiff = coded(Image.new("L", (17, 19)), "tiff")
    for tag, side in ((256, 17), (257, 19)):
        tiff = tiff.replace(struct.pack("<HHII", tag, 4, 1, side), struct.pack("<HHII", tag, 4, 1, side_px))
    return {
        "png": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", png) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""),
        "bmp": bmp[:18] + struct.pack("<ii", side_px, side_px) + bmp[26:],
        "jpeg": jpeg[:size] + struct.pack(">HH", side_px, side_px) + jpeg[size + 4 :],
        "gif": gif(side_px),
        "ppm": f"P6 {side_px} {side_px} 255\n".encode() + bytes(300),
        "tiff": tiff,
        "webp": webp(side_px),
    }


@pytest.mark.parametrize("side_px", [4_001, 15_000, 60_000])  # above our limit; above Pillow's
@pytest.mark.parametrize("kind", ["png", "bmp", "jpeg", "gif", "ppm", "tiff", "webp"])
@pytest.mark.parametrize(("decode_check", "max_px"), [(True, None), (False, None), (True, 100)])
def test_a_bomb_is_refused_by_its_header(
    monkeypatch: pytest.MonkeyPatch, kind: str, side_px: int, decode_check: bool, max_px: int | None
) -> None:
    def load(image: Image.Image) -> None:
        raise AssertionError("it was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", load)
    with pytest.raises(BadImage, match=r"more than 16,000,000 pixels"):
        prepare(bombs(side_px)[kind], Rules(transcode=True, decode_check=decode_check, max_px=max_px))
    if kind in ("png", "jpeg", "webp"):
        with pytest.raises(BadImage, match=r"more than 16,000,000 pixels"):
            decode(bombs(side_px)[kind])


BOMBED = """
import sys
from pathlib import Path
from shards.pixels import BadImage
from shards.prepare import Rules, prepare

def peak():  # ru_maxrss would begin with that of the process which started this one
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024

prepare(Path(sys.argv[1]).read_bytes(), Rules(transcode=True))
before = peak()
for bomb in sys.argv[2:]:
    try:
        prepare(Path(bomb).read_bytes(), Rules(transcode=True))
    except BadImage:
        continue
    raise AssertionError(bomb)
print(peak() - before)
"""


def test_bombs_take_no_memory(tmp_path: Path, image: Picture) -> None:
    (tmp_path / "small.webp").write_bytes(image(1, 20, "webp"))
    names = []
    for kind, data in bombs(13_000).items():  # under Pillow's own limit: 507 MB when decoded
        names.append(str(tmp_path / f"bomb.{kind}"))
        Path(names[-1]).write_bytes(data)
    command = [sys.executable, "-c", BOMBED, str(tmp_path / "small.webp"), *names]
    said = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True)
    assert float(said.stdout) < 20  # MB


# ------------------------------------------------------------------------------------------------ without the check


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp"])
def test_an_image_cut_short_is_refused_also_without_the_decode_check(image: Picture, kind: str) -> None:
    data = image(5, 40, kind)
    for length in range(1, len(data) - 1, max(1, len(data) // 60)):
        try:
            found: Prepared = prepare(data[:length], Rules(decode_check=False))
        except BadImage:
            continue
        assert np.array_equal(decode(found.data), decode(data))


def test_without_the_check_only_what_does_not_end_as_it_should_is_decoded(
    image: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    monkeypatch.setattr("shards.prepare.decode", lambda data: seen.append(data))
    quick, jpeg = Rules(decode_check=False), image(1)
    for kind in ("jpeg", "png", "webp"):
        prepare(image(1, 20, kind), quick)
        prepare(image(1, 20, kind) + bytes(30), quick)
    assert seen == []
    prepare(jpeg + b"trailer", quick)
    assert seen == [jpeg + b"trailer"]
