"""Whose a run's folder is: a rank that has another one under its name, a peer that would train something else, and a
start that another one has followed."""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from fer_scale import ending, log

HERE = Path(__file__).parent


@pytest.fixture
def words(faces: Path, tmp_path: Path) -> list[str]:
    """What follows a driver's name: a run of six steps in tmp_path / "run"."""
    recipe = ["pretrain", str(HERE / "pretrain.toml"), f"data.shards={faces}", f"run.out={tmp_path / 'run'}"]
    return [*recipe, "run.steps=6", "run.checkpoint_every_steps=3"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to mount")
def test_a_rank_with_another_folder_of_that_name_is_named_and_trains_along_through_a_resume(
    words: list[str], tmp_path: Path, launch: Any
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    command = [str(HERE / "apart.py"), *words]
    said = launch(2, *command, "run.stop_after_steps=3", APART=str(run)).wait()
    assert f"run.out: {run} is another folder for rank 1 on " in said
    assert [f.name for f in (run / "checkpoints/step_00000003").glob("state-*")] == ["state-00-of-01.safetensors"]
    said = launch(2, *command, APART=str(run)).wait()
    assert f"goes on from {run}/checkpoints/step_00000003" in said
    assert [row["step"] for row in log.rows(run / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]
    assert sorted(f.name for f in (run / "attempts/0002").glob("[!.]*")) == ["claim.json", "outcome.json", "rank-0.log"]


def test_a_peer_with_another_recipe_or_other_versions_is_named_before_the_first_step(
    words: list[str], tmp_path: Path, launch: Any
) -> None:
    command = [str(HERE / "other.py"), *words]
    differences = {
        "optim.betas=[0.9,0.99]": "recipe: optim.betas: (0.9, 0.99) there, (0.9, 0.95) on rank 0",
        "versions": "version of torch: 2.0 there, ",
    }
    for other, line in differences.items():
        run = launch(2, *command, OTHER=other)
        said = "".join(p.communicate(timeout=200)[0] for p in run.processes)
        assert sorted(p.returncode for p in run.processes) == [1, 2], said
        assert said.count("rank 1 on ") == 1
        assert f"differs from rank 0 and would train something else:\n  {line}" in said
    assert "Traceback" not in said and not (tmp_path / "run/metrics.jsonl").exists()


def test_a_peer_whose_recipe_does_not_load_is_named_at_once_and_a_mistake_of_all_is_one_line(
    words: list[str], launch: Any
) -> None:
    for command, name in (
        ([str(HERE / "other.py"), *words], f"rank 1 on {os.uname().nodename}, but not all ranks: "),
        (["-m", "fer_scale", *words, "optim.lrr=1"], ""),
    ):
        run = launch(2, *command, OTHER="optim.lrr=1")
        said = "".join(p.communicate(timeout=100)[0] for p in run.processes)
        assert [p.returncode for p in run.processes] == [2, 2], said
        assert f"fer-scale pretrain: {name}" in said and said.count("optim.lrr") == 1, said
        assert said.startswith("meeting  2 ranks at " if name else "fer-scale pretrain: "), said
        assert ("make all hosts alike" in said) == bool(name) and "Traceback" not in said


def test_a_folder_that_no_disk_can_have_is_one_line_and_the_same_code_on_all_ranks(
    words: list[str], tmp_path: Path, launch: Any
) -> None:
    run = launch(2, "-m", "fer_scale", *words, f"run.out={tmp_path / ('n' * 300)}")
    said = "".join(p.communicate(timeout=100)[0] for p in run.processes)
    assert [p.returncode for p in run.processes] == [2, 2], said
    assert said.count("too long for a path") == 1 and "Traceback" not in said, said


def test_a_slip_typed_at_a_run_that_runs_does_not_end_it(words: list[str], tmp_path: Path, launch: Any) -> None:
    run = tmp_path / "run"
    runs = launch(1, "-m", "fer_scale", *words, "run.steps=100000", "run.checkpoint_every_steps=100000")
    steps_of(run, 1, runs)
    for slip, line in (
        ("optim.betas=[0.9,0.99]", "optim.betas"),
        ("run.resume=never", "holds a run already and run.resume is never"),
    ):
        [process] = launch(1, "-m", "fer_scale", *words, "run.steps=100000", slip).processes
        said = process.communicate(timeout=100)[0]
        assert process.returncode == 2 and line in said
    assert [folder.name for folder in (run / "attempts").iterdir()] == ["0001"]
    steps_of(run, len(log.rows(run / "metrics.jsonl")) + 1, runs)


def test_what_another_host_sees_damaged_stays_and_a_start_that_came_late_changes_nothing(
    words: list[str], tmp_path: Path, launch: Any
) -> None:
    run, driver = tmp_path / "run", str(HERE / "begins.py")
    launch(2, driver, *words, "run.stop_after_steps=3", BEGINS="").wait()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4}\n')  # what a start that goes on from step 3 takes away first
    kept = {file: file.read_bytes() for file in run.glob("*") if file.is_file() and file.name[0] not in "of."}
    assert {file.name for file in kept} >= {"events.jsonl", "metrics.jsonl", "recipe.toml", "plan.json"}
    for happens, code, line in (
        ("blind", os.EX_TEMPFAIL, "but on rank 0's host it is whole; nothing was set aside"),
        ("behind", 2, "start 4 of this run has begun; this one, number 3, ends and writes nothing more"),
        ("late", 2, "start 6 of this run has begun; this one, number 5, ends and writes nothing more"),
    ):
        ended = launch(2, driver, *words, BEGINS=happens)
        said = "".join(p.communicate(timeout=100)[0] for p in ended.processes)
        assert sorted(p.returncode for p in ended.processes) == sorted([1, code]) and said.count(line) == 1, said
        assert kept == {file: file.read_bytes() for file in kept}, happens
        assert [folder.name for folder in (run / "checkpoints").iterdir()] == ["step_00000003"]


def steps_of(run: Path, count: int, running: Any) -> None:
    """Wait until it has so many lines of metrics."""
    until = time.monotonic() + 150
    while len(log.rows(run / "metrics.jsonl")) < count:
        assert time.monotonic() < until and running.processes[0].poll() is None
        time.sleep(0.05)


def test_a_start_that_a_later_one_has_followed_leaves_without_saving(
    words: list[str], tmp_path: Path, launch: Any
) -> None:
    run = tmp_path / "run"
    old = launch(2, "-m", "fer_scale", *words, "run.steps=100000", "run.checkpoint_every_steps=100000")
    steps_of(run, 3, old)
    new = ending.claim(run)
    said = "".join(p.communicate(timeout=100)[0] for p in old.processes)
    assert sorted(p.returncode for p in old.processes) == [1, 2]
    assert said.count("start 2 of this run has begun; this one, number 1, ends and writes nothing more") == 1
    assert not (run / "checkpoints").exists() and not (run / "outcome.json").exists()
    assert json.loads((run / "attempts/0001/outcome.json").read_text())["restart"] is False
    assert new.is_newest()
