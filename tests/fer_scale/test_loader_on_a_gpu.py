"""Batches on a GPU: those of the host, however late the GPU takes them."""

from pathlib import Path

import pytest
import torch

from fer_scale import loader
from fer_scale.loader import Faces
from fer_scale.readers import Slots
from shards.index import ShardSet
from shards.order import Order

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("workers", [0, 2])
def test_a_gpu_that_is_far_behind_gets_the_pixels_of_every_step(faces: Path, workers: int) -> None:
    table = Faces([ShardSet.open(faces)], slot_px=128)
    order = Order(table.counts, seed=3, batch=25)
    asked = {"start_step": 0, "stop_step": 40, "rank": 0, "ranks": 1, "accumulation": 2}
    there = []
    for batches in loader.batches(table, order, **asked, workers=workers, device=torch.device("cuda")):
        torch.cuda._sleep(20_000_000)  # some 10 ms: the host runs ahead of what is computed
        there += [batch.pixels * 1 for batch in batches]
    here = [b.pixels.clone() for batches in loader.batches(table, order, **asked, workers=0) for b in batches]
    assert len(there) == len(here) == 80
    assert all(torch.equal(a.cpu(), b) for a, b in zip(there, here, strict=True))


def test_slots_are_locked_for_the_gpu_and_unlocked_in_the_end() -> None:
    slots = Slots(3, (512, 1024))
    torch.zeros(1, device="cuda")
    assert not slots[0].is_pinned()
    assert slots.lock() == ""
    assert slots[2].is_pinned()
    del slots
    for _ in range(8):  # the same addresses, most likely: locked twice, they would be refused
        assert Slots(3, (512, 1024)).lock() == ""
