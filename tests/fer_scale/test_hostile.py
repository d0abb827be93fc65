"""What a stranger sends is refused in one plain message, in little time and memory, and never runs (hostile.py)."""

import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hostile
import pytest

from fer_scale import artifact, encoder


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


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "manifest.json"])
def test_300_random_changes_of_a_file_end_in_a_model_or_a_plain_message(whole: Path, tmp_path: Path, file: str) -> None:
    """Of bytes and of pieces: cut, doubled, moved. The manifest is made anew, so that nothing is found by it alone."""
    rng = random.Random(file)
    for number in range(300):
        folder = Path(shutil.copytree(whole, tmp_path / str(number)))
        artifact.seal(folder)
        data = bytearray((folder / file).read_bytes())
        for _ in range(rng.randint(1, 4)):
            a, b, c = (rng.randrange(min(len(data), 2000) + 1) for _ in range(3))  # in the header, of weights
            if rng.random() < 0.5:
                data[a : a + 1] = rng.choice(b'0123456789"{}[],:-.eE\0\xff ').to_bytes()
            else:
                data[a:b] = data[c : c + rng.randrange(40)]
        (folder / file).write_bytes(data)
        if file != "manifest.json":
            (folder / "manifest.json").unlink()
        hostile.load(folder)  # raises what is no UserError
        shutil.rmtree(folder)


@pytest.mark.parametrize("depth", range(600, 1001, 20))
def test_brackets_as_deep_as_python_reads_them_are_refused_in_words(whole: Path, tmp_path: Path, depth: int) -> None:
    nested = "[" * depth + "]" * depth
    for file, old, new in (
        ("config.json", '"face_box": [', f'"deep": {nested}, "face_box": ['),
        ("config.json", '"depth": 2', f'"depth": {nested}'),
        ("model.safetensors", '"dtype":"F32"', f'"dtype":{nested}'),
        ("manifest.json", '"version": 1', f'"version": {nested}'),
    ):
        folder = Path(shutil.copytree(whole, tmp_path / "model"))
        artifact.seal(folder)
        data = (folder / file).read_bytes()
        if file == "model.safetensors":
            length = int.from_bytes(data[:8], "little") + len(new) - len(old)
            data = length.to_bytes(8, "little") + data[8:]
        assert old.encode() in data
        (folder / file).write_bytes(data.replace(old.encode(), new.encode(), 1))
        if file != "manifest.json":
            (folder / "manifest.json").unlink()
        said = hostile.load(folder)
        assert said or "deep" in new, "what is deep in our own block harms nobody"
        shutil.rmtree(folder)


def test_the_memory_of_a_case_is_measured() -> None:
    _, _, mb = hostile.cost(lambda: str(len(bytearray(150 << 20))))
    assert mb > 140
