"""Where the lines of metrics.jsonl are drawn as well, as they come: TensorBoard and W&B, each an extra.

Of what a run knows they get numbers by name and step, and W&B the name of the run folder: no recipe, no addresses, no
host, none of what the run says on its terminal. W&B adds the versions of Python and its packages, and the platform.
The token of W&B (WANDB_API_KEY, or `wandb login`) is read by W&B alone.
"""

import secrets
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from fer_scale import disk
from shards.errors import UserError


class Board(Protocol):
    def draw(self, step: int, numbers: dict[str, float]) -> None: ...


def scalars(row: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of a row by name; one in an object has the name `object/name`."""
    for name, value in row.items():
        if isinstance(value, dict):
            yield from scalars(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield f"{prefix}{name}", value


class TensorBoard:
    def __init__(self, folder: Path):
        """Files for it in `folder`/tensorboard."""
        try:
            from torch.utils.tensorboard import SummaryWriter  # an extra; only where it is asked for
        except ImportError:
            raise UserError("run.tensorboard: needs TensorBoard: pip install tensorboard") from None
        self._open = partial(SummaryWriter, folder / "tensorboard")
        self._writer: Any = None

    def draw(self, step: int, numbers: dict[str, float]) -> None:
        if self._writer is None:  # a resumed run computes steps again that are drawn already: these are taken back
            self._writer = self._open(purge_step=step)
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)


class WandB:
    def __init__(self, folder: Path, project: str):
        """A run of the W&B project; one of `folder` that is there already goes on.

        W&B ignores a step below one that it has: what a resumed run computes again, it has already.
        """
        try:
            import wandb  # an extra; only where it is asked for
        except ImportError:
            raise UserError("run.wandb: needs W&B: pip install wandb") from None
        settings = wandb.Settings(
            console="off",
            disable_code=True,
            disable_git=True,
            host="unsaid",
            x_disable_machine_info=True,
            x_disable_meta=True,
            x_disable_stats=True,
        )
        where: dict[str, Any] = {"project": project, "id": _id(folder), "name": folder.name, "dir": str(folder)}
        self._failures = (wandb.Error, OSError)
        try:
            self._run: Any = wandb.init(**where, resume="allow", reinit="create_new", settings=settings)
        except self._failures as error:
            raise UserError(
                f"run.wandb: W&B says: {error}\n"
                "see to it, or write for a later `wandb sync` with WANDB_MODE=offline, or leave it out with run.wandb="
            ) from None

    def draw(self, step: int, numbers: dict[str, float]) -> None:
        try:
            if self._run is not None:
                self._run.log(numbers, step=step)
        except self._failures as error:  # its process is gone, as after a kill for memory: no reason to end a run
            self._run = None
            print(f"W&B gets nothing more from step {step} on: {error}", file=sys.stderr)


def _id(folder: Path) -> str:
    """By which W&B knows the run of this folder: drawn once, in `folder`/wandb/id."""
    file = folder / "wandb/id"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        disk.put(file, secrets.token_hex(8))
    return file.read_text()
