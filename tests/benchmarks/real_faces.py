"""The table of real faces in README: fer-scale's own commands over LFW and FERPlus, each printed before it runs.

    python tests/benchmarks/real_faces.py OUT [--data ../shared/data] [--labels 5% 10% 25%] [--seed 0] [--seeds 0 1 2]

LFW and the FERPlus training faces are packed; a group-aware quarter of FERPlus is kept out of everything as test; an
encoder is pre-trained on the rest with --recipe; every rung of the ladder is fine-tuned with the same labels and
measured on the same test faces, once for each training seed. The networks from scratch learn at 1e-3, a usual rate for
them: the recipe's 3e-3 was chosen for pre-trained layers, of which the first learn at a seventh of it. What is there
already is not made again, so it can be stopped and started. Ends with OUT/table.md. Photographs of real people: OUT
must not be published or committed.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SCRATCH = "model.start_from=none supervised.lr=1e-3"
CNN = f"{SCRATCH} model.architecture=resnet10t model.image_px=64"
RUNGS = {  # name in the table -> folder of its evaluation
    "majority": "majority",
    "logistic regression on pixels": "pixels",
    "small CNN from scratch (resnet10t)": "cnn",
    "the same ViT from scratch": "scratch",
    "pre-trained, stage 2": "stage2",
    "pre-trained, stages 2 and 3": "stage3",
}


def run(makes: Path, command: str, **env: str) -> None:
    """Print and run a command whose result is the file or folder `makes`, unless that is there."""
    print("$ " + " ".join([*(f"{k}={v}" for k, v in env.items()), command]), flush=True)
    if makes.exists():
        print(f"  (there: {makes})", flush=True)
        return
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    words = shlex.split(command)
    subprocess.run(words, cwd=ROOT, env=os.environ | path | env, check=True)
    for out in (Path(word.removeprefix("run.out=")) for word in words if word.startswith("run.out=")):
        if json.loads((out / "outcome.json").read_text())["outcome"] != "done":  # a launcher's exit code says nothing
            sys.exit(f"{out} was stopped half-way; the same command goes on from there")


def unpack(data: Path, out: Path) -> None:
    """The two datasets as folders below `out`."""
    if not (out / "lfw112").exists():
        with tarfile.open(data / "lfw" / "lfw112.tar") as tar:
            tar.extractall(out, filter="data")
    if not (out / "ferplus" / "fer2013new.csv").exists():
        with tarfile.open(data / "ferplus" / "ferplus_train.tar.gz") as tar:
            tar.extractall(out / "ferplus", filter="data")
        shutil.copy(data / "ferplus" / "fer2013new.csv", out / "ferplus")


def prepare(out: Path, args: argparse.Namespace) -> None:
    """Shards, splits and the encoder."""
    run(out / "sets/lfw", f"fer-scale pack {out}/lfw112 {out}/sets/lfw --source folder --licence 'not stated'")
    pack = f"fer-scale pack {out}/ferplus {out}/sets/ferplus --source ferplus --split train --licence 'not stated'"
    run(out / "sets/ferplus", pack)
    for share in args.labels:
        file = split_file(out, share, args.seed)
        run(file, f"fer-scale split {out}/sets/ferplus --labels {share} --test 25% --seed {args.seed} --out {file}")
    kept_out = f"{split_file(out, args.labels[0], args.seed)}#test"  # every split of a seed has the same test faces
    pretrain = (
        f"deepspeed --num_accelerators {args.ranks} --module fer_scale pretrain {args.recipe} "
        f"""'data.shards=["{out}/sets/lfw", "{out}/sets/ferplus"]' 'data.exclude=["{kept_out}"]' """
        f"run.steps={args.steps} run.out={out}/pretrain"
    )
    run(out / "encoder", pretrain, OMP_NUM_THREADS=threads(args.ranks))
    run(out / "encoder", f"fer-scale publish {out}/pretrain {out}/encoder --licence cc-by-nc-4.0")


def threads(processes: int) -> str:
    """For each of so many at once; a second one for a core that has one already makes both many times slower."""
    return str(max(1, (os.cpu_count() or 1) // processes))


def split_file(out: Path, share: str, seed: int) -> Path:
    return out / f"split-{share.rstrip('%')}-seed{seed}.json"


class Ladder:
    """The commands that fine-tune and measure every rung with one share of the labels and one training seed."""

    def __init__(self, out: Path, share: str, seed: int, args: argparse.Namespace):
        split, self.here = split_file(out, share, args.seed), folder(out, share, args.seed, seed)
        given = f"data.shards={out}/sets/ferplus data.split={split} run.seed={seed}"
        self._tune = f"fer-scale finetune configs/finetune/few_labels.toml {given}"
        self._measure = f"fer-scale evaluate {{0}} {out}/sets/ferplus --split {split} --list test --out {{1}}"
        self._encoder = " ".join([f"model.start_from={out}/encoder", *args.tune])
        self._semi, self._env = args.semi_steps, {"OMP_NUM_THREADS": threads(args.jobs)}
        model = tomllib.loads((ROOT / args.recipe).read_text())["model"]
        shape = f"model.image_px={model['image_px']} model.patch_px={model['patch_px']}"
        self._vit = f"{SCRATCH} model.architecture={model['encoder']} {shape}"

    def baselines(self) -> None:
        for name in ("majority", "pixels"):
            self._evaluate(name, f"baseline:{name}")
        self._rung("cnn", "run-cnn", f"{CNN} semi.steps=0")
        self._rung("scratch", "run-scratch", f"{self._vit} semi.steps=0")

    def pretrained(self) -> None:
        """Stage 3 goes on where stage 2 ended, in the same run."""
        self._rung("stage2", "run", f"{self._encoder} semi.steps=0")
        self._rung("stage3", "run", f"{self._encoder} --change semi.steps={self._semi}")

    def _rung(self, name: str, folder: str, keys: str) -> None:
        run(self.here / name / "metrics.json", f"{self._tune} run.out={self.here}/{folder} {keys}", **self._env)
        self._evaluate(name, f"{self.here}/{folder}/model")

    def _evaluate(self, name: str, model: str) -> None:
        run(self.here / name / "metrics.json", self._measure.format(model, self.here / name), **self._env)


def folder(out: Path, share: str, split_seed: int, seed: int) -> Path:
    return out / f"labels-{share.rstrip('%')}-split{split_seed}-seed{seed}"


def climb(out: Path, args: argparse.Namespace) -> None:
    """All ladders, so many commands at once; the first mistake ends it when the commands that run are done."""
    ladders = [Ladder(out, share, seed, args) for share in args.labels for seed in args.seeds]
    work = [each.pretrained for each in ladders] + [each.baselines for each in ladders]
    with ThreadPoolExecutor(args.jobs) as pool:
        running = [pool.submit(part) for part in work]
        for each in running:
            try:
                each.result()
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def table(out: Path, args: argparse.Namespace) -> str:
    """The ladder in Markdown: accuracy and uar in percent, of one seed with the 95 % bootstrap interval, of several the
    mean with the lowest and the highest."""
    counts = [json.loads(split_file(out, share, args.seed).read_text())["labels"] for share in args.labels]
    heads = [f"{share} ({count:,} labels)" for share, count in zip(args.labels, counts, strict=True)]
    lines = ["| accuracy / uar | " + " | ".join(heads) + " |", "|---|" + "---|" * len(args.labels)]
    for name, rung in RUNGS.items():
        cells = []
        for share in args.labels:
            files = [folder(out, share, args.seed, seed) / rung / "metrics.json" for seed in args.seeds]
            found = [json.loads(file.read_text()) for file in files]
            cells.append(" / ".join(_percent(found, measure) for measure in ("accuracy", "uar")))
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _percent(found: list[dict[str, Any]], measure: str) -> str:
    values = [each[measure] for each in found]
    low, high = found[0]["intervals_95"][measure] if len(found) == 1 else (min(values), max(values))
    return f"{100 * sum(values) / len(values):.1f} ({100 * low:.1f}-{100 * high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--recipe", default="configs/pretrain/faces_cpu.toml", help="of the pre-training (%(default)s)")
    parser.add_argument("--labels", nargs="+", default=["5%", "10%", "25%"])
    parser.add_argument("--seed", type=int, default=0, help="of the split (0)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of fine-tuning (0)")
    parser.add_argument("--steps", type=int, default=24_000, help="of the pre-training (24000)")
    parser.add_argument("--semi-steps", type=int, default=600, help="of stage 3 (600)")
    parser.add_argument("--tune", nargs="*", default=[], help="keys of fine-tuning for the pre-trained rungs")
    parser.add_argument("--ranks", type=int, default=2, help="ranks of the pre-training (2)")
    parser.add_argument("--jobs", type=int, default=2, help="rungs of the ladder at once (2)")
    args = parser.parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    unpack(args.data, out)
    prepare(out, args)
    climb(out, args)
    (out / "table.md").write_text(table(out, args))
    print((out / "table.md").read_text())


if __name__ == "__main__":
    main()
