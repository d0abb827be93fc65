"""A tiny encoder folder, and the loopback Hub of tests/hub with huggingface_hub pointed at it."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fer_scale import hub

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1])]  # `hub` is tests/hub
import served
from hub import tiny, trained
from hub.client import running
from hub.server import Hub


@pytest.fixture
def hub_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running Hub; alice, who may write to `lab`, is logged in, the cache is empty, and waiting is short."""
    with running(tmp_path, monkeypatch) as server:
        yield server


@pytest.fixture
def encoder_folder(tmp_path: Path) -> Path:
    """A published encoder of 64x2x2 for 32 px faces in 8 px patches, with a card."""
    return tiny.encoder_folder(tmp_path / "encoder")


@pytest.fixture
def make_encoder() -> Callable[..., Path]:
    """(folder, seed=0) -> a published encoder there; another seed gives other weights."""
    return tiny.encoder_folder


@pytest.fixture
def make_keys(tmp_path: Path) -> Callable[[str], tuple[Path, Path]]:
    """name -> new files with a private and a public key to sign with."""

    def make(name: str) -> tuple[Path, Path]:
        private, public = tmp_path / f"{name} private.pem", tmp_path / f"{name} public.pem"
        key, pem = ec.generate_private_key(ec.SECP256R1()), serialization.Encoding.PEM
        form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        private.write_bytes(key.private_bytes(pem, form, none))
        public.write_bytes(key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo))
        return private, public

    return make


@pytest.fixture
def keys(make_keys: Callable[[str], tuple[Path, Path]]) -> tuple[Path, Path]:
    """Files with a private and a public key."""
    return make_keys("our")


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    """A run of pre-training with checkpoints of steps 10 and 20."""
    return trained.pretrain(tmp_path / "run")


@pytest.fixture
def finetuned(tmp_path: Path) -> Path:
    """A run of fine-tuning as it ends."""
    return trained.finetune(tmp_path / "finetuned")


@pytest.fixture
def published(hub_server: Hub, encoder_folder: Path) -> str:
    """An encoder at hf://lab/faces; its address with the commit."""
    return hub.push(encoder_folder, "hf://lab/faces", message="an encoder")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A published expression model whose weights are random."""
    return served.expression_model(tmp_path_factory.mktemp("expressions"))
