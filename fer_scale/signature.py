"""Who a model comes from: a signature of its folder by a key, as OpenSSF's model signing has it (the extra `sign`).

    openssl ecparam -name prime256v1 -genkey -noout -out KEY.pem     stays with whoever publishes
    openssl ec -in KEY.pem -pubout -out PUB.pem                      goes to whoever loads

`model.sig` holds the sha256 of every file but the card, which may be corrected; other tools of model signing verify it
as well. It tells who, and not when: an older model by the same key is as good. Who needs one version names its commit.
The library is imported only where a key is given.
"""

from pathlib import Path
from typing import Any

from fer_scale import artifact
from fer_scale.artifact import CARD, SIGNATURE
from shards.errors import UserError

_MOST_BYTES = 1 << 20  # of a signature; ours have 2 kB


class SignatureError(UserError):
    """A signature that is missing or does not fit, or a key that is none."""


def sign(folder: Path, key: Path) -> None:
    """Write `model.sig` into a sealed folder, by the private key in the file `key` (PEM, without a password)."""
    hashing, signing, _ = _library()
    try:
        signer = signing.Config().use_elliptic_key_signer(private_key=key)
    except Exception as error:  # of any kind: it is a stranger's library on a user's file
        raise SignatureError(
            f"{key}: no private key that can sign ({_first_line(error)}); it is PEM of the curve P-256, without a "
            "password: openssl ecparam -name prime256v1 -genkey -noout -out KEY.pem"
        ) from None
    beside = folder / f".{SIGNATURE}.part"
    with artifact.disk_errors(folder):
        (folder / SIGNATURE).unlink(missing_ok=True)
        ignored = hashing.Config().set_ignored_paths(paths=[CARD, SIGNATURE, beside.name])
        signer.set_hashing_config(ignored.set_allow_symlinks(True)).sign(folder, beside)
        beside.replace(folder / SIGNATURE)


def check(folder: Path, key: Path) -> None:
    """Refuse a folder of which not every file, but for the card, was signed by the owner of the public key in `key`."""
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
    # Not as the signature says, but as the Hub's cache is made: of links.
    ignored = hashing.Config().set_ignored_paths(paths=[CARD, SIGNATURE]).set_allow_symlinks(True)
    try:
        verifier.set_hashing_config(ignored).verify(folder, folder / SIGNATURE)
    except Exception as error:  # as above
        raise SignatureError(
            f"{folder}: is not what the owner of {key} signed ({_first_line(error)}); do not load it"
        ) from None


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
