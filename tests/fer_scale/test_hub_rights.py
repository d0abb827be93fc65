"""Whether one may publish is known before a run is paid for; nothing is made by asking, and no answer is no refusal."""

import pytest
from hub.server import Hub

from fer_scale import hub_held, hub_rights
from fer_scale.hub_errors import HubError, NoRight, NotLoggedIn

READER, STRANGER = "hf_alicereadsonly", "hf_bobisastranger"


def test_a_writer_may_write_to_what_is_there_and_to_what_is_not(hub_server: Hub) -> None:
    hub_server.store.create("lab/old")
    for name in ("lab/old", "lab/new", "alice/new"):
        assert hub_rights.may_write(f"hf://{name}") == ""
    assert list(hub_server.store.repos) == ["lab/old"], "asking makes nothing"
    assert sum("agent" not in request for request in hub_server.requests) == 6, "two requests each"


@pytest.mark.parametrize("token", [READER, STRANGER])
@pytest.mark.parametrize("name", ["lab/old", "lab/new"])
def test_a_reader_and_a_stranger_may_not(
    hub_server: Hub, monkeypatch: pytest.MonkeyPatch, token: str, name: str
) -> None:
    hub_server.store.create("lab/old")
    monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(NoRight, match=f"{name}.*(may not make one under lab|may only read|right to write)"):
        hub_rights.may_write(f"hf://{name}")


def test_who_is_not_logged_in_or_has_a_dead_token_is_told_to_log_in(
    hub_server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    for token, said in (("", "not logged in; log in with"), ("hf_longgone", "does not accept this token")):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(NotLoggedIn, match=said):
            hub_rights.may_write("hf://lab/faces")


def test_what_must_be_private_is_not_sent_to_a_public_place(hub_server: Hub) -> None:
    hub_server.store.create("lab/old")
    hub_server.store.create("lab/hidden", private=True)
    assert hub_rights.may_write("hf://lab/hidden", private=True) == ""
    with pytest.raises(NoRight, match="lab/old: exists and is public"):
        hub_rights.may_write("hf://lab/old", private=True)


def test_what_would_not_be_replaced_in_the_end_is_refused_at_once(published: str, hub_server: Hub) -> None:
    for repo, names in (("datasets/lab/set", ("index.json",)), ("lab/theirs", ("config.json", "model.safetensors"))):
        there = hub_server.store.create(repo)
        there.commit({name: hub_server.store.small(b"{}") for name in names}, "by hand")
    asked = len(hub_server.requests)
    assert hub_rights.may_write("hf://lab/faces") == hub_rights.may_write("hf://datasets/lab/set", hub_held.SET) == ""
    for address, kind, said in (
        ("hf://lab/faces", hub_held.STATE, "lab/faces: holds a model; nothing was sent; choose another name"),
        ("hf://datasets/lab/set", hub_held.MODEL, "lab/set: holds a shard set; nothing was sent"),
        ("hf://lab/theirs", hub_held.MODEL, "lab/theirs: holds a model that this program did not publish"),
    ):
        with pytest.raises(HubError, match=said):
            hub_rights.may_write(address, kind)
    assert len(hub_server.requests) == asked + 2 * 5


def test_a_malformed_address_is_refused_and_no_answer_is_only_said(
    hub_server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(HubError, match="an address on the Hub is"):
        hub_rights.may_write("hf://lab")
    hub_server.faults.add("status", "GET", "/auth-check", status=503)
    assert "the Hub answered 503" in hub_rights.may_write("hf://lab/faces")
    hub_server.faults.add("reset", "GET", "/auth-check")
    assert "no answer from http://127.0.0.1" in hub_rights.may_write("hf://lab/faces")
