"""What reading a set costs."""

import shutil
from pathlib import Path

import pytest

from shards.errors import ShardError
from shards.index import ShardSet
from shards.speed import measure


def test_the_time_of_an_image_is_told_by_part_and_adds_up_to_the_rate(packed: ShardSet) -> None:
    found = measure(packed.path, seconds=0.2)
    parts = found["us_per_image"]
    assert list(parts) == ["order", "read", "check", "unpack", "decode", "copy"] and min(parts.values()) > 0
    assert found["images_per_s_per_core"] == pytest.approx(1e6 / sum(parts.values()), rel=0.05)
    assert found["cores_for_10000_images_per_s"] == pytest.approx(1e4 / found["images_per_s_per_core"], abs=0.06)


def test_damage_is_passed_over_and_nothing_but_damage_is_said(packed: ShardSet, tmp_path: Path) -> None:
    shutil.copytree(packed.path, tmp_path / "copy")
    tar = next((tmp_path / "copy").glob("*.tar"))
    tar.write_bytes(bytes(tar.stat().st_size))
    assert measure(tmp_path / "copy", seconds=0.1)["images_per_s_per_core"] > 0
    for tar in (tmp_path / "copy").glob("*.tar"):
        tar.write_bytes(bytes(tar.stat().st_size))
    with pytest.raises(ShardError, match="no image can be read; run `fer-scale verify`"):
        measure(tmp_path / "copy", seconds=0.1)
