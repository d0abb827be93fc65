"""What the verbs of labeled faces do: which of them carry a label, what is learnt from them, and what that is worth."""

import sys
from argparse import Namespace
from typing import Any

from fer_scale.verbs import PROBLEM, imports, result
from shards.errors import UserError


def _split(args: Namespace) -> None:
    with imports():
        from fer_scale import log
        from fer_scale.finetune import split

    with log.progress(f"reading {args.set}") as tick:
        drawn = split.split(
            args.set, labels=args.labels, seed=args.seed, out=args.out, test=args.test, valid=args.valid,
            test_seed=args.test_seed, people=args.people, progress=tick,
        )  # fmt: skip
    counts = {name: sum(drawn["class_counts"][name].values()) for name in drawn["class_counts"]}
    result(args, {"split": str(args.out)} | counts | {f"{k} classes": v for k, v in drawn["class_counts"].items()})


def _overlap(args: Namespace) -> None:
    with imports():
        from fer_scale import log
        from fer_scale.finetune import overlap

    found = overlap.find(
        args.a, args.b, args.out, split_file=args.split, list_name=args.list, encoder=args.encoder,
        near_bits=args.near_bits, cosine=args.cosine, key=args.key,
    )  # fmt: skip
    log.print_json(found) if args.json else print("\n".join(overlap.summary(found)))


def _finetune(args: Namespace) -> None:
    with imports():
        from fer_scale.finetune import loop, oneshot

    with_data = ("source", "labels", "test", "valid", "protocol", "licence", "seed", "from", "out")
    given = {name: getattr(args, name) for name in with_data if getattr(args, name) is not None}
    if args.data is None:
        if given:
            keys = "without it a recipe's keys say these, as data.split, model.start_from and run.out"
            raise UserError(f"--{next(iter(given))}: goes with --data, the labeled faces; {keys}")
        ended = loop.finetune(args.recipe, args.overrides, args.change)
    elif args.out is None:
        raise UserError("--data needs --out RUN, a folder for the run")
    else:
        given["start_from"] = given.pop("from", "none")
        wish = oneshot.Wish(data=args.data, **given)
        ended = oneshot.oneshot(args.recipe, args.overrides, wish, args.change)
    if ended["main"]:
        _measured(args, ended["evaluation"]) if "evaluation" in ended else result(args, ended)


def _sweep(args: Namespace) -> int:
    with imports():
        from fer_scale import log
        from fer_scale.finetune import sweep, sweep_rows, sweep_table

    wish = sweep_rows.Wish(
        recipe=args.recipe, overrides=args.overrides, data=args.data, start_from=args.start_from, out=args.out,
        seeds=args.seeds, labels=args.labels, vary=args.vary, more=args.more, test=args.test,
        test_seed=args.test_seed, valid=args.valid, list_name=args.list, jobs=args.jobs, ladder=not args.no_ladder,
    )  # fmt: skip
    found = sweep.sweep(wish)
    log.print_json(found) if args.json else print(sweep_table.markdown(found), end="")
    for line in found["failed"]:
        print(f"fer-scale {args.verb}: {line}", file=sys.stderr)
    return PROBLEM if found["failed"] else 0


def _evaluate(args: Namespace) -> None:
    with imports():
        from fer_scale.finetune import evaluate

    found = evaluate.evaluate(
        args.model, args.set, args.out, split_file=args.split, list_name=args.list, key=args.key,
        worst_file=args.worst, crop_of=args.crop_of,
    )  # fmt: skip
    _measured(args, found)


def _measured(args: Namespace, found: dict[str, Any]) -> None:
    from fer_scale import log
    from fer_scale.finetune import evaluate

    if args.json:
        log.print_json(found)
    else:
        print("\n".join(evaluate.summary(found)))


def _watch(args: Namespace) -> None:
    with imports():
        from fer_scale import log, watch

    rows = watch.watch(args.folder, args.set, args.split, recipe=args.recipe or watch.RECIPE, once=args.once)
    log.print_json(rows) if args.json else print("\n".join(map(watch.line, rows)))
