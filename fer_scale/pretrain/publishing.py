"""Publishing while training: a process of its own publishes the newest checkpoint, and training never waits for it.

    due            the first checkpoint at or after every so many steps (`publish.every_steps`), and the last of the run
    one at a time  where more fall due meanwhile, the newest is next; what is being read is not pruned (`in_use`)
    failed         is said, written to events.jsonl, and tried again with the next checkpoint
    at the end     a run that is done, or was stopped for good, waits for the last one, `publish.wait_s` at most; one
                   that was pre-empted leaves at once, and its next start publishes

The process is `fer-scale publish RUN TO --step N`, and what it makes can be made again by that command, to the byte. It
has the lowest priority, one thread and no GPU, and ends when its rank does. To kill it harms nothing: a commit on the
Hub is whole or absent, and so is a folder. (A signature has a random part: each time it is another one, of the same.)
"""

import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from fer_scale import artifact, checkpoint, hub, hub_held, hub_rights, log, scratch, signature
from fer_scale.config import ConfigError
from fer_scale.ending import Attempt
from fer_scale.pretrain.publish_keys import Publish
from fer_scale.pretrain.recipe import Pretrain
from fer_scale.record import published
from shards.errors import UserError

_NICE = 19
_AGAIN_S = 30.0  # between two tries at the end
_SAID_S = 10.0  # between two lines about the last one
_SPEAKS = "fer-scale publish: "


def refuse(rec: Pretrain) -> None:
    """Refuse before the first step what could only fail after it; where the Hub does not answer, only say so.

    A run that goes on trains on in any case: nobody may be there to mend it, as when its token has expired.
    """
    wanted = rec.publish
    places = {"to": (wanted.to, hub_held.MODEL, wanted.private), "state": (wanted.state_to, hub_held.STATE, True)}
    for key in ("to", "state", "sign"):
        try:
            if key in places:
                _refuse_place(key, *places[key])
            elif wanted.sign:
                signature.refuse_unfit(wanted.sign)
        except UserError as error:
            if not checkpoint.complete(rec.run.out):
                raise ConfigError(f"publish.{key}: {error}") from None
            log.say(f"note     publish.{key}: the run goes on, and this may not be published: {error}")


def _refuse_place(key: str, address: str | None, kind: str, private: bool) -> None:
    """UserError where what is of this kind may not go to the address."""
    if address and hub.is_remote(address):
        if unknown := hub_rights.may_write(address, kind, private=private):
            log.say(f"note     publish.{key}: whether this may be published is not known: {unknown}")
    elif address:
        artifact.refuse_to_replace(Path(address))


def most_in_use(wanted: Publish) -> int:
    """How many checkpoints publishing keeps from being pruned, at most: the one that is read, and the next."""
    return 2 * bool(wanted.to)


def is_due(step: int, published: int, every: int | None) -> bool:
    """Whether a multiple of `every` lies after the step that was `published` last, and not after `step`."""
    return every is not None and step // every > published // every


class Publisher:
    """Of the main rank; others, and runs without `publish.to`, have one that does nothing. `with` leaves no process."""

    def __init__(self, rec: Pretrain, attempt: Attempt, *, is_main: bool):
        self._wanted, self._card, self._out = rec.publish, rec.card, rec.run.out
        self._active = is_main and bool(self._wanted.to)
        self._log = attempt.folder / "publisher.log"  # all that the processes say
        self._journal = log.Journal(self._out if self._active else None)
        self._running: _Publication | None = None
        self._next: int | None = None
        self._newest: int | None = None  # of the run's checkpoints
        self._published = 0  # the step of the last
        self._may_help = True  # to try again, after the last one that failed

    def recall(self) -> None:
        """Find out what earlier starts have published there, once the journal says which step this one goes on from."""
        if self._active:
            before = published(log.rows(self._out / "events.jsonl"))
            self._published = max((row["step"] for row in before if row["to"] == self._wanted.to), default=0)

    def __enter__(self) -> "Publisher":
        return self

    def __exit__(self, *_: object) -> None:
        if self._running:
            self._running.kill()

    @property
    def most_in_use(self) -> int:
        """How many checkpoints it keeps from being pruned, at most."""
        return most_in_use(self._wanted) * self._active

    def in_use(self) -> set[int]:
        """The steps whose checkpoints are not to be pruned now; any thread may ask."""
        then, running = self._next, self._running  # in this order: `look` moves a step from the first to the second
        return {step for step in (then, running.step if running else None) if step is not None}

    def saved(self, step: int) -> None:
        """The checkpoint of `step` counts from now on: publish it if it is due."""
        if not self._active:
            return
        self._newest = step
        if self._next is not None or is_due(step, max(self._published, *self.in_use(), 0), self._wanted.every_steps):
            self._next = step
        self.look()

    def look(self) -> None:
        """Hear what came of the publication under way, and begin the next. It costs nothing: for every step."""
        if self._running and self._running.is_over():
            over, self._running = self._running, None
            self._tell(over)
        if self._next is not None and not self._running:
            try:
                self._running = _Publication(self._next, self._words(self._next), self._log)
            except OSError as error:
                self._failed(self._next, f"no process could be started ({error.strerror})")
            self._next = None  # not before: see `in_use`

    def _tell(self, over: "_Publication") -> None:
        said, why = over.result()
        if why:
            self._may_help = over.may_help()
            return self._failed(over.step, why)
        self._published = over.step
        address, seconds = said.pop("published"), round(over.seconds, 1)
        facts = {"step": over.step, "to": self._wanted.to, "address": address, "seconds": seconds}
        self._journal.event("published", **facts, **said)
        log.say(f"published step {over.step:,}: {address} ({log.duration(seconds)})")

    def _failed(self, step: int, why: str) -> None:
        self._journal.event("not_published", step=step, why=why)
        log.say(f"note     step {step:,} is not published, and training goes on: {why}")

    def _words(self, step: int) -> list[str]:
        """What to type after fer-scale to publish the step by hand."""
        to, licence, title = self._wanted.to, self._card.license, self._card.title
        assert to and licence
        words = ["publish", str(self._out), to, "--step", str(step), "--licence", licence]
        words += ["--title", title] if title else []
        words += ["--parts", self._wanted.parts]
        words += ["--sign", str(self._wanted.sign)] if self._wanted.sign else []
        words += ["--private"] if self._wanted.private else []
        words += ["--pictures"] if self._card.pictures else []
        return words + (["--state", self._wanted.state_to] if self._wanted.state_to else [])

    # ---- after the last step

    def finish(self) -> None:
        """Publish the newest checkpoint unless that is done, and wait for it; say what to do if nothing comes of it."""
        until = time.monotonic() + self._wanted.wait_s
        while self._newest is not None and self._published != self._newest:
            if not self._running or self._running.step != self._newest:
                self._next = self._newest
            self._wait(until)
            left = until - time.monotonic()
            if self._published == self._newest:
                return
            if left < _AGAIN_S or not self._may_help:
                return self._give_up(self._newest)
            log.say(f"tried again in {_AGAIN_S:g} s, for {log.duration(left)} more at most (publish.wait_s)")
            time.sleep(_AGAIN_S)

    def _wait(self, until: float) -> None:
        """Until no publication is under way any more, or the time is up."""
        self.look()
        said = 0.0
        while self._running and (now := time.monotonic()) < until:
            if now - said > _SAID_S:
                left = log.duration(until - now)
                log.say(f"publishing step {self._running.step:,} to {self._wanted.to}, for {left} more at most")
                said = now
            time.sleep(0.1)
            self.look()

    def _give_up(self, step: int) -> None:
        if self._running:
            self._running.kill()
            self._running = None
            self._failed(step, f"it took longer than publish.wait_s = {self._wanted.wait_s:g}")
        command = shlex.join(["fer-scale", *self._words(step)])
        log.say(f"note     the run itself is whole; to publish its step {step:,} later: {command}")


class _Publication:
    """A process that publishes one step."""

    def __init__(self, step: int, words: list[str], said: Path):
        self.step, self._began, self._log = step, time.monotonic(), said
        # Where it makes the model: ours to remove, however it ends.
        self._scratch = ExitStack()
        place = self._scratch.enter_context(scratch.folder())
        self._out = tempfile.TemporaryFile()
        command = [sys.executable, "-m", "fer_scale", *words, "--json", "--parent", str(os.getpid())]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TMPDIR": str(place)}
        with said.open("ab") as errors:
            self._offset = errors.tell()
            self._process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=self._out, stderr=errors,
                start_new_session=True,  # Ctrl-C at a terminal is the run's to hear
            )  # fmt: skip
        os.setpriority(os.PRIO_PROCESS, self._process.pid, _NICE)  # before it has other threads

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def is_over(self) -> bool:
        return self._process.poll() is not None

    def result(self) -> tuple[dict[str, Any], str]:
        """Of a process that is over: its result, or why there is none."""
        self._scratch.close()
        code = self._process.returncode
        try:
            with self._out:
                self._out.seek(0)
                said = self._out.read().decode(errors="replace")
            if code:
                return {}, self._last_words() if code > 0 else f"its process was killed by signal {-code}"
            return _result_in(said), ""
        except (OSError, ValueError) as error:  # training is not to end of it
            return {}, f"its process ended with code {code}, and what it said cannot be read ({error})"

    def may_help(self) -> bool:
        """Whether what failed may go better the next time: not after a mistake, or a bug.

        So it may where a process ended well and what it said was lost: what is there is not sent again.
        """
        return self._process.returncode in (0, os.EX_TEMPFAIL) or self._process.returncode < 0

    def _last_words(self) -> str:
        """Its message, or the last line of its traceback."""
        with self._log.open("rb") as file:
            file.seek(self._offset)
            text = file.read().decode(errors="replace").strip()
        words = text.rpartition(_SPEAKS)[2] if _SPEAKS in text else text.splitlines()[-1] if text else "it said nothing"
        return " ".join(words.split())

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._scratch.close()
        self._out.close()


def _result_in(said: str) -> dict[str, Any]:
    """The JSON object, over some lines, that a verb wrote last on its stdout; a library may write there too."""
    result: dict[str, Any]
    result, _ = json.JSONDecoder().raw_decode("{" + f"\n{said}".rpartition("\n{")[2])
    if "published" not in result:
        raise ValueError("no address in it")
    return result
