"""A set pulled from afar is the set, to the byte, or not there; and a pull that was killed fetches only the rest."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from damage import flip

from shards import pull as pulling
from shards import transfer
from shards.errors import ShardError
from shards.index import KINDS, ShardSet
from shards.pull import pull
from shards.transfer import NoAnswer, NotThere, OtherBytes
from shards.verify import verify

sys.path.append(str(Path(__file__).parent))
from servers import ROOT, Web

Contents = Callable[[Path], dict[str, bytes]]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "SILENCE_S", 0.3)
    monkeypatch.setattr(transfer, "WAIT_S", 0.01)
    monkeypatch.setattr(transfer, "DEADLINE_S", 4)


@pytest.fixture
def web(packed: ShardSet) -> Iterator[Web]:
    """A server of the packed set, with a card."""
    (packed.path / "README.md").write_text("# Faces\n")
    server = Web(packed.path)
    yield server
    server.stop()


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def until_served(web: Web, total: int) -> int:
    """How much the server has sent, once it is `total` or does not change: it counts a moment after the client."""
    end = time.monotonic() + 1
    while sum(web.served.values()) != total and time.monotonic() < end:
        time.sleep(0.01)
    return sum(web.served.values())


def test_a_pulled_set_is_the_set_with_its_lists_and_its_card(
    web: Web, packed: ShardSet, tmp_path: Path, read_folder: Contents
) -> None:
    seen: list[tuple[int, int]] = []
    pulled = pull(web.url, tmp_path / "here", progress=lambda done, total: seen.append((done, total)))
    assert read_folder(tmp_path / "here") == read_folder(packed.path)
    assert (pulled.folder, pulled.address) == (tmp_path / "here", web.url)
    assert verify(tmp_path / "here")["damaged"] == []
    assert seen[-1][0] == seen[-1][1] and seen == sorted(seen), "progress never goes back"
    assert not (tmp_path / "here.part").exists()
    assert until_served(web, size(packed.path)) == size(packed.path), "each byte once"


def test_a_list_beside_the_shards_is_checked_as_they_are(web: Web, packed: ShardSet, tmp_path: Path) -> None:
    assert set(packed.index["files"]) == {"left_out.jsonl"}
    (packed.path / "left_out.jsonl").write_text("another\n")
    where = [{"where": "made-up/left_out.jsonl", "what": "other bytes than were packed (sha256)"}]
    assert verify(packed.path)["damaged"] == verify(web.url)["damaged"] == where
    with pytest.raises(OtherBytes, match=r"left_out.jsonl: arrives with other bytes than index.json says, twice"):
        pull(web.url, tmp_path / "here")
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("fault", [{"kind": "cut", "bytes": 5000}, {"kind": "wrong"}, {"kind": "status"}])
def test_one_fault_costs_a_moment(
    fault: dict[str, object], web: Web, packed: ShardSet, tmp_path: Path, read_folder: Contents
) -> None:
    web.add(path=r"0001\.tar$", **fault)  # type: ignore[arg-type]
    pull(web.url, tmp_path / "here")
    assert len(web.fired) == 1 and read_folder(tmp_path / "here") == read_folder(packed.path)


def test_what_fails_for_good_leaves_no_set_and_the_next_pull_fetches_only_the_rest(
    web: Web, packed: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read_folder: Contents
) -> None:
    monkeypatch.setattr(transfer, "DEADLINE_S", 0.3)
    web.add("status", r"0006\.tar$", times=1000)
    with pytest.raises(NoAnswer, match=r"0006\.tar: nothing comes"):
        pull(web.url, tmp_path / "here")
    assert not (tmp_path / "here").exists()
    there = {file.name: file.stat().st_size for file in (tmp_path / "here.part").iterdir() if file.suffix != ".part"}
    assert len(there) > 10
    web.forget()
    pull(web.url, tmp_path / "here")
    assert read_folder(tmp_path / "here") == read_folder(packed.path)
    assert not set(there) & set(web.requests)


KILLED = """
import sys
from pathlib import Path
from shards.pull import pull
pull(sys.argv[1], Path(sys.argv[2]))
"""


def test_a_pull_that_is_killed_goes_on_inside_of_a_file(
    web: Web, packed: ShardSet, tmp_path: Path, read_folder: Contents
) -> None:
    web.add("stall", r"0003\.tar$", bytes=9000, seconds=60)
    process = subprocess.Popen([sys.executable, "-c", KILLED, web.url, str(tmp_path / "here")], cwd=ROOT)
    part = tmp_path / "here.part" / "made-up-000003.tar.part"
    end = time.monotonic() + 30
    while not (part.exists() and part.stat().st_size == 9000):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.01)
    while len(list(part.parent.glob("*.part"))) > 1:
        assert time.monotonic() < end
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "here").exists()
    time.sleep(0.1)
    web.forget()
    pull(web.url, tmp_path / "here")
    assert read_folder(tmp_path / "here") == read_folder(packed.path)
    assert until_served(web, 0) < size(packed.path) and web.served["made-up-000003.tar"] == (
        packed.file(3, "tar").stat().st_size - 9000
    )


def test_the_same_pull_again_fetches_only_what_is_damaged_here(
    web: Web, packed: ShardSet, tmp_path: Path, read_folder: Contents
) -> None:
    pull(web.url, tmp_path / "here")
    flip(tmp_path / "here" / "made-up-000002.tar")
    (tmp_path / "here" / "made-up-000004.idx").unlink()
    web.forget()
    pull(web.url, tmp_path / "here")
    assert sorted(web.requests) == ["index.json", "made-up-000002.tar", "made-up-000004.idx"]
    assert read_folder(tmp_path / "here") == read_folder(packed.path)


def test_a_card_that_was_corrected_here_stays_and_one_that_is_lacking_is_fetched(web: Web, tmp_path: Path) -> None:
    card = tmp_path / "here" / "README.md"
    pull(web.url, tmp_path / "here")
    card.write_text("# Faces, corrected\n")
    pull(web.url, tmp_path / "here")
    assert card.read_text() == "# Faces, corrected\n"
    card.unlink()
    web.add("cut", "README", bytes=3, times=1)
    pull(web.url, tmp_path / "here")
    assert card.read_text() == "# Faces\n" and not list(tmp_path.rglob("*.part"))


def test_what_another_version_left_unfinished_does_not_enter_the_set(
    web: Web, packed: ShardSet, tmp_path: Path, read_folder: Contents
) -> None:
    (tmp_path / "here.part").mkdir()
    (tmp_path / "here.part" / "made-up-000099.tar").write_bytes(b"of an older version")
    (tmp_path / "here.part" / "made-up-000001.tar").write_bytes(b"of an older version, too")
    (tmp_path / "here.part" / "made-up-000002.tar.part").write_bytes(b"of an older version, too")
    for name in (".lock", "README.md", "README.md.part", "index.json", "duplicates.jsonl"):
        (tmp_path / "here.part" / name).write_bytes(b"of an older version, too")
    pull(web.url, tmp_path / "here")
    assert read_folder(tmp_path / "here") == read_folder(packed.path)


def test_a_folder_that_holds_something_else_is_left_alone(web: Web, packed: ShardSet, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(ShardError, match=r"mine: is there and holds no such set; nothing was written"):
        pull(web.url, tmp_path / "mine")
    other = shutil.copytree(packed.path, tmp_path / "other")
    (other / "index.json").write_text(json.dumps(packed.index | {"licence": "mit"}))
    with pytest.raises(ShardError, match=r"other: holds another set, or another version of this one"):
        pull(web.url, other)
    for name in ("notes.txt", "photos.tar", "made-up-000001.txt"):
        part = tmp_path / f"{name}-set.part"
        part.mkdir()
        for file in ("made-up-000099.tar", name):
            (part / file).write_text("years of work")
        with pytest.raises(ShardError, match=rf"set.part: holds {name}, which no pull left there; nothing was written"):
            pull(web.url, tmp_path / f"{name}-set")
        assert sorted(os.listdir(part)) == sorted(["made-up-000099.tar", name])
        assert not (tmp_path / f"{name}-set").exists()
    (tmp_path / "empty").mkdir()
    pull(web.url, tmp_path / "empty")


@pytest.mark.parametrize(
    "change",
    [
        {"files": {"../../.bashrc": "0" * 64}},
        {"files": {"left_out.jsonl": "none"}},
        {"files": ["left_out.jsonl"]},
        {"shards": [{"name": "../x", "samples": 1, "bytes": 1, "sha256": "0" * 64}]},
        {"shards": [{"name": "x", "samples": 1, "bytes": 1, "gaps": 7, **dict.fromkeys(KINDS.values(), "0" * 64)}]},
    ],
)
def test_an_index_that_names_other_files_than_ours_do_writes_nothing(
    change: dict[str, object], web: Web, packed: ShardSet, tmp_path: Path
) -> None:
    (packed.path / "index.json").write_text(json.dumps(packed.index | change))
    with pytest.raises(ShardError, match=r"(is no shard|are no lists of a set|for files); (copy|pack) the set"):
        pull(web.url, tmp_path / "here")
    assert not [name for name in os.listdir(tmp_path) if name.startswith("here")]


def test_a_set_without_lists_or_a_card_is_a_set(packed: ShardSet, tmp_path: Path, read_folder: Contents) -> None:
    old = {name: value for name, value in packed.index.items() if name != "files"}
    (packed.path / "index.json").write_text(json.dumps(old))
    (packed.path / "left_out.jsonl").unlink()
    web = Web(packed.path)
    pull(web.url, tmp_path / "here")
    web.stop()
    assert read_folder(tmp_path / "here") == read_folder(packed.path)


def test_nothing_there_and_no_room_are_said_plainly(
    web: Web, packed: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_disk: Path
) -> None:
    with pytest.raises(NotThere, match="not there"):
        pull(f"{web.url}/nowhere", tmp_path / "here")
    (small_disk / "filler").write_bytes(bytes(4_150_000))
    with pytest.raises(ShardError, match=r"here.part: 0.00 GB are to come and 0.00 GB are free there; make room"):
        pull(web.url, small_disk / "here")
    monkeypatch.setattr(pulling, "_check_room", lambda at, items: None)
    with pytest.raises(ShardError, match=r"here.part: the disk is full; make room, and run the same command again"):
        pull(web.url, small_disk / "here")
    (small_disk / "filler").unlink()
    pull(web.url, small_disk / "here")


def test_two_pulls_to_one_place_do_not_mix(web: Web, tmp_path: Path) -> None:
    with (
        pulling._claimed(tmp_path / "here.part"),
        pytest.raises(ShardError, match=r"here.part: another process pulls there; wait for its end"),
    ):
        pull(web.url, tmp_path / "here")


def test_a_wait_is_said_and_a_token_is_not(
    web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pulling, "_REPEAT_S", 0)
    web.add("status", r"0003\.tar$", status=503)
    pull(web.url, tmp_path / "here")
    said = capfd.readouterr().err
    assert re.fullmatch(r"waiting for http\S+/made-up-000003.tar; the server answers 503, trying again\n", said)
