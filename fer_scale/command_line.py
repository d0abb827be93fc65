"""What may be typed after fer-scale, read into the verb that does it and its arguments. No heavy import up here."""

import argparse
import sys
from collections.abc import Callable

from fer_scale import arguments, arguments_labeled, arguments_using, verbs, verbs_labeled, verbs_using

Does = Callable[[argparse.Namespace], int | None]
Verbs = tuple[tuple[str, Does], ...]
ORDER = (
    "pack", "verify", "show", "split", "overlap", "pretrain", "publish", "pull", "finetune", "sweep", "evaluate",
    "predict", "check", "doctor", "watch", "checkpoint", "keys", "recipes", "demo",
)  # fmt: skip
_VERSION = "--version"
_DOES = vars(verbs) | vars(verbs_labeled) | vars(verbs_using)
_TAKES = vars(arguments) | vars(arguments_labeled) | vars(arguments_using)
VERBS: Verbs = tuple((name, _DOES[f"_{name}"]) for name in ORDER)


def parse(verbs: Verbs, argv: list[str] | None) -> argparse.Namespace:
    """What was typed; section.key=value may stand anywhere, which argparse alone does not allow."""
    words = sys.argv[1:] if argv is None else argv
    if words[:1] == [_VERSION]:
        return _asked_for_version(words[1:])
    top = _parser(verbs)
    args, rest = top.parse_known_args(argv)
    strange = [word for word in rest if word.startswith("-") or "=" not in word or "overrides" not in args]
    if strange:
        top.error(f"{args.verb}: unrecognized arguments: {' '.join(strange)}")
    if rest:
        args.overrides += rest
    return args


def _asked_for_version(words: list[str]) -> argparse.Namespace:
    """`fer-scale --version [--verbose] [--json]`, which names no verb."""
    top = argparse.ArgumentParser(prog=f"fer-scale {_VERSION}", description=arguments.version.__doc__)
    arguments.version(top)
    return top.parse_args(words, argparse.Namespace(verb=_VERSION, run=verbs.version, debug=False))


def _parser(verbs: Verbs) -> argparse.ArgumentParser:
    top = argparse.ArgumentParser(
        prog="fer-scale",
        description="From unlabeled faces to a facial expression model.",
        epilog="fer-scale VERB --help says more; README.md shows the whole flow.",
    )
    top.add_argument(
        "--local_rank", help=argparse.SUPPRESS
    )  # the deepspeed launcher puts it there; world.py reads the rest
    top.add_argument(_VERSION, action="store_true", help="print the version, with --verbose of all that is used")
    subparsers = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, run in verbs:
        declare = _TAKES[f"_{name}"]
        text = declare.__doc__
        verb = subparsers.add_parser(name, help=text[0].lower() + text[1:].rstrip("."), description=text)
        declare(verb)
        verb.add_argument("--debug", action="store_true", help="show the traceback of a mistake")
        verb.set_defaults(run=run)
    return top
