"""Tars that others have written: their long names and extended headers, and compressed ones."""

import errno
import gzip
import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from webdataset.writer import TarWriter

from shards.errors import Broken, ShardError
from shards.pack import pack
from shards.pixels import decode
from shards.sample import Face
from shards.sources import entries
from shards.sources.listing import Listing

ROOT = Path(__file__).parents[2]
LONG = "n" * 70 + "/" + "m" * 120 + "/" + "k" * 90  # in no single field of a header


def listed(src: Path) -> Listing:
    return entries("tar", src, split=None, protocol="argmax")


def found(src: Path) -> list[tuple[str, bytes, str | None]]:
    return [(entry.origin, entry.read(), entry.identity) for entry in listed(src).entries]


def write(tar: Path, members: list[tuple[str, bytes]], format: int = tarfile.USTAR_FORMAT) -> bytes:
    """A tar by Python; returns its bytes."""
    with tarfile.open(tar, "w", format=format) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 1.5 if format == tarfile.PAX_FORMAT else 1  # type: ignore[assignment]
            archive.addfile(info, io.BytesIO(data))
    return tar.read_bytes()


def many(count: int = 40) -> list[tuple[str, bytes]]:
    """Members of so many samples: an image of its own bytes and who it is."""
    parts = [((f"{n:04d}.jpg", b"%d" % n * n * 7), (f"{n:04d}.cls", b"%d" % (n % 5))) for n in range(count)]
    return [member for sample in parts for member in sample]


@pytest.fixture
def tmpdir_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty TMPDIR; it must be empty again in the end."""
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    left = [file.name for file in folder.iterdir() if not file.name.startswith("pymp-")]  # multiprocessing's own
    assert left == []


# ------------------------------------------------------------------------------------------------ headers


@pytest.mark.parametrize("mtime", [None, 1.5, 0])
def test_what_webdataset_writes_by_default_is_read(tmp_path: Path, mtime: float | None) -> None:
    with TarWriter(str(tmp_path / "a.tar"), mtime=mtime) as writer:
        writer.write({"__key__": LONG, "jpg": b"long name", "cls": 93430})
        writer.write({"__key__": "née/größe", "png": b"not ascii", "json": {"expression": "fear", "width": 112}})
        writer.write({"__key__": "plain", "jpg": b"plain"})
    with tarfile.open(tmp_path / "a.tar") as archive:
        headers = {member.name: member.pax_headers for member in archive}
    assert ("mtime" in headers["plain.jpg"]) == (mtime != 0) and "path" in headers[f"{LONG}.jpg"]
    assert found(tmp_path) == [
        (f"a.tar/{LONG}.jpg", b"long name", "93430"),
        ("a.tar/née/größe.png", b"not ascii", None),
        ("a.tar/plain.jpg", b"plain", None),
    ]
    assert [entry.face for entry in listed(tmp_path).entries] == [None, Face("fear"), None]


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_long_names_and_links_and_folders_of_a_foreign_tar_are_read(tmp_path: Path, format: int) -> None:
    members = [(f"{LONG}.jpg", b"1st"), ("b.jpg", b"second"), (f"{LONG}2.jpg", b"3"), ("d.jpg", bytes(2000))]
    with tarfile.open(tmp_path / "a.tar", "w", format=format, pax_headers={"comment": "of all"}) as archive:
        folder, link = tarfile.TarInfo("n" * 110), tarfile.TarInfo("link.jpg")
        folder.type, link.type, link.linkname = tarfile.DIRTYPE, tarfile.SYMTYPE, "b" * 130
        archive.addfile(folder)
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
            archive.addfile(link)
    assert [(origin, data) for origin, data, _ in found(tmp_path)] == [
        (f"a.tar/{name}", data) for name, data in members
    ]


def add_link(archive: tarfile.TarFile, name: str, kind: bytes, leads_to: str) -> None:
    link = tarfile.TarInfo(name)
    link.type, link.linkname = kind, leads_to
    archive.addfile(link)


@pytest.mark.parametrize("kind", [tarfile.LNKTYPE, tarfile.SYMTYPE])
def test_a_link_in_place_of_an_image_is_named_and_one_to_anything_else_passed_over(tmp_path: Path, kind: bytes) -> None:
    write(tmp_path / "a.tar", many(3))
    with tarfile.open(tmp_path / "a.tar", "a") as archive:
        add_link(archive, "0007.jpg", kind, "0001.jpg")
        add_link(archive, "today", kind, "yesterday")
    assert len(listed(tmp_path).entries) == 3
    (left,) = listed(tmp_path).left_out
    assert left.path == "a.tar/0007.jpg" and left.reason.startswith("a link inside of the tar") and left.counts


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("how", ["a block of zeros", "two in one"])
def test_what_lies_behind_the_end_of_a_tar_is_not_lost_in_silence(tmp_path: Path, how: str, compressed: bool) -> None:
    one = write(tmp_path / "a.tar", [(f"{n:04d}.jpg", b"x" * 700) for n in range(20)])  # 1536 bytes a member
    broken = one + one if how == "two in one" else one[:15360] + bytes(512) + one[15872:]
    (tmp_path / "a.tar").write_bytes(gzip.compress(broken) if compressed else broken)
    place = 30720 if how == "two in one" else 15360
    with pytest.raises(
        ShardError, match=rf"a\.tar: more follows behind its end, which is at byte {place}: damaged, or"
    ):
        listed(tmp_path)


def test_any_padding_of_zeros_may_follow_a_tar(tmp_path: Path) -> None:
    data = write(tmp_path / "a.tar", many(3))
    (tmp_path / "a.tar").write_bytes(data + bytes(3_000_017))
    assert len(listed(tmp_path).entries) == 3


def test_tars_without_a_usable_image_say_why_the_first_is_none(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", [("1.jpg", b"1"), ("1.json", b'{"expression": "glee"}')])
    with pytest.raises(ShardError, match=r"no images in its tars \(.*\); the first: a\.tar/1\.jpg: its json: unk"):
        listed(tmp_path)


# ------------------------------------------------------------------------------------------------ compressed


def test_compressed_tars_hold_the_same_as_they_do_unpacked(tmp_path: Path, tmpdir_of_ours: Path) -> None:
    for name, ending in [("a", ".tar.gz"), ("c", ".tgz"), ("d", ".tar")]:  # the last is called wrongly
        data = write(tmp_path / "plain.tar", [*many(), (f"{name}.jpg", name.encode())], tarfile.PAX_FORMAT)
        (tmp_path / "src").mkdir(exist_ok=True)
        (tmp_path / "src" / f"{name}{ending}").write_bytes(gzip.compress(data[:5000]) + gzip.compress(data[5000:]))
    shutil.move(tmp_path / "plain.tar", tmp_path / "src" / "b.tar")
    expected = [(name, data, None) for name, data in many() if name.endswith("jpg")]
    expected = [(name, data, str(int(name[:4]) % 5)) for name, data, _ in expected]  # type: ignore[misc]
    for tar, extra in [("a.tar.gz", "a"), ("b.tar", "d"), ("c.tgz", "c"), ("d.tar", "d")]:
        all_of_it = [*expected, (f"{extra}.jpg", extra.encode(), None)]
        assert found(tmp_path / "src" / tar) == [(f"{tar}/{name}", data, who) for name, data, who in all_of_it]
    assert len(found(tmp_path / "src")) == 4 * 41


def test_entries_of_a_compressed_tar_are_read_by_other_processes_and_after_the_listing(
    tmp_path: Path, tmpdir_of_ours: Path
) -> None:
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(write(tmp_path / "b.tar", many())))
    one = listed(tmp_path / "a.tar.gz").entries[31]  # alone: the listing is gone
    assert one.read() == b"31" * 31 * 7
    code = "import pickle, sys; print([entry.read() for entry in pickle.load(sys.stdin.buffer)])"
    chosen = [listed(tmp_path / "a.tar.gz").entries[n] for n in (31, 2, 17)]
    said = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(chosen), env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True, check=True,
    )  # fmt: skip
    assert said.stdout.decode().strip() == str([b"31" * 31 * 7, b"2" * 2 * 7, b"17" * 17 * 7])


def test_a_compressed_tar_is_packed_by_many_processes_as_its_plain_form(
    tmp_path: Path, image: Callable[..., bytes], tmpdir_of_ours: Path
) -> None:
    tar = tmp_path / "faces.tar"
    data = write(tar, [(f"{n:03d}.jpg", image(n)) for n in range(60)])
    (tmp_path / "faces.tar.gz").write_bytes(gzip.compress(data))
    for src, out, workers in [(tar, "plain", 1), (tmp_path / "faces.tar.gz", "packed", 2)]:
        pack(src, tmp_path / out, source="tar", name="faces", shard_mb=0.016, workers=workers)
    plain, packed = (json.loads((tmp_path / out / "index.json").read_text()) for out in ("plain", "packed"))
    assert [shard["sha256"] for shard in plain["shards"]] == [shard["sha256"] for shard in packed["shards"]]
    assert len(plain["shards"]) > 3 and plain["samples"] == 60


def test_nothing_is_left_of_an_unpacked_tar_when_its_process_is_killed(tmp_path: Path, tmpdir_of_ours: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(write(tmp_path / "b.tar", many())))
    code = """if True:
        import os, signal, sys
        from pathlib import Path
        from shards.sources import entries
        kept = entries("tar", Path(sys.argv[1]), split=None, protocol="argmax")
        print(kept.entries[3].read().decode(), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.tar.gz")], env=environment, capture_output=True, text=True
    )
    assert (ended.returncode, ended.stdout) == (-signal.SIGKILL, "3" * 21 + "\n")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("cut short", "not a whole tar, unpacking ended with: Compressed file ended"),
        ("bit of content flipped", "not a whole tar, unpacking ended with: CRC"),
        ("no such block", "not a whole tar, unpacking ended with: .*invalid block type"),
        ("tar cut before", "damaged or cut short at byte 10240; what follows is lost"),
        ("no tar", "damaged or cut short at byte 0; what follows is lost"),
    ],
)
def test_a_damaged_compressed_tar_is_an_error(tmp_path: Path, tmpdir_of_ours: Path, damage: str, message: str) -> None:
    data = write(tmp_path / "plain", [(f"{n:04d}.jpg", os.urandom(400)) for n in range(40)])
    packed = bytearray(gzip.compress(data))
    (tmp_path / "a.tar.gz").write_bytes(packed)
    if damage == "cut short":
        del packed[9000:]
    elif damage == "bit of content flipped":
        packed[9000] ^= 4
    elif damage == "no such block":
        packed[10] = 7
    else:
        packed[:] = gzip.compress(data[:10240] if damage == "tar cut before" else b"a face")
    (tmp_path / "b.tar.gz").write_bytes(packed)
    with pytest.raises(ShardError, match=rf"b\.tar\.gz: {message}"):
        listed(tmp_path)


def test_no_room_for_the_unpacked_copy_is_said_before_it_is_made(
    tmp_path: Path, tmpdir_of_ours: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write(tmp_path / "b.tar", [("1.jpg", bytes(5_000_000))])
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(data))
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=4_000_000))
        with pytest.raises(ShardError) as refused:
            listed(tmp_path / "a.tar.gz")
    assert str(refused.value) == (
        f"{tmp_path / 'a.tar.gz'}: must be unpacked into a temporary file of about 0.01 GB, and only 0.00 GB are free "
        f"in {tmpdir_of_ours}; set TMPDIR to a folder that has the room"
    )


def test_a_disk_that_is_full_while_unpacking_is_said(tmp_path: Path) -> None:
    """By a limit on the size of a process's files, which is the same to it."""
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(write(tmp_path / "b.tar", [("1.jpg", bytes(5_000_000))])))
    code = """if True:
        import resource, signal, sys
        from pathlib import Path
        from shards.sources import entries
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, 3_000_000))
        try:
            entries("tar", Path(sys.argv[1]), split=None, protocol="argmax")
        except ValueError as error:
            print(type(error).__name__, error)
    """
    said = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, str(tmp_path / "a.tar.gz")],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.startswith("ShardError") and "there was no room for it in" in said.stdout
    assert said.stderr == ""


@pytest.mark.parametrize("name", ["a.tar.zst", "a.tar.xz", "a.tar.bz2", "a.tzst"])
def test_other_compressed_tars_are_refused_even_among_plain_ones(tmp_path: Path, name: str) -> None:
    write(tmp_path / "b.tar", many(1))
    (tmp_path / name).write_bytes(b"(\xb5/\xfd")
    for src in (tmp_path, tmp_path / name):
        with pytest.raises(ShardError, match=rf"{name}: only \.tar\.gz is unpacked here; unpack this first"):
            listed(src)


def test_a_real_compressed_tar_is_read_as_it_is(real: Path, tmpdir_of_ours: Path) -> None:
    listing = listed(real / "ferplus" / "ferplus_train.tar.gz")
    assert len(listing.entries) == 28558
    assert [left.path for left in listing.left_out] == ["ferplus_train.tar.gz/FER2013Train/label"]
    assert all(decode(listing.entries[n].read()).shape == (48, 48, 3) for n in (0, 4711, 28557))


def test_what_a_mac_puts_beside_files_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "a.tar", [(f"{mark}0001.{kind}", b"7") for kind in ("cls", "jpg") for mark in ("._", "")])
    (tmp_path / "._a.tar").write_bytes(b"no tar")
    assert found(tmp_path) == [("a.tar/0001.jpg", b"7", "7")] and not listed(tmp_path).left_out


def test_a_disk_that_does_not_answer_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.tar", many(3))

    def fails(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(tarfile, "open", fails)
    with pytest.raises(Broken, match=r"a\.tar: .*Input/output error.*look after the disk"):
        listed(tmp_path)
