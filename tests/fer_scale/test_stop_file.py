"""RUN/stop: a person's keeps a run from beginning, one left over means nothing, a supervisor's may end it at once."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fer_scale import ending, stop_file
from shards.errors import UserError

WORD = {"why": "signal SIGINT", "host": "node7"}


def aged(file: Path, than: Path, seconds: float) -> None:
    """Make `file` older than another."""
    moment = than.stat().st_mtime - seconds
    os.utime(file, (moment, moment))


def test_no_start_claims_a_run_that_a_person_wants_not_to_begin(tmp_path: Path) -> None:
    stop = tmp_path / "stop"
    stop.touch()
    with pytest.raises(
        UserError, match=r"stop is there since 20.*: the run is not to begin; remove that file to go on"
    ):
        ending.claim(tmp_path)
    assert not (tmp_path / "attempts").exists() and stop.exists()
    stop.unlink()
    assert ending.claim(tmp_path).number == 1


@pytest.mark.parametrize("end", ["outcome.json", "claim.json"])  # killed without a word: it began later, at least
def test_what_is_older_than_the_end_of_the_last_start_is_removed(
    tmp_path: Path, end: str, capsys: pytest.CaptureFixture[str]
) -> None:
    attempt, stop = ending.claim(tmp_path), tmp_path / "stop"
    if end == "outcome.json":
        attempt.record("failed", 0, reason="", restart=True)
    stop.touch()
    aged(stop, attempt.folder / end, 1)
    assert ending.claim(tmp_path).number == 2
    assert not stop.exists() and "was older than the end of the last start: removed" in capsys.readouterr().err
    stop.touch()
    with pytest.raises(UserError, match="remove that file"):
        ending.claim(tmp_path)


def test_a_supervisors_word_is_for_the_start_that_begins_and_one_to_end_at_once_keeps_it_from_beginning(
    tmp_path: Path,
) -> None:
    stop = tmp_path / "stop"
    stop.write_text(json.dumps(WORD))
    assert ending.claim(tmp_path).number == 1 and stop.exists()
    stop.write_text(json.dumps(WORD | {"at_once": True}))
    with pytest.raises(UserError, match="signal SIGINT on node7 for the second time: the run is not begun"):
        ending.claim(tmp_path)
    assert not stop.exists() and ending.claim(tmp_path).number == 2


def test_a_persons_after_a_signal_ends_the_run_for_good(tmp_path: Path) -> None:
    stop = ending.StopSignal(ending.claim(tmp_path), max_hours=None, rank=0)
    with stop:
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.asked() == ending.SAVE
        (tmp_path / "stop").touch()  # while the step ends, and what is left is done before the save
        assert not stop.preempted(5, ending.SAVE).again
    assert not (tmp_path / "stop").exists()


def test_a_word_that_goes_while_it_is_looked_at_is_nobodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop = tmp_path / "stop"
    for look in ("word", "is_left_over"):
        stop.write_text(json.dumps(WORD))
        before = getattr(stop_file, look)
        with monkeypatch.context() as patched:
            patched.setattr(stop_file, look, lambda file, before=before: file.unlink(missing_ok=True) or before(file))
            assert stop_file.refusal(stop) == "", look


@pytest.mark.parametrize("text", ["", "now, please", "[]", '{"why": "lunch"}'])
def test_whatever_a_person_writes_is_a_persons(tmp_path: Path, text: str) -> None:
    (tmp_path / "stop").write_text(text)
    assert stop_file.word(tmp_path / "stop") == {} and stop_file.refusal(tmp_path / "stop")


HANGS = """
import ctypes, sys
from pathlib import Path
from fer_scale import ending
out, nonce, rank = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
ending._LOOK_S = 2
with ending.StopSignal(ending.Attempt(out, 1, nonce, out / "attempts/0001"), max_hours=None, rank=rank):
    print("begun", flush=True)
    while True:
        ctypes.CDLL(None).pause()  # as in a collective that waits for a peer
"""


def test_ranks_end_at_once_where_a_supervisor_that_cannot_reach_them_says_so_also_when_they_hang(
    tmp_path: Path,
) -> None:
    ranks = []
    attempt = ending.claim(tmp_path)
    for rank in ("0", "1"):
        command = [sys.executable, "-c", HANGS, str(tmp_path), attempt.nonce, rank]
        ranks.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    for process in ranks:
        assert process.stdout and process.stdout.readline() == "begun\n"
        process.stdout.close()
    time.sleep(1.2)
    assert not any(process.poll() for process in ranks)
    (tmp_path / "stop").write_text(json.dumps(WORD | {"at_once": True}))
    assert [process.wait(20) for process in ranks] == [128 + signal.SIGTERM] * 2
    outcome = json.loads((tmp_path / "outcome.json").read_text())
    assert outcome["reason"] == "signal SIGINT on node7 for the second time; not saved" and outcome["restart"] is True
    assert outcome["rank"] == 0 and not (tmp_path / "stop").exists()
