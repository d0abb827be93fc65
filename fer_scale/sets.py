"""A packed shard set -> a dataset of the Hub, with its card: what `fer-scale publish SET hf://datasets/ORG/NAME` does.

Every byte is checked against the set's index first. Then its files travel as they lie, but for two: the card is made
of what the index says, and index.json carries the licence, from where it reaches the card of every model that is
trained on the set, wherever it is read. There is no default licence.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fer_scale import front_matter, hub, hub_held, hub_rights, log, scratch, set_card
from shards.describe import to_text
from shards.errors import UserError
from shards.index import BESIDE, INDEX, ShardSet, check_names, kinds, sha256

CARD = "README.md"
_MOST_FILES = 10_000  # of one folder, by the Hub's "repository limitations and recommendations"


class SetError(UserError):
    """A shard set that cannot be published as it is."""


def publish(
    source: Path,
    to: str,
    *,
    licence: str | None = None,
    title: str | None = None,
    contact: str | None = None,
    private: bool = False,
) -> str:
    """Publish the set in the folder `source` at `to`, hf://datasets/ORG/NAME[@TAG]; the address with its commit.

    `licence` wins over the one in the set's index, and `contact` is whom people in it may write to. What is there
    already is not sent again, so a publication that was killed is simply started again; `private` is for a repository
    that this one makes. A card that was edited there stays with the same set, and is written anew with a new one.
    """
    name = _repository(source, to)
    shards = ShardSet.open(source)
    check_names(shards.index, f"{source}/{INDEX}")
    index = shards.index | {"licence": _licence(source, licence, shards.index.get("licence"))}
    index["files"] = _lists(source, shards.index.get("files"))
    files = _files(source, index)
    if unknown := hub_rights.may_write(to, hub_held.SET, private=private):  # asked before minutes are spent on reading
        log.say(f"note     whether that may be written to is not known yet: {unknown}")
    columns = _checked(shards)
    if not private:
        log.say(f"note     {shards.samples:,} pictures of people become public, unless the repository is private")
    with scratch.folder() as made:
        card = set_card.text(index, shards.fingerprint, columns, name=name, title=title, contact=contact)
        texts = {CARD: card}
        if index != shards.index:
            texts[INDEX] = to_text(index)
        if set_card.needs_text(index["licence"]):
            texts[hub_held.LICENCE] = index["licence"] + "\n"
        for file, said in texts.items():
            files[file] = made / file
            files[file].write_text(said, encoding="utf-8")
        message = f"Publish {shards.name}: {shards.samples:,} faces in {log.plural(len(shards.counts), 'shard')}"
        with log.progress(f"publishing {source}", "bytes") as tick:
            return hub.push_files(files, to, message=message, private=private, progress=tick)


def _repository(source: Path, to: str) -> str:
    """ORG/NAME of the address."""
    if match := re.fullmatch(r"hf://datasets/([\w.-]+/[\w.-]+)(?:@[^@\s]+)?", to):
        return match[1]
    raise SetError(f"{to}: {source} is a shard set, which is published to hf://datasets/ORG/NAME[@TAG]")


def _licence(source: Path, given: str | None, known: str | None) -> str:
    """The licence, which has no default: whoever publishes knows what the images allow, this program does not."""
    given, known = (given or "").strip(), (known or "").strip()
    if front_matter.is_no_licence(known):
        known = ""
    if front_matter.is_no_licence(given):
        raise SetError(
            f"{source}: {given!r} is no licence; give the name of one, as cc-by-nc-4.0, or say what is allowed in words"
        )
    if given and known and given != known:
        log.say(f"note     the set's index says {known!r}; it is published as {given!r}")
    if said := given or known:
        return said
    raise SetError(
        f"{source}: its {INDEX} names no licence, and there is no default. Add --licence, as --licence cc-by-nc-4.0 or "
        '--licence "non-commercial research, https://...": it is written into the published index, and from there into '
        "the card of every model that is trained on the set. `fer-scale pack --licence` writes it from the start"
    )


def _lists(source: Path, known: Mapping[str, str] | None) -> dict[str, str]:
    """The sha256 of the lists beside the shards; SetError where one is not as it was packed."""
    found = {name: sha256(source / name) for name in BESIDE if (source / name).is_file()}
    if known is None:  # packed before their sums were kept
        return found
    if damaged := [name for name in known if found.get(name) != known[name]]:
        raise _damaged(source, damaged)
    return dict(known)


def _files(source: Path, index: dict[str, Any]) -> dict[str, Path]:
    """What travels, by name."""
    names = [f"{shard['name']}.{kind}" for shard in index["shards"] for kind in kinds(shard)]
    names += [INDEX, *index["files"]]
    if len(names) > _MOST_FILES:
        raise SetError(
            f"{source}: {len(names):,} files; a folder of the Hub should hold {_MOST_FILES:,} at most. Pack the set "
            "again with a larger --shard-mb: the order of its samples stays"
        )
    return {name: source / name for name in names}


def _checked(shards: ShardSet) -> set[str]:
    """Read every byte of the shards against the index; the kinds of members that lie in their tars."""
    columns, done = set[str](), 0
    total, damaged = sum(shard["bytes"] for shard in shards.index["shards"]), list[str]()
    with log.progress(f"checking {shards.path}", "bytes") as tick:
        for number, shard in enumerate(shards.index["shards"]):
            tick(done, total)
            wrong = [kind for kind, entry in kinds(shard).items() if sha256(shards.file(number, kind)) != shard[entry]]
            damaged += [f"{shard['name']}.{kind}" for kind in wrong]
            if not wrong:
                columns |= shards.member_kinds(number)
            done += shard["bytes"]
        tick(total, total)
    if damaged:
        raise _damaged(shards.path, damaged)
    return columns


def _damaged(source: Path, names: list[str]) -> SetError:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return SetError(
        f"{source}: other bytes than were packed in {', '.join(names[:5])}{more}; nothing was sent. `fer-scale verify` "
        "names the samples; copy the set again, or pack it again from its source"
    )
