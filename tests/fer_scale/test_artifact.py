"""What a model folder promises on disk: every byte can be checked, and it is put in place whole or not at all."""

import errno
import json
import shutil
from pathlib import Path

import pytest
from hub.looking import contents

from fer_scale import artifact
from fer_scale.artifact import ArtifactError


def test_the_manifest_lists_every_file_but_the_card(encoder_folder: Path) -> None:
    (encoder_folder / "curves.png").write_bytes(b"png")
    artifact.seal(encoder_folder)
    said = json.loads((encoder_folder / "manifest.json").read_text())
    assert said["version"] == 1
    assert set(said["files"]) == {"model.safetensors", "config.json", "curves.png"}
    assert said["files"]["curves.png"]["bytes"] == 3
    artifact.check(encoder_folder)
    (encoder_folder / "README.md").write_text("a corrected card")
    artifact.check(encoder_folder)


def test_each_flipped_bit_is_found_and_all_damage_is_named(encoder_folder: Path) -> None:
    weights = encoder_folder / "model.safetensors"
    whole = weights.read_bytes()
    for place in (0, 8, 1000, len(whole) // 2, len(whole) - 1):
        weights.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(ArtifactError, match=r"model\.safetensors has changed since it was published"):
            artifact.check(encoder_folder)
    weights.write_bytes(whole[:-1])
    (encoder_folder / "config.json").unlink()
    with pytest.raises(ArtifactError, match=r"config\.json is missing; .* has \d+ bytes, not \d+; pull or publish"):
        artifact.check(encoder_folder)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"version": 1, "files": {"a": 3}}', '{"version": 1, "files": {"a": {"bytes": "x"}}}']
)
def test_a_manifest_that_is_none_is_an_error_of_the_user_and_no_traceback(encoder_folder: Path, text: str) -> None:
    (encoder_folder / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match="not a manifest"):
        artifact.check(encoder_folder)


def test_a_manifest_of_another_version_says_so(encoder_folder: Path) -> None:
    (encoder_folder / "manifest.json").write_text('{"version": 2, "files": {}}')
    with pytest.raises(ArtifactError, match="of version 2, this program reads 1"):
        artifact.check(encoder_folder)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "optimizer.pkl", "state.ckpt", "train.py"])
def test_a_folder_with_a_pickle_or_a_script_in_it_is_not_sent(encoder_folder: Path, name: str) -> None:
    (encoder_folder / name).write_bytes(b"x")
    with pytest.raises(ArtifactError, match=f"holds {name}, which is no part of a published model"):
        artifact.refuse_foreign(encoder_folder)
    assert name not in artifact.files(encoder_folder)


@pytest.mark.parametrize(
    "name", ["../model.json", "a/b.json", "..\\x.json", ".hidden.json", "model.bin", "config.json.pkl"]
)
def test_names_that_leave_the_folder_or_may_hold_a_pickle_do_not_belong(name: str) -> None:
    assert not artifact.belongs(name)


def test_a_model_put_in_place_replaces_the_older_one(encoder_folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "deep" / "place"
    artifact.put(encoder_folder, place)
    (encoder_folder / "curves.png").write_bytes(b"new")
    artifact.seal(encoder_folder)
    artifact.put(encoder_folder, place)
    assert contents(place) == contents(encoder_folder)
    assert [path.name for path in place.parent.iterdir()] == ["place"], "nothing is left beside it"


def test_a_folder_that_holds_anything_else_is_left_alone(encoder_folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    artifact.put(encoder_folder, place)
    (place / "my_notes.txt").write_text("dear")
    (encoder_folder / "curves.png").write_bytes(b"new")
    artifact.seal(encoder_folder)
    before = contents(place)
    with pytest.raises(ArtifactError, match=r"is not empty .*my_notes\.txt.* nothing was written; give another folder"):
        artifact.put(encoder_folder, place)
    assert contents(place) == before


def test_a_trained_model_without_a_manifest_is_never_replaced(encoder_folder: Path, tmp_path: Path) -> None:
    run = tmp_path / "model"
    shutil.copytree(encoder_folder, run)
    (run / "manifest.json").unlink()
    (run / "config.json").write_text("{}")
    with pytest.raises(ArtifactError, match="is not empty"):
        artifact.put(encoder_folder, run)


def test_a_full_disk_leaves_the_older_model_and_nothing_beside_it(
    encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    artifact.put(encoder_folder, place)
    before = contents(place)
    (encoder_folder / "curves.png").write_bytes(b"new")
    artifact.seal(encoder_folder)

    def full(source: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(artifact.shutil, "copyfile", full)
    with pytest.raises(ArtifactError, match="place: the disk is full; free some space"):
        artifact.put(encoder_folder, place)
    assert contents(place) == before
    assert not list(tmp_path.glob(".place*"))


def test_whoever_is_killed_between_the_two_renames_finds_the_old_model_again(
    encoder_folder: Path, tmp_path: Path
) -> None:
    place = tmp_path / "place"
    artifact.put(encoder_folder, place)
    before = contents(place)
    place.rename(tmp_path / ".place.old")  # as a SIGKILL leaves it
    artifact.put(encoder_folder, place)
    assert contents(place) == before
    assert not list(tmp_path.glob(".place*"))
