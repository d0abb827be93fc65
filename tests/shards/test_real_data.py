"""The published counts, on the real images beside the repository (skipped where they are not)."""

import csv
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from shards.duplicates import groups
from shards.expressions import FERPLUS_COLUMNS
from shards.pack import pack
from shards.pixels import decode
from shards.sources import entries
from shards.sources.ferplus import expression_of

ARGMAX = {
    "neutral": 10308,
    "happiness": 7528,
    "surprise": 3562,
    "sadness": 3514,
    "anger": 2466,
    "disgust": 191,
    "fear": 652,
    "contempt": 165,
}


@pytest.fixture(scope="module")
def rows(real: Path) -> list[dict[str, str]]:
    with (real / "ferplus" / "fer2013new.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def votes_of(row: dict[str, str]) -> list[int]:
    return [int(row[column]) for column in FERPLUS_COLUMNS]


def test_ferplus_argmax_by_name_is_what_ssfer_counts(real: Path, rows: list[dict[str, str]], tmp_path: Path) -> None:
    """28,386 / 7,098. The names are the archive's, the images need not be unpacked for that."""
    with tarfile.open(real / "ferplus" / "ferplus_train.tar.gz") as archive:
        names = [name for name in archive.getnames() if name.endswith(".png")]
    assert len(names) == 28558
    (tmp_path / "FER2013Train").mkdir()
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / "fer2013new.csv").write_bytes((real / "ferplus" / "fer2013new.csv").read_bytes())
    listing = entries("ferplus", tmp_path, split=None, protocol="argmax")
    assert Counter(entry.face.expression for entry in listing.entries if entry.face) == ARGMAX
    assert len(listing.left_out) == 172 and not any(left.counts for left in listing.left_out)
    others = {row["Image name"]: votes_of(row) for row in rows if row["Image name"] and row["Usage"] != "Training"}
    assert sum(expression_of(votes, "argmax") is not None for votes in others.values()) == 7098


def test_ferplus_majority_by_row_is_what_its_own_reader_counts(rows: list[dict[str, str]]) -> None:
    counted = Counter(row["Usage"] for row in rows if expression_of(votes_of(row), "majority"))
    assert counted == {"Training": 25060, "PublicTest": 3199, "PrivateTest": 3153}


def test_four_names_of_ferplus_come_twice_and_173_rows_have_none(rows: list[dict[str, str]]) -> None:
    often = Counter(row["Image name"] for row in rows)
    assert often.pop("") == 173
    twice = {name for name, times in often.items() if times > 1}
    assert twice == {f"fer{number}.png" for number in ("0006953", "0008403", "0011785", "0033120")}


def test_lfw_is_found_in_its_tar(real: Path) -> None:
    listing = entries("tar", real / "lfw" / "lfw112.tar", split=None, protocol="argmax")
    assert len(listing.entries) == 13233 and not listing.left_out
    assert decode(listing.entries[4711].read()).shape == (112, 112, 3)


@pytest.mark.slow
def test_lfw_and_ferplus_are_packed_whole(real: Path, tmp_path: Path) -> None:
    """Half a minute. The copies in FERPlus: 2,240 exact ones, 9.8 % of the images near by correlation."""
    with tarfile.open(real / "lfw" / "lfw112.tar") as archive:
        archive.extractall(tmp_path, filter="data")
    lfw = pack(tmp_path / "lfw112", tmp_path / "lfw", source="folder")
    assert (lfw.samples, lfw.index["identities"]) == (13233, 5749)
    assert lfw.index["mean"] == pytest.approx([0.585, 0.448, 0.366], abs=5e-4)  # of every eighth row
    with tarfile.open(real / "ferplus" / "ferplus_train.tar.gz") as archive:
        archive.extractall(tmp_path / "fer", filter="data")
    (tmp_path / "fer" / "fer2013new.csv").write_bytes((real / "ferplus" / "fer2013new.csv").read_bytes())
    ferplus = pack(tmp_path / "fer", tmp_path / "ferplus", source="ferplus")
    assert ferplus.index["expressions"] == ARGMAX and ferplus.index["mean"][0] == pytest.approx(0.507, abs=5e-4)
    pixels, perceptual = ferplus.hashes()
    _, often = np.unique(pixels, axis=0, return_counts=True)
    assert often[often > 1].sum() == 2240
    sizes = np.bincount(groups(pixels, perceptual))
    assert sizes[sizes > 1].sum() == pytest.approx(0.117 * 28386, rel=0.01) and sizes.max() == 20
