"""The whole flow over drawn faces: README's commands one after the other, as processes, each printed before it runs.

`FLOW` is the demo; the rest of this file runs it and reads what it came to. What a step makes appears when it is
complete, so a demo that was stopped goes on where it was when it is started again.
"""

import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fer_scale import __version__, disk, log
from fer_scale.demo.draw import draw
from shards.errors import UserError
from shards.expressions import EXPRESSIONS

NOTE = (
    "Drawn faces say nothing about real ones: the table shows that every stage works and that pre-training helps here, "
    "not how well anybody's expression will be recognised."
)


@dataclass(frozen=True, slots=True)
class Step:
    """A command and what it is for; it is not run again once `makes`, a path below OUT, is there ("": always run)."""

    title: str
    makes: str
    command: str


_FINETUNE = (
    "fer-scale finetune finetune/demo data.shards=OUT/sets/labeled data.split=OUT/split.json "
    "run.seed=SEED run.out=OUT/{0} {1}"
)
_EVALUATE = "fer-scale evaluate {0} OUT/sets/labeled --split OUT/split.json --list test --out OUT/{1}"

FLOW = (
    Step(
        "Pack the unlabeled faces into shards.",
        "sets/unlabeled",
        "fer-scale pack OUT/faces/unlabeled OUT/sets/unlabeled --source folder --licence apache-2.0",
    ),
    Step(
        "Pack the labeled faces, with their expressions and boxes.",
        "sets/labeled",
        "fer-scale pack OUT/faces/labeled OUT/sets/labeled --source folder --licence apache-2.0",
    ),
    Step("Read every byte of them again.", "", "fer-scale verify OUT/sets/labeled --decode"),
    Step("Look at some.", "faces.png", "fer-scale show OUT/sets/labeled --pictures OUT/faces.png"),
    Step(
        "Keep 40 labels of each expression and 2,000 faces to test on; hide the labels of the other 1,280.",
        "split.json",
        "fer-scale split OUT/sets/labeled --labels 320 --test 2000 --seed SEED --out OUT/split.json",
    ),
    Step(
        "Pre-train an encoder on the unlabeled faces: it fills in what is hidden of them (stage 1).",
        "encoder",
        "deepspeed --num_gpus RANKS --master_port PORT --module fer_scale pretrain pretrain/demo "
        "data.shards=OUT/sets/unlabeled run.out=OUT/pretrain run.seed=SEED",
    ),
    Step(
        "Publish it: to a folder here, but hf://ORG/NAME works as well.",
        "encoder",
        "fer-scale publish OUT/pretrain OUT/encoder --licence apache-2.0",
    ),
    Step(
        "Fine-tune it on the labels, supervised (stage 2).",
        "stage2/metrics.json",
        _FINETUNE.format("finetune", "model.start_from=OUT/encoder semi.steps=0"),
    ),
    Step("Test it on strangers.", "stage2/metrics.json", _EVALUATE.format("OUT/finetune/model", "stage2")),
    Step(
        "Go on with it, with labels of its own making for the unlabeled faces (stage 3).",
        "finetune/evaluation/metrics.json",
        _FINETUNE.format("finetune", "model.start_from=OUT/encoder --change semi.steps=80"),
    ),
    Step(
        "Test that, too.",
        "finetune/evaluation/metrics.json",  # where `publish` looks for the figures and pictures of the card
        _EVALUATE.format("OUT/finetune/model", "finetune/evaluation"),
    ),
    Step(
        "For comparison: the same network without pre-training.",
        "from_scratch/metrics.json",
        _FINETUNE.format(
            "scratch",
            "model.start_from=none model.architecture=128x4x4 model.image_px=48 model.patch_px=8 semi.steps=0",
        ),
    ),
    Step("Test it.", "from_scratch/metrics.json", _EVALUATE.format("OUT/scratch/model", "from_scratch")),
    Step(
        "And what a logistic regression on pixels reaches.",
        "pixels/metrics.json",
        _EVALUATE.format("baseline:pixels", "pixels"),
    ),
    Step(
        "Publish the expression model.",
        "model",
        "fer-scale publish OUT/finetune OUT/model --licence apache-2.0",
    ),
    Step(
        "Use it: on happiness, surprise and anger.",
        "",
        "fer-scale predict OUT/model OUT/faces/labeled/00001/0000.jpg OUT/faces/labeled/00002/0000.jpg "
        "OUT/faces/labeled/00004/0000.jpg --faces whole",
    ),
)

RUNGS = {  # of the ladder: name and what was measured
    "logistic regression on pixels": "pixels/metrics.json",
    "the network from scratch": "from_scratch/metrics.json",
    "pre-trained, stage 2": "stage2/metrics.json",
    "pre-trained, stages 2 and 3": "finetune/evaluation/metrics.json",
}
PLACES = {  # what a person would open
    "some of the faces": "faces.png",
    "what the decoder filled in": "pretrain/reconstructions.png",
    "the loss curve": "pretrain/curves.png",
    "which expressions are confused": "finetune/evaluation/confusion_matrix.png",
    "the encoder": "encoder",
    "the expression model": "model",
    "these numbers": "ladder.json",
}


def demo(out: Path, *, seed: int = 0, as_json: bool = False) -> dict[str, Any]:
    """Runs the demo in the folder `out`, or goes on with it; prints and returns what it came to."""
    began = time.monotonic()
    claim(out, seed)
    if not (out / "faces").exists():
        log.say("Draw faces with known expressions: seeded code, no photographs.")
        with log.progress("drawing", "faces") as tick:
            draw(out / "faces", seed=seed, workers=min(8, os.cpu_count() or 1), progress=tick)
    gpus = _gpus()
    ranks = len(gpus) or 2  # two processes on one CPU: the least that is data-parallel
    values = {"OUT": str(out), "SEED": str(seed), "RANKS": str(ranks), "PORT": str(_free_port())}
    seconds = [run(step, out, values, quiet=as_json) for step in FLOW]
    result = {
        "seed": seed,
        "version": __version__,
        "device": gpus[0] if gpus else f"{os.cpu_count()} CPU cores",
        "ranks": ranks,
        "seconds": round(time.monotonic() - began, 1),
        "seconds_of_steps": {step.title: round(s, 1) for step, s in zip(FLOW, seconds, strict=True)},
        "ladder": ladder(out),
        "note": NOTE,
    }
    disk.put(out / "ladder.json", json.dumps(result, indent=2) + "\n")
    if as_json:
        log.print_json(result)
    else:
        print(report(result, out))
    return result


def _gpus() -> list[str]:
    """Their names."""
    return [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]


def claim(out: Path, seed: int) -> None:
    """Makes `out` this demo's folder.

    A demo that was stopped stays as it is, a finished one is cleared away; UserError where there is anything else.
    """
    mark = out / "demo.json"
    if mark.exists():
        theirs = json.loads(mark.read_text())["seed"]
        if theirs != seed:
            raise UserError(f"{out}: holds a demo of seed {theirs}; go on with --seed {theirs}, or give another --out")
        if not (out / "ladder.json").exists():
            log.say(f"{out} holds a demo that was stopped; it goes on")
            return
        log.say(f"{out} holds a finished demo; it is cleared away and done again")
        shutil.rmtree(out)
    elif out.exists() and any(out.iterdir()):
        raise UserError(f"{out}: is not empty, and no demo; give another --out")
    out.mkdir(parents=True, exist_ok=True)
    disk.put(mark, json.dumps({"seed": seed}))


def run(step: Step, out: Path, values: dict[str, str], *, quiet: bool) -> float:
    """Runs a step as a process of its own, unless it was done before; seconds. UserError if it did not succeed."""
    if step.makes and (out / step.makes).exists():
        return 0.0
    began = time.monotonic()
    command = words(step, values)
    log.say(f"\n{step.title}\n$ {shlex.join(command)}")
    env = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    if command[0] == "deepspeed":
        env = _threads(env, int(values["RANKS"]))
    code = subprocess.run(command, env=env, stdout=sys.stderr if quiet else None).returncode
    runs = [Path(word.removeprefix("run.out=")) for word in command if word.startswith("run.out=")]
    if code or any(_outcome(run) != "done" for run in runs):
        raise UserError(
            f"{command[0]} did not finish (exit code {code}; why stands above); the same command goes on from here"
        )
    return time.monotonic() - began


def words(step: Step, values: dict[str, str]) -> list[str]:
    """The step's command as it is run, with OUT, SEED, RANKS and PORT replaced."""
    return [re.sub(r"\b(OUT|SEED|RANKS|PORT)\b", lambda found: values[found[0]], w) for w in step.command.split()]


def _threads(env: dict[str, str], ranks: int) -> dict[str, str]:
    """The cores shared out: ranks that each take all of them wait for one another. Where there is no card, says so."""
    share = max(1, len(os.sched_getaffinity(0)) // ranks)
    on_cpu = {} if _gpus() else {"DS_ACCELERATOR": "cpu"}
    return {"OMP_NUM_THREADS": str(share)} | on_cpu | env


def _outcome(run: Path) -> str:
    """How a run ended, in its own words: a launcher's exit code is 0 as well when a run was stopped half-way."""
    file = run / "outcome.json"
    return json.loads(file.read_text())["outcome"] if file.exists() else "unknown"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ladder(out: Path) -> list[dict[str, Any]]:
    """What each rung reached on strangers: name, accuracy, uar (shares) and accuracy's 95 % interval."""
    chance = 1 / len(EXPRESSIONS)
    rungs: list[dict[str, Any]] = [{"name": "chance", "accuracy": chance, "uar": chance, "interval_95": None}]
    for name, file in RUNGS.items():
        found = json.loads((out / file).read_text())
        rungs.append({"name": name, **{key: found[key] for key in ("accuracy", "uar")}})
        rungs[-1]["interval_95"] = found["intervals_95"]["accuracy"]
    return rungs


def report(result: dict[str, Any], out: Path) -> str:
    """The ladder, what it means, and where things are, for a person."""
    lines = ["", f"{'40 labels a class, tested on strangers':<40}{'accuracy':>10}{'95 % interval':>17}{'uar':>8}"]
    for rung in result["ladder"]:
        low_high = rung["interval_95"]
        interval = f"{100 * low_high[0]:.1f} to {100 * low_high[1]:.1f}" if low_high else ""
        lines.append(f"{rung['name']:<40}{100 * rung['accuracy']:>10.1f}{interval:>17}{100 * rung['uar']:>8.1f}")
    lines += ["", result["note"], ""]
    lines += [f"{what:<40}{out / place}" for what, place in PLACES.items()]
    lines.append(f"{'time':<40}{log.duration(result['seconds'])} on {result['device']}, {result['ranks']} ranks")
    return "\n".join(lines)
