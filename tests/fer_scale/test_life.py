"""A run's life, from rows that were worked out by hand: ten images a step, at ten images/s a step takes a second."""

import json
import random
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from fer_scale import log, record, story
from fer_scale.__main__ import main
from fer_scale.life import life
from fer_scale.record import Record

RECIPE = {"batch": {"size": 10}}
VERSIONS = {"torch": "2.13", "numpy": "2.4"}


def at(second: float) -> str:
    return datetime.fromtimestamp(1_800_000_000 + second, UTC).isoformat(timespec="seconds")


def when(second: float) -> float:
    return 1_800_000_000.0 + second


def event(second: float, kind: str, **facts: Any) -> dict[str, Any]:
    return {"time": at(second), "event": kind} | facts


def line(step: int, images_per_s: float = 10, **facts: Any) -> dict[str, Any]:
    return {"step": step, "loss": 0.5, "images_per_s": images_per_s} | facts


def claim(second: float, host: str = "a") -> dict[str, Any]:
    return {"host": host, "pid": 1, "time": at(second)}


EVENTS = [
    event(10, "start", attempt=1, step=0, ranks=4, hosts=["a", "b"], stage=1, versions=VERSIONS, changes=[]),
    event(26, "checkpoint", step=15, seconds=2.0, stall_s=0.5, bytes=1000),
    event(28, "skipped", step=17, ranks=["rank 0 on a"], samples=10, file="f.txt"),
    event(110, "set_aside", checkpoint="/runs/r/checkpoints/step_00000020.damaged", why="progress.json: cut"),
    event(110, "rewound", step=15, reached=20, images_per_s=10.0),
    event(110, "resume", attempt=2, step=15, ranks=3, hosts=["a"], stage=1, versions=VERSIONS | {"torch": "2.14"},
          changed={"ranks": [4, 3], "versions": [VERSIONS, VERSIONS | {"torch": "2.14"}]}, changes=["optim.lr=1"]),
    event(112, "skipped", step=17, ranks=["rank 0 on a"], samples=10, file="f.txt"),
    event(113, "unreadable", step=18, sample="faces-0.tar[3] a.png: cannot decode"),
    event(130, "slow", step=30, rank=2, host="b", what="forward", ratio=1.5),
    event(131, "slow", step=35, rank=2, host="b", what="forward", ratio=1.75),
    event(147, "checkpoint", step=40, seconds=3.0, stall_s=1.5, bytes=1000),
    event(149, "stop", step=40, reason="signal SIGTERM"),
]  # fmt: skip
STOPPED = {"outcome": "preempted", "step": 40, "reason": "signal SIGTERM", "time": at(150), "restart": True}
TWO = Record(
    recipe=RECIPE,
    steps=100,
    events=EVENTS,
    metrics=[line(10), line(30), line(40, 5, skipped_steps=1)],  # the line of step 20 was dropped
    measured=when(146),
    claims={1: claim(0), 2: claim(100)},
    outcomes={1: {}, 2: STOPPED},
    signs={1: when(40), 2: when(150)},
    outcome=STOPPED,
    saved=[15, 40],
)


def test_what_counts_and_what_is_lost_of_a_run_that_was_killed_once_and_then_stopped() -> None:
    told = life(TWO, when(200))
    first, second = told["starts"]
    # Start 1: the line of step 10 says 10 s; 5 more steps at its speed count, 5 (16 to 20) were computed again.
    assert (first["first_step"], first["last_step"], first["counted_steps"], first["lost_steps"]) == (0, 20, 15, 5)
    assert (first["counted_s"], first["lost_s"]) == (15, 5)
    assert (first["outcome"], first["reason"]) == ("killed", "without a word")
    # Start 2: 15 steps in 15 s, 10 steps at 5 images/s in 20 s.
    assert (second["first_step"], second["last_step"], second["counted_steps"], second["lost_steps"]) == (15, 40, 25, 0)
    assert (second["counted_s"], second["lost_s"]) == (35, 0)
    time = told["time"]
    assert time["wall_s"] == 150 and time["effective"] == pytest.approx(50 / 150)
    assert (time["counted_s"], time["lost_s"], time["saving_s"], time["between_s"]) == (50, 5, 2, 60)
    assert time["rest_s"] == 150 - 50 - 5 - 2 - 60
    assert (told["state"], told["step"], told["steps"], told["quiet_s"]) == ("preempted", 40, 100, 50)
    assert told["checkpoints"] == {
        "written": 2, "kept": 2, "newest_step": 40, "bytes": 1000,
        "seconds": 3.0, "worst_s": 3.0, "stall_s": 1.5, "worst_stall_s": 1.5,
    }  # fmt: skip
    assert (told["skipped"]["count"], told["skipped"]["steps"]) == (1, [17]), "the same step, computed twice"
    assert told["slow"] == [
        {"rank": 2, "host": "b", "what": "forward", "times": 2, "last_step": 35, "ratio": 1.75}
    ]  # fmt: skip
    json.dumps(told)


def third(*, outcome: dict[str, Any], alive: bool | None = None, now: float = 260.0, sign: float = 250.0) -> Any:
    """The life of the same run after a third start, at step 57 with a checkpoint of step 50; and its words."""
    more = [event(205, "resume", attempt=3, step=40, ranks=3), event(220, "checkpoint", step=50, seconds=1.0, bytes=1)]
    run = Record(
        recipe=RECIPE, steps=100, events=[*EVENTS, *more], metrics=[*TWO.metrics, line(57)], measured=when(sign),
        claims={**TWO.claims, 3: claim(200)}, outcomes={**TWO.outcomes, 3: outcome}, alive=alive,
        signs={**TWO.signs, 3: when(sign)}, outcome=outcome, saved=[15, 40, 50], stacks={3: ["rank-1.stacks"]},
    )  # fmt: skip
    told = life(run, when(now))
    return told, "\n".join(story.lines(Path("/runs/r"), told))


def test_steps_after_the_newest_checkpoint_are_lost_once_the_run_has_died() -> None:
    failed = {"outcome": "failed", "reason": "Hang: rank 1 on b stood still", "time": at(250), "restart": True}
    told, words = third(outcome=failed)
    assert (told["starts"][-1]["counted_steps"], told["starts"][-1]["lost_steps"]) == (10, 7)
    assert (told["starts"][-1]["counted_s"], told["starts"][-1]["lost_s"]) == (10, 7)
    assert told["time"]["effective"] == pytest.approx(60 / 250) and told["goes_on_from_step"] == 50
    assert "state         failed at step 57 of 100, loss 0.5000, 10s ago: Hang: rank 1 on b stood still\n" in words
    assert "to do         the same command goes on from step 50 (attempts/0003 has its last words)\n" in words
    assert "what hung: attempts/0003/rank-1.stacks" in words


def test_a_run_that_never_saved_has_an_effective_share_of_nothing() -> None:
    run = Record(
        recipe=RECIPE, events=EVENTS[:1], metrics=[line(10)], claims={1: claim(0)}, saved=[],
        outcomes={1: {"outcome": "failed", "reason": "x", "time": at(40), "restart": True}}, signs={1: when(40)},
    )  # fmt: skip
    told = life(run, when(50))
    assert (told["time"]["effective"], told["time"]["lost_s"], told["goes_on_from_step"]) == (0, 10, 0)
    assert "the same command begins anew: there is no checkpoint" in "\n".join(story.lines(Path("r"), told))


def test_steps_of_a_run_that_runs_count() -> None:
    told, words = third(outcome={}, alive=None)
    assert told["state"] == "running" and told["time"]["effective"] == pytest.approx(67 / 250)
    assert told["left_s"] == 43, "43 steps at a second each"
    assert "running: step 57 of 100, loss 0.5000, last heard of 10s ago; about 43s left (by its files: its" in words
    assert "about 43s left\n" in third(outcome={}, alive=True)[1], "its process is there"
    assert "touch /runs/r/stop" in words


def test_whether_a_run_without_an_outcome_runs_is_told_by_its_process_here_and_by_silence_elsewhere() -> None:
    assert third(outcome={}, alive=False)[0]["state"] == "killed"
    told, words = third(outcome={}, alive=True, now=900)
    assert told["state"] == "silent" and "ago: it hangs, its process is there\n" in words, "ten minutes without a line"
    assert third(outcome={}, alive=None, now=840)[0]["state"] == "running"
    told, words = third(outcome={}, alive=None, now=900)
    assert told["state"] == "silent" and told["starts"][-1]["lost_steps"] == 7
    assert "silent: step 57 of 100, loss 0.5000, last heard of 10m50s ago: it hangs, or died with its host" in words


def test_a_mistake_has_to_be_put_right_before_the_same_command_helps() -> None:
    mistake = {"outcome": "failed", "reason": "ConfigError: holds\n  optim.lr", "time": at(201), "restart": False}
    _, words = third(outcome=mistake)
    assert (
        "to do         put that right (first_failure.json and attempts/0003 say more); then the same command" in words
    )
    assert "ConfigError: holds\n                optim.lr" in words, (
        "all of it where it stands, its first line in the table"
    )
    assert words.count("optim.lr") == 2, "beside the --change of the second start"


def test_a_run_that_was_to_stop_at_a_step_is_not_said_to_go_on_by_the_same_command() -> None:
    stopped = {"outcome": "preempted", "reason": "run.stop_after_steps = 25", "time": at(201), "restart": False}
    _, words = third(outcome=stopped)
    assert "to do         a larger run.stop_after_steps, or none, goes on from step" in words
    _, words = third(outcome=stopped | {"reason": "signal SIGTERM"})
    assert "to do         the same command goes on from step" in words


def test_a_start_that_another_one_took_over_from_has_not_failed() -> None:
    taken = {"outcome": "failed", "reason": "Superseded: start 2 has begun", "time": at(120), "restart": False}
    run = Record(recipe=RECIPE, events=EVENTS, claims=TWO.claims, outcomes={1: taken, 2: STOPPED}, signs=TWO.signs)
    first, second = life(run, when(200))["starts"]
    assert (first["outcome"], first["reason"]) == ("superseded", "a later start took over")
    assert first["ended"] == second["began"] == at(100), "they overlapped; no second counts twice"


def test_the_words_say_all_that_happened_and_nothing_of_what_did_not() -> None:
    assert "\n".join(story.lines(Path("/runs/r"), life(TWO, when(200)))).splitlines() == [
        "run           /runs/r: pre-training, 100 steps",
        "state         preempted at step 40 of 100, loss 0.5000, 50s ago: signal SIGTERM",
        "to do         the same command goes on from step 40",
        "time          2m30s since 2027-01-15 08:00:00 UTC, 33.3% of it in steps that count",
        "               33.3%     50s  steps that count",
        "                3.3%    5.0s  steps computed in vain: 5",
        "                1.3%    2.0s  steps held up by saves: 2",
        "               40.0%   1m00s  between the starts",
        "               22.0%     33s  starting, looking around, ending",
        "starts           began (UTC)     lasted  steps     ranks                 ended",
        "              1  01-15 08:00:00     40s  0 to 20   4 on 2 hosts, ZeRO 1  killed without a word; 5 steps lost",
        "              2  01-15 08:01:40     50s  15 to 40  3, ZeRO 1             preempted: signal SIGTERM",
        "                 changed: ranks 4 -> 3",
        "                 changed: versions: torch 2.13 -> 2.14",
        "                 changed by --change: optim.lr=1",
        "checkpoints   2 written, 2 kept (newest: step 40); 1.0 kB each; 3.0 s each, 3.0 s at worst; "
        "steps held up for 1.50 s each, 1.50 s at worst",
        "skipped       1 step whose loss or gradient was not finite: 17",
        "              the samples of the last: f.txt",
        "unreadable    1 image, each replaced by another one",
        "              faces-0.tar[3] a.png: cannot decode",
        "slow          rank 2 on b: up to 1.8 times the others' time for forward; said 2 times, last at step 35",
        "set aside     step_00000020.damaged: progress.json: cut",
    ]
    claimed = life(Record(claims={1: claim(0)}, signs={1: when(1)}), when(5))
    words = [line[:14].strip() for line in story.lines(Path("r"), claimed) if line[:14].strip()]
    assert words == ["run", "state", "to do", "time", "starts"]


def test_what_a_run_published_of_itself_is_told_and_what_failed_since() -> None:
    done = {"outcome": "done", "time": at(150), "restart": False}
    sent = [event(30 * k, "published", step=20 * k, address=f"hf://lab/faces@{k}", seconds=9.0) for k in (1, 2)]
    late = [event(151, "not_published", step=60, why="no answer from the Hub")]

    def words(*events: dict[str, Any], step: int = 40) -> str:
        begun = event(10, "start", attempt=1, step=0, ranks=1, hosts=["a"])
        metrics, signs = [line(20), line(step)], {1: when(150)}
        run = Record(
            recipe=RECIPE, steps=60, events=[begun, *events], metrics=metrics, claims={1: claim(0)},
            outcomes={1: done}, signs=signs, outcome=done,
        )  # fmt: skip
        return "\n".join(story.lines(Path("/runs/r"), life(run, when(200))))

    assert "published     2 times, last step 40: hf://lab/faces@2\n" in f"{words(*sent)}\n"
    assert "to do         nothing: its last step is published" in words(*sent)
    failed = words(*sent, *late, step=60)
    assert (
        "\n              not step 60: no answer from the Hub" in failed and "to do         fer-scale publish" in failed
    )
    assert "published     not step 60" in words(*late, step=60) and "published " not in words()


def lived(folder: Path, rng: random.Random, every: int) -> list[Counter[str]]:
    """Write what a run of 60 steps leaves that dies at random, each step a second; what truly became of each start."""
    (folder / "recipe.toml").write_text("[batch]\nsize = 10\n")
    journal, truth, computed_by = log.Journal(folder), list[Counter[str]](), dict[int, int]()
    saved, step = 0, -1
    while step < 60:
        number, step = len(truth) + 1, saved
        attempt = folder / "attempts" / f"{number:04d}"
        attempt.mkdir(parents=True)
        (attempt / "claim.json").write_text(json.dumps(claim(100 * number)))
        journal.rewind(step)
        journal.event("resume" if step else "start", attempt=number, step=step, ranks=1)
        truth.append(Counter(computed=0))
        stop = rng.choice((step, step + rng.randrange(1, 30)))
        while step < min(stop, 60):
            step += 1
            computed_by[step] = number
            truth[-1]["computed"] += 1
            if step % every == 0 or step == 60:
                journal.metrics(**line(step))
            if step % 10 == 0 or (step == stop and rng.random() < 0.3):
                journal.event("checkpoint", step=step)
                saved = step
                if rng.random() < 0.1:  # found damaged later
                    saved = max(0, step - 10)
    outcome = {"outcome": "done", "time": at(100 * len(truth) + 99), "restart": False}
    (attempt / "outcome.json").write_text(json.dumps(outcome))
    for number, start in enumerate(truth, 1):
        start["counted"] = sum(one == number for one in computed_by.values())
    return truth


@pytest.mark.parametrize("seed", range(40))
def test_every_step_counts_once_however_a_run_dies(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    every = rng.choice((1, 1, 4, 7))
    truth = lived(tmp_path, rng, every)
    told = life(record.read(tmp_path), when(0))
    assert [start["counted_steps"] for start in told["starts"]] == [start["counted"] for start in truth]
    lost = [start["computed"] - start["counted"] for start in truth]
    for start, steps in zip(told["starts"], lost, strict=True):
        assert steps - every < start["lost_steps"] <= steps, "known to the last line of metrics"
    assert told["time"]["counted_s"] == pytest.approx(60)
    assert told["time"]["lost_s"] == pytest.approx(sum(start["lost_steps"] for start in told["starts"]))


def test_a_run_of_before_there_were_claims_is_told_by_its_events_and_its_last_outcome() -> None:
    events = [
        event(0, "start", step=0, ranks=2, stage=1, changes=[]),
        event(20, "checkpoint", step=20, seconds=4.0, bytes=7),
        event(60, "resume", step=20, ranks=2, stage=1, changes=[]),
        event(75, "stop", step=30, reason="file stop"),
        event(100, "resume", step=30, ranks=1, stage=0, changes=[]),
        event(115, "checkpoint", step=40, seconds=4.0, bytes=7),
    ]
    done = {"outcome": "done", "rank": 0, "host": "a", "time": at(120)}
    run = Record(
        recipe=RECIPE, steps=40, events=events, metrics=[line(s) for s in (10, 20, 30, 40)], outcome=done, saved=[40]
    )
    told = life(run, when(130))
    assert [start["outcome"] for start in told["starts"]] == ["unknown", "preempted", "done"]
    assert [start["counted_steps"] for start in told["starts"]] == [20, 10, 10]
    assert told["time"]["effective"] == pytest.approx(40 / 120)
    assert told["time"]["saving_s"] == 8, "these saves held up the steps for as long as they took"
    words = "\n".join(story.lines(Path("r"), told))
    assert "-  01-15 08:00:00     20s  0 to 20   2, ZeRO 1  not said how" in words


def test_a_fine_tuning_run_counts_the_faces_of_its_stage_and_finds_the_claims_of_its_events() -> None:
    recipe = {"supervised": {"batch": 8, "steps": 10}, "semi": {"batch": 4, "unlabeled_ratio": 3, "steps": 10}}
    metrics = [line(10, 8.0, stage=2), line(20, 8.0, stage=3)]  # 1 s a step, then 4 labeled and 12 unlabeled: 2 s
    events = [event(3, "start", step=0, processes=2, changes=[]), event(63, "resume", step=10, processes=1, changes=[])]
    run = Record(
        recipe=recipe, steps=20, events=events, metrics=metrics, claims={1: claim(0), 2: claim(40), 3: claim(60)},
        signs={1: when(20), 2: when(41), 3: when(85)}, saved=[10, 20],
        outcomes={1: {}, 2: {}, 3: {"outcome": "done", "time": at(90), "restart": False}},
    )  # fmt: skip
    told = life(run, when(100))
    assert told["kind"] == "fine-tuning"
    assert [start["first_step"] for start in told["starts"]] == [0, None, 10], "the second was killed before it began"
    assert [start["counted_s"] for start in told["starts"]] == [10, 0, 20]
    assert told["time"]["effective"] == pytest.approx(30 / 90)


def test_a_clock_that_jumped_back_makes_no_time_negative() -> None:
    run = Record(
        recipe=RECIPE, steps=100, metrics=TWO.metrics, claims={1: claim(1000), 2: claim(100)}, saved=[40],
        events=[event(1010, "start", attempt=1, step=0), *EVENTS[5:]], outcomes={1: {}, 2: STOPPED},
        signs={1: when(1040), 2: when(150)},
    )  # fmt: skip
    told = life(run, when(200))
    assert [start["number"] for start in told["starts"]] == [1, 2]
    assert min(value for name, value in told["time"].items() if name.endswith("_s")) >= 0


def test_files_cut_short_by_a_kill_are_read_as_far_as_they_go_and_copies_are_no_checkpoints(tmp_path: Path) -> None:
    first = tmp_path / "attempts" / "0001"
    first.mkdir(parents=True)
    (first / "claim.json").write_text('{"attempt": 1, "ho')
    (tmp_path / "attempts" / "0001.f00d").mkdir()  # what a rank says that does not share the folder
    (tmp_path / "events.jsonl").write_text(json.dumps(EVENTS[0]) + '\n{"time"')
    for folder in ("step_00000015", "step_00000020.part", "step_00000015_2", "step_00000015-copy2"):
        (tmp_path / "checkpoints" / folder).mkdir(parents=True)
        (tmp_path / "checkpoints" / folder / "manifest.json").touch()
    found = record.read(tmp_path)
    assert found.claims == {1: {}} and len(found.events) == 1 and list(found.saved) == [15]
    assert life(found, when(0))["starts"][0]["ranks"] == 4


def test_half_a_line_that_a_full_disk_left_costs_no_other_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "events.jsonl").write_text(json.dumps(EVENTS[0]) + '\n{"time": "20')
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "images_per_s": 10}\n3\n{"step": null}\n{"st')
    journal = log.Journal(tmp_path)
    journal.event("checkpoint", step=2, seconds=1.0, stall_s=0.1, bytes=1)
    journal.metrics(**line(2))
    assert [row["event"] for row in log.rows(tmp_path / "events.jsonl")] == ["start", "checkpoint"]
    assert [row["step"] for row in log.rows(tmp_path / "metrics.jsonl")] == [1, 2]
    assert main(["show", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "step 2, loss 0.5" in said and "1 written" in said


SLEEPS = "import sys; from pathlib import Path; from fer_scale import ending; ending.claim(Path(sys.argv[1])); input()"


def test_whether_the_newest_starts_process_is_there_is_told_by_more_than_its_id(tmp_path: Path) -> None:
    run = subprocess.Popen([sys.executable, "-c", SLEEPS, str(tmp_path)], stdin=subprocess.PIPE)
    file = tmp_path / "attempts" / "0001" / "claim.json"
    until = time.monotonic() + 100
    while not (file.exists() and file.read_text()):
        assert time.monotonic() < until
        time.sleep(0.02)
    said = json.loads(file.read_text())
    for changed, alive in (
        ({}, True),
        ({"host": "another name"}, True),
        ({"began": said["began"] - 1}, False),  # the id was given to another process
        ({"pid_namespace": "pid:[1]"}, None),
        ({"boot": "another machine of that name"}, None),
    ):
        file.write_text(json.dumps(said | changed))
        assert record.read(tmp_path).alive is alive, changed
    file.write_text(json.dumps({name: said[name] for name in ("attempt", "host", "pid", "time")}))
    assert record.read(tmp_path).alive is None, "a claim of before"
    file.write_text(json.dumps(said))
    run.communicate(b"\n")
    assert record.read(tmp_path).alive is False


def test_show_tells_a_run_from_a_shard_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "events.jsonl").write_text("".join(json.dumps(row) + "\n" for row in EVENTS))
    assert main(["show", str(tmp_path)]) == 0
    assert f"run           {tmp_path}: pre-training" in capsys.readouterr().out
    assert main(["show", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["starts"][1]["changes"] == ["optim.lr=1"]
