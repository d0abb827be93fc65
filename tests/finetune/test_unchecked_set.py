"""A set that was packed without the decode check: nothing tells its copies apart, and nothing says its colours."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from fer_scale.__main__ import main
from fer_scale.finetune.finish import sees_grey
from shards.index import ShardSet


def test_a_split_of_it_is_refused_with_a_way_out(
    faces: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["pack", str(faces), str(tmp_path / "quick"), "--source", "tar", "--workers", "1", "--no-decode-check"]
    assert main(command) == 0
    assert ShardSet.open(tmp_path / "quick").samples == 110
    assert main(["split", str(tmp_path / "quick"), "--labels", "10%", "--out", str(tmp_path / "split.json")]) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path / 'quick'}: packed without the decode check" in said and "pack it again with it" in said
    assert not (tmp_path / "split.json").exists()


@pytest.mark.parametrize(("grey", "only"), [(1.0, True), (0.2, False)])
def test_it_is_not_taken_for_grey(grey: float, only: bool) -> None:
    """A split file of the set with the same tars that was checked fits it, so it can be trained on."""
    begun = SimpleNamespace(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    laid = SimpleNamespace(shard_set=SimpleNamespace(index={}))
    recipe = SimpleNamespace(augment=SimpleNamespace(grey=grey))
    assert sees_grey(begun, laid, recipe) is only  # type: ignore[arg-type]
