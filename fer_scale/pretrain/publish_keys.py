"""The section [publish] of a pre-training recipe: what of a run is published while it trains. publishing.py does it."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fer_scale.config import at_least, knob, require

_REPOSITORY = r"hf://[\w.-]+/[\w.-]+"


@dataclass(frozen=True, kw_only=True, slots=True)
class Publish:
    to: str | None = knob(None, kind="watch", help="where the encoder is published to: hf://ORG/NAME, or a folder")
    every_steps: int | None = knob(
        None, kind="watch", help="publish the first checkpoint at or after every so many steps; none: only the last"
    )
    parts: Literal["encoder", "encoder,decoder"] = knob(
        "encoder", kind="watch", help="encoder,decoder: also what others need to go on with pre-training"
    )
    sign: Path | None = knob(
        None, kind="watch", help="private key (PEM) to sign by, which only the main rank reads (extra: sign)"
    )
    private: bool = knob(False, kind="watch", help="the repository, if it is made, is private")
    state: bool | str = knob(
        False, kind="watch", help="the training state too, to ORG/NAME-state or to this hf:// address: always private"
    )
    wait_s: float = knob(600, kind="watch", help="seconds that the end of a run waits for its last publication")

    def __post_init__(self) -> None:
        to = self.to or ""
        require(
            (
                bool(re.fullmatch(rf"{_REPOSITORY}|(?!\w[\w-]+:).+|", to)),
                f"to: {to} is neither a folder nor hf://ORG/NAME; each publication is a commit, so there is no tag",
            ),
            *at_least(self, 1, "every_steps"),
            *at_least(self, 0, "wait_s"),
            (bool(to) or not (self.every_steps or self.state or self.sign), "to: missing; say where to publish to"),
            (
                not (to and self.state) or bool(re.fullmatch(_REPOSITORY, self.state_to or "")),
                "state: goes to a repository of its own; give its address, as hf://ORG/NAME-state",
            ),
            (not to or self.state_to != to, f"state: needs another repository than the encoder's, {to}"),
        )

    @property
    def state_to(self) -> str | None:
        """Where the training state goes."""
        return self.state if isinstance(self.state, str) else f"{self.to}-state" if self.state else None
