"""The training state, from a portable checkpoint to all ranks (saving.py has the way there, checkpoint.py the form)."""

from pathlib import Path
from typing import Any

from torch import Tensor

from fer_scale import checkpoint
from fer_scale.checkpoint import CheckpointError
from fer_scale.pretrain.world import World
from shards.errors import UserError


def load(folder: Path, world: World, readers: list[int]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors on every rank, and the progress. Each file is read and hashed once, by one rank, then broadcast.

    CheckpointError on all ranks where one of the `readers`, ranks that see the folder, finds damage.
    """
    files, progress = world.tell(_listing(folder) if world.is_main else None)
    if isinstance(files, str):
        raise CheckpointError(files)
    state: dict[str, Tensor] = {}
    for number, name in enumerate(files):
        owner = readers[number % len(readers)]
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
