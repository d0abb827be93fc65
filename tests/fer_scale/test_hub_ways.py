"""Every way that files travel: LFS, in parts, Xet, data sets; uploads that go on; nothing that waits for ever."""

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hub.client import running
from hub.looking import commits, contents
from hub.server import Hub
from huggingface_hub.utils import _xet

from fer_scale import hub
from fer_scale.hub_errors import (
    Changed,
    HubError,
    Missing,
    NoAnswer,
    NoRight,
    NotLoggedIn,
    RateLimited,
    StrangeHub,
    WrongRevision,
)

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's LFS upload
SET = "hf://datasets/lab/set"


@pytest.fixture
def xet_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / "xet"))
    with running(tmp_path, monkeypatch, xet=True) as server:
        yield server


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A shard set by its names: two large files in a folder, an index and a card."""
    draw = random.Random(0)
    inside = {"train/a-000000.tar": draw.randbytes(300_000), "train/a-000001.tar": draw.randbytes(200_000)}
    inside |= {"index.json": b"{}", "README.md": b"---\nlicense: mit\n---\n"}
    for name, data in inside.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(data)
    return {name: tmp_path / "set" / name for name in inside}


def test_files_in_folders_travel_to_a_data_set_and_back(files: dict[str, Path], hub_server: Hub) -> None:
    seen: list[tuple[int, int]] = []
    address = hub.push_files(files, f"{SET}@v1", message="a set", progress=lambda *now: seen.append(now))
    total = sum(path.stat().st_size for path in files.values())
    assert seen[-1] == (total, total) and [now for now, _ in seen] == sorted(now for now, _ in seen)
    assert address.startswith(f"{SET}@") and hub.resolve(f"{SET}@v1") == hub.resolve(SET) == address
    pulled = hub.pull_files(SET, lambda name: name.endswith((".tar", ".json")))
    assert set(contents(pulled.folder)) == {"train/a-000000.tar", "train/a-000001.tar", "index.json"}
    assert pulled.address == address
    with pytest.raises(HubError, match=r"\.\./x\.tar, model\.pt: such files do not travel"):
        hub.push_files({"model.pt": files["index.json"], "../x.tar": files["index.json"]}, SET, message="m")


@pytest.mark.parametrize("over", [None, 70_000], ids=["LFS", "parts"])
def test_an_upload_that_was_cut_off_goes_on_with_what_is_not_there_yet(
    over: int | None, files: dict[str, Path], hub_server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub_server.store.multipart_over = over
    hub_server.faults.add("status", "POST", "/commit/main", times=99)
    with pytest.raises(NoAnswer, match="the Hub answered 500"):
        hub.push_files(files, SET, message="a set")
    sent = [request for request in hub_server.requests if request.startswith("PUT /lfs/")]
    assert len(sent) == (2 if over is None else 5 + 3)
    hub_server.faults.clear()
    before = len(hub_server.requests)
    address = hub.push_files(files, SET, message="a set")
    assert not [request for request in hub_server.requests[before:] if request.startswith("PUT")]
    assert commits(hub_server, "datasets/lab/set") == 1
    assert contents(hub.pull_files(address, lambda name: name != "README.md").folder)


def test_large_files_travel_by_xet_too_and_their_progress_is_seen(
    files: dict[str, Path], xet_server: Hub, encoder_folder: Path, tmp_path: Path
) -> None:
    seen: list[tuple[int, int]] = []
    hub.push(encoder_folder, "hf://lab/faces@v1", message="m", progress=lambda *now: seen.append(now))
    assert xet_server.store.repos["lab/faces"].at("v1").files["model.safetensors"].xet
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1] > 0
    assert not [request for request in xet_server.requests if "/lfs/" in request]
    seen.clear()
    pulled = hub.pull("hf://lab/faces@v1", tmp_path / "here", progress=lambda *now: seen.append(now))
    assert contents(pulled.folder) == contents(encoder_folder)
    assert seen == sorted(seen) and seen[-1][0] == seen[-1][1]
    assert not [request for request in xet_server.requests if "/cdn/" in request]


def test_no_hub_has_xet_read_or_write_a_folder_of_this_machine(
    xet_server: Hub, encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.push(encoder_folder, "hf://lab/faces", message="m")
    assert xet_server.store.xet
    secret = tmp_path / "home"
    xet_server.store.xet.url = f"local://{secret}"
    monkeypatch.setattr("fer_scale.hub_xet.CHUNKS_AT", r"https?://.+")
    _xet.XET_CONNECTION_INFO_CACHE.clear()
    for use in (lambda: hub.push(encoder_folder, "hf://lab/new", message="m"), lambda: hub.pull("hf://lab/faces")):
        with pytest.raises(StrangeHub, match="Xet's chunks at 'local:///"):
            use()
    assert not secret.exists()


def test_an_exact_commit_that_lies_in_the_cache_costs_no_request(published: str, hub_server: Hub) -> None:
    folder = hub.pull(published).folder
    before = len(hub_server.requests)
    assert hub.pull(published).folder == folder
    assert len(hub_server.requests) == before
    assert hub.pull("hf://lab/faces").address == published
    assert hub_server.requests[before:] == ["GET /api/models/lab/faces"]


# ---- nothing waits for ever


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/tree/"), ("POST", "/preupload/"), ("PUT", "/lfs/"), ("POST", "/objects/batch")]
)
def test_a_pause_of_minutes_is_the_users_to_decide_wherever_the_hub_asks_for_it(
    method: str, path: str, encoder_folder: Path, hub_server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    hub_server.faults.add("status", method, path, status=429, headers={"Retry-After": "250"}, times=99)
    with pytest.raises(RateLimited, match="try again in 250 s") as caught:
        hub.push(encoder_folder, "hf://lab/faces", message="m")
    assert caught.value.seconds == 250 and max(slept, default=0) < 30


@pytest.mark.parametrize("kind", ["silent", "stall", "trickle"])
def test_a_hub_that_never_says_anything_of_use_is_given_up_though_huggingface_hub_would_go_on(
    kind: str, published: str, hub_server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
    monkeypatch.setattr("fer_scale.hub_client.SILENCE_S", 0.4)
    monkeypatch.setattr("fer_scale.hub_client.PATIENCE_S", 1.2)
    hub_server.faults.add(kind, "GET", "/tree/", times=999, seconds=20)
    began = time.monotonic()
    with pytest.raises(NoAnswer, match="no answer from"):
        hub.pull("hf://lab/faces")
    assert time.monotonic() - began < 15, "6 tries of huggingface_hub, 5 times, were more"


# ---- an error a case


def test_each_refusal_is_an_error_of_its_own(
    published: str, encoder_folder: Path, hub_server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def push() -> object:
        return hub.push(encoder_folder, "hf://lab/faces@v2", message="m")

    def expect(error: type[HubError], use: Callable[[], object], token: str) -> None:
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(error) as caught:
            use()
        assert type(caught.value) is error

    expect(NotLoggedIn, push, "hf_expiredlongago")
    expect(NoRight, push, "hf_bobisastranger")
    expect(Missing, lambda: hub.pull("hf://lab/nothing"), "hf_bobisastranger")
    expect(WrongRevision, lambda: hub.pull("hf://lab/faces@v9"), "hf_bobisastranger")
    hub_server.store.repos["lab/faces"].tags["v2"] = next(iter(hub_server.store.repos["lab/faces"].commits))
    expect(Changed, push, "hf_alicewritestolab")
    hub_server.quota = 0
    expect(RateLimited, lambda: hub.pull("hf://lab/faces"), "hf_bobisastranger")
