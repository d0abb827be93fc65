"""Who is named slow: by tables of what ranks spent, and in real runs of two ranks over gloo."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_scale import log
from fer_scale.pretrain.stragglers import KINDS, WINDOW, judge

RANKS = Path(__file__).parents[1] / "ranks"
STEPS = 1 + 2 * WINDOW

seconds = st.floats(0.0, 10.0, allow_subnormal=False)
tables = st.lists(st.lists(seconds, min_size=4, max_size=4), min_size=2, max_size=9)


def found(table: list[list[float]], took: float, *known: tuple[int, str]) -> set[tuple[int, str]]:
    return {(one.rank, one.what) for one in judge(table, took, set(known))}


@given(tables, st.randoms())
def test_who_is_slow_does_not_depend_on_the_order_of_the_ranks(table: list[list[float]], random: Any) -> None:
    order = list(range(len(table)))
    random.shuffle(order)
    shuffled = found([table[rank] for rank in order], 20.0)
    assert {(order[rank], what) for rank, what in shuffled} == found(table, 20.0)


@given(st.lists(seconds, min_size=4, max_size=4), st.integers(1, 9))
def test_ranks_that_are_alike_are_never_slow(row: list[float], ranks: int) -> None:
    assert not judge([row] * ranks, 20.0)


@given(tables)
def test_fewer_than_half_of_the_ranks_are_slow_in_a_thing_or_it_is_not_they_who_are(table: list[list[float]]) -> None:
    slow = found(table, 20.0)
    for what in KINDS:
        assert 2 * sum(kind == what for _, kind in slow) <= len(table)


@given(tables, st.integers(0, 8), st.sampled_from(range(4)), st.floats(1.5, 50))
def test_a_rank_that_takes_half_as_long_again_as_any_other_is_named(
    table: list[list[float]], rank: int, kind: int, times: float
) -> None:
    rank %= len(table)
    for row in table:
        row[kind] = max(row[kind], 2.5)  # an eighth of the step
    table[rank][kind] = times * max(row[kind] for row in table)
    [one] = [one for one in judge(table, 20.0) if (one.rank, one.what) == (rank, KINDS[kind])]
    assert 1.5 <= one.ratio <= 100 and one.lost >= 0.05


@given(tables, st.integers(1, 4))
def test_the_slow_stay_so_until_they_are_clearly_no_more(table: list[list[float]], lifted: int) -> None:
    table = [[value + lifted for value in row] for row in table]
    for rank, what in found(table, 20.0):
        nearer = [list(row) for row in table]
        nearer[rank][KINDS.index(what)] *= 0.9
        assert (rank, what) in found(nearer, 1.0, (rank, what))


def test_what_costs_next_to_nothing_is_not_told() -> None:
    assert not judge([[1.0, 0.1, 0.001, 0.0], [1.0, 0.4, 0.1, 0.1]], 10.0)
    assert found([[1.0, 0.1, 0.001, 0.0], [1.0, 0.4, 0.6, 0.0]], 10.0) == {(1, "data wait")}
    assert found([[1.0, 0.1, 0.001, 0.0], [1.0, 0.4, 0.0, 0.6]], 10.0) == {(1, "copy")}
    assert not judge([[0.01, 0.0, 0.0, 0.0], [0.1, 0.0, 0.0, 0.0]], 0.2), "25 steps of 8 ms: a moment of another"


@pytest.mark.parametrize("slow_ms", [60, pytest.param(0, marks=pytest.mark.slow)])
def test_a_rank_whose_forward_is_slow_is_named_once_and_nobody_else(
    slow_ms: int, faces: Path, tmp_path: Path, launch: Any
) -> None:
    command = [str(RANKS / "slowed.py"), "pretrain", str(RANKS / "pretrain.toml"), f"data.shards={faces}"]
    command += [f"run.out={tmp_path}", f"run.steps={STEPS}", f"run.checkpoint_every_steps={STEPS}"]
    said = launch(2, *command, SLOW=str(slow_ms)).wait()
    slow = [event for event in log.rows(tmp_path / "events.jsonl") if event["event"] == "slow"]
    if not slow_ms:
        assert not slow
        return
    [told] = slow
    assert (told["rank"], told["what"]) == (1, "forward") and told["step"] <= STEPS and told["ratio"] > 1.4
    assert said.count(f"slow     rank 1 on {told['host']}: its forward takes {told['ratio']:g} times as long") == 1
