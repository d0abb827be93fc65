"""What a machine does to a run, in one line that names host and rank, and whether the same command again may help."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from fer_scale.pretrain import setup, world
from fer_scale.pretrain.recipe import Pretrain
from fer_scale.pretrain.world import World
from shards.errors import Broken, UserError

# Of the file system: somebody must make room or give a right; the others may pass, or another host does better.
_LOOK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM)
_PASS = (errno.EIO, errno.ESTALE, errno.ENOENT, errno.EREMOTEIO, errno.ETIMEDOUT)


@contextmanager
def in_words(rec: Pretrain, us: World) -> Iterator[None]:
    """What is raised inside, with host and rank; a UserError where a machine is to blame."""
    try:
        yield
    except OSError as error:
        if error.errno not in (*_LOOK, *_PASS):
            raise
        kind = UserError if needs_somebody(error) else Broken
        place = error.filename or "a file"
        raise kind(f"{us.name}: {place}: {error.strerror}; nothing that was saved is lost") from error
    except (RuntimeError, MemoryError) as error:
        if told := _told(error, rec, us):
            raise told from error
        raise
    except UserError as error:
        if us.ranks > 1 and us.name not in str(error):
            error.args = (f"{us.name}: {error}",)
        raise


def needs_somebody(error: Exception) -> bool:
    """Whether it comes again until somebody makes room, or gives a right."""
    return isinstance(error, OSError) and error.errno in _LOOK


def _told(error: RuntimeError | MemoryError, rec: Pretrain, us: World) -> UserError | None:
    """In words what torch raises for want of memory, of a reader or of a peer; None for our own bugs."""
    if setup.out_of_memory(error):
        return UserError(
            f"{us.name}: out of memory with batch.micro = {rec.batch.micro}: a smaller one changes the layout "
            f"only, and so does run.recompute=true; `fer-scale check RECIPE --try` finds the largest that fits\n{error}"
        )
    if "DataLoader worker" in str(error):
        return Broken(
            f"{us.name}: a reader process was killed, as the system does when memory runs out; if it happens again, "
            f"take fewer data.workers (now {rec.data.workers}) or ask for more memory\n{error}"
        )
    if world.lost_peer(error):
        return Broken(
            f"{us.name} lost another rank, which died, hangs or cannot be reached; the ends of its own log and of the "
            f"others' say more: {rec.run.out / 'attempts'}\n{str(error).splitlines()[0]}"
        )
    return None
