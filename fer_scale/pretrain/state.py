"""The training state, from all ranks to one portable checkpoint and back (fer_scale/checkpoint.py holds the form)."""

import shutil
from pathlib import Path
from typing import Any

from torch import Tensor

from fer_scale import checkpoint
from fer_scale.checkpoint import CheckpointError
from fer_scale.pretrain.engine import Engine
from fer_scale.pretrain.world import World
from shards.errors import UserError

_MOST_WRITERS = 16
_WORTH_A_WRITER = 256 << 20  # bytes


def save(engine: Engine, world: World, run: Path, progress: dict[str, Any], keep: int, keep_every: int | None) -> Path:
    """The checkpoint's folder, complete on disk. All ranks must call it: each tensor is gathered from all of them."""
    place = checkpoint.folder_of(run, progress["step"])
    part = place.with_suffix(".part")
    writers = min(world.ranks, most_writers(engine.numel))
    problem = ""
    if world.is_main and part.exists():
        shutil.rmtree(part)  # a save that was killed
    world.agree(0)

    loads, mine = [0] * writers, {}
    for name, get in engine.tensors():
        tensor = get()
        writer = loads.index(min(loads))  # dealt by bytes
        loads[writer] += tensor.numel() * tensor.element_size()
        if writer == world.rank:
            mine[name] = tensor.detach().to("cpu", copy=True).contiguous()
    written = None
    try:
        if world.rank < writers:
            written = checkpoint.write_part(part, world.rank, writers, mine)
    except OSError as error:
        problem = f"{part}: {error}"
    everything = world.collect((written, problem))
    problems = [text for _, text in everything if text]
    if world.is_main and not problems:
        try:
            files = [line for line, _ in everything if line]
            checkpoint.finish(part, place, files, progress | {"adam_step": engine.adam_step})
            checkpoint.prune(run, keep, keep_every)
        except OSError as error:
            problems = [f"{part}: {error}"]
    problems = world.tell(problems)
    if problems:
        raise CheckpointError(
            f"{problems[0]}; free space and start the run again: the checkpoint before this one is whole"
        )
    return place


def most_writers(numel: int) -> int:
    """How many ranks, from rank 0 on, write a share each of a state of so many weights, where there are as many."""
    return max(1, min(_MOST_WRITERS, 12 * numel // _WORTH_A_WRITER))


def load(folder: Path, world: World) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors on every rank, and the progress. Each file is read and hashed once, by one rank, then broadcast."""
    files, progress = world.tell(_listing(folder) if world.is_main else None)
    if isinstance(files, str):
        raise CheckpointError(files)
    state: dict[str, Tensor] = {}
    for number, name in enumerate(files):
        owner = number % world.ranks
        tensors, shapes, problem = {}, None, ""
        if world.rank == owner:
            try:
                tensors = checkpoint.read_state(folder, name)
                shapes = [(key, tuple(value.shape), value.dtype) for key, value in tensors.items()]
            except (UserError, OSError) as error:
                problem = str(error)
        shapes, problem = world.tell((shapes, problem), of=owner)
        if problem:
            raise CheckpointError(problem)
        for key, shape, dtype in shapes or ():
            tensor = tensors[key] if world.rank == owner else Tensor(0).to(dtype).new_empty(shape)
            state[key] = world.broadcast(tensor, of=owner)
    return state, progress


def _listing(folder: Path) -> tuple[list[str] | str, dict[str, Any]]:
    try:
        return checkpoint.state_files(folder), checkpoint.progress_of(folder)
    except (UserError, OSError) as error:
        return str(error), {}
