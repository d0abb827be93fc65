"""Publishing and pulling while the Hub and the network fail at random: whole and right, or one plain error.

`python tests/benchmarks/hub_rival.py` plays the same schedules with plain calls of huggingface_hub beside ours.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import close_session

sys.path.append(str(Path(__file__).parents[1]))  # `hub` is tests/hub
from hub.client import WRITER, point_at
from hub.schedules import TAG, Outcome, play, summary

from fer_scale import artifact, hub

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # huggingface_hub's LFS upload
SILENCE_S = 0.3  # 20 for users, whose limit is 120 s; with theirs the benchmark plays
LIMIT_S = 20  # of a busy machine; without limits these schedules would wait for ever

Player = Callable[[range], list[Outcome]]


@pytest.fixture
def play_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Player:
    """play_all(numbers): those schedules in this process, every time limit and pause a sixtieth or less of a user's."""
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: sleep(min(seconds / 100, 0.1)))
    monkeypatch.setenv("HF_TOKEN", WRITER)
    monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / "xet"))

    def publish(folder: Path) -> str:
        artifact.seal(folder)
        return hub.push(folder, f"hf://lab/faces@{TAG}", message="release")

    def one(number: int) -> Outcome:
        place = tmp_path / str(number)
        place.mkdir()
        try:
            return play(
                number,
                place,
                lambda server: point_at(server, place / "cache", monkeypatch.setattr, silence_s=SILENCE_S),
                publish,
                lambda cache: hub.pull(f"hf://lab/faces@{TAG}").folder,
                errors=hub.HubError,
                silence_s=SILENCE_S,
                limit_s=LIMIT_S,
            )
        finally:
            close_session()

    return lambda numbers: [one(number) for number in numbers]


def _promised(outcomes: list[Outcome]) -> None:
    found = summary(outcomes)
    print(found, *[o for o in outcomes if o.error], sep="\n")
    assert not found["wrong"], [o for o in outcomes if o.wrong]
    assert found["kinds"] >= 13 and found["fired"] >= found["schedules"], "or this test has shown nothing"
    assert found["whole and right"] >= 0.9 * found["schedules"], [o for o in outcomes if o.error]


def test_50_random_schedules_of_faults_end_whole_and_right_or_with_one_plain_error(play_all: Player) -> None:
    _promised(play_all(range(50)))


@pytest.mark.chaos
def test_300_random_schedules_of_faults_end_whole_and_right_or_with_one_plain_error(play_all: Player) -> None:
    _promised(play_all(range(300)))
