"""What of a repository may be replaced: what our own list there names. Files of others stay, and so do ours of another
kind, as in a folder (artifact.refuse_to_replace).

    model             manifest.json: the files in it, itself, and model.sig
    shard set         index.json: its shards and lists, itself, and LICENSE where that is the licence it says
    training state    checkpoint/ and metrics.json, by their names (portable.py)
    Space             fer_scale/, shards/, model/, app.py, requirements.txt and LICENSE, by their names (space.py)
"""

import re
from collections.abc import Iterable
from pathlib import Path

from fer_scale import artifact, hub_pull
from fer_scale.artifact import CARD, MANIFEST, SIGNATURE
from fer_scale.hub_errors import HubError
from fer_scale.hub_tree import Entry, Place
from shards.errors import UserError
from shards.index import INDEX, check_names, index_from, kinds

MODEL, SET, STATE, SPACE = "model", "shard set", "training state", "Space"
STATE_FILES = re.compile(r"checkpoint/(state-\d+-of-\d+\.safetensors|(progress|manifest)\.json)|metrics\.json")
_SPACE = re.compile(r"(fer_scale|shards)/.+\.py|model/[^/]+|app\.py|requirements\.txt|LICENSE")
LICENCE = "LICENSE"
_LIST_BYTES = 64 << 20  # of the index of the largest set that the Hub takes, and more


def kinds_of(names: Iterable[str]) -> set[str]:
    """What files of these names are: the kinds of ours, or none of them."""
    names = set(names)
    found = {MODEL} if {MANIFEST, *artifact.NEEDED} & names else set()
    found |= {SET} if INDEX in names else set()
    found |= {SPACE} if "fer_scale/space.py" in names else set()
    return found | ({STATE} if any("/" in name and STATE_FILES.fullmatch(name) for name in names) else set())


def refuse_others(place: Place, there: Iterable[str], wanted: set[str]) -> None:
    """HubError where something lies there that is of another kind than what is to replace it."""
    if others := kinds_of(there) - wanted:
        raise HubError(f"{place}: holds a {' and a '.join(sorted(others))}; nothing was sent; choose another name")


def refuse_to_replace(place: Place, names: Iterable[str]) -> None:
    """HubError where files of these names lie there that are not ours; but a card, which every repository has."""
    if others := sorted({*names} - {CARD}):
        raise HubError(
            f"{place}: its {', '.join(others[:5])} would be replaced, and was not put there by this program; nothing "
            "was sent; choose another name, or remove that there first"
        )


def held(place: Place, commit: str, there: dict[str, Entry]) -> set[str]:
    """The names of the files of a commit that our own list there names; HubError where ours lack a list of ours."""
    found = kinds_of(there)
    names = {name for name in there if STATE_FILES.fullmatch(name)} if STATE in found else set()
    names |= {name for name in there if _SPACE.fullmatch(name)} if SPACE in found else set()
    if MODEL in found:
        names |= _of_model(_fetched(place, commit, there, MANIFEST), place)
    if SET in found:
        names |= _of_set(_fetched(place, commit, there, INDEX, LICENCE), place)
    return names & there.keys()


def _of_model(folder: Path, place: Place) -> set[str]:
    try:
        listed = artifact.manifest(folder) or {}
    except UserError as error:
        raise _foreign(place, MANIFEST) from error
    return {MANIFEST, SIGNATURE, *(name for name in listed if artifact.belongs(name) and name != CARD)}


def _of_set(folder: Path, place: Place) -> set[str]:
    try:
        index = index_from((folder / INDEX).read_bytes(), str(place))
        check_names(index, str(place))
    except (UserError, TypeError, AttributeError) as error:
        raise _foreign(place, INDEX) from error
    shards = [f"{shard['name']}.{kind}" for shard in index["shards"] for kind in kinds(shard)]
    licence = folder / LICENCE
    is_ours = licence.is_file() and licence.read_bytes() == f"{index.get('licence')}\n".encode()  # as sets.py writes it
    return {INDEX, *index.get("files", {}), *shards, *([LICENCE] if is_ours else ())}


def _fetched(place: Place, commit: str, there: dict[str, Entry], name: str, *more: str) -> Path:
    """The folder with the list `name` of a commit, and files that it has `more`."""
    if name not in there or there[name].size > _LIST_BYTES:
        raise _foreign(place, name)
    at = Place(place.repo, commit, place.kind)
    return hub_pull.pull(at, lambda other: other in (name, *more), (name,), lambda done, total: None)[0]


def _foreign(place: Place, name: str) -> HubError:
    return HubError(
        f"{place}: holds files that were not published there by this program, as no {name} of ours says what they are; "
        "nothing was sent; choose another name, or remove them there first"
    )
