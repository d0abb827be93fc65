"""What the head of a recipe says that it costs is what `fer-scale check` says today, and every recipe builds its model.

Where a price has changed: `REFRESH=1 pytest tests/pretrain/test_prices.py` writes the heads and configs/README.md anew.
"""

import datetime
import itertools
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fer_scale import config
from fer_scale.pretrain import check, setup
from fer_scale.pretrain.check import Wish
from fer_scale.pretrain.recipe import Pretrain
from shards.index import KINDS
from shards.pack import pack

CONFIGS = Path(__file__).parents[2] / "configs"
RECIPES = sorted((CONFIGS / "pretrain").glob("*.toml"))
COMMAND = re.compile(r"^#   fer-scale check ((?:.|\\\n)+?) --ranks (\S+) --gpu (\S+)$", re.MULTILINE)
PRICED = [file for file in RECIPES if COMMAND.search(file.read_text())]
ROW = re.compile(r"^# +(\d+) +([\d,.]+) +([\d,.]+) +([\d,.]+) +(\d+) % +(\w+)$", re.MULTILINE)
HEAD = "#   ranks  images/s   hours  GB a rank  of one rank's rate  bound by"
ADVICE = re.compile(r"(\d+) % for(?: |\n# )(\d+) ranks at(?: |\n# )batch\.size=(\d+)")
MANY = 512  # shards of 64 pictures
AS_BEFORE = 0.1  # a price that has changed by less still stands


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Sets of 32,768 pictures (no faces) of 112 and 224 px: a price asks how large images are, and a batch how many."""
    found, rng = {}, np.random.default_rng(0)
    for px in (112, 224):
        src, one, found[px] = (tmp_path_factory.mktemp(name) for name in ("pictures", "one", "set"))
        for number in range(64):
            coarse = Image.fromarray(rng.integers(0, 256, (2, 2, 3), np.uint8))
            coarse.resize((px, px), Image.Resampling.BICUBIC).save(src / f"{number}.jpg")
        packed = pack(src, one / "set", source="folder", workers=1)
        [row] = packed.index["shards"]
        rows = [row | {"name": f"many-{number}"} for number in range(MANY)]  # one shard under many names
        for kind, shard in itertools.product(KINDS, rows):
            os.link(packed.file(0, kind), found[px] / f"{shard['name']}.{kind}")
        sums = {key: MANY * packed.index[key] for key in ("samples", "bytes")}
        (found[px] / "index.json").write_text(json.dumps(packed.index | sums | {"shards": rows}))
    return found


def price(file: Path, sets: dict[int, Path]) -> list[list[str]]:
    """The cells of the head's table, by the command that stands above it."""
    return [cells(plan) for plan in plans(file, sets)]


def plans(file: Path, sets: dict[int, Path], *more: str, on: str = "") -> list[dict[str, Any]]:
    """What the command in the head of a file foretells, with `more` keys, for its own ranks or those of `on`."""
    found = COMMAND.search(file.read_text())
    assert found
    words, ranks, gpu = found.groups()
    name, *overrides = words.replace("\\\n#", "").split()
    assert name == f"configs/pretrain/{file.name}" and overrides[:2] == ["data.shards=SET", "run.out=RUN"]
    px = config.load(Pretrain, file, overrides).model.image_px
    return check.check(file, [f"data.shards={sets[px]}", *overrides[1:], *more], Wish(on or ranks, gpu=gpu))["plans"]


def cells(plan: dict[str, Any]) -> list[str]:
    three = [plan["images_per_s"], plan["days"] * 24, plan["memory_gb"]["total"]]
    return [str(plan["ranks"]), *map(in_three, three), f"{plan['rate_of_one_rank']:.0%}"[:-1], plan["bound_by"]]


def in_three(value: float) -> str:
    """Three digits that count."""
    after = 2 - math.floor(math.log10(value))
    return f"{round(value, after):,.{max(0, after)}f}"


def lines(rows: list[list[str]]) -> str:
    """The table's rows, under HEAD."""
    return "\n".join(f"#{row[0]:>8}{row[1]:>10}{row[2]:>8}{row[3]:>11}{row[4]:>18} %  {row[5]}" for row in rows)


def near(told: list[list[str]], wanted: list[list[str]]) -> bool:
    """Whether every figure is what it was, and all that is no figure the same."""

    def same(one: str, other: str) -> bool:
        if one[0].isdigit() and other[0].isdigit():
            return math.isclose(*(float(cell.replace(",", "")) for cell in (one, other)), rel_tol=AS_BEFORE)
        return one == other

    pairs = zip(told, wanted, strict=True)
    return len(told) == len(wanted) and all(same(a, b) for row, other in pairs for a, b in zip(row, other, strict=True))


@pytest.mark.parametrize("file", PRICED, ids=lambda file: file.stem)
def test_the_price_in_the_head_of_a_recipe_is_what_check_foretells(file: Path, sets: dict[int, Path]) -> None:
    text, wanted = file.read_text(), price(file, sets)
    if os.environ.get("REFRESH"):
        block = re.escape(HEAD) + r"\n(?:#   +\d.*\n)*"
        text = re.sub(block, lambda _: f"{HEAD}\n{lines(wanted)}\n", text)
        file.write_text(re.sub(r"foretold \([\d-]+\)", f"foretold ({datetime.date.today()})", text))
        text = file.read_text()
    told = [list(row) for row in ROW.findall(text)]
    assert len(told) == len(wanted) and near(told, wanted), (
        f"check foretells now for {file.name} (REFRESH=1 with this test writes it):\n{HEAD}\n{lines(wanted)}"
    )


@pytest.mark.parametrize("file", [file for file in PRICED if file.stem.startswith("vit_")], ids=lambda f: f.stem)
def test_the_larger_batches_that_a_head_names_for_more_ranks_gain_what_it_says(
    file: Path, sets: dict[int, Path]
) -> None:
    named = ADVICE.findall(file.read_text())
    assert len(named) == 2
    for percent, ranks, size in named:
        [plan] = plans(file, sets, f"batch.size={size}", on=ranks)
        assert math.isclose(100 * plan["rate_of_one_rank"], int(percent), rel_tol=AS_BEFORE), f"{size}: {cells(plan)}"


def test_the_table_of_recipes_has_the_prices_of_their_heads() -> None:
    readme = CONFIGS / "README.md"
    for file in PRICED:
        rows = ROW.findall(file.read_text())
        row = f"{' | '.join(row[2] for row in rows)} | {rows[0][3]} |"
        line = re.compile(rf"^(\| `pretrain/{file.name}` \|[^|]*\|[^|]*\| ).*$", re.MULTILINE)
        assert line.search(readme.read_text()), f"{file.name} stands in no row of configs/README.md"
        if os.environ.get("REFRESH"):
            readme.write_text(line.sub(lambda found, row=row: found[1] + row, readme.read_text()))
        assert line.sub(lambda found, row=row: found[1] + row, readme.read_text()) == readme.read_text(), row


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_every_recipe_builds_its_model_with_the_weights_that_check_counts(file: Path) -> None:
    rec = config.load(Pretrain, file, ["data.shards=SET"])
    with torch.device("meta"):
        model = setup.fresh(rec)
    shape = setup.shape_of(rec)
    assert sum(p.numel() for p in model.parameters()) == shape.trained + shape.frozen
    assert rec.batch.size % rec.batch.micro == 0, "full micro-batches on one rank"
