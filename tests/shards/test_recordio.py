"""RecordIO: the bytes are written and parsed here by other code than is tested, after dmlc's recordio.h."""

import struct
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from shards.errors import ShardError
from shards.pack import pack
from shards.pixels import BadImage, decode
from shards.sources import entries
from shards.sources.listing import Listing

MAGIC = bytes.fromhex("0a23d7ce")


def listed(src: Path) -> Listing:
    return entries("recordio", src, split=None, protocol="argmax")


def found(src: Path) -> list[tuple[str, str | None, bytes]]:
    return [(entry.origin, entry.identity, entry.read()) for entry in listed(src).entries]


def payload(image: bytes, *labels: float, flag: int | None = None) -> bytes:
    """What a record holds: with one label as im2rec has it, with several, or with flag=1, as face2rec2."""
    if flag is None and len(labels) == 1:
        return struct.pack("<IfQQ", 0, labels[0], 7, 0) + image
    return struct.pack("<IfQQ", len(labels), 0, 7, 0) + struct.pack(f"<{len(labels)}f", *labels) + image


def record(data: bytes) -> bytes:
    """The record of a payload, cut where a magic stands at a multiple of 4."""
    cuts = [i for i in range(0, len(data) - 3, 4) if data[i : i + 4] == MAGIC]
    starts, ends = [0, *(cut + 4 for cut in cuts)], [*cuts, len(data)]
    kinds = [0] if not cuts else [1, *[2] * (len(cuts) - 1), 3]
    parts = [data[start:end] for start, end in zip(starts, ends, strict=True)]
    return b"".join(
        MAGIC + struct.pack("<I", kind << 29 | len(part)) + part + bytes(-len(part) % 4)
        for kind, part in zip(kinds, parts, strict=True)
    )


def write(rec: Path, records: list[tuple[int, bytes]], *, idx: bool = True) -> list[int]:
    """A .rec of keys and payloads, and its .idx; returns the offsets."""
    data, offsets = b"", []
    for _, one in records:
        offsets.append(len(data))
        data += record(one)
    rec.parent.mkdir(exist_ok=True)
    rec.write_bytes(data)
    lines = [f"{key}\t{offset}\n" for (key, _), offset in zip(records, offsets, strict=True)]
    if idx:
        rec.with_suffix(".idx").write_text("".join(lines))
    return offsets


def parse(rec: Path) -> dict[int, tuple[int, float, bytes]]:
    """Flag, label and image by offset; of whole records."""
    data, place, records = rec.read_bytes(), 0, {}
    while place < len(data):
        magic, length = struct.unpack_from("<4sI", data, place)
        assert magic == MAGIC and length < 1 << 29
        flag, label = struct.unpack_from("<If", data, place + 8)
        records[place] = flag, label, data[place + 32 + 4 * flag : place + 8 + length]
        place += 8 + (length + 3) // 4 * 4
    return records


# ------------------------------------------------------------------------------------------------ layouts


def test_im2recs_records_are_all_images_with_their_label_as_identity(tmp_path: Path) -> None:
    write(tmp_path / "train.rec", [(0, payload(b"zero", 5)), (1, payload(b"one", 0)), (2, payload(b"third", 5))])
    assert found(tmp_path) == [
        ("train.rec#0", "5", b"zero"),
        ("train.rec#1", "0", b"one"),
        ("train.rec#2", "5", b"third"),
    ]
    assert [entry.size_bytes for entry in listed(tmp_path / "train.rec").entries] == [4, 3, 5]
    assert not listed(tmp_path).left_out


def test_insightfaces_header_and_identities_are_no_images(tmp_path: Path) -> None:
    records = [
        (1, payload(b"a0", 0)),
        (2, payload(b"a1", 0, 0.25)),  # two labels: the first is who
        (3, payload(b"b0", 93430, flag=1)),
        (4, payload(b"", 1, 3)),
        (5, payload(b"", 3, 4)),
        (0, payload(b"", 4, 6)),
    ]
    write(tmp_path / "train.rec", records)
    (tmp_path / "property").write_text("93431,112,112")
    assert found(tmp_path) == [
        ("train.rec#1", "0", b"a0"),
        ("train.rec#2", "0", b"a1"),
        ("train.rec#3", "93430", b"b0"),
    ]
    (left,) = listed(tmp_path).left_out
    assert (left.path, left.reason) == ("train.rec", "3 records without an image (header, identities)")
    assert not left.counts


def test_ranges_in_float32_lose_no_image_and_gain_none(tmp_path: Path) -> None:
    """The header says 16,777,216 and 16,777,220 where 16,777,217 and 16,777,219 were meant."""
    header = payload(b"", 16777217, 16777219)
    assert struct.unpack("<2f", header[24:]) == (16777216, 16777220)
    records = [
        (16777215, payload(b"one", 2059905)),
        (16777216, payload(b"two", 2059905)),
        (16777217, payload(b"", 16777215, 16777217)),
        (16777218, payload(b"", 16777217, 16777217)),
        (16777219, payload(b"three", 16777215)),
        (0, header),
    ]
    write(tmp_path / "train.rec", records)
    assert found(tmp_path) == [
        ("train.rec#16777215", "2059905", b"one"),
        ("train.rec#16777216", "2059905", b"two"),
        ("train.rec#16777219", "16777215", b"three"),
    ]


def test_a_record_that_was_cut_at_the_magic_is_whole_again(tmp_path: Path) -> None:
    image = b"jpegs" + MAGIC + b"hello world" + MAGIC + MAGIC + b"no" + MAGIC
    data = payload(image, 3)
    assert [i for i in range(len(data)) if data[i : i + 4] == MAGIC] == [29, 44, 48, 54]
    written = (
        MAGIC + bytes.fromhex("2c000020") + data[:44]
        + MAGIC + bytes.fromhex("00000040")
        + MAGIC + bytes.fromhex("06000060") + b"no" + MAGIC + b"\0\0"
    )  # fmt: skip
    assert record(data) == written
    write(tmp_path / "a.rec", [(8, payload(b"before", 1)), (9, data), (10, payload(b"behind", 2))])
    expected = [("a.rec#8", "1", b"before"), ("a.rec#9", "3", image), ("a.rec#10", "2", b"behind")]
    assert found(tmp_path) == expected
    (tmp_path / "a.idx").unlink()
    assert [one[1:] for one in found(tmp_path)] == [one[1:] for one in expected]


def test_parts_of_any_length_are_padded(tmp_path: Path) -> None:
    first, last = payload(b"x", 3), b"yz"
    parts = MAGIC + bytes.fromhex("19000020") + first + bytes(3) + MAGIC + bytes.fromhex("02000060") + last + bytes(2)
    (tmp_path / "a.rec").write_bytes(parts)
    assert found(tmp_path) == [("a.rec#0", "3", b"x" + MAGIC + b"yz")]


def test_an_idx_may_be_in_any_order_and_spacing(tmp_path: Path) -> None:
    _, second, third = write(tmp_path / "t.rec", [(n, payload(b"%d" % n, n)) for n in (7, 5, 6)])
    (tmp_path / "t.idx").write_text(f"\n6   {third}\r\n7 \t0\n5\n{second}")
    assert found(tmp_path) == [("t.rec#7", "7", b"7"), ("t.rec#5", "5", b"5"), ("t.rec#6", "6", b"6")]


def test_without_an_idx_records_are_numbered_as_they_lie(tmp_path: Path) -> None:
    write(tmp_path / "t.rec", [(1, payload(b"a", 4)), (2, payload(b"bcd", 4)), (0, payload(b"", 2, 3))], idx=False)
    assert found(tmp_path) == [("t.rec#0", "4", b"a"), ("t.rec#1", "4", b"bcd")]


def test_several_files_of_a_folder_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in "ba":
        write(tmp_path / f"{name}.rec", [(0, payload(name.encode(), 1))])
    assert [one[0] for one in found(tmp_path)] == ["a.rec#0", "b.rec#0"]


# ------------------------------------------------------------------------------------------------ damage


@pytest.mark.parametrize("idx", [True, False])
@pytest.mark.parametrize("cut", [3, 20, 33])
def test_a_file_cut_short_is_an_error_that_says_where(tmp_path: Path, idx: bool, cut: int) -> None:
    rec = tmp_path / "train.rec"
    offsets = write(rec, [(n, payload(b"image" * 9, 1)) for n in range(4)], idx=idx)
    rec.write_bytes(rec.read_bytes()[: offsets[2] + cut])
    message = rf"train\.rec: ends at byte {offsets[2] + cut}, within or before" if idx else rf"at byte {offsets[2]}"
    with pytest.raises(ShardError, match=message):
        listed(tmp_path)


def test_a_file_cut_inside_the_last_part_of_a_record_is_an_error_without_an_idx(tmp_path: Path) -> None:
    rec = tmp_path / "train.rec"
    write(rec, [(0, payload(MAGIC + b"image" * 9, 1))], idx=False)
    rec.write_bytes(rec.read_bytes()[:-8])
    with pytest.raises(ShardError, match=r"train\.rec: cut short in the record at byte 32"):
        listed(tmp_path)


def test_a_wrong_magic_ends_a_file_without_an_idx_and_costs_one_image_with_it(
    tmp_path: Path, image: Callable[..., bytes]
) -> None:
    rec = tmp_path / "src" / "train.rec"
    images = [image(n) for n in range(20)]
    offsets = write(rec, [(n, payload(images[n], n // 2)) for n in range(20)])
    data = bytearray(rec.read_bytes())
    data[offsets[3]] ^= 1
    rec.write_bytes(data)
    reason = f"no part of a record at byte {offsets[3]}"
    with pytest.raises(BadImage, match=reason):
        listed(rec.parent).entries[3].read()
    shards = pack(rec.parent, tmp_path / "set", source="recordio", max_left_out="1", workers=2)
    assert shards.index["left_out"] == {reason: 1} and shards.index["identities"] == 10
    packed = {origin: sample.image for origin, sample in zip(shards.origins(0), shards.samples_in_order(), strict=True)}
    assert packed == {f"src:train.rec#{n}": images[n] for n in range(20) if n != 3}
    rec.with_suffix(".idx").unlink()
    with pytest.raises(ShardError, match=rf"train\.rec: wrong magic at byte {offsets[3]}, what follows"):
        listed(rec.parent)


def test_a_record_that_is_none_is_named_when_it_is_read(tmp_path: Path) -> None:
    offsets = write(tmp_path / "t.rec", [(0, b"short"), (1, payload(MAGIC + b"x", 1)), (2, payload(b"x", 1))])
    (tmp_path / "t.idx").write_text(f"0 0\n1 {offsets[1]}\n2 {offsets[2]}\n3 {offsets[1] + 32}\n")
    short, _, middle, _ = listed(tmp_path).entries
    with pytest.raises(BadImage, match="a record of 5 bytes, without label and image"):
        short.read()
    with pytest.raises(BadImage, match=f"no part of a record at byte {offsets[1] + 32}"):
        middle.read()  # the last part of another
    (tmp_path / "t.rec").write_bytes((tmp_path / "t.rec").read_bytes()[: offsets[1] + 40])
    (tmp_path / "t.idx").write_text(f"0 0\n1 {offsets[1]}\n")
    with pytest.raises(BadImage, match=f"1 bytes should follow byte {offsets[1] + 32}, but the file ends"):
        listed(tmp_path).entries[1].read()


@pytest.mark.parametrize("text", ["0 0\nx 40\n", "0 0\n40\n", "0 -4\n", "0 0.5\n"])
def test_an_idx_of_anything_else_is_refused(tmp_path: Path, text: str) -> None:
    write(tmp_path / "t.rec", [(0, payload(b"image", 1))])
    (tmp_path / "t.idx").write_text(text)
    with pytest.raises(ShardError, match=r"t\.idx: not a key and an offset a line .*; get it again, or remove it"):
        listed(tmp_path)


@pytest.mark.parametrize("missing", [0, 2, 3, 5])
def test_an_idx_that_was_cut_short_is_an_error_that_says_what_it_lacks(tmp_path: Path, missing: int) -> None:
    images = [b"a", b"bc", b"def", MAGIC + b"several parts", b"after", b"last!"]
    offsets = write(tmp_path / "t.rec", [(n, payload(image, 1)) for n, image in enumerate(images)])
    assert len(found(tmp_path)) == 6
    lines = (tmp_path / "t.idx").read_text().splitlines()
    del lines[missing]
    (tmp_path / "t.idx").write_text("\n".join(lines))
    message = rf"t\.idx: does not name the record at byte {offsets[missing]} of t\.rec; get it again, or remove it"
    with pytest.raises(ShardError, match=message):
        listed(tmp_path)


def test_a_place_without_records_or_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"no \.rec in it"):
        listed(tmp_path)
    write(tmp_path / "t.rec", [(0, payload(b"", 1, 2))])
    with pytest.raises(ShardError, match="no images in its records"):
        listed(tmp_path)


def test_a_listing_takes_some_thirty_bytes_a_record(tmp_path: Path) -> None:
    one = record(payload(b"", 1, flag=1) + b"image...")
    (tmp_path / "t.rec").write_bytes(one * 20_000)
    (tmp_path / "t.idx").write_text("".join(f"{n} {n * len(one)}\n" for n in range(20_000)))
    listed(tmp_path)
    tracemalloc.start()
    listing = listed(tmp_path)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(listing.entries) == 20_000 and 25 < held / 20_000 < 36


# ------------------------------------------------------------------------------------------------ real files


def test_every_real_record_is_what_another_parser_finds(real: Path) -> None:
    listing = listed(real / "recordio")
    assert Counter(entry.origin.partition("#")[0] for entry in listing.entries) == {"testing.rec": 217, "train.rec": 8}
    assert not listing.left_out
    for name in ("testing", "train"):
        records = parse(real / "recordio" / f"{name}.rec")
        lines = (real / "recordio" / f"{name}.idx").read_text().splitlines()
        places = {int(key): int(offset) for key, offset in map(str.split, lines)}
        images = [entry for entry in listing.entries if entry.origin.startswith(name)]
        assert len(images) == len(records) == len(places)
        for entry in images:
            flag, label, image = records[places[int(entry.origin.partition("#")[2])]]
            assert (flag, str(int(label)), len(image)) == (0, entry.identity, entry.size_bytes)
            assert entry.read() == image
            assert decode(image).shape == (112, 112, 3)
