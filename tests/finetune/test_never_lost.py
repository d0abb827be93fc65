"""What happens to a fine-tuning run costs it no more than what it did since its last checkpoint.

Real processes; the same command goes on, to the last bit.
"""

import json
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import flip
from runs import events

from fer_scale import checkpoint, checkpoints
from fer_scale.log import rows

DOOMED = str(Path(__file__).with_name("doomed.py"))
Go = Callable[..., tuple[list[int], str]]
Peace = Callable[..., Any]


@pytest.fixture(scope="module")
def ends() -> dict[int, Any]:
    """What `peace` found: ranks -> end."""
    return {}


@pytest.fixture
def peace(go: Go, tmp_path: Path, ends: dict[int, Any]) -> Peace:
    """peace(ranks=1): the end of a run that nothing happens to."""

    def run(ranks: int = 1) -> Any:
        if ranks not in ends:
            go("peace", ranks=ranks)
            ends[ranks] = end(tmp_path / "peace")
        return ends[ranks]

    return run


@pytest.fixture
def go(recipe: Callable[..., Path], tmp_path: Path, launch: Any) -> Go:
    """go(name, *overrides, ranks=1, doom=..., at=...): a start of the run in tmp_path / name; exit codes, and all said.

    9 steps of stage 2 and 6 of stage 3, a checkpoint every 4.
    """
    file = recipe(steps=9, semi=6)

    def start(name: str, *overrides: str, ranks: int = 1, doom: str = "", at: int = 0, **environment: str) -> Any:
        words = [str(file), f"run.out={tmp_path / name}", "run.checkpoint_every_steps=4", *overrides]
        if ranks == 1:
            environment["MASTER_PORT"] = "0"  # any that is free: so many starts would meet one that is not
        return launch(ranks, DOOMED, "finetune", *words, DOOM=doom, AT=str(at), **environment)

    def run(*words: str, **how: Any) -> tuple[list[int], str]:
        processes = start(*words, **how).processes
        said = [p.communicate(timeout=120)[0] for p in processes]
        return [p.returncode for p in processes], "".join(said)

    run.start = start  # type: ignore[attr-defined]
    return run


def outcome(run: Path) -> dict[str, Any]:
    return json.loads((run / "outcome.json").read_text())


def end(run: Path) -> Any:
    """The curve, the last state and the model: what two runs have alike to the last bit."""
    assert outcome(run)["outcome"] == "done"
    folder = checkpoint.complete(run)[0]
    states = {name: checkpoint.manifest(folder)[name] for name in checkpoint.state_files(folder)}
    curve = [(row["step"], row["loss"], row["grad_norm"]) for row in rows(run / "metrics.jsonl")]
    return curve, states, checkpoint.progress_of(folder)["statistics"], (run / "model/model.safetensors").read_bytes()


def damage(folder: Path) -> None:
    """Another byte, the same length."""
    [name] = checkpoint.state_files(folder)
    flip(folder / name, -5)


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.chaos) for seed in range(1, 7))])
def test_a_run_killed_at_random_moments_ends_as_one_left_in_peace(go: Go, tmp_path: Path, seed: int) -> None:
    run, draw, kills = tmp_path / "run", random.Random(seed), 0
    _, said = go("peace", doom="counted")
    count = int(said.rpartition("moments: ")[2])
    while kills < 6:
        codes, said = go("run", doom="killed", at=draw.randint(1, count))
        kills += codes == [-signal.SIGKILL]
        assert codes in ([-signal.SIGKILL], [0]), said
        assert not [line for folder in checkpoint.complete(run) for line in checkpoints.damages(folder, lambda _: None)]
        assert not [*(run / "checkpoints").glob("*.0000.part")]  # a start's own: two may write at one time
        if codes == [0]:  # its moment did not come
            assert end(run) == end(tmp_path / "peace")
            shutil.rmtree(run)
    go("run")
    assert end(run) == end(tmp_path / "peace")
    assert len(checkpoint.complete(run)) == 2 and not [*(run / "checkpoints").glob("*.part")]


@pytest.mark.parametrize(
    ("ranks", "doom"),
    [
        (2, "SIGTERM"),
        (1, "stop"),
        *(pytest.param(1, doom, marks=pytest.mark.chaos) for doom in ("SIGINT", "run.max_hours")),
    ],
)
def test_a_run_that_is_asked_to_stop_saves_ends_with_0_and_goes_on_to_the_last_bit(
    go: Go, peace: Peace, tmp_path: Path, ranks: int, doom: str
) -> None:
    run, how = tmp_path / "run", {"ranks": ranks}
    reason = {"stop": f"file {run / 'stop'}", "run.max_hours": doom}.get(doom, f"signal {doom}")
    words = ["run.max_hours=1e-9"] if doom == "run.max_hours" else []
    codes, said = go("run", *words, **how, doom=doom, at=6, DOOMED=str(ranks - 1))
    assert codes == [0] * ranks, said
    told = outcome(run)
    assert (told["outcome"], told["restart"]) == ("preempted", doom != "stop")
    assert told["reason"] == (reason if ranks == 1 else "another rank was asked to stop")
    assert checkpoint.progress_of(checkpoint.folder_of(run, told["step"]))["step"] == told["step"]
    assert events(run, "stop") and go("run", **how)[0] == codes
    assert end(run) == peace(ranks)


def wait_for_steps(run: Path, count: int) -> None:
    until = time.monotonic() + 60
    while len(rows(run / "metrics.jsonl")) < count:
        assert time.monotonic() < until
        time.sleep(0.02)


def test_damaged_checkpoints_are_set_aside_and_where_none_is_whole_nothing_is_begun_anew(
    go: Go, peace: Peace, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    go("run", "run.stop_after_steps=10")
    newest, older = checkpoint.complete(run)
    damage(newest)
    shutil.copytree(run, tmp_path / "all")
    codes, said = go("run")
    assert codes == [0] and f"damaged, set aside as {newest.name}.damaged" in said
    assert [event["checkpoint"] for event in events(run, "set_aside")] == [f"{newest}.damaged"]
    assert end(run) == peace()
    run = tmp_path / "all"
    damage(run / "checkpoints" / older.name)
    before = {file: file.read_bytes() for file in run.rglob("*.*") if file.is_file() and "attempts" not in file.parts}
    before = {file: data for file, data in before.items() if file.name != "outcome.json"}
    codes, said = go("all")
    assert codes == [2] and said.count("every checkpoint is damaged") == 1 and "put back a copy of one" in said
    assert {file: file.read_bytes() for file in before} == before
    assert outcome(run)["restart"] is False and not (run / "model").exists()


def test_the_main_process_chooses_and_tells_one_with_another_folder_of_that_name(
    go: Go, peace: Peace, tmp_path: Path
) -> None:
    """Each process has its own run.out, and the other one's holds another run's checkpoint."""
    paths = [tmp_path / f"rank{rank}" for rank in (0, 1)]
    for path in paths:
        path.mkdir()
    go("rank0/run", "run.stop_after_steps=5", ranks=2)
    go("rank1/run", "run.stop_after_steps=7", "run.seed=1", "run.checkpoint_every_steps=0")
    codes, said = go("unused", "run.out=run", ranks=2, APART=str(tmp_path))
    assert codes == [0, 0], said
    assert end(paths[0] / "run") == peace(2)
    assert outcome(paths[1] / "run")["outcome"] == "preempted"


def test_what_the_main_process_fails_of_ends_all_and_is_said_once(go: Go, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    began = time.monotonic()
    codes, said = go("file/run", ranks=3)
    assert codes == [2, 2, 2] and said.count("give another folder") == 1
    assert time.monotonic() - began < 60, "they waited for one another"


def test_a_start_that_another_one_follows_leaves_and_writes_nothing_more(go: Go, tmp_path: Path) -> None:
    run = tmp_path / "run"
    old = go.start("run", "supervised.steps=100000", "run.checkpoint_every_steps=0", ranks=2)  # type: ignore[attr-defined]
    wait_for_steps(run, 3)
    codes, _ = go("run", "supervised.steps=100000", "run.stop_after_steps=4")
    said = "".join(p.communicate(timeout=60)[0] for p in old.processes)
    assert codes == [0] and sorted(p.returncode for p in old.processes) == [1, 2]
    assert "start 2 of this run has begun" in said
    assert (outcome(run)["attempt"], outcome(run)["outcome"]) == (2, "preempted")
    assert [folder.name for folder in checkpoint.complete(run)] == ["step_00000004"]


def test_a_disk_without_room_is_refused_before_the_first_step(go: Go, small_disk: Path) -> None:
    codes, said = go("unused", f"run.out={small_disk}/run", "run.keep_checkpoints=20")
    assert codes == [2] and "and 21 checkpoints of" in said and "make room" in said
    assert not (small_disk / "run/metrics.jsonl").exists()


def test_a_disk_that_fills_up_ends_all_processes_with_the_checkpoint_of_before(
    go: Go, peace: Peace, small_disk: Path
) -> None:
    run, ballast = small_disk / "run", small_disk / "ballast"
    words = [f"run.out={run}", "run.log_every_steps=100"]  # the save is the first to write
    codes, said = go("unused", *words, ranks=2, doom="full", at=6, BALLAST=str(ballast))
    assert sorted(codes) == [1, 2] and "0 bytes are free" in said and "make room" in said, said
    assert [folder.name for folder in checkpoint.complete(run)] == ["step_00000004"]
    ballast.unlink()
    assert go("unused", *words, ranks=2)[0] == [0, 0]
    assert end(run)[1:] == peace(2)[1:]


@pytest.mark.parametrize(("step", "doom"), [(6, "loss"), (12, "gradient"), (13, "teacher")])
def test_a_number_that_is_not_finite_on_one_process_costs_one_step(
    go: Go, tmp_path: Path, step: int, doom: str
) -> None:
    run, fixed = tmp_path / "run", "semi.labeler=fixed"  # with which such answers show in no gradient
    words = [f"run.stop_after_steps={step}", f"run.checkpoint_every_steps={step - 1}"]
    codes, said = go("run", fixed, *words, ranks=2, doom=doom, at=step, DOOMED="1")
    assert codes == [0, 0] and f"step {step} skipped" in said, said
    before, after = (checkpoint.read(checkpoint.folder_of(run, at)) for at in (step - 1, step))
    assert before[0].keys() == after[0].keys() and all(torch.equal(before[0][n], t) for n, t in after[0].items())
    assert before[1]["statistics"] == after[1]["statistics"] and before[1]["adam_step"] == after[1]["adam_step"]
    [skipped] = events(run, "skipped")
    assert [name[:6] for name in skipped["ranks"]] == (["rank 1"] if doom == "loss" else [])
    named = Path(skipped["file"]).read_text().splitlines()
    assert len(named) == skipped["samples"] == (8 if doom == "loss" else 30) and all("blobs-" in n for n in named)
    row = rows(run / "metrics.jsonl")[-1]
    assert row["grad_norm"] is None and row["skipped_steps"] == 1 and (row["loss"] is None) == (doom == "loss")
    assert go("run", fixed)[0] == [0] and rows(run / "metrics.jsonl")[-1]["skipped_steps"] == 1


def test_too_many_such_steps_in_a_row_end_the_run_with_the_checkpoint_of_before(go: Go, tmp_path: Path) -> None:
    run, words = tmp_path / "run", ["run.max_skipped=3", "run.checkpoint_every_steps=1", "run.log_every_steps=1"]
    codes, said = go("run", *words, doom="loss!", at=5)
    assert codes == [2] and "3 steps in a row were skipped, up to step 7" in said
    assert "--change supervised.lr=..." in said and outcome(run)["restart"] is False
    assert [folder.name for folder in checkpoint.complete(run)] == ["step_00000004", "step_00000003"]
    assert go("run", *words)[0] == [0]


def test_batch_norm_forgets_what_it_saw_in_a_step_that_is_skipped(go: Go, tmp_path: Path) -> None:
    scratch = ["model.architecture=resnet10t", "model.image_px=32", "model.patch_px=0", "supervised.steps=4"]
    words = [*scratch, "supervised.warmup_steps=1", "run.stop_after_steps=3", "run.checkpoint_every_steps=2"]
    codes, said = go("run", *words, doom="loss", at=3)
    assert codes == [0], said
    before, after = (checkpoint.read(checkpoint.folder_of(tmp_path / "run", at))[0] for at in (2, 3))
    assert any("running_var" in name for name in before)
    assert all(torch.equal(before[name], tensor) for name, tensor in after.items())
