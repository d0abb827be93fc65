"""A model signed by a key is loaded with its public key alone, and with nothing added, changed or taken away."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hub.looking import contents
from hub.server import Hub
from model_signing import hashing, signing

from fer_scale import artifact, encoder, hub, signature
from fer_scale.__main__ import main
from fer_scale.signature import SignatureError

Keys = tuple[Path, Path]  # private, public


@pytest.fixture
def signed(encoder_folder: Path, keys: Keys) -> Path:
    signature.sign(encoder_folder, keys[0])
    return encoder_folder


def test_a_signed_model_loads_with_the_public_key_and_the_card_may_be_corrected(signed: Path, keys: Keys) -> None:
    assert hub.pull(str(signed), key=keys[1]).folder == signed
    (signed / "README.md").write_text("a corrected card")
    assert hub.pull(str(signed), key=keys[1]).folder == signed
    assert not list(signed.glob(".*")), "nothing is left beside it"


def test_what_others_leave_in_a_folder_is_neither_signed_nor_in_the_way(encoder_folder: Path, keys: Keys) -> None:
    def litter(number: int) -> None:
        (encoder_folder / ".cache" / "huggingface").mkdir(parents=True, exist_ok=True)
        for name in (".cache/huggingface/config.json", ".DS_Store", "notes.txt", "LICENSE", "more.md", "a.png"):
            (encoder_folder / name).write_text(f"{number}")

    litter(1)
    signature.sign(encoder_folder, keys[0])
    litter(2)
    signature.check(encoder_folder, keys[1])
    assert b"DS_Store" not in base64.b64decode(
        json.loads((encoder_folder / "model.sig").read_bytes())["dsseEnvelope"]["payload"]
    )


def test_a_signature_that_leaves_the_weights_out_is_refused(encoder_folder: Path, keys: Keys) -> None:
    """As another tool may make it, by the same key."""
    ignored = hashing.Config().set_ignored_paths(paths=["README.md", "model.sig", "model.safetensors"])
    signer = signing.Config().use_elliptic_key_signer(private_key=keys[0]).set_hashing_config(ignored)
    signer.sign(encoder_folder, encoder_folder / "model.sig")
    with pytest.raises(SignatureError, match=r"its signature leaves out model\.safetensors; do not load it"):
        signature.check(encoder_folder, keys[1])


def test_a_folder_without_a_manifest_is_not_signed(encoder_folder: Path, keys: Keys) -> None:
    (encoder_folder / "manifest.json").unlink()
    with pytest.raises(SignatureError, match=r"has no manifest\.json, so nothing says what it is made of"):
        signature.sign(encoder_folder, keys[0])


def _resealed(folder: Path) -> None:
    (folder / "config.json").write_text((folder / "config.json").read_text().replace("0.5", "0.4", 1))
    artifact.seal(folder)


def _added(folder: Path) -> None:
    (folder / "more.safetensors").write_text("load me")


def _pickled(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_text("load me")


def _removed(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def _unsigned(folder: Path) -> None:
    (folder / "model.sig").unlink()


def _cut(folder: Path) -> None:
    (folder / "model.sig").write_bytes((folder / "model.sig").read_bytes()[:-100])


def _nested(folder: Path) -> None:
    (folder / "model.sig").write_bytes(b"[" * 100_000)


def _large(folder: Path) -> None:
    (folder / "model.sig").write_bytes(bytes(2_000_000))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_resealed, "is not what the owner of .*public.pem signed .*config.json"),
        (_added, r"Extra files found in model 'encoder': more\.safetensors.*; do not load it"),
        (_pickled, r"Extra files found in model 'encoder': pytorch_model\.bin.*; do not load it"),
        (_removed, r"Missing files in model 'encoder': manifest\.json"),
        (_unsigned, r"is not signed: no model\.sig; ask for a signed one, or load without a key"),
        (_cut, "is not what the owner"),
        (_nested, "is not what the owner"),
        (_large, "no signature has more than 1,048,576 bytes"),
    ],
)
def test_what_was_changed_after_signing_is_refused(
    signed: Path, keys: Keys, change: Callable[[Path], None], says: str
) -> None:
    change(signed)
    with pytest.raises(SignatureError, match=says):
        signature.check(signed, keys[1])


def test_the_signature_of_another_key_is_refused(signed: Path, make_keys: Callable[[str], Keys]) -> None:
    with pytest.raises(SignatureError, match=r"is not what the owner of .* signed"):
        hub.pull(str(signed), key=make_keys("other")[1])


def test_a_file_that_is_no_key_says_what_one_is(encoder_folder: Path, keys: Keys, tmp_path: Path) -> None:
    private, public = keys
    pem, form, none = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    strange = tmp_path / "rsa.pem"
    strange.write_bytes(rsa.generate_private_key(65537, 2048).private_bytes(pem, form, none))
    for key in (public, tmp_path / "nowhere", strange):
        with pytest.raises(SignatureError, match=f"{key.name}: no private key that can sign .*openssl ecparam"):
            signature.sign(encoder_folder, key)
    for key in (private, tmp_path / "nowhere", strange):
        with pytest.raises(SignatureError, match=f"{key.name}: no public key .*openssl ec -in KEY.pem -pubout"):
            signature.check(encoder_folder, key)


def test_other_tools_of_model_signing_verify_what_we_sign(signed: Path, keys: Keys) -> None:
    """Its own command line, as the model's user would call it who has none of our code."""
    command = ["model_signing", "verify", "key", str(signed), "--signature", str(signed / "model.sig")]
    done = subprocess.run(
        [sys.executable, "-m", *command, "--public_key", str(keys[1])], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "succeeded" in done.stdout + done.stderr


def test_signed_on_the_command_line_published_and_pulled_with_the_key(
    encoder_folder: Path,
    make_encoder: Callable[..., Path],
    hub_server: Hub,
    keys: Keys,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    private, public = map(str, keys)
    assert main(["publish", str(encoder_folder), "hf://lab/signed", "--sign", private]) == 0
    assert main(["pull", "hf://lab/signed", str(tmp_path / "there"), "--key", public]) == 0
    assert set(contents(tmp_path / "there")) == {*contents(encoder_folder), "model.sig"}
    encoder.load(tmp_path / "there")
    make_encoder(encoder_folder, seed=1)
    assert main(["publish", str(encoder_folder), "hf://lab/signed"]) == 0, "another model takes the signature away"
    assert main(["pull", "hf://lab/signed", str(tmp_path / "again"), "--key", public]) == 2
    assert "is not signed" in capsys.readouterr().err
    assert not (tmp_path / "again").exists()


def test_the_library_is_imported_only_where_a_key_is_given_and_named_where_it_is_missing(
    signed: Path, keys: Keys
) -> None:
    code = f"""
import sys
from pathlib import Path
from fer_scale import hub, signature
hub.pull({str(signed)!r})
assert "model_signing" not in sys.modules
sys.modules["model_signing"] = None
hub.pull({str(signed)!r}, key=Path({str(keys[1])!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1].endswith("pip install 'fer_scale[sign]'")
