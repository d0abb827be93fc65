"""What one may type after a verb, in the order of the flow.

After those of labeled faces: arguments_labeled.py; of finished models: arguments_using.py.

No heavy import up here.
"""

import argparse
from pathlib import Path

from fer_scale import shipped

MODEL = "a model folder, or hf://ORG/NAME[@REVISION]"
SET = "a shard set: its folder, or hf://datasets/ORG/NAME[@REVISION], https://..., s3://..."


Verb = argparse.ArgumentParser


def _pack(verb: Verb) -> None:
    """Pack a dataset into WebDataset tar shards.

    Example: fer-scale pack /data/casia shards/casia --source folder --licence "non-commercial research"
    """
    verb.add_argument("src", type=Path, help="folder of the dataset, or its one file")
    verb.add_argument("out", type=Path, help="folder of the shard set")
    verb.add_argument(
        "--source",
        required=True,
        help="layout of SRC: folder, tar, recordio, parquet; ferplus, fer2013, rafdb, affectnet, ckplus, jaffe, sfew",
    )
    verb.add_argument("--name", help="name of the set (default: the name of SRC)")
    verb.add_argument("--split", help="train, valid or test, where the source has them")
    verb.add_argument("--protocol", default="argmax", help="how votes become a label: argmax (default) or majority")
    verb.add_argument("--shard-mb", type=float, default=256, help="size of a shard (256)")
    verb.add_argument("--seed", type=int, default=0, help="of the order in which samples are packed (0)")
    verb.add_argument("--workers", type=int, help="processes (default: one a core); the bytes do not depend on it")
    verb.add_argument("--max-left-out", default="1%", help="files that may be left out before packing fails (1%%)")
    verb.add_argument("--licence", default="unknown", help="licence of the images; stands in every model card later")
    verb.add_argument("--transcode", action="store_true", help="make png or jpg of bmp, gif, tiff, webp, avif, 16 bits")
    verb.add_argument("--max-px", type=int, metavar="N", help="reduce images whose longer side is above N pixels")
    verb.add_argument("--duplicates", default="keep", help="exact copies: keep (default), drop, conflicts or report")
    verb.add_argument("--no-decode-check", action="store_true", help="read headers only: fast, but no copies are found")
    verb.add_argument(
        "--boxes",
        default="auto",
        help="where face boxes come from: auto (default), the annotation, else the detector where --detector is given, "
        "else the template, which is where the source has its faces; annotation, and no others; detector or template, "
        "whatever is annotated",
    )
    verb.add_argument(
        "--detector",
        metavar="FILE",
        help="look for faces with YuNet (extra faces, 8 ms an image): its face_detection_yunet_2023mar.onnx, or "
        "hf://opencv/face_detection_yunet to fetch it",
    )
    as_json(verb)


def _verify(verb: Verb) -> None:
    """Read every byte of a shard set again, against its hashes; of one far away what its server has now, not the cache.

    Example: fer-scale verify shards/casia --decode
    """
    verb.add_argument("set", help=SET)
    verb.add_argument("--decode", action="store_true", help="also decode every image")
    as_json(verb)


def _show(verb: Verb) -> None:
    """Say what a shard set holds, or how a run has lived: its starts, what was lost and why, and what to do now.

    Example: fer-scale show shards/casia --pictures casia.png --speed
    """
    verb.add_argument("set", metavar="set_or_run", help=f"{SET}; or the folder of a run")
    verb.add_argument("--pictures", type=Path, metavar="FILE", help="write a contact sheet")
    verb.add_argument(
        "--speed", action="store_true", help="read for ten seconds: images/s per core, and what they cost"
    )
    as_json(verb)


def _pretrain(verb: Verb) -> None:
    """Pre-train a masked autoencoder on shard sets; `deepspeed --module fer_scale pretrain ...` for many ranks.

    Example: fer-scale pretrain pretrain/faces_gpu data.shards=shards/casia run.out=runs/base
    """
    recipe(verb)
    change(verb)


def _publish(verb: Verb) -> None:
    """Cut a model folder with its card from a run, for a folder or the Hub; or put a shard set on the Hub.

    Example: fer-scale publish runs/base hf://ORG/face_vit --licence cc-by-nc-4.0
    """
    text = "a run, one of its checkpoints, or a model folder; or a shard set; with --space, a model's hf:// address too"
    verb.add_argument("source", type=_local_or_remote, help=text)
    text = "a folder, or hf://ORG/NAME[@TAG]; of a shard set hf://datasets/ORG/NAME[@TAG], of a Space hf://spaces/..."
    verb.add_argument("to", help=text)
    verb.add_argument(
        "--licence",
        help="of the weights, as cc-by-nc-4.0, needed unless the recipe has card.license; of a set unless its index "
        "has one",
    )
    verb.add_argument("--title", help="title of the model card")
    verb.add_argument("--step", type=int, help="which checkpoint of a run (the newest)")
    verb.add_argument("--private", action="store_true", help="create the repository private")
    verb.add_argument("--pictures", action="store_true", help="also publish reconstructions, which show training faces")
    verb.add_argument("--parts", help="encoder, or encoder,decoder to go on with pre-training (as publish.parts says)")
    verb.add_argument("--sign", type=Path, metavar="KEY", help="sign it by this private key (PEM; the extra sign)")
    verb.add_argument("--contact", help="whom people in the data may write to (the repository's discussions)")
    verb.add_argument(
        "--data", action="append", default=[], metavar="SET",
        help="a set that it was trained on, where its run does not tell: 'NAME, LICENCE, how it was obtained'",
    )  # fmt: skip
    verb.add_argument(
        "--overlap", action="append", default=[], type=Path, metavar="REPORT",
        help="a report.json of overlap: its card says how many test faces lie in a set that it was trained on",
    )  # fmt: skip
    verb.add_argument(
        "--state", metavar="ADDRESS", help="put the whole training state there too, private, for run.resume_from"
    )
    text = "write a Space for an expression model instead: its page as an app of the Hub (hf://spaces/... says so, too)"
    verb.add_argument("--space", action="store_true", help=text)
    verb.add_argument("--parent", type=int, help=argparse.SUPPRESS)  # a run that publishes; ends with it
    as_json(verb)


def _local_or_remote(said: str) -> Path | str:
    return said if "://" in said else Path(said)


def _pull(verb: Verb) -> None:
    """Fetch a published model or shard set, every byte checked.

    Example: fer-scale pull hf://ORG/face_vit encoders/base
    """
    verb.add_argument("source", metavar="from", help=f"{MODEL}; or hf://datasets/..., https://..., s3://... of a set")
    verb.add_argument("folder", type=Path, help="where to put it")
    key(verb)
    as_json(verb)


def _check(verb: Verb) -> None:
    """Say what a recipe of pre-training or fine-tuning would do and cost, without doing it.

    Example: fer-scale check pretrain/vit_base_112 data.shards=shards/casia run.out=runs/base --ranks 1,8,64
    """
    recipe(verb)
    verb.add_argument("--ranks", default="1", metavar="N[,N...]", help="how many ranks there will be, as 1,8,64 (1)")
    verb.add_argument("--gpu", default="h100", help="h100 (default), h200, a100, l40s, or cpu: this machine's")
    verb.add_argument("--gpus-per-node", type=int, metavar="N", help="ranks of a node (8; of processors, all)")
    verb.add_argument(
        "--network-gbps",
        type=float,
        metavar="N",
        help="of a whole node, one way, in Gbit/s (400 a GPU; a100 200, l40s 100)",
    )
    verb.add_argument(
        "--try",
        action="store_true",
        dest="try_out",
        help="on this device, one rank: time it, and find the largest batch.micro; of fine-tuning, steps of each stage",
    )
    as_json(verb)


def _doctor(verb: Verb) -> None:
    """Tell whether a cluster is fit for a job: speed of every host, network, versions, clocks, the run's folder.

    Example: fer-scale doctor pretrain/vit_base_112 run.out=runs/base --hostfile launch/hostfile
    """
    text = "of the job, for its run.out and what it will write there"
    verb.add_argument("recipe", type=shipped.find, nargs="?", help=text)
    verb.add_argument("overrides", nargs="*", metavar="section.key=value", help="keys to change, see `fer-scale keys`")
    verb.add_argument("--out", type=Path, help="without a recipe: the folder that the job will write to")
    started = verb.add_mutually_exclusive_group()
    started.add_argument(
        "--hostfile",
        type=Path,
        metavar="FILE",
        help="start ranks over these hosts, by launch/ssh.sh; without this and --slurm, this process is one of the "
        "ranks that a launcher has started, or alone",
    )
    started.add_argument("--slurm", action="store_true", help="start ranks in the allocation of salloc or sbatch")
    verb.add_argument("--reporting", action="store_true", help=argparse.SUPPRESS)  # to the doctor that started us
    as_json(verb)


def _checkpoint(verb: Verb) -> None:
    """Look into a run's checkpoints on any machine: list, verify, compare, and take tensors out.

    Example: fer-scale checkpoint verify runs/base
    """
    whats = verb.add_subparsers(dest="what", required=True, metavar="WHAT")

    def what(name: str, text: str, *places: tuple[str, str]) -> Verb:
        one = whats.add_parser(name, help=text[0].lower() + text[1:].rstrip("."), description=text)
        for place, help_text in places:
            one.add_argument(place, type=Path, help=help_text)
        one.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help="as of any verb")
        as_json(one)
        return one

    either = "a checkpoint, or a run for its newest one"
    what("ls", "List the checkpoints of a run.", ("place", "folder of a run"))
    what("verify", "Read every byte and value again.", ("place", "a checkpoint, or a run for all of its checkpoints"))
    what("diff", "Say in what two checkpoints differ.", ("a", either), ("b", either))
    out = ("out", "file to write, as weights.safetensors; never over another one")
    chosen = what("extract", "Take tensors out, into one safetensors file.", ("place", either), out)
    some = chosen.add_mutually_exclusive_group()
    some.add_argument("--weights", action="store_true", help="the model's alone, under the names that they have there")
    some.add_argument(
        "--match", metavar="PATTERN", help="those of such a name: 'w.*' weights, 'm.*' 'v.*' of Adam (all)"
    )


def _keys(verb: Verb) -> None:
    """List the keys of a recipe, with default and meaning.

    Example: fer-scale keys pretrain
    """
    verb.add_argument("stage", choices=("pretrain", "finetune"))
    as_json(verb)


def _recipes(verb: Verb) -> None:
    """List the recipes that came with the program, by the names that other verbs take.

    Example: fer-scale recipes
    """
    as_json(verb)


def _demo(verb: Verb) -> None:
    """Run the whole flow over drawn faces: no data, no GPU, seven to eight minutes on two slow cores.

    Example: fer-scale demo --out runs/demo --seed 1
    """
    verb.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for everything (runs/demo)")
    verb.add_argument("--seed", type=int, default=0, help="of faces, split and training (0)")
    as_json(verb)


def version(words: argparse.ArgumentParser) -> None:
    """Print the version of fer_scale."""
    text = "also of Python and all that is used, the device, and where recipes and launch/ lie"
    words.add_argument("--verbose", action="store_true", help=text)
    as_json(words)


def recipe(verb: Verb) -> None:
    text = "a TOML file, or one of `fer-scale recipes` by its name, as pretrain/demo"
    verb.add_argument("recipe", type=shipped.find, help=text)
    verb.add_argument("overrides", nargs="*", metavar="section.key=value", help="keys to change, see `fer-scale keys`")


def change(verb: Verb) -> None:
    text = "change a key of a run that goes on, even one of its mathematics; it is recorded"
    verb.add_argument("--change", action="append", default=[], metavar="section.key=value", help=text)


def key(verb: Verb) -> None:
    text = "load the model only if it is signed by the owner of this public key (PEM; the extra sign)"
    verb.add_argument("--key", type=Path, metavar="KEY", help=text)


def as_json(verb: Verb) -> None:
    verb.add_argument("--json", action="store_true", help="the result as JSON on stdout")
