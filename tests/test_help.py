"""What --help promises: an example of every verb that can be typed as it stands, and what exit codes mean."""

import re
import shlex
from pathlib import Path

import pytest

from fer_scale import arguments, arguments_labeled, arguments_using, command_line, verbs, verbs_labeled, verbs_using
from fer_scale.command_line import ORDER, VERBS

ROOT = Path(__file__).parent.parent


def helped(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    with pytest.raises(SystemExit) as ended:
        command_line.parse(VERBS, [*words, "--help"])
    assert ended.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("verb", ORDER)
def test_each_verb_is_declared_once_and_done_once(verb: str) -> None:
    """command_line.py merges the names of these modules: of two alike one would be lost without a word."""
    for modules in ((arguments, arguments_labeled, arguments_using), (verbs, verbs_labeled, verbs_using)):
        assert sum(f"_{verb}" in vars(module) for module in modules) == 1


@pytest.mark.parametrize("verb", ORDER)
def test_every_verb_has_an_example_that_can_be_typed(capsys: pytest.CaptureFixture[str], verb: str) -> None:
    said = helped(capsys, verb)
    found = re.search(r"\nexample:\n  (fer-scale .*)\n$", said)
    assert found, f"end the docstring of _{verb} in arguments*.py with a paragraph `Example: fer-scale {verb} ...`"
    assert len(found[1]) <= 110, "an example is one line"
    program, *typed = shlex.split(found[1])
    args = command_line.parse(VERBS, typed)
    assert (program, args.verb) == ("fer-scale", verb)
    if recipe := getattr(args, "recipe", None):
        assert recipe.is_file(), "a recipe that comes with the program"


def test_a_mistake_shows_the_example_and_an_option_that_was_nearly_typed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        command_line.parse(VERBS, ["pack", "faces", "out", "--sorce", "folder"])
    assert ended.value.code == 2
    what, how, more = capsys.readouterr().err.splitlines()
    assert what.startswith("fer-scale pack: ") and what.endswith("required: --source; did you mean '--source'?")
    assert how.startswith("  as in: fer-scale pack ") and more == "  all of it: fer-scale pack --help"
