"""The portable checkpoint: whole or absent, and every damage found."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as library_save

from fer_scale import checkpoint, saves, tensors
from fer_scale.checkpoint import CheckpointError, TooNew


def save(run: Path, step: int, writers: int = 2) -> Path:
    place = checkpoint.folder_of(run, step)
    part = checkpoint.part_of(place, 1)
    files = [checkpoint.write_part(part, k, writers, {f"w.{k}": torch.full((4,), float(step))}) for k in range(writers)]
    checkpoint.finish(part, place, files, {"step": step, "adam_step": step})
    return place


def test_what_was_saved_is_read_back(tmp_path: Path) -> None:
    state, progress = checkpoint.read(save(tmp_path, 7))
    assert {k: v.tolist() for k, v in state.items()} == {"w.0": [7.0] * 4, "w.1": [7.0] * 4}
    assert progress == {"step": 7, "adam_step": 7}
    assert sorted(f.name for f in (tmp_path / "checkpoints" / "step_00000007").iterdir()) == [
        "manifest.json",
        "progress.json",
        "state-00-of-02.safetensors",
        "state-01-of-02.safetensors",
    ]


def test_a_save_that_was_cut_off_is_passed_over_for_the_one_before(tmp_path: Path) -> None:
    old, new = save(tmp_path, 1), save(tmp_path, 2)
    (new / "manifest.json").unlink()
    checkpoint.write_part(checkpoint.part_of(checkpoint.folder_of(tmp_path, 3)), 0, 1, {})
    found, passed = checkpoint.newest(tmp_path)
    assert found == old and passed == []  # no damage: nothing was lost


@pytest.mark.parametrize("name", ["manifest.json", "progress.json", "state-00-of-02.safetensors"])
def test_any_flipped_bit_is_found(tmp_path: Path, name: str) -> None:
    folder = save(tmp_path, 1)
    whole = (folder / name).read_bytes()
    for at in range(0, len(whole), 7):
        data = bytearray(whole)
        data[at] ^= 1
        (folder / name).write_bytes(bytes(data))
        with pytest.raises(CheckpointError):
            checkpoint.read(folder)


def test_a_cut_a_missing_and_a_swapped_file_are_found(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    one, two = folder / "state-00-of-02.safetensors", folder / "state-01-of-02.safetensors"
    data = one.read_bytes()
    one.write_bytes(data[:-1])
    with pytest.raises(CheckpointError, match=r"bytes, not"):
        checkpoint.read(folder)
    one.write_bytes(two.read_bytes())
    with pytest.raises(CheckpointError, match="damaged"):
        checkpoint.read(folder)
    one.unlink()
    with pytest.raises(CheckpointError, match=r"-1 bytes, not"):
        checkpoint.read(folder)


def test_a_state_file_too_many_is_damage_but_what_people_and_network_file_systems_leave_is_not(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    for name in (".nfs0001", "SHA256SUMS", "weights.safetensors"):
        (folder / name).touch()
    checkpoint.read(folder)
    (folder / "state-02-of-02.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"state-02-of-02.safetensors is not in its manifest"):
        checkpoint.read(folder)


def test_a_newer_form_is_no_damage_and_says_what_to_do(tmp_path: Path) -> None:
    save(tmp_path, 1)
    file = save(tmp_path, 2) / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"version": 99}))
    with pytest.raises(TooNew, match=r"written in version 99, this fer_scale reads 1 at most; install a newer one"):
        checkpoint.newest(tmp_path)


def test_a_state_file_is_what_the_library_would_write_to_the_byte() -> None:
    state = {f"{name}.{i}": torch.ones(3, 2, dtype=dtype) for i in (1, 0) for name, dtype in tensors._DTYPES.items()}
    state |= {"scalar": torch.tensor(3.0), "empty": torch.empty(0, 4), "turned": torch.rand(3, 5).T}
    wanted = library_save({k: v.contiguous() for k, v in state.items()}, metadata={"format": "pt"})
    assert b"".join(tensors.serialised(state, {"format": "pt"})) == wanted


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_is_never_saved_and_large_ones_are(tmp_path: Path, value: float) -> None:
    large = torch.full((3_000_000,), 3e38)
    checkpoint.write_part(tmp_path, 0, 2, {"v.large": large, "b.whole": torch.arange(3)})
    large[-1] = value
    with pytest.raises(CheckpointError, match=r"v.large: holds NaN or infinite values"):
        checkpoint.write_part(tmp_path, 1, 2, {"v.large": large})


def test_one_that_was_set_aside_is_not_met_again(tmp_path: Path) -> None:
    old, new = save(tmp_path, 1), save(tmp_path, 2)
    (new / "progress.json").unlink()
    for _ in range(2):  # the second time over what the first one left
        found, passed = checkpoint.newest(tmp_path)
        assert found == old and [folder for folder, _ in passed] == [new]
        assert checkpoint.set_aside(new) == new.with_name("step_00000002.damaged")
        assert checkpoint.newest(tmp_path) == (old, [])
        save(tmp_path, 2)
        (new / "progress.json").unlink()


def test_what_kills_have_left_goes_and_a_save_that_lacked_only_its_name_gets_it(tmp_path: Path) -> None:
    whole = save(tmp_path, 1)
    part = checkpoint.part_of(whole, 7)
    os.rename(save(tmp_path, 2), checkpoint.part_of(checkpoint.folder_of(tmp_path, 2), 7))
    checkpoint.write_part(checkpoint.part_of(checkpoint.folder_of(tmp_path, 3)), 0, 1, {})
    (save(tmp_path, 4) / "manifest.json").unlink()
    os.rename(save(tmp_path, 5), torn := checkpoint.part_of(checkpoint.folder_of(tmp_path, 5), 7))
    os.truncate(torn / "manifest.json", 100)
    shutil.copytree(whole, part)  # the same step once more: killed in the middle of putting one in place of the other
    (whole / "manifest.json").unlink()
    checkpoint.sweep(tmp_path)
    assert sorted(f.name for f in whole.parent.iterdir()) == ["step_00000001", "step_00000002"]
    assert [checkpoint.read(checkpoint.folder_of(tmp_path, step))[1]["step"] for step in (1, 2)] == [1, 2]


def test_nothing_is_deleted_while_the_newest_is_damaged(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        folder = save(tmp_path, step)
    (folder / "progress.json").unlink()
    checkpoint.prune(tmp_path, keep=1)
    assert len(checkpoint.complete(tmp_path)) == 3


def test_a_save_that_may_not_count_any_more_leaves_no_manifest(tmp_path: Path) -> None:
    part, place = tmp_path / "part", checkpoint.folder_of(tmp_path, 1)
    files = [checkpoint.write_part(part, 0, 1, {"w.0": torch.ones(1)})]
    assert not checkpoint.finish(part, place, files, {}, may=lambda: False)
    assert not place.exists() and not (part / "manifest.json").exists()


def test_the_room_that_is_there_and_needed_is_said(tmp_path: Path) -> None:
    saves.refuse_without_room(tmp_path, 1000, 3)
    with pytest.raises(CheckpointError, match=r"2 checkpoints of 1000.00 TB are to be written: make room") as refused:
        saves.refuse_without_room(tmp_path, 10**15, 2)
    assert str(refused.value).startswith(f"{tmp_path}: ")


def test_the_newest_are_kept_and_every_nth_for_good(tmp_path: Path) -> None:
    for step in range(1, 9):
        save(tmp_path, step)
    checkpoint.prune(tmp_path, keep=2, keep_every_steps=3)
    assert sorted(f.name for f in (tmp_path / "checkpoints").iterdir()) == [f"step_{n:08d}" for n in (3, 6, 7, 8)]


def test_a_checkpoint_that_came_late_is_kept_for_good_in_the_place_of_the_one_that_was_due(tmp_path: Path) -> None:
    for step in (3, 6, 9, 12, 13, 16, 22, 25, 30):  # every third; some steps were skipped, one was a stop's
        save(tmp_path, step)
        checkpoint.prune(tmp_path, keep=1, keep_every_steps=10)
    assert sorted(f.name for f in (tmp_path / "checkpoints").iterdir()) == [f"step_{n:08d}" for n in (12, 22, 30)]
    assert checkpoint.for_good(range(5, 100, 5), 20) == {20, 40, 60, 80}


def test_the_same_step_again_replaces_the_folder(tmp_path: Path) -> None:
    save(tmp_path, 4)
    state, _ = checkpoint.read(save(tmp_path, 4, writers=1))
    assert list(state) == ["w.0"]


def test_a_save_that_a_later_start_has_named_meanwhile_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A start that was given up still writes: its last sync may take longer than the next start takes to sweep."""
    synced = checkpoint._sync

    def slowly(folder: Path) -> None:
        synced(folder)
        if (folder / "manifest.json").exists():
            checkpoint.sweep(tmp_path)

    monkeypatch.setattr(checkpoint, "_sync", slowly)
    assert checkpoint.read(save(tmp_path, 4))[1]["step"] == 4
