"""Recipes and layouts by name, wherever one stands; and what the program says of itself."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fer_scale import __version__, command_line, config, shipped
from fer_scale.__main__ import VERBS, main
from fer_scale.finetune.recipe import Finetune
from fer_scale.pretrain.layout import zero_layout
from fer_scale.pretrain.recipe import Pretrain

ROOT = Path(__file__).parents[2]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("said", ["pretrain/demo", "pretrain/demo.toml", "configs/pretrain/demo.toml"])
def test_a_recipe_has_a_name_that_means_the_same_in_every_folder(said: str, elsewhere: Path) -> None:
    assert shipped.find(said) == ROOT / "configs/pretrain/demo.toml"


def test_a_file_of_ones_own_wins_over_ours_of_that_name(elsewhere: Path) -> None:
    own = Path("configs/pretrain/demo.toml")
    own.parent.mkdir(parents=True)
    own.touch()
    assert shipped.find(own) == own
    assert shipped.find("pretrain/demo") == ROOT / own


def test_a_name_leads_to_ours_and_nowhere_else(elsewhere: Path) -> None:
    for said in ("../pyproject.toml", "pretrain", "", ".", "/pretrain/demo", "deepspeed/zero0.toml", "x" * 300):
        assert shipped.find(said) == Path(said)


@pytest.mark.parametrize("said", ["deepspeed/zero2", "deepspeed/zero2.json", "configs/deepspeed/zero2.json"])
def test_a_layout_is_named_like_a_recipe(said: str, elsewhere: Path) -> None:
    assert zero_layout(Path(said))["stage"] == 2


def test_every_recipe_that_is_listed_is_taken_by_its_verb_and_says_what_it_is_for(elsewhere: Path) -> None:
    for name in shipped.recipes():
        schema: type = Finetune if name.startswith("finetune/") else Pretrain
        needed = ["data.shards=s", "run.out=r", *["data.split=f", "model.start_from=e"][: 2 * (schema is Finetune)]]
        args = command_line.parse(VERBS, [name.partition("/")[0], name, *needed])
        config.load(schema, args.recipe, args.overrides)
        assert len(shipped.purpose(args.recipe)) > 20


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("finetune/few_label", "did you mean finetune/few_labels?"),
        ("few_labels.toml", "did you mean finetune/few_labels?"),
        ("demo", "did you mean finetune/demo or pretrain/demo?"),
        ("mine/lab.toml", "`fer-scale recipes` lists ours"),
    ],
)
def test_a_typo_in_a_recipes_name_says_what_was_meant(
    said: str, meant: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", said]) == 2
    assert capsys.readouterr().err == f"fer-scale check: {said}: no such recipe; {meant}\n"


def test_the_recipes_are_listed_for_people_and_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    assert re.search(r"^pretrain/demo +Drawn faces", capsys.readouterr().out, re.MULTILINE)
    assert main(["recipes", "--json"]) == 0
    assert {row["name"] for row in json.loads(capsys.readouterr().out)} == set(shipped.recipes())


def test_the_version_comes_at_once_and_without_anything_heavy() -> None:
    code = "import sys; from fer_scale.__main__ import main\nmain(['--version'])\n"
    code += "print([m for m in ('torch', 'numpy', 'rich') if m in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert said.splitlines() == [f"fer_scale {__version__}", "[]"]


def test_the_version_said_at_length_has_what_a_bug_report_needs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version", "--verbose", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert {"fer_scale", "python", "torch", "deepspeed", "timm", "cuda", "device"} < set(said)
    assert (said["recipes"], said["launch"]) == (str(ROOT / "configs"), str(ROOT / "launch"))
    assert not {"pytest", "ruff", "mypy"} & set(said), "what developers use tells nothing"
