"""What push and pull promise, against a real server on loopback: whole or nothing, every byte checked, plain words."""

from collections.abc import Callable
from pathlib import Path

import pytest
from damage import flip
from hub.looking import commits, contents
from hub.server import Hub
from huggingface_hub import constants

from fer_scale import artifact, hub
from fer_scale.hub import HubError
from shards.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's LFS upload

STRANGER = "hf_bobisastranger"


# ---- the flow


def test_what_is_pulled_is_what_was_pushed(published: str, encoder_folder: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    pulled = hub.pull("hf://lab/faces", tmp_path / "here", progress=lambda done, total: seen.append((done, total)))
    assert contents(pulled.folder) == contents(encoder_folder)
    assert (pulled.folder, pulled.address) == (tmp_path / "here", published)
    assert seen[-1][0] == seen[-1][1] == sum(path.stat().st_size for path in encoder_folder.iterdir())
    assert seen == sorted(seen), "progress never goes back"


def test_a_push_is_one_commit_and_the_same_push_again_is_none(
    published: str, encoder_folder: Path, hub_server: Hub
) -> None:
    assert commits(hub_server) == 1
    assert hub.push(encoder_folder, "hf://lab/faces", message="again") == published
    assert commits(hub_server) == 1


def test_a_second_release_removes_the_pictures_it_no_longer_has(
    published: str, encoder_folder: Path, hub_server: Hub, make_encoder: Callable[..., Path], tmp_path: Path
) -> None:
    (encoder_folder / "reconstructions.png").write_bytes(b"faces")
    artifact.seal(encoder_folder)
    hub.push(encoder_folder, "hf://lab/faces", message="with a picture")
    other = make_encoder(tmp_path / "other", seed=1)
    hub.push(other, "hf://lab/faces", message="without it")
    files = hub_server.store.repos["lab/faces"].at("main").files
    assert set(files) == {*contents(other), ".gitattributes"}


def test_a_tag_is_set_where_it_is_asked_for_and_never_moves(
    encoder_folder: Path, hub_server: Hub, make_encoder: Callable[..., Path], tmp_path: Path
) -> None:
    first = hub.push(encoder_folder, "hf://lab/faces@v1", message="v1")
    other = make_encoder(tmp_path / "other", seed=1)
    second = hub.push(other, "hf://lab/faces", message="newer")
    assert hub.pull("hf://lab/faces@v1").address == first != second == hub.pull("hf://lab/faces").address
    assert hub.push(encoder_folder, "hf://lab/faces@v1", message="v1 again") == first
    with pytest.raises(HubError, match="@v1: this tag marks something else already"):
        hub.push(other, "hf://lab/faces@v1", message="moved")
    assert commits(hub_server) == 2
    with pytest.raises(HubError, match="'main' is a branch"):
        hub.push(other, "hf://lab/faces@main", message="")


def test_a_private_repository_is_private_and_a_public_one_does_not_become_it(
    encoder_folder: Path, hub_server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.push(encoder_folder, "hf://lab/secret", message="m", private=True)
    assert hub_server.store.repos["lab/secret"].private
    hub.push(encoder_folder, "hf://lab/open", message="m")
    with pytest.raises(HubError, match="exists and is public; make it private on its page"):
        hub.push(encoder_folder, "hf://lab/open", message="m", private=True)
    monkeypatch.setenv("HF_TOKEN", STRANGER)
    with pytest.raises(HubError, match=r"no such repository at .*/lab/secret, or one that this token may not see"):
        hub.pull("hf://lab/secret")


def test_large_files_come_from_another_origin_that_never_sees_the_token(published: str, hub_server: Hub) -> None:
    hub.pull("hf://lab/faces")
    assert any(
        request.startswith("GET /cdn/") for request in hub_server.requests
    )  # and it refuses tokens: endpoints.py


# ---- folders


def test_a_folder_is_an_address_too(encoder_folder: Path, tmp_path: Path) -> None:
    assert hub.push(encoder_folder, str(tmp_path / "there"), message="m") == str(tmp_path / "there")
    assert contents(tmp_path / "there") == contents(encoder_folder)
    pulled = hub.pull(str(tmp_path / "there"))
    assert pulled == hub.Pulled(tmp_path / "there", str(tmp_path / "there"))
    hub.pull(str(tmp_path / "there"), tmp_path / "copy")
    assert contents(tmp_path / "copy") == contents(encoder_folder)


def test_a_damaged_folder_is_neither_pulled_nor_pushed(encoder_folder: Path, hub_server: Hub, tmp_path: Path) -> None:
    flip(encoder_folder / "model.safetensors")
    for use in (
        lambda: hub.pull(str(encoder_folder)),
        lambda: hub.push(encoder_folder, "hf://lab/faces", message="m"),
        lambda: hub.push(encoder_folder, str(tmp_path / "there"), message="m"),
    ):
        with pytest.raises(UserError, match=r"damaged: model\.safetensors has changed"):
            use()
    assert not hub_server.requests and not (tmp_path / "there").exists()


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("hf://lab", "an address on the Hub is hf://ORG/NAME"),
        ("hf://lab/faces@", "an address on the Hub is hf://ORG/NAME"),
        ("hf://lab/faces/model.safetensors", "an address on the Hub is hf://ORG/NAME"),
        ("hf-hub:lab/faces", "hf-hub: is not understood; an address is a folder or hf://"),
        ("https://huggingface.co/lab/faces", "is a page of the Hub; write its address, hf://lab/faces"),
        ("huggingface.co/lab/faces/tree/v1", "write its address, hf://lab/faces@v1"),
        ("lab/faces", "no such folder; a repository of the Hub is written hf://ORG/NAME"),
        ("hf://lab/fa--ces", "not a name that the Hub allows"),
    ],
)
def test_an_address_that_is_none_is_explained(hub_server: Hub, address: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        hub.pull(address)


# ---- damage on the way


def test_a_byte_damaged_on_the_way_is_noticed_and_fetched_again(
    published: str, encoder_folder: Path, hub_server: Hub, tmp_path: Path
) -> None:
    hub_server.faults.add("damaged", "GET", "/cdn/")
    hub_server.faults.add("damaged", "GET", "/resolve/.*/config.json")
    pulled = hub.pull("hf://lab/faces", tmp_path / "here")
    assert contents(pulled.folder) == contents(encoder_folder)
    assert hub_server.faults.fired == 2


def test_bytes_that_are_damaged_every_time_are_never_handed_out_nor_kept(published: str, hub_server: Hub) -> None:
    hub_server.faults.add("damaged", "GET", "/cdn/", times=99)
    with pytest.raises(HubError, match=r"model\.safetensors arrived damaged 5 times, and was thrown away"):
        hub.pull("hf://lab/faces")
    assert not list(Path(constants.HF_HUB_CACHE).rglob("*.safetensors"))


def test_a_damaged_cache_heals(published: str, encoder_folder: Path, hub_server: Hub, tmp_path: Path) -> None:
    folder = hub.pull("hf://lab/faces").folder
    for name in ("model.safetensors", "config.json"):
        flip((folder / name).resolve())
    before = len(hub_server.requests)
    assert contents(hub.pull("hf://lab/faces", tmp_path / "here").folder) == contents(encoder_folder)
    fetched = [
        request for request in hub_server.requests[before:] if request.startswith("GET /cdn") or "/resolve/" in request
    ]
    assert not [request for request in fetched if "manifest.json" in request], "what was sound is not fetched again"
    assert artifact.sha256(folder / "model.safetensors") == artifact.sha256(encoder_folder / "model.safetensors")


def test_weights_changed_behind_the_manifests_back_are_refused(published: str, hub_server: Hub) -> None:
    repo = hub_server.store.repos["lab/faces"]
    files = repo.at("main").files | {"config.json": hub_server.store.small(b"{}")}
    repo.commit(files, "edited on the website")
    with pytest.raises(UserError, match=r"config\.json has 2 bytes, not \d+"):
        hub.pull("hf://lab/faces")


def test_a_pickle_beside_the_weights_is_never_fetched_and_without_weights_nothing_is(
    published: str, hub_server: Hub, tmp_path: Path
) -> None:
    repo = hub_server.store.repos["lab/faces"]
    files = dict(repo.at("main").files) | {"pytorch_model.bin": hub_server.store.small(b"pickle")}
    repo.commit(files, "somebody adds a pickle")
    pulled = hub.pull("hf://lab/faces", tmp_path / "here")
    assert "pytorch_model.bin" not in contents(pulled.folder)
    assert not [request for request in hub_server.requests if "pytorch_model.bin" in request]
    del files["model.safetensors"]
    repo.commit(files, "and removes the weights")
    with pytest.raises(HubError, match=r"holds no model\.safetensors"):
        hub.pull("hf://lab/faces")
