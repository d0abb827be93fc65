"""The portable checkpoint: whole or absent, and every damage found."""

from pathlib import Path

import pytest
import torch

from fer_scale import checkpoint
from fer_scale.checkpoint import CheckpointError


def save(run: Path, step: int, writers: int = 2) -> Path:
    place = checkpoint.folder_of(run, step)
    part = place.with_suffix(".part")
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
    checkpoint.write_part(checkpoint.folder_of(tmp_path, 3).with_suffix(".part"), 0, 1, {})
    found, passed = checkpoint.newest(tmp_path)
    assert found == old and passed == []  # no damage: nothing was lost


def test_a_checkpoint_with_a_flipped_bit_is_named_and_passed_over_for_the_one_before(tmp_path: Path) -> None:
    old, new = save(tmp_path, 1), save(tmp_path, 2)
    file = new / "state-01-of-02.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    found, passed = checkpoint.newest(tmp_path, verify=True)
    assert found == old and len(passed) == 1 and passed[0].startswith(f"{file}: damaged")


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


def test_the_newest_are_kept_and_every_nth_for_good(tmp_path: Path) -> None:
    for step in range(1, 9):
        save(tmp_path, step)
    checkpoint.prune(tmp_path, keep=2, keep_every_steps=3)
    assert sorted(f.name for f in (tmp_path / "checkpoints").iterdir()) == [f"step_{n:08d}" for n in (3, 6, 7, 8)]


def test_the_same_step_again_replaces_the_folder(tmp_path: Path) -> None:
    save(tmp_path, 4)
    state, _ = checkpoint.read(save(tmp_path, 4, writers=1))
    assert list(state) == ["w.0"]
