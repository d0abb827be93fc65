"""What one may type after the verbs of labeled faces, in the order of the flow. No heavy import up here."""

from argparse import ArgumentTypeError
from pathlib import Path

from fer_scale import shipped
from fer_scale.arguments import MODEL, SET, Verb, as_json, change, key, recipe


def _split(verb: Verb) -> None:
    """Draw which faces carry a label and which are tested on; copies that hashes find stay together.

    Example: fer-scale split shards/ferplus --labels 5% --test 25% --seed 0 --out split.json
    """
    verb.add_argument("set", help=SET)
    verb.add_argument(
        "--labels", required=True, help="faces that keep their label: 1419, 5%% of what is left, or 25/class"
    )
    verb.add_argument(
        "--test",
        help="faces to test on: 25%%; FILE#test, those of another split file; or official, the test part of RAF-DB, "
        "FERPlus or AffectNet packed whole",
    )
    verb.add_argument("--valid", help="faces to fit the temperature on, as 20%% of what is left")
    verb.add_argument("--seed", type=int, default=0, help="(0)")
    verb.add_argument(
        "--test-seed", type=int, help="of the list test, for several draws of labels with one test (seed)"
    )
    verb.add_argument(
        "--people", metavar="PATTERN",
        help="what names a person in an origin, as 'S[0-9]+' (known of ckplus and jaffe): who is in test or valid is "
        "in no other list",
    )  # fmt: skip
    verb.add_argument("--out", type=Path, required=True, help="the split file")
    as_json(verb)


def _overlap(verb: Verb) -> None:
    """Find faces of one set in another, exact copies and near ones, and write which keys to leave out of training.

    Example: fer-scale overlap shards/casia shards/ferplus --split split.json --out overlap
    """
    verb.add_argument("a", metavar="set", help=f"what is trained on: {SET}")
    verb.add_argument("b", metavar="test_set", help="what is tested on; the same set: compared with itself")
    verb.add_argument("--split", type=Path, help="split file of test_set: only one of its lists is compared")
    verb.add_argument("--list", default="test", help="which list (test)")
    verb.add_argument("--encoder", metavar="MODEL", help=f"compare what it sees too: {MODEL}")
    verb.add_argument("--near-bits", type=int, default=18, help="of 256, in which hashes of near copies differ (18)")
    verb.add_argument(
        "--cosine", type=float, help="of features of copies (what 95%% of the near copies in test_set reach)"
    )
    verb.add_argument("--out", type=Path, required=True, help="folder of report.json, pairs.csv, .png and exclude.json")
    key(verb)
    as_json(verb)


def _finetune(verb: Verb) -> None:
    """Fine-tune an encoder with few labels, in two stages; with --data all the way from a folder to a tested model.

    Example: fer-scale finetune finetune/few_labels --data shards/ferplus --labels 5% --from encoder --out runs/few
    """
    recipe(verb)
    change(verb)
    verb.add_argument(
        "--data", help="folder of labeled faces, or a shard set or its address: pack, split, train and test"
    )
    verb.add_argument("--source", help="layout of --data, as of pack")
    verb.add_argument("--labels", help="with --data, as of split (all)")
    verb.add_argument("--test", help="with --data, as of split (25%%)")
    verb.add_argument("--valid", help="with --data, as of split")
    verb.add_argument("--protocol", help="with --data, as of pack (argmax)")
    verb.add_argument("--licence", metavar="TEXT", help="with --data, as of pack (unknown)")
    verb.add_argument("--seed", type=int, help="of the split, with --data (0)")
    verb.add_argument("--from", help=f"with --data: {MODEL}, or none (none)")
    verb.add_argument("--out", type=Path, help="with --data: folder of the run")
    as_json(verb)


def _sweep(verb: Verb) -> None:
    """Run recipes and variants over label counts and seeds, beside a ladder: a table with intervals.

    Example: fer-scale sweep finetune/few_labels --data shards/ferplus --from encoder --labels 5%,25/class --out sweep
    """
    recipe(verb)
    verb.add_argument("--data", metavar="SET", required=True, help=SET)
    verb.add_argument("--from", dest="start_from", default="none", help=f"the encoder: {MODEL}, or none")
    verb.add_argument("--out", type=Path, required=True, help="folder of all runs and of the table; it may grow")
    verb.add_argument(
        "--seeds", type=_seeds, default=[0], help="of the draw of labels and of training: 0-4, or 0,3 (0)"
    )
    verb.add_argument(
        "--labels", type=_words, required=True,
        help="as of split: 284,1064,5%%,25/class; or published, the numbers that papers give results of, which "
        "join the table",
    )  # fmt: skip
    verb.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="KEY=A,B",
        help="a row for each value; of several --vary, of each pair",
    )
    verb.add_argument(
        "--recipe",
        dest="more",
        action="append",
        default=[],
        type=_named,
        metavar="NAME=FILE",
        help="a further recipe, under the same keys; 'NAME=FILE section.key=value ...' gives it its own besides",
    )
    verb.add_argument("--test", default="25%", help="as of split (25%%)")
    verb.add_argument("--test-seed", type=int, default=0, help="of the test faces, which are the same for all (0)")
    verb.add_argument("--valid", help="as of split")
    verb.add_argument("--list", default="test", help="what is measured on (test)")
    verb.add_argument(
        "--jobs", type=_jobs, default=0, metavar="N", help="runs at once (auto: one a core, or as fit on a GPU)"
    )
    verb.add_argument("--no-ladder", action="store_true", help="without majority, pixels, CNN, from scratch, stage 2")
    as_json(verb)


def _words(text: str) -> list[str]:
    if not (words := [word for word in text.split(",") if word]):
        raise ArgumentTypeError("there is nothing in it")
    return words


def _seeds(text: str) -> list[int]:
    """ "0-2,5" as 0, 1, 2, 5."""
    seeds: list[int] = []
    for word in _words(text):
        first, dash, last = word.partition("-")
        if not (first.isdecimal() and (last.isdecimal() or not dash)):
            raise ArgumentTypeError(f"{text}: write numbers, as 0-4 or 0,3")
        seeds += range(int(first), int(last or first) + 1)
    if not seeds or len({*seeds}) < len(seeds):
        raise ArgumentTypeError(f"{text}: {'one stands twice' if seeds else 'there are none in it'}")
    return seeds


def _named(text: str) -> tuple[str, Path, tuple[str, ...]]:
    """ "lower lr=FILE supervised.lr=1e-4" as name, file and keys."""
    name, equals, rest = text.partition("=")
    file, *keys = rest.split() or [""]
    if not (name and equals and file):
        raise ArgumentTypeError(f"{text}: write NAME=FILE, or 'NAME=FILE section.key=value ...'")
    return name, shipped.find(file), tuple(keys)


def _jobs(text: str) -> int:
    if text != "auto" and not (text.isdecimal() and int(text)):
        raise ArgumentTypeError(f"{text}: write auto, or how many runs at once")
    return 0 if text == "auto" else int(text)


def _evaluate(verb: Verb) -> None:
    """Measure an expression model: accuracy, recall of each class, calibration, with intervals and pictures.

    Example: fer-scale evaluate runs/few/model shards/ferplus --split split.json --out runs/few/evaluation
    """
    verb.add_argument("model", help=f"{MODEL}; or baseline:majority, baseline:pixels")
    verb.add_argument("set", help=SET)
    verb.add_argument("--split", type=Path, help="split file; without one all labeled faces are taken")
    verb.add_argument("--list", default="test", help="list of the split (test)")
    verb.add_argument("--out", type=Path, required=True, help="folder of metrics.json, predictions.csv and pictures")
    what = "of a baseline: augment.crop_of of what it is compared with (picture)"
    verb.add_argument("--crop-of", choices=["picture", "face"], default="picture", help=what)
    verb.add_argument(
        "--worst", type=Path, metavar="FILE.html", help="a page of the mistakes it was surest of: real faces, keep it"
    )
    key(verb)
    as_json(verb)


def _watch(verb: Verb) -> None:
    """Tell how good a run's encoder is by now: a short fine-tuning from each of its checkpoints.

    Example: fer-scale watch runs/base shards/ferplus --split split.json
    """
    verb.add_argument("folder", metavar="run", type=Path, help="folder of a pre-training run")
    verb.add_argument("set", help=SET)
    verb.add_argument("--split", type=Path, required=True, help="a split file of the set, with a list `valid`")
    verb.add_argument("--recipe", type=shipped.find, help="of the fine-tuning (finetune/watch)")
    verb.add_argument(
        "--once",
        action="store_true",
        help="measure what is there, and do not wait for the end of the run (of one that was stopped it would be long)",
    )
    as_json(verb)
