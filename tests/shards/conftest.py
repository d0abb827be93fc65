"""Small made-up faces for the tests of shards/, and where real ones lie."""

import io
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from shards.index import ShardSet
from shards.pack import pack

REAL = Path(__file__).parents[3] / "shared" / "data"


def picture(number: int, px: int = 24, kind: str = "jpeg") -> bytes:
    """An image file of smooth noise, another one for each number."""
    noise = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((px, px), Image.Resampling.BICUBIC).save(file, kind)
    return file.getvalue()


@pytest.fixture
def image() -> Callable[..., bytes]:
    """picture(number, px, kind)."""
    return picture


@pytest.fixture
def faces(tmp_path: Path) -> Path:
    """A folder of 60 images of 12 people: 48 jpg, 12 png."""
    return draw(tmp_path / "faces")


def draw(folder: Path) -> Path:
    for number in range(60):
        kind = "png" if number % 5 == 0 else "jpeg"
        file = folder / f"person-{number % 12:02d}" / f"{number:03d}.{kind}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(number, kind=kind))
    return folder


@pytest.fixture(scope="session")
def real() -> Path:
    """The real data to test on, which never enters the repository."""
    if not REAL.is_dir():
        pytest.skip("no real data beside the repository (../shared/data)")
    return REAL


def contents(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def read_folder() -> Callable[[Path], dict[str, bytes]]:
    """contents(folder)."""
    return contents


@pytest.fixture(scope="session")
def packed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 60 faces in shards of about 16 kB."""
    folder = tmp_path_factory.mktemp("packed")
    faces = draw(folder / "faces")
    return pack(faces, folder / "set", source="folder", name="made-up", shard_mb=0.016, workers=1).path


@pytest.fixture
def packed(tmp_path: Path, packed_once: Path) -> ShardSet:
    """The same; its folder may be damaged."""
    return ShardSet.open(shutil.copytree(packed_once, tmp_path / "set"))
