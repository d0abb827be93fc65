"""What all ranks settle before the first step: whose start of the run this is, what they see, where they go on from.

Everything is decided by the main rank, or compared with what it has; a difference is named with its host and rank.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from fer_scale import checkpoint, config, ending, log, portable, resume, tee
from fer_scale.checkpoint import CheckpointError
from fer_scale.ending import Attempt
from fer_scale.peers import by_main
from fer_scale.pretrain import setup, world
from fer_scale.pretrain.here import versions
from fer_scale.pretrain.layout import zero_layout
from fer_scale.pretrain.recipe import Pretrain
from fer_scale.pretrain.slip import refuse_slip
from fer_scale.pretrain.world import World
from fer_scale.resume import Found
from shards.errors import Broken, UserError, exit_code

_TELL_S = 60.0  # a rank that has made a mistake waits so long for the others, to tell them


@dataclass(frozen=True, slots=True)
class Begun:
    attempt: Attempt
    log: Path  # in which all that this rank says stands as well
    writers: list[int]  # ranks that see the main rank's run.out: they can write and read checkpoints
    names: list[str]  # of all ranks
    hosts: list[str]


def meet(recipe_file: Path, words: list[str]) -> tuple[Pretrain, World]:
    """The recipe, with the other ranks, once all of them have loaded it. Else all end, and rank 0 says whose mistake.

    On one host all have the same file, and make the same mistake; another host may have an older one, or older code.
    """
    wanted, mistake = None, ""
    try:
        wanted = config.load(Pretrain, recipe_file, words)
    except UserError as error:
        mistake = str(error)
        if world.is_alone():
            raise
    patience_s = wanted.run.hang_limits["start"] if wanted else _TELL_S
    if wanted and not world.another_rank_speaks() and not world.is_alone():  # while it waits torch stops all threads
        log.say(f"meeting  {world.meeting()}; who is not there in {log.duration(patience_s)} ends it")
    try:
        us = world.join(patience_s)
    except Broken:  # somebody did not come
        if mistake:
            raise UserError(f"{world.own_name()}: {mistake}") from None
        raise
    told = us.collect((us.name, mistake))
    mistaken = [(name, mistake) for name, mistake in told if mistake]
    if mistaken and len(mistaken) < us.ranks:
        name, mistake = mistaken[0]
        more = f", and {log.plural(len(mistaken) - 1, 'rank')} more" if len(mistaken) > 1 else ""
        mistake = f"{name}{more}, but not all ranks: {mistake}\nmake all hosts alike (`fer-scale doctor` compares them)"
    if mistake:
        _refuse(UserError(mistake), us)
    assert wanted
    return wanted, us


def begin(wanted: Pretrain, changes: list[str], us: World) -> Begun:
    """Claim the run for this start, keep what every rank says, and compare recipes, code and versions."""
    out = wanted.run.out
    try:
        claimed = by_main(us, lambda: _claimed(wanted, changes))
    except (UserError, OSError) as error:
        _refuse(error, us)
    attempt = claimed if us.is_main else resume.as_seen_here(claimed)
    sees = attempt.folder == claimed.folder
    file = attempt.folder / f"rank-{us.rank:0{len(str(us.ranks - 1))}}.log"
    told = us.collect((_kept(file, us), sees, us.name, us.host))
    if problem := next((problem for problem, *_ in told if problem), ""):
        if us.is_main:
            attempt.record("failed", us.rank, reason=problem, restart=False)
        _refuse(UserError(problem), us)
    apart = [name for _, sees, name, _ in told if not sees]
    if apart and us.is_main:
        more = f" and {len(apart) - 1} more" if len(apart) > 1 else ""
        log.say(
            f"note     run.out: {out} is another folder for {apart[0]}{more}: ranks that share it with rank 0 alone "
            "write checkpoints, and what the others say stays on their hosts"
        )
    writers = [rank for rank, (_, sees, *_) in enumerate(told) if sees]
    names = [name for *_, name, _ in told]
    return Begun(attempt, file, writers, names, sorted({host for *_, host in told}))


def _claimed(wanted: Pretrain, changes: list[str]) -> Attempt:
    refuse_slip(wanted, changes)  # the claim would end a run that runs, and forget how one has ended
    return ending.claim(wanted.run.out)


def _refuse(problem: UserError | OSError, us: World) -> NoReturn:
    raise problem if us.is_main else SystemExit(exit_code(problem))  # rank 0 says it


def _kept(file: Path, us: World) -> str:
    """What keeps this rank's output from being kept in `file`, or ""."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        tee.keep(file)
    except OSError as error:
        return f"{us.name}: run.out: {file}: {error.strerror}"
    return ""


def code_and_recipe(wanted: Pretrain) -> dict[str, Any]:
    """For `same_everywhere`, before anything is read: what decides what a rank computes."""
    layout = zero_layout(wanted.run.deepspeed)
    return {"version of": versions(), "recipe:": config.values(wanted), f"{wanted.run.deepspeed}:": layout}


def describe(begun: Begun, us: World, *, stage: int) -> dict[str, Any]:
    """What the event of this start says of it, and in what it differs from the start before."""
    facts = {"ranks": us.ranks, "hosts": begun.hosts, "device": world.device_name(), "stage": stage}
    facts["versions"] = versions()
    starts = [row for row in log.rows(begun.attempt.out / "events.jsonl") if row["event"] in ("start", "resume")]
    before = starts[-1] if starts else {}
    changed = {key: [before[key], value] for key, value in facts.items() if before.get(key, value) != value}
    return {"attempt": begun.attempt.number} | facts | {"changed": changed}


def go_on(wanted: Pretrain, changes: list[str], prints: list[str], us: World, readers: list[int]) -> Found:
    """What the run goes on from, on all ranks, once it is clear that this is what was asked for."""
    found = resume.find(wanted.run.out, us, readers)
    by_main(us, lambda: _may(wanted, changes, prints, found))
    if us.is_main:
        resume.set_aside(found, log.Journal(wanted.run.out))
        _say_another_place(wanted, found)
    return found


def _say_another_place(wanted: Pretrain, found: Found) -> None:
    """A place in the data is the number of a step: in batches of another size it is another one."""
    if found.folder:
        before, now = config.of_checkpoint(found.progress, found.folder)["batch"]["size"], wanted.batch.size
        if before != now:
            log.say(
                f"note     batch.size {before} -> {now}: the place in the data is that of step "
                f"{found.progress['step']:,} of batches of {now}, so some images come again sooner, others later; "
                "where they are no multiples of 64, crops and masks are others, too"
            )


def bring(wanted: Pretrain, changes: list[str], prints: list[str], attempt: Attempt) -> None:
    """Put what `run.resume_from` names into a run that has no checkpoint of its own, once it is clear that it fits.

    For the main rank. The others wait no longer than run.hang_seconds says of `load`.
    """
    address = wanted.run.resume_from
    if not address or checkpoint.complete(wanted.run.out):
        return
    state = portable.pull(address)
    with tempfile.TemporaryDirectory(prefix="fer_scale-") as scratch:
        file = Path(scratch) / "recipe.toml"
        file.write_text(state.progress["recipe"])
        try:
            setup.same_run(wanted, state.progress, prints, changes, state.folder, file, state.address)
        except UserError as error:
            raise CheckpointError(f"run.resume_from: {error}") from None
    portable.adopt(state, attempt)
    log.Journal(wanted.run.out).event("moved", step=state.progress["step"], address=state.address)
    log.say(f"pulled   step {state.progress['step']:,} of {state.address}")


def _may(wanted: Pretrain, changes: list[str], prints: list[str], found: Found) -> None:
    """Refuse to go on with, or to begin, another run than was asked for; the claim has compared the recipes."""
    run = wanted.run
    if run.resume == "never" and found.folder:
        raise CheckpointError(
            f"{run.out}: holds a run already ({found.folder.name}) and run.resume is never; use another run.out"
        )
    if run.resume == "must" and not found.folder:
        raise CheckpointError(f"{run.out}: no complete checkpoint to go on from, and run.resume is must")
    if found.folder:
        setup.same_run(wanted, found.progress, prints, changes, found.folder)
