"""The files that come with the program: recipes and ZeRO layouts in configs/, and launch/ for clusters.

In a checkout they lie beside the package. A wheel carries them inside it (pyproject.toml maps them to shipped/), for
the folder around an installed package belongs to everybody. Wherever a recipe or a layout is taken, a path is a path,
and where nothing lies there the name of one of these: `pretrain/demo` and `configs/pretrain/demo.toml` alike.
"""

import difflib
import os
from pathlib import Path

PACKAGE = Path(__file__).parent
_INSIDE = PACKAGE / "shipped"
ROOT = _INSIDE if _INSIDE.is_dir() else PACKAGE.parent
CONFIGS, LAUNCH = ROOT / "configs", ROOT / "launch"


def recipes() -> dict[str, Path]:
    """Every recipe by its name, as `pretrain/demo`."""
    return {_name(file): file for file in sorted(CONFIGS.glob("*/*.toml"))}


def purpose(recipe: Path) -> str:
    """What a recipe is for, in the words at its head."""
    return recipe.read_text().partition("\n")[0].removeprefix("# ").rstrip(".")


def find(path: str | Path) -> Path:
    """The file of a recipe or a layout: at this path, else ours of this name, else the path, where nothing lies."""
    path = Path(path)
    ours = {_name(file): file for file in CONFIGS.glob("*/*.*")}
    ours |= {f"{file.parent.name}/{file.name}": file for file in ours.values()}
    return path if os.path.isfile(path) else ours.get(path.as_posix().removeprefix("configs/"), path)


def meant(path: Path) -> str:
    """The end of a mistake's line: the recipes that were probably meant, or how to see them all."""
    asked, names = path.with_suffix("").as_posix().removeprefix("configs/"), recipes()
    stems = difflib.get_close_matches(path.stem, [file.stem for file in names.values()], n=1)
    near = difflib.get_close_matches(asked, names, n=1) or [name for name, file in names.items() if file.stem in stems]
    return f"did you mean {' or '.join(near)}?" if near else "`fer-scale recipes` lists ours"


def _name(file: Path) -> str:
    return f"{file.parent.name}/{file.stem}"
