"""A rank killed at any moment: the same command goes on, to the last bit of what an undisturbed run leaves."""

import random
import signal
from collections.abc import Callable
from typing import Any

import pytest
from disturbed import NEVER, Life

Lives = Callable[..., Life]

# phase -> how often it comes before the run's end, about, and on which ranks
PHASES = {
    "step": (5, 2), "gather": (400, 2), "shard write": (2, 2), "shard end": (2, 2), "progress": (2, 1),
    "manifest": (2, 1), "manifest end": (2, 1), "rename": (2, 1), "delete": (8, 1),
}  # fmt: skip


def drawn(draw: random.Random) -> dict[str, Any]:
    phase = draw.choice(list(PHASES))
    times, ranks = PHASES[phase]
    what = draw.choice(["killed", "torn"]) if phase.endswith(" end") else "killed"
    return {"rank": draw.randrange(ranks), "phase": phase, "nth": draw.randint(1, times), "what": what}


def killed(life: Life, doom: dict[str, Any]) -> bool:
    """Whether it was, before it was done; the other ranks ended by themselves."""
    said = life.go(doom=doom)
    if life.codes[doom["rank"]] == NEVER:
        assert life.outcome["outcome"] == "done", said
        return False
    assert life.codes[doom["rank"]] == -signal.SIGKILL, said
    assert life.codes[1 - doom["rank"]] == 75, said
    return True


def test_a_run_killed_at_every_phase_of_a_save_ends_as_one_left_in_peace(life: Lives) -> None:
    peace, run = life("peace"), life("run")
    peace.go()
    for rank, phase, nth, what in (
        (0, "step", 2, "killed"),
        (0, "shard end", 1, "torn"),
        (1, "gather", 30, "killed"),
        (0, "manifest", 1, "killed"),
        (0, "rename", 1, "killed"),
        (0, "delete", 3, "killed"),
    ):
        assert killed(run, {"rank": rank, "phase": phase, "nth": nth, "what": what}), phase
    run.go()
    assert run.end == peace.end


@pytest.mark.chaos
@pytest.mark.parametrize("seed", range(6))
def test_ten_random_kills_leave_the_end_as_it_was(life: Lives, seed: int) -> None:
    draw, peace, kills = random.Random(seed), life("peace"), 0
    peace.go()
    while kills < 10:
        run = life(f"run-{kills}")
        while kills < 10 and killed(run, doom := drawn(draw)):
            kills += 1
            print(f"kill {kills}: {doom}; step {run.saved} is saved")
        if run.outcome.get("outcome") != "done":
            run.go()
        run.codes = [0, 0]
        assert run.end == peace.end
