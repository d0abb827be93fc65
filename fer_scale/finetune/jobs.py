"""Commands of ours as processes, so many at once: what is there is not done again, what fails is named, others go on.

Nothing is remembered but files: a job is done when the file that it makes is there. So a sweep that was killed at any
moment is gone on with by doing the rest. Processes get SIGTERM when this one dies, of which a run saves and ends.
"""

import fcntl
import json
import math
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fer_scale import log
from fer_scale.processes import told_of_our_death
from fer_scale.starts import outcome_of
from shards.errors import UserError

LOCK = ".lock"
_POLL_S = 0.05
_CORES_BESIDE_A_GPU = 2  # for each job
_GRACE_S = 60.0  # in which a run that is told to end has saved


@dataclass(frozen=True, slots=True)
class Job:
    """Some `fer-scale` commands in their order, at whose end the file `makes` is there."""

    what: str
    of: str
    makes: Path
    commands: tuple[tuple[str, ...], ...]  # without the leading fer-scale
    said: Path  # what they say is kept here
    needs: tuple[Path, ...] = ()  # files that other jobs make
    copy: tuple[Path, Path] | None = None  # a run, and the one that goes on from it
    spent: Path | None = None  # a folder that nobody wants when all is done


@dataclass(slots=True)
class _Running:
    job: Job
    slot: int
    process: subprocess.Popen[bytes]
    number: int = 0  # of its command
    began: float = field(default_factory=time.monotonic)


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder against another sweep, until this process ends, whatever ends it."""
    with (folder / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{folder}: another sweep is at work there") from None
        yield


class Slots:
    """How many jobs run at a time: as asked; else on CPUs a core each, or OMP_NUM_THREADS cores, where that is set.

    On GPUs one each, until the first has trained: then as many as fit, by the memory that was seen in use. `threads`
    are those of a job, the same for all, for a sum on another number of them has other last digits.
    """

    def __init__(self, asked: int):
        self._gpus = 0 if asked else torch.cuda.device_count()
        self._free = self._free_bytes() if self._gpus else 0
        self._peak = 0.0  # bytes a job
        self.count = asked or self._gpus or max(1, cores() // max(1, int(os.environ.get("OMP_NUM_THREADS") or 1)))
        self.threads = min(_CORES_BESIDE_A_GPU, cores()) if self._gpus else max(1, cores() // self.count)

    def look(self, running: int) -> None:
        """See how much memory the jobs take that run now."""
        if self._gpus and running:
            used = self._free - self._free_bytes()
            self._peak = max(self._peak, used / math.ceil(running / self._gpus))

    def learn(self) -> None:
        """One has trained to its end, so what it took at most was seen."""
        if self._gpus and self._peak > 0:
            self.count = self._gpus * fit(self._free, self._peak, cores() // self._gpus)

    def _free_bytes(self) -> int:
        return min(torch.cuda.mem_get_info(number)[0] for number in range(self._gpus))


def fit(free: float, each: float, cores: int) -> int:
    """How many jobs of `each` bytes fit on a GPU with so many free, a tenth left open, and on the cores beside it."""
    return max(1, min(int(0.9 * free / each), cores // _CORES_BESIDE_A_GPU))


def cores() -> int:
    return len(os.sched_getaffinity(0))


def do(jobs: Sequence[Job], asked: int, times: Path) -> list[str]:
    """Do what is not done, as many at once as asked (0: as fit); a line for each that failed. `times` gets seconds."""
    waiting = [job for job in jobs if not job.makes.exists()]
    slots = Slots(asked)
    progress = _Progress(len(jobs), len(jobs) - len(waiting), slots)
    running: dict[int, _Running] = {}
    failed: dict[Path, str] = {}
    try:
        while waiting or running:
            for slot in [slot for slot in range(slots.count) if slot not in running]:
                if (job := _next(waiting, failed)) is not None:
                    waiting.remove(job)
                    running[slot] = _start(job, slot, slots)
            slots.look(len(running))
            for work in list(running.values()):
                if (code := work.process.poll()) is None or _goes_on(work, code, slots):
                    continue
                del running[work.slot]
                if work.job.makes.exists():
                    seconds = round(time.monotonic() - work.began, 1)
                    log.append(times, {"what": work.job.what, "of": work.job.of, "seconds": seconds})
                    _tidy(work.job)
                    if work.job.commands[0][0] == "finetune":
                        slots.learn()
                    progress.done(work.job, seconds, waiting)
                else:
                    failed[work.job.makes] = _why(work.job, code)
                    log.say(f"failed: {failed[work.job.makes]}")
            if not running and waiting and _next(waiting, failed) is None:
                break
            time.sleep(_POLL_S)
    finally:
        _end([work.process for work in running.values()])
    left = [f"{job.what}, {job.of}: not begun, for what it needs failed" for job in waiting]
    return [*failed.values(), *left]


def _next(waiting: Sequence[Job], failed: dict[Path, str]) -> Job | None:
    """The first one whose needs are there."""
    return next((job for job in waiting if all(need.exists() and need not in failed for need in job.needs)), None)


def _start(job: Job, slot: int, slots: Slots) -> _Running:
    if job.copy is not None and not job.copy[1].exists():
        _copy(*job.copy)
    return _Running(job, slot, _process(job, 0, slot, slots))


def _goes_on(work: _Running, code: int, slots: Slots) -> bool:
    """Start the job's next command, if this one succeeded and there is one."""
    command = work.job.commands[work.number]
    outs = [Path(json.loads(word.removeprefix("run.out="))) for word in command if word.startswith("run.out=")]
    if code or any((outcome_of(out) or {}).get("outcome") != "done" for out in outs):
        return False
    work.number += 1
    if work.number == len(work.job.commands):
        return False
    work.process = _process(work.job, work.number, work.slot, slots)
    return True


def _process(job: Job, number: int, slot: int, slots: Slots) -> subprocess.Popen[bytes]:
    """A command on its share of the cores and, where there are several, on one GPU."""
    words = job.commands[number]
    env = os.environ | {"OMP_NUM_THREADS": str(slots.threads)}
    if torch.cuda.device_count() > 1:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(torch.cuda.device_count())))
        env["CUDA_VISIBLE_DEVICES"] = visible.split(",")[slot % torch.cuda.device_count()]
    job.said.parent.mkdir(parents=True, exist_ok=True)
    with job.said.open("a") as said:
        said.write(f"$ fer-scale {shlex.join(words)}\n")
        said.flush()
        command = [sys.executable, "-m", "fer_scale", *words]
        # A session of its own: Ctrl-C at a terminal is heard by us alone, and passed on once.
        return subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True,
            preexec_fn=partial(told_of_our_death, os.getpid()),
        )  # fmt: skip


def _copy(run: Path, to: Path) -> None:
    """What another run needs to go on from the end of this one; checkpoints, which nobody alters, are linked."""
    part = to.with_name(f"{to.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name in ("recipe.toml", "metrics.jsonl", "events.jsonl"):
        shutil.copy2(run / name, part / name)
    shutil.copytree(run / "attempts", part / "attempts")  # so the run's life and card tell of both stages
    shutil.copytree(run / "checkpoints", part / "checkpoints", copy_function=_link)
    os.rename(part, to)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _tidy(job: Job) -> None:
    if job.spent is not None:
        shutil.rmtree(job.spent, ignore_errors=True)


def _why(job: Job, code: int) -> str:
    """What failed, how, its last word, and where all of it stands."""
    lines = job.said.read_text(errors="replace").splitlines() or [""]
    return f"{job.what}, {job.of}: exit code {code}: {lines[-1].strip()}; see {job.said}"


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Ask them to end, and make those that do not."""
    for process in processes:
        process.terminate()
    until = time.monotonic() + _GRACE_S
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, until - time.monotonic()))
        process.kill()
        process.wait()


class _Progress:
    """The one line about the whole: how much is done, and how long the rest will take at what is known of its kind."""

    def __init__(self, total: int, done: int, slots: Slots):
        self._total, self._done, self._slots = total, done, slots
        self._seconds: dict[str, list[float]] = {}
        log.say(f"sweep: {done} of {log.plural(total, 'job')} done, {slots.count} at once")

    def done(self, job: Job, seconds: float, waiting: Sequence[Job]) -> None:
        self._done += 1
        self._seconds.setdefault(job.what, []).append(seconds)
        left = sum(self._foretold(other.what) for other in waiting) / self._slots.count
        rest = f"about {log.duration(left)} left" if waiting else "none waits"
        log.say(f"{self._done}/{self._total} {job.what}, {job.of} ({log.duration(seconds)}); {rest}")

    def _foretold(self, what: str) -> float:
        known: list[Any] = self._seconds.get(what) or [s for seconds in self._seconds.values() for s in seconds]
        return float(sum(known) / len(known))
