"""Runs to report on, made without training: what lies in their folders, and what a stranger may have put there."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

BEGAN = datetime(2026, 11, 27, 8, 0, tzinfo=UTC)
NOW = (BEGAN + timedelta(hours=3)).timestamp()
NAMES = ["neutral", "happiness", "surprise", "sadness", "anger"]
HOSTILE = "</title></style></svg><script>hacked=1</script><img src=x onerror=hacked=1>'\"&amp;\u202e\x07"
_VERSIONS = {"fer_scale": "0.1.0", "torch": "2.14.1", "timm": "1.0.31"}


def when(seconds: float) -> str:
    return (BEGAN + timedelta(seconds=seconds)).isoformat(timespec="seconds")


def lines(file: Path, rows: list[dict[str, Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def toml(recipe: dict[str, dict[str, Any]]) -> str:
    """A recipe of section -> key -> value; JSON's strings, numbers and lists are TOML's too."""
    return "".join(
        f"[{section}]\n" + "".join(f"{json.dumps(key)} = {json.dumps(value)}\n" for key, value in keys.items())
        for section, keys in recipe.items()
    )


def pretrain(folder: Path, *, steps: int = 400, lr: float = 2e-3, host: str = "node1", name: str = "lfw") -> Path:
    """A run of 1,000 steps that has come so far; it died at step 250 and went on from step 200."""
    rows = [
        {"step": step, "loss": 0.5 + 40 / (step + 80), "lr": lr * (1 - step / 1000), "images_per_s": 640.0}
        | {"data_wait": 0.02, "grad_norm": None if step == 60 else 0.2 + step % 7 / 50}
        for step in range(10, steps + 1, 10)
    ]
    begun = {"ranks": 2, "hosts": [host], "device": "NVIDIA H100", "stage": 1, "versions": _VERSIONS}
    first = {"time": when(0), "event": "start", "step": 0, "attempt": 1} | begun
    events = [
        first,
        {"time": when(20), "event": "checkpoint", "step": 200, "seconds": 0.5, "bytes": 9_000_000},
        {"time": when(100), "event": "rewound", "step": 200, "reached": 250, "images_per_s": 640.0},
        first
        | {"time": when(100), "event": "resume", "step": 200, "attempt": 2, "changed": {"device": ["A100", "H100"]}},
        {"time": when(130), "event": "slow", "step": 300, "rank": 1, "host": host, "what": "forward", "ratio": 2.5},
    ]
    lines(folder / "events.jsonl", events)
    for number, at in ((1, 0), (2, 95)):
        claim = {"time": when(at), "host": host, "pid": 1, "began": 0}
        lines(folder / f"attempts/{number:04d}/claim.json", [claim])
    recipe = {
        "data": {"shards": [f"/data/{name}"]},
        "model": {"encoder": "192x6x6", "image_px": 48, "mask_ratio": 0.75},
        "batch": {"size": 64},
        "optim": {"lr": lr, "betas": [0.9, 0.95]},
        "run": {"out": str(folder), "steps": 1000, "seed": 0, "precision": "bf16"},
    }
    (folder / "recipe.toml").write_text(toml(recipe))
    (folder / "plan.json").write_text(json.dumps({"steps": 1000, "images": 13_000, "views": 64_000}))
    row = {"name": name, "source": "folder", "licence": "cc0-1.0", "samples": 13_233, "fingerprint": "ab" * 32}
    (folder / "data.json").write_text(json.dumps([row]))
    lines(folder / "metrics.jsonl", rows)
    return folder


def evaluation(names: list[str], *, shift: float = 0.0) -> dict[str, Any]:
    """What `fer-scale evaluate` writes, with every shade in its matrix."""
    count = len(names)
    rates = [0.95, 0.85, 0.75, 0.65, 0.55][:count]
    matrix = [[round(100 * (1 - rate) / (count - 1)) for _ in names] for rate in rates]
    for row, rate in enumerate(rates):
        matrix[row][row] = round(100 * rate)
    matrix[0] = [95, 2, 1, 1, 1][:count]
    matrix[1] = [12, 0, 22, 32, 100][:count]
    matrix[2] = [42, 0, 52, 0, 6][:count]
    recalls = {name: matrix[k][k] / sum(matrix[k]) for k, name in enumerate(names)}
    bins = [
        {"from": k / 10, "to": (k + 1) / 10, "count": 20, "confidence": k / 10 + 0.05, "accuracy": k / 11}
        for k in range(10)
    ]
    return {
        "model": "runs/few/model", "set": "ferplus", "fingerprint": "cd" * 32, "samples": 500,
        "split": {"file": "split.json", "sha256": "ef" * 32, "list": "test"},
        "left_out": {"unknown_expression": 3, "unreadable": 0}, "warning": None,
        "accuracy": 0.612 + shift, "uar": 0.5 + shift, "macro_f1": 0.49, "ece": 0.05, "nll": 1.02,
        "intervals_95": {"accuracy": [0.59, 0.63], "uar": [0.48, 0.52]},
        "per_class": {
            name: {"count": sum(matrix[k]), "predicted": 90, "recall": recalls[name], "precision": 0.5}
            for k, name in enumerate(names)
        },
        "label_names": names, "confusion": matrix, "reliability": bins,
        "coverage": [{"coverage": k / 10, "confidence": 1 - k / 20, "accuracy": 1 - k / 25} for k in range(1, 11)],
        "flip": {"accuracy": 0.62 + shift, "uar": 0.51 + shift}, "aurc": 0.2,
    }  # fmt: skip


def finetune(folder: Path, *, shift: float = 0.0, names: list[str] = NAMES, lr: float = 1e-3) -> Path:
    """A finished run of both stages, measured on its list `valid` meanwhile and evaluated at its end."""
    rows: list[dict[str, Any]] = []
    for step in range(20, 201, 20):
        row = {"step": step, "stage": 3 if step > 120 else 2, "loss": 2 - step / 150, "lr": lr, "images_per_s": 300.0}
        rows.append(row | {"grad_norm": 2.0, "one_minus_iou": 0.2} | ({"kept": 0.6} if step > 120 else {}))
        rows.append({"step": step, "stage": 2, "valid_accuracy": 0.3 + step / 800, "valid_uar": 0.2 + step / 900})
    start = {"time": when(0), "event": "start", "step": 0, "attempt": 1, "processes": 1, "hosts": ["node2"]}
    events = [start | {"device": "cpu", "versions": _VERSIONS}, {"time": when(60), "event": "checkpoint", "step": 200}]
    lines(folder / "events.jsonl", events)
    lines(folder / "metrics.jsonl", rows)
    lines(folder / "attempts/0001/claim.json", [{"time": when(-5), "host": "node2", "pid": 1, "began": 0}])
    done = {"outcome": "done", "time": when(70), "rank": 0, "host": "node2"}
    lines(folder / "attempts/0001/outcome.json", [done])
    recipe = {
        "data": {"shards": "/data/ferplus"},
        "model": {"start_from": "encoders/base"},
        "supervised": {"steps": 120, "batch": 32, "lr": lr},
        "semi": {"steps": 80, "batch": 32, "unlabeled_ratio": 2},
        "run": {"out": str(folder), "seed": 1, "precision": "fp32"},
    }
    (folder / "recipe.toml").write_text(toml(recipe))
    (folder / "evaluation").mkdir()
    (folder / "evaluation" / "metrics.json").write_text(json.dumps(evaluation(names, shift=shift)))
    return folder


def picture(file: Path) -> None:
    """A PNG that is nobody's face."""
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.arange(48 * 96 * 3, dtype=np.uint8).reshape(48, 96, 3)).save(file)


def sweep(folder: Path) -> Path:
    """The folder of a sweep of two recipes over two numbers of labels."""

    def cell(mean: float) -> dict[str, Any]:
        accuracy, uar = ({"mean": at, "interval_95": [at - 0.02, at + 0.02], "count": 3} for at in (mean, mean - 0.1))
        return {"runs": [{"seed": 0}] * 3, "accuracy": accuracy, "uar": uar}

    table = {
        "format": 1, "about": {"set": "ferplus", "list": "test"}, "seeds": [0, 1, 2],
        "labels": {"5%": [1064, 1064, 1064], "25/class": [200, 200, 200]}, "reference": "few_labels",
        "rows": {
            "majority": {"5%": cell(0.36), "25/class": cell(0.36)},
            "few_labels": {"5%": cell(0.62), "25/class": {"runs": []}},
        },
        "published": [],
    }  # fmt: skip
    folder.mkdir()
    (folder / "table.json").write_text(json.dumps(table))
    (folder / "sweep.json").write_text("{}")
    return folder


def hostile(folder: Path) -> Path:
    """A run of fine-tuning: every text of its files, and its folder's name, would be markup if it were not text."""
    run = finetune(folder / HOSTILE.replace("/", "∕").replace("\x07", ""), names=[HOSTILE, *NAMES[1:]])
    events = [{"time": when(0), "event": "start", "step": 0, "attempt": 1, "processes": 1, "hosts": [HOSTILE]}]
    events[0] |= {"device": HOSTILE, "versions": {HOSTILE: HOSTILE}, "changes": [HOSTILE]}
    events += [{"time": when(1), "event": "unreadable", "step": 1, "sample": HOSTILE}]
    events += [{"time": when(2), "event": "slow", "step": 2, "rank": 0, "host": HOSTILE, "what": HOSTILE, "ratio": 2}]
    events += [{"time": when(3), "event": "set_aside", "checkpoint": HOSTILE, "why": HOSTILE}]
    lines(run / "events.jsonl", events)
    ended = {"outcome": "failed", "reason": HOSTILE, "time": when(9), "restart": False}
    lines(run / "attempts/0001/outcome.json", [ended])
    with (run / "recipe.toml").open("a") as recipe:
        recipe.write(toml({"card": {HOSTILE: HOSTILE}}))
    data = [{"name": HOSTILE, "licence": HOSTILE, "protocol": HOSTILE, "fingerprint": HOSTILE, "samples": 7}]
    (run / "data.json").write_text(json.dumps(data))
    lines(
        run / "watch.jsonl", [{"step": 10, "problem": HOSTILE}, {"step": 20, "images": 9, "accuracy": 0.4, "uar": 0.3}]
    )
    said = json.loads((run / "evaluation" / "metrics.json").read_text())
    said |= {
        "set": HOSTILE,
        "warning": HOSTILE,
        "split": {"list": HOSTILE, "sha256": HOSTILE},
        "left_out": {HOSTILE: 3},
    }
    (run / "evaluation" / "metrics.json").write_text(json.dumps(said))
    return run
