"""The one portable checkpoint: whole tensors by name, no pickle, readable by any number of ranks at any ZeRO stage.

    step_00012000/
        state-00-of-02.safetensors   w.NAME m.NAME v.NAME   a trained parameter (fp32) and Adam's two moments
        state-01-of-02.safetensors   f.NAME                 a frozen parameter (sine-cosine positions)
                                     b.NAME                 a persistent buffer
        progress.json                what the loop must remember; adam_step is smaller than step by the skipped steps
        manifest.json                names, bytes and sha256; written last

Complete means a manifest that verifies. A folder whose name ends in `.part` is being written, by the start that is
named in it; one that ends in `.damaged` was found so by a run that went on from an earlier one.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple

from safetensors.torch import load
from torch import Tensor

from fer_scale import tensors
from shards.errors import Broken, UserError

VERSION = 1
_READS = (1,)


class CheckpointError(UserError):
    """A checkpoint that is damaged, or that belongs to another run."""


class TooNew(CheckpointError):
    """A checkpoint in a form that this code does not know: no damage."""


class NotSaved(CheckpointError, Broken):
    """A checkpoint that a machine failed to write; the one before it is whole, and may be gone on from."""


class Damaged(NamedTuple):
    """A checkpoint that was passed over."""

    folder: Path
    why: str

    def __str__(self) -> str:
        return self.why


def folder_of(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step_{step:08d}"


def part_of(place: Path, attempt: int = 0) -> Path:
    """Where start number `attempt` of a run writes what becomes `place`. Each its own: two may overlap."""
    return place.with_name(f"{place.name}.{attempt:04d}.part")


def write_part(
    folder: Path, writer: int, writers: int, state: dict[str, Tensor], given_up: Event | None = None
) -> dict[str, Any]:
    """Write one writer's tensors; its line of the manifest. CheckpointError where a value is not finite."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"state-{writer:02d}-of-{writers:02d}.safetensors"
    pieces = tensors.serialised(state, {"format": "pt"})
    try:
        return put(folder / name, _until(given_up, pieces) if given_up else pieces)
    except UserError as error:
        raise CheckpointError(f"{error}; such a state is not saved") from None


def _until(given_up: Event, pieces: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    for piece in pieces:
        if given_up.is_set():
            raise UserError("given up")
        yield piece


def finish(
    part: Path,
    place: Path,
    files: list[dict[str, Any]],
    progress: dict[str, Any],
    may: Callable[[], bool] = lambda: True,
) -> bool:
    """Write progress and, last, the manifest, then give the folder its name; False if it `may` not be any more."""
    files = [*files, put(part / "progress.json", [json.dumps(progress, indent=2).encode()])]
    manifest = {"version": VERSION, "files": {f["name"]: {"bytes": f["bytes"], "sha256": f["sha256"]} for f in files}}
    _sync(part)  # the names of what the manifest lists
    if not may():
        return False
    put(part / "manifest.json", [json.dumps(manifest, indent=2).encode()])
    _sync(part)
    _name(part, place)
    return True


def _name(part: Path, place: Path) -> None:
    if not part.exists() and (place / "manifest.json").exists():
        return  # a later start has met it, whole, and named it
    if place.exists():
        _delete(place)  # left by a run that went on from an earlier step; the new one is complete by now
    os.rename(part, place)
    _sync(place.parent)


def put(file: Path, pieces: Iterable[bytes | memoryview]) -> dict[str, Any]:
    """Write a file to the disk, hashed on the way; its line of the manifest. It is its folder that appears whole."""
    total, length = hashlib.sha256(), 0
    with file.open("wb") as out:
        for piece in pieces:
            out.write(piece)
            total.update(piece)
            length += len(piece)
        out.flush()
        os.fsync(out.fileno())
    return {"name": file.name, "bytes": length, "sha256": total.hexdigest()}


def _sync(folder: Path) -> None:
    """Have the names in a folder on the disk."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def complete(run: Path) -> list[Path]:
    """The checkpoints of a run that have a manifest, the newest first; damaged or not. A person's copies are none."""
    found = sorted((run / "checkpoints").glob("step_*"), reverse=True)
    return [f for f in found if f.name.removeprefix("step_").isdecimal() and (f / "manifest.json").exists()]


def step_of(folder: Path) -> int:
    """The step of a checkpoint that `complete` has found."""
    return int(folder.name.removeprefix("step_"))


def newest(run: Path, *, but: Collection[Path] = ()) -> tuple[Path | None, list[Damaged]]:
    """The newest checkpoint of a run, whole by its sizes, not in `but`; and the damaged ones passed over to find it.

    TooNew where another program's form is met.

    A folder without a manifest is no damage: a save or a deletion was killed in it, and nothing counted on it.
    """
    passed: list[Damaged] = []
    for folder in complete(run):
        if folder in but:
            continue
        try:
            manifest(folder)
            return folder, passed
        except TooNew:
            raise
        except CheckpointError as error:
            passed.append(Damaged(folder, str(error)))
        except OSError as error:  # as good as damaged: a disk that cannot read it
            passed.append(Damaged(folder, f"{folder}: {error.strerror}; use another step"))
    return None, passed


def set_aside(folder: Path) -> Path:
    """Give a damaged checkpoint a name by which it is not taken again; where it is now."""
    aside = folder.with_name(f"{folder.name}.damaged")
    if aside.exists():
        shutil.rmtree(aside)
    os.rename(folder, aside)
    return aside


def listed(folder: Path) -> dict[str, tuple[int, str]]:
    """File name -> (bytes, sha256), as manifest.json has it."""
    try:
        said = json.loads((folder / "manifest.json").read_text())
        version, files = said["version"], {name: (f["bytes"], f["sha256"]) for name, f in said["files"].items()}
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: not complete (no manifest.json); use another step") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{folder}: manifest.json is damaged; use another step") from None
    if version not in _READS:
        raise TooNew(
            f"{folder}: written in version {version}, this fer_scale reads {_READS[-1]} at most; install a newer one"
        )
    return files


def manifest(folder: Path) -> dict[str, str]:
    """File name -> sha256, once every file is there in its length."""
    files = listed(folder)
    for name, (length, _) in files.items():
        size = (folder / name).stat().st_size if (folder / name).is_file() else -1
        if size != length:
            raise CheckpointError(f"{folder / name}: {size} bytes, not {length}; use another step")
    if extra := foreign(folder, files):
        raise CheckpointError(f"{folder}: {', '.join(extra)} is not in its manifest; use another step")
    return {name: sha256 for name, (_, sha256) in files.items()}


def foreign(folder: Path, files: Collection[str]) -> list[str]:
    """State files that a manifest's `files` lack: of another save. What else lies there, as notes, does no harm."""
    return sorted(file.name for file in folder.glob("state-*") if file.name not in files)


def read_file(folder: Path, name: str, sha256: str) -> bytes:
    """One file's bytes, checked against the manifest."""
    data = (folder / name).read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise CheckpointError(f"{folder / name}: damaged (another sha256 than its manifest's); use another step")
    return data


def progress_of(folder: Path) -> dict[str, Any]:
    """progress.json of a complete checkpoint; CheckpointError where the folder has the name of another step."""
    progress = json.loads(read_file(folder, "progress.json", _sha256(folder, "progress.json")))
    if folder.name.startswith("step_") and folder.name != folder_of(folder, progress["step"]).name:
        raise CheckpointError(f"{folder}: holds step {progress['step']}, so it was renamed; use another step")
    return progress


def state_files(folder: Path) -> list[str]:
    return sorted(name for name in manifest(folder) if name.startswith("state-"))


def read_state(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of one state file."""
    return load(read_file(folder, name, _sha256(folder, name)))


def _sha256(folder: Path, name: str) -> str:
    files = manifest(folder)
    if name not in files:
        raise CheckpointError(f"{folder}: manifest.json does not list {name}; use another step")
    return files[name]


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors and the progress of a checkpoint, every byte checked; for one process."""
    state: dict[str, Tensor] = {}
    for name in state_files(folder):
        state |= read_state(folder, name)
    return state, progress_of(folder)


def prune(run: Path, keep: int, keep_every_steps: int | None = None, but: Collection[int] = ()) -> None:
    """Delete all but the newest `keep` whole checkpoints, what is `for_good` by `keep_every_steps`, and steps in `but`.

    Nothing is deleted while the newest is not whole: those before it may be all that there is.
    """
    found, damaged = newest(run)
    steps = {folder: step_of(folder) for folder in complete(run)}
    stay = {*but} | (for_good(steps.values(), keep_every_steps) if keep_every_steps else set())
    for folder in list(steps)[keep:] if found and not damaged else ():
        if steps[folder] not in stay:
            with suppress(OSError):  # somebody reads it: the save counts all the same, and `sweep` has what is left
                _delete(folder)


def for_good(steps: Iterable[int], every: int) -> set[int]:
    """The first of these steps at or after each multiple of `every`: a save may come late, as a stop may come early."""
    first: dict[int, int] = {}
    for step in sorted(steps):
        first.setdefault(step // every, step)
    return {step for multiple, step in first.items() if multiple}


def sweep(run: Path) -> None:
    """Delete what killed saves and killed deletions have left: nothing that ever counted.

    A save that was killed with all written but its name gets the name.
    """
    for folder in sorted((run / "checkpoints").glob("step_*")):
        if folder.suffix == ".part" and _is_whole(folder):
            _name(folder, folder.with_name(folder.name.partition(".")[0]))
        elif folder.suffix == ".part" or not (folder.suffix or (folder / "manifest.json").exists()):
            shutil.rmtree(folder, ignore_errors=True)


def _is_whole(folder: Path) -> bool:
    """By its sizes."""
    try:
        return bool(manifest(folder))
    except (CheckpointError, OSError):
        return False


def _delete(folder: Path) -> None:
    """Its manifest first: half a deletion is then an incomplete checkpoint, not a damaged one."""
    (folder / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(folder)
