"""What is read of a model's card, which may be a stranger's."""

from pathlib import Path

from fer_scale import app_page, card_reading, card_words

LIMITS = "## Intended use and limits\n\n"


def read(folder: Path, card: str) -> card_reading.CardSaid:
    (folder / "README.md").write_text(card)
    return card_reading.read(folder)


def test_a_card_is_read_by_its_headings(tmp_path: Path) -> None:
    card = "---\nlicense: mit\n---\n# A \\*model\\*\n\nWhat.\n\n## Use\n```\n## no heading\n```\n"
    said = read(tmp_path, f"{card}{LIMITS}Little.\n")
    assert said.title == "A *model*" and said.limits() == "Little."
    assert list(said.sections)[1:] == ["Use", "Intended use and limits"]
    (tmp_path / "README.md").unlink()
    assert card_reading.read(tmp_path).limits() == card_words.LIMITS


def test_no_picture_form_or_comment_of_a_card_is_shown(tmp_path: Path) -> None:
    hostile = "![x](https://e/x.png) !![x][r] ![r] <img src=x> \\<form action=//e> a < b <!-- </p> <?x ![CDATA["
    said = read(tmp_path, LIMITS + hostile).limits()
    assert "![" not in said and said.count("<") == 1 and "a < b" in said
    assert said.startswith("[x](https://e/x.png) [x][r] [r] &lt;img src=x> &lt;form action=//e>")


def test_what_a_card_leaves_open_swallows_nothing_of_the_page(tmp_path: Path) -> None:
    card = read(tmp_path, f"{LIMITS}Little.\n~~~~\n<!--\n````")
    parts = app_page.limits(app_page.Words("m", card, "mit", app_page.HERE, 0.0))
    assert parts[0].endswith("````") and parts[1] == "## Licence\n\nOf the model: mit."
