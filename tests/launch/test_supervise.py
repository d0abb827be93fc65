"""How a supervised run is stopped, and what its supervisor answers: around a fake run, and around a real training."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hosts import ROOT
from supervised import Node, claimed, lives, until

from fer_scale import log, stop_file, supervise
from fer_scale.ending import claim
from fer_scale.processes import children
from fer_scale.starts import newest
from fer_scale.wish import Wish


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
    assert not (out / "stop").exists() and newest(out).number == 1


def test_a_file_that_is_left_of_an_earlier_start_stops_nothing_and_the_next_start_removes_it(
    node: Any, out: Path
) -> None:
    assert node("fails").ended() == 1
    ended = (out / "attempts/0001/outcome.json").stat().st_mtime
    (out / "stop").touch()
    os.utime(out / "stop", (ended - 1, ended - 1))
    other = node("trains", "--main", "localhost:1")  # of another node
    time.sleep(1)
    assert other.process.poll() is None and (out / "stop").exists()
    one = node("fails,succeeds")
    assert one.ended() == 0
    assert not (out / "stop").exists() and "was older than the end of the last start: removed" in one.said


def test_while_a_person_wants_that_the_run_does_not_begin_none_does(node: Any, out: Path) -> None:
    def refused(*options: str) -> None:
        (out / "stop").touch()
        one = node("succeeds", *options, SLURM_JOB_ID="42")
        assert one.ended() == 0 and "the run is not to begin; remove that file to go on" in one.said
        assert (out / "stop").exists()

    out.mkdir()
    refused("--requeue")  # of a job that waits in a queue
    refused("--main", "localhost:1")
    (out / "stop").unlink()
    assert node("succeeds").ended() == 0
    refused()
    assert newest(out).number == 1


def test_before_a_run_is_begun_there_is_nothing_to_wait_for(node: Any, out: Path) -> None:
    one = node("starts")
    rank = one.rank()
    one.process.send_signal(signal.SIGTERM)
    assert one.ended(10) == 75
    assert not lives(rank) and newest(out).number == 0 and not (out / "stop").exists()


def test_a_run_that_is_done_may_still_publish_but_no_longer_than_it_said(node: Any, out: Path) -> None:
    keys = ["publish.to=/encoder", "card.license=mit"]
    assert node("publishes", keys=keys).ended() == 0 and (out / "published").exists()
    (out / "published").unlink()
    one = node("publishes", keys=[*keys, "publish.wait_s=0.5"])
    assert one.ended() == 0 and "1 rank of it stayed: killed" in one.said and not (out / "published").exists()


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


def test_ranks_out_of_reach_are_told_at_once_by_the_file_which_stays_for_those_that_may_still_begin(
    node: Any, out: Path
) -> None:
    one = node("deaf", "--far", grace_s=600)
    claimed(out)
    one.process.send_signal(signal.SIGINT)
    until(lambda: not (out / "stop").exists(), "the end of the step")
    time.sleep(1.2)
    one.process.send_signal(signal.SIGINT)
    assert one.ended(5) == 75
    assert json.loads((out / "stop").read_text())["at_once"] is True
    two = node("succeeds")  # in which it means nothing
    assert two.ended() == 0 and not (out / "stop").exists()


def test_a_fine_tuning_is_supervised_as_well(node: Any, out: Path) -> None:
    one = node("fails,trains", "--restarts", "1", verb="finetune")
    claimed(out, 2)
    one.process.send_signal(signal.SIGTERM)
    assert one.ended() == 75
    assert "start 1 failed: a machine broke" in one.said and "start 2 preempted: told to" in one.said


def test_a_recipe_that_cannot_be_read_is_told_without_a_launcher_and_other_verbs_are_just_run(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "fer_scale.supervise", "touch", str(tmp_path / "touched"), "-m", "fer_scale"]
    done = subprocess.run([*command, "pretrain", "nowhere.toml"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        2,
        "fer-scale pretrain: nowhere.toml: no such recipe; `fer-scale recipes` lists ours\n",
    )
    assert not (tmp_path / "touched").exists()
    command = [sys.executable, "-m", "fer_scale.supervise", "false", "-m", "fer_scale", "doctor"]
    assert subprocess.run(command, cwd=ROOT).returncode == 1
    command = [sys.executable, "-m", "fer_scale.supervise", "--restarts", "2", "touch", str(tmp_path / "touched")]
    done = subprocess.run([*command, "-m", "fer_scale", "evaluate"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "--restarts: evaluate has no run to go on with\n")
    assert not (tmp_path / "touched").exists()


WORDS = [
    'data.shards=["/a=0.7","/b=0.3"]',
    'k=["x", "$HOME \\"]',
    "100%n",
    "%%h",
    "a b`c`",
    "$(date);&",
    "",
    "'",
    "a\nb",
    "=.,:/",
]


@pytest.mark.skipif(not shutil.which("pdsh"), reason="needs pdsh")
def test_words_reach_other_hosts_as_they_are() -> None:
    """Through DeepSpeed's own quoting, pdsh's, and a shell: all but the way over ssh."""
    from deepspeed.launcher.multinode_runner import PDSHRunner

    command = ["deepspeed", "--module", "fer_scale", "pretrain", *WORDS]
    args = SimpleNamespace(user_args=supervise._for_pdsh(command)[4:], user_script="fer_scale", launcher_args="")
    words = " ".join(PDSHRunner(args, "").parse_user_args())
    shell = ["pdsh", "-N", "-R", "exec", "-w", "a", "bash", "-c", f"printf '%%s|' {words}"]
    said = subprocess.run(shell, capture_output=True, text=True, check=True, env={"PATH": os.environ["PATH"]}).stdout
    assert said == "".join(f"{word}|" for word in WORDS)


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


def test_where_another_node_was_first_to_write_stop_the_wish_is_passed_on_once_and_not_written_again(
    node: Any, out: Path
) -> None:
    one = node("slow", grace_s=1.5)
    claimed(out)
    (out / ".word").write_text(json.dumps({"why": "signal SIGTERM", "host": "node1"}))
    os.replace(out / ".word", out / "stop")
    one.process.send_signal(signal.SIGTERM)
    until(lambda: "the run is to save and stop" in one.said, "the wish")
    time.sleep(0.3)
    (out / "stepped").touch()
    until(lambda: not (out / "stop").exists(), "the end of the step")
    time.sleep(0.5)  # it saves
    assert not (out / "stop").exists() and one.said.count("the run is to save and stop") == 1
    one.ended()


def test_a_persons_stop_after_the_end_stays_for_the_next_start(out: Path) -> None:
    attempt = claim(out)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    wish = Wish(out / "stop")
    for number, handler in before.items():
        signal.signal(number, handler)
    wish.asked = "signal SIGTERM"
    attempt.record("preempted", 0, restart=True)
    time.sleep(0.02)
    (out / "stop").touch()
    supervise._withdrawn(supervise.Orders([], out, 1.0), wish)
    assert (out / "stop").exists() and stop_file.refusal(out / "stop")
