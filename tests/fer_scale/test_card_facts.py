"""What a card is told of a run: the steps that led to the model, and nothing that came after them."""

import json
from pathlib import Path
from typing import Any

import pytest
from hub import trained as made

from fer_scale import card_facts, trained
from fer_scale.card_facts import FactsError
from fer_scale.record import Record

RECIPE = {"batch": {"size": 3600}}


def rows(*steps: int) -> list[dict[str, Any]]:
    return [{"step": step, "images_per_s": 1.0} for step in steps]  # an hour a step


def event(kind: str, step: int, **more: Any) -> dict[str, Any]:
    return {"time": "2026-01-01T00:00:00+00:00", "event": kind, "step": step} | more


def started(kind: str, step: int, ranks: int, device: str = "cpu", hosts: int = 1) -> dict[str, Any]:
    return event(kind, step, ranks=ranks, device=device, hosts=[f"secret-{n}" for n in range(hosts)])


def computed(events: list[dict[str, Any]], metrics: list[dict[str, Any]], step: int) -> dict[str, str]:
    whole = Record(recipe=RECIPE, events=events, metrics=metrics)
    return card_facts.compute(card_facts.cut(whole, step))


def test_each_start_counts_with_its_own_ranks_and_a_later_one_not_at_all() -> None:
    events = [
        started("start", 0, ranks=8, device="NVIDIA H100", hosts=2),
        started("resume", 4, ranks=2, device="NVIDIA A100"),
        started("resume", 6, ranks=64),
    ]
    assert computed(events, rows(2, 4, 6, 8), 6) == {
        "devices": "2 to 8 x NVIDIA A100, NVIDIA H100, on 1 to 2 hosts",
        "starts": "2",
        "hours in training steps": "6",
        "device-hours in training steps": "36",
        "energy": "not measured",
    }
    assert computed(events, rows(2, 4, 6, 8), 4)["device-hours in training steps"] == "32"


def test_steps_that_no_line_of_metrics_tells_of_count_at_the_pace_of_the_others() -> None:
    assert computed([started("start", 0, ranks=1)], rows(2, 4), 5)["hours in training steps"] == "5"


@pytest.mark.parametrize(
    "later", [[], [event("rewound", 4, reached=9, images_per_s=1.0), started("resume", 4, ranks=9)]]
)
def test_a_step_that_was_computed_again_after_damage_counts_as_it_is_now(later: list[dict[str, Any]]) -> None:
    events = [
        started("start", 0, ranks=1),
        event("checkpoint", 4),
        started("resume", 4, ranks=1),  # 4 and 6 were found damaged by the next start
        event("rewound", 2, reached=6, images_per_s=1.0),
        started("resume", 2, ranks=1),
        *later,
    ]
    found = computed(events, rows(2, 4), 4)
    assert found["starts"] == "3"
    assert found["hours in training steps"] == "8, 4 of them for steps that a failure made it compute twice"


def test_a_run_that_went_on_from_anothers_state_says_from_where_it_counts() -> None:
    found = computed([event("moved", 4), started("resume", 4, ranks=1)], rows(6, 8), 8)
    assert found["counted from step"] == "4; what was before is another run's"
    assert found["hours in training steps"] == "4"


def test_a_run_that_kept_no_record_says_nothing_of_its_compute() -> None:
    assert computed([], rows(2, 4), 4) == {}
    assert computed([started("start", 0, ranks=1)], [], 4) == {}


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("data.json", [{"name": "faces", "samples": "many"}], "samples of 'faces' of a kind that no run writes"),
        ("data.json", [{"name": "faces", "class_counts": [1]}], "class_counts of 'faces' of a kind that no run writes"),
        ("metrics.jsonl", {"loss": 1.0}, "metrics.jsonl: has lines without a step"),
        ("plan.json", 3, "plan.json, attempts/ or recipe.toml hold what no run writes"),
        ("events.jsonl", {"step": 3}, "events.jsonl: has lines without an event"),
        ("evaluation/metrics.json", {"per_class": {"fear": {}}}, "not what `fer-scale evaluate` writes"),
        ("evaluation/metrics.json", {"split": {"list": "test"}}, "not what `fer-scale evaluate` writes"),
    ],
)
def test_a_file_of_a_run_that_says_odd_things_is_named(tmp_path: Path, file: str, content: Any, says: str) -> None:
    run = made.finetune(tmp_path / "run")
    (run / file).write_text(json.dumps(content) + "\n")
    with pytest.raises(FactsError, match=says):
        trained.find(run, None, False)


def test_a_checkpoint_that_does_not_say_what_it_is_of_is_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.toml").write_text(made.RECIPE.replace('encoder = "64x2x2"\n', ""))
    made.save_checkpoint(run, 10)
    with pytest.raises(trained.PublishError, match=r"progress.json: does not say model\.encoder of its recipe"):
        trained.find(run, None, False)
