"""Who a model comes from: a signature of its folder by a key, as OpenSSF's model signing has it (the extra `sign`).

    openssl ecparam -name prime256v1 -genkey -noout -out KEY.pem     stays with whoever publishes
    openssl ec -in KEY.pem -pubout -out PUB.pem                      goes to whoever loads

What is signed is not the files themselves, but a list in JSON within `model.sig`: the sha256 of `manifest.json`, byte
for byte, and of every file that it lists. To check a folder is to hash these anew, hold them against that list, and
the list against the key. It follows that

- the card is not signed, and may be corrected: that a model is signed says nothing of what its README.md says;
- one other byte in any of the rest, a space in the manifest too, breaks the signature: a folder is signed after it was
  sealed, and again whenever it is changed;
- what lies beside it (hidden files, texts, pictures) neither counts nor hurts; any other file must have been there when
  the folder was signed, and a signature that leaves out what the manifest lists is refused;
- it tells who, and not when: an older model by the same key is as good. Who needs one version names its commit.

Other tools of model signing verify it as well. The library is imported only where a key is given.
"""

import base64
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fer_scale import artifact
from fer_scale.artifact import CARD, MANIFEST, SIGNATURE
from shards.errors import UserError

_MOST_BYTES = 1 << 20  # of a signature; ours have 2 kB


class SignatureError(UserError):
    """A signature that is missing or does not fit, or a key that is none."""


def sign(folder: Path, key: Path) -> None:
    """Write `model.sig` into a sealed folder, by the private key in the file `key` (PEM, without a password)."""
    hashing, _, _ = _library()
    signer = _signer(key)
    if artifact.manifest(folder) is None:
        raise SignatureError(f"{folder}: has no {MANIFEST}, so nothing says what it is made of; publish it first")
    beside = folder / f".{SIGNATURE}.part"
    with artifact.disk_errors(folder), _made_of(folder) as model:
        signer.set_hashing_config(_hashed(hashing)).sign(model, beside)
        beside.replace(folder / SIGNATURE)


def refuse_unfit(key: Path) -> None:
    """Refuse a private key by which nothing can be signed, before there is anything to sign."""
    _signer(key)


def _signer(key: Path) -> Any:
    _, signing, _ = _library()
    try:
        return signing.Config().use_elliptic_key_signer(private_key=key)
    except Exception as error:  # of any kind: it is a stranger's library on a user's file
        raise SignatureError(
            f"{key}: no private key that can sign ({_first_line(error)}); it is PEM of the curve P-256, without a "
            "password: openssl ecparam -name prime256v1 -genkey -noout -out KEY.pem"
        ) from None


def check(folder: Path, key: Path) -> None:
    """Refuse a folder of which not all that it is made of was signed by the owner of the public key in `key`."""
    hashing, _, verifying = _library()
    try:
        verifier = verifying.Config().use_elliptic_key_verifier(public_key=key)
    except Exception as error:  # as above
        raise SignatureError(
            f"{key}: no public key ({_first_line(error)}); it is PEM: openssl ec -in KEY.pem -pubout -out PUB.pem"
        ) from None
    if not (folder / SIGNATURE).is_file():
        raise SignatureError(f"{folder}: is not signed: no {SIGNATURE}; ask for a signed one, or load without a key")
    if (folder / SIGNATURE).stat().st_size > _MOST_BYTES:
        raise SignatureError(f"{folder / SIGNATURE}: no signature has more than {_MOST_BYTES:,} bytes")
    try:
        with _made_of(folder) as model:
            verifier.set_hashing_config(_hashed(hashing)).verify(model, folder / SIGNATURE)
        signed = _signed(folder / SIGNATURE)
    except Exception as error:  # as above
        raise SignatureError(
            f"{folder}: is not what the owner of {key} signed ({_first_line(error)}); do not load it"
        ) from None
    if left_out := sorted({MANIFEST, *(artifact.manifest(folder) or {})} - {CARD, SIGNATURE} - signed):
        raise SignatureError(f"{folder}: its signature leaves out {', '.join(left_out[:5])}; do not load it")


@contextmanager
def _made_of(folder: Path) -> Iterator[Path]:
    """A folder of links to all that must be signed: what the manifest lists, and what loaders might take for a part."""
    listed = {MANIFEST, *(artifact.manifest(folder) or {})}
    with tempfile.TemporaryDirectory(prefix="fer_scale-") as scratch:
        model = Path(scratch) / (folder.resolve().name or "model")
        model.mkdir()
        for path in folder.rglob("*"):
            name = path.relative_to(folder)
            if path.is_file() and (str(name) in listed or not _is_beside(name)) and str(name) not in (CARD, SIGNATURE):
                (model / name).parent.mkdir(parents=True, exist_ok=True)
                (model / name).symlink_to(path.resolve())
        yield model


def _is_beside(name: Path) -> bool:
    """Whether a file is no part of a model, wherever it comes from: hidden, or a text or picture."""
    hidden = any(part.startswith(".") for part in name.parts)
    return hidden or (artifact.belongs(name.name) and name.suffix not in artifact.LOADED)


def _hashed(hashing: Any) -> Any:
    """How files are hashed: not as a signature says, but through links, and without what is never signed."""
    return hashing.Config().set_ignored_paths(paths=[CARD, SIGNATURE]).set_allow_symlinks(True)


def _signed(signature: Path) -> set[str]:
    """The files that a signature, which was verified, speaks of: it may itself say that some are left out."""
    payload = json.loads(signature.read_bytes())["dsseEnvelope"]["payload"]
    return {file["name"] for file in json.loads(base64.b64decode(payload))["predicate"]["resources"]}


def _library() -> tuple[Any, Any, Any]:
    """Its modules hashing, signing and verifying."""
    try:
        from model_signing import hashing, signing, verifying  # an extra
    except ImportError as error:
        raise SignatureError(
            f"signatures need the extra sign, which is not installed ({error}): pip install 'fer_scale[sign]'"
        ) from None
    return hashing, signing, verifying


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]
