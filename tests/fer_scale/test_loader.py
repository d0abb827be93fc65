"""Batches: the same for any ranks and readers, whole in spite of damage, without what is excluded."""

import errno
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from damage import flip
from PIL import Image

from fer_scale import loader
from fer_scale.loader import Faces
from fer_scale.readers import Slots
from shards.errors import Broken, ShardError, UserError
from shards.index import ENTRY, ShardSet
from shards.mix import Mix, Part
from shards.order import Order, share
from shards.pack import pack
from shards.pixels import decode
from shards.remote import open_set
from shards.verify import verify

sys.path.append(str(Path(__file__).parents[1] / "shards"))
from servers import Web

ENV = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}


def read(
    faces: Faces,
    order: Order | Mix | None = None,
    *,
    ranks: int = 1,
    accumulation: int = 1,
    workers: int = 0,
    start: int = 0,
) -> list[np.ndarray]:
    """The global batches of steps start..6: ids, keys, sizes and all pixels of each, as one array of bytes."""
    order = order or Order(faces.counts, seed=3, batch=25)
    steps: list[list[np.ndarray]] = [[] for _ in range(start, 6)]
    for rank in range(ranks):
        share = loader.batches(
            faces,
            order,
            start_step=start,
            stop_step=6,
            rank=rank,
            ranks=ranks,
            accumulation=accumulation,
            workers=workers,
        )
        for step, batches in enumerate(share):
            for b in batches:
                flat = b.pixels.reshape(len(b.ids), -1).numpy()
                facts = np.concatenate([b.ids[:, None], b.keys[:, None].view("int64"), b.sizes], 1)
                steps[step].append(np.concatenate([facts.view("uint8").reshape(len(b.ids), -1), flat], 1))
    return [np.concatenate(parts) for parts in steps]


Read = tuple[Faces, Callable[[], Order | Mix]]


@pytest.fixture(params=["one set", "a mixture"])
def what(request: pytest.FixtureRequest, faces: Path, mixed_sizes: Path) -> Read:
    """Images, and their order without anything read yet; both pass the end of an epoch within six steps of 25."""
    if request.param == "one set":
        table = Faces([ShardSet.open(faces)], slot_px=128)
        return table, lambda: Order(table.counts, seed=3, batch=25)
    return mixture([ShardSet.open(faces), ShardSet.open(mixed_sizes)])


def mixture(sets: list[ShardSet]) -> Read:
    """The sets in the shares 0.7 and 0.3: 17.5 and 7.5 images a step."""
    table = Faces(sets, slot_px=128)
    parts = [
        Part(s.name, number, counts, Fraction(weight))
        for number, (s, counts, weight) in enumerate(zip(sets, table.counts_by_set(), (7, 3), strict=True))
    ]
    return table, lambda: Mix(parts, seed=3, batch=25)


def same(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6, 8])
def test_any_ranks_and_a_resume_at_any_step_give_the_same_global_batches(what: Read, ranks: int) -> None:
    table, order = what
    whole = read(table, order())
    for start in (0, 1, 4):
        assert same(read(table, order(), ranks=ranks, start=start), whole[start:])


@pytest.mark.parametrize(("ranks", "workers"), [(2, 1), (1, 2)])
def test_readers_of_a_mixture_in_other_processes_read_the_same(
    faces: Path, mixed_sizes: Path, ranks: int, workers: int
) -> None:
    table, order = mixture([ShardSet.open(faces), ShardSet.open(mixed_sizes)])
    whole = read(table, order())
    assert same(read(table, order(), ranks=ranks, accumulation=2, workers=workers, start=2), whole[2:])


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 6, 8])
def test_ranks_readers_and_resumes_give_the_same_global_batches_in_all_combinations(
    what: Read, ranks: int, workers: int
) -> None:
    table, order = what
    whole = read(table, order())
    for start in (0, 4):
        assert same(read(table, order(), ranks=ranks, workers=workers, start=start), whole[start:])


def test_each_batch_of_a_mixture_holds_its_share_of_each_set(faces: Path, mixed_sizes: Path) -> None:
    table, order = mixture([ShardSet.open(faces), ShardSet.open(mixed_sizes)])
    ids = [batch[:, :8].copy().view("int64")[:, 0] for batch in read(table, order())]
    assert [int((step < 110).sum()) for step in ids] == [17, 18, 17, 18, 17, 18]
    first = set(np.concatenate(ids)[np.concatenate(ids) >= 110].tolist())
    assert first <= set(range(110, 150)) and len(first) > 30, "45 images of a set of 40: an epoch, and some of the next"
    assert not set(ids[0].tolist()) & set(ids[1].tolist())


def test_ranks_micro_batches_and_a_seek_leave_every_global_batch_alone(faces: Path) -> None:
    table = Faces([ShardSet.open(faces)], slot_px=128)
    plain = read(table)
    assert [len(batch) for batch in plain] == [25] * 6
    for got in (read(table, ranks=3), read(table, ranks=2, accumulation=4)):
        assert all(np.array_equal(a, b) for a, b in zip(got, plain, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(read(table, start=4), plain[4:], strict=True))


def test_readers_in_other_processes_read_the_same(faces: Path) -> None:
    table = Faces([ShardSet.open(faces)], slot_px=128)
    assert all(np.array_equal(a, b) for a, b in zip(read(table, workers=2), read(table), strict=True))


def test_what_lay_in_a_slot_before_does_not_show_beside_a_smaller_image(tmp_path: Path) -> None:
    for number in range(12):
        (tmp_path / "src").mkdir(exist_ok=True)
        Image.new("RGB", (8 + 2 * number, 30 - 2 * number), (number, 2, 3)).save(tmp_path / f"src/{number}.png")
    table = Faces([pack(tmp_path / "src", tmp_path / "set", source="folder", workers=1)], slot_px=24)
    order = Order(table.counts, seed=0, batch=12)
    slots = order.slots(0, 0, 12)
    plain = table.batch(slots.shard, slots.row, slots.key)
    used = torch.full((13, 24, 24, 3), 255, dtype=torch.uint8)
    filled = table.batch(slots.shard, slots.row, slots.key, into=used)
    assert torch.equal(filled.pixels, plain.pixels) and np.array_equal(filled.ids, plain.ids)
    assert filled.pixels.data_ptr() == used.data_ptr() and int(used[12].min()) == 255
    for image, (height, width) in zip(plain.pixels, plain.sizes.tolist(), strict=True):
        assert not image[height:].any() and not image[:, width:].any() and image[:height, :width].any()


def test_slots_are_no_files_and_a_slot_is_used_again_after_the_last_one() -> None:
    before = os.listdir("/dev/shm")
    slots = Slots(3, (2, 4))
    slots[1][:] = 7
    assert torch.equal(slots[4], torch.full((2, 4), 7, dtype=torch.uint8)) and not slots[0].any()
    assert os.listdir("/dev/shm") == before


def test_a_set_far_away_gives_the_same_batches_and_each_shard_is_fetched_once(faces: Path, tmp_path: Path) -> None:
    web = Web(faces)
    try:
        far = Faces([open_set(web.url, tmp_path / "cache", 1)], slot_px=128)
        near = Faces([ShardSet.open(faces)], slot_px=128)
        for workers in (2, 0):
            assert all(np.array_equal(a, b) for a, b in zip(read(far, workers=workers), read(near), strict=True))
        fetched = [path for path in web.requests if path.endswith(".tar")]
        assert sorted(fetched) == sorted(set(fetched)) and len(fetched) == 3
    finally:
        web.stop()


def test_two_sets_are_numbered_one_after_the_other(faces: Path) -> None:
    one = ShardSet.open(faces)
    table = Faces([one, one], slot_px=128)
    assert sum(table.counts) == 220
    assert table.pixels(len(one.counts), 0)[0] == 110
    assert np.array_equal(table.pixels(len(one.counts), 0)[1], table.pixels(0, 0)[1])


def test_jpegs_smaller_than_their_slot_lie_in_its_upper_left_corner_and_the_rest_is_zero(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "src").mkdir()
    for number, (height, width) in enumerate([(64, 64), (64, 20), (9, 64), (33, 50), (1, 1), (63, 64)]):
        noise = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        noise.save(tmp_path / "src" / f"{number}.jpg", quality=90)
    jpegs = pack(tmp_path / "src", tmp_path / "set", source="folder", workers=1)
    rows = np.arange(6)
    used = torch.full((6, 64, 64, 3), 9, dtype=torch.uint8)  # a slot that another batch was in
    batch = Faces([jpegs], slot_px=64).batch(np.zeros(6, np.int64), rows, rows.astype(np.uint64), into=used)
    for row, (height, width) in enumerate(batch.sizes):
        slot = batch.pixels[row].numpy()
        assert np.array_equal(slot[:height, :width], decode(jpegs.read(0, row).image))
        assert not slot[height:].any() and not slot[:, width:].any()


def test_a_large_image_is_reduced_to_its_slot(faces: Path) -> None:
    table = Faces([ShardSet.open(faces)], slot_px=16)
    assert table.pixels(0, 0)[1].shape == (16, 16, 3)


def test_a_damaged_sample_is_replaced_by_one_of_its_shard_and_named(faces: Path, tmp_path: Path) -> None:
    shutil.copytree(faces, tmp_path / "faces")
    whole = Faces([ShardSet.open(faces)], slot_px=128)
    tar = tmp_path / "faces" / "faces-000001.tar"
    data = bytearray(tar.read_bytes())
    data[512 + 100] ^= 1  # one bit of the first image
    tar.write_bytes(bytes(data))
    hurt = Faces([ShardSet.open(tmp_path / "faces")], slot_px=128)
    victim = whole.pixels(1, 0)[0]
    order = Order(whole.counts, seed=3, batch=25)
    lines = []
    for step in range(5):
        slots = order.slots(step, 0, 25)
        good, bad = (f.batch(slots.shard, slots.row, slots.key) for f in (whole, hurt))
        lines += bad.bad
        same = good.ids != victim
        assert len(bad.ids) == 25 and (bad.ids != victim).all()
        assert np.array_equal(good.ids[same], bad.ids[same])
        assert all(1 == np.searchsorted(np.cumsum(whole.counts), i, "right") for i in bad.ids[~same])
    assert lines and all("faces-000001.tar[000000] faces:" in line for line in lines)


def test_of_a_hundred_flipped_bits_each_is_met_named_and_replaced_alike_on_any_ranks(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    for number, noise in enumerate(np.random.default_rng(0).integers(0, 256, (400, 8, 8, 3), dtype=np.uint8)):
        Image.fromarray(noise).save(tmp_path / f"src/{number:03d}.png")
    whole = pack(tmp_path / "src", tmp_path / "set", source="folder", shard_mb=0.3, workers=1)
    everyone = [(shard, row) for shard, count in enumerate(whole.counts) for row in range(count)]
    draw = random.Random(5)
    victims = draw.sample(everyone, 100)
    for shard, row in victims:
        offset, length, _ = ENTRY.unpack_from(whole.file(shard, "idx").read_bytes(), row * ENTRY.size)
        flip(whole.file(shard, "tar"), offset * 512 + draw.randrange(length), 1 << draw.randrange(8))
    hurt = ShardSet.open(whole.path)
    named = {hurt.where(shard, row) for shard, row in victims}
    found = [each["where"] for each in verify(hurt.path)["damaged"]]
    assert {where for where in found if "[" in where} == named and len(named) == 100

    table = Faces([hurt], slot_px=128)
    once, bad = read_naming(table, 1)
    assert [len(batch) for batch in once] == [25] * 16 and {line.split(": ")[0] for line in bad} == named
    for ranks in (2, 3, 4, 6, 8):
        again, named_again = read_naming(table, ranks)
        assert same(once, again) and sorted(named_again) == sorted(bad)


def read_naming(table: Faces, ranks: int) -> tuple[list[np.ndarray], list[str]]:
    """The pixels of 16 global batches of 25, an epoch of 400 faces, and what was replaced in them."""
    order, steps, bad = Order(table.counts, seed=3, batch=25), [], list[str]()
    for step in range(16):
        cuts = [share(rank, ranks, 25) for rank in range(ranks)]
        slots = [order.slots(step, cut.start, cut.stop) for cut in cuts]
        batches = [table.batch(s.shard, s.row, s.key) for s in slots]
        steps.append(np.concatenate([batch.pixels.numpy() for batch in batches]))
        bad += [line for batch in batches for line in batch.bad]
    return steps, bad


def test_a_shard_of_nothing_but_damage_ends_the_run(faces: Path, tmp_path: Path) -> None:
    shutil.copytree(faces, tmp_path / "faces")
    for tar in (tmp_path / "faces").glob("*.tar"):
        tar.write_bytes(bytes(tar.stat().st_size))
    table = Faces([ShardSet.open(tmp_path / "faces")], slot_px=128)
    slots = Order(table.counts, seed=3, batch=25).slots(0, 0, 25)
    with pytest.raises(ShardError, match="8 unreadable samples in a row: run `fer-scale verify`") as caught:
        table.batch(slots.shard, slots.row, slots.key)
    assert not isinstance(caught.value, Broken)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EREMOTEIO])
def test_a_disk_that_fails_ends_the_run_so_that_it_is_started_again(
    faces: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fails(*_: int) -> bytes:
        raise OSError(number, os.strerror(number))

    table = Faces([ShardSet.open(faces)], slot_px=128)
    slots = Order(table.counts, seed=3, batch=25).slots(0, 0, 25)
    monkeypatch.setattr(os, "pread", fails)
    with pytest.raises(Broken, match=rf"{os.strerror(number)}\n8 unreadable samples in a row: look after the disk"):
        table.batch(slots.shard, slots.row, slots.key)


def split_file(tmp_path: Path, one: ShardSet, keys: list[str], fingerprint: str | None = None) -> str:
    file = tmp_path / "split.json"
    file.write_text(json.dumps({"set": one.name, "fingerprint": fingerprint or one.fingerprint, "test": keys}))
    return str(file)


def test_what_is_excluded_is_never_read(faces: Path, tmp_path: Path) -> None:
    one = ShardSet.open(faces)
    keys = [key for number in range(len(one.counts)) for key in one.keys(number)]
    rows, fell_out = loader.without([one], (split_file(tmp_path, one, keys[5:40]) + "#test",))
    table = Faces([one], slot_px=128, rows=rows)
    assert sum(table.counts) == 75 and fell_out == [35]
    order = Order(table.counts, seed=0, batch=25)
    seen = {i for s in range(order.steps(2)) for i in table.batch(*_slots(order, s)).ids.tolist()}
    assert seen == set(range(5)) | set(range(40, 110))


def _slots(order: Order, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    slots = order.slots(step, 0, 25)
    return slots.shard, slots.row, slots.key


def test_the_same_file_with_other_keys_is_another_choice_of_images(faces: Path, tmp_path: Path) -> None:
    one, chosen = ShardSet.open(faces), []
    for keys in (["000000005"], ["000000006"], ["000000005"]):
        rows, _ = loader.without([one], (split_file(tmp_path, one, keys) + "#test",))
        chosen.append(Faces([one], slot_px=128, rows=rows).prints())
    assert chosen[0] == chosen[2] != chosen[1]
    assert Faces([one], slot_px=128).prints() == [one.fingerprint]


def test_an_exclusion_takes_the_copies_without_an_expression_along(faces: Path, tmp_path: Path) -> None:
    one = ShardSet.open(faces)
    content = {"set": one.name, "fingerprint": one.fingerprint, "test": ["000000001"], "excluded": ["000000002"]}
    (tmp_path / "split.json").write_text(json.dumps(content))
    assert loader.without([one], (f"{tmp_path / 'split.json'}#test",))[1] == [2]


@pytest.mark.parametrize("text", ["[]", '{"test": []}'])
def test_an_exclusion_by_a_file_that_is_no_split_is_refused(faces: Path, tmp_path: Path, text: str) -> None:
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(UserError, match="not a split file"):
        loader.without([ShardSet.open(faces)], (f"{tmp_path / 'split.json'}#test",))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_set_that_vanished_is_one_plain_message_from_readers_too(faces: Path, tmp_path: Path, workers: int) -> None:
    shutil.copytree(faces, tmp_path / "gone")
    table = Faces([ShardSet.open(tmp_path / "gone")], slot_px=128)
    for tar in (tmp_path / "gone").glob("*.tar"):
        tar.write_bytes(b"")
    with pytest.raises(ShardError) as caught:
        read(table, workers=workers)
    assert "unreadable samples in a row" in str(caught.value) and "Traceback" not in str(caught.value)


FAILS = """
from fer_scale.readers import ahead

class Counted:
    def __getitem__(self, at): return at

def main():
    stream = ahead(Counted(), range(10**9), 2)  # a name in a frame that the traceback keeps
    assert next(stream) > 0, "failed on purpose"

if __name__ == "__main__":
    try:
        main()
    except AssertionError as error:
        held = error
"""


def test_a_process_that_fails_does_not_wait_for_its_deaf_readers(tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text(FAILS)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "fails.py")], capture_output=True, text=True, timeout=120, env=ENV, check=False
    )
    assert done.returncode == 0, done.stderr


STUCK = """
import sys, threading, time
from multiprocessing import synchronize
from fer_scale import readers

def unlink(name, plain=synchronize.sem_unlink):
    plain(name)
    if threading.current_thread() is not threading.main_thread():
        time.sleep(10)  # a thread that the end of the process cuts off here leaves a warning

class OverADeadDisk:
    def __getitem__(self, at): return at if at < 2 else time.sleep(10_000)

def main():
    stream = readers.ahead(OverADeadDisk(), range(10**9), 2)
    next(stream), next(stream)
    if sys.argv[1] == "stops":
        stream.close()
    assert sys.argv[1] == "stops", "failed on purpose"

if __name__ == "__main__":
    readers._ENDING_S, synchronize.sem_unlink = 1.0, unlink
    try:
        main()
    except AssertionError as error:
        held = error
"""


@pytest.mark.parametrize("how", ["stops", pytest.param("fails", marks=pytest.mark.slow)])
def test_a_process_that_ends_does_not_wait_for_readers_that_hang(how: str, tmp_path: Path) -> None:
    (tmp_path / "stuck.py").write_text(STUCK)
    script = [sys.executable, str(tmp_path / "stuck.py"), how]
    done = subprocess.run(script, capture_output=True, text=True, timeout=120, env=ENV, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


KILLED = """
import multiprocessing, os, signal, threading, time
from fer_scale.readers import ahead

class Counted:
    def __getitem__(self, at): return at

def kill():
    while len(multiprocessing.active_children()) < 2:
        time.sleep(0.001)
    print(*(child.pid for child in multiprocessing.active_children()), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    threading.Thread(target=kill).start()
    next(ahead(Counted(), range(10**9), 2))
"""


def test_readers_end_with_a_rank_that_is_killed_while_they_start(tmp_path: Path) -> None:
    (tmp_path / "killed.py").write_text(KILLED)
    script = [sys.executable, str(tmp_path / "killed.py")]
    done = subprocess.run(script, stdout=subprocess.PIPE, text=True, timeout=120, env=ENV, check=False)
    readers = [int(pid) for pid in done.stdout.split()]
    assert done.returncode == -9 and len(readers) == 2
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in readers):
        assert time.monotonic() < deadline, f"{readers} live on"
        time.sleep(0.1)


def test_an_exclusion_for_another_set_is_refused(faces: Path, tmp_path: Path) -> None:
    one = ShardSet.open(faces)
    spec = split_file(tmp_path, one, [], "0" * 64) + "#test"
    with pytest.raises(UserError, match=r"not among data.shards, or was packed anew"):
        loader.without([one], (spec,))


def test_an_exclusion_without_a_list_names_the_lists(faces: Path, tmp_path: Path) -> None:
    one = ShardSet.open(faces)
    with pytest.raises(UserError, match=r"write FILE#LIST with one of its lists: test"):
        loader.without([one], (split_file(tmp_path, one, []),))


MANY = """
import resource
from fer_scale.readers import ahead

class Limit:
    def __getitem__(self, at): return resource.getrlimit(resource.RLIMIT_NOFILE)[0]

if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 1024))
    print(next(ahead(Limit(), range(9), 1)), next(ahead(Limit(), range(9), 0)))
"""


def test_who_reads_may_open_as_many_files_as_the_system_lets_it(tmp_path: Path) -> None:
    """Each set keeps up to 256 shards open, and a run may mix several."""
    (tmp_path / "many.py").write_text(MANY)
    script = [sys.executable, str(tmp_path / "many.py")]
    assert subprocess.run(script, capture_output=True, text=True, timeout=120, env=ENV).stdout == "1024 1024\n"


TENSORS = """
import torch
from fer_scale.readers import ahead

class Tensors:
    def __getitem__(self, at): return torch.full((2,), at)

if __name__ == "__main__":
    print([int(item.sum()) for item in ahead(Tensors(), range(4), 2)])
"""


def test_readers_hand_over_tensors_where_tmpdir_is_too_long_for_a_socket(tmp_path: Path, long_tmpdir: Path) -> None:
    (tmp_path / "tensors.py").write_text(TENSORS)
    script = [sys.executable, str(tmp_path / "tensors.py")]
    env = ENV | {"TMPDIR": str(long_tmpdir)}
    assert subprocess.run(script, stdout=subprocess.PIPE, text=True, timeout=120, env=env).stdout == "[0, 2, 4, 6]\n"
