"""What one can ask of checkpoints, on any machine: `fer-scale checkpoint ls | verify | extract`; compare.py has `diff`.

No DeepSpeed, no GPU. Files are read one after another and in pieces, tensors one at a time.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch

from fer_scale import checkpoint, tensors
from fer_scale.checkpoint import CheckpointError, TooNew
from fer_scale.log import Ticker, size
from fer_scale.tensors import Stored
from shards.errors import UserError

Row = dict[str, Any]
Tick = Callable[[int], None]  # told of so many bytes more
MODEL = ("w.*", "f.*", "b.*")  # what of a checkpoint is the model
_PIECE = 4 << 20  # bytes read at a time
_OUT = ("incomplete", "set aside")  # no run goes on from these


def find(place: Path) -> Path:
    """The checkpoint at `place`, or the newest whole one (by sizes) of the run there; CheckpointError if none."""
    if _is_checkpoint(place):
        return place
    found, passed = checkpoint.newest(_run(place))
    if found is None:
        raise CheckpointError("\n  ".join([f"{place}: no complete checkpoint", *map(str, passed)]))
    return found


def _is_checkpoint(place: Path) -> bool:
    """By its name, which says a step, or by what lies in it; a run may be called step_decay."""
    named = re.match(r"step_\d+(\.|$)", place.name) or (place / "progress.json").exists()
    return place.is_dir() and bool(named) and not (place / "checkpoints").is_dir()


def _run(place: Path) -> Path:
    """`place`, a run with checkpoints; else CheckpointError."""
    if not place.is_dir():
        raise CheckpointError(f"{place}: {'is no folder' if place.exists() else 'no such folder'}")
    if _is_checkpoint(place):
        raise CheckpointError(f"{place}: is one checkpoint; give the folder of its run")
    if not (place / "checkpoints").is_dir():
        missing = "no run (no folder checkpoints) and no checkpoint (no progress.json)"
        raise CheckpointError(f"{place}: {missing}; give the folder of a run, or one in its checkpoints")
    return place


def ls(run: Path) -> list[Row]:
    """The checkpoints of a run by step; `state` is complete, incomplete, damaged (by sizes), set aside or too new."""
    rows = []
    for folder in filter(Path.is_dir, (_run(run) / "checkpoints").glob("step_*")):
        with suppress(FileNotFoundError):  # the run has deleted it by now
            rows.append(_row(folder))
    return sorted(rows, key=lambda row: (row["step"], row["checkpoint"]))


def _row(folder: Path) -> Row:
    manifest = folder / "manifest.json"
    written = (manifest if manifest.exists() else folder).stat().st_mtime
    state, why = _state(folder)
    return {
        "checkpoint": folder.name,
        "step": _step(folder),
        "time": datetime.fromtimestamp(written, UTC).isoformat(timespec="seconds"),
        "bytes": size_of(folder),
        "state": state,
        "why": why,
    }


def _step(folder: Path) -> int:
    number = folder.name.removeprefix("step_").partition(".")[0]
    return int(number) if number.isdecimal() else 0


def _state(folder: Path) -> tuple[str, str]:
    if folder.suffix == ".part" or not (folder.suffix or (folder / "manifest.json").exists()):
        return "incomplete", "being written or deleted, or whoever did so was killed"
    if folder.suffix:
        return "set aside", "the run found it damaged"
    try:
        checkpoint.manifest(folder)
    except CheckpointError as error:
        why = str(error).removeprefix(str(folder)).lstrip("/: ")
        return "too new" if isinstance(error, TooNew) else "damaged", why
    return "complete", ""


def table(rows: Sequence[Row]) -> Iterator[str]:
    """What `fer-scale checkpoint ls` prints."""
    yield f"{'step':>12}  {'written (UTC)':<19}  {'size':>9}  state"
    for row in rows:
        why = f": {row['why']}" if row["why"] else ""
        yield f"{row['step']:>12,}  {row['time'][:19].replace('T', ' ')}  {size(row['bytes']):>9}  {row['state']}{why}"
    yield f"{'':>12}  {'together':<19}  {size(sum(row['bytes'] for row in rows)):>9}"


def verify(place: Path, progress: Ticker) -> Row:
    """What is damaged in a checkpoint, or in those of a run: each byte is read, each value looked at.

    `damaged` has a line for each file or tensor that is not as it must be. Of a run those that are incomplete or were
    set aside are left out: nothing goes on from them. TooNew at a form that this code does not know.
    """
    one = _is_checkpoint(place)
    rows = [_row(place)] if one else [row for row in ls(place) if row["state"] not in _OUT]
    if not rows:
        raise CheckpointError(f"{place}: no complete checkpoint")
    total = sum(row["bytes"] for row in rows)
    tick = counted(progress, total)
    damaged: list[str] = []
    for row in rows:
        folder = place if one else place / "checkpoints" / row["checkpoint"]
        found = list(damages(folder, tick))
        if one or (folder / "manifest.json").exists():  # else the run has deleted it by now
            damaged += found
    return {"verified": str(place), "checkpoints": len(rows), "bytes": total, "damaged": damaged}


def refuse_damaged(folder: Path, tick: Tick) -> None:
    """CheckpointError where a byte is not as the manifest has it, before something is made of this checkpoint."""
    if problem := next(damages(folder, tick, values=False), ""):
        raise CheckpointError(f"{problem}; use another step")


def size_of(folder: Path) -> int:
    """Bytes."""
    return sum(file.stat().st_size for file in folder.iterdir())


def counted(progress: Ticker, total: int) -> Tick:
    done = 0

    def tick(count: int) -> None:
        nonlocal done
        progress(done := done + count, total)

    return tick


def damages(folder: Path, tick: Tick, *, values: bool = True) -> Iterator[str]:
    """A line for each file of a checkpoint, and with `values` each tensor, that is not as it must be."""
    try:
        listed = checkpoint.listed(folder)
        for name in checkpoint.foreign(folder, listed):
            yield f"{folder / name}: is not in manifest.json"
    except TooNew:  # no damage
        raise
    except (CheckpointError, OSError) as error:
        yield str(error)
        return
    for name, (length, sha256) in sorted(listed.items()):
        try:
            if problem := _damage(folder / name, length, sha256, tick):
                yield f"{folder / name}: {problem}"
            elif name == "progress.json":
                yield from _another_step(folder)
            elif values:
                yield from _not_finite(folder / name)
        except OSError as error:
            yield f"{folder / name}: cannot be read ({error.strerror})"


def _damage(file: Path, length: int, sha256: str, tick: Tick) -> str:
    """What is wrong with a file's bytes, or ""."""
    if not file.is_file():
        return "is missing"
    if (size := file.stat().st_size) != length:
        return f"{size:,} bytes, not {length:,}"
    return "" if _hash(file, tick) == sha256 else "another sha256 than its manifest's"


def _hash(file: Path, tick: Tick) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as data:
        while piece := data.read(_PIECE):
            digest.update(piece)
            tick(len(piece))
    return digest.hexdigest()


def _another_step(folder: Path) -> Iterator[str]:
    step = json.loads((folder / "progress.json").read_text())["step"]
    if folder.name.startswith("step_") and step != _step(folder):
        yield f"{folder / 'progress.json'}: is of step {step:,}; the folder has another one's name"


def _not_finite(file: Path) -> Iterator[str]:
    for name, at in sorted(tensors.stored(file).items()):
        tensor = at.read()
        if tensor.is_floating_point() and (count := int((~torch.isfinite(tensor)).sum())):
            yield f"{file}: {name}: {count:,} of {tensor.numel():,} values are not finite"


def stored(folder: Path) -> dict[str, Stored]:
    """The tensors of a checkpoint that is not damaged, by name."""
    return {
        tensor: at for name in checkpoint.state_files(folder) for tensor, at in tensors.stored(folder / name).items()
    }


def extract(folder: Path, out: Path, progress: Ticker, *, weights: bool = False, match: str | None = None) -> Row:
    """Write tensors of a checkpoint to one safetensors file, whole or not at all; all, or those whose name matches.

    `weights`: the model's alone (w. f. b.), under the names that they have in the model.
    """
    if out.exists():
        raise UserError(f"{out}: is there already; give another name")
    if out.suffix != ".safetensors":  # as .pt, it would be taken for a pickle
        raise UserError(f"{out}: what is written is safetensors; give a name that ends so, {out.stem}.safetensors")
    refuse_damaged(folder, counted(progress, size_of(folder)))
    patterns = MODEL if weights else (match or "*",)
    chosen = {name: at for name, at in stored(folder).items() if any(fnmatchcase(name, p) for p in patterns)}
    if not chosen:
        kinds = sorted({name[:2] for name in stored(folder)})
        raise UserError(
            f"{folder}: no tensor matches {match}; names are as {next(iter(stored(folder)))} ({' '.join(kinds)})"
        )
    named = {name[2:] if weights else name: at for name, at in chosen.items()}
    beside = out.with_name(f".{out.name}.{os.getpid()}.part")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        tensors.write(beside, named, {"format": "pt", "step": str(checkpoint.progress_of(folder)["step"])})
        beside.rename(out)
    except OSError as error:
        raise UserError(f"{out}: {error.strerror}") from None
    finally:
        with suppress(OSError):
            beside.unlink()
    return {"extracted": str(out), "from": str(folder), "tensors": len(named), "bytes": out.stat().st_size}
