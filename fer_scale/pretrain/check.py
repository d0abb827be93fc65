"""`fer-scale check`: what a recipe would do and cost on so many ranks, before it is paid for.

cost.py has the formulas; this file has the facts that they need, from the recipe and its shards, and the table.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fer_scale import config, log, shipped
from fer_scale.config import ConfigError
from fer_scale.pretrain import cost, publishing, setup
from fer_scale.pretrain.cost import Device, Shape
from fer_scale.pretrain.device import CPU, asked_for
from fer_scale.pretrain.layout import layout_for, overlaps, refuse
from fer_scale.pretrain.recipe import Plan, Pretrain, plan
from shards.index import ShardSet

_PARTS = ("compute", "wire", "exposed", "straggling", "read", "total")  # of a step
_SAID = ('{"sizes"', '{"micro"', '{"memory"')  # lines of trial.py
_PAYS = 0.5  # of one rank's rate, below which more ranks are mostly waiting
_LAYOUTS = shipped.CONFIGS / "deepspeed"  # zero0.json ...: of the stages that were not asked for
_MODELLED = {  # keys of a layout whose defaults cost.py counts with
    "stage3_param_persistence_threshold": cost.PERSISTENT,
    "stage3_prefetch_bucket_size": cost.PREFETCH,
    "stage3_max_reuse_distance": cost.REUSE,
}


@dataclass(frozen=True, slots=True)
class Wish:
    """What was asked for beside the recipe."""

    ranks: str = "1"  # numbers with commas
    gpu: str = "h100"
    node: int | None = None  # ranks of a node; None: 8, and of processors all
    network_gbps: float | None = None  # of a whole node
    try_out: bool = False


def check(recipe_file: Path, overrides: list[str], wish: Wish) -> dict[str, Any]:
    """What the recipe comes to for each number of ranks; says on the way what the recipe is."""
    rec = config.load(Pretrain, recipe_file, overrides)
    publishing.refuse(rec)
    counts = _counts(wish.ranks)
    node = wish.node if wish.node is not None else max(counts) if wish.gpu == CPU else 8
    device = asked_for(wish.gpu, node, wish.network_gbps)
    if wish.try_out and wish.gpu != CPU and not torch.cuda.is_available():
        raise ConfigError("--try measures on this machine, which has no GPU: say --gpu cpu, or try it where the GPU is")
    sets = setup.opened(rec.data)
    _, order, fell_out = setup.table(rec, sets)
    plans = [plan(rec, ranks, order) for ranks in counts]
    shape = setup.shape_of(rec)
    layout = layout_for(rec.run.deepspeed, shape.trained)
    refuse(rec.run, layout["stage"])
    setup.describe(rec, plans[0], order, sets, fell_out, shape.trained + shape.frozen)
    tried, threads = None, _cores(node) if wish.gpu == CPU else None
    if wish.try_out:
        tried = largest_micro(recipe_file, overrides, rec.batch.size // counts[0], threads)
    known = _Known(rec, shape, layout, device, node, sets, tried)
    ignored = [key for key, default in _MODELLED.items() if layout.get(key, default) != default]
    return {"device": asdict(device), "tried": tried, "ignored": ignored, "plans": [known.row(p) for p in plans]}


def largest_micro(recipe_file: Path, overrides: list[str], most: int, threads: int | None) -> dict[str, Any]:
    """{"device", "micro", "limit", "sizes"}: the largest size up to `most` that fits here; seconds a step of each.

    `limit` is False where `most` itself fits. With `threads` on so many cores, without a GPU.
    """
    command = [sys.executable, "-m", "fer_scale.pretrain.trial", str(recipe_file), str(most), *overrides]
    env = os.environ | ({"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": str(threads)} if threads else {})
    sizes, last = list[tuple[int, float]](), "killed"
    begun: dict[str, Any] = {"sizes": 1, "device": ""}
    with (
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env) as run,
        log.progress("trying micro-batches", "sizes") as tick,
    ):
        assert run.stdout is not None
        for line in run.stdout:
            said = json.loads(line) if line.startswith(_SAID) else {}
            if "sizes" in said:
                begun = said
            elif "micro" in said:
                sizes.append((said["micro"], said["seconds"]))
                tick(len(sizes), begun["sizes"])
            else:
                last = said.get("memory") or line.strip() or last
    if run.returncode > 0:  # no lack of memory, which it says, or is killed for
        raise ConfigError(f"--try: {last}")
    if not sizes:
        raise ConfigError(f"--try: not even one image could be trained on here ({last})")
    micro = sizes[-1][0]
    return {"device": begun["device"], "micro": micro, "limit": micro < most, "sizes": sizes}


def _cores(node: int) -> int:
    """Of this machine, for each of the ranks that share them."""
    return max(1, (os.cpu_count() or 1) // node)


def _counts(text: str) -> list[int]:
    try:
        counts = [int(word) for word in text.split(",")]
    except ValueError:
        counts = [0]
    if min(counts) < 1:
        raise ConfigError(f"--ranks {text}: give numbers of ranks with commas between them, as 1,8,64")
    return counts


@dataclass(frozen=True, slots=True)
class _Known:
    """Everything that a row is computed from, but the number of ranks."""

    rec: Pretrain
    shape: Shape
    layout: dict[str, Any]
    device: Device
    node: int
    sets: list[ShardSet]
    tried: dict[str, Any] | None

    def row(self, planned: Plan) -> dict[str, Any]:
        """What so many ranks come to."""
        ranks, size, run = planned.ranks, self.rec.batch.size, self.rec.run
        micro = size / ranks / planned.accumulation
        again = -(-size // self.rec.batch.micro)
        step, sent = self._step(ranks, micro, planned.accumulation)
        alone, _ = self._step(1, size / again, again)
        weak, weak_alone = (self._step(n, self.rec.batch.micro, 1)[0] for n in (ranks, 1))
        rate, nodes = size / step.total, -(-ranks // self.node)
        image_bytes, decode_s = self._an_image()
        hours = planned.steps * step.total / 3600
        flops = self.shape.step_flops()
        return {
            "ranks": ranks,
            "nodes": nodes,
            "images_a_rank": size / ranks,
            "accumulation": planned.accumulation,
            "steps": planned.steps,
            "lr": planned.lr,
            "warmup_steps": planned.warmup_steps,
            "gflop_an_image": flops / 1e9,
            "images_per_s": rate,
            "mfu": rate / ranks * flops / self.device.flops[run.precision],
            "rate_of_one_rank": rate / ranks / (size / alone.total),
            "weak_images_per_s": ranks * self.rec.batch.micro / weak.total,
            "weak_rate_of_one_rank": weak_alone.total / weak.total,
            "bound_by": step.bound,
            "step_ms": {name: 1e3 * getattr(step, name) for name in _PARTS},
            "days": hours / 24,
            "node_hours": hours * nodes,
            "wire_mb_a_step": sent / 1e6,
            "read_mb_per_s_a_node": rate / nodes * image_bytes / 1e6,
            "reader_cores_a_node": rate / nodes * decode_s,
            "shards_a_rank": sum(len(s.counts) for s in self.sets) / ranks,
            "checkpoints_gb": setup.most_kept(self.rec, planned.steps) * cost.saved(self.shape) / 1e9,
            "saving_gb": cost.saved(self.shape) / 1e9,
            "memory_gb": _gb(self._memory(planned, self.layout)),
            "memory_gb_by_stage": {s: _gb(self._memory(planned, self._at(s)))["total"] for s in range(4)},
            "device_gb": self.device.memory / 1e9,
        }

    def _step(self, ranks: int, micro: float, accumulation: int) -> tuple[cost.Step, float]:
        """A step in which each rank takes so many micro-batches of so many images; bytes that it sends."""
        run, device, layout, stage = self.rec.run, self.device, self.layout, self.layout["stage"]
        if self.tried:
            one, launching = _timed(self.tried["sizes"], micro), False
        else:
            precision, again = run.precision, run.recompute
            one, launching = cost.compute_s(self.shape, device, micro=micro, precision=precision, recompute=again)
        gradient = cost.BF16 if run.reduce_dtype == "bf16" else cost.FP32
        load = cost.traffic(
            self.shape, stage=stage, ranks=ranks, accumulation=accumulation, bucket=layout["reduce_bucket_size"],
            gradient=gradient, gloo=device.gloo,
        )  # fmt: skip
        wire = cost.wire_s(load, device, ranks=ranks, node=self.node)
        read = accumulation * micro * self._an_image()[1] / max(1, self.rec.data.workers)
        overlap = overlaps(layout) and device.name != CPU  # whose cores do both
        hidden = wire * cost.beside_backward(stage, gradient) if overlap else 0.0
        one *= accumulation
        done = cost.step(compute=one, wire=wire, hidden=hidden, ranks=ranks, read=read, launching=launching)
        return done, load.sent

    def _at(self, stage: int) -> dict[str, Any]:
        """The recipe's layout, or of another stage than its own the one in configs/."""
        own = stage == self.layout["stage"]
        return self.layout if own else layout_for(_LAYOUTS / f"zero{stage}.json", self.shape.trained)

    def _memory(self, planned: Plan, layout: dict[str, Any]) -> cost.Memory:
        run, many = self.rec.run, planned.accumulation
        return cost.memory(
            self.shape, stage=layout["stage"], ranks=planned.ranks, micro=self.rec.batch.size / planned.ranks / many,
            precision=run.precision, recompute=run.recompute, bucket=layout["reduce_bucket_size"],
            overlap=overlaps(layout), accumulation=many,
        )  # fmt: skip

    def _an_image(self) -> tuple[float, float]:
        """Bytes to be read, and seconds of a core to decode, of the mean image of all sets."""
        samples = sum(s.samples for s in self.sets)
        seconds = sum(s.samples * cost.decode_s(*s.index["image_px"]["mean"]) for s in self.sets)
        return sum(s.index["bytes"] for s in self.sets) / samples, seconds / samples


def _timed(sizes: list[tuple[int, float]], micro: float) -> float:
    """Seconds of a micro-batch, between those that were timed; a larger one takes as long an image as the largest."""
    largest, seconds = sizes[-1]
    if micro > largest:
        return seconds * micro / largest
    return float(np.interp(micro, [size for size, _ in sizes], [seconds for _, seconds in sizes]))


def _gb(memory: cost.Memory) -> dict[str, float]:
    return {name: value / 1e9 for name, value in asdict(memory).items()} | {"total": memory.total / 1e9}


_LINES: tuple[tuple[str, str, str], ...] = (  # what, key, format
    ("nodes", "nodes", ",.0f"),
    ("images a rank and step", "images_a_rank", ",.4g"),
    ("micro-batches", "accumulation", ",.0f"),
    ("images/s", "images_per_s", ",.0f"),
    ("MFU", "mfu", ".1%"),
    ("rate of one rank", "rate_of_one_rank", ".0%"),
    ("  batch.micro a rank", "weak_rate_of_one_rank", ".0%"),
    ("  images/s so", "weak_images_per_s", ",.0f"),
    ("bound by", "bound_by", ""),
    ("days", "days", ",.3g"),
    ("node hours", "node_hours", ",.4g"),
    ("on the wire, MB a step", "wire_mb_a_step", ",.0f"),
    ("read, MB/s a node", "read_mb_per_s_a_node", ",.0f"),
    ("reader cores a node", "reader_cores_a_node", ",.3g"),
    ("shards a rank", "shards_a_rank", ",.3g"),
    ("checkpoints, GB", "checkpoints_gb", ",.3g"),
    ("  in host memory, GB", "saving_gb", ",.3g"),
)


def table(found: dict[str, Any]) -> list[str]:
    """The lines of the table, a column for each number of ranks, and what is amiss."""
    plans = found["plans"]
    columns: list[tuple[str, list[str]]] = [("ranks", [f"{p['ranks']:,}" for p in plans])]
    columns += [(name, [format(p[key], form) for p in plans]) for name, key, form in _LINES]
    for part in ("compute", "exposed", "straggling", "read", "total"):
        title = {"exposed": "wire, not hidden", "read": "reading, beside it"}.get(part, part)
        columns.append((f"step, ms: {title}", [f"{p['step_ms'][part]:,.3g}" for p in plans]))
    for part in ("weights", "gradients", "optimizer", "activations", "buffers", "total"):
        columns.append(
            (f"memory, GB: {part.replace('total', 'most at once')}", [f"{p['memory_gb'][part]:,.3g}" for p in plans])
        )
    for stage in range(4):
        columns.append((f"  at ZeRO stage {stage}", [f"{p['memory_gb_by_stage'][stage]:,.3g}" for p in plans]))
    wide = max(len(cell) for _, cells in columns for cell in cells) + 2
    lines = [f"{name:<26}" + "".join(f"{cell:>{wide}}" for cell in cells) for name, cells in columns]
    return [*lines, *(f"note     {text}" for text in _notes(found))]


def _notes(found: dict[str, Any]) -> Iterator[str]:
    tried, device, plans = found["tried"], found["device"], found["plans"]
    if tried:
        micro, seconds = tried["sizes"][-1]
        rate = f"{micro / seconds:,.0f} images/s in micro-batches of {micro}"
        yield f"computing was timed here, on {tried['device']}: {rate}"
        called = cost.device_called(tried["device"])
        if (called.name if called else CPU) != device["name"]:
            yield f"memory, links and MFU are those of {device['name']}, which {tried['device']} is not: see --gpu"
        yield f"the largest batch.micro that fits here: {tried['micro']}" + (
            "" if tried["limit"] else " (none larger was asked for)"
        )
    else:
        yield f"times are a model of {device['name']} (fer_scale/pretrain/cost.py), not measured; --try measures here"
        if any(p["bound_by"] == "launching" for p in plans):
            yield (
                f"launching binds: {1e3 * cost.LAUNCH_S:g} ms of the host a block were fitted to one machine with slow "
                "cores; faster ones may take a fraction: --try"
            )
    for key in found["ignored"]:
        yield f"{key} is counted at its default, {_MODELLED[key]:,}"
    for p in plans:
        room = p["device_gb"] - (p["saving_gb"] if device["name"] == CPU else 0)  # a GPU's host keeps it
        if p["memory_gb"]["total"] > room:
            fits = [stage for stage, total in p["memory_gb_by_stage"].items() if total <= room]
            way_out = f"ZeRO stage {fits[0]} fits" if fits else "lower batch.micro, or set run.recompute=true"
            needs = f"{p['memory_gb']['total']:.0f} GB are more than {room:.0f}"
            yield f"{log.plural(p['ranks'], 'rank')}: {needs}: {way_out}"
        if p["rate_of_one_rank"] < _PAYS:
            yield (
                f"{p['ranks']} ranks do not pay: {p['images_a_rank']:.3g} images each leave them at "
                f"{p['rate_of_one_rank']:.0%} of what one rank does alone; fewer ranks, or a larger batch"
            )
