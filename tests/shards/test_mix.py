"""Mixtures: literal values that must never change, and what holds for any sets, weights, batch and number of ranks."""

import itertools
import math
from collections import Counter
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shards.errors import ShardError
from shards.mix import Mix, Part, spread
from shards.order import Slots, key, share

COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=6)
WEIGHTS = st.one_of(st.integers(1, 9).map(Fraction), st.fractions(Fraction(1, 10), 4, max_denominator=997))

FIRST = [(2, 2), (3, 4), (2, 4), (2, 6), (4, 3), (0, 2), (4, 2), (0, 5)]
LATER = [(2, 6), (3, 2), (0, 0), (0, 3), (4, 5), (0, 6), (4, 4), (2, 1)]
LATER_LANES = [0, 0, 1, 2, 1, 3, 1, 4]
LATER_EPOCHS = [373333333, 240000000, 373333333, 373333333, 240000000, 373333333, 240000000, 373333333]
LATER_KEYS = [
    16284493192183101883,
    4526873010004934397,
    9359974604224499394,
    8897911498710166764,
    16649301627489951908,
    7499604239310282278,
    2696575973563208943,
    1589725772407889277,
]


Given = tuple[list[int], Fraction, int]  # counts of the shards, weight, shards in a window


@dataclass
class Case:
    """Some sets, and how they are mixed."""

    sets: list[Given]
    how: dict[str, Any]

    def mix(self) -> Mix:
        return Mix(parts(self.sets), **self.how)

    def share(self, number: int) -> Fraction:
        """Of a set in a batch, in images."""
        return self.how["batch"] * self.sets[number][1] / sum(weight for _, weight, _ in self.sets)


def parts(sets: list[Given]) -> list[Part]:
    return [Part(f"set {i}", 100 + i, *given) for i, given in enumerate(sets)]


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Sets of which each gives at least one image to a batch, and holds as many as it gives."""
    weights = draw(st.lists(WEIGHTS, min_size=1, max_size=5))
    batch = math.ceil(sum(weights) / min(weights)) + draw(st.integers(0, 60))
    sets = []
    for weight in weights:
        counts = draw(COUNTS)
        missing = math.ceil(batch * weight / sum(weights)) - sum(counts)
        sets.append((counts + [missing] * (missing > 0), weight, draw(st.integers(1, 3))))
    how = {"seed": draw(st.integers(0, 2**63)), "batch": batch}
    return Case(sets, how | {"lanes": draw(st.integers(1, 70)), "lanes_fixed": draw(st.booleans())})


def number_of(mix: Mix, slots: Slots) -> list[int]:
    """Which set each slot is of."""
    firsts = np.cumsum([len(order._counts) for order in mix.orders])
    return np.searchsorted(firsts, slots.shard, side="right").tolist()


def rows(mix: Mix, slots: Slots) -> list[tuple[int, ...]]:
    columns = (slots.shard, slots.row, slots.epoch, slots.lane, slots.position, slots.key)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def test_mixtures_are_frozen() -> None:
    """Whoever resumes a run with a later release must get the same order: these numbers may never change."""
    sets = [Part("a", 1, [10, 0, 7], Fraction("0.7")), Part("b", 2, [5, 6], Fraction("0.3"))]
    mix = Mix(sets, seed=3, batch=8)
    first, later = mix.slots(0, 0, 8), mix.slots(10**9, 0, 8)
    assert [row[:2] for row in rows(mix, first)] == FIRST
    assert [row[:2] for row in rows(mix, later)] == LATER
    assert later.lane.tolist() == LATER_LANES and later.epoch.tolist() == LATER_EPOCHS
    assert later.key.tolist() == LATER_KEYS


@given(cases(), st.one_of(st.integers(0, 50), st.integers(0, 10**12)))
@settings(max_examples=100, deadline=None)
def test_batches_are_full_and_after_any_step_each_set_has_given_its_share_to_within_one_image(
    case: Case, step: int
) -> None:
    mix = case.mix()
    before, after = mix._given(step), mix._given(step + 1)
    assert (after >= before).all() and after.sum() - before.sum() == mix.batch
    first = 0
    for number, order in enumerate(mix.orders):
        lanes, first = slice(first, first + order.lanes), first + order.lanes
        assert abs(sum(before[lanes].tolist()) - case.share(number) * step) < 1
        assert abs(sum((after - before)[lanes].tolist()) - case.share(number)) < 2


@given(cases())
@settings(max_examples=30, deadline=None)
def test_the_slots_of_a_batch_are_counted_as_the_shares_say(case: Case) -> None:
    mix = case.mix()
    seen: Counter[int] = Counter()
    for step in range(12):
        seen.update(number_of(mix, mix.slots(step, 0, mix.batch)))
        assert seen.total() == (step + 1) * mix.batch
        assert all(abs(seen[i] - case.share(i) * (step + 1)) < 1 for i in range(len(case.sets)))


@given(cases())
@settings(max_examples=25, deadline=None)
def test_each_set_has_epochs_of_its_own_in_which_every_sample_comes_once_but_for_fewer_than_c(case: Case) -> None:
    mix = case.mix()
    seen: dict[tuple[int, int], Counter[tuple[int, int]]] = {}  # by set and epoch
    places: dict[tuple[int, int], list[int]] = {}  # by set and lane
    for step in range(20):
        slots = mix.slots(step, 0, mix.batch)
        for number, row in zip(number_of(mix, slots), rows(mix, slots), strict=True):
            shard, place, epoch, lane, position, _ = row
            seen.setdefault((number, epoch), Counter())[shard, place] += 1
            places.setdefault((number, lane), []).append(epoch * mix.orders[number].lane_length + position)
    assert all(found == list(range(len(found))) for found in places.values())
    for (number, epoch), counter in seen.items():
        order, counts = mix.orders[number], case.sets[number][0]
        assert set(counter.values()) == {1}
        whole = min(len(places[number, lane]) for lane in range(order.lanes)) >= (epoch + 1) * order.lane_length
        assert not whole or len(counter) == order.samples_per_epoch > sum(counts) - order.lanes


@given(cases(), st.integers(0, 30))
@settings(max_examples=25, deadline=None)
def test_a_seek_finds_what_a_walk_finds(case: Case, step: int) -> None:
    walker, seeker = case.mix(), case.mix()
    for passed in range(step):
        walker.slots(passed, 0, walker.batch)
    found = [rows(mix, mix.slots(step, 0, mix.batch)) for mix in (walker, seeker)]
    assert found[0] == found[1]


@given(cases(), st.integers(0, 10**6), st.integers(1, 9))
@settings(max_examples=50, deadline=None)
def test_the_ranks_shares_together_are_the_global_batch_and_each_has_its_part_of_every_set(
    case: Case, step: int, ranks: int
) -> None:
    mix = case.mix()
    whole = mix.slots(step, 0, mix.batch)
    in_all = Counter(number_of(mix, whole))
    together = []
    for rank in range(ranks):
        mine = share(rank, ranks, mix.batch)
        slots = mix.slots(step, mine.start, mine.stop)
        together += rows(mix, slots)
        own = Counter(number_of(mix, slots))
        assert all(abs(own[i] - n * len(mine) / mix.batch) <= len(case.sets) for i, n in in_all.items())
    assert together == rows(mix, whole)


@given(cases(), st.integers(0, 200), st.integers(1, 12), st.tuples(st.floats(0, 1), st.floats(0, 1)))
@settings(max_examples=40, deadline=None)
def test_what_is_read_is_upcoming(case: Case, step: int, steps: int, cut: tuple[float, float]) -> None:
    mix = case.mix()
    start, stop = sorted(int(where * (mix.batch - 1)) for where in cut)
    read = {shard for now in range(step, step + steps) for shard in mix.slots(now, start, stop + 1).shard.tolist()}
    upcoming = mix.upcoming(step, steps, start, stop + 1)
    assert read <= set(upcoming) and len(upcoming) == len(set(upcoming))


def test_of_what_is_upcoming_that_which_is_needed_first_stands_first() -> None:
    mix = Mix(parts([([20] * 12, Fraction(7), 1), ([10] * 12, Fraction(3), 1)]), seed=0, batch=10, lanes=1)
    first: dict[int, int] = {}
    for step in range(3, 30):
        for shard in mix.slots(step, 0, 10).shard.tolist():
            first.setdefault(shard, step)
    when = [first[shard] for shard in mix.upcoming(3, 27, 0, 10)]
    assert len(when) == len(first) and all(a <= b + 1 for a, b in itertools.pairwise(when))


@given(st.lists(st.integers(0, 60), min_size=1, max_size=6).filter(any))
def test_a_batch_has_each_set_spread_over_all_of_it(counts: list[int]) -> None:
    turns = spread(tuple(counts)).tolist()
    assert Counter(turns) == Counter({i: n for i, n in enumerate(counts) if n})
    for start, stop in itertools.combinations(range(0, sum(counts) + 1, 5), 2):
        for number, n in enumerate(counts):
            expected = n * (stop - start) / sum(counts)
            assert abs(turns[start:stop].count(number) - expected) <= len(counts)


@pytest.mark.parametrize("step", [0, 1, 10**6, 10**15])
def test_a_share_that_is_a_whole_number_of_images_is_exact_in_every_batch(step: int) -> None:
    mix = Mix(parts([([80], Fraction(w), 1) for w in ("0.29", "0.01", "0.7")]), seed=0, batch=100)
    assert Counter(number_of(mix, mix.slots(step, 0, 100))) == {0: 29, 1: 1, 2: 70}  # int(0.29 * 100) is 28


def test_a_rank_reads_its_part_of_each_sets_lanes_in_every_step() -> None:
    mix = Mix(parts([([500] * 8, Fraction(7), 1), ([500] * 4, Fraction(3), 1)]), seed=0, batch=1000)
    assert [order.lanes for order in mix.orders] == [64, 64]
    for step in (0, 1, 7, 1000):
        slots = mix.slots(step, 250, 500)
        for number in (0, 1):
            lanes = {lane for i, lane in zip(number_of(mix, slots), slots.lane.tolist(), strict=True) if i == number}
            assert lanes <= set(range(15, 33)) and len(lanes) >= 16


def test_no_two_images_of_a_run_draw_alike_even_where_two_sets_are_of_the_same_size() -> None:
    mix = Mix(parts([([60, 60], Fraction(1), 1), ([60, 60], Fraction(1), 1)]), seed=5, batch=20)
    keys = np.concatenate([mix.slots(step, 0, 20).key for step in range(200)])
    assert len(np.unique(keys)) == 4000


def test_another_set_beside_it_or_before_it_leaves_a_sets_order_and_draws_alone() -> None:
    a, b, c = (Part(name, mark, [90, 30], Fraction(1)) for name, mark in (("a", 11), ("b", 22), ("c", 33)))

    def of_a(sets: list[Part]) -> dict[tuple[int, ...], tuple[int, ...]]:
        mix, at = Mix(sets, seed=1, batch=30, lanes=10), sets.index(a)
        found = [(number_of(mix, s), rows(mix, s)) for s in (mix.slots(step, 0, 30) for step in range(8))]
        mine = [row for numbers, lines in found for i, row in zip(numbers, lines, strict=True) if i == at]
        return {row[2:5]: (row[0] - 2 * at, row[1], row[5]) for row in mine}  # by epoch, lane, position

    alone = of_a([a])
    for sets in ([a, b], [b, a], [c, a, b]):
        found = of_a(sets)
        assert len(found) >= 80 and found.items() <= alone.items()


def test_a_key_is_the_hash_of_the_sets_own_seed_and_epoch_lane_and_position() -> None:
    mix = Mix([Part("a", 7, [100], Fraction(1))], seed=11, batch=10, lanes=5)
    slots = mix.slots(40, 0, 10)
    places = zip(slots.epoch.tolist(), slots.lane.tolist(), slots.position.tolist(), strict=True)
    assert slots.key.tolist() == [key(key(11, 7), *place) for place in places]


def test_weights_count_relative_to_their_sum() -> None:
    one, other = (
        Mix(parts([([90], Fraction(w), 1), ([40], Fraction(v), 1)]), seed=2, batch=17)
        for w, v in (("0.7", "0.3"), ("14", "6"))
    )
    assert one.shares == other.shares == [Fraction(7, 10), Fraction(3, 10)]
    assert rows(one, one.slots(9, 0, 17)) == rows(other, other.slots(9, 0, 17))


def test_epochs_are_counted_for_each_set() -> None:
    mix = Mix(parts([([80], Fraction(3), 1), ([40], Fraction(1), 1)]), seed=0, batch=16, lanes=4)
    assert mix.epochs(10) == [1.5, 1.0] and mix.samples_per_epoch == 120


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        ([([50], Fraction(1), 1), ([50], Fraction(99), 1)], "set 0: its weight comes to 0.2 images in a batch, fewer"),
        ([([50], Fraction(1), 1), ([9], Fraction(1), 1)], "set 1: its weight comes to 10.0 images .*, and it holds 9;"),
        ([([0], Fraction(1), 1)], "set 0: its weight comes to 20.0 images in a batch, and it holds 0;"),
    ],
)
def test_a_share_below_one_image_or_above_the_set_is_refused(sets: Any, says: str) -> None:
    with pytest.raises(ShardError, match=says):
        Mix(parts(sets), seed=0, batch=20)


def test_the_same_set_twice_is_refused() -> None:
    one = Part("faces", 1, [50], Fraction(1))
    with pytest.raises(ShardError, match="faces: is named twice; name it once, with the sum of the weights"):
        Mix([one, one], seed=0, batch=4)
