"""Who computes which images of a global batch, so that FaceMix's partners i and N - 1 - i are never parted.

The unit that is dealt is the pair, outermost first. A rank's part is the images a..b-1 and their partners
N-b..N-a-1: symmetric again, so that the part's own backward order is the partners' order.
"""

import numpy as np
from numpy.typing import NDArray

from fer_scale.config import ConfigError


def parts(batch: int, *, rank: int, ranks: int, micro: int) -> list[NDArray[np.int64]]:
    """The slots of the global batch for each forward pass of `rank`: symmetric parts of at most `micro` images.

    Over all ranks each slot comes exactly once. Ranks may hold one pair more or less and need not make equally many
    passes: gradients are summed over the ranks once a step, after the last of them.
    """
    pairs = (batch + 1) // 2
    if pairs < ranks:
        raise ConfigError(f"a batch of {batch} images is {pairs} FaceMix pairs, too few for {ranks} processes")
    start, stop = rank * pairs // ranks, (rank + 1) * pairs // ranks
    return [_symmetric(batch, a, min(a + micro // 2, stop)) for a in range(start, stop, micro // 2)]


def _symmetric(batch: int, a: int, b: int) -> NDArray[np.int64]:
    return np.unique(np.concatenate([np.arange(a, b), np.arange(batch - b, batch - a)]))
