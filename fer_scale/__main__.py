"""The command line: fer-scale VERB ...

Only argparse up here: a verb's module is imported when the verb is called, so `--help` answers at once. A user's mistake
ends in one message and exit code 2; our own bug shows its traceback.
"""

import argparse
import errno
import os
import sys
from pathlib import Path
from typing import Any

from shards.errors import UserError

EXIT_MISTAKE = 2
_THEIRS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


def main(argv: list[str] | None = None) -> int:
    args = _parser().parse_args(argv)
    try:
        return args.run(args) or 0
    except UserError as error:
        if args.debug:
            raise
        print(f"fer-scale {args.verb}: {error}", file=sys.stderr)
        return EXIT_MISTAKE
    except OSError as error:
        if args.debug or error.errno not in _THEIRS:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"fer-scale {args.verb}: {place}{error.strerror}", file=sys.stderr)
        return EXIT_MISTAKE
    except KeyboardInterrupt:
        print(f"fer-scale {args.verb}: interrupted; the same command goes on or starts anew", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `fer-scale show SET | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fer-scale",
        description="From unlabeled faces to a facial expression model.",
        epilog="fer-scale VERB --help says more; README.md shows the whole flow.",
    )
    parser.add_argument("--local_rank", help=argparse.SUPPRESS)  # the deepspeed launcher appends it; world.py reads the rest
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, help_text, declare, run in VERBS:
        verb = verbs.add_parser(name, help=help_text, description=help_text[0].upper() + help_text[1:] + ".")
        declare(verb)
        verb.add_argument("--debug", action="store_true", help="show the traceback of a mistake")
        verb.set_defaults(run=run)
    return parser


def _json_flag(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--json", action="store_true", help="the result as JSON on stdout")


def _recipe(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("recipe", type=Path, help="a TOML file; those in configs/ are a start")
    verb.add_argument("overrides", nargs="*", metavar="section.key=value", help="keys to change, see `fer-scale keys`")


# --- shards ---------------------------------------------------------------------------------------------------------


def _pack_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("src", type=Path, help="folder of the dataset, or of tars")
    verb.add_argument("out", type=Path, help="folder of the shard set")
    verb.add_argument("--source", required=True, help="layout of SRC: folder, ferplus, tar")
    verb.add_argument("--name", help="name of the set (default: the name of OUT)")
    verb.add_argument("--split", help="train, valid or test, where the source has them")
    verb.add_argument("--protocol", default="argmax", choices=("argmax", "majority"), help="how votes become a label")
    verb.add_argument("--shard-mb", type=float, default=256, help="size of a shard (256)")
    verb.add_argument("--seed", type=int, default=0, help="of the order in which samples are packed (0)")
    verb.add_argument("--workers", type=int, help="processes (default: one a core); the bytes do not depend on it")
    verb.add_argument("--max-left-out", default="1%", help="files that may be left out before packing fails (1%%)")
    verb.add_argument("--licence", default="unknown", help="licence of the images; stands in every model card later")
    _json_flag(verb)


def _pack(args: argparse.Namespace) -> None:
    from fer_scale import log
    from shards import pack, show

    with log.progress(f"packing {args.out}") as tick:
        packed = pack.pack(
            args.src,
            args.out,
            source=args.source,
            name=args.name,
            split=args.split,
            protocol=args.protocol,
            shard_mb=args.shard_mb,
            seed=args.seed,
            workers=args.workers,
            max_left_out=args.max_left_out,
            licence=args.licence,
            progress=tick,
        )
    _result(args, show.show(packed.path))


def _verify_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("set", type=Path, help="folder of a shard set")
    verb.add_argument("--decode", action="store_true", help="also decode every image")
    _json_flag(verb)


def _verify(args: argparse.Namespace) -> int:
    from fer_scale import log
    from shards import verify

    with log.progress(f"verifying {args.set}") as tick:
        report = verify.verify(args.set, decode=args.decode, progress=tick)
    _result(args, report)
    return EXIT_MISTAKE if report["damaged"] else 0


def _show_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("set", type=Path, help="folder of a shard set")
    verb.add_argument("--pictures", type=Path, metavar="FILE", help="write a contact sheet")
    _json_flag(verb)


def _show(args: argparse.Namespace) -> None:
    from shards import show

    if args.pictures:
        show.contact_sheet(args.set, args.pictures)
    _result(args, show.show(args.set))


# --- pre-training ---------------------------------------------------------------------------------------------------


def _pretrain_arguments(verb: argparse.ArgumentParser) -> None:
    _recipe(verb)
    verb.add_argument("--change", action="append", default=[], metavar="section.key=value",
                      help="change a key of a run that goes on, even one of its mathematics; it is recorded")  # fmt: skip


def _pretrain(args: argparse.Namespace) -> None:
    from fer_scale.pretrain import loop

    loop.pretrain(args.recipe, args.overrides, args.change)


def _check_arguments(verb: argparse.ArgumentParser) -> None:
    _recipe(verb)
    verb.add_argument("--ranks", type=int, default=1, help="how many ranks there will be (1)")


def _check(args: argparse.Namespace) -> None:
    from fer_scale.pretrain import setup

    setup.check(args.recipe, args.overrides, args.ranks)


def _keys_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("stage", choices=("pretrain", "finetune"))
    _json_flag(verb)


def _keys(args: argparse.Namespace) -> None:
    from fer_scale import config, log

    if args.stage == "pretrain":
        from fer_scale.pretrain.recipe import Pretrain as schema
    else:
        from fer_scale.finetune.recipe import Finetune as schema  # type: ignore[assignment]
    rows = config.describe(schema)
    if args.json:
        log.print_json([dict(zip(("key", "default", "kind", "help"), row, strict=True)) for row in rows])
        return
    for key, default, kind, text in rows:
        print(f"{key:<32} {default:<28} {kind:<7} {text}")


# --- models ---------------------------------------------------------------------------------------------------------


def _publish_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("source", type=Path, help="a run, one of its checkpoints, or a model folder")
    verb.add_argument("to", help="a folder, or hf://ORG/NAME")
    verb.add_argument("--licence", help="of the weights, as cc-by-nc-4.0; needed unless the recipe has card.license")
    verb.add_argument("--title", help="title of the model card")
    verb.add_argument("--step", type=int, help="which checkpoint of a run (the newest)")
    verb.add_argument("--private", action="store_true", help="create the repository private")
    verb.add_argument("--tag", help="tag of the release, as v1")
    verb.add_argument("--pictures", action="store_true", help="also publish reconstructions, which show training faces")
    _json_flag(verb)


def _publish(args: argparse.Namespace) -> None:
    from fer_scale import log, publish

    with log.progress(f"publishing to {args.to}", "bytes") as tick:
        address = publish.publish(
            args.source,
            args.to,
            licence=args.licence,
            title=args.title,
            step=args.step,
            private=args.private,
            tag=args.tag,
            pictures=args.pictures,
            progress=tick,
        )
    _result(args, {"published": address})


def _pull_arguments(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("source", metavar="from", help="a folder, or hf://ORG/NAME[@REVISION]")
    verb.add_argument("folder", type=Path, help="where to put it")
    _json_flag(verb)


def _pull(args: argparse.Namespace) -> None:
    from fer_scale import hub, log

    with log.progress(f"pulling {args.source}", "bytes") as tick:
        pulled = hub.pull(args.source, args.folder, progress=tick)
    _result(args, {"pulled": pulled.address, "folder": str(pulled.folder)})


# --- results --------------------------------------------------------------------------------------------------------


def _result(args: argparse.Namespace, facts: dict[str, Any]) -> None:
    """A verb's result: JSON where asked, else one `key  value` a line."""
    from fer_scale import log

    if args.json:
        log.print_json(facts)
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {item:,}" if isinstance(item, int) else f"{key} {item}" for key, item in value.items())
        elif isinstance(value, int) and not isinstance(value, bool):
            value = f"{value:,}"
        print(f"{name:<14} {value}")


VERBS = (
    ("pack", "pack a dataset into WebDataset tar shards", _pack_arguments, _pack),
    ("verify", "read every byte of a shard set again, against its hashes", _verify_arguments, _verify),
    ("show", "say what a shard set holds", _show_arguments, _show),
    ("pretrain", "pre-train a masked autoencoder on shard sets, on any number of ranks", _pretrain_arguments, _pretrain),
    ("publish", "cut a model folder from a run and put it into a folder or on the Hub", _publish_arguments, _publish),
    ("pull", "fetch a published model, every byte checked", _pull_arguments, _pull),
    ("check", "say what a pre-training recipe would do, without doing it", _check_arguments, _check),
    ("keys", "list the keys of a recipe, with default and meaning", _keys_arguments, _keys),
)

if __name__ == "__main__":
    sys.exit(main())
