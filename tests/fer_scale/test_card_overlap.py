"""What a card says of test faces that lie in the data of training."""

import json
from pathlib import Path
from typing import Any

import pytest

from fer_scale import card_overlap
from fer_scale.card_overlap import OverlapReportError, sentences
from fer_scale.publish import publish

LFW, FERPLUS = {"name": "lfw", "fingerprint": "ab" * 32}, {"name": "ferplus", "fingerprint": "cd" * 32}


def report(folder: Path, a: dict[str, str], b: dict[str, str], **more: Any) -> Path:
    """A report.json as overlap writes it: of 200 faces of b 3 have a copy in a."""
    copies = {"exact": 0, "near": 1, "similar": 2, "any": 3, "share": 0.015}
    sides = [{"set": one["name"], "fingerprint": one["fingerprint"], "list": None, "faces": 200} for one in (a, b)]
    said = {"a": sides[0], "b": sides[1] | {"with_copies": copies}, "within": False, "encoder": None} | more
    (folder / "report.json").write_text(json.dumps(said))
    return folder / "report.json"


def test_the_share_of_test_faces_stands_there_with_how_they_were_found(tmp_path: Path) -> None:
    (said,) = sentences([report(tmp_path, LFW, FERPLUS)], [LFW])
    assert said.startswith("Of 200 faces of ferplus, 3 (1.50 %) have a near copy among the 200 faces of lfw: 0 exact, ")
    assert "features" not in said
    (said,) = sentences([report(tmp_path, LFW, FERPLUS, encoder={"cosine": 0.692})], [FERPLUS, LFW])
    assert "2 more by an encoder's features (cosine of 0.69 or more)" in said


@pytest.mark.parametrize(
    ("made", "words"),
    [
        (lambda folder: report(folder, FERPLUS, LFW), "is of the set 'ferplus' .* but the model was trained on lfw"),
        (lambda folder: report(folder, LFW, LFW, within=True), "compares a set with itself"),
        (lambda folder: folder / "nowhere.json", "no report of `fer-scale overlap`"),
        (
            lambda folder: report(folder, LFW, FERPLUS, encoder={"none": 0}),
            "no report of `fer-scale overlap` .KeyError",
        ),
    ],
)
def test_a_report_that_says_nothing_of_the_models_data_is_refused(made: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises(OverlapReportError, match=words):
        sentences([made(tmp_path)], [LFW])


def test_a_card_says_what_was_examined_or_that_nothing_was(pretrained: Path, tmp_path: Path) -> None:
    publish(pretrained, str(tmp_path / "without"), licence="mit")
    assert card_overlap.NOT_EXAMINED in (tmp_path / "without" / "README.md").read_text()
    row, _ = json.loads((pretrained / "data.json").read_text())
    publish(pretrained, str(tmp_path / "with"), licence="mit", overlap=[report(tmp_path, row, FERPLUS)])
    said = (tmp_path / "with" / "README.md").read_text()
    assert "3 (1.50 %) have a near copy among" in said and card_overlap.NOT_EXAMINED not in said
