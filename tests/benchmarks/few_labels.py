"""The table of few labels on real faces: fer-scale's own commands over LFW and FERPlus, each printed before it runs.

    python tests/benchmarks/few_labels.py OUT [--data ../shared/data] [--seeds 0-4] [--labels 5%,10%,25%] [--dry]
    ... few_labels.py OUT --pretrain configs/pretrain/faces_gpu.toml --ranks 1 --keys run.precision=bf16
    ... few_labels.py OUT --ablation 100-102     our recipe without each of its parts, instead of the table

LFW and the FERPlus training faces are packed; a group-aware quarter of FERPlus is kept out of everything as test; an
encoder is pre-trained on the rest; `fer-scale sweep` fine-tunes it by our recipe and by its rival, SSFER's method, with
the same labels, beside the ladder. What is there is not made again, so it can be stopped and started. Ends with
OUT/sweep/table.md, or OUT/ablation/table.md: there 1,064 labels of other draws than the table's, measured on a list
`valid`, so that what is chosen by it is not chosen on test faces. --dry does a few steps of everything: its figures
mean nothing. Photographs of real people: OUT must not be published or committed.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
OPTIMIZED = (  # the rival's method once more: without layer decay it is no match; the crop is the best one for it
    "supervised.lr=3e-3 supervised.start_lr=1e-3 supervised.end_lr=2e-4 supervised.layer_decay=0.75 "
    "supervised.clip_norm=1 semi.lr=1e-3 semi.end_lr=1e-3 model.crop_pct=0.8"
)
# What stage 2 has, and what brought nothing before, by stage 2 alone, which costs a third; what stage 3 has, by both.
ABLATION = {
    "as it is": "",
    "no layer decay": "supervised.layer_decay=1",
    "smoothing 0.1": "facemix.smoothing=0.1",
    "drop path 0.1": "model.drop_path=0.1",
    "weak labeled views": "augment.labeled=weak",
    "no flips": "augment.flip=false",
    "no crops": "augment.strong_scale=[1.0,1.0] augment.crop_ratio=[1.0,1.0]",  # labeled views are strong
    "no average": "supervised.ema_decay=0",
    "no clipping": "supervised.clip_norm=0",
    "FaceMix additive": "facemix.weighting=additive",
    "crop_pct 1": "model.crop_pct=1",
    "no weight decay": "supervised.weight_decay=0",
    "sampling sqrt": "supervised.sampling=sqrt",
}
ABLATION_3 = {
    "alignment": "semi.alignment=true",
    "labeler fixed": "semi.labeler=fixed",
    "no strong views": "augment.strong_scale=[0.7,1.0] augment.strong_rotation_degrees=0 "
    "augment.strong_brightness=0 augment.strong_contrast=0 augment.strong_cutout=0",
}
DRY_PRETRAIN = "run.steps=4 optim.warmup_steps=1 batch.size=64 batch.micro=64 run.checkpoint_every_steps=4"
DRY_TUNE = (
    "supervised.steps=4 supervised.warmup_steps=1 supervised.decay_steps=0 "
    "semi.steps=2 semi.warmup_steps=0 run.checkpoint_every_steps=0"
)


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


def threads(processes: int) -> str:
    """For each of so many at once; a second one for a core that has one already makes both many times slower."""
    return str(max(1, (os.cpu_count() or 1) // processes))


def unpack(data: Path, out: Path) -> None:
    """The two datasets as folders below `out`."""
    unpacked = (out / "lfw112").exists() and (out / "ferplus" / "fer2013new.csv").exists()
    wanted = [data / name for name in ("lfw/lfw112.tar", "ferplus/ferplus_train.tar.gz", "ferplus/fer2013new.csv")]
    if not unpacked and (missing := [str(file) for file in wanted if not file.exists()]):
        sys.exit(f"no {', '.join(missing)}; --data FOLDER says where they are")
    if not (out / "lfw112").exists():
        with tarfile.open(data / "lfw" / "lfw112.tar") as tar:
            tar.extractall(out / "lfw.part", filter="data")
        (out / "lfw.part" / "lfw112").rename(out / "lfw112")
    if not (out / "ferplus" / "fer2013new.csv").exists():
        with tarfile.open(data / "ferplus" / "ferplus_train.tar.gz") as tar:
            tar.extractall(out / "ferplus", filter="data")
        shutil.copy(data / "ferplus" / "fer2013new.csv", out / "ferplus")


def prepare(out: Path, args: argparse.Namespace) -> None:
    """Shards, the test faces, and the encoder that has not seen them."""
    run(out / "sets/lfw", f"fer-scale pack {out}/lfw112 {out}/sets/lfw --source folder --licence 'not stated'")
    pack = f"fer-scale pack {out}/ferplus {out}/sets/ferplus --source ferplus --split train --licence 'not stated'"
    run(out / "sets/ferplus", pack)
    run(out / "test.json", f"fer-scale split {out}/sets/ferplus --labels 5% --test 25% --seed 0 --out {out}/test.json")
    steps = f"run.steps={args.steps}" if args.steps else ""
    pretrain = (
        f"deepspeed --num_accelerators {args.ranks} --module fer_scale pretrain {args.pretrain} "
        f"""'data.shards=["{out}/sets/lfw", "{out}/sets/ferplus"]' 'data.exclude=["{out}/test.json#test"]' """
        f"run.out={out}/pretrain {DRY_PRETRAIN if args.dry else steps}"
    )
    made = out / "encoder.command"  # or a table would be of whatever encoder lies here, as of one of --dry
    if (out / "encoder").exists() and made.exists() and made.read_text() != pretrain:
        sys.exit(f"{out}/encoder is of another pre-training; use another OUT. It was made by\n  {made.read_text()}")
    if not (out / "encoder").exists():
        made.write_text(pretrain)
    run(out / "encoder", pretrain, OMP_NUM_THREADS=threads(args.ranks))
    run(out / "encoder", f"fer-scale publish {out}/pretrain {out}/encoder --licence cc-by-nc-4.0")


def tune(out: Path, args: argparse.Namespace) -> None:
    """Our recipe and the rival, as it is and at its best here, over all labels and seeds."""
    rows = {"ssfer": args.rival, "ssfer, our optimizer and crop_pct": f"{args.rival} {OPTIMIZED}"}
    sweep(out, out / "sweep", args, rows, f"--labels {args.labels} --seeds {args.seeds}")


def ablate(out: Path, args: argparse.Namespace) -> None:
    """Our recipe without each of its parts, and with those that were left out of it."""
    rows = {f"stage 2, {name}": f"{args.ours} semi.steps=0 {keys}" for name, keys in ABLATION.items()}
    rows |= {name: f"{args.ours} {keys}" for name, keys in ABLATION_3.items()}
    how = f"--labels 1064 --valid 40% --list valid --seeds {args.ablation} --no-ladder"
    sweep(out, out / "ablation", args, rows, how)


def sweep(out: Path, into: Path, args: argparse.Namespace, rows: dict[str, str], how: str) -> None:
    more = " ".join(f"--recipe {shlex.quote(f'{name}={recipe.strip()}')}" for name, recipe in rows.items())
    command = (
        f"fer-scale sweep {args.ours} --data {out}/sets/ferplus --from {out}/encoder --out {into} "
        f"--test {out}/test.json#test {how} --jobs {args.jobs} {more} "
        f"{' '.join(args.keys)} {DRY_TUNE if args.dry else ''}"
    )
    run(out / "no such file: a sweep knows itself what is there", command)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--data", type=Path, default=ROOT.parent / "shared" / "data",
        help="holds lfw/lfw112.tar (lfw112/NAME/NAME_0001.jpg of 112 px), ferplus/ferplus_train.tar.gz, "
        "ferplus/fer2013new.csv",
    )  # fmt: skip
    parser.add_argument("--pretrain", default="configs/pretrain/faces_cpu.toml", help="its recipe (%(default)s)")
    parser.add_argument("--steps", type=int, help="of the pre-training (as its recipe says)")
    parser.add_argument("--ranks", type=int, default=2, help="of the pre-training (2)")
    parser.add_argument("--ours", default="configs/finetune/few_labels.toml", help="(%(default)s)")
    parser.add_argument("--rival", default="configs/finetune/ssfer_cpu.toml", help="(%(default)s)")
    parser.add_argument("--labels", default="5%,10%,25%", help="as of fer-scale sweep (5%%,10%%,25%%)")
    parser.add_argument("--seeds", default="0-4", help="as of fer-scale sweep (0-4)")
    parser.add_argument("--ablation", metavar="SEEDS", help="our recipe without each of its parts, for these seeds")
    parser.add_argument("--jobs", default="auto", help="as of fer-scale sweep (auto)")
    parser.add_argument("--keys", nargs="*", default=[], help="section.key=value of all fine-tuning")
    parser.add_argument("--dry", action="store_true", help="a few steps of everything")
    args = parser.parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    unpack(args.data, out)
    prepare(out, args)
    ablate(out, args) if args.ablation else tune(out, args)


if __name__ == "__main__":
    main()
