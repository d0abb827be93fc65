"""The one portable checkpoint: whole tensors by name, no pickle, readable by any number of ranks at any ZeRO stage.

    step_00012000/
        state-00-of-02.safetensors   w.NAME m.NAME v.NAME   a trained parameter (fp32) and Adam's two moments
        state-01-of-02.safetensors   f.NAME                 a frozen parameter (sine-cosine positions)
                                     b.NAME                 a persistent buffer
        progress.json                what the loop must remember; adam_step is smaller than step by the skipped steps
        manifest.json                names, bytes and sha256; written last

Complete means a manifest that verifies. The rename from `.part` is cosmetic: object-store mounts cannot rename.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from shards.errors import UserError

VERSION = 1


class CheckpointError(UserError):
    """A checkpoint that is damaged, or that belongs to another run."""


def folder_of(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step_{step:08d}"


def write_part(folder: Path, writer: int, writers: int, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Write one writer's tensors; its line of the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"state-{writer:02d}-of-{writers:02d}.safetensors"
    return _put(folder / name, save(tensors, metadata={"format": "pt"}))


def finish(part: Path, place: Path, files: list[dict[str, Any]], progress: dict[str, Any]) -> None:
    """Write progress and, last, the manifest; then give the folder its name."""
    files = [*files, _put(part / "progress.json", json.dumps(progress, indent=2).encode())]
    manifest = {"version": VERSION, "files": {f["name"]: {"bytes": f["bytes"], "sha256": f["sha256"]} for f in files}}
    _put(part / "manifest.json", json.dumps(manifest, indent=2).encode())
    if place.exists():
        _delete(place)  # left by a run that went on from an earlier step; the new one is complete by now
    os.rename(part, place)


def _put(file: Path, data: bytes) -> dict[str, Any]:
    with file.open("wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    return {"name": file.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def newest(run: Path, *, verify: bool = False) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint of a run, and a line for each damaged one that was passed over to find it.

    Whole by its sizes; with `verify` by its hashes too, as a run that goes on needs it: it must not meet the same
    damage at every start. `publish` does without, and refuses a damaged one rather than publish an older step.

    A folder without a manifest is no damage: a save or a deletion was killed in it, and nothing counted on it.
    """
    passed: list[str] = []
    for folder in sorted((run / "checkpoints").glob("step_*"), reverse=True):
        if folder.suffix == ".part" or not (folder / "manifest.json").exists():
            continue
        try:
            files = manifest(folder)
            for name, sha256 in files.items() if verify else ():
                with (folder / name).open("rb") as file:
                    _same(folder / name, hashlib.file_digest(file, "sha256").hexdigest(), sha256)
            return folder, passed
        except CheckpointError as error:
            passed.append(str(error))
        except OSError as error:  # as good as damaged: a disk that cannot read it
            passed.append(f"{folder}: {error.strerror}; use another step")
    return None, passed


def listed(folder: Path) -> dict[str, tuple[int, str]]:
    """File name -> (bytes, sha256), as manifest.json has it."""
    try:
        said = json.loads((folder / "manifest.json").read_text())
        version, files = said["version"], {name: (f["bytes"], f["sha256"]) for name, f in said["files"].items()}
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: not complete (no manifest.json); use another step") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{folder}: manifest.json is damaged; use another step") from None
    if version != VERSION:
        raise CheckpointError(f"{folder}: written in version {version}, this one reads {VERSION}")
    return files


def manifest(folder: Path) -> dict[str, str]:
    """File name -> sha256, once every file is there in its length."""
    files = listed(folder)
    for name, (length, _) in files.items():
        size = (folder / name).stat().st_size if (folder / name).is_file() else -1
        if size != length:
            raise CheckpointError(f"{folder / name}: {size} bytes, not {length}; use another step")
    return {name: sha256 for name, (_, sha256) in files.items()}


def read_file(folder: Path, name: str, sha256: str) -> bytes:
    """One file's bytes, checked against the manifest."""
    data = (folder / name).read_bytes()
    _same(folder / name, hashlib.sha256(data).hexdigest(), sha256)
    return data


def _same(file: Path, sha256: str, listed: str) -> None:
    if sha256 != listed:
        raise CheckpointError(f"{file}: damaged (another sha256 than its manifest's); use another step")


def progress_of(folder: Path) -> dict[str, Any]:
    """progress.json of a complete checkpoint."""
    return json.loads(read_file(folder, "progress.json", _sha256(folder, "progress.json")))


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


def prune(run: Path, keep: int, keep_every_steps: int | None = None) -> None:
    """Delete all but the newest `keep` complete checkpoints; every `keep_every_steps`-th step stays."""
    complete = sorted(
        f for f in (run / "checkpoints").glob("step_*") if (f / "manifest.json").exists() and not f.suffix
    )
    for folder in complete[: -keep or None]:
        step = int(folder.name.removeprefix("step_"))
        if not (keep_every_steps and step % keep_every_steps == 0):
            _delete(folder)


def _delete(folder: Path) -> None:
    """Its manifest first: half a deletion is then an incomplete checkpoint, not a damaged one."""
    (folder / "manifest.json").unlink(missing_ok=True)
    shutil.rmtree(folder)
