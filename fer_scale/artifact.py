"""A folder that travels: an encoder or an expression model as plain files, every byte of which can be checked.

    model.safetensors  config.json     what timm and transformers read
    README.md  curves.png ...          the card and its pictures
    manifest.json                      {"version": 1, "files": {NAME: {"bytes": N, "sha256": HEX}}}, written last
    model.sig                          a signature over all of them but the card, where one was asked for (signature.py)

The manifest leaves README.md out: a card may be corrected by hand, on the Hub too, without breaking the rest. A folder
is put in place by renames; whoever kills that leaves the old folder or the new one.

Whoever loads a model goes through encoder.read(), and whoever fetches one through hub.pull(): both call check().
"""

import errno
import hashlib
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fer_scale import disk, front_matter
from shards.errors import UserError

CARD, MANIFEST, SIGNATURE = "README.md", "manifest.json", "model.sig"
WEIGHTS = "model.safetensors"
NEEDED = ("config.json", WEIGHTS)
LOADED = (".safetensors", ".json")  # what loaders of models look for, and so must stand in a manifest
_FROM = ", from "  # between a licence and that of the weights before
_AND = " and "  # between what the card says and what the config does
_LICENCE_CHARS = 500  # as many as model_config.py takes again
_FRONT_BYTES = 64 << 10  # of a card, in which its front matter must end
_MANIFEST_BYTES = 1 << 20
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_SUFFIXES = {".safetensors", ".json", ".md", ".png", ".jpg", ".txt", ".sig"}


class ArtifactError(UserError):
    """A folder that is not, or cannot become, what its manifest says."""


def belongs(name: str) -> bool:
    """Whether a file of this name may travel: no folders, no hidden files, and nothing that may hold a pickle."""
    plain = name.isprintable() and "/" not in name and "\\" not in name and not name.startswith(".") and len(name) < 100
    return plain and (name == "LICENSE" or Path(name).suffix in _SUFFIXES)


def refuse_no_model(place: Path) -> None:
    """ArtifactError where a place cannot be a model folder, by the names there; it says what was probably meant."""
    pickle = "a pickle may run any code, so none is loaded"
    if not place.is_dir():
        if not place.exists():
            raise ArtifactError(f"{place}: no such folder; a repository of the Hub is written hf://ORG/NAME")
        why = f" ({pickle})" if place.suffix in _PICKLES else ""
        raise ArtifactError(f"{place}: is a file{why}; a model is a folder with {' and '.join(NEEDED)}")
    if not (missing := [name for name in NEEDED if not (place / name).is_file()]):
        return
    if (place / "recipe.toml").exists():
        cut = f"cut one from it with `fer-scale publish {place} TO --licence LICENCE`"
        own = place / "model"
        raise ArtifactError(f"{place}: is a run and no model; {f'its model is {own}' if own.is_dir() else cut}")
    why = f" (and {found.name} is not read: {pickle})" if (found := _a_pickle(place)) else ""
    raise ArtifactError(
        f"{place}: no {' and no '.join(missing)}{why}; a model folder is what `fer-scale publish` writes"
    )


def _a_pickle(folder: Path) -> Path | None:
    return next((file for file in sorted(folder.iterdir()) if file.suffix in _PICKLES), None)


def files(folder: Path) -> dict[str, Path]:
    """The files of a model folder that may travel, by name, in order."""
    refuse_no_model(folder)
    return {path.name: path for path in sorted(folder.iterdir()) if belongs(path.name) and path.is_file()}


def licence(folder: Path, config: dict[str, Any]) -> str:
    """The licence, or "unknown", and those of the weights that it came from in turn: "mit, from cc-by-nc-4.0".

    Where a sealed config says another one than the card, which anybody may edit, it is "mit and cc-by-nc-4.0".
    """
    card = folder / CARD
    began = small(card, _FRONT_BYTES, cut=True).decode(errors="replace") if card.is_file() else ""
    front = re.match(r"---\n(.*?)\n---\n", began, re.DOTALL)
    found = dict(re.findall(r"^(license|license_name):(.*)$", front[1], re.MULTILINE)) if front else {}
    listed = config.get("pretrained_cfg", {}).get("license")
    said = _licence_name(found.get("license_name") or found.get("license", listed))
    if listed and (folder / MANIFEST).is_file():  # which the card is not in: what was sealed is named beside it
        slug = front_matter.licence(str(listed))
        said = _AND.join(dict.fromkeys([said, slug.get("license_name", slug["license"])]))
    before = config.get("fer_scale", {}).get("base_licence")
    chain = [*dict.fromkeys([said, *(map(_licence_name, str(before).split(_FROM)) if before else [])])]
    whole = _FROM.join(chain)
    return whole if len(whole) <= _LICENCE_CHARS else _FROM.join([chain[0], chain[-1]])


def _licence_name(said: Any) -> str:
    """A licence as a stranger's card or config names it; "unknown" where that is no name, but a list or worse."""
    name = re.sub(r"(^|\s)#.*", "", str(said or "")).strip().strip("\"'")
    return name if re.fullmatch(rf"[\w.+-]{{1,64}}({_AND}[\w.+-]{{1,64}})?", name) else "unknown"


def refuse_foreign(folder: Path) -> None:
    """Refuse to send a folder with anything in it that must not travel: it was not meant, or must not be."""
    ours = files(folder)
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in ours and not path.name.startswith("."))
    if foreign:
        raise ArtifactError(
            f"{folder}: holds {', '.join(foreign[:5])}, which is no part of a published model (safetensors, JSON, card "
            "and pictures; never a pickle); move it elsewhere"
        )


def seal(folder: Path) -> None:
    """Write the manifest of a finished folder."""
    listed = {
        name: {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for name, path in files(folder).items()
        if name not in (CARD, MANIFEST, SIGNATURE)
    }
    disk.put(folder / MANIFEST, json.dumps({"version": 1, "files": listed}, indent=2) + "\n")


def published(folder: Path) -> bool:
    """Whether `publish` or `pull` wrote a folder, and not fine-tuning: what that leaves has a manifest, but no card."""
    return all((folder / name).is_file() for name in (MANIFEST, WEIGHTS, CARD))


def manifest(folder: Path) -> dict[str, tuple[int, str]] | None:
    """Bytes and sha256 of every file that the folder's manifest lists, or None where there is no manifest."""
    place = folder / MANIFEST
    if not place.is_file():
        return None
    try:
        said = strict_json(small(place, _MANIFEST_BYTES))
        version = int(said["version"])
        listed = {name: (file["bytes"], file["sha256"]) for name, file in said["files"].items()}
        if strange := [name for name, entry in listed.items() if tuple(map(type, entry)) != (int, str)]:
            raise ValueError(f"of {strange[0][:60]!r} it says no bytes or no sha256")
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ArtifactError(f"{place}: not a manifest ({error!r:.200}); pull or publish the model again") from None
    if version != 1:
        raise ArtifactError(f"{place}: of version {version}, this program reads 1; update fer_scale")
    return listed


def check(folder: Path) -> None:
    """Read every byte again that the manifest lists; all that is damaged, missing or not listed is named.

    A folder without a manifest (weights of timm, say) has nothing to be checked against.
    """
    listed = manifest(folder)
    if listed is None:
        return
    damaged = []
    for name, (size, digest) in listed.items():
        path = folder / name
        if not belongs(name) or not path.is_file():
            damaged.append(f"{repr(name)[1:-1][:60]} is missing")
        elif path.stat().st_size != size:
            damaged.append(f"{name} has {path.stat().st_size} bytes, not {size}")
        elif sha256(path) != digest:
            damaged.append(f"{name} has changed since it was published")
    strange = {path.name for path in folder.iterdir() if path.suffix in LOADED} - {*listed, MANIFEST}
    damaged += [f"{name} is not in its {MANIFEST}" for name in sorted({*NEEDED, *strange} - {*listed})]
    if damaged:
        more = f"; and {len(damaged) - 10} more" if len(damaged) > 10 else ""
        raise ArtifactError(f"{folder}: damaged: {'; '.join(damaged[:10])}{more}; pull or publish it again")


def strict_json(raw: bytes) -> Any:
    """What JSON says, ValueError where it is none, or says a thing twice: Python would take the last, others the first.

    NaN and Infinity, which Python reads and JSON does not have, are refused.
    """

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is no number of JSON")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        said: dict[str, Any] = {}
        for name, value in pairs:
            if name in said:
                raise ValueError(f"it says {name[:60]!r} twice")
            said[name] = value
        return said

    try:
        return json.loads(raw, object_pairs_hook=once, parse_constant=constant)
    except RecursionError:
        raise ValueError("brackets within brackets, too many") from None


def small(file: Path, most: int, *, cut: bool = False) -> bytes:
    """The bytes of a file of at most `most`; ValueError where it has more, unless it may be `cut` there."""
    with file.open("rb") as opened:
        data = opened.read(most + 1)
    if len(data) > most and not cut:
        raise ValueError(f"more than {most:,} bytes")
    return data[:most]


def put(source: Path, place: Path, *, card: bool = True) -> None:
    """Copy the model in `source` to `place`: afterwards `place` is the new folder whole, or what it was before.

    An older model of ours is replaced; a folder that holds anything else is left alone, and that is an error. Without
    `card` that of the same model stays: it may have been edited.
    """
    offered = files(source)
    with disk_errors(place):
        if _same(offered, place, card):
            return
    with disk_errors(place), disk.alone(place):
        if not _same(offered, place, card):  # another process may have put it there by now
            with in_place(place, refuse_to_replace) as beside:
                for name, path in offered.items():
                    shutil.copyfile(path, beside / name)  # follows the links of the Hub's cache


@contextmanager
def in_place(place: Path, refuse: Callable[[Path], None]) -> Iterator[Path]:
    """A folder to fill, which is then put at `place` by renames; before, `refuse` says what may not be replaced.

    For one process at a time: see disk.alone().
    """
    place = place.resolve()
    beside, old = place.with_name(f".{place.name}.part"), place.with_name(f".{place.name}.old")
    with disk_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        if old.exists() and not place.exists():
            old.rename(place)  # killed between the two renames below
        refuse(place)
        for rest in (beside, old):
            shutil.rmtree(rest, ignore_errors=True)
        try:
            beside.mkdir()
            yield beside
            if place.exists():
                place.rename(old)
            beside.rename(place)
        finally:
            if old.exists() and not place.exists():
                old.rename(place)  # the disk refused the second
            shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def sha256(path: Path) -> str:
    """The sha256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def disk_errors(place: Path) -> Iterator[None]:
    """Says in plain words what the disk under `place` refused."""
    try:
        yield
    except OSError as error:
        words = {
            errno.ENOSPC: "the disk is full; free some space or choose another disk",
            errno.EDQUOT: "the disk quota is used up; free some space or choose another disk",
            errno.EROFS: "the file system is read-only; choose another folder",
            errno.EACCES: "no right to write there; choose another folder",
            errno.EPERM: "no right to write there; choose another folder",
            errno.ENOTDIR: "a file stands where a folder is needed; choose another folder",
            errno.EEXIST: "a file stands where a folder is needed; choose another folder",
            errno.EBUSY: "is a mount point, which nothing can take the place of; give a folder in it",
        }.get(error.errno or 0)
        if words is None:
            raise
        raise ArtifactError(f"{place}: {words}") from error


def _same(offered: dict[str, Path], place: Path, card: bool) -> bool:
    if not place.is_dir() or {path.name for path in place.iterdir()} != set(offered):
        return False
    return all(sha256(path) == sha256(place / name) for name, path in offered.items() if card or name != CARD)


def refuse_to_replace(place: Path, *, but_models: bool = False) -> None:
    """Replace only what `publish` or `pull` wrote, as its manifest shows: never a run, never somebody's home.

    `but_models`: what may be a model without a manifest, as of somebody else, waits until the new one is here.
    """
    refuse_fixed(place)
    if not place.exists() or (place.is_dir() and not any(place.iterdir())):
        return
    if not place.is_dir():
        raise ArtifactError(f"{place}: is a file; give a folder")
    ours = {CARD, MANIFEST, SIGNATURE, *(manifest(place) or {})}
    others = [path.name for path in sorted(place.iterdir()) if path.name not in ours]
    if but_models and all(map(belongs, others)):
        return
    if others or not published(place):
        raise ArtifactError(
            f"{place}: is not empty and holds what was not published there ({', '.join(others[:5])}); nothing was "
            "written; give another folder, or empty this one first"
        )


def refuse_fixed(place: Path) -> None:
    """ArtifactError for a folder that no other can take the place of."""
    if place.exists() and (place.samefile(".") or place.is_mount()):
        what = "where you are" if place.samefile(".") else "a mount point"
        raise ArtifactError(f"{place}: is {what}, and another folder would take its place; give a folder in it")
