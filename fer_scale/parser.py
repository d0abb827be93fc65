"""argparse that tells a mistake in one line, and shows in a second how it is done: by itself it prints all options."""

import argparse
import re
import textwrap
from collections.abc import Sequence
from typing import Any, NoReturn

from fer_scale.config import did_you_mean

_WIDTH = 100
_CHOICE = re.compile(r"invalid choice: '(?P<word>[^']*)' \(choose from (?P<options>.*)\)")


class Parser(argparse.ArgumentParser):
    """A parser whose `example` ends its --help, and its mistakes.

    `typed` are the words that it reads: of an option that is missing, the one that was typed in its place is named.
    """

    def __init__(
        self, *, description: str | None = None, example: str = "", typed: Sequence[str] = (), **more: Any
    ) -> None:
        more = {"formatter_class": argparse.RawDescriptionHelpFormatter} | more
        more |= {"epilog": f"example:\n  {example}"} if example else {}
        super().__init__(description=description and textwrap.fill(description, _WIDTH), **more)
        self.example, self.typed = example, typed

    def error(self, message: str) -> NoReturn:
        what = _CHOICE.sub(_none_of, message) + self._meaning(message) + self._misspelt()
        shown = f"  as in: {self.example}\n" if self.example else ""
        self.exit(2, f"{self.prog}: {what}\n{shown}  all of it: {self.prog} --help\n")

    def _meaning(self, message: str) -> str:
        """What an option is for whose value is none."""
        found = re.match(r"argument (--[\w-]+): (invalid \w+ value|expected)", message)
        action = self._option_string_actions.get(found[1]) if found else None
        return f", for {action.help.replace('%%', '%')}" if action and action.help else ""

    def _misspelt(self) -> str:
        """The option that was probably meant by one that is none."""
        for word in self.typed:
            option = word.partition("=")[0]
            known = any(name.startswith(option) for name in self._option_string_actions)
            if option.startswith("--") and not known:
                return did_you_mean(option, self._option_string_actions)
        return ""


def _none_of(found: re.Match[str]) -> str:
    options = [option.strip(" '") for option in found["options"].split(",")]
    near = did_you_mean(found["word"], options)
    return f"{found['word']!r} is none of {', '.join(options)}{near}"
