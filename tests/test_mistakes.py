"""What people get wrong, and what they are told: one message that says where, what and what to do; exit code 2.

Mistakes in one process here; those that need several ranks are in tests/ranks.
"""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_scale.__main__ import main

ROOT = Path(__file__).parent.parent


def told(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    """What stderr says of a command that a user got wrong."""
    assert main([str(word) for word in argv]) == 2
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    return said.err.strip().splitlines()[0] if "mistakes" not in said.err else said.err.strip()


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures" / "someone"
    folder.mkdir(parents=True)
    for number in range(4):
        pixels = np.full((24, 24, 3), 40 * number, np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder.parent


def test_an_empty_source(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    said = told(capsys, "pack", tmp_path / "empty", tmp_path / "set", "--source", "folder")
    assert said.startswith(f"fer-scale pack: {tmp_path / 'empty'}: ")
    assert not (tmp_path / "set").exists()


def test_a_source_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert str(tmp_path / "nowhere") in told(
        capsys, "pack", tmp_path / "nowhere", tmp_path / "set", "--source", "folder"
    )


def test_a_source_that_nobody_knows(capsys: pytest.CaptureFixture[str], pictures: Path, tmp_path: Path) -> None:
    said = told(capsys, "pack", pictures, tmp_path / "set", "--source", "foldr")
    assert "foldr" in said and "folder" in said and "ferplus" in said


def test_a_broken_image_among_good_ones_is_named_and_the_budget_kept(
    capsys: pytest.CaptureFixture[str], pictures: Path, tmp_path: Path
) -> None:
    (pictures / "someone" / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    said = told(capsys, "pack", pictures, tmp_path / "set", "--source", "folder", "--workers", "1")
    assert "1 of 5" in said and "--max-left-out" in said
    done = main(
        ["pack", str(pictures), str(tmp_path / "set"), "--source", "folder", "--max-left-out", "20%", "--workers", "1"]
    )
    assert done == 0
    [left_out] = [json.loads(line) for line in (tmp_path / "set" / "left_out.jsonl").read_text().splitlines()]
    assert "broken.jpg" in left_out["path"] and left_out["reason"]


@pytest.fixture
def hurt(faces: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(faces, tmp_path / "hurt"))


def test_a_shard_cut_short(capsys: pytest.CaptureFixture[str], hurt: Path) -> None:
    tar = hurt / "faces-000001.tar"
    tar.write_bytes(tar.read_bytes()[:-4000])
    for verb in (
        ["show", hurt],
        ["check", ROOT / "tests/ranks/pretrain.toml", f"data.shards={hurt}", f"run.out={hurt}/r"],
    ):
        assert "faces-000001.tar" in told(capsys, *verb)


def test_an_index_of_another_format(capsys: pytest.CaptureFixture[str], hurt: Path) -> None:
    index = json.loads((hurt / "index.json").read_text())
    (hurt / "index.json").write_text(json.dumps(index | {"format": 99}))
    said = told(capsys, "show", hurt)
    assert "index.json" in said and "99" in said


def test_a_folder_that_is_no_shard_set(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert re.search("index.json.*pack", told(capsys, "verify", tmp_path))


def test_a_folder_that_is_neither_a_set_nor_a_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        assert f"{folder}: no shard set (no index.json) and no run (no events.jsonl)" in told(capsys, "show", folder)
    (tmp_path / "events.jsonl").touch()
    for word in ("--speed", "--pictures=faces.png"):
        assert told(capsys, "show", tmp_path, word).endswith("is a run; --pictures and --speed are for shard sets")
    (tmp_path / "recipe.toml").write_text("[run")
    assert f"{tmp_path / 'recipe.toml'}: " in told(capsys, "show", tmp_path)


def test_a_recipe_with_three_mistakes(capsys: pytest.CaptureFixture[str], faces: Path) -> None:
    recipe = ROOT / "configs/pretrain/demo.toml"
    said = told(capsys, "check", recipe, f"data.shards={faces}", "run.step=5", "optim.lr=fast", "modle.encoder=x")
    assert said.splitlines() == [
        f"fer-scale check: {recipe}: 3 mistakes",
        "  modle: unknown section; did you mean model?",
        "  optim.lr: must be a number, not 'fast'",
        "  run.step: unknown key; did you mean run.steps?",
    ]


def test_a_recipe_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    said = told(capsys, "check", "nowhere.toml")
    assert said.endswith("nowhere.toml: no such recipe; `fer-scale recipes` lists ours")


def test_a_batch_smaller_than_the_ranks(capsys: pytest.CaptureFixture[str], faces: Path, tmp_path: Path) -> None:
    given = [f"data.shards={faces}", f"run.out={tmp_path}", "batch.size=3", "--ranks", "4"]
    said = told(capsys, "check", ROOT / "tests/ranks/pretrain.toml", *given)
    assert said.endswith("batch.size = 3 is smaller than the number of ranks, 4: use fewer ranks")


def test_a_layout_with_a_key_that_the_recipe_owns(
    capsys: pytest.CaptureFixture[str], faces: Path, tmp_path: Path
) -> None:
    layout = tmp_path / "zero.json"
    layout.write_text('{"zero_optimization": {"stage": 1}, "gradient_clipping": 0.5}')
    given = [f"data.shards={faces}", f"run.out={tmp_path}", f"run.deepspeed={layout}"]
    assert main(["check", str(ROOT / "tests/ranks/pretrain.toml"), *given]) == 2
    assert "gradient_clipping: is set in the recipe, by optim.clip_norm; remove it here" in capsys.readouterr().err


def test_a_model_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for verb in (
        ["pull", tmp_path / "nothing", tmp_path / "to"],
        ["predict", tmp_path / "nothing", "photo.jpg"],
        ["publish", tmp_path / "nothing", tmp_path / "to", "--licence", "mit"],
    ):
        assert str(tmp_path / "nothing") in told(capsys, *verb)


def test_a_file_where_a_folder_shall_be(capsys: pytest.CaptureFixture[str], faces: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = told(capsys, "overlap", faces, faces, "--out", tmp_path / "file")
    assert said == f"fer-scale overlap: {tmp_path / 'file'}: File exists"


def test_a_word_that_no_verb_knows(capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["pakc"], ["check", "a.toml", "--rank", "2", "bare"], ["show"]):
        with pytest.raises(SystemExit) as ended:
            main(argv)
        assert ended.value.code == 2
        assert "usage: fer-scale" in capsys.readouterr().err


def test_debug_shows_where_a_mistake_was_found(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"index.json"):
        main(["verify", str(tmp_path), "--debug"])
