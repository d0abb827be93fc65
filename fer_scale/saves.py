"""What both loops say of saving: that the disk has no room for it, why it failed, that it was slow."""

import shutil
from pathlib import Path

from fer_scale import checkpoint, disk, log
from fer_scale.checkpoint import CheckpointError, NotSaved


def refuse_to_begin(run: Path, size: int, most: int) -> None:
    """CheckpointError where the disk cannot take the `most` checkpoints of `size` bytes that lie there at one time."""
    refuse_without_room(run, size, max(1, most - len(checkpoint.complete(run))))


def refuse_without_room(run: Path, size: int, count: int = 1) -> None:
    """CheckpointError where the disk cannot take `count` more checkpoints of `size` bytes."""
    space = shutil.disk_usage(run)
    if count * size > space.free and space.total:  # some mounts do not say
        raise CheckpointError(
            f"{run}: {log.size(space.free)} are free, and {log.plural(count, 'checkpoint')} of {log.size(size)} "
            f"{'is' if count == 1 else 'are'} to be written: make room, or use another disk for run.out"
        )


def not_saved(name: str, part: Path, error: Exception) -> CheckpointError:
    """What to raise where process `name` could not write the checkpoint `part` because of `error`."""
    look = disk.needs_somebody(error)
    why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    hint = "free space and start the run again" if look else "the same command goes on from it"
    kind = CheckpointError if look else NotSaved
    return kind(f"{name}: {part}: {why}; the checkpoint before this one is whole: {hint}")


def say_if_slow(seconds: float, grace_s: float) -> None:
    """For the main process."""
    if seconds > grace_s:
        log.say(f"the save took {seconds:.0f} s, more than run.grace_s = {grace_s:g}: a stop may be cut short")
