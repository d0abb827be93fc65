"""What a stranger sends is refused in one plain message, in little time and memory, and never runs (hostile.py)."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import pytest

from fer_scale import encoder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = hostile.sound(tmp_path_factory.mktemp("hostile") / "sound")
    encoder.load(folder)
    return folder


@pytest.mark.parametrize(("name", "change", "says"), hostile.FOLDERS, ids=[name for name, _, _ in hostile.FOLDERS])
def test_a_hostile_folder_is_refused_cheaply_or_its_poison_not_looked_at(
    whole: Path, tmp_path: Path, name: str, change: Callable[[Path], Any], says: str
) -> None:
    folder = Path(shutil.copytree(whole, tmp_path / "model"))
    hostile.spoil(folder, change)
    said, seconds, mb = hostile.cost(lambda: hostile.load(folder))
    assert says in said and bool(said) == bool(says)
    assert said.isprintable() and len(said) < 1000, "one message that a terminal can show"
    assert seconds < hostile.MOST_CPU_S and mb < hostile.MOST_MB
    assert not (tmp_path / "ran").exists(), "nothing of it was run"


@pytest.mark.parametrize(("name", "make", "says"), hostile.PHOTOS, ids=[name for name, _, _ in hostile.PHOTOS])
def test_a_hostile_photo_is_refused_cheaply(tmp_path: Path, name: str, make: Callable[[], bytes], says: str) -> None:
    data = make()
    said, seconds, mb = hostile.cost(lambda: hostile.show(tmp_path / "a.jpg", data))
    assert re.search(says, said)
    assert seconds < hostile.MOST_CPU_S and mb < hostile.MOST_MB


def test_the_memory_of_a_case_is_measured() -> None:
    _, _, mb = hostile.cost(lambda: str(len(bytearray(150 << 20))))
    assert mb > 140
