"""What launch/ runs around a launcher: it passes a wish to stop on to the run, and starts the run again when it failed.

    python -m fer_scale.supervise [--restarts N] COMMAND ... -m fer_scale pretrain|finetune RECIPE ...

The signals and exit codes of launchers say little: torchrun kills after 30 s and always answers 1, DeepSpeed's tells
one rank after another and answers 0, 1, 143 or 247. So a wish to stop goes through a file that the main rank looks for
after every step, RUN/stop, and how a run ended is read from RUN/attempts/NNNN/outcome.json. Then this ends with

    0  done, or stopped for good    75  preempted: start me again    2  a mistake: somebody must look    1  gave up

on every node alike, whichever of them got the signal. Each node runs one of these, and loops by itself.
"""

import argparse
import os
import random
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from fer_scale import command_line, config, log, stop_file
from fer_scale.door import Door
from fer_scale.finetune import slip as finetune_slip
from fer_scale.finetune.recipe import Finetune
from fer_scale.pretrain import slip as pretrain_slip
from fer_scale.pretrain.recipe import Pretrain
from fer_scale.processes import Launched
from fer_scale.starts import DONE, GAVE_UP, MISTAKE, PREEMPTED, Launches, Start, fruitless, judge, launches, newest
from fer_scale.wish import Wish
from shards.errors import UserError

FRUITLESS = 3  # so many starts in a row without a checkpoint, and somebody must look
_BACK_OFF_S, _LONGEST_BACK_OFF_S = 5.0, 300.0
_SOUND_S = 3600  # a run that lived so long and failed is not one that fails over and over: it begins at the first wait
_MARGIN_S = 15  # beyond run.grace_s, for processes to end
_OVER_S = 20  # ranks of a start that has an outcome have so long to leave, as to write down where they hang
_PATIENCE_S = 5  # between SIGTERM and SIGKILL where nothing is to be saved
_MEET_S, _CLOSED_S = 3600, 60  # the longest wait for the main node; for its launcher of before to have gone
_LATE_S = 65  # a network file system may show another node's file so late (acdirmax of nfs(5): 60)
_QUIET_S = 60.0  # until it is said what is waited for; then twice as long, and so on
_POLL_S = 0.25
_RECIPES: dict[str, Any] = {"pretrain": (Pretrain, pretrain_slip), "finetune": (Finetune, finetune_slip)}
_OURS = (("-m", "fer_scale"), ("--module", "fer_scale"))


@dataclass(frozen=True, slots=True)
class Orders:
    """`main`: HOST:PORT of the main node's launcher, on all other nodes. `far`: the ranks are on hosts out of reach.

    `publish_s`: so long a run that has ended for good may still publish its last checkpoint.
    `elastic`: nodes may come while the run is on. `requeued`: it goes on for one of before, as in Slurm's jobs.
    """

    command: list[str]
    out: Path
    grace_s: float
    publish_s: float = 0.0
    restarts: int = 0
    back_off_s: float = _BACK_OFF_S
    main: str | None = None
    meet_s: float = _MEET_S
    elastic: bool = False
    far: bool = False
    requeued: bool = False


def supervise(orders: Orders, wish: Wish) -> tuple[int | None, str]:
    """Start the command until it is done, preempted, or not to be started again; as `judge`."""
    if orders.main is None and stop_file.word(wish.file):
        wish.withdraw()
    noted = (orders.requeued and launches(orders.out)) or Launches(since=newest(orders.out).number)
    left, doublings, door = orders.restarts, 0, Door(orders.main or "")
    while True:
        began = time.monotonic()
        if not _meet(orders, wish, door):
            return _told(wish) if wish.asked else (None, f"{orders.main} was waited for in vain")
        before = newest(orders.out)
        noted = noted.one_more(orders.out) if orders.main is None else launches(orders.out) or noted
        launched = Launched(orders.command)
        _attend(launched, orders, wish, before, door)
        ended = launched.code() or 0
        code, why = judge(before, now := _settled(orders, wish, before), ended, wish.asked)
        if wish.asked and now.is_as(before):
            return _told(wish)
        if wish.by_a_person and code in (None, PREEMPTED):  # saved or not, it is to end for good
            return DONE, f"{wish.asked}; {why}"
        if code == PREEMPTED and not wish.asked and ended and left:
            code, why = None, f"{why}, by its launcher, which ended with {ended}"
        unsaved = code == PREEMPTED and not wish.at_once and (now.outcome or {}).get("outcome") != "preempted"
        if code is not None and not unsaved:
            return code, why
        in_a_row = max(fruitless(orders.out, noted.since), noted.count if now.is_as(before) else 0)
        if in_a_row >= FRUITLESS:
            return GAVE_UP, f"{why}; the last {in_a_row} starts brought no checkpoint: somebody must look"
        if code is not None or not left:
            return code, why
        left, doublings = left - 1, 0 if time.monotonic() - began > _SOUND_S else doublings
        wait = min(orders.back_off_s * 2**doublings, _LONGEST_BACK_OFF_S) * random.uniform(0.75, 1.25)
        doublings += 1
        when = f"in {log.duration(wait)}" if orders.main is None else f"with {orders.main}"
        _say(f"{why}; it is started again {when}, {left} more {'time' if left == 1 else 'times'} after that")
        if not wish.pause(wait if orders.main is None else 0):
            return _told(wish)


def _told(wish: Wish) -> tuple[int, str]:
    """As `judge`, where the wish came between two starts."""
    return DONE if wish.by_a_person else PREEMPTED, wish.asked


def _meet(orders: Orders, wish: Wish, door: Door) -> bool:
    """Wait for the main node's launcher to listen; after a failure, until that of before has gone, first."""
    began, quiet_s = time.monotonic(), _QUIET_S
    while orders.main:
        waited = time.monotonic() - began
        taken = not orders.elastic and _is_taken(orders.out)
        if not taken and (door.is_shut() or waited > _CLOSED_S) and door.opens():
            break
        if not wish.pause(4 * _POLL_S) or waited > orders.meet_s:
            return False
        if waited > quiet_s or (taken and door.held is None and quiet_s == _QUIET_S):
            quiet_s *= 2
            why = "still has the start that has lost this node" if taken else "is to listen"
            _say(f"waiting for {orders.main}, where the main node {why}")
    return not wish.asked


def _is_taken(out: Path) -> bool:
    """Whether the main node's launcher has begun its start: who comes now is too late, and to wait for the next."""
    noted, start = launches(out), newest(out)
    return noted is not None and start.shared and start.number > noted.after


def _attend(launched: Launched, orders: Orders, wish: Wish, before: Start, door: Door) -> None:
    """See to it that ranks go when they are to, until all have."""
    boundary = over = None
    passed_on = False
    start, looked, began, quiet_s = before, 0.0, time.monotonic(), _QUIET_S
    while launched.code() is None:
        launched.look()
        now = time.monotonic()
        if now - looked > 4 * _POLL_S or wish.asked:
            looked, start = now, newest(orders.out)
        there = wish.is_there()
        if wish.at_once or (orders.main and not launched.ranks and door.is_shut()):
            break
        if now - began > quiet_s and not (launched.ranks or orders.far):
            quiet_s *= 2
            _say("the launcher waits for other nodes to come")
        if wish.asked and _nothing_to_save(launched, orders, wish, start, before):
            launched.end(_PATIENCE_S, lambda: wish.at_once)
        elif wish.signalled and not passed_on and start.outcome is None:
            passed_on = True  # once: a second word would end the save
            _say(f"{wish.asked}: the run is to save and stop; a second one ends it at once")
            if not (wish.write() and start.shared):
                launched.tell(signal.SIGTERM)
        elif wish.seen and not there:  # the main rank has taken it away: the end of the step
            boundary = boundary or now
            if now - boundary > orders.grace_s + _MARGIN_S:
                _say(f"not saved within run.grace_s = {orders.grace_s:g} and {_MARGIN_S} s: ends what is left")
                launched.end(_PATIENCE_S, lambda: wish.at_once)
        over = None if start.outcome is None or start.is_as(before) else over or now
        if over and now - over > _leaving_s(start, orders, wish) and (count := launched.end_ranks_of_before(over)):
            _say(f"start {start.number} has ended, and {log.plural(count, 'rank')} of it stayed: killed")
        time.sleep(_POLL_S)
    if wish.at_once and orders.far:
        _end_far_ranks(wish)
    # A launcher that was killed leaves its ranks to train: they save when they are told to go.
    saving = launched.left() and not wish.at_once and newest(orders.out).outcome is None
    launched.end(orders.grace_s + _MARGIN_S if saving else _PATIENCE_S, lambda: wish.at_once)


def _leaving_s(start: Start, orders: Orders, wish: Wish) -> float:
    """How long ranks of a start that has an outcome may stay."""
    said = start.outcome or {}
    for_good = said.get("outcome") in ("done", "preempted") and not said.get("restart")
    return _OVER_S + (orders.publish_s if for_good and not wish.asked else 0)


def _end_far_ranks(wish: Wish) -> None:
    """Have the main rank read that it is to end at once; where it ends, its peers do."""
    wish.write()
    until = time.monotonic() + _PATIENCE_S
    while wish.is_there() and time.monotonic() < until:
        time.sleep(_POLL_S)


def _nothing_to_save(launched: Launched, orders: Orders, wish: Wish, start: Start, before: Start) -> bool:
    """Before a run is begun, and on a spare host, which nobody waits for."""
    if orders.far:
        return False
    is_on = before.number > 0 and before.outcome is None and start.number == before.number  # since before we came
    if orders.elastic and is_on and not launched.ranks:
        return True
    if start.is_as(before):
        wish.write()  # for the other nodes
        return True
    return not launched.ranks


def _settled(orders: Orders, wish: Wish, before: Start) -> Start:
    """The newest start when all has ended; its outcome may come late where another host wrote it."""
    until = time.monotonic() + (_LATE_S if orders.main or orders.far else 0)
    while True:
        now = newest(orders.out)
        known = now.outcome is not None or now.is_as(before) or not now.shared
        if known or wish.at_once or time.monotonic() > until:
            return now
        time.sleep(_POLL_S)


def _withdrawn(orders: Orders, wish: Wish) -> None:
    """RUN/stop has done its work when the run has ended; other nodes may not have read it yet.

    It stays for ranks out of reach that may still begin, and are to end at once.
    """
    heeded = wish.by_a_person  # what a person has put there since is for the next start
    if wish.is_there() and not (wish.at_once and orders.far) and (wish.wrote or orders.main is None):
        time.sleep(8 * _POLL_S)
        if heeded or stop_file.word(wish.file):
            wish.withdraw()


def _say(text: str) -> None:
    log.say(f"{socket.gethostname()}: {text}")


def main() -> int:
    told = _parser().parse_args()
    words = _words(told.command)
    command = _for_pdsh(told.command) if told.far else told.command
    verb = next(iter(words), "")
    if verb not in _RECIPES or "--data" in words:
        if told.restarts:
            print(f"--restarts: {verb}{' --data' * ('--data' in words)} has no run to go on with", file=sys.stderr)
            return MISTAKE
        os.execvp(command[0], command)
    try:
        out, grace_s, publish_s = _run_of(words)
    except (UserError, OSError) as error:
        why = f"run.out: {error.filename}: {error.strerror}" if isinstance(error, OSError) else error
        print(f"fer-scale {verb}: {why}", file=sys.stderr)
        return MISTAKE
    orders = Orders(
        command, out, grace_s, publish_s, told.restarts, told.back_off, told.main, told.meet, told.elastic,
        far=told.far or told.requeue, requeued=told.requeue and os.environ.get("SLURM_RESTART_COUNT", "0") != "0",
    )  # fmt: skip
    wish = Wish(out / "stop")
    if why := stop_file.refusal(wish.file):
        _say(why)
        return DONE
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


def _for_pdsh(command: list[str]) -> list[str]:
    """A command of DeepSpeed's launcher, whose words arrive on other hosts as they are here.

    It puts those with a blank between double quotes, others between none; then pdsh replaces %n, and a shell reads.
    """
    words = [word.replace("%", "%%") for word in _words(command)]
    quoted = [re.sub(r"[\\$`]", r"\\\g<0>", word) if " " in word else shlex.quote(word) for word in words]
    return command[: len(command) - len(words)] + quoted


def _run_of(words: list[str]) -> tuple[Path, float, float]:
    """run.out, run.grace_s and, where it publishes, publish.wait_s of what a verb was given; it makes the folder."""
    args = command_line.parse(((words[0], lambda _: None),), words)
    schema, slip = _RECIPES[words[0]]
    recipe = config.load(schema, args.recipe, [*args.overrides, *args.change])
    slip.refuse_slip(recipe, args.change)  # as the run would, but so early that it is no start, and tried again
    (recipe.run.out / "attempts").mkdir(parents=True, exist_ok=True)
    publishes = schema is Pretrain and recipe.publish.to
    return recipe.run.out, recipe.run.grace_s, recipe.publish.wait_s if publishes else 0.0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m fer_scale.supervise")
    parser.add_argument("--restarts", type=int, default=0, metavar="N", help="start a failed run again, so often (0)")
    parser.add_argument("--back-off", type=float, default=_BACK_OFF_S, metavar="SECONDS", help="the first wait (5)")
    parser.add_argument("--main", metavar="HOST:PORT", help="on all nodes but one: where that one's launcher listens")
    parser.add_argument("--meet", type=float, default=_MEET_S, metavar="SECONDS", help="the longest wait for it (3600)")
    parser.add_argument("--elastic", action="store_true", help="nodes may come while the run is on")
    parser.add_argument("--far", action="store_true", help="the launcher's ranks run elsewhere: signals reach none")
    parser.add_argument("--requeue", action="store_true", help="as a Slurm job: queue it again where that may help")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="a launcher that runs -m fer_scale VERB ...")
    return parser


if __name__ == "__main__":
    sys.exit(main())
