"""What may be typed after fer-scale, read into the verb that does it and its arguments. No heavy import up here."""

import argparse
import inspect
import sys
from collections.abc import Callable, Sequence

from fer_scale import arguments, arguments_labeled, arguments_using, verbs, verbs_labeled, verbs_using
from fer_scale.parser import Parser

Does = Callable[[argparse.Namespace], int | None]
Verbs = tuple[tuple[str, Does], ...]
ORDER = (
    "pack", "verify", "show", "split", "overlap", "pretrain", "publish", "pull", "finetune", "sweep", "evaluate",
    "predict", "explain", "export", "report", "app", "check", "doctor", "watch", "checkpoint", "keys", "recipes",
    "demo",
)  # fmt: skip
_VERSION = "--version"
_EXAMPLE = "Example: "  # begins the last paragraph of what declares a verb
_EXIT_CODES = """\
fer-scale VERB --help says more, with an example; README.md shows the whole flow.

exit codes:
  0    done; or a run that was told to stop, and saved
  2    a mistake that you can mend, or something found damaged, unreadable or unfit; nothing helps but a change
  75   a machine or the network failed: the same command again may help, and goes on where it was
  130  interrupted by Ctrl-C (128 + N: ended by signal N)
  1    a failure of the program, with a traceback
"""
_DOES = vars(verbs) | vars(verbs_labeled) | vars(verbs_using)
_TAKES = vars(arguments) | vars(arguments_labeled) | vars(arguments_using)
VERBS: Verbs = tuple((name, _DOES[f"_{name}"]) for name in ORDER)


def parse(verbs: Verbs, argv: list[str] | None) -> argparse.Namespace:
    """What was typed; section.key=value may stand anywhere, which argparse alone does not allow."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == [_VERSION]:
        return _asked_for_version(words[1:])
    top, of = _parser(verbs, words)
    args, rest = top.parse_known_args(words)
    strange = [word for word in rest if word.startswith("-") or "=" not in word or "overrides" not in args]
    if strange:
        of[args.verb].error(_unknown(strange, "overrides" in args))
    if rest:
        args.overrides += rest
    return args


def _unknown(words: list[str], takes_keys: bool) -> str:
    dashed = [word for word in words if takes_keys and "." in word.partition("=")[0]]
    keys = f"; a key of the recipe is written without dashes: {dashed[0].lstrip('-')}" if dashed else ""
    return f"unrecognized: {' '.join(words)}{keys}"


def _asked_for_version(words: list[str]) -> argparse.Namespace:
    """`fer-scale --version [--verbose] [--json]`, which names no verb."""
    top = argparse.ArgumentParser(prog=f"fer-scale {_VERSION}", description=arguments.version.__doc__)
    arguments.version(top)
    return top.parse_args(words, argparse.Namespace(verb=_VERSION, run=verbs.version, debug=False))


def _parser(verbs: Verbs, words: Sequence[str]) -> tuple[Parser, dict[str, Parser]]:
    """The parser of the whole line, and that of each verb."""
    top = Parser(prog="fer-scale", description="From unlabeled faces to a facial expression model.", epilog=_EXIT_CODES)
    top.add_argument(
        "--local_rank", help=argparse.SUPPRESS
    )  # the deepspeed launcher puts it there; world.py reads the rest
    top.add_argument(_VERSION, action="store_true", help="print the version, with --verbose of all that is used")
    subparsers = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, run in verbs:
        declare = _TAKES[f"_{name}"]
        text, _, example = inspect.cleandoc(declare.__doc__).partition(f"\n\n{_EXAMPLE}")
        short = text[0].lower() + text[1:].rstrip(".")
        verb = subparsers.add_parser(name, help=short, description=text, example=example, typed=words)
        declare(verb)
        verb.add_argument("--debug", action="store_true", help="show the traceback of a mistake")
        verb.set_defaults(run=run)
    return top, subparsers.choices
