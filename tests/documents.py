"""What the documents tell a reader to type: commands in blocks and in sentences, Python, names of files and of keys."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from inspect import cleandoc
from pathlib import Path
from textwrap import dedent
from types import ModuleType

from fer_scale import arguments, arguments_labeled, arguments_using
from fer_scale.command_line import ORDER

ROOT = Path(__file__).parent.parent
_PLACES = ("*.md", "[a-z]*/README.md", "configs/*/*.md", "configs/*/*.toml", "launch/*", "tests/*/*.md")
FILES = sorted({file for place in _PLACES for file in ROOT.glob(place)})
PROGRAMS = tuple("fer-scale deepspeed accelerate torchrun sbatch salloc bash python pytest kubectl".split())
_SETTING = re.compile(r"[A-Z][A-Z_]*=\S+")  # NODES=4 before a command
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_WORDS = re.compile(r"`([^`]+)`")


@dataclass(frozen=True, slots=True)
class Typed:
    """A command as it stands in the file `where`, its continued lines joined.

    `shown`: on a line of its own, to be typed as it is; else within a sentence, which may leave something out.
    """

    where: str
    text: str
    shown: bool

    @property
    def settings(self) -> dict[str, str]:
        """The variables that are set before it."""
        return dict(word.split("=", 1) for word in self._words() if _SETTING.fullmatch(word))

    @property
    def words(self) -> list[str]:
        """The program and its arguments."""
        words = self._words()
        while _SETTING.fullmatch(words[0]):
            words.pop(0)
        return words

    @property
    def of_ours(self) -> list[str]:
        """The words after fer-scale, whatever launcher stands before it; none where it is not started."""
        words = ["1" if word in ("N", "N]") else word for word in self.words]
        if words[:2] == ["bash", "launch/demo.sh"]:
            return ["demo", *(word.strip("[]") for word in words[2:])]
        if words[:2] == ["bash", "launch/test.sh"]:
            return []
        for number, word in enumerate(words):
            if word in ("fer-scale", "fer_scale") or (word in ORDER and words[0] in ("bash", "sbatch")):
                return words[number + (word not in ORDER) :]
        return []

    def _words(self) -> list[str]:
        return shlex.split(re.sub(r"(^|\s)#.*", "", self.text))  # within a word # begins no comment


def commands(file: Path) -> list[Typed]:
    """All commands of a document, or of the comments of a recipe or script, in their order."""
    found = []
    for text, shown in _pieces(_prose(file)):
        words = text.split()
        while words and _SETTING.fullmatch(words[0]):
            words.pop(0)
        if words[1:] and words[0] in PROGRAMS:
            found.append(Typed(str(file.relative_to(ROOT)), text, shown))
    return found


def examples() -> list[Typed]:
    """The example of every verb, from its --help."""
    declared = vars(arguments) | vars(arguments_labeled) | vars(arguments_using)
    texts = [cleandoc(declared[f"_{verb}"].__doc__).partition("Example: ")[2] for verb in ORDER]
    return [Typed(f"fer-scale {verb} --help", text, True) for verb, text in zip(ORDER, texts, strict=True)]


def snippets(file: Path) -> list[str]:
    """The Python of a document, a string a block."""
    return [code for language, code in _BLOCK.findall(file.read_text()) if language == "python"]


def of_docstring(module: ModuleType) -> str:
    """The Python that is indented in a module's docstring."""
    lines = (module.__doc__ or "").splitlines()
    return dedent("\n".join(line for line in lines if line.startswith("    ") or not line)).strip()


def names(file: Path) -> list[str]:
    """What stands between backticks in sentences."""
    return [text for text, shown in _pieces(_prose(file)) if not shown]


def _prose(file: Path) -> str:
    """The text of a document; of another file that of its comments."""
    if file.suffix == ".md":
        return file.read_text()
    return "\n".join(line[1:].rstrip() for line in file.read_text().splitlines() if line.startswith("#"))


def _pieces(text: str) -> Iterator[tuple[str, bool]]:
    """(text, whether it has a line of its own) of all that is marked as code, whatever it is."""
    place = 0
    for block in _BLOCK.finditer(text):
        yield from _of_sentences(text[place : block.start()])
        if block[1] != "python":
            yield from ((line, True) for line in _joined(block[2]))
        place = block.end()
    yield from _of_sentences(text[place:])


def _of_sentences(text: str) -> Iterator[tuple[str, bool]]:
    indented = [line.strip() for line in _joined(text) if line.startswith("  ")]
    yield from ((line, True) for line in indented if not line.startswith(("`", "-", "*")))
    yield from ((" ".join(words.split()), False) for words in _WORDS.findall(text))


def _joined(text: str) -> list[str]:
    return re.sub(r" *\\\n\s*", " ", text).splitlines()
