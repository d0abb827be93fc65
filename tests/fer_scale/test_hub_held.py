"""A push replaces what our own list there names: files of others stay, and so does a card that was edited by hand."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from hub.looking import commits, held
from hub.server import Hub

from fer_scale import artifact, hub, publish, sets, space
from fer_scale.hub import HubError

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's LFS upload
MODEL, SET = "hf://lab/faces", "hf://datasets/lab/faces"
NOTES = {name: b"by hand" for name in ("notes.txt", "photo.png", "extra.json", "other.safetensors", "old/x.tar")}


def add(server: Hub, repo: str, files: Mapping[str, bytes]) -> None:
    """A commit by somebody else, by hand; the repository is made if need be."""
    there = server.store.repos.get(repo) or server.store.create(repo)
    there.commit(there.at("main").files | {name: server.store.small(data) for name, data in files.items()}, "by hand")


@pytest.fixture
def state(tmp_path: Path) -> Callable[[int], dict[str, Path]]:
    """ranks -> the files of a training state of so many."""

    def make(ranks: int) -> dict[str, Path]:
        names = [f"checkpoint/state-{rank:02d}-of-{ranks:02d}.safetensors" for rank in range(ranks)]
        files = {name: tmp_path / f"{ranks}" / name for name in [*names, "checkpoint/manifest.json", "metrics.json"]}
        for name, path in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{name} of {ranks}")
        return files

    return make


# ---- what goes and what stays


def test_a_new_model_takes_the_files_of_the_old_away_and_none_that_somebody_put_beside_them(
    hub_server: Hub, encoder_folder: Path, make_encoder: Callable[..., Path], tmp_path: Path
) -> None:
    add(hub_server, "lab/faces", {"README.md": b"soon", **NOTES})
    (encoder_folder / "curves.png").write_bytes(b"curves")
    artifact.seal(encoder_folder)
    hub.push(encoder_folder, MODEL, message="first")
    assert {"curves.png", *NOTES} <= held(hub_server).keys()
    other = make_encoder(tmp_path / "other", seed=1)
    hub.push(other, MODEL, message="second")
    assert held(hub_server).keys() == {*artifact.files(other), *NOTES}


def test_a_new_set_takes_the_files_of_the_old_away_and_none_that_somebody_put_beside_them(
    hub_server: Hub, faces: Path, mixed_sizes: Path
) -> None:
    sets.publish(faces, SET)
    add(hub_server, "datasets/lab/faces", NOTES)
    sets.publish(mixed_sizes, SET)
    left = held(hub_server, "datasets/lab/faces").keys()
    assert left >= NOTES.keys() and not [name for name in left if name.startswith("faces")]


def test_a_state_of_fewer_ranks_takes_the_files_of_the_old_away_and_no_others(
    hub_server: Hub, state: Callable[[int], dict[str, Path]]
) -> None:
    hub.push_files(state(2), "hf://lab/state", message="m", private=True)
    add(hub_server, "lab/state", NOTES)
    hub.push_files(state(1), "hf://lab/state", message="m", private=True)
    assert held(hub_server, "lab/state").keys() == {*state(1), *NOTES}


# ---- what is refused


@pytest.mark.parametrize(
    "theirs",
    [
        {"model.safetensors": b"weights"},
        {"config.json": b"{}"},
        {"model.safetensors": b"weights", "manifest.json": b'{"name": "an app"}'},
        {"manifest.json": b"[]"},
    ],
    ids=lambda theirs: "+".join(theirs),
)
def test_a_model_that_this_program_did_not_publish_is_not_replaced(
    theirs: dict[str, bytes], hub_server: Hub, encoder_folder: Path
) -> None:
    add(hub_server, "lab/faces", theirs)
    before = held(hub_server)
    with pytest.raises(HubError, match=r"files that were not published there by this program, as no manifest\.json"):
        hub.push(encoder_folder, MODEL, message="m")
    assert held(hub_server) == before and not [one for one in hub_server.requests if one.startswith("PUT")]


@pytest.mark.parametrize("index", [b"{}", b"[]", b"no json", b'{"format": 2, "name": 1, "samples": 1, "shards": [1]}'])
def test_an_index_that_is_no_shard_sets_is_not_replaced(hub_server: Hub, faces: Path, index: bytes) -> None:
    add(hub_server, "datasets/lab/faces", {"index.json": index})
    with pytest.raises(HubError, match=r"as no index\.json of ours says what they are; nothing was sent"):
        sets.publish(faces, SET)
    assert commits(hub_server, "datasets/lab/faces") == 1


def test_a_model_a_set_and_a_state_never_replace_each_other(
    published: str, hub_server: Hub, encoder_folder: Path, state: Callable[[int], dict[str, Path]]
) -> None:
    with pytest.raises(HubError, match="lab/faces: holds a model; nothing was sent; choose another name"):
        hub.push_files(state(1), MODEL, message="m")
    hub.push_files(state(1), "hf://lab/state", message="m")
    add(hub_server, "lab/set", {"index.json": json.dumps({"format": 2}).encode()})
    for name, kind in (("state", "training state"), ("set", "shard set")):
        with pytest.raises(HubError, match=f"lab/{name}: holds a {kind}; nothing was sent"):
            hub.push(encoder_folder, f"hf://lab/{name}", message="m")


def test_a_page_of_somebody_else_is_not_replaced(hub_server: Hub, model: Path) -> None:
    add(
        hub_server, "spaces/lab/page", {"README.md": b"theirs", "app.py": b"import streamlit", "requirements.txt": b"x"}
    )
    before = held(hub_server, "spaces/lab/page")
    with pytest.raises(HubError, match=r"lab/page: its app\.py, requirements\.txt would be replaced, and was not put"):
        space.publish(str(model), "hf://spaces/lab/page")
    assert held(hub_server, "spaces/lab/page") == before and commits(hub_server, "spaces/lab/page") == 1


def test_a_file_of_somebody_else_that_has_the_name_of_one_of_ours_is_not_replaced(
    hub_server: Hub, encoder_folder: Path
) -> None:
    hub.push(encoder_folder, MODEL, message="first")
    add(hub_server, "lab/faces", {"curves.png": b"theirs"})
    (encoder_folder / "curves.png").write_bytes(b"curves")
    artifact.seal(encoder_folder)
    with pytest.raises(HubError, match=r"lab/faces: its curves\.png would be replaced"):
        hub.push(encoder_folder, MODEL, message="second")


# ---- the card


def test_a_card_that_was_edited_there_stays_with_the_same_model_and_is_new_with_a_new_one(
    published: str, hub_server: Hub, encoder_folder: Path, make_encoder: Callable[..., Path], tmp_path: Path
) -> None:
    add(hub_server, "lab/faces", {"README.md": b"---\nlicense: mit\n---\n\n# Better words\n"})
    edited = held(hub_server)
    address = hub.push(encoder_folder, f"{MODEL}@v1", message="the same")
    assert held(hub_server) == edited and address != published
    assert hub.push(encoder_folder, f"{MODEL}@v1", message="the same") == address
    for signature in (b"signed", b"signed again"):
        (encoder_folder / artifact.SIGNATURE).write_bytes(signature)
        hub.push(encoder_folder, MODEL, message="the same, signed")
        assert held(hub_server)["README.md"] == edited["README.md"]
    (encoder_folder / artifact.SIGNATURE).unlink()
    publish.publish(encoder_folder, MODEL)
    assert held(hub_server)["README.md"] != edited["README.md"], "a folder is sent as it is, its card too"
    other = make_encoder(tmp_path / "other", seed=1)
    add(hub_server, "lab/faces", {"README.md": b"edited again"})
    hub.push(other, MODEL, message="new")
    assert held(hub_server)["README.md"] == artifact.sha256(other / "README.md")


def test_it_is_said_that_a_card_stays_and_a_tag_does_not_swallow_one_that_is_wanted(
    hub_server: Hub, encoder_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    publish.publish(encoder_folder, f"{MODEL}@v1")
    assert "stays as it is" not in "".join(capfd.readouterr())
    (encoder_folder / "README.md").write_text("---\nlicense: mit\n---\n\n# Not for children\n")
    hub.push(encoder_folder, MODEL, message="the same")
    assert f"note     the card of {MODEL} stays as it is" in "".join(capfd.readouterr())
    with pytest.raises(HubError, match="this tag marks something else already"):
        publish.publish(encoder_folder, f"{MODEL}@v1")


def test_a_card_of_a_set_that_was_edited_there_stays_with_the_same_set(hub_server: Hub, faces: Path) -> None:
    sets.publish(faces, SET)
    add(hub_server, "datasets/lab/faces", {"README.md": b"edited"})
    sets.publish(faces, SET)
    assert commits(hub_server, "datasets/lab/faces") == 2
