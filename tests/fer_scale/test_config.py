"""Recipes: every mistake at once, and nothing read that was not written."""

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fer_scale import config
from fer_scale.config import ConfigError, knob
from fer_scale.finetune.recipe import Finetune
from fer_scale.pretrain.recipe import Pretrain

RECIPES = sorted((Path(__file__).parents[2] / "configs" / "pretrain").glob("*.toml"))


@dataclass(frozen=True, kw_only=True)
class Cake:
    layers: int = knob(2, help="how many")
    sugar: float = knob(help="kg")
    glaze: Literal["none", "lemon"] = knob("none", kind="watch", help="on top")
    oven: tuple[Path, ...] = knob((), kind="layout", help="where")
    note: str | None = knob(None, kind="watch", help="for the guest")


@dataclass(frozen=True, kw_only=True)
class Tea:
    sugar: float = knob(0.0, help="kg")


@dataclass(frozen=True, kw_only=True)
class Menu:
    cake: Cake
    tea: Tea = field(default_factory=Tea)


def load(tmp_path: Path, text: str, *overrides: str) -> Menu:
    file = tmp_path / "menu.toml"
    file.write_text(text)
    return config.load(Menu, file, overrides)


def test_a_value_comes_from_the_override_then_the_file_then_the_default(tmp_path: Path) -> None:
    menu = load(tmp_path, "[cake]\nsugar = 1\nlayers = 3", "cake.layers=4", "cake.oven=/left", "cake.note=sweet")
    assert menu.cake == Cake(layers=4, sugar=1.0, oven=(Path("/left"),), note="sweet")


def test_all_mistakes_come_at_once_each_with_its_place_and_a_hint(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, '[cake]\nlayer = 3\nglaze = "lemmon"\n[cak]\nx = 1', "tea.sugar=much", "tea", "cake.note=[1]")
    assert str(caught.value).splitlines() == [
        f"{tmp_path / 'menu.toml'}: 7 mistakes",
        "  'tea': an override is written section.key=value, as optim.base_lr=1e-4",
        "  cak: unknown section; did you mean cake?",
        "  cake.layer: unknown key; did you mean cake.layers?",
        "  cake.sugar: missing; it has no default",
        "  cake.glaze: must be one of 'none', 'lemon', not 'lemmon'; did you mean 'lemon'?",
        "  cake.note: must be a string, not [1]",
        "  tea.sugar: must be a number, not 'much'",
    ]


def test_what_begins_with_the_home_folder_lies_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell leaves it as it is behind an equals sign, and a file does anyway."""
    monkeypatch.setenv("HOME", "/home/me")
    menu = load(tmp_path, '[cake]\nsugar = 1\nlayers = 3\noven = ["~/a", "b~/c"]', "cake.note=~/set=0.7")
    assert menu.cake.oven == (Path("/home/me/a"), Path("b~/c")) and menu.cake.note == "/home/me/set=0.7"


def test_true_is_no_number(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cake.layers: must be a whole number, not True"):
        load(tmp_path, "[cake]\nsugar = 1\nlayers = true")


@pytest.mark.parametrize("text", ["[cake", "\xff"])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "menu.toml").write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"menu.toml: not valid TOML"):
        config.load(Menu, tmp_path / "menu.toml")


def test_what_is_dumped_loads_as_the_same_recipe(tmp_path: Path) -> None:
    menu = load(tmp_path, "[cake]\nsugar = 1e-4", 'cake.note=a "quoted" \\ word', 'cake.oven=["/a", "/b"]')
    assert load(tmp_path, config.dump(menu)) == menu


@given(text=st.text())
@example(text="Faces\nof ours\r\n\t\x7f\x00")
def test_any_text_survives_being_an_override(text: str) -> None:
    given = [config.as_override("cake.note", text), "cake.sugar=1"]
    assert config.parse(Menu, b"", "nowhere", given).cake.note == text


@given(text=st.text())
@example(text="Faces\nof ours\r\n\t\x7f\x00")
def test_any_text_of_a_recipe_survives_being_dumped(text: str) -> None:
    menu = Menu(cake=Cake(sugar=1.0, note=text, oven=(Path(text),)))
    assert tomllib.loads(config.dump(menu))["cake"] == {
        "layers": 2, "sugar": 1.0, "glaze": "none", "oven": [str(Path(text))], "note": text,
    }  # fmt: skip


def test_only_keys_that_change_the_mathematics_count_as_differences() -> None:
    old, new = Menu(cake=Cake(sugar=1.0)), Menu(cake=Cake(sugar=2.0, glaze="lemon", oven=(Path("/x"),)))
    assert config.differences(old, new) == ["cake.sugar: 1.0 -> 2.0"]
    assert config.differences(old, new, "watch") == ['cake.glaze: "none" -> "lemon"']


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_that_we_ship_loads(recipe: Path) -> None:
    config.load(Pretrain, recipe, ["data.shards=/data/faces"])


def test_every_key_says_what_it_is() -> None:
    rows = config.describe(Pretrain)
    assert len(rows) > 50
    assert all(text and kind in ("maths", "layout", "watch") for _, _, kind, text in rows)
    texts = {key: text for key, _, _, text in config.describe(Finetune)}
    assert texts["semi.labeler"].endswith(" [fixed | softmatch | soft]") and texts["facemix.stages"].endswith(
        "[both | 2]"
    )
    assert "[" not in texts["semi.steps"]
