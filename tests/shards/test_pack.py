"""Packing: the same bytes however it is done, whole or absent, and nothing lost in silence."""

import errno
import gc
import json
import math
import os
import resource
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset
from coded import coded
from PIL import Image

from shards.boxes import WHOLE
from shards.boxing import Boxing
from shards.errors import ShardError
from shards.index import ShardSet
from shards.pack import name_of, pack
from shards.plan import survey
from shards.prepare import Rules
from shards.sample import Face, Sample, to_json
from shards.sources.listing import Entry
from shards.verify import verify
from shards.workers import spread
from shards.writer import Task, write_shard, write_tar

Contents = Callable[[Path], dict[str, bytes]]

KILLED = """
import os, signal, sys
from shards.pack import name_of, pack

def kill(done, total):
    if os.listdir(f"{sys.argv[2]}.unfinished/rows"):
        os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    pack(*sys.argv[1:3], source="folder", name="made-up", shard_mb=0.016, workers=int(sys.argv[3]), progress=kill)
"""


def packing(faces: Path, out: Path, **how: Any) -> ShardSet:
    return pack(faces, out, **{"source": "folder", "name": "made-up", "shard_mb": 0.016, "workers": 1} | how)


def test_the_number_of_workers_changes_no_byte(
    packed: ShardSet, faces: Path, tmp_path: Path, read_folder: Contents
) -> None:
    packing(faces, tmp_path / "other", workers=2)
    assert read_folder(tmp_path / "other") == read_folder(packed.path)
    assert not (tmp_path / "other.unfinished").exists()


def test_another_seed_gives_another_order_of_the_same_images(packed: ShardSet, faces: Path, tmp_path: Path) -> None:
    other = packing(faces, tmp_path / "other", seed=1)
    one, two = ([sample.image for sample in shards.samples_in_order()] for shards in (packed, other))
    assert one != two and sorted(one) == sorted(two)


def test_shards_are_cut_by_size_and_mixed_by_identity(packed: ShardSet) -> None:
    sizes = [shard["bytes"] for shard in packed.index["shards"]]
    assert all(8_000 < size < 30_000 for size in sizes)
    assert all(len({origin.split("/")[0] for origin in packed.origins(k)}) > 3 for k in range(len(sizes) - 1))


def test_plain_webdataset_reads_a_packed_set(tmp_path: Path, faces: Path) -> None:
    lines = [{"path": str(path.relative_to(faces)), "expression": "fear"} for path in faces.rglob("*.png")]
    (faces / "labels.jsonl").write_text("\n".join(map(json.dumps, lines)))
    shards = packing(faces, tmp_path / "labeled")
    urls = [str(path) for path in sorted(shards.path.glob("*.tar"))]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves the tars open
        found = list(webdataset.WebDataset(urls, shardshuffle=False).decode("pil"))
        gc.collect()
    assert [sample["__key__"] for sample in found] == [f"{number:09d}" for number in range(60)]
    images = [sample.get("jpg", sample.get("png")) for sample in found]
    assert all(isinstance(image, Image.Image) and image.size == (24, 24) for image in images)
    faces_found = [sample["json"] for sample in found if "json" in sample]
    assert faces_found == [{"box": [0, 0, 1, 1], "box_source": "template", "expression": "fear"}] * 12
    assert shards.index["expressions"] == {"fear": 12}


@pytest.mark.parametrize("end", ["", "/", ".tar", ".tar.gz", ".tgz", ".rec", ".parquet", ".csv"])
def test_a_set_is_named_after_its_source(end: str) -> None:
    assert name_of(Path(f"my faces{end}")) == "my-faces"
    assert name_of(Path("v1.0_x")) == "v1-0_x"


def test_a_broken_image_is_left_out_by_name_and_leaves_a_gap(packed: ShardSet, faces: Path, tmp_path: Path) -> None:
    path = packed.origins(0)[5].partition(":")[2]
    (faces / path).write_bytes((faces / path).read_bytes()[:300])
    with pytest.raises(ShardError, match=rf"1 of 60 images cannot be packed, 0 may be left out[^$]*{path}"):
        packing(faces, tmp_path / "other")
    with pytest.raises(ShardError, match="its packing is unfinished"):
        ShardSet.open(tmp_path / "other")
    listed = (tmp_path / "other.unfinished" / "left_out.jsonl").read_text()
    assert json.loads(listed)["path"] == path
    other = packing(faces, tmp_path / "other", max_left_out="2%")
    line = json.loads((other.path / "left_out.jsonl").read_text())
    assert line["path"] == path and line["reason"].startswith("cannot decode")
    assert other.samples == 59 and other.index["left_out"] == {line["reason"]: 1}
    assert not other.keys(0)[5].endswith("5") and other.keys(1)[0] == packed.keys(1)[0]
    keys = [key for shard in range(len(other.counts)) for key in other.keys(shard)]
    assert keys == [sample.key for sample in other.samples_in_order()] and other.index["shards"][0]["gaps"] == [5]
    assert verify(other.path, decode=True)["damaged"] == []


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_packer_leaves_no_set_and_its_work_is_continued(
    packed: ShardSet, faces: Path, tmp_path: Path, read_folder: Contents, workers: int
) -> None:
    out = tmp_path / "other"
    (tmp_path / "killed.py").write_text(KILLED)
    command = [sys.executable, str(tmp_path / "killed.py"), str(faces), str(out), str(workers)]
    repository = Path(__file__).parents[2]
    ended = subprocess.run(command, env=os.environ | {"PYTHONPATH": str(repository)}, check=False)
    assert ended.returncode == -9 and not out.exists()
    done = [int(row.stem) for row in (tmp_path / "other.unfinished" / "rows").iterdir()]
    assert 0 < len(done) < len(packed.counts)  # of two processes, no more than four are under way
    finished = [tmp_path / "other.unfinished" / "set" / f"made-up-{shard:06d}.tar" for shard in done]
    finished_at = [file.stat().st_mtime_ns for file in finished]
    packing(faces, out)
    assert read_folder(out) == read_folder(packed.path)
    assert [(out / file.name).stat().st_mtime_ns for file in finished] == finished_at
    assert not (tmp_path / "other.unfinished").exists()


def test_two_packers_do_not_write_one_set(faces: Path, tmp_path: Path) -> None:
    def second(done: int, total: int) -> None:
        with pytest.raises(ShardError, match="another packer is at work"):
            packing(faces, tmp_path / "other")

    packing(faces, tmp_path / "other", progress=second)


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(ShardError, match=r"0\.00 GB are free there; make room"):
        packing(faces, tmp_path / "other")


def test_images_that_are_reduced_are_planned_by_what_they_will_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, usage = np.random.default_rng(0), shutil.disk_usage(tmp_path)
    for number in range(20):
        noise = Image.fromarray(rng.integers(0, 256, (120, 120, 3), dtype=np.uint8))
        put(tmp_path / "src" / f"{number}.png", coded(noise, "png"))
    assert sum(file.stat().st_size for file in (tmp_path / "src").iterdir()) > 800_000
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    shards = packing(tmp_path / "src", tmp_path / "set", max_px=30, shard_mb=0.02)
    assert 3 <= len(shards.counts) <= 5 and all(shard["bytes"] > 10_000 for shard in shards.index["shards"])


def test_work_begun_under_the_sizes_of_the_source_is_another_packing_only_where_images_are_reduced() -> None:
    images = [Entry(f"{size}.jpg", size, bytes) for size in (100, 2000, 7000)]
    sizes, digest = survey(images, [])
    assert survey(images, [], most_bytes=7000)[1] == digest
    smaller, other = survey(images, [], most_bytes=6999)
    assert other != digest and smaller.tolist() == sizes.tolist()
    assert survey(images, [], most_bytes=1500)[0].tolist() == [1024, 2048, 2048]


def test_a_disk_that_runs_full_stops_the_packing_which_can_then_go_on(
    packed: ShardSet, faces: Path, tmp_path: Path, read_folder: Contents
) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (15_000, hard))  # stands for a full disk: a write fails half-way
    try:
        with pytest.raises(ShardError, match=r"the set takes about 0\.00 GB\. Make room and run the same command"):
            packing(faces, tmp_path / "other")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    assert not (tmp_path / "other").exists()
    packing(faces, tmp_path / "other")
    assert read_folder(tmp_path / "other") == read_folder(packed.path)


def test_a_folder_that_holds_something_is_not_written_into(packed: ShardSet, faces: Path, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="set holds a shard set already; choose another OUT"):
        packing(faces, packed.path)
    (tmp_path / "full" / "mine").mkdir(parents=True)
    with pytest.raises(ShardError, match="full is not an empty folder already"):
        packing(faces, tmp_path / "full")
    (tmp_path / "empty").mkdir()
    assert packing(faces, tmp_path / "empty").samples == 60


def test_reasons_are_counted_by_kind_and_listed_with_their_numbers(tmp_path: Path, image: Callable[..., bytes]) -> None:
    for number in range(8):
        put(tmp_path / "src" / f"{number}.jpg", image(number)[: -200 - number] if number < 5 else image(number))
    put(tmp_path / "src" / "deep.png", coded(Image.fromarray(np.zeros((8, 8), np.uint16)), "png"))
    other = packing(tmp_path / "src", tmp_path / "set", max_left_out="100%")
    assert other.index["left_out"] == {
        "cannot decode: image file is truncated (N bytes not processed)": 5,
        "mode I;16: pack with --transcode, or convert it to 8-bit RGB first": 1,
    }
    lines = (other.path / "left_out.jsonl").read_text().splitlines()
    assert len({json.loads(line)["reason"] for line in lines}) > 3


def test_what_the_index_vouches_for_is_on_the_disk_before_it(
    faces: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []

    def fsync(fd: int) -> None:
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{fd}")))

    monkeypatch.setattr(os, "fsync", fsync)
    packing(faces, tmp_path / "other", duplicates="report")
    assert synced[0] == "plan.part" and synced[-3:] == ["left_out.jsonl", "duplicates.jsonl", "index.json"]


def test_a_plan_that_is_there_is_not_written_again(faces: Path, tmp_path: Path) -> None:
    plan = tmp_path / "other.unfinished" / "plan.json"

    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        written.append((plan.stat().st_ino, plan.stat().st_mtime_ns))
        raise Stopped

    written: list[tuple[int, int]] = []
    for _ in range(2):
        with pytest.raises(Stopped):
            packing(faces, tmp_path / "other", progress=stop)
    assert written[0] == written[1]


def test_a_source_of_nothing_but_broken_images_makes_no_set(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "1.jpg").write_bytes(b"")
    with pytest.raises(ShardError, match=r"no image can be packed; the first: 1\.jpg: empty file"):
        packing(tmp_path / "src", tmp_path / "out", max_left_out="100%")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"source": "folders"}, "sources are folder, "),
        ({"name": "a.b"}, "use letters, digits"),
        ({"split": "dev"}, "splits are train, valid, test"),
        ({"protocol": "mean"}, "protocols are argmax, majority"),
        ({"shard_mb": 0}, "above 0 MB"),
        ({"shard_mb": math.inf}, "a finite one"),
        ({"max_px": 0}, "at least 1 px"),
        ({"duplicates": "some"}, "unknown duplicates 'some'; say keep, drop, conflicts, report"),
        ({"duplicates": "drop", "decode_check": False}, "needs the decode check"),
        ({"duplicates": "report", "decode_check": False}, "needs the decode check"),
        ({"max_left_out": "some"}, "give a count, 25, or a percentage, 1%"),
        ({"max_left_out": "1.5"}, "give a count, 25, or a percentage, 1%"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(faces: Path, tmp_path: Path, wrong: Any, message: str) -> None:
    with pytest.raises(ShardError, match=message):
        packing(faces, tmp_path / "other", **wrong)
    assert os.listdir(tmp_path) == ["faces"]


@pytest.mark.parametrize("given", [{"split": "test"}, {"protocol": "majority"}])
def test_a_split_of_a_source_that_knows_none_is_refused(faces: Path, tmp_path: Path, given: dict[str, str]) -> None:
    with pytest.raises(ShardError, match=r"knows no (splits|protocols), so no"):
        pack(faces, tmp_path / "out", source="folder", **given)  # type: ignore[arg-type]


def test_a_set_is_not_packed_into_its_source(faces: Path) -> None:
    with pytest.raises(ShardError, match="lies inside of SRC"):
        packing(faces, faces / "set")


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="nowhere: not there"):
        packing(tmp_path / "nowhere", tmp_path / "out")


def test_progress_counts_every_image_up_to_the_last(faces: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    packing(faces, tmp_path / "other", progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == [*range(1, 61), 60] and {total for _, total in seen} == {60}


def test_a_packed_set_can_be_packed_again_from_its_tars(packed: ShardSet, tmp_path: Path) -> None:
    again = pack(packed.path, tmp_path / "again", source="tar", workers=1)
    one, two = (sorted(s.image for s in shards.samples_in_order()) for shards in (packed, again))
    assert one == two and again.name == "set"


def test_a_killed_packing_process_is_an_error_with_a_way_out(tmp_path: Path) -> None:
    dying = Entry("1.jpg", 1, partial(os._exit, 1))
    task = Task("set", "set-000000", 0, [dying], tmp_path, tmp_path / "row", tmp_path / "parts", Boxing(), Rules())
    with pytest.raises(ShardError, match=r'a packing process was killed.*needs `if __name__ == "__main__":` before it'):
        list(spread(write_shard, [task, task], 2, lambda done: None))


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def test_what_was_done_to_an_image_stands_with_it_and_in_the_index(tmp_path: Path) -> None:
    src, picture, exif = tmp_path / "src", Image.linear_gradient("L").resize((40, 20)), Image.Exif()
    exif[0x0112] = 6
    put(src / "plain.jpg", coded(picture, "jpeg"))
    put(src / "turned.jpg", coded(picture, "jpeg", exif=exif))
    put(src / "labeled.bmp", coded(picture, "bmp"))
    put(src / "boxed.gif", coded(picture, "gif"))
    labels = [
        {"path": "labeled.bmp", "expression": "fear"},
        {"path": "boxed.gif", "expression": "anger", "box": [0.25, 0, 0.75, 1]},
    ]
    put(src / "labels.jsonl", "\n".join(map(json.dumps, labels)).encode())
    shards = packing(src, tmp_path / "set", transcode=True, shard_mb=1)
    found = dict(zip(shards.origins(0), shards.samples_in_order(), strict=True))
    assert found["made-up:plain.jpg"].face is None
    assert found["made-up:turned.jpg"].face == Face(made="rotated, jpg")
    assert found["made-up:labeled.bmp"].face == Face("fear", None, WHOLE, "template", "from bmp, png")
    boxed = Face("anger", None, (0.25, 0.0, 0.75, 1.0), "annotation", "from gif, png")
    assert found["made-up:boxed.gif"].face == boxed
    assert shards.index["made"] == {"from bmp, png": 1, "from gif, png": 1, "rotated, jpg": 1}
    assert shards.index["image_px"]["min"] == [20, 20] and shards.index["image_px"]["max"] == [40, 40]
    assert verify(shards.path, decode=True)["damaged"] == []

    again = pack(shards.path, tmp_path / "again", source="tar", max_px=30, workers=1)
    made = sorted(sample.face.made for sample in again.samples_in_order() if sample.face and sample.face.made)
    assert made == [
        "from bmp, png; reduced, jpg",
        "from gif, png; reduced, jpg",
        "reduced, jpg",
        "rotated, jpg; reduced, jpg",
    ]
    faces = {sample.face for sample in again.samples_in_order() if sample.face and not sample.face.expression}
    assert faces == {Face(made="reduced, jpg"), Face(made="rotated, jpg; reduced, jpg")}  # no box for them


def test_without_transcode_the_reason_names_the_way(tmp_path: Path) -> None:
    put(tmp_path / "src" / "1.jpg", coded(Image.new("L", (20, 20)), "jpeg"))
    put(tmp_path / "src" / "2.bmp", coded(Image.new("L", (20, 20)), "bmp"))
    shards = packing(tmp_path / "src", tmp_path / "set", max_left_out="1")
    assert shards.index["left_out"] == {"a bmp: pack with --transcode, or convert it to png first": 1}
    assert "made" not in shards.index


def test_without_the_decode_check_the_tars_are_the_same_and_nothing_is_said_of_pixels(
    packed: ShardSet, faces: Path, tmp_path: Path, read_folder: Contents
) -> None:
    quick = packing(faces, tmp_path / "quick", decode_check=False, workers=2)
    before, after = read_folder(packed.path), read_folder(quick.path)
    assert after.pop("index.json") != before.pop("index.json")
    assert after == {name: data for name, data in before.items() if not name.endswith(".hashes")}
    assert quick.fingerprint == packed.fingerprint and quick.index["hashes"] is False
    assert quick.index["image_px"] == packed.index["image_px"] and not {"mean", "std"} & set(quick.index)
    with pytest.raises(ShardError, match=r"quick: packed without the decode check.* pack it again with it"):
        quick.hashes()
    assert quick.read(0, 0) == packed.read(0, 0)
    assert not {"hashes", "made"} & set(packed.index)


def test_without_the_decode_check_broken_pixels_are_packed_and_verify_finds_them(faces: Path, tmp_path: Path) -> None:
    file = faces / "person-00" / "000.png"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 0x55
    file.write_bytes(data)
    quick = packing(faces, tmp_path / "quick", decode_check=False)
    assert quick.samples == 60 and verify(quick.path)["damaged"] == []
    report = verify(quick.path, decode=True)
    assert report["other_pixels"] is None
    assert len(report["damaged"]) == 1 and "person-00/000.png" in report["damaged"][0]["where"]


def test_unfinished_work_of_another_packing_is_left_alone(faces: Path, tmp_path: Path) -> None:
    (faces / "person-00" / "000.png").write_bytes(b"broken")
    with pytest.raises(ShardError, match="cannot be packed"):
        packing(faces, tmp_path / "other")
    others = ({"seed": 1}, {"transcode": True}, {"max_px": 20}, {"decode_check": False}, {"duplicates": "report"})
    for other in others:
        with pytest.raises(ShardError, match="unfinished shards of another packing"):
            packing(faces, tmp_path / "other", **other)


def test_what_a_packing_left_that_was_killed_before_its_first_shard_counted_gets_into_no_other(
    packed: ShardSet, faces: Path, tmp_path: Path, read_folder: Callable[[Path], dict[str, bytes]]
) -> None:
    stray = tmp_path / "other.unfinished" / "set" / "old-000000.tar"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"of another")
    packing(faces, tmp_path / "other")
    assert read_folder(tmp_path / "other") == read_folder(packed.path)


def test_an_unreadable_file_is_left_out(faces: Path, tmp_path: Path) -> None:
    os.symlink("nowhere", faces / "gone.jpg")
    other = packing(faces, tmp_path / "other", max_left_out="1")
    assert other.index["left_out"] == {f"cannot read: {os.strerror(errno.ENOENT)}": 1}


@pytest.mark.parametrize("count", [0, 1, 6, 7, 40])
def test_tars_are_to_the_byte_what_webdataset_writes(tmp_path: Path, image: Callable[..., bytes], count: int) -> None:
    samples = [
        Sample(f"{n:09d}", image(n, 20 + 7 * n, "png"), "png" if n % 3 else "jpg", Face("fear") if n % 2 else None)
        for n in range(count)
    ]
    write_tar(tmp_path / "ours.tar", samples)
    with (tmp_path / "theirs.tar").open("wb") as file:
        with webdataset.TarWriter(file, encoder=False, mtime=0, user="", group="") as writer:
            for sample in samples:
                parts = {"__key__": sample.key, sample.extension: sample.image}
                writer.write(parts | ({"json": to_json(sample.face)} if sample.face else {}))
    assert (tmp_path / "ours.tar").read_bytes() == (tmp_path / "theirs.tar").read_bytes()


def test_mean_and_std_are_those_of_every_eighth_row_of_images_of_any_shape(tmp_path: Path) -> None:
    rng, src = np.random.default_rng(0), tmp_path / "src"
    shapes = [(70_000, 2), (1, 300), (300, 1), (17, 23)]
    pictures = [rng.integers(250, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    for picture in pictures:
        picture[::8] -= 9  # no other choice of pixels comes near
    for number, picture in enumerate(pictures):
        put(src / f"{number}.png", coded(Image.fromarray(picture), "png", compress_level=1))
    index = packing(src, tmp_path / "set", shard_mb=0.3).index
    values = np.concatenate([picture[::8].reshape(-1, 3) for picture in pictures]) / 255
    assert index["mean"] == values.mean(0).round(4).tolist() and index["std"] == values.std(0).round(4).tolist()
    assert index["image_px"] == {"min": [1, 1], "max": [300, 70_000], "mean": [81.5, 17579.5]}


def test_packing_by_many_processes_works_where_tmpdir_is_too_long_for_a_socket(
    faces: Path, tmp_path: Path, long_tmpdir: Path
) -> None:
    command = [sys.executable, "-m", "fer_scale", "pack", str(faces), str(tmp_path / "set"), "--name", "long"]
    command += ["--source", "folder", "--shard-mb", "0.016", "--workers", "2"]
    env = os.environ | {"TMPDIR": str(long_tmpdir)}
    subprocess.run(command, cwd=Path(__file__).parents[2], env=env, check=True)
    assert len(ShardSet.open(tmp_path / "set").counts) > 3


def test_packing_needs_no_torch() -> None:
    """Every process of a packer would carry it: half a GB."""
    code = "import sys, shards.pack; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=True)
