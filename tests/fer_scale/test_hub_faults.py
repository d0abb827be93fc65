"""What push and pull promise when something fails: a moment lost, or plain words; never half, twice or a token."""

import errno
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from damage import flip
from hub.looking import commits, contents
from hub.server import Hub
from huggingface_hub import constants
from huggingface_hub.utils import httpx

from fer_scale import hub, hub_client, hub_errors, hub_pull, hub_push
from fer_scale.hub import HubError
from shards import access
from shards.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's LFS upload

ROOT = Path(__file__).parents[2]
READER, STRANGER = "hf_alicereadsonly", "hf_bobisastranger"
COMMIT = r"/commit/main"


# ---- faults of the network


@pytest.mark.parametrize(
    ("kind", "method", "path"),
    [
        ("status", "POST", "/api/repos/create"),
        ("reset", "GET", "/auth-check/write"),
        ("reset", "GET", "/api/models/lab/faces$"),
        ("status", "GET", "/tree/"),
        ("reset", "POST", "/preupload/"),
        ("status", "POST", "/objects/batch"),
        ("reset", "PUT", "/lfs/"),
        ("status", "POST", COMMIT),
        ("reset", "POST", COMMIT),
        ("lost", "POST", COMMIT),
        ("silent", "POST", COMMIT),
        ("lost", "POST", "/api/repos/create"),
        ("lost", "POST", "/tag/"),
    ],
)
def test_one_fault_costs_a_moment_and_never_a_second_commit(
    kind: str, method: str, path: str, encoder_folder: Path, hub_server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)  # huggingface_hub waits a second itself
    hub_server.faults.add(kind, method, path, seconds=3)
    address = hub.push(encoder_folder, "hf://lab/faces@v1", message="m")
    assert hub_server.faults.fired == 1
    assert commits(hub_server) == 1
    assert hub.pull("hf://lab/faces@v1").address == address


@pytest.mark.parametrize(
    ("kind", "method", "path"),
    [
        ("status", "GET", "/revision/main"),
        ("reset", "GET", "/tree/"),
        ("reset", "HEAD", "/resolve/.*/config.json"),
        ("status", "GET", "/resolve/.*/config.json"),
        ("status", "GET", "/cdn/"),
        ("reset", "GET", "/cdn/"),
        ("cut", "GET", "/cdn/"),
    ],
)
def test_one_fault_while_pulling_costs_a_moment(
    kind: str, method: str, path: str, published: str, hub_server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub_server.faults.add(kind, method, path)
    assert hub.pull("hf://lab/faces@main").address == published
    assert hub_server.faults.fired == 1


def test_somebody_elses_commit_in_between_is_kept_beneath_ours(encoder_folder: Path, hub_server: Hub) -> None:
    hub_server.store.create("lab/faces")
    repo = hub_server.store.repos["lab/faces"]

    def somebody() -> None:
        repo.commit(repo.at("main").files | {"NOTICE.txt": hub_server.store.small(b"hello")}, "a notice")

    hub_server.faults.add("meanwhile", "POST", COMMIT, act=somebody)
    hub.push(encoder_folder, "hf://lab/faces", message="m")
    assert set(repo.at("main").files) == {*contents(encoder_folder), ".gitattributes", "NOTICE.txt"}
    assert commits(hub_server) == 2


def test_a_silent_hub_is_given_up(hub_server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fer_scale.hub_client.SILENCE_S", 0.2)
    hub_server.faults.add("silent", "GET", "/api/models", times=99, seconds=2)
    began = time.monotonic()
    with pytest.raises(HubError, match=r"no answer from http://127.0.0.1:.*; look at network and proxy"):
        hub.pull("hf://lab/faces")
    assert time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1080", "no client for the Hub can be made .*ALL_PROXY"),
        ("ALL_PROXY", "socks://127.0.0.1:1080", "no client for the Hub can be made .*ALL_PROXY"),
        ("SSL_CERT_FILE", "/nowhere.pem", "no client for the Hub can be made .*SSL_CERT_FILE"),
        ("HF_TOKEN", "\u201chf_abcdef\u201d", "what HF_TOKEN or its file holds is no token: .*hf auth login"),
    ],
)
def test_what_no_client_can_be_made_of_is_said_and_nothing_is_asked(name: str, value: str, said: str) -> None:
    script = "from fer_scale import hub\ntry: hub.resolve('hf://lab/faces')\nexcept hub.HubError as e: print(e)"
    env = {key: text for key, text in os.environ.items() if "proxy" not in key.lower()} | {name: value}
    done = subprocess.run([sys.executable, "-c", script], env=env, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert re.match(said, done.stdout), done.stdout + done.stderr


def test_a_remembered_commit_is_fetched_through_the_guarded_client(
    published: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = hub.pull(published).folder
    (place / "config.json").resolve().unlink()
    hub_client.connect.cache_clear()
    monkeypatch.setattr(access, "distrust", lambda endpoint: "anybody on the way could answer")
    with pytest.raises(HubError, match="anybody on the way"):
        hub.pull(published)


def test_a_transfer_that_gets_on_is_tried_again_however_long_it_has_lasted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_client, "PATIENCE_S", 0.2)
    monkeypatch.setattr(hub_client, "WAIT_S", 0.01)
    calls = []

    def call() -> str:
        calls.append(1)
        for _ in range(5):
            time.sleep(0.1)
            hub_client.alive()
        if len(calls) < 3:
            raise httpx.ReadError("cut")
        return "sent"

    assert hub_client.patiently(call) == "sent"


def test_a_commit_that_succeeds_at_the_last_try_has_succeeded(
    encoder_folder: Path, hub_server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, calls = hub_push._commit, []

    def fails_at_first(*args: Any) -> str:
        calls.append(1)
        if len(calls) < hub_client.TRIES:
            raise httpx.ReadError("cut")
        return commit(*args)

    monkeypatch.setattr(hub_push, "_commit", fails_at_first)
    monkeypatch.setattr(hub_client, "wait", lambda attempt, error: None)
    address = hub.push(encoder_folder, "hf://lab/faces@v1", message="m")
    assert hub.resolve("hf://lab/faces@v1") == address and commits(hub_server) == 1


def test_a_connection_that_this_machine_refuses_is_no_fault_of_the_disk() -> None:
    error = httpx.ConnectError("[Errno 1] Operation not permitted")
    error.__cause__ = PermissionError(errno.EPERM, "Operation not permitted")
    with pytest.raises(HubError, match="look at network and proxy"), hub_errors.plain_words("hf://lab/faces", "page"):
        raise error


def test_no_network_is_said_in_plain_words(hub_server: Hub) -> None:
    hub_server.stop()
    with pytest.raises(HubError, match=r"hf://lab/faces: no answer from .*refused.*HF_HUB_OFFLINE=1"):
        hub.pull("hf://lab/faces")


def test_offline_the_cache_serves_and_is_checked(
    published: str, encoder_folder: Path, hub_server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.pull("hf://lab/faces")
    hub_server.stop()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    pulled = hub.pull("hf://lab/faces")
    assert pulled.address == published
    assert contents(pulled.folder) == contents(encoder_folder)
    with pytest.raises(HubError, match="hf://lab/other: not in the cache, and HF_HUB_OFFLINE=1 is set"):
        hub.pull("hf://lab/other")
    with pytest.raises(HubError, match="HF_HUB_OFFLINE=1 is set"):
        hub.push(encoder_folder, "hf://lab/faces", message="m")
    flip((pulled.folder / "model.safetensors").resolve())
    with pytest.raises(UserError, match=r"model\.safetensors is damaged in the cache; pull it again"):
        hub.pull("hf://lab/faces")


# ---- who may not


def test_errors_say_what_to_do_and_never_the_token(
    published: str, encoder_folder: Path, hub_server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def words(use: Callable[[], object], token: str | None) -> str:
        monkeypatch.setenv("HF_TOKEN", token) if token else monkeypatch.delenv("HF_TOKEN")
        with pytest.raises(HubError) as caught:
            use()
        chain: list[BaseException] = [caught.value]
        while cause := chain[-1].__cause__ or chain[-1].__context__:
            chain.append(cause)
        assert not token or token not in "".join(map(repr, chain)) + "".join(map(str, chain))
        return str(caught.value)

    def push() -> str:
        return hub.push(encoder_folder, "hf://lab/faces", message="m")

    assert "not logged in; log in with `hf auth login`, or set HF_TOKEN" in words(push, None)
    assert "the Hub does not accept this token (has it expired?)" in words(push, "hf_expiredlongago")
    for token in (READER, STRANGER):
        assert "this token may not do that; it needs the right to write to" in words(push, token)
    missing = words(lambda: hub.pull("hf://lab/nothing"), STRANGER)
    assert "hf://lab/nothing: no such repository at http" in missing
    assert "or a private one: then log in" in words(lambda: hub.pull("hf://lab/nothing"), None)
    unknown = words(lambda: hub.pull("hf://lab/faces@v9"), STRANGER)
    assert "no revision 'v9' there; branches and tags: main" in unknown
    hub_server.store.repos["lab/faces"].gated = True
    assert "is gated: ask for access at http" in words(lambda: hub.pull("hf://lab/faces"), STRANGER)


def test_errors_never_show_a_password_in_the_endpoint_nor_what_a_terminal_obeys(
    published: str, hub_server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub_server.stop()
    monkeypatch.setattr(constants, "ENDPOINT", hub_server.url.replace("//", "//user:s3cret@"))
    hub_client.connect.cache_clear()
    with pytest.raises(HubError, match=r"no answer from http://\.\.\.@127\.0\.0\.1") as caught:
        hub.pull("hf://lab/faces")
    assert "s3cret" not in str(caught.value)
    assert access.clean("a\x1b[2J b\nhf_abcdefgh") == "a[2J b hf_..."


@pytest.mark.parametrize("headers", [{"Retry-After": "250"}, {"RateLimit": '"api";r=0;t=250'}])
def test_a_rate_limit_says_how_long_to_wait(published: str, hub_server: Hub, headers: dict[str, str]) -> None:
    hub_server.faults.add("status", "GET", "/api/models/lab/faces", status=429, headers=headers)
    with pytest.raises(HubError, match=r"too many requests .* try again in 250 s"):
        hub.pull("hf://lab/faces")


def test_a_short_rate_limit_is_waited_for(published: str, hub_server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    hub_server.faults.add("status", "GET", "/api/models/lab/faces", status=429, headers={"Retry-After": "2"})
    assert hub.pull("hf://lab/faces").address == published
    assert 2.0 in slept


def test_a_full_disk_is_said_in_plain_words(published: str, hub_server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(hub_pull, "hf_hub_download", full)
    with pytest.raises(UserError, match=r"no room left under .*cache; free some space"):
        hub.pull("hf://lab/faces")


def test_a_bug_of_ours_keeps_its_traceback(published: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_pull, "hf_hub_download", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        hub.pull("hf://lab/faces")


def test_a_folder_in_the_way_is_left_alone(published: str, tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years")
    with pytest.raises(UserError, match=r"is not empty .*thesis\.tex"):
        hub.pull("hf://lab/faces", tmp_path / "home")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="is a file; give a folder"):
        hub.pull("hf://lab/faces", tmp_path / "file")
    assert [p.name for p in (tmp_path / "home").iterdir()] == ["thesis.tex"]
    shutil.rmtree(tmp_path / "home")
