"""How a run is asked to end, what it leaves about how it ended, and which of its starts counts."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fer_scale import ending
from fer_scale.ending import LEAVE, SAVE, SAVE_FOR_GOOD, Attempt, Preempted, StopSignal, Superseded
from shards.errors import Broken, UserError


def outcome(out: Path) -> dict[str, object]:
    return json.loads((out / "outcome.json").read_text())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_is_a_flag_inside_and_what_it_was_outside(tmp_path: Path, number: signal.Signals) -> None:
    before = signal.getsignal(number)
    stop = StopSignal(ending.claim(tmp_path), max_hours=None, rank=1)
    with stop:
        assert not stop.asked()
        os.kill(os.getpid(), number)
        assert stop.asked() == SAVE and stop.reason == f"signal {number.name}"
    assert signal.getsignal(number) == before and signal.set_wakeup_fd(-1) == -1


STUCK = """
import ctypes, os, signal, sys, time
from pathlib import Path
from fer_scale import ending
with ending.StopSignal(ending.claim(Path(sys.argv[1])), max_hours=None, rank=0):
    print("begun", flush=True)
    ctypes.CDLL(None).pause()  # as in a collective: no Python handler runs before it returns
    ctypes.CDLL(None).pause()
    time.sleep(60)
"""


def test_a_second_signal_of_a_kind_ends_at_once_but_not_its_echo_nor_one_of_another_kind(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", STUCK, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout and process.stdout.readline() == "begun\n"
    for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGTERM):
        process.send_signal(number)
        time.sleep(0.2)
    assert process.poll() is None, "a launcher passes on what a terminal has sent to all"
    time.sleep(1.2)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM
    process.stdout.close()
    said = outcome(tmp_path)
    assert said["reason"] == "signal SIGTERM for the second time; not saved" and said["restart"] is True


def test_only_rank_0_looks_at_the_clock_and_the_file(tmp_path: Path) -> None:
    for rank, by_file, by_clock in ((0, SAVE_FOR_GOOD, SAVE), (1, 0, 0)):
        attempt = ending.claim(tmp_path / str(rank))
        late = StopSignal(attempt, max_hours=0.01 / 3600, rank=rank)
        (attempt.out / "stop").touch()
        asked = StopSignal(attempt, max_hours=None, rank=rank).asked()
        time.sleep(0.05)
        assert (asked, late.asked()) == (by_file, by_clock)


def test_a_person_stops_a_run_for_good_and_a_supervisor_until_it_is_started_again(tmp_path: Path) -> None:
    for text, reason, again in (
        ("", f"file {tmp_path / 'stop'}", False),
        ('{"why": "signal SIGTERM", "host": "node7"}', "signal SIGTERM on node7", True),
    ):
        attempt = ending.claim(tmp_path)
        stop = StopSignal(attempt, max_hours=None, rank=0)
        (tmp_path / "stop").write_text(text)
        assert stop.asked() == (SAVE if again else SAVE_FOR_GOOD) and not (tmp_path / "stop").exists()
        with pytest.raises(Preempted), ending.recorded(attempt, 0):
            raise stop.preempted(3)
        assert (outcome(tmp_path)["reason"], outcome(tmp_path)["restart"]) == (reason, again)


def test_a_start_that_a_later_one_has_followed_leaves_and_the_run_shows_the_later_ones_outcome(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = ending.claim(tmp_path)
    stop = StopSignal(old, max_hours=None, rank=0)
    assert old.is_newest() and not stop.asked()
    with monkeypatch.context() as stale:  # a network file system that remembers which names were not there
        stale.setattr(os.path, "exists", lambda _: False)
        (old.folder.parent / "0002").mkdir()
        assert not old.is_newest()
    (old.folder.parent / "0002").rmdir()
    new = ending.claim(tmp_path)
    assert new.number == old.number + 1 and new.is_newest() and not old.is_newest()
    (tmp_path / "stop").touch()
    assert stop.asked() == LEAVE and (tmp_path / "stop").exists(), "it is for the later one"
    with pytest.raises(Superseded, match="start 2 of this run has begun"), ending.recorded(old, 0):
        raise old.superseded()
    assert outcome(old.folder)["outcome"] == "failed" and not (tmp_path / "outcome.json").exists()
    with ending.recorded(new, 0):
        pass
    assert outcome(tmp_path) == outcome(new.folder) and outcome(tmp_path)["outcome"] == "done"


def test_the_first_rank_that_fails_speaks_and_the_others_are_silent(tmp_path: Path) -> None:
    attempt = ending.claim(tmp_path)
    with pytest.raises(ValueError, match="first"), ending.recorded(attempt, 2):
        raise ValueError("first")
    with pytest.raises(SystemExit), ending.recorded(attempt, 0):
        raise ValueError("second")
    assert outcome(tmp_path)["reason"] == "ValueError: first" and outcome(tmp_path)["rank"] == 2


@pytest.mark.parametrize(
    ("error", "again"), [(RuntimeError, True), (UserError, False), (Broken, True), (KeyboardInterrupt, False)]
)
def test_a_start_again_may_help_where_a_machine_failed_and_not_where_somebody_must_look(
    tmp_path: Path, error: type[BaseException], again: bool
) -> None:
    with pytest.raises(error), ending.recorded(ending.claim(tmp_path), 0):
        raise error("why")
    assert outcome(tmp_path)["restart"] is again


def test_the_first_failure_is_kept_with_host_rank_and_traceback_until_the_next_start(tmp_path: Path) -> None:
    attempt = ending.claim(tmp_path)
    for rank in (2, 0):
        with pytest.raises((ValueError, SystemExit)), ending.recorded(attempt, rank):
            raise ValueError(f"by rank {rank}")
    kept = json.loads((tmp_path / "first_failure.json").read_text())
    assert (kept["rank"], kept["host"]) == (2, socket.gethostname())
    assert kept["traceback"].startswith("Traceback") and kept["traceback"].endswith("ValueError: by rank 2\n")
    ending.claim(tmp_path)
    assert not (tmp_path / "first_failure.json").exists()
    assert (attempt.folder / "first_failure.json").exists()


def test_on_a_full_disk_the_first_rank_speaks_alone_and_no_torn_outcome_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempt = ending.claim(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        assert attempt.record("failed", 1, reason="full") and not attempt.record("failed", 0, reason="lost rank 1")
    assert not (attempt.folder / "outcome.json").exists() and not (tmp_path / "outcome.json").exists()


def test_a_run_that_was_stopped_says_where_and_why(tmp_path: Path) -> None:
    with pytest.raises(Preempted), ending.recorded(ending.claim(tmp_path), 0):
        raise Preempted("signal SIGTERM", 7)
    said = outcome(tmp_path)
    assert (said["outcome"], said["step"], said["reason"]) == ("preempted", 7, "signal SIGTERM")
    assert said["restart"] is True and said["attempt"] == 1


def test_a_new_start_forgets_how_the_last_one_ended(tmp_path: Path) -> None:
    with ending.recorded(ending.claim(tmp_path), 0):
        pass
    assert outcome(tmp_path)["outcome"] == "done"
    ending.claim(tmp_path)
    assert not (tmp_path / "outcome.json").exists()


def test_a_folder_that_cannot_be_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "attempts").touch()
    for out in (tmp_path / "file" / "run", tmp_path / "other"):
        with pytest.raises(UserError, match="give another folder"):
            ending.claim(out)


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "make room there"), (errno.EDQUOT, "make room there"), (errno.EIO, "another")]
)
def test_a_claim_that_cannot_be_written_is_no_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def fails(file: Path, _: str) -> None:
        file.touch()  # and not a byte more
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_text", fails)
    with pytest.raises(UserError, match=f"{os.strerror(number)}; .*{words}"):
        ending.claim(tmp_path)
    assert list((tmp_path / "attempts").iterdir()) == []


def test_each_start_has_a_folder_of_its_own_that_says_whose_it_is(tmp_path: Path) -> None:
    assert [ending.claim(tmp_path).folder for _ in range(2)] == [tmp_path / "attempts" / f"000{k}" for k in (1, 2)]
    (tmp_path / "attempts" / "0010").mkdir()
    attempt = ending.claim(tmp_path)
    assert attempt == Attempt(tmp_path, 11, attempt.nonce, tmp_path / "attempts" / "0011")
    said = json.loads((attempt.folder / "claim.json").read_text())
    assert (said["attempt"], said["pid"], said["nonce"]) == (11, os.getpid(), attempt.nonce)


def test_a_rank_that_fails_later_is_silent_but_for_its_own_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    attempt = ending.claim(tmp_path)
    for rank in (2, 0):
        with pytest.raises((ValueError, SystemExit)), ending.recorded(attempt, rank, tmp_path / f"{rank}.log"):
            raise ValueError(f"by rank {rank}")
    assert capfd.readouterr() == ("", "") and not (tmp_path / "2.log").exists(), "Python itself says the first"
    assert (tmp_path / "0.log").read_text().endswith("ValueError: by rank 0\n")
