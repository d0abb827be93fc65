"""A launcher whose ranks do what a run does to its folder, without training: for tests of fer_scale/supervise.py.

    fake_run.py PLAN[,PLAN...] -m fer_scale pretrain|finetune RECIPE ... run.out=OUT

Start N of the run does what the N-th plan says, the last one for ever. As torchrun, the launcher answers 1 where a rank
failed. FOLLOW: it is another node's, whose rank has no word in anything. LISTEN: the port of the main node's launcher.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from fer_scale.ending import Attempt, claim
from fer_scale.starts import newest

OUT = Path(next(word.removeprefix("run.out=") for word in sys.argv if word.startswith("run.out=")))


def event(kind: str, **facts: object) -> None:
    with (OUT / "events.jsonl").open("a") as file:
        file.write(json.dumps({"event": kind} | facts) + "\n")


def save_and_leave(attempt: Attempt, reason: str) -> None:
    event("checkpoint", step=1)
    attempt.record("preempted", 0, reason=reason, restart=True)
    sys.exit(0)


def train(attempt: Attempt, *, saves: bool = True, slow: bool = False) -> None:
    """Until RUN/stop, or SIGTERM. `slow`: a step that lasts until RUN/stepped is there."""
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    while not told:
        if (OUT / "stop").exists():
            while slow and not (OUT / "stepped").exists():
                time.sleep(0.02)
            (OUT / "stop").unlink()
            break
        time.sleep(0.02)
    while not saves:  # SIGTERM does not end it either
        time.sleep(0.02)
    save_and_leave(attempt, "told to")


def rank(plans: list[str]) -> None:
    before = newest(OUT).number
    plan = plans[min(before, len(plans) - 1)]
    if plan == "starts":
        time.sleep(60)
    if plan == "dies":
        sys.exit(1)
    while "LISTEN" in os.environ and not (OUT / "come").exists():
        time.sleep(0.02)
    (OUT / "come").unlink(missing_ok=True)
    attempt = claim(OUT)
    event("start", attempt=attempt.number)
    if plan in ("trains", "deaf", "slow"):
        train(attempt, saves=plan == "trains", slow=plan == "slow")
    if plan == "leaves":  # as soon as a later start has the run
        while attempt.is_newest():
            time.sleep(0.02)
        attempt.record("failed", 0, reason="Superseded", restart=False)
        sys.exit(2)
    if plan.startswith("saves"):
        event("checkpoint", step=attempt.number)
    if plan == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if plan.endswith("fails") or plan == "stuck":
        attempt.record("failed", 0, reason="a machine broke", restart=True)
        if plan == "stuck":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(60)
        sys.exit(1)
    if plan == "late":  # what it says reaches other hosts late, as over NFS
        time.sleep(6)
        save_and_leave(attempt, "told to")
    if plan == "mistake":
        attempt.record("failed", 0, reason="no such shards", restart=False)
        sys.exit(2)
    attempt.record("done", 0, restart=False)
    if plan == "publishes":
        time.sleep(3)
        (OUT / "published").touch()


def follow(plans: list[str]) -> None:
    """The rank of another node: it ends as the run does."""
    before = newest(OUT).number
    (OUT / "come").touch()
    while newest(OUT).number == before or (newest(OUT).outcome is None and plans[before] != "late"):
        time.sleep(0.02)
    sys.exit((newest(OUT).outcome or {}).get("outcome") == "failed")


def launch() -> None:
    if sys.argv[1] == "idle":  # waits for other nodes, and has no ranks
        print("idle", flush=True)
        time.sleep(60)
    if port := os.environ.get("LISTEN"):
        store = socket.create_server(("127.0.0.1", int(port)))
    process = subprocess.Popen([sys.executable, *sys.argv], env=os.environ | {"RANK": "0"})
    signal.signal(signal.SIGTERM, lambda *_: process.kill())  # of a supervisor that is gone
    print(f"rank {process.pid}", flush=True)
    code = process.wait()
    if port:
        store.close()
    sys.exit(code != 0)


if "RANK" not in os.environ:
    launch()
elif "FOLLOW" in os.environ:
    follow(sys.argv[1].split(","))
else:
    rank(sys.argv[1].split(","))
