"""Whether a command is a slip, as pretrain/slip.py has it. Without torch: what supervises a run looks as well."""

from fer_scale import config
from fer_scale.finetune.recipe import Finetune


def refuse_slip(recipe: Finetune, changes: list[str]) -> None:
    """ConfigError where there is a run, running or ended, and this is another one."""
    file = recipe.run.out / "recipe.toml"
    if file.exists():
        config.refuse_another(file, recipe, changes)
