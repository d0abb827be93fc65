"""Who computes which images: partners together, each slot once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_scale.config import ConfigError
from fer_scale.finetune.pairs import parts


@given(batch=st.integers(2, 200), ranks=st.integers(1, 9), micro=st.integers(2, 70))
def test_every_slot_comes_once_and_with_its_partner_mirrored_in_its_part(batch: int, ranks: int, micro: int) -> None:
    if (batch + 1) // 2 < ranks:
        return
    seen: list[int] = []
    for rank in range(ranks):
        mine = parts(batch, rank=rank, ranks=ranks, micro=micro)
        assert mine
        for part in mine:
            assert len(part) <= micro
            assert np.array_equal(part[::-1], batch - 1 - part)
            seen += part.tolist()
    assert sorted(seen) == list(range(batch))


def test_too_many_processes_for_a_batch_is_an_error_that_says_so() -> None:
    with pytest.raises(ConfigError, match="4 images is 2 FaceMix pairs, too few for 3 processes"):
        parts(4, rank=0, ranks=3, micro=8)
