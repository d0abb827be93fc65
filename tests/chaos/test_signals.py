"""A signal to a rank, at any moment: nothing is lost, and the same command goes on to an undisturbed run's end."""

import random
import signal
import time
from collections.abc import Callable

import pytest
from disturbed import Life

Lives = Callable[..., Life]
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)


def signalled(life: Life, draw: random.Random) -> str:
    """Start it, send a signal to a rank; how it ended: done, preempted, or killed where nobody listened yet."""
    before, early = max(life.losses, default=0), draw.random() < 0.3
    run = life.start()
    until = time.monotonic() + 100
    while not early and max(life.losses, default=0) <= before and run.processes[0].poll() is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(draw.uniform(0, 0.7 if early else 0.4))
    rank, number = draw.randrange(2), draw.choice(SIGNALS)
    hit = run.processes[rank]
    hit.send_signal(number)
    if early and hit.wait(100):
        assert hit.returncode in (-number, 130)
        run.processes[1 - rank].send_signal(signal.SIGTERM)  # as a launcher does: it may wait for a peer to come
    said = life.ended(run)
    if early and any(life.codes):
        return "killed"
    assert life.codes == [0, 0], said
    last = max(life.losses)
    assert life.saved == last, f"step {last} was trained and is lost:\n{said}"
    if life.outcome["outcome"] == "preempted":
        assert (life.outcome["step"] == last and number.name in life.outcome["reason"]) or rank == 1
    return life.outcome["outcome"]


def survives(life: Lives, draw: random.Random, signals: int, steps: int) -> None:
    long = [f"run.steps={steps}", f"run.checkpoint_every_steps={steps}"]  # only a signal makes it save
    peace, run, how = life("peace", *long), life("run", *long), list[str]()
    while len(how) < signals and "done" not in how:
        how.append(signalled(run, draw))
        print(len(how), how[-1], "step", run.saved)
    assert "done" not in how, f"the run was over before {signals} signals: {how}"
    run.go()
    peace.go()
    assert run.end == peace.end


def test_a_signal_to_a_rank_loses_nothing(life: Lives) -> None:
    survives(life, random.Random(0), signals=2, steps=40)


@pytest.mark.chaos
def test_twenty_signals_lose_nothing(life: Lives) -> None:
    survives(life, random.Random(1), signals=20, steps=400)
