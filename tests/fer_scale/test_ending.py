"""How a run is asked to end, and what it leaves about how it ended."""

import json
import os
import signal
import socket
import time
from pathlib import Path

import pytest

from fer_scale import ending
from fer_scale.ending import Preempted, StopSignal


def outcome(out: Path) -> dict[str, object]:
    return json.loads((out / "outcome.json").read_text())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_is_a_flag_inside_and_what_it_was_outside(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    stop = StopSignal(tmp_path, max_hours=None, rank=1)
    with stop:
        assert not stop.asked()
        os.kill(os.getpid(), number)
        assert stop.asked() and stop.reason == f"signal {number.name}"
    assert signal.getsignal(number) == before


def test_only_rank_0_looks_at_the_clock_and_the_file(tmp_path: Path) -> None:
    for rank, expected in ((0, True), (1, False)):
        late = StopSignal(tmp_path, max_hours=0.01 / 3600, rank=rank)
        (tmp_path / "stop").touch()
        asked = StopSignal(tmp_path, max_hours=None, rank=rank).asked()
        time.sleep(0.02)
        assert (asked, late.asked()) == (expected, expected)


def test_the_first_rank_that_fails_speaks_and_the_others_are_silent(tmp_path: Path) -> None:
    assert ending.claim(tmp_path) == ""
    with pytest.raises(ValueError, match="first"), ending.recorded(tmp_path, 2):
        raise ValueError("first")
    with pytest.raises(SystemExit), ending.recorded(tmp_path, 0):
        raise ValueError("second")
    assert outcome(tmp_path)["reason"] == "ValueError: first" and outcome(tmp_path)["rank"] == 2


def test_the_first_failure_is_kept_with_host_rank_and_traceback_until_the_next_start(tmp_path: Path) -> None:
    ending.claim(tmp_path)
    for rank in (2, 0):
        with pytest.raises((ValueError, SystemExit)), ending.recorded(tmp_path, rank):
            raise ValueError(f"by rank {rank}")
    kept = json.loads((tmp_path / "first_failure.json").read_text())
    assert (kept["rank"], kept["host"]) == (2, socket.gethostname())
    assert kept["traceback"].startswith("Traceback") and kept["traceback"].endswith("ValueError: by rank 2\n")
    ending.claim(tmp_path)
    assert not (tmp_path / "first_failure.json").exists()


def test_a_run_that_was_stopped_says_where_and_why(tmp_path: Path) -> None:
    ending.claim(tmp_path)
    with pytest.raises(Preempted), ending.recorded(tmp_path, 0):
        raise Preempted("signal SIGTERM", 7)
    said = outcome(tmp_path)
    assert (said["outcome"], said["step"], said["reason"]) == ("preempted", 7, "signal SIGTERM")


def test_a_new_start_forgets_how_the_last_one_ended(tmp_path: Path) -> None:
    with ending.recorded(tmp_path, 0):
        pass
    assert outcome(tmp_path)["outcome"] == "done"
    ending.claim(tmp_path)
    assert not (tmp_path / "outcome.json").exists()


def test_a_folder_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert ending.claim(tmp_path / "file" / "run").endswith("give another folder")


def test_each_start_has_a_folder_of_its_own_for_logs(tmp_path: Path) -> None:
    assert [ending.attempt(tmp_path) for _ in range(2)] == [tmp_path / "logs" / f"attempt-{k}" for k in (1, 2)]
    (tmp_path / "logs" / "attempt-10").mkdir()
    assert ending.attempt(tmp_path) == tmp_path / "logs" / "attempt-11"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "logs").touch()
    assert str(ending.attempt(tmp_path / "other")).endswith("give another folder")


def test_a_rank_that_fails_later_is_silent_but_for_its_own_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ending.claim(tmp_path)
    for rank in (2, 0):
        with pytest.raises((ValueError, SystemExit)), ending.recorded(tmp_path, rank, tmp_path / f"{rank}.log"):
            raise ValueError(f"by rank {rank}")
    assert capfd.readouterr() == ("", "") and not (tmp_path / "2.log").exists(), "Python itself says the first"
    assert (tmp_path / "0.log").read_text().endswith("ValueError: by rank 0\n")
