"""index.json of a packed set, out of its plan and the rows of its shards (index.py says what it is for)."""

import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from shards.boxes import WHOLE
from shards.copies import SAME
from shards.errors import ShardError
from shards.index import FORMAT
from shards.plan import Plan
from shards.sources.listing import LeftOut, Listing
from shards.tally import add_up

Row = dict[str, Any]  # what writer.write_shard returns


def describe(about: dict[str, Any], listing: Listing, plan: Plan, rows: list[Row]) -> dict[str, Any]:
    """The index of a set; `about` holds what only the user knows. ShardError where no image is in it."""
    left_out = left_out_of(listing, rows)
    shards = [row["shard"] for row in rows]
    samples = sum(shard["samples"] for shard in shards)
    if not samples:
        raise ShardError(f"no image can be packed; the first: {left_out[0].path}: {left_out[0].reason}")
    return {
        "format": FORMAT,
        "name": about["name"],
        "source": about["source"],
        "split": about["split"],
        "protocol": listing.protocol,
        "licence": about["licence"],
        "seed": about["seed"],
        "order": "random",
        "samples": samples,
        "bytes": sum(shard["bytes"] for shard in shards),
        **add_up([row["tally"] for row in rows]),
        "identities": _identities(listing, plan, rows),
        "template_box": list(WHOLE),
        **({"detector": about["detector"]} if about["detector"] else {}),
        **({} if about["decode_check"] else {"hashes": False}),
        "left_out": dict(sorted(_counted(left_out).items())),
        "shards": shards,
    }


def to_text(index: dict[str, Any]) -> str:
    """The JSON text of an index, with a line a fact and a line a shard: for `less` and `diff`."""
    facts = [f'"{name}": {json.dumps(value)}' for name, value in index.items() if name != "shards"]
    shards = ",\n  ".join(json.dumps(shard) for shard in index["shards"])
    return "{\n " + ",\n ".join([*facts, f'"shards": [\n  {shards}\n ]']) + "\n}\n"


def left_out_of(listing: Listing, rows: Iterable[Row]) -> list[LeftOut]:
    """What the source left out, and what could not be packed, sorted by path."""
    damaged = [LeftOut(path, reason, True) for row in rows for _, path, reason in row["left_out"]]
    return sorted(listing.left_out + damaged, key=lambda left: left.path)


def _counted(left_out: list[LeftOut]) -> Counter[str]:
    """How often each reason is given, the copies' as one, and as one those of damage that differ in numbers alone.

    There could be as many kinds as files else; left_out.jsonl has each as it is.
    """
    damaged = {left.reason for left in left_out if left.counts}
    kinds, alike = Counter[str](), Counter(map(_without_numbers, damaged))
    for left in left_out:
        reason, form = left.reason, _without_numbers(left.reason)
        if reason.startswith(SAME):
            reason = f"{SAME} another"
        elif left.counts and alike[form] > 1:
            reason = form
        kinds[reason] += 1
    return kinds


def _without_numbers(reason: str) -> str:
    return re.sub(r"\d[\d,]*", "N", reason)


def _identities(listing: Listing, plan: Plan, rows: list[Row]) -> int | None:
    """How many people are in the set; None where the source does not know."""
    dropped = {place for row in rows for place, _, _ in row["left_out"]}
    kept = (i for place, i in enumerate(plan.order.tolist()) if place not in dropped)
    people = {listing.entries[i].identity for i in kept}
    return len(people - {None}) or None
