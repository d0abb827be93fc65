"""What each verb of the command line does: it calls a stage or a part of the ground floor, and prints what came of it.

Those of labeled faces stand in verbs_labeled.py, those of finished models in verbs_using.py.

A verb's module is imported when the verb is called, so `--help` answers at once. What a verb returns is the exit code:
nothing or 0, or PROBLEM where it did what was asked and found something damaged, unreadable or unfit.
"""

import gc
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from fer_scale import __version__
from shards.errors import UserError

PROBLEM = 2


@contextmanager
def imports() -> Iterator[None]:
    """Importing torch makes a million objects and no garbage; looking for some is a fifth of the start of a verb."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def _pack(args: Namespace) -> None:
    from fer_scale import log
    from shards import pack, show

    detector = _detector(args.detector) if args.detector else None
    with log.progress(f"packing {args.out}") as tick:
        packed = pack.pack(
            args.src, args.out, source=args.source, name=args.name, split=args.split, protocol=args.protocol,
            shard_mb=args.shard_mb, seed=args.seed, workers=args.workers, max_left_out=args.max_left_out,
            licence=args.licence, transcode=args.transcode, max_px=args.max_px, duplicates=args.duplicates,
            decode_check=not args.no_decode_check, boxes=args.boxes, detector=detector, progress=tick,
        )  # fmt: skip
    result(args, show.show(packed.path))


def _detector(address: str) -> Path:
    """The detector's model file, fetched if need be; shards/detector.py knows whether it is the one."""
    from shards.detector import FILE

    if not address.startswith("hf://"):
        return Path(address)
    from fer_scale import hub

    return hub.pull_file(address, FILE)


def _verify(args: Namespace) -> int:
    from fer_scale import log
    from shards import verify

    with log.progress(f"verifying {args.set}") as tick:
        report = verify.verify(args.set, decode=args.decode, progress=tick)
    result(args, report)
    if report["damaged"]:
        log.say(f"{args.set}: damaged; copy these files again, or pack the set again from its source")
    return PROBLEM if report["damaged"] else 0


def _show(args: Namespace) -> None:
    from fer_scale import log, record
    from shards import show, speed
    from shards.index import INDEX, UNFINISHED
    from shards.remote import is_far

    is_set = is_far(args.set) or (Path(args.set) / INDEX).exists() or Path(f"{args.set}{UNFINISHED}").exists()
    if not is_set:
        if record.is_run(Path(args.set)):
            return _life(args)
        raise UserError(f"{args.set}: no shard set (no {INDEX}) and no run (no events.jsonl); is it another folder?")

    if args.pictures:
        show.contact_sheet(args.set, args.pictures)
    facts = show.show(args.set)
    if args.speed:
        with log.progress(f"reading {args.set}", "seconds") as tick:
            facts["speed"] = speed.measure(args.set, progress=tick)
    result(args, facts)


def _life(args: Namespace) -> None:
    import time

    from fer_scale import life, log, record, story

    if args.pictures or args.speed:
        raise UserError(f"{args.set}: is a run; --pictures and --speed are for shard sets")
    told = life.life(record.read(Path(args.set)), time.time())
    log.print_json(told) if args.json else print("\n".join(story.lines(Path(args.set), told)))


def _pretrain(args: Namespace) -> None:
    with imports():
        from fer_scale.pretrain import loop

    loop.pretrain(args.recipe, args.overrides, args.change)


def _publish(args: Namespace) -> None:
    from shards import transfer
    from shards.index import INDEX

    if args.parent:
        from fer_scale import processes

        processes.end_with(args.parent)
    if args.space or args.to.startswith("hf://spaces/"):
        return _publish_space(args)
    if isinstance(args.source, str):
        more = "" if transfer.holds_sets(args.source) else ", and --space makes a Space for it"
        raise UserError(f"{args.source}: lies far away; `fer-scale pull` fetches it{more}")
    if (args.source / INDEX).is_file():
        return _publish_set(args)
    with imports():
        from fer_scale import portable, publish

    parts = () if args.parts is None else args.parts.split(",")
    address = publish.publish(
        args.source, args.to, licence=args.licence, title=args.title, step=args.step, private=args.private,
        pictures=args.pictures, parts=parts, contact=args.contact, data=args.data, sign=args.sign,
        overlap=args.overlap,
    )  # fmt: skip
    state = {"state": portable.push(args.source, args.step, args.state)} if args.state else {}
    result(args, {"published": address} | state)


def _publish_set(args: Namespace) -> None:
    from fer_scale import sets

    if args.step is not None or args.pictures or args.data or args.parts or args.sign or args.state or args.overlap:
        others = "--step, --pictures, --parts, --data, --overlap, --sign and --state are for models"
        raise UserError(f"{args.source}: is a shard set; {others}")
    how = {"licence": args.licence, "title": args.title, "contact": args.contact, "private": args.private}
    result(args, {"published": sets.publish(args.source, args.to, **how)})


def _publish_space(args: Namespace) -> None:
    with imports():
        from fer_scale import space

    others = ("licence", "contact", "data", "overlap", "parts", "pictures", "sign", "state", "step")
    if any(vars(args)[name] for name in others):
        raise UserError(f"{args.source}: a Space says what the model's card says; it takes --title and --private alone")
    address = space.publish(str(args.source), args.to, title=args.title, private=args.private)
    result(args, {"published": address})


def _pull(args: Namespace) -> None:
    from fer_scale import artifact, hub, log
    from shards import pull, transfer

    is_set = transfer.holds_sets(args.source)
    if is_set and args.key:
        raise UserError(f"{args.source}: holds a shard set; --key is for models")
    if not is_set:
        artifact.refuse_to_replace(args.folder, but_models=True)  # before any byte travels
    with log.progress(f"pulling {args.source}", "bytes") as tick:
        fetch = pull.pull if is_set else partial(hub.pull, key=args.key)
        pulled = fetch(args.source, args.folder, progress=tick)
    result(args, {"pulled": pulled.address, "folder": str(pulled.folder)})


def _check(args: Namespace) -> None:
    if _is_finetuning(args.recipe, args.overrides):
        return _check_finetuning(args)
    with imports():
        from fer_scale import log
        from fer_scale.pretrain import check

    wish = check.Wish(args.ranks, args.gpu, args.gpus_per_node, args.network_gbps, args.try_out)
    found = check.check(args.recipe, args.overrides, wish)
    log.print_json(found) if args.json else print("\n".join(check.table(found)))


def _check_finetuning(args: Namespace) -> None:
    with imports():
        from fer_scale import log
        from fer_scale.finetune import cost
        from fer_scale.pretrain import device

    if args.ranks != "1" or args.gpus_per_node or args.network_gbps:
        raise UserError(f"{args.recipe}: is for fine-tuning; --ranks, --gpus-per-node, --network-gbps are for others")
    # A processor's time is not said: --try measures it.
    peak = {} if args.gpu == device.CPU else device.asked_for(args.gpu, 1, None).flops
    found = cost.check(args.recipe, args.overrides, peak=peak, gpu=args.gpu, try_out=args.try_out)
    log.print_json(found) if args.json else print("\n".join(cost.lines(found)))


def _is_finetuning(recipe: Path, overrides: list[str]) -> bool:
    """Whether more of a recipe's keys are only fine-tuning's than only pre-training's."""
    import tomllib

    from fer_scale import config
    from fer_scale.finetune.recipe import Finetune
    from fer_scale.pretrain.recipe import Pretrain

    told = {override.partition("=")[0] for override in overrides}
    with suppress(OSError, ValueError):  # said where it is read
        sections = tomllib.loads(recipe.read_text()).items()
        told |= {f"{name}.{key}" for name, keys in sections if isinstance(keys, dict) for key in keys}
    finetune, pretrain = ({key for key, _ in config.keys(schema)} for schema in (Finetune, Pretrain))
    return len(told & (finetune - pretrain)) > len(told & (pretrain - finetune))


def _doctor(args: Namespace) -> int:
    from fer_scale.pretrain import doctor, fitness

    report: dict[str, Any] | None
    if args.hostfile or args.slurm:
        report = doctor.doctor(args.hostfile, args.recipe, args.overrides, args.out)
    else:
        with imports():
            from fer_scale.pretrain import probe

        report = probe.probe(args.recipe, args.overrides, args.out, reporting=args.reporting)
    return 0 if report is None or fitness.told(report, as_json=args.json) else PROBLEM


def _checkpoint(args: Namespace) -> int:
    with imports():
        from fer_scale import checkpoints, compare, log

    title = f"reading {args.a if args.what == 'diff' else args.place}"
    with log.progress(title, "bytes") as tick:
        found: Any
        if args.what == "ls":
            found = checkpoints.ls(args.place)
        elif args.what == "verify":
            found = checkpoints.verify(args.place, tick)
        elif args.what == "diff":
            found = compare.diff(args.a, args.b, tick)
        else:
            place = checkpoints.find(args.place)
            found = checkpoints.extract(place, args.out, tick, weights=args.weights, match=args.match)
    if args.what in ("ls", "diff") and not args.json:
        print("\n".join(checkpoints.table(found) if args.what == "ls" else compare.lines(found)))
    else:
        result(args, found)
    return PROBLEM if args.what == "verify" and found["damaged"] else 0


def _keys(args: Namespace) -> None:
    from fer_scale import config, log

    schema: type
    if args.stage == "pretrain":
        from fer_scale.pretrain.recipe import Pretrain as schema
    else:
        from fer_scale.finetune.recipe import Finetune as schema
    rows = config.describe(schema)
    if args.json:
        log.print_json([dict(zip(("key", "default", "kind", "help"), row, strict=True)) for row in rows])
        return
    for key, default, kind, text in rows:
        print(f"{key:<32} {default:<28} {kind:<7} {text}")


def _recipes(args: Namespace) -> None:
    from fer_scale import log, shipped

    rows = [{"name": name, "for": shipped.purpose(file), "file": str(file)} for name, file in shipped.recipes().items()]
    log.print_json(rows) if args.json else print("\n".join(f"{row['name']:<26} {row['for']}" for row in rows))


def _demo(args: Namespace) -> None:
    from fer_scale import log

    log.say(f"The whole flow on drawn faces, in {args.out}")  # at once: what follows imports torch
    with imports():
        from fer_scale.demo import flow

    flow.demo(args.out, seed=args.seed, as_json=args.json)


def version(args: Namespace) -> None:
    facts = {"fer_scale": __version__}
    if args.verbose:
        with imports():
            from fer_scale import about

        facts = about.about()
    result(args, facts) if args.verbose or args.json else print(f"fer_scale {__version__}")


def result(args: Namespace, facts: dict[str, Any]) -> None:
    """A verb's result: JSON where asked, else one `name  value` a line."""
    from fer_scale import log

    if args.json:
        log.print_json(facts)
        return
    for name, value in facts.items():
        print(f"{name:<18} {log.words(value)}")
