"""What a run takes over from another one, on another cluster perhaps: whole, fitting and checked, or not at all."""

from pathlib import Path
from typing import Any

import pytest
import torch
from damage import flip
from hub import client
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from runs import recipe

from fer_scale import checkpoint, checkpoints, config, ending, log, portable
from fer_scale.checkpoint import CheckpointError
from fer_scale.ending import Attempt
from fer_scale.pretrain import begin


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A run with a checkpoint of step 3, that has gone on to step 4."""
    run = tmp_path / "old"
    place = checkpoint.folder_of(run, 3)
    part = checkpoint.part_of(place)
    state = {"w.x": torch.arange(5.0), "m.x": torch.ones(5)}
    lines = [checkpoint.write_part(part, 0, 1, state)]
    progress = {"step": 3, "adam_step": 3, "images": 75, "shards": ["print"], "recipe": config.dump(recipe(out=run))}
    checkpoint.finish(part, place, lines, progress)
    (run / "metrics.jsonl").write_text("".join(f'{{"step": {step}, "loss": {1 / step}}}\n' for step in (1, 2, 3, 4)))
    return run


@pytest.fixture
def new(tmp_path: Path) -> Attempt:
    return ending.claim(tmp_path / "new")


@pytest.mark.parametrize("given", ["run", "checkpoint"])
def test_the_checkpoint_and_the_curve_before_it_become_the_new_runs_own(old: Path, new: Attempt, given: str) -> None:
    place = checkpoint.folder_of(old, 3)
    address = old if given == "run" else place
    begin.bring(recipe(f"run.resume_from={address}", out=new.out), [], ["print"], new)
    mine = checkpoint.folder_of(new.out, 3)
    assert {f.name: f.read_bytes() for f in mine.iterdir()} == {f.name: f.read_bytes() for f in place.iterdir()}
    assert [row["step"] for row in log.rows(new.out / "metrics.jsonl")] == [1, 2, 3]
    [moved] = log.rows(new.out / "events.jsonl")
    assert (moved["event"], moved["step"], moved["address"]) == ("moved", 3, str(address))
    begin.bring(recipe("run.resume_from=/gone", out=new.out), [], ["print"], new)  # its own checkpoint wins


def test_another_recipe_or_other_images_are_refused_and_nothing_is_taken_over(old: Path, new: Attempt) -> None:
    other = recipe(f"run.resume_from={old}", "optim.lr=1e-3", out=new.out)
    with pytest.raises(CheckpointError) as refused:
        begin.bring(other, [], ["print"], new)
    said = (
        f"run.resume_from: {old}: holds a run with another recipe:\n  optim.lr: 0.005 -> 0.001\ngo on with the change"
    )
    assert said in str(refused.value)
    with pytest.raises(CheckpointError, match=r"run.resume_from: .*trained on other images"):
        begin.bring(other, ["optim.lr=1e-3"], ["another"], new)
    assert {f.name for f in new.out.iterdir()} == {"attempts"}
    begin.bring(other, ["optim.lr=1e-3"], ["print"], new)
    assert checkpoint.newest(new.out) == (place := checkpoint.folder_of(new.out, 3), [])
    assert not list(checkpoints.damages(place, lambda _: None))


@pytest.mark.parametrize("name", ["state-00-of-01.safetensors", "progress.json", "manifest.json"])
def test_a_damaged_state_is_found_before_anything_counts(old: Path, new: Attempt, name: str) -> None:
    flip(checkpoint.folder_of(old, 3) / name)
    with pytest.raises(CheckpointError):
        begin.bring(recipe(f"run.resume_from={old}", out=new.out), [], ["print"], new)
    assert not checkpoint.complete(new.out)


def test_a_start_that_another_one_follows_takes_nothing_over(old: Path, new: Attempt) -> None:
    ending.claim(new.out)
    for name in ("recipe.toml", "metrics.jsonl"):
        (new.out / name).write_text("the newer start's")
    with pytest.raises(ending.Superseded):
        begin.bring(recipe(f"run.resume_from={old}", out=new.out), [], ["print"], new)
    assert not checkpoint.complete(new.out)
    assert {(new.out / name).read_text() for name in ("recipe.toml", "metrics.jsonl")} == {"the newer start's"}


def test_what_is_no_state_is_said(new: Attempt, tmp_path: Path) -> None:
    for address, said in ((tmp_path, "no run"), (tmp_path / "nowhere", "no such folder")):
        with pytest.raises(CheckpointError, match=said):
            begin.bring(recipe(f"run.resume_from={address}", out=new.out), [], ["print"], new)


GOOD = {"step": 3, "adam_step": 3, "recipe": "[model]"}


@pytest.mark.parametrize(
    "progress",
    [
        [],
        5,
        {},
        *(
            GOOD | odd
            for odd in ({"step": "3"}, {"adam_step": None}, {"recipe": 5}, {"recipe": "<html>"}, {"recipe": ""})
        ),
    ],
)
def test_a_checkpoint_that_holds_something_else_is_refused_in_plain_words(tmp_path: Path, progress: Any) -> None:
    part, place = tmp_path / "part", tmp_path / "step_00000003"
    checkpoint.finish(part, place, [checkpoint.write_part(part, 0, 1, {})], progress)
    with pytest.raises(CheckpointError, match="holds no training state that this program understands"):
        portable.pull(str(place))


def test_a_repository_whose_curve_is_odd_or_missing_is_refused_in_plain_words(
    old: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, name = "hf://lab/faces-state", "metrics.json"
    with client.running(tmp_path, monkeypatch):
        portable.push(old, None, address)
        assert [row["step"] for row in portable.pull(address).metrics] == [1, 2, 3]
        odd = [CommitOperationAdd(name, body) for body in (b"<html>", b'{"a": 1}', b'[{"loss": 1}]', b"[5]")]
        for change in [*odd, CommitOperationDelete(name)]:
            HfApi().create_commit("lab/faces-state", [change], commit_message="odd")
            with pytest.raises(CheckpointError, match="holds no training state that this program understands"):
                portable.pull(address)
