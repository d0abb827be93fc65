"""fer_scale/supervise.py around a launcher that does to a run's folder what a run does, and around a real training."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from fer_scale import log
from fer_scale.ending import Attempt, claim
from fer_scale.processes import children
from fer_scale.starts import fruitless, newest
from fer_scale.supervise import _unclaimed

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# The waits that are not in its arguments, short enough for a test.
START = """
import sys
from fer_scale import supervise
supervise._MARGIN_S, supervise._OVER_S, supervise._PATIENCE_S, supervise._POLL_S = 0.3, 1, 0.5, 0.05
sys.exit(supervise.main())
"""


@dataclass
class Node:
    """A supervisor of a fake run, and what it has said so far."""

    process: subprocess.Popen[bytes]
    file: Path

    @property
    def said(self) -> str:
        return self.file.read_text()

    def ended(self, seconds: float = 30) -> int:
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(self.said) from None

    def rank(self) -> int:
        """The process id of the newest rank, as soon as there is one."""
        until(lambda: "rank " in self.said, "a rank")
        return int(re.findall(r"^rank (\d+)$", self.said, re.M)[-1])


def until(reached: Callable[[], bool], what: str, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, f"waited {seconds} s in vain: {what}"
        time.sleep(0.02)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def node(tmp_path: Path, out: Path) -> Iterator[Callable[..., Node]]:
    """node(plan, *options, **environment): a supervisor around tests/launch/fake_run.py."""
    started: list[Node] = []

    def start(plan: str, *options: str, grace_s: float = 0.3, **env: str) -> Node:
        words = ["pretrain", str(ROOT / "tests/ranks/pretrain.toml"), "data.shards=none", f"run.out={out}"]
        command = [sys.executable, str(HERE / "fake_run.py"), plan, "-m", "fer_scale", *words, f"run.grace_s={grace_s}"]
        said = tmp_path / f"said{len(started)}"
        with said.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-c", START, "--back-off", "0.05", *options, *command],
                cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)} | env, stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip
        started.append(Node(process, said))
        return started[-1]

    yield start
    for some in started:
        some.process.kill()
        some.process.wait()


def claimed(out: Path, number: int = 1) -> None:
    until((out / f"attempts/{number:04d}/claim.json").exists, f"start {number}")
    until(lambda: (out / "events.jsonl").exists(), "its first event")


@pytest.mark.parametrize(
    ("plan", "code", "said"),
    [
        ("succeeds", 0, "start 1 done"),
        ("mistake", 2, "start 1 failed: no such shards (rank 0 on "),
        ("fails", 1, "start 1 failed: a machine broke"),
        ("killed", 1, "start 1 ended without a word: killed?; the same command again may help"),
        ("dies", 1, "the launcher ended with 1 before a run was begun"),
    ],
)
def test_the_exit_code_says_how_the_run_ended_whatever_the_launcher_answered(
    node: Any, plan: str, code: int, said: str
) -> None:
    one = node(plan)
    assert one.ended() == code
    assert said in one.said


def test_a_signal_becomes_a_file_that_the_run_sees_and_nothing_of_it_is_left(node: Any, out: Path) -> None:
    one = node("trains")
    claimed(out)
    one.process.send_signal(signal.SIGUSR1)
    assert one.ended() == 75
    assert "start 1 preempted: told to; the same command goes on" in one.said
    assert not (out / "stop").exists() and not lives(one.rank())
    assert node("trains,succeeds").ended() == 0


def test_a_file_written_by_hand_stops_a_run_for_good_even_between_two_starts(node: Any, out: Path) -> None:
    one = node("fails,trains", "--restarts", "1", "--back-off", "30")
    until(lambda: "it is started again in" in one.said, "a failure")
    (out / "stop").touch()
    assert one.ended() == 0
    assert not (out / "stop").exists() and len(list((out / "attempts").iterdir())) == 1


def test_a_file_that_is_left_of_an_earlier_run_stops_nothing(node: Any, out: Path) -> None:
    out.mkdir()
    (out / "stop").touch()
    other = node("trains", "--main", "localhost:1")  # of another node
    time.sleep(1)
    assert other.process.poll() is None and (out / "stop").exists()
    assert node("succeeds").ended() == 0
    assert not (out / "stop").exists()


def test_before_a_run_is_begun_there_is_nothing_to_wait_for(node: Any, out: Path) -> None:
    one = node("starts")
    rank = one.rank()
    one.process.send_signal(signal.SIGTERM)
    assert one.ended(10) == 75
    assert not lives(rank) and not list((out / "attempts").iterdir()) and not (out / "stop").exists()


def test_ranks_that_do_not_save_in_time_are_ended_and_so_is_what_they_started(node: Any, out: Path) -> None:
    one = node("deaf")
    claimed(out)
    one.process.send_signal(signal.SIGTERM)
    assert one.ended(15) == 75
    assert "not saved within run.grace_s = 0.3" in one.said and not lives(one.rank())


def test_a_second_signal_does_not_wait(node: Any, out: Path) -> None:
    one = node("deaf", grace_s=600)
    claimed(out)
    one.process.send_signal(signal.SIGINT)
    until(lambda: not (out / "stop").exists(), "the end of the step")
    one.process.send_signal(signal.SIGINT)  # as a terminal and a launcher tell the same twice
    time.sleep(1.2)
    assert one.process.poll() is None
    one.process.send_signal(signal.SIGINT)
    assert one.ended(5) == 75 and not lives(one.rank())


def test_a_failed_run_is_started_again_and_it_is_said_why_and_how_often_still(node: Any, out: Path) -> None:
    one = node("fails,killed,saves,", "--restarts", "3")
    assert one.ended() == 0
    assert "start 1 failed: a machine broke (rank 0 on " in one.said and "2 more times after that" in one.said
    assert "start 2 ended without a word: killed?; it is started again in" in one.said
    assert "1 more time after that" in one.said and "start 3 done" in one.said


@pytest.mark.parametrize("plan", ["fails", "dies"])
def test_three_starts_in_a_row_without_a_checkpoint_are_enough(node: Any, plan: str) -> None:
    one = node(plan, "--restarts", "9")
    assert one.ended() == 1
    assert "the last 3 starts brought no checkpoint: somebody must look" in one.said
    assert one.said.count("it is started again") == 2


def test_a_checkpoint_between_them_is_progress(node: Any) -> None:
    one = node("fails,savesandfails,fails,fails,succeeds", "--restarts", "9")
    assert one.ended() == 0 and "start 5 done" in one.said


def test_a_mistake_is_not_tried_again_nor_a_run_that_was_told_to_stop(node: Any, out: Path) -> None:
    assert node("mistake", "--restarts", "9").ended() == 2
    one = node("trains", "--restarts", "9")
    claimed(out, 2)
    one.process.send_signal(signal.SIGTERM)
    assert one.ended() == 75 and len(list((out / "attempts").iterdir())) == 2


def test_how_many_starts_were_in_vain_is_read_from_the_folder_alone(out: Path) -> None:
    assert fruitless(out) == 0

    def start(outcome: str, *, restart: bool = True, saves: bool = False) -> Attempt:
        attempt = claim(out)
        rows = [{"event": "resume", "attempt": attempt.number}, *[{"event": "checkpoint", "step": 1}] * saves]
        with (out / "events.jsonl").open("a") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
        if outcome:
            attempt.record(outcome, 0, restart=restart)
        return attempt

    counts = []
    for args in ({"outcome": "failed"}, {"outcome": ""}, {"outcome": "failed", "saves": True}, {"outcome": "failed"}):
        start(**args)
        counts.append(fruitless(out))
    assert counts == [1, 2, 0, 1]
    start("preempted")
    assert fruitless(out) == 0
    start("failed")
    start("failed", restart=False)  # somebody has looked since
    assert fruitless(out) == 0
    (out / "attempts/0009.1f2e3d").mkdir()  # on a host with another folder of this name: it cannot know
    assert fruitless(out) == 0


def test_a_launcher_that_is_killed_takes_its_ranks_along_and_comes_back(node: Any, out: Path) -> None:
    one = node("trains,succeeds", "--restarts", "1")
    claimed(out)
    rank = one.rank()
    launcher = int(re.findall(r"PPid:\s+(\d+)", Path(f"/proc/{rank}/status").read_text())[0])
    time.sleep(0.3)  # seen
    os.kill(launcher, signal.SIGKILL)
    assert one.ended() == 0
    assert "preempted: told to, by its launcher, which ended with -9; it is started again" in one.said
    assert not lives(rank)


def test_a_rank_that_stays_when_its_start_has_failed_is_killed_and_the_run_goes_on(node: Any) -> None:
    one = node("stuck,succeeds", "--restarts", "1")
    assert one.ended(20) == 0
    assert "start 1 has ended, and 1 rank of it stayed: killed" in one.said


def test_of_two_nodes_any_is_told_and_both_leave_alike(node: Any, out: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    plan = "fails,trains"
    other = node(plan, "--restarts", "1", "--main", f"127.0.0.1:{port}", FOLLOW="1")
    main = node(plan, "--restarts", "1", LISTEN=str(port))
    claimed(out, 2)
    until(lambda: other.said.count("rank ") > 1, "the other node's second rank")
    time.sleep(0.3)  # it has looked around
    other.process.send_signal(signal.SIGTERM)
    assert main.ended() == other.ended() == 75, other.said
    assert "start 1 failed: a machine broke" in other.said and "it is started again with 127.0.0.1" in other.said
    assert not (out / "stop").exists()


def test_a_recipe_that_cannot_be_read_is_told_without_a_launcher_and_other_verbs_are_just_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fer_scale.supervise", "touch", str(tmp_path / "touched"), "-m", "fer_scale"]
    done = subprocess.run([*command, "pretrain", "nowhere.toml"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        2,
        "fer-scale pretrain: nowhere.toml: no such recipe; see the files in configs/\n",
    )
    assert not (tmp_path / "touched").exists()
    command = [sys.executable, "-m", "fer_scale.supervise", "false", "-m", "fer_scale", "doctor"]
    assert subprocess.run(command, cwd=ROOT).returncode == 1


def test_it_imports_no_torch() -> None:
    code = "import sys; import fer_scale.supervise; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True).stdout == b"False\n"


# --- a real training --------------------------------------------------------------------------------------------------


@pytest.fixture
def training(out: Path, faces: Path) -> Iterator[Callable[..., Node]]:
    """training(said, *options): launch/node.sh with a real run."""
    started: list[Node] = []

    def start(said: Path, *options: str) -> Node:
        words = ["pretrain", "tests/ranks/pretrain.toml", f"data.shards={faces}", f"run.out={out}", "run.steps=100000"]
        command = ["bash", "launch/node.sh", *options, *words, "run.checkpoint_every_steps=20"]
        env = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), "CUDA_VISIBLE_DEVICES": ""}
        with socket.socket() as free, said.open("ab") as file:
            free.bind(("127.0.0.1", 0))
            env |= {"RANKS": "2", "MAIN": f"127.0.0.1:{free.getsockname()[1]}"}
            process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=file, stderr=subprocess.STDOUT)
        started.append(Node(process, said))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()  # its launcher is told, and passes it on
        one.process.wait()


def steps(out: Path) -> list[int]:
    return [row["step"] for row in log.rows(out / "metrics.jsonl")]


def ranks_of(supervisor: int) -> list[int]:
    [launcher] = children(supervisor)
    return [process.pid for process in children(launcher.pid)]


@pytest.mark.slow
def test_a_training_saves_when_its_node_is_taken_away_and_comes_back_when_a_rank_is_killed(
    training: Callable[..., Node], out: Path, tmp_path: Path
) -> None:
    one = training(tmp_path / "one")
    until(lambda: len(steps(out)) > 30, "step 30", 120)
    ranks = ranks_of(one.process.pid)
    told = time.monotonic()
    one.process.send_signal(signal.SIGTERM)
    assert one.ended(60) == 75, one.said
    print(f"SIGTERM to saved and gone: {time.monotonic() - told:.1f} s")
    saved = steps(out)[-1]
    assert (out / f"checkpoints/step_{saved:08d}/manifest.json").exists() and not any(map(lives, ranks))
    assert len(ranks) == 2 and not (out / "stop").exists()

    one = training(tmp_path / "two", "--restarts", "3", "--back-off", "1")
    until(lambda: steps(out)[-1] > saved + 30, "30 more steps", 120)
    killed, at = time.monotonic(), steps(out)[-1]
    os.kill(ranks_of(one.process.pid)[1], signal.SIGKILL)
    until(lambda: len(log.rows(out / "events.jsonl")) and starts_of(out) == [1, 2, 3], "the third start", 120)
    until(lambda: steps(out)[-1] > at, "a new step", 120)
    print(f"a rank killed at step {at} to step {steps(out)[-1]}: {time.monotonic() - killed:.1f} s")
    ranks = ranks_of(one.process.pid)
    os.kill(ranks[1], signal.SIGSTOP)  # nobody can save
    one.process.send_signal(signal.SIGTERM)
    time.sleep(2)
    assert one.process.poll() is None and all(map(lives, ranks))
    one.process.send_signal(signal.SIGTERM)
    assert one.ended(10) == 75 and not any(map(lives, ranks)), one.said

    one = training(tmp_path / "three")
    until(lambda: starts_of(out) == [1, 2, 3, 4] and steps(out)[-1] > at, "the fourth start", 120)
    ranks = ranks_of(one.process.pid)
    one.process.kill()  # its launcher is told, and passes that on
    one.process.wait()
    until(lambda: not any(map(lives, ranks)), "the end of the ranks", 60)
    outcome = json.loads((out / "attempts/0004/outcome.json").read_text())
    assert outcome["outcome"] == "preempted" and outcome["step"] == steps(out)[-1]


def starts_of(out: Path) -> list[int]:
    return [row["attempt"] for row in log.rows(out / "events.jsonl") if row["event"] in ("start", "resume")]


def test_launches_that_never_begin_a_start_are_counted_over_supervisors_as_slurm_queues_again(
    out: Path, tmp_path: Path
) -> None:
    (out / "attempts").mkdir(parents=True)
    before = newest(out)
    assert [_unclaimed(out, before) for _ in range(3)] == [1, 2, 3]
    claim(out)
    assert _unclaimed(out, newest(out)) == 1
