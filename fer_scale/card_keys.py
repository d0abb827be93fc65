"""The section [card] of a recipe: what the card of the published model says that no run knows by itself."""

from dataclasses import dataclass

from fer_scale.config import knob


@dataclass(frozen=True, kw_only=True, slots=True)
class Card:
    license: str | None = knob(None, kind="watch", help="licence of the published weights; there is no default")
    title: str | None = knob(None, kind="watch", help="title of the model card")
    contact: str | None = knob(None, kind="watch", help="whom people in the data may write to, as the card says")
    data: tuple[str, ...] = knob((), kind="watch", help="sources of the data that the sets' indexes do not tell of")


@dataclass(frozen=True, kw_only=True, slots=True)
class CardOfPretraining(Card):
    pictures: bool = knob(False, kind="watch", help="also publish reconstructions.png, which shows training faces")
