"""What a machine does to a run, in one line that names host and rank, and whether the same command again may help."""

from collections.abc import Iterator
from contextlib import contextmanager

from fer_scale import disk, memory
from fer_scale.pretrain import world
from fer_scale.pretrain.recipe import Pretrain
from fer_scale.pretrain.world import World
from shards.errors import Broken, UserError


@contextmanager
def in_words(rec: Pretrain, us: World) -> Iterator[None]:
    """What is raised inside, with host and rank; a UserError where a machine is to blame."""
    try:
        with disk.in_words(us.name):
            yield
    except (RuntimeError, MemoryError) as error:
        if told := _told(error, rec, us):
            raise told from error
        raise
    except UserError as error:
        if us.ranks > 1 and us.name not in str(error):
            error.args = (f"{us.name}: {error}",)
        raise


def _told(error: RuntimeError | MemoryError, rec: Pretrain, us: World) -> UserError | None:
    """In words what torch raises for want of memory, of a reader or of a peer; None for our own bugs."""
    if memory.is_short(error):
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
