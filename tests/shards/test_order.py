"""The order: literal values that must never change, and what holds for any set, batch and number of ranks."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import ShardError
from shards.order import Order, Slots, absorb, bits, key, mix, permutation, share, uniform

COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=12).filter(lambda counts: sum(counts) > 0)
SETTINGS = st.fixed_dictionaries(
    {
        "seed": st.integers(-(2**70), 2**70),
        "batch": st.integers(1, 100),
        "lanes": st.integers(1, 70),
        "window_shards": st.integers(1, 4),
        "lanes_fixed": st.booleans(),
    }
)

MIX = [0, 6238072747940578789, 13029008266876403067]
KEYS = [
    11400714819323198485,
    7960286522194355700,
    16834447057089888969,
    6728581669027343264,
    9171199645645008479,
    13029008266876403067,
    16834447057089888969,
]
BITS = [[11553561497916274123, 11191561024196579362]]
UNIFORM = [[0.6263198237992851, 0.6066957387969014], [0.5703073404190709, 0.2666757358681314]]
PERMUTATION = [3, 0, 6, 7, 1, 9, 8, 5, 2, 4]
PLAIN = [(3, 9), (3, 11), (0, 7), (2, 6), (3, 10), (0, 6), (2, 2), (3, 1)]
FIXED = [(0, 0), (3, 10), (2, 0), (0, 4), (2, 3), (2, 4), (3, 6), (3, 8), (0, 4), (0, 6), (3, 1), (3, 3)]
FIXED_KEYS = [16986835464350425915, 10158392471870282058]
UPCOMING = [[3, 2], [3, 2, 0, 4, 1], [2, 4]]


def pairs(slots: Slots) -> list[tuple[int, int]]:
    return list(zip(slots.shard.tolist(), slots.row.tolist(), strict=True))


def same(one: Slots, other: Slots) -> bool:
    names = ("shard", "row", "epoch", "lane", "position", "key")
    return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in names)


def test_hashes_are_frozen() -> None:
    """Whoever resumes a run with a later release must get the same order: these numbers may never change."""
    assert mix(np.array([0, 1, 2**64 - 1], np.uint64)).tolist() == MIX
    assert [key(), key(0), key(1), key(0, 1), key(1, 0), key(-1), key(2**64 + 1)] == KEYS
    assert bits(np.array([7], np.uint64), 3, 2).tolist() == BITS
    assert uniform(np.array([7, 8], np.uint64), 3, 2).tolist() == UNIFORM
    assert permutation(key(5), 10).tolist() == PERMUTATION


def test_orders_are_frozen() -> None:
    plain = Order([10, 0, 7, 13], seed=3, batch=4)
    assert pairs(plain.slots(0, 0, 4)) + pairs(plain.slots(9, 0, 4)) == PLAIN
    fixed = Order([10, 0, 7, 13], seed=3, batch=6, lanes=3, window_shards=2, lanes_fixed=True)
    assert pairs(fixed.slots(0, 0, 6)) + pairs(fixed.slots(7, 0, 6)) == FIXED
    assert fixed.slots(7, 4, 6).key.tolist() == FIXED_KEYS


def test_mix_is_splitmix64() -> None:
    """The first outputs of the public reference generator (Vigna's splitmix64.c) seeded with 1234567."""
    counter = np.arange(1, 6, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(1234567)
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert mix(counter).tolist() == expected


@given(COUNTS, SETTINGS)
@settings(max_examples=60, deadline=None)
def test_every_sample_comes_exactly_once_an_epoch_but_for_fewer_than_c(counts: list[int], how: dict[str, int]) -> None:
    order = Order(counts, **how)  # type: ignore[arg-type]
    epochs = 3
    steps = -(-epochs * order.samples_per_epoch // order.batch)
    seen: dict[int, Counter[tuple[int, int]]] = {}
    for step in range(steps):
        slots = order.slots(step, 0, order.batch)
        for epoch, place in zip(slots.epoch.tolist(), pairs(slots), strict=True):
            seen.setdefault(epoch, Counter())[place] += 1
    everything = {(shard, row) for shard, count in enumerate(counts) for row in range(count)}
    for epoch in range(epochs):
        assert set(seen[epoch].values()) == {1}
        assert set(seen[epoch]) <= everything
        assert len(seen[epoch]) == order.samples_per_epoch > sum(counts) - order.lanes


@given(COUNTS, SETTINGS, st.integers(0, 60))
@settings(max_examples=30, deadline=None)
def test_a_seek_finds_what_a_walk_finds(counts: list[int], how: dict[str, int], step: int) -> None:
    walker = Order(counts, **how)  # type: ignore[arg-type]
    for passed in range(step):
        walker.slots(passed, 0, walker.batch)
    seeker = Order(counts, **how)  # type: ignore[arg-type]
    assert same(walker.slots(step, 0, walker.batch), seeker.slots(step, 0, seeker.batch))


@given(COUNTS, SETTINGS, st.integers(0, 60), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_the_ranks_shares_together_are_the_global_batch(
    counts: list[int], how: dict[str, int], step: int, ranks: int
) -> None:
    whole = pairs(Order(counts, **how).slots(step, 0, how["batch"]))  # type: ignore[arg-type]
    shares = [share(rank, ranks, how["batch"]) for rank in range(ranks)]
    order = Order(counts, **how)  # type: ignore[arg-type]
    assert [place for part in shares for place in pairs(order.slots(step, part.start, part.stop))] == whole
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(COUNTS, SETTINGS)
@settings(max_examples=25, deadline=None)
def test_lanes_are_the_most_that_divide_the_batch_and_positions_follow_each_other(
    counts: list[int], how: dict[str, int]
) -> None:
    order = Order(counts, **how)  # type: ignore[arg-type]
    most = min(how["lanes"], how["batch"], sum(counts))
    assert order.lanes == max(c for c in range(1, most + 1) if how["batch"] % c == 0)
    assert order.lane_length == sum(counts) // order.lanes
    per_lane = order.batch // order.lanes
    slots = order.slots(5, 0, order.batch)
    place = slots.epoch * order.lane_length + slots.position
    assert slots.lane.tolist() == [slot // per_lane for slot in range(order.batch)]
    assert place.tolist() == [5 * per_lane + slot % per_lane for slot in range(order.batch)]


def test_a_batch_crosses_the_end_of_an_epoch() -> None:
    order = Order([25], seed=0, batch=4, lanes=2)
    assert order.lane_length == 12 and order.slots(5, 0, 4).epoch.tolist() == [0, 0, 0, 0]
    order = Order([22], seed=0, batch=4, lanes=2)
    slots = order.slots(5, 0, 4)
    assert slots.epoch.tolist() == [0, 1, 0, 1] and slots.position.tolist() == [10, 0, 10, 0]


def test_a_key_is_the_hash_of_seed_epoch_lane_and_position_and_no_two_are_equal() -> None:
    order = Order([100, 50], seed=11, batch=10, lanes=5)
    slots = order.slots(40, 0, 10)
    expected = [
        key(11, *place)
        for place in zip(slots.epoch.tolist(), slots.lane.tolist(), slots.position.tolist(), strict=True)
    ]
    assert slots.key.tolist() == expected
    keys = np.concatenate([order.slots(step, 0, 10).key for step in range(45)])
    assert len(np.unique(keys)) == 450


def test_another_batch_size_leaves_each_sample_its_draws() -> None:
    def keyed(batch: int) -> dict[int, tuple[int, int]]:
        order = Order([60, 60], seed=1, batch=batch, lanes=4)
        slots = [order.slots(step, 0, batch) for step in range(120 // batch)]
        return {k: place for s in slots for k, place in zip(s.key.tolist(), pairs(s), strict=True)}

    assert keyed(4) == keyed(12) == keyed(40)


def test_epochs_and_seeds_differ() -> None:
    def epoch(number: int, seed: int) -> list[tuple[int, int]]:
        order = Order([50] * 8, seed=seed, batch=40)
        return [place for step in range(10) for place in pairs(order.slots(number * 10 + step, 0, 40))]

    assert sorted(epoch(0, 0)) == sorted(epoch(1, 0)) == sorted(epoch(0, 1))
    assert epoch(0, 0) != epoch(1, 0) != epoch(0, 1)


def test_what_is_left_out_changes_from_epoch_to_epoch_even_in_one_shard() -> None:
    order = Order([127], seed=0, batch=64)
    seen = [set(pairs(order.slots(epoch, 0, 64))) for epoch in range(8)]
    assert order.samples_per_epoch == 64 and len(set().union(*seen)) == 127


def test_fixed_lanes_keep_their_shards_and_permute_inside() -> None:
    order = Order([40] * 16, seed=2, batch=4, lanes=4, lanes_fixed=True)
    epochs = [[order.slots(epoch * 160 + step, 0, 4) for step in range(160)] for epoch in range(6)]
    for lane in range(4):
        shards = [{int(slots.shard[lane]) for slots in epoch} for epoch in epochs]
        inside = set.intersection(*shards)
        assert len(inside) >= 3 and all(len(each - inside) <= 3 for each in shards)
    rows = [[int(slots.row[0]) for slots in epoch] for epoch in epochs]
    assert len({tuple(each) for each in rows}) == 6


def test_a_lane_starts_with_one_shard_and_then_mixes_as_many_as_the_window_has() -> None:
    order = Order([30] * 12, seed=0, batch=1, lanes=1, window_shards=4)
    shards = [int(order.slots(step, 0, 1).shard[0]) for step in range(360)]
    first = shards.index(next(shard for shard in shards if shard != shards[0]))
    assert first <= 30
    assert len(set(shards[first : first + 120])) == 4


def test_steps_are_whole_and_exact_for_decimal_epochs() -> None:
    order = Order([1000], seed=0, batch=64)  # 15 samples in each of 64 lanes
    assert (order.samples_per_epoch, order.steps(1), order.steps(2.5)) == (960, 15, 37)
    assert Order([100], seed=0, batch=1, lanes=1).steps(0.29) == 29  # int(0.29 * 100) is 28
    assert Order([25], seed=0, batch=4, lanes=2).epochs(9) == [1.5]  # a sample is left out


def test_there_are_64_lanes_at_the_most_unless_more_are_asked_for() -> None:
    assert [Order([1000], seed=0, batch=batch).lanes for batch in (64, 128, 130)] == [64, 64, 26]  # 130 is 2 * 65
    assert Order([1000], seed=0, batch=130, lanes=65).lanes == 65


def test_one_sample_is_a_set() -> None:
    assert pairs(Order([0, 1], seed=0, batch=3).slots(5, 0, 3)) == [(1, 0)] * 3


def test_draws_are_uniform_and_streams_independent() -> None:
    keys = absorb(np.full(1, key(9), np.uint64), np.arange(20000, dtype=np.uint64))
    one, other = uniform(keys, 0, 3), uniform(keys, 1, 3)
    assert one.shape == (20000, 3) and 0 <= one.min() and one.max() < 1
    assert np.abs(one.mean(axis=0) - 0.5).max() < 0.01 and np.abs(one.var(axis=0) - 1 / 12).max() < 0.002
    assert np.abs(np.corrcoef(np.concatenate([one, other], axis=1).T) - np.eye(6)).max() < 0.03


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"lanes": 0}, {"window_shards": 0}])
def test_numbers_below_one_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ShardError, match="must be at least 1"):
        Order([5], **({"seed": 0, "batch": 4} | wrong))  # type: ignore[arg-type]


def test_a_set_without_samples_has_no_order() -> None:
    with pytest.raises(ShardError, match="no samples"):
        Order([0, 0], seed=0, batch=4)


# ---- what comes next


def test_upcoming_shards_are_as_they_were() -> None:
    order = Order([7, 5, 9, 4, 6], seed=3, batch=4, lanes=2)
    assert order.upcoming(0, 2, 0, 4) == UPCOMING[0]
    assert order.upcoming(0, 8, 0, 4) == UPCOMING[1]
    assert order.upcoming(2, 3, 2, 4) == UPCOMING[2]


def test_an_empty_shard_is_never_waited_for() -> None:
    for seed in range(8):
        found = Order([5, 0, 7, 0, 6], seed=seed, batch=2, lanes=1, window_shards=2).upcoming(0, 9, 0, 2)
        assert sorted(found) == [0, 2, 4]


def test_a_shard_that_has_been_read_is_not_waited_for() -> None:
    order = Order([3, 4, 5], seed=1, batch=1, lanes=1, window_shards=1)
    for step in range(30):
        assert order.upcoming(step, 1, 0, 1) == order.slots(step, 0, 1).shard.tolist()


@given(
    counts=COUNTS,
    how=SETTINGS,
    step=st.integers(0, 200),
    steps=st.integers(1, 20),
    cut=st.tuples(*[st.floats(0, 1)] * 2),
)
@settings(deadline=None)
def test_what_is_read_is_upcoming_and_what_is_needed_first_stands_first(
    counts: list[int], how: dict[str, int], step: int, steps: int, cut: tuple[float, float]
) -> None:
    order = Order(counts, **how)  # type: ignore[arg-type]
    start, stop = sorted(int(where * (how["batch"] - 1)) for where in cut)
    stop += 1
    first: dict[int, int] = {}
    for now in range(step, step + steps):
        for shard in order.slots(now, start, stop).shard.tolist():
            first.setdefault(shard, now)
    upcoming = order.upcoming(step, steps, start, stop)
    assert set(first) <= set(upcoming)
    assert len(upcoming) == len(set(upcoming))
    per_lane = how["batch"] // order.lanes
    if how["window_shards"] == 1 and start % per_lane == stop % per_lane == 0:
        assert [first[shard] for shard in upcoming] == sorted(first.values())


def test_looking_ahead_names_the_next_shards_of_each_lane_and_no_others() -> None:
    """A rank of eight that looks ahead over two windows of each of its eight lanes."""
    order = Order([2500] * 17_000, seed=0, batch=4096, lanes=64)
    found = order.upcoming(1000, 80, 0, 512)
    assert 8 * 2 <= len(found) <= 8 * 4
