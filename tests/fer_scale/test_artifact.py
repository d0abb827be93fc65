"""What a model folder promises on disk: every byte can be checked, and it is put in place whole or not at all."""

import errno
import json
import random
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import timm
from damage import flip
from hub.looking import contents

from fer_scale import artifact, encoder, hub, predict
from fer_scale.__main__ import main
from fer_scale.artifact import ArtifactError
from fer_scale.finetune import evaluate, recipe, start
from fer_scale.pretrain import recipe as pretrain_recipe
from fer_scale.pretrain import start as pretrain_start
from fer_scale.publish import publish
from fer_scale.signature import SignatureError


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


def bits_of_files(folder: Path) -> list[tuple[Path, int]]:
    """100 bits of a published folder, by file and place: half of them anywhere, the other half dealt to the files.

    Not of the card, which may be corrected.
    """
    names = ["model.safetensors", "config.json", "curves.png", "manifest.json"]
    sizes = [(folder / name).stat().st_size for name in names]
    rng = random.Random(0)
    chosen = [*rng.choices(range(4), sizes, k=50), *(k % 4 for k in range(50))]
    return [(folder / names[k], *at(rng.randrange(8 * sizes[k]))) for k in chosen]


def at(bit: int) -> tuple[int, int]:
    """The byte in which it lies, and the bits to change there."""
    return bit // 8, 1 << bit % 8


@pytest.fixture
def illustrated(encoder_folder: Path) -> Path:
    (encoder_folder / "curves.png").write_bytes(bytes(range(256)) * 10)
    artifact.seal(encoder_folder)
    return encoder_folder


def test_100_of_100_flipped_bits_of_a_published_folder_are_found(illustrated: Path) -> None:
    for file, *place in bits_of_files(illustrated):
        flip(file, *place)
        for load in (artifact.check, encoder.read, lambda folder: hub.pull(str(folder))):
            with pytest.raises(ArtifactError, match=r"damaged|not a manifest|of version"):
                load(illustrated)
        flip(file, *place)
    encoder.load(illustrated)


def bits_of_values(folder: Path) -> list[int]:
    """100 bits of the weights' values, anywhere but in the header."""
    data = (folder / "model.safetensors").read_bytes()
    begin, rng = 8 + int.from_bytes(data[:8], "little"), random.Random(1)
    return [rng.randrange(8 * begin, 8 * len(data)) for _ in range(100)]


def test_100_of_100_flipped_bits_of_values_are_found(illustrated: Path) -> None:
    weights = illustrated / "model.safetensors"
    for bit in bits_of_values(illustrated):
        flip(weights, *at(bit))
        with pytest.raises(ArtifactError, match=r"model\.safetensors has changed since it was published"):
            encoder.read(illustrated)
        flip(weights, *at(bit))


@pytest.mark.slow
def test_timm_finds_0_of_100_flipped_bits_of_values(illustrated: Path) -> None:
    """Of the 100 over all files it finds 10, which break config.json or the header of the weights."""
    for bit in bits_of_values(illustrated):
        flip(illustrated / "model.safetensors", *at(bit))
        timm.create_model(f"local-dir:{illustrated}", pretrained=True)
        flip(illustrated / "model.safetensors", *at(bit))
    loaded = 0
    for file, *place in bits_of_files(illustrated):
        flip(file, *place)
        with suppress(Exception):
            timm.create_model(f"local-dir:{illustrated}", pretrained=True)
            loaded += 1
        flip(file, *place)
    assert loaded == 90


LOADS: dict[str, Callable[[str, Path | None], object]] = {
    "pull": lambda address, key: hub.pull(address, key=key),
    "predict": lambda address, key: predict.load(address, key=key),
    "evaluate": lambda address, key: evaluate._classifier(address, None, None, key, "picture"),  # type: ignore[arg-type]
    "finetune": lambda address, key: start.start(recipe.Model(start_from=address, start_key=key), 3, 0),
    "pretrain": lambda address, key: begin_with(address, key),
}


def begin_with(address: str, key: Path | None) -> object:
    wanted = pretrain_recipe.Model(
        encoder="64x2x2", image_px=32, patch_px=8, std=(0.5,) * 3, start_from=address, start_key=key
    )
    return pretrain_start.load(encoder.build("64x2x2", image_px=32, patch_px=8), wanted)


@pytest.mark.parametrize("verb", LOADS)
def test_every_command_that_loads_a_model_finds_a_flipped_bit(illustrated: Path, verb: str) -> None:
    flip(illustrated / "model.safetensors", 20_000)
    with pytest.raises(ArtifactError, match=r"model\.safetensors has changed since it was published"):
        LOADS[verb](str(illustrated), None)


@pytest.mark.parametrize("verb", LOADS)
def test_every_command_that_loads_a_model_takes_a_key_and_refuses_what_is_not_signed(
    illustrated: Path, tmp_path: Path, verb: str, keys: tuple[Path, Path]
) -> None:
    with pytest.raises(SignatureError, match=r"is not signed: no model\.sig"):
        LOADS[verb](str(illustrated), keys[1])


def test_the_model_of_a_run_has_a_manifest_too_and_is_still_one_to_be_published(
    finetuned: Path, tmp_path: Path
) -> None:
    model = finetuned / "model"
    assert not artifact.published(model)
    publish(model, str(tmp_path / "there"), licence="mit")
    assert artifact.published(tmp_path / "there")
    with pytest.raises(ArtifactError, match="is not empty"):
        artifact.put(tmp_path / "there", model)
    flip(model / "model.safetensors", 20_000)
    for load in (predict.load, hub.pull, lambda place: publish(Path(place), str(tmp_path / "other"), licence="mit")):
        with pytest.raises(ArtifactError, match=r"model\.safetensors has changed since it was published"):
            load(str(model))


def test_publishing_finds_a_flipped_bit_of_what_was_published_already(illustrated: Path, tmp_path: Path) -> None:
    flip(illustrated / "curves.png", 0)
    with pytest.raises(ArtifactError, match=r"curves\.png has changed since it was published"):
        publish(illustrated, str(tmp_path / "there"))


@pytest.mark.parametrize("name", ["adapter_config.json", "more.safetensors"])
def test_a_file_that_loaders_read_must_stand_in_the_manifest(encoder_folder: Path, name: str) -> None:
    (encoder_folder / name).write_text("{}")
    with pytest.raises(ArtifactError, match=rf"{name} is not in its manifest\.json"):
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


def test_many_who_put_a_model_in_one_place_leave_it_whole(
    encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the jobs of an array that all pull the same model."""
    place, copies, copied = tmp_path / "place", list[str](), shutil.copyfile

    def slowly(source: Path, target: Path) -> None:
        time.sleep(0.02)
        copied(source, target)
        copies.append(target.name)

    monkeypatch.setattr(shutil, "copyfile", slowly)
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(artifact.put, encoder_folder, place) for _ in range(4)]:
            done.result()
    assert contents(place) == contents(encoder_folder)
    assert sorted(copies) == sorted(contents(encoder_folder)), "who comes later finds it there"
    assert [path.name for path in tmp_path.iterdir() if "place" in path.name] == ["place"]


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


def test_a_mount_point_and_the_folder_where_one_is_are_not_replaced_even_if_they_are_empty(
    encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for place, told in ((Path("."), "here: is where you are"), (Path("/proc"), "/proc: is a mount point")):
        with pytest.raises(ArtifactError, match=f"{told}, and another .* would take its place; give a folder in it"):
            artifact.put(encoder_folder, place)
    artifact.put(encoder_folder, Path("inside"))
    assert contents(tmp_path / "here" / "inside") == contents(encoder_folder)


def test_a_folder_that_is_mounted_from_the_same_disk_is_told_when_it_cannot_be_renamed(
    encoder_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "place").mkdir()

    def busy(place: Path, to: Path) -> None:
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(Path, "rename", busy)
    with pytest.raises(ArtifactError, match="place: is a mount point, which nothing can take the place of"):
        artifact.put(encoder_folder, tmp_path / "place")
    assert [path.name for path in tmp_path.iterdir() if path != encoder_folder] == ["place"]


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


def test_where_the_disk_refuses_the_second_rename_the_old_model_is_back_at_once(
    encoder_folder: Path, make_encoder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    artifact.put(encoder_folder, place)
    before, rename = contents(place), Path.rename

    def refuses(source: Path, to: Path) -> Path:
        if source.name == ".place.part":
            raise OSError(errno.EIO, "Input/output error")
        return rename(source, to)

    monkeypatch.setattr(Path, "rename", refuses)
    with pytest.raises(OSError, match="Input/output error"):
        artifact.put(make_encoder(tmp_path / "other", seed=1), place)
    assert contents(place) == before and not list(tmp_path.glob(".place*"))


def test_a_model_without_a_manifest_is_pulled_twice_by_the_same_command(encoder_folder: Path, tmp_path: Path) -> None:
    (encoder_folder / "manifest.json").unlink()  # as of timm
    place = tmp_path / "place"
    for _ in range(2):
        assert main(["pull", str(encoder_folder), str(place)]) == 0
    (place / "config.json").write_text("{}")
    assert main(["pull", str(encoder_folder), str(place)]) == 2
    assert (place / "config.json").read_text() == "{}"


def test_a_sealed_licence_that_the_card_does_not_say_is_named_beside_it(encoder_folder: Path) -> None:
    config = {"pretrained_cfg": {"license": "Non-commercial research only"}}
    said = {}
    for front in ("mit", "other\nlicense_name: non-commercial-research-only"):
        (encoder_folder / "README.md").write_text(f"---\nlicense: {front}\n---\n")
        said[front[:5]] = artifact.licence(encoder_folder, config)
    assert said == {"mit": "mit and non-commercial-research-only", "other": "non-commercial-research-only"}


def test_no_licence_of_a_stranger_makes_ours_too_long_to_load(encoder_folder: Path) -> None:
    (encoder_folder / "README.md").write_text(f"---\nlicense: {'m' * 1000}\n---\n")
    many = ", from ".join(f"{number}-{'x' * 50}" for number in range(20))
    said = artifact.licence(encoder_folder, {"fer_scale": {"base_licence": many}})
    assert said == f"unknown, from 19-{'x' * 50}"
