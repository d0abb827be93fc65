"""Where models and sets travel: a folder, or a repository of the Hugging Face Hub.

An address is a folder, or `hf://ORG/NAME[@REVISION]`: a branch, tag or commit when pulling, a tag to be set when
pushing; `hf://datasets/ORG/NAME[@REVISION]` for data, and `hf://spaces/ORG/NAME` for a Space, which is only pushed.
This file is the face of what only these know:

    hub_push.py     files -> one commit, guarded by its parent, checked against the remote tree
    hub_pull.py     a commit -> files in the Hub's cache, every byte hashed
    hub_held.py     what of a repository is ours to replace
    hub_tree.py     addresses, and which files with which hashes lie there
    hub_client.py   limits of time, tries, and what no server may say
    hub_xet.py      the same for Xet, which works beside Python
    hub_errors.py   one error a case, in plain words

Only safetensors, JSON, cards, pictures and shards travel, in either direction: never a pickle. Code
is pushed to Spaces.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import is_offline_mode

from fer_scale import artifact, hub_pull, hub_push, hub_tree, signature
from fer_scale.hub_errors import HubError as HubError  # part of this file's face
from fer_scale.hub_errors import NoNetwork, plain_words
from shards import access

Progress = Callable[[int, int], None]  # bytes done, bytes in all


@dataclass(frozen=True, slots=True)
class Pulled:
    """A folder with checked files, and the address that stands for exactly these for ever."""

    folder: Path
    address: str  # with the commit: hf://ORG/NAME@SHA


def is_remote(address: str) -> bool:
    """Whether the address is a repository of the Hub rather than a folder."""
    return address.startswith("hf://")


def resolve(address: str) -> str:
    """The address with the commit that it stands for now; a folder is its own. One cheap request.

    With HF_HUB_OFFLINE=1 the commit is that of the newest pull.
    """
    if not is_remote(address):
        return str(_folder(address))
    place = hub_tree.parse(address)
    with plain_words(address, place.page):
        return place.at(hub_pull.cached_commit(place) if is_offline_mode() else hub_tree.commit_of(place))


def pull(address: str, to: Path | None = None, *, key: Path | None = None, progress: Progress | None = None) -> Pulled:
    """The model at `address` as a folder whose every byte has been checked; copied to `to` if given.

    A remote revision is first resolved to a commit, and the model lies in the Hub's cache. An exact commit that lies
    there already is checked and used without a request, and with HF_HUB_OFFLINE=1 so is the newest one. A folder is
    checked against its manifest if it has one. With a `key`, all of it but the card must have been signed by the owner
    of that public key (signature.py).
    """
    if is_remote(address):
        found = _pull(address, artifact.belongs, artifact.NEEDED, progress)
    else:
        found = Pulled(_folder(address), address)
        artifact.refuse_no_model(found.folder)
    artifact.check(found.folder)
    if key is not None:
        signature.check(found.folder, key)
    if to is None:
        return found
    artifact.put(found.folder, to)
    return Pulled(to, found.address)


def pull_files(address: str, wanted: Callable[[str], bool], *, progress: Progress | None = None) -> Pulled:
    """Those files of a repository whose names are `wanted`, in the Hub's cache, each byte hashed as the Hub has it.

    Names may have folders in them. What can hold a pickle, or has a name that leads elsewhere, is never asked for.
    """
    return _pull(address, wanted, (), progress)


def pull_file(address: str, name: str) -> Path:
    """One file of a repository that is no model of ours, in the Hub's cache; the caller knows what its bytes must be.

    Any name, so that the caller must not load it as what may run code.
    """
    place = hub_tree.parse(address)
    with plain_words(address, place.page):
        return hub_pull.pull(place, lambda other: other == name, (name,), _silent)[0] / name


def push(
    folder: Path,
    address: str,
    *,
    message: str,
    private: bool = False,
    card: bool = False,
    progress: Progress | None = None,
) -> str:
    """Put the model in `folder` at `address`, and return the address; on the Hub with the commit that holds it.

    Nothing is done where the same bytes lie already. `hf://ORG/NAME@TAG` also marks the commit; a tag never moves.
    `private` is for a repository that this push makes. Of what lies there only our model is replaced, as its manifest
    names it. Where nothing but the card differs it stays as it is there, for it may have been edited; with `card` this
    one is sent.
    """
    artifact.refuse_foreign(folder)
    artifact.check(folder)
    if not is_remote(address):
        artifact.put(folder, _folder(address), card=card)
        return address
    return _push(artifact.files(folder), address, message, private, card, progress)


def push_files(
    files: Mapping[str, Path],
    address: str,
    *,
    message: str,
    private: bool = False,
    progress: Progress | None = None,
) -> str:
    """Put files at an address of the Hub by their names there, in folders too; its address with the commit.

    One commit holds them all, or none does. Of a shard set or a training state, what the older one
    there has more goes in the same commit; nothing else does, and a repository with another kind of ours is refused.
    Where nothing but the card differs it stays as it is there. Large files are sent first, and those that are there
    already are not sent again.
    """
    code = address.startswith("hf://spaces/")
    if foreign := sorted(name for name in files if not hub_tree.travels(name, code=code)):
        raise HubError(f"{', '.join(foreign[:5])}: such files do not travel (never a pickle, nothing hidden)")
    return _push(files, address, message, private, False, progress)


def _pull(address: str, wanted: Callable[[str], bool], needed: tuple[str, ...], progress: Progress | None) -> Pulled:
    place = hub_tree.parse(address)
    with plain_words(address, place.page):
        folder, commit = hub_pull.pull(
            place, lambda name: hub_tree.travels(name) and wanted(name), needed, progress or _silent
        )
    return Pulled(folder, place.at(commit))


def _push(
    files: Mapping[str, Path],
    address: str,
    message: str,
    private: bool,
    card: bool,
    progress: Progress | None,
) -> str:
    place = hub_tree.parse(address)
    with plain_words(address, place.page):
        if is_offline_mode():
            raise NoNetwork(f"{address}: HF_HUB_OFFLINE=1 is set; publish where there is a network")
        return place.at(hub_push.push(place, files, message, private=private, card=card, progress=progress or _silent))


def _silent(done: int, total: int) -> None:
    pass


def _folder(address: str) -> Path:
    if meant := access.of_a_page(address):
        raise HubError(f"{address}: is a page of the Hub; write its address, {meant}")
    if match := re.match(r"(hf|hf-hub|local-dir|https?|file|s3|gs):", address):
        raise HubError(f"{address}: {match[0]} is not understood; an address is a folder or hf://ORG/NAME[@REVISION]")
    return Path(address)
