"""Whether a command is a slip, which asks for another run than the one in run.out: seen before anything is touched.

Without torch: what supervises a run looks as well, since a mistake is not to be tried again.
"""

from pathlib import Path

from fer_scale import config
from fer_scale.pretrain.recipe import Pretrain
from shards.errors import UserError


def refuse_slip(rec: Pretrain, changes: list[str]) -> None:
    """UserError where there is a run, running or ended, and this is another one or may not go on with it."""
    run, file = rec.run, rec.run.out / "recipe.toml"
    if not file.exists():
        return
    saved = any(run.out.glob("checkpoints/step_*[0-9]/manifest.json"))
    refuse_another(rec, [*changes, "model.start_from"] if saved else changes)
    if saved:
        refuse_another_start(rec, config.load(Pretrain, file).model.start_from)
    if run.resume == "never" and (saved or not (run.out / "outcome.json").exists()):
        raise UserError(f"{run.out}: holds a run already and run.resume is never; use another run.out")


def refuse_another(rec: Pretrain, changes: list[str], recipe_file: Path | None = None, moved_from: str = "") -> None:
    """Refuse another recipe than the run's: another value of a `maths` key, or other weights of data.shards.

    Where the sets lie is layout, and what they hold is checked by content; how they are mixed is mathematics.
    """
    file = recipe_file or rec.run.out / "recipe.toml"
    config.refuse_another(file, rec, changes, moved_from)
    was, now = config.load(Pretrain, file).data.weights(), rec.data.weights()
    if was != now and "data.shards" not in {change.partition("=")[0] for change in changes}:
        before, after = (", ".join(map(str, weights)) or "none" for weights in (was, now))
        raise config.ConfigError(
            f"{moved_from or rec.run.out}: holds a run with another recipe:\n"
            f"  data.shards: weights {before} -> {after}\n"
            f"{'' if moved_from else 'use another run.out, or '}go on with the change by --change data.shards=..."
        )


def refuse_another_start(rec: Pretrain, was: str | None) -> None:
    """ConfigError where a run that has a checkpoint began with other weights: no change, its own are further."""
    if was != rec.model.start_from:
        raise config.ConfigError(
            f"model.start_from: the weights of {rec.run.out} are in its checkpoint, and it began with "
            f"{was or 'none'}; give that again, or use another run.out to start from {rec.model.start_from or 'none'}"
        )
