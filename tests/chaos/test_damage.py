"""A hundred damages to checkpoints: each is found, and what a run goes on from is whole."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from runs import events, recipe

from fer_scale import checkpoint, config
from fer_scale.pretrain import begin
from fer_scale.resume import Found

Draw = random.Random
Damage = Callable[[Path, Draw], None]
STATES = ("state-00-of-02.safetensors", "state-01-of-02.safetensors")


class Alone:
    """Of fer_scale.pretrain.world.World what one rank without others needs."""

    rank, ranks, is_main = 0, 1, True

    def tell(self, value: Any, *, of: int = 0) -> Any:
        return value

    def broadcast(self, tensor: torch.Tensor, *, of: int) -> torch.Tensor:
        return tensor


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with three checkpoints of two state files each, all of the same lengths."""
    run, made = tmp_path_factory.mktemp("whole"), torch.Generator().manual_seed(0)
    (run / "recipe.toml").write_text(config.dump(recipe(out=run)))
    progress = {"recipe": config.dump(recipe(out=run)), "shards": ["print"], "start": None}
    for step in (10, 20, 30):
        place = checkpoint.folder_of(run, step)
        part = checkpoint.part_of(place)
        tensors = [{f"{kind}.layer{n}": torch.randn(40, generator=made) for kind in "wmv"} for n in (0, 1)]
        files = [checkpoint.write_part(part, n, 2, tensors[n]) for n in (0, 1)]
        checkpoint.finish(part, place, files, progress | {"step": step, "adam_step": step})
    return run


def flip(newest: Path, draw: Draw) -> None:
    file = one_of(newest, draw)
    data = bytearray(file.read_bytes())
    data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    file.write_bytes(data)


def truncate(newest: Path, draw: Draw) -> None:
    file = one_of(newest, draw)
    data = file.read_bytes()
    file.write_bytes(data[: draw.randrange(1, len(data))])


def delete(newest: Path, draw: Draw) -> None:
    one_of(newest, draw).unlink()


def empty(newest: Path, draw: Draw) -> None:
    one_of(newest, draw).write_bytes(b"")


def swap(newest: Path, draw: Draw) -> None:
    """A file with its neighbour, or with that of an older step."""
    older, name = newest.with_name("step_00000020"), draw.choice([*STATES, "progress.json", "manifest.json"])
    one, other = newest / name, older / name
    if name == STATES[0] and draw.random() < 0.5:
        other = newest / STATES[1]
    exchange(one, other)


def exchange(one: Path, other: Path) -> None:
    beside = one.parents[1] / "beside"
    for source, to in ((one, beside), (other, one), (beside, other)):
        source.rename(to)


def extra(newest: Path, draw: Draw) -> None:
    """A state file that nobody listed."""
    name = draw.choice(["state-00-of-01.safetensors", "state-02-of-03.safetensors", "state-02-of-02.safetensors"])
    (newest / name).write_bytes((newest / draw.choice([STATES[0], "progress.json"])).read_bytes())


def one_of(folder: Path, draw: Draw) -> Path:
    return draw.choice(sorted(folder.iterdir()))


DAMAGES = [(flip, 30), (truncate, 20), (delete, 10), (empty, 10), (swap, 20), (extra, 10)]


@pytest.mark.parametrize(("damage", "times"), DAMAGES)
def test_every_damage_is_found_and_what_a_run_goes_on_from_is_whole(
    whole: Path, tmp_path: Path, damage: Damage, times: int
) -> None:
    for seed in range(times):
        run = tmp_path / str(seed)
        shutil.copytree(whole, run)
        newest = checkpoint.folder_of(run, 30)
        damage(newest, random.Random(seed))
        incomplete = not (newest / "manifest.json").exists()
        found = resumed(run)
        assert found.folder is not None and found.folder.name in ("step_00000010", "step_00000020"), (seed, found)
        named = [event["checkpoint"] for event in events(run, "set_aside")]
        assert incomplete or any(newest.name in name for name in named), (seed, named)
        assert not newest.exists(), "it is not met again"
        original, progress = checkpoint.read(whole / "checkpoints" / found.folder.name)
        assert found.progress == progress and found.state.keys() == original.keys()
        assert all(torch.equal(found.state[name], tensor) for name, tensor in original.items())


def resumed(run: Path) -> Found:
    """What a run goes on from: what all its ranks would decide and read."""
    return begin.go_on(recipe(out=run), [], ["print"], Alone(), [0])  # type: ignore[arg-type]


def test_a_checkpoint_under_the_name_of_another_step_is_found(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    exchange(checkpoint.folder_of(run, 30), checkpoint.folder_of(run, 20))
    found = resumed(run)
    assert found.folder is not None and found.folder.name == "step_00000010"
