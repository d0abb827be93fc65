"""`fer-scale check` of a fine-tuning recipe: what it would do and take, before it is paid for.

What would stop a run at its beginning stops it here, by the run's own code: set, split, labels, votes, encoder, disk.
Arithmetic and memory are counted on the network itself, with tensors that hold no numbers (torch's FakeTensorMode);
seconds are measured or not said (trial.py). One multiply-add is two FLOPs.
"""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from fer_scale import config, log, scratch
from fer_scale.config import ConfigError
from fer_scale.finetune import begin, ema, facemix, pairs, processes, sampling, split, state, table, targets
from fer_scale.finetune.processes import Processes
from fer_scale.finetune.recipe import Finetune
from fer_scale.finetune.slip import refuse_slip
from fer_scale.finetune.start import Start, draw_paths, start
from fer_scale.finetune.table import Table
from shards.remote import open_set

SEEDS = 5  # of the sweep that a figure with its spread takes
_FP32, _HALF = 4, 2  # bytes


def check(
    recipe_file: Path, overrides: list[str], *, gpu: str = "cpu", peak: dict[str, float] | None = None, try_out: bool
) -> dict[str, Any]:
    """What the recipe comes to on one process; UserError where a run would end with one at its beginning.

    `peak` says what the device named `gpu` computes in a second by its sheet, by precision.
    """
    recipe = config.load(Finetune, recipe_file, overrides)
    here = processes.join(recipe.run.precision)
    begun, laid = _opened(recipe, here)
    network = of_network(begun, here)
    rows = [_stage(recipe, laid, network, semi) for semi in (False, True) if not semi or recipe.semi.steps]
    a_second = (peak or {}).get("fp32" if recipe.run.precision == "fp32" else "bf16")  # fp16's is bf16's
    found: dict[str, Any] = {
        "data": _data(recipe, laid),
        "model": {"start": begun.base_model or "none", "image_px": begun.image_px} | asdict(network),
        "stages": rows,
        "seen": _seen(recipe, laid),
        "batch_micro": recipe.batch.micro,
        "memory_mb": _memory_mb(recipe, laid, network),
        "checkpoints_mb": state.most_kept(recipe) * network.saved / 1e6,
        "tflop": sum(row["tflop"] for row in rows),
        "gpu": gpu,
        "at_its_peak_s": sum(row["tflop"] for row in rows) * 1e12 / a_second if a_second else None,
        "tried": None,
    }
    if try_out:
        found["tried"] = tried = _tried(recipe_file, overrides)
        for row in rows:
            row["step_s"] = tried["steps_s"][row["stage"]]
            row["seconds"] = row["steps"] * row["step_s"]
        found["seconds"] = tried["setup_s"] + sum(row["seconds"] for row in rows)
        found["seconds_of_5_seeds"] = SEEDS * found["seconds"]
    return found


def _opened(recipe: Finetune, here: Processes) -> tuple[Start, Table]:
    """The network, and the faces with their labels, none of them decoded; all that a run refuses is refused."""
    shard_set = open_set(recipe.data.shards, recipe.data.cache_dir, recipe.data.cache_gb)
    drawn = split.read(recipe.data.split, shard_set)
    names = targets.label_names(drawn.facts["class_counts"]["labeled"])
    begun = start(recipe.model, len(names), recipe.run.seed)
    begin.refuse_cuts(begun, recipe, here)
    lean = replace(recipe, data=replace(recipe.data, memory_mb=0))
    laid = table.lay(lean, shard_set, drawn, names, begun.image_px, here)
    refuse_slip(recipe, [])
    there = next(folder for folder in (recipe.run.out, *recipe.run.out.absolute().parents) if folder.is_dir())
    state.has_room_to_begin(replace(recipe.run, out=there), _saved(begun.model))
    return begun, laid


@dataclass(frozen=True, slots=True)
class Network:
    """What a network holds, and what a picture takes that passes through it."""

    weights: int
    trained: int
    forward_flops: float  # of a picture
    step_flops: float  # of a picture, forward and backward
    kept: float  # bytes of a picture that forward keeps for backward
    saved: int  # bytes of a checkpoint


def of_network(begun: Start, here: Processes) -> Network:
    """Counted on the network as the run would train it; its weights stay, its choice of attention does not.

    On the CPU also for a GPU, in the run's precision: fused attention keeps the same there.
    """
    model = begun.model.train()
    if here.device.type == "cpu":
        model = here.settle(model)  # which may have its attention not fused
    here = replace(here, device=torch.device("cpu"))
    two, four = (_kept(model, count, begun.image_px, here) for count in (2, 4))
    for module in model.modules():  # torch does not count the products of its fused attention on a CPU
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # type: ignore[assignment]
    with FakeTensorMode(allow_non_fake_inputs=True), FlopCounterMode(display=False) as counter:
        answer = _forward(model, 2, begun.image_px, here)
        forward = counter.get_total_flops()
        answer.sum().backward()
    weights = list(model.parameters())
    return Network(
        sum(p.numel() for p in weights),
        sum(p.numel() for p in weights if p.requires_grad),
        forward / 2,
        counter.get_total_flops() / 2,
        (four - two) / 2,  # so that what is the same for all pictures drops out
        _saved(model),
    )


def _forward(model: nn.Module, count: int, px: int, here: Processes) -> Tensor:
    draw_paths(model, np.arange(count, dtype=np.uint64), here.device)
    with here.autocast():
        answer: Tensor = model(torch.zeros(count, 3, px, px, device=here.device))
    return answer.float()


def _kept(model: nn.Module, count: int, px: int, here: Processes) -> int:
    """Bytes that the forward pass of so many pictures keeps, weights among them."""
    kept = dict[int, torch.UntypedStorage]()  # by identity: views share theirs

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage._cdata] = storage
        return tensor

    with FakeTensorMode(allow_non_fake_inputs=True), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        _forward(model, count, px, here)
    return sum(storage.nbytes() for storage in kept.values())


def _saved(model: nn.Module) -> int:
    """Bytes of a checkpoint: student, teacher and Adam's two moments; see state.tensors."""
    whole = sum(tensor.nbytes for tensor in model.state_dict().values())
    return 2 * whole + 2 * sum(p.nbytes for p in model.parameters() if p.requires_grad)


def passes(recipe: Finetune, *, semi: bool) -> float:
    """How often a labeled picture passes the network in a step: as it is, mixed, or both; in the mean of many steps."""
    mixing = recipe.facemix
    if semi and mixing.stages == 2:
        return 1.0
    apart = torch.zeros(1)  # faces that lie exactly on each other save a pass, and are not counted on
    mixed = sum(facemix.needs(mixing.weighting, apart, mixing.real))
    return mixing.probability * mixed + (1 - mixing.probability)


def _stage(recipe: Finetune, laid: Table, network: Network, semi: bool) -> dict[str, Any]:
    plan = recipe.semi if semi else recipe.supervised
    unlabeled = recipe.semi.batch * recipe.semi.unlabeled_ratio if semi else 0
    students, teachers = plan.batch * passes(recipe, semi=semi) + unlabeled, unlabeled
    tflop = (students * network.step_flops + teachers * network.forward_flops) / 1e12
    return {
        "stage": 3 if semi else 2,
        "steps": plan.steps,
        "labeled_a_step": plan.batch,
        "unlabeled_a_step": unlabeled,
        "ema_decay": ema.decay_at((recipe.supervised.steps if semi else 0) + plan.steps - 1, plan.ema_decay),
        "views": plan.steps * (plan.batch + 2 * unlabeled),  # an unlabeled face: weak and strong
        "labeled_seen": plan.steps * plan.batch / len(laid.labeled),
        "unlabeled_seen": plan.steps * unlabeled / len(laid.unlabeled) if laid.unlabeled and semi else 0.0,
        "pictures_a_step": students + teachers,
        "teachers_pictures_a_step": teachers,
        "tflop_a_step": tflop,
        "tflop": plan.steps * tflop,
    }


def _seen(recipe: Finetune, laid: Table) -> dict[str, float]:
    """How often a labeled face of each expression is seen, over both stages."""
    classes, s, u = laid.labels.classes, recipe.supervised, recipe.semi
    often = s.steps * s.batch * sampling.shares(classes, s.sampling)
    often = often + u.steps * u.batch * sampling.shares(classes, u.sampling)
    return {name: float(often[classes == number].mean()) for number, name in enumerate(laid.names)}


def _data(recipe: Finetune, laid: Table) -> dict[str, Any]:
    counts = laid.split.facts["class_counts"]["labeled"]
    lists = {name: len(keys) for name, keys in laid.split.lists.items()}
    decoded = {"labeled": laid.labeled.megabytes()}
    if laid.unlabeled is not None:
        decoded["unlabeled"] = laid.unlabeled.megabytes()
    fits = {name: size <= recipe.data.memory_mb for name, size in decoded.items()}
    return {"labels": {name: counts[name] for name in laid.names}} | lists | {"decoded_mb": decoded, "kept": fits}


def _memory_mb(recipe: Finetune, laid: Table, network: Network) -> dict[str, float]:
    """Of one process, the tensors; on a CPU the device's and the host's are one memory.

    Where 233 and 147 MB were foretold (few_labels.toml, 192x6x6 at 48 px), --try took 1,324, of which 792 were there
    when all was imported (RSS, no GPU, 2026-11-27).
    """
    most = 0.0  # pictures that pass at once
    for semi, plan in ((False, recipe.supervised), (True, recipe.semi)):
        if plan.steps:
            largest = max(map(len, pairs.parts(plan.batch, rank=0, ranks=1, micro=recipe.batch.micro)))
            most = max(most, largest * math.ceil(passes(recipe, semi=semi)))
    if recipe.semi.steps:
        most = max(most, min(recipe.batch.micro, recipe.semi.batch * recipe.semi.unlabeled_ratio))
    casts = 0 if recipe.run.precision == "fp32" else _HALF * network.weights
    data = _data(recipe, laid)
    parts = {
        "weights": 2 * _FP32 * network.weights,
        "gradients": _FP32 * network.trained,
        "adam": 2 * _FP32 * network.trained,
        "activations": most * network.kept + casts,
    }
    device = sum(parts.values())
    faces = sum(size for name, size in data["decoded_mb"].items() if data["kept"][name])
    host = {"faces": faces, "a_save": network.saved / 1e6}
    return {name: size / 1e6 for name, size in parts.items()} | {"device": device / 1e6} | host


def _tried(recipe_file: Path, overrides: list[str]) -> dict[str, Any]:
    """{"device", "setup_s", "steps_s", "micro", "peak_mb"}: what trial.py measured here."""
    log.say("trying some steps of each stage")
    with scratch.folder() as folder:
        command = [sys.executable, "-m", "fer_scale.finetune.trial", str(recipe_file), f"{folder}/run", *overrides]
        ran = subprocess.run(command, capture_output=True, text=True)
    said: dict[str, Any] = {"steps_s": {}}
    for line in ran.stdout.splitlines():
        fact = json.loads(line) if line.startswith("{") else {}
        if "stage" in fact:
            said["steps_s"][fact["stage"]], said["micro"] = fact["seconds"], fact["micro"]
        else:
            said |= fact
    if ran.returncode:
        last = ran.stderr.strip().splitlines()[-1:] or ["without a word: memory may be too short for batch.micro"]
        raise ConfigError(f"--try: {said.get('error') or last[0]}")
    return said


_LINES = {  # what a row of the table says, and its key
    "steps": "steps",
    "labeled faces a step": "labeled_a_step",
    "unlabeled faces a step": "unlabeled_a_step",
    "views": "views",
    "most decay of the average": "ema_decay",
    "a labeled face is seen": "labeled_seen",
    "an unlabeled face is seen": "unlabeled_seen",
    "passes of pictures a step": "pictures_a_step",
    "  of these the teacher's": "teachers_pictures_a_step",
    "TFLOP a step": "tflop_a_step",
    "TFLOP": "tflop",
    "s a step": "step_s",
    "s": "seconds",
}


def lines(found: dict[str, Any]) -> Iterator[str]:
    """What `check` found, as a person reads it: a column for each stage."""
    data, model, memory, rows = found["data"], found["model"], found["memory_mb"], found["stages"]
    yield f"labels   {data['labeled']:,}: " + ", ".join(f"{n} {e}" for e, n in data["labels"].items())
    yield f"faces    {data['unlabeled']:,} unlabeled, {data['valid']:,} valid, {data['test']:,} test"
    for name, size in data["decoded_mb"].items():
        how = "decoded once and kept" if data["kept"][name] else "more than data.memory_mb: read step by step"
        yield f"memory   {name} faces {size:,.0f} MB, {how}"
    flops = f"{model['forward_flops'] / 1e9:.3g} GFLOP a picture, {model['step_flops'] / 1e9:.3g} with backward"
    yield f"model    {model['start']}, {model['image_px']} px, {model['weights'] / 1e6:.1f} M weights, {flops}"
    cells = [("stage", [str(row["stage"]) for row in rows])]
    cells += [(name, [_number(row[key]) for row in rows]) for name, key in _LINES.items() if key in rows[0]]
    for name, values in cells:
        yield f"{name:<26}" + "".join(f"{value:>12}" for value in values)
    for name, mb in memory.items():
        titles = {"device": "  in all", "faces": "  of the host: faces", "a_save": "  of the host: a save"}
        yield f"{'memory, MB: ' + titles.get(name, name):<34}{mb:>16,.0f}"
    yield f"{'checkpoints, MB of disk':<34}{found['checkpoints_mb']:>16,.0f}"
    yield from (f"note     {text}" for text in _notes(found))


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _notes(found: dict[str, Any]) -> Iterator[str]:
    if len({round(often, 6) for often in found["seen"].values()}) > 1:
        yield "a labeled face is seen, by expression: " + ", ".join(f"{e} {n:.3g}" for e, n in found["seen"].items())
    yield "memory is that of tensors; a process has some 0.8 GB besides, for torch and what else it imports"
    if tried := found["tried"]:
        each, all_5 = log.duration(found["seconds"]), log.duration(found["seconds_of_5_seeds"])
        yield f"timed here, on {tried['device']}: {each} a run, {all_5} for {SEEDS} seeds, but for saves and the end"
        yield f"it took {tried['peak_mb']:,.0f} MB at most, and {log.duration(tried['setup_s'])} to begin"
        if tried["micro"] < found["batch_micro"]:
            yield f"memory is too short for batch.micro: {tried['micro']} was timed, which a run would come to as well"
        return
    yield f"{_number(found['tflop'])} TFLOP in all; how long that takes here, --try measures"
    if found["at_its_peak_s"] is not None:
        yield f"{found['gpu']} at its peak: {log.duration(found['at_its_peak_s'])}; a run takes several times that"
