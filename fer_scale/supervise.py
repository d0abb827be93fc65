"""What launch/ runs around a launcher: it passes a wish to stop on to the run, and starts the run again when it failed.

    python -m fer_scale.supervise [--restarts N] COMMAND ... -m fer_scale pretrain RECIPE ...

The signals and exit codes of launchers say little: torchrun kills after 30 s and always answers 1, DeepSpeed's tells
one rank after another and answers 0, 1, 143 or 247. So a wish to stop goes through a file that the main rank looks for
after every step, RUN/stop, and how a run ended is read from RUN/attempts/NNNN/outcome.json. Then this ends with

    0  done, or stopped for good    75  preempted: start me again    2  a mistake: somebody must look    1  gave up

on every node alike, whichever of them got the signal. Each node runs one of these, and loops by itself.
"""

import argparse
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from fer_scale import arguments, config, log
from fer_scale.pretrain.recipe import Pretrain
from fer_scale.processes import Launched
from fer_scale.starts import DONE, GAVE_UP, MISTAKE, PREEMPTED, Start, fruitless, judge, newest
from fer_scale.wish import Wish
from shards.errors import UserError

FRUITLESS = 3  # so many starts in a row without a checkpoint, and somebody must look
_BACK_OFF_S, _LONGEST_BACK_OFF_S = 5.0, 300.0
_SOUND_S = 3600  # a run that lived so long and failed is not one that fails over and over: it begins at the first wait
_MARGIN_S = 15  # beyond run.grace_s, for processes to end
_OVER_S = 20  # ranks of a start that has an outcome have so long to leave, as to write down where they hang
_PATIENCE_S = 5  # between SIGTERM and SIGKILL where nothing is to be saved
_MEET_S, _CLOSED_S = 3600, 60  # the longest wait for the main node; for its launcher of before to have gone
_LATE_S = 5  # a network file system may show another node's file so late
_POLL_S = 0.25
_OURS = (("-m", "fer_scale"), ("--module", "fer_scale"))


@dataclass(frozen=True, slots=True)
class Orders:
    """`main`: HOST:PORT of the main node's launcher, on all other nodes. `far`: the ranks are on hosts out of reach."""

    command: list[str]
    out: Path
    grace_s: float
    restarts: int = 0
    back_off_s: float = _BACK_OFF_S
    main: str | None = None
    far: bool = False


def supervise(orders: Orders, wish: Wish) -> tuple[int | None, str]:
    """Start the command until it is done, preempted, or not to be started again; as `judge`."""
    if orders.main is None:
        wish.withdraw()
    left, doublings, door = orders.restarts, 0, Door(orders.main or "")
    while True:
        began, before = time.monotonic(), newest(orders.out)
        if not _meet(orders, wish, door):
            return _told(wish) if wish.asked else (None, f"{orders.main} was waited for in vain")
        launched = Launched(orders.command)
        _attend(launched, orders, wish, before)
        ended = launched.code() or 0
        code, why = judge(before, now := _settled(orders, before), ended, wish.asked)
        if wish.asked and now.is_as(before):
            return _told(wish)
        if wish.by_a_person and code in (None, PREEMPTED):  # saved or not, it is to end for good
            return DONE, f"{wish.asked}; {why}"
        if code == PREEMPTED and not wish.asked and ended and left:
            code, why = None, f"{why}, by its launcher, which ended with {ended}"
        if code is not None:
            return code, why
        unclaimed = _unclaimed(orders.out, now) if now.is_as(before) and orders.main is None else 0
        in_a_row = max(fruitless(orders.out), unclaimed)
        if in_a_row >= FRUITLESS:
            return GAVE_UP, f"{why}; the last {in_a_row} starts brought no checkpoint: somebody must look"
        if not left:
            return None, why
        left, doublings = left - 1, 0 if time.monotonic() - began > _SOUND_S else doublings
        wait = min(orders.back_off_s * 2**doublings, _LONGEST_BACK_OFF_S) * random.uniform(0.75, 1.25)
        doublings += 1
        when = f"in {log.duration(wait)}" if orders.main is None else f"with {orders.main}"
        _say(f"{why}; it is started again {when}, {left} more {'time' if left == 1 else 'times'} after that")
        if not wish.pause(wait if orders.main is None else 0):
            return _told(wish)


def _unclaimed(out: Path, newest: Start) -> int:
    """How many launches in a row have ended before they began a start, this one included.

    Counted on disk: under Slurm each of them has a supervisor of its own.
    """
    file, count = out / "attempts" / "unclaimed.json", 1
    with suppress(OSError, ValueError, KeyError, TypeError):
        said = json.loads(file.read_text())
        count += said["launches"] if said["after"] == newest.number else 0
    with suppress(OSError):
        file.write_text(json.dumps({"after": newest.number, "launches": count}) + "\n")
    return count


def _told(wish: Wish) -> tuple[int, str]:
    """As `judge`, where the wish came between two starts."""
    return DONE if wish.by_a_person else PREEMPTED, wish.asked


def _meet(orders: Orders, wish: Wish, door: "Door") -> bool:
    """Wait for the main node's launcher to listen; after a failure, until that of before has gone, first."""
    began = said = time.monotonic()
    while orders.main:
        now = time.monotonic()
        if (door.is_shut() or now - began > _CLOSED_S) and door.opens():
            break
        if not wish.pause(4 * _POLL_S) or now - began > _MEET_S:
            return False
        if now - said > 60:
            said = now
            _say(f"waiting for {orders.main}, where the main node is to listen")
    return not wish.asked


@dataclass
class Door:
    """A connection to the main node's launcher, over which nothing is said: it ends when that launcher ends."""

    address: str
    held: socket.socket | None = None

    def is_shut(self) -> bool:
        try:
            return self.held is None or not self.held.recv(1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def opens(self) -> bool:
        host, _, port = self.address.rpartition(":")
        try:
            self.held = socket.create_connection((host, int(port)), timeout=2)
        except OSError:
            return False
        return True


def _attend(launched: Launched, orders: Orders, wish: Wish, before: Start) -> None:
    """See to it that ranks go when they are to, until all have."""
    boundary = over = None
    start, looked = before, 0.0
    while launched.code() is None:
        launched.look()
        now = time.monotonic()
        if now - looked > 4 * _POLL_S or wish.asked:
            looked, start = now, newest(orders.out)
        there = wish.is_there()
        if wish.at_once:
            break
        if wish.asked and _nothing_to_save(launched, orders, wish, start, before):
            launched.end(_PATIENCE_S, lambda: wish.at_once)
        elif wish.signalled and not wish.wrote and start.outcome is None:
            _say(f"{wish.asked}: the run is to save and stop; a second one ends it at once")
            if not (wish.write() and start.shared):
                launched.tell(signal.SIGTERM)
        elif wish.seen and not there:  # the main rank has taken it away: the end of the step
            boundary = boundary or now
            if now - boundary > orders.grace_s + _MARGIN_S:
                _say(f"not saved within run.grace_s = {orders.grace_s:g} and {_MARGIN_S} s: ends what is left")
                launched.end(_PATIENCE_S, lambda: wish.at_once)
        over = None if start.outcome is None or start.is_as(before) else over or now
        if over and now - over > _OVER_S and (count := launched.end_ranks_of_before(over)):
            _say(f"start {start.number} has ended, and {log.plural(count, 'rank')} of it stayed: killed")
        time.sleep(_POLL_S)
    # A launcher that was killed leaves its ranks to train: they save when they are told to go.
    saving = launched.left() and not wish.at_once and newest(orders.out).outcome is None
    launched.end(orders.grace_s + _MARGIN_S if saving else _PATIENCE_S, lambda: wish.at_once)


def _nothing_to_save(launched: Launched, orders: Orders, wish: Wish, start: Start, before: Start) -> bool:
    """Before a run is begun, and on a spare host, which nobody waits for."""
    if orders.far:
        return False
    if start.number == before.number and not before.number == 0 and before.outcome is None and not launched.ranks:
        return True  # spare, of a run that was on before we came
    if start.is_as(before):
        wish.write()  # for the other nodes
        return True
    return not launched.ranks


def _settled(orders: Orders, before: Start) -> Start:
    """The newest start when all has ended; its outcome may come late where another host wrote it."""
    until = time.monotonic() + (_LATE_S if orders.main or orders.far else 0)
    while True:
        now = newest(orders.out)
        if now.outcome is not None or now.is_as(before) or not now.shared or time.monotonic() > until:
            return now
        time.sleep(_POLL_S)


def _withdrawn(orders: Orders, wish: Wish) -> None:
    """RUN/stop has done its work when the run has ended; other nodes may not have read it yet."""
    if wish.is_there() and (wish.wrote or orders.main is None):
        time.sleep(8 * _POLL_S)
        wish.withdraw()


def _say(text: str) -> None:
    log.say(f"{socket.gethostname()}: {text}")


def main() -> int:
    told = _parser().parse_args()
    words = _words(told.command)
    if words[:1] != ["pretrain"]:
        return _without_supervision(told.command, told.requeue)
    try:
        args = arguments.parse((("pretrain", lambda _: None),), words)
        run = config.load(Pretrain, args.recipe, [*args.overrides, *args.change]).run
        (run.out / "attempts").mkdir(parents=True, exist_ok=True)
    except UserError as error:
        print(f"fer-scale pretrain: {error}", file=sys.stderr)
        return MISTAKE
    except OSError as error:
        print(f"fer-scale pretrain: run.out: {error.filename}: {error.strerror}", file=sys.stderr)
        return MISTAKE
    far = told.far or told.requeue
    orders = Orders(told.command, run.out, run.grace_s, told.restarts, told.back_off, told.main, far)
    wish = Wish(run.out / "stop")
    code, why = supervise(orders, wish)
    _withdrawn(orders, wish)
    if told.requeue and code in (None, PREEMPTED) and wish.asked in ("", f"signal {signal.SIGUSR1.name}"):
        _say(f"{why}; the job queues again")
        return subprocess.call(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]])
    again = "; the same command again may help" if code is None else "; the same command goes on" * (code == PREEMPTED)
    _say(f"{why}{again}")
    return GAVE_UP if code is None else code


def _words(command: list[str]) -> list[str]:
    """What our own command line gets of a launcher's."""
    return command[next((n + 2 for n, pair in enumerate(pairwise(command)) if pair in _OURS), len(command)) :]


def _without_supervision(command: list[str], requeue: bool) -> int:
    """Of verbs that have no run of many hours. Slurm's warning is passed on, and the job queues again."""
    if not requeue:
        os.execvp(command[0], command)
    warned: list[int] = []
    job = os.environ["SLURM_JOB_ID"]
    signal.signal(signal.SIGUSR1, lambda number, _: warned.append(number))
    signal.signal(signal.SIGTERM, lambda *_: None)  # Slurm tells the ranks itself; what they save is waited for
    child, passed_on = subprocess.Popen(command, stdin=subprocess.DEVNULL), False
    while child.poll() is None:
        if warned and not passed_on:
            passed_on = subprocess.call(["scancel", "--signal=USR1", job]) == 0
        time.sleep(_POLL_S)
    return subprocess.call(["scontrol", "requeue", job]) if warned and child.returncode == 0 else child.returncode


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fer_scale.supervise")
    parser.add_argument("--restarts", type=int, default=0, metavar="N", help="start a failed run again, so often (0)")
    parser.add_argument("--back-off", type=float, default=_BACK_OFF_S, metavar="SECONDS", help="the first wait (5)")
    parser.add_argument("--main", metavar="HOST:PORT", help="on all nodes but one: where that one's launcher listens")
    parser.add_argument("--far", action="store_true", help="the launcher's ranks run elsewhere: signals reach none")
    parser.add_argument("--requeue", action="store_true", help="as a Slurm job: queue it again where that may help")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="a launcher that runs -m fer_scale pretrain ...")
    return parser


if __name__ == "__main__":
    sys.exit(main())
