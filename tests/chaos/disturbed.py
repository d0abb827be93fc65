"""A short run that is disturbed and started again by the same command, and what must hold whatever happened to it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from fer_scale import checkpoint, log, plots
from fer_scale.pretrain import pictures, saving

HERE = Path(__file__).parent
RECIPE = str(HERE.parent / "ranks" / "pretrain.toml")
DOOMED = str(HERE / "doomed.py")
STEPS, EVERY = 12, 3
NEVER = 99  # exit code of a doomed rank whose moment did not come


def as_a_driver() -> None:
    """Let a driver's run have two ranks that write, as of a model that is worth it, and draw no pictures: in such a
    short run they take four fifths of the time."""
    assert saving._WORTH_A_WRITER and callable(plots.curves) and callable(pictures.reconstructions)
    saving._WORTH_A_WRITER = 1 << 16
    plots.curves = pictures.reconstructions = lambda *_: None


class Life:
    """The starts of the run in `run`, each `python COMMAND`, until it is done."""

    def __init__(self, run: Path, launch: Callable[..., Any], command: list[str]):
        self.run, self.command = run, [*command, f"run.out={run}"]
        self._launch = launch
        self.starts, self.saved, self.said, self.codes = 0, -1, "", list[int]()

    def start(self, *overrides: str, ranks: int = 2, doom: dict[str, Any] | None = None, **environment: str) -> Any:
        doom = doom or {"rank": -1, "phase": "", "nth": 1, "what": ""}
        return self._launch(ranks, *self.command, *overrides, DOOM=json.dumps(doom), **environment)

    def go(self, *overrides: str, **how: Any) -> str:
        """One start to its end; what all ranks said."""
        return self.ended(self.start(*overrides, **how))

    def ended(self, run: Any) -> str:
        """What all ranks said, at the end of a start. What was saved before it is there, and nothing is damaged."""
        said = [p.communicate(timeout=120)[0] for p in run.processes]
        self.codes, self.said = [p.returncode for p in run.processes], "".join(said)
        self.starts += 1
        self.check()
        return self.said

    def check(self) -> None:
        found, passed = checkpoint.newest(self.run)
        assert not passed, passed
        step = int(found.name.removeprefix("step_")) if found else -1
        assert step >= self.saved, f"step {self.saved} was saved and is gone; {step} is the newest"
        self.saved = step
        for folder in (self.run / "checkpoints").glob("step_*"):
            if not folder.suffix and (folder / "manifest.json").exists():
                state, _ = checkpoint.read(folder)
                assert all(torch.isfinite(tensor).all() for tensor in state.values()), folder

    @property
    def outcome(self) -> dict[str, Any]:
        """What it says of its newest start; nothing where that was killed without a word."""
        file = self.run / "outcome.json"
        return json.loads(file.read_text()) if file.exists() else {}

    @property
    def losses(self) -> dict[int, float | None]:
        return {row["step"]: row["loss"] for row in log.rows(self.run / "metrics.jsonl")}

    @property
    def end(self) -> tuple[dict[int, float | None], dict[str, str]]:
        """The curve, and the sha256 of each file of the last state: what two runs have alike to the last bit."""
        assert (self.codes, self.outcome["outcome"]) == ([0] * len(self.codes), "done"), self.said
        folder = checkpoint.folder_of(self.run, max(self.losses))
        return self.losses, {name: checkpoint.manifest(folder)[name] for name in checkpoint.state_files(folder)}
