"""Numbers that are not finite, on one rank alone: no rank takes the step, and none ever reaches the disk.

`Life.check` reads every checkpoint that is there after a start, to its last value.
"""

import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from disturbed import HERE, STEPS, Life
from test_layouts import layout

from fer_scale import log

Lives = Callable[..., Life]
DRIVER = str(HERE / "bad_numbers.py")
RANK_1 = f"rank 1 on {socket.gethostname()}"


ONCE = [(1, "loss"), (3, "gradient")]  # the other stages in the long suite


@pytest.mark.parametrize(
    ("stage", "bad"),
    [
        pytest.param(stage, bad, marks=() if (stage, bad) in ONCE else pytest.mark.chaos)
        for stage in range(4)
        for bad in ("loss", "gradient")
    ],
)
def test_a_number_that_is_not_finite_on_one_rank_costs_one_step(
    life: Lives, tmp_path: Path, stage: int, bad: str
) -> None:
    run = life("run", layout(tmp_path, stage), driver=DRIVER)
    run.go(BAD=bad)
    assert run.codes == [0, 0] and run.outcome["outcome"] == "done", run.said
    assert (run.losses[5] is None) == (bad == "loss")
    assert all(loss is not None for step, loss in run.losses.items() if step != 5) and len(run.losses) == STEPS
    assert log.rows(run.run / "metrics.jsonl")[-1]["skipped_steps"] == 1
    [skipped] = [event for event in log.rows(run.run / "events.jsonl") if event["event"] == "skipped"]
    assert skipped["step"] == 5 and skipped["ranks"] == ([RANK_1] if bad == "loss" else [])
    named = Path(skipped["file"]).read_text().splitlines()
    assert len(named) == skipped["samples"] == (13 if bad == "loss" else 25)
    assert all(".tar" in line or "faces" in line for line in named)


@pytest.mark.chaos
@pytest.mark.parametrize("stage", [0, 1])
def test_a_bit_that_flips_in_a_weight_in_use_ends_the_run_and_the_same_command_goes_on(
    life: Lives, tmp_path: Path, stage: int
) -> None:
    run = life("run", layout(tmp_path, stage), "run.max_skipped=3", driver=DRIVER)
    run.go(BAD="weight")
    assert "doom: a bit flips" in run.said and sorted(run.codes) in ([1, 2], [1, 75]) and "Traceback" not in run.said, (
        run.said
    )
    ends = ("3 steps in a row were skipped", "the gathered weights are not the live ones", "has other weights than")
    assert sum(run.said.count(end) for end in ends) == 1, run.said
    run.go(BAD="nothing")
    assert run.codes == [0, 0] and all(loss is not None for loss in run.losses.values()), run.said


@pytest.mark.chaos
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_a_bit_that_flips_in_what_the_optimizer_steps_is_told_and_brings_no_nan_to_the_disk(
    life: Lives, tmp_path: Path, stage: int
) -> None:
    run = life("run", layout(tmp_path, stage), "run.max_skipped=3", "run.keep_checkpoints=4", driver=DRIVER)
    run.go(BAD="master")
    assert "doom: a bit flips" in run.said and "Traceback" not in run.said, run.said
    assert "not finite or too large for fp16" in run.said or "3 steps in a row were skipped" in run.said


@pytest.mark.chaos
@pytest.mark.parametrize("stage", [1, 2])
def test_a_flipped_bit_is_not_saved_as_the_newest_checkpoint_while_steps_are_skipped(life, tmp_path, stage) -> None:
    run = life("run", layout(tmp_path, stage), "run.max_skipped=3", "run.keep_checkpoints=2", driver=DRIVER)
    run.go(BAD="master")
    run.go(BAD="nothing")
    assert run.codes == [0, 0] and all(loss is not None for loss in run.losses.values()), run.said
