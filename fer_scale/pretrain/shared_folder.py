"""run.out as the hosts of a cluster see it: whether it is one folder for all, how fast it takes bytes, its room."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fer_scale.pretrain.fitness import Folder

Meet = Callable[[str, Any], list[Any]]  # (what comes next, a value) -> the values of all ranks
_WRITTEN_MB = 16
_PATIENCE_S = 5  # network file systems show late what other hosts have written


def look(out: Path, host: str | None, trial: str, meet: Meet, *, is_main: bool) -> Folder | None:
    """What this host finds; all ranks call it, and nothing is left behind. `trial` is a name that nothing has.

    `host` is None for all but the first rank of a host: the others only meet.
    """
    inside, problem = out / f".doctor-{trial}", ""
    made = [folder for folder in (out, *out.parents) if not folder.exists()] if is_main else []
    if is_main:
        problem = _tried(lambda: inside.mkdir(parents=True))
    try:
        if meet(f"looking at {out}", problem)[0]:
            return Folder(problem=problem) if is_main else None
        found = _look(out, inside, host, meet)
        meet("clearing up", None)
        return found
    finally:  # also where a rank was lost on the way
        if is_main:
            shutil.rmtree(inside, ignore_errors=True)
            for folder in made:
                _tried(folder.rmdir)


def _look(out: Path, inside: Path, host: str | None, meet: Meet) -> Folder | None:
    problem, rate, free = "", 0.0, 0.0
    if host and not _soon(inside.is_dir):
        what = "is another folder there: what rank 0 wrote is not in it" if out.is_dir() else "is not there"
        problem = f"{what}; mount the same one on all hosts"
    meet(f"writing {_WRITTEN_MB} MB from every host", None)
    if host and not problem:
        try:
            rate, free = _WRITTEN_MB / _write_s(inside / host, host), shutil.disk_usage(out).free / 1e9
        except OSError as error:
            problem = _why(error)
    good = host is not None and not problem
    written = [name for name in meet("reading what the others wrote", host if good else None) if name]
    if good:
        _soon(lambda: all(_reads(inside / name, name) for name in written))
    unseen = [name for name in written if not _reads(inside / name, name)] if good else []
    return Folder(problem=problem, unseen=unseen, fsync_mb_per_s=rate, free_gb=free) if host else None


def _tried(work: Callable[[], object]) -> str:
    """What is in the way, or nothing."""
    try:
        work()
    except OSError as error:
        return _why(error)
    return ""


def _why(error: OSError) -> str:
    return error.strerror or str(error)


def _write_s(file: Path, host: str) -> float:
    """Seconds until it is on the disk."""
    began = time.monotonic()
    with file.open("wb") as out:
        out.write(host.encode().ljust(_WRITTEN_MB << 20))
        out.flush()
        os.fsync(out.fileno())
    return time.monotonic() - began


def _reads(file: Path, host: str) -> bool:
    """Opened, not only listed: that makes a client ask the server again."""
    try:
        with file.open("rb") as written:
            return written.read(len(host)) == host.encode()
    except OSError:
        return False


def _soon(seen: Callable[[], bool]) -> bool:
    end = time.monotonic() + _PATIENCE_S
    while not seen():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True
