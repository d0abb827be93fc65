"""A Hub that means harm, or a proxy in its place: what it says leads nowhere out of the cache, and loads nothing."""

import time
from pathlib import Path

import pytest
from hub.looking import contents
from hub.server import Hub
from huggingface_hub import constants

from fer_scale import hub, hub_client
from fer_scale.hub_errors import Damaged, HubError, NoNetwork, StrangeHub
from shards import access

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's LFS upload

NAMES = (
    "../evil.json", "/etc/evil.json", "a/../../evil.json", "..\\evil.json", "C:\\evil.json", "./evil.json",
    "a//evil.json", ".ssh/config.json", "a/.hidden.json", "evil\n.json", "evil\0.json", "~/evil.json",
    "-rf.json", "a/evil.json ", "pytorch_model.bin", "weights.pkl", "a/model.pt", "handler.py", "x" * 2000 + ".json",
)  # fmt: skip


def outside(tmp_path: Path) -> set[str]:
    """Every file that is neither the Hub's own nor in the cache."""
    inside = [tmp_path / "server", Path(constants.HF_HUB_CACHE)]
    return {str(p) for p in tmp_path.rglob("*") if p.is_file() and not any(p.is_relative_to(place) for place in inside)}


@pytest.mark.parametrize("name", NAMES, ids=lambda name: repr(name)[:30])
def test_a_file_whose_name_leads_elsewhere_or_may_hold_code_is_never_asked_for(
    name: str, published: str, encoder_folder: Path, hub_server: Hub, tmp_path: Path
) -> None:
    repo = hub_server.store.repos["lab/faces"]
    repo.commit(repo.at("main").files | {name: hub_server.store.small(b"evil")}, "somebody means harm")
    before, since = outside(tmp_path), len(hub_server.requests)
    pulled = hub.pull_files("hf://lab/faces", lambda name: True)
    assert contents(pulled.folder) == contents(encoder_folder)
    assert contents(hub.pull("hf://lab/faces").folder) == contents(encoder_folder)
    assert outside(tmp_path) == before
    files = [request for request in hub_server.requests[since:] if "/resolve/" in request]
    assert {request.rsplit("/", 1)[1] for request in files} == set(contents(encoder_folder))


@pytest.mark.parametrize(
    "headers",
    [
        {"ETag": '"../../../../evil"', "X-Linked-Etag": '"../../../../evil"'},
        {"X-Linked-Etag": '"/tmp/evil"'},
        {"X-Linked-Etag": 'W/"..%2f..%2fevil"'},
        {"X-Linked-Etag": '".."'},
        {"X-Repo-Commit": "../../../../evil"},
        {"X-Repo-Commit": "0" * 39},
    ],
    ids=str,
)
def test_a_header_that_would_become_a_path_is_refused(
    headers: dict[str, str], published: str, hub_server: Hub, tmp_path: Path
) -> None:
    hub_server.faults.add("dressed", "HEAD", "/resolve/.*model.safetensors", times=9, headers=headers)
    before = outside(tmp_path)
    with pytest.raises(StrangeHub, match=r"does not answer as the Hub does .*look at HF_ENDPOINT and proxy"):
        hub.pull("hf://lab/faces")
    assert outside(tmp_path) == before
    assert not list(Path(constants.HF_HUB_CACHE).rglob("*evil*"))


@pytest.mark.parametrize(
    ("target", "error"),
    [
        ("file:///etc/passwd", HubError),
        ("/lab/faces/resolve/main/config.json", Damaged),  # other bytes under the same name
        ("http://127.0.0.1:9/evil", NoNetwork),
        ("ftp://127.0.0.1/evil", HubError),
    ],
)
def test_a_redirect_elsewhere_gives_the_bytes_that_were_published_or_an_error(
    target: str, error: type[HubError], published: str, hub_server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    location = hub_server.url + target if target.startswith("/") else target
    for method in ("HEAD", "GET"):
        dress = {"Location": location}
        hub_server.faults.add("dressed", method, "/resolve/.*model.safetensors", times=99, headers=dress)
    before = outside(tmp_path)
    with pytest.raises(error):
        hub.pull("hf://lab/faces")
    assert outside(tmp_path) == before
    assert not list(Path(constants.HF_HUB_CACHE).rglob("snapshots/*/model.safetensors"))


def test_a_listing_without_an_end_or_with_nonsense_is_refused(
    published: str, hub_server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fer_scale.hub_tree._MOST_FILES", 3)
    with pytest.raises(StrangeHub, match="more than 3 files"):
        hub.pull("hf://lab/faces")


def test_what_is_no_commit_is_refused(published: str, hub_server: Hub) -> None:
    repo = hub_server.store.repos["lab/faces"]
    repo.commits["../../evil"] = repo.at("main")
    object.__setattr__(repo.commits["../../evil"], "sha", "../../evil")
    repo.branches["main"] = "../../evil"
    with pytest.raises(StrangeHub, match=r"commit '\.\./\.\./evil'"):
        hub.pull("hf://lab/faces")


def test_the_password_in_an_endpoint_is_not_shown() -> None:
    refused = access.distrust("http://me:secret@hub.example.org")
    assert refused and "HF_ENDPOINT=http://...@hub.example.org: anybody" in refused and "secret" not in refused


@pytest.mark.parametrize("endpoint", ["http://huggingface.co", "http://10.0.0.7:8080", "ftp://localhost.evil.org"])
def test_an_endpoint_that_anybody_on_the_way_may_answer_for_gets_neither_a_request_nor_the_token(
    endpoint: str, encoder_folder: Path, hub_server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    hub_client.connect.cache_clear()
    with pytest.raises(HubError, match=f"HF_ENDPOINT={endpoint}: anybody on the way could answer for it"):
        hub.pull("hf://lab/faces")
    with pytest.raises(HubError, match="use https, or set FER_SCALE_TRUSTED_ENDPOINT="):
        hub.push(encoder_folder, "hf://lab/faces", message="m")
    monkeypatch.setenv("FER_SCALE_TRUSTED_ENDPOINT", endpoint)
    hub_client.connect()
    monkeypatch.delenv("FER_SCALE_TRUSTED_ENDPOINT")
    for trusted in ("https://hub.example.org", "http://localhost:80", "http://[::1]:80"):
        monkeypatch.setattr(constants, "ENDPOINT", trusted)
        hub_client.connect.cache_clear()
        hub_client.connect()
