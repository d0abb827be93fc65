"""What supervisors do with a run that failed: which start follows, on how many nodes, and when it is enough."""

import json
import os
import re
import signal
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from hosts import ROOT
from supervised import claimed, lives, until

from fer_scale import config
from fer_scale.ending import SAVE, SAVE_FOR_GOOD, Attempt, StopSignal, claim
from fer_scale.finetune.recipe import Finetune
from fer_scale.pretrain.recipe import Pretrain
from fer_scale.starts import DONE, PREEMPTED, Launches, Start, fruitless, judge, launches, newest


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
    assert one.ended() == 75 and newest(out).number == 2


@pytest.mark.parametrize(
    ("schema", "file", "change"),
    [
        (Pretrain, "tests/ranks/pretrain.toml", "optim.lr=1e-3"),
        (Finetune, "configs/finetune/demo.toml", "supervised.lr=1e-3"),
    ],
)
def test_a_slip_typed_at_a_run_that_is_there_is_not_even_launched(
    node: Any, out: Path, schema: type, file: str, change: str
) -> None:
    verb, words = schema.__name__.lower(), ["data.shards=none", f"run.out={out}"]
    words += ["data.split=s", "model.start_from=e"] * (verb == "finetune")
    out.mkdir()
    (out / "recipe.toml").write_text(config.dump(config.load(schema, ROOT / file, words)))
    slip = node("dies", "--restarts", "9", verb=verb, keys=[change])
    assert slip.ended() == 2 and "holds a run with another recipe" in slip.said and "rank" not in slip.said
    assert node("succeeds", verb=verb, keys=["--change", change]).ended() == 0


def test_how_many_starts_were_in_vain_is_read_from_the_folder_alone(out: Path) -> None:
    assert fruitless(out, 0) == 0

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
        counts.append(fruitless(out, 0))
    assert counts == [1, 2, 0, 1] and fruitless(out, 4) == 0
    start("preempted")
    assert fruitless(out, 0) == 0
    start("failed")
    start("failed", restart=False)  # somebody has looked since
    assert fruitless(out, 0) == 0
    (out / "attempts/0009.1f2e3d").mkdir()  # on a host with another folder of this name: it cannot know
    assert fruitless(out, 0) == 0


def test_a_person_who_starts_it_again_has_looked_and_what_failed_before_counts_no_more(node: Any, out: Path) -> None:
    plan = "fails,fails,fails,fails,succeeds"
    one, two = node(plan, "--restarts", "9"), None
    assert one.ended() == 1 and newest(out).number == 3
    two = node(plan, "--restarts", "9")
    assert two.ended() == 0 and newest(out).number == 5


def test_launches_that_never_begin_a_start_are_counted_over_supervisors_as_slurm_queues_again(out: Path) -> None:
    (out / "attempts").mkdir(parents=True)
    counts = []
    for _ in range(3):
        noted = (launches(out) or Launches()).one_more(out)
        counts.append(noted.count)
    claim(out)
    assert counts == [1, 2, 3] and noted == launches(out)
    assert noted.one_more(out) == launches(out) == Launches(since=0, after=1, count=1)


def test_on_a_full_disk_no_old_word_of_a_launch_is_left(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (out / "attempts").mkdir(parents=True)
    noted = Launches().one_more(out)
    with monkeypatch.context() as full:
        full.setattr(os, "fsync", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        assert noted.one_more(out).count == 2 and launches(out) is None


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


def a_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_of_two_nodes_any_is_told_and_both_leave_alike(node: Any, out: Path) -> None:
    plan, port = "fails,trains", a_port()
    other = node(plan, "--restarts", "1", "--main", f"127.0.0.1:{port}", FOLLOW="1")
    main = node(plan, "--restarts", "1", LISTEN=str(port))
    claimed(out, 2)
    until(lambda: other.said.count("rank ") > 1, "the other node's second rank")
    time.sleep(0.3)  # it has looked around
    other.process.send_signal(signal.SIGTERM)
    assert main.ended() == other.ended() == 75, other.said
    assert "start 1 failed: a machine broke" in other.said and "it is started again with 127.0.0.1" in other.said
    assert not (out / "stop").exists()


def test_a_node_that_is_back_before_the_others_have_noticed_waits_for_the_next_start(node: Any, out: Path) -> None:
    plan, port = "trains,succeeds", a_port()
    main = node(plan, "--restarts", "1", LISTEN=str(port))
    main.rank()
    (out / "come").touch()  # the node that is lost now
    claimed(out)
    back = node(plan, "--main", f"127.0.0.1:{port}", FOLLOW="1")
    until(lambda: "still has the start that has lost this node" in back.said, "what it waits for")
    os.kill(main.rank(), signal.SIGKILL)
    assert main.ended() == back.ended() == 0
    assert newest(out).number == 2 and back.said.count("rank ") == 1


def test_a_node_that_waits_in_its_launcher_is_not_left_there_when_the_main_one_has_gone(node: Any, out: Path) -> None:
    port = a_port()
    store = socket.create_server(("127.0.0.1", port))
    other = node("idle", "--main", f"127.0.0.1:{port}", "--meet", "2")
    held, _ = store.accept()
    until(lambda: "idle" in other.said, "its launcher")
    time.sleep(0.3)
    assert other.process.poll() is None
    held.close()
    store.close()
    assert other.ended(10) == 1 and "before a run was begun" in other.said


def test_an_outcome_that_a_network_file_system_shows_late_is_waited_for(node: Any, out: Path) -> None:
    port = a_port()
    other = node("late", "--main", f"127.0.0.1:{port}", FOLLOW="1")
    main = node("late", LISTEN=str(port))
    assert main.ended() == other.ended() == 75


@pytest.mark.parametrize(("agreed", "code"), [(SAVE, PREEMPTED), (SAVE_FOR_GOOD, DONE)])
def test_a_host_with_a_run_out_of_its_own_answers_as_the_others_where_the_run_was_stopped(
    out: Path, agreed: int, code: int
) -> None:
    apart = Attempt(out, 1, "f00d", out / "attempts/0001.f00d")
    apart.folder.mkdir(parents=True)
    assert judge(Start(), newest(out), 0, "")[0] == DONE  # as of a run that is done, of which it hears nothing
    StopSignal(apart, max_hours=None, rank=2).preempted(3, agreed)
    assert judge(Start(), newest(out), 0, "")[0] == code


def test_of_two_that_were_started_for_one_run_the_first_leaves_it_to_the_second(node: Any, out: Path) -> None:
    one = node("leaves,trains", "--restarts", "9")
    claimed(out, 1)
    two = node("leaves,trains", "--restarts", "9")
    assert one.ended() == 2 and "start 2, of another launch, has the run" in one.said
    assert newest(out).number == 2 and two.process.poll() is None
    two.process.send_signal(signal.SIGTERM)
    assert two.ended() == PREEMPTED and newest(out).number == 2


def test_a_job_that_never_manages_to_save_before_its_time_is_up_does_not_queue_for_ever(node: Any, out: Path) -> None:
    codes = []
    for number in (1, 2, 3):
        env = {"SLURM_JOB_ID": "7", "SLURM_RESTART_COUNT": str(number - 1), "LATE_S": "0.5"}
        job = node("deaf", "--requeue", PATH=_scontrol(out), **env)
        claimed(out, number)
        job.process.send_signal(signal.SIGUSR1)
        codes.append(job.ended())
    assert codes == [0, 0, 1] and "the last 3 starts brought no checkpoint: somebody must look" in job.said


def _scontrol(out: Path) -> str:
    """A PATH with a Slurm that queues a job again without a word."""
    folder = out.parent / "bin"
    folder.mkdir(exist_ok=True)
    (folder / "scontrol").write_text("#!/bin/sh\nexit 0\n")
    (folder / "scontrol").chmod(0o755)
    return f"{folder}:{os.environ['PATH']}"
