"""What only waits is not given up, and what may go better the next time says so by its exit code."""

import errno
import fcntl
import shutil
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from damage import flip
from hub.client import running
from hub.looking import contents, held
from hub.server import Hub
from huggingface_hub import constants

from fer_scale import hub, hub_pull, hub_tree
from fer_scale.hub_errors import Changed, StrangeHub
from shards.errors import Broken

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's LFS upload


@pytest.mark.parametrize("xet", [True, False], ids=["Xet", "LFS"])
def test_a_pull_waits_for_another_program_that_fetches_the_same_file_however_long_that_takes(
    xet: bool, encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / "xet"))
    with running(tmp_path, monkeypatch, xet=xet) as server:
        hub.push(encoder_folder, "hf://lab/faces", message="m")
        monkeypatch.setattr("fer_scale.hub_client.SILENCE_S", 0.7)
        monkeypatch.setattr("fer_scale.hub_client.PATIENCE_S", 0.7)
        locks = Path(constants.HF_HUB_CACHE) / ".locks" / "models--lab--faces"
        locks.mkdir(parents=True)
        with (locks / f"{held(server)['model.safetensors']}.lock").open("w") as theirs:
            fcntl.flock(theirs, fcntl.LOCK_EX)
            threading.Timer(2.5, fcntl.flock, (theirs, fcntl.LOCK_UN)).start()
            began = time.monotonic()
            pulled = hub.pull("hf://lab/faces")
        assert time.monotonic() - began > 2, "it waited"
        assert contents(pulled.folder) == contents(encoder_folder)


@pytest.mark.parametrize("whose", ["model", "commit"])
def test_a_lock_whose_holder_has_stopped_is_waited_for_only_so_long_and_the_wait_is_said(
    whose: str,
    published: str,
    hub_server: Hub,
    encoder_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, seconds in {"STALLED_S": 1.0, "SAID_S": 0.4, "_LOOK_S": 0.2}.items():
        monkeypatch.setattr(hub_pull, name, seconds)
    locks = Path(constants.HF_HUB_CACHE) / ".locks" / "models--lab--faces"
    locks.mkdir(parents=True)
    name = held(hub_server)["model.safetensors"] if whose == "model" else f"fer_scale-{published.partition('@')[2]}"
    with (locks / f"{name}.lock").open("w") as theirs:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        assert contents(hub.pull("hf://lab/faces").folder) == contents(encoder_folder)
    said = capsys.readouterr().err
    assert "waiting for another process that pulls the same" in said and f"{name}.lock" in said
    assert "has brought nothing for 1 s; going on" in said


def test_a_lock_whose_holder_gets_on_is_waited_for_longer_than_one_that_has_stopped(
    published: str, hub_server: Hub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, seconds in {"STALLED_S": 1.0, "_LOOK_S": 0.2}.items():
        monkeypatch.setattr(hub_pull, name, seconds)
    blob = held(hub_server)["model.safetensors"]
    cache = Path(constants.HF_HUB_CACHE)
    for folder in (cache / ".locks" / "models--lab--faces", blobs := cache / "models--lab--faces" / "blobs"):
        folder.mkdir(parents=True)

    def fetch() -> None:
        for size in range(1, 16):
            (blobs / f"{blob}.0123abcd.incomplete").write_bytes(b"x" * size)
            time.sleep(0.2)
        fcntl.flock(theirs, fcntl.LOCK_UN)

    with (cache / ".locks" / "models--lab--faces" / f"{blob}.lock").open("w") as theirs, ThreadPoolExecutor(1) as other:
        fcntl.flock(theirs, fcntl.LOCK_EX)
        fetching = other.submit(fetch)
        hub.pull("hf://lab/faces")
        assert fetching.done(), "it waited"
    assert "going on" not in capsys.readouterr().err


# ---- the cache


def test_a_name_is_noted_by_many_at_once_even_with_one_process_id(published: str, hub_server: Hub) -> None:
    place, commit = hub_tree.parse("hf://lab/faces@v1"), published.partition("@")[2]
    ref = hub_tree.cache_of(place) / "refs" / "v1"
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(hub_tree.put, place, ref, commit) for _ in range(400)]:
            done.result()
    assert ref.read_text() == commit
    assert not list(hub_tree.cache_of(place).rglob("*.part"))


def test_a_cache_that_may_only_be_read_serves_what_lies_there_by_a_name_that_is_new_to_it(
    published: str, encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = hub.pull(published).folder
    assert not (folder.parents[1] / "refs" / "main").exists()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "write_text", refuse)
    assert contents(hub.pull("hf://lab/faces").folder) == contents(encoder_folder)


def test_a_file_of_somebodys_own_behind_a_link_in_the_cache_is_left_alone(
    published: str, encoder_folder: Path, tmp_path: Path
) -> None:
    model, mine = hub.pull("hf://lab/faces").folder / "model.safetensors", tmp_path / "mine.safetensors"
    mine.write_bytes(b"the work of a week")
    model.unlink()
    model.symlink_to(mine)
    assert contents(hub.pull("hf://lab/faces").folder) == contents(encoder_folder)
    assert mine.read_bytes() == b"the work of a week"


def test_damaged_bytes_heal_on_a_disk_without_links_too(
    published: str, encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = hub.pull("hf://lab/faces").folder
    flip((folder / "model.safetensors").resolve())
    shutil.rmtree(folder)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_SYMLINKS", True)
    assert contents(hub.pull("hf://lab/faces").folder) == contents(encoder_folder)


# ---- what may be tried again


@pytest.mark.parametrize("again", [True, False], ids=["another push", "a proxy's page"])
def test_what_another_push_or_a_proxys_page_stopped_may_be_tried_again(
    again: bool,
    published: str,
    hub_server: Hub,
    make_encoder: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    if again:
        hub_server.faults.add("status", "POST", "/commit/main", status=412, times=99)
        with pytest.raises(Changed) as caught:
            hub.push(make_encoder(tmp_path / "other", seed=1), "hf://lab/faces", message="m")
    else:
        hub_server.faults.add("portal", "GET", "/api/models/", times=99)
        with pytest.raises(StrangeHub) as caught:  # type: ignore[assignment]
            hub.pull("hf://lab/faces")
    assert isinstance(caught.value, Broken), "exit code 75"
