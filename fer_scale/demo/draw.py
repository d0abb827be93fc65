"""Three folders of drawn faces: many that nobody labeled, a labeled data set, and strangers to test on.

    OUT/unlabeled/00017/0003.png     as a face recognition data set lies on disk
    OUT/labeled/00004/0001.png       with OUT/labeled/labels.jsonl: path, expression, box
    OUT/test/00123/0000.png          the same, of people who are in neither of the others

No identity is in two folders, and each picture is a function of (seed, folder, identity, number) alone.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from fer_scale.demo.face import act, draw_face, person
from shards.errors import UserError
from shards.expressions import EXPRESSIONS

FOLDERS = ("unlabeled", "labeled", "test")
PICTURES_OF_ONE = {"unlabeled": 10, "labeled": 8, "test": 8}


@dataclass(frozen=True, slots=True)
class Identity:
    """One person and how many pictures of them to draw: the unit of work of one process."""

    folder: str
    number: int
    pictures: int


def draw(
    out: Path,
    *,
    unlabeled: int = 11_000,
    labels_per_class: int = 40,
    hidden_per_class: int = 160,
    test: int = 2_000,
    seed: int = 0,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Draws the three folders into `out`, which appears when it is complete; the same bytes for any `workers`.

    `hidden_per_class` pictures of the labeled folder are there for their faces: a split will hide their labels.
    Raises UserError where `out` exists.
    """
    if out.exists():
        raise UserError(f"{out} is there already; remove it or name another folder")
    wanted = {"unlabeled": unlabeled, "labeled": (labels_per_class + hidden_per_class) * len(EXPRESSIONS), "test": test}
    identities = [i for folder, pictures in wanted.items() for i in _identities(folder, pictures)]
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    lines: dict[str, list[str]] = {folder: [] for folder in FOLDERS}
    done = 0
    # "spawn": a forked copy of a process with threads may stand still for ever
    with get_context("spawn").Pool(workers) as pool:
        drawn = pool.imap(partial(_draw_identity, part, seed), identities, chunksize=16)
        for who, labels in zip(identities, drawn, strict=True):
            lines[who.folder] += labels
            done += who.pictures
            if progress:
                progress(done, sum(wanted.values()))
    for folder in ("labeled", "test"):
        (part / folder / "labels.jsonl").write_text("\n".join(lines[folder]) + "\n")
    part.rename(out)


def _identities(folder: str, pictures: int) -> list[Identity]:
    each = PICTURES_OF_ONE[folder]
    return [Identity(folder, n, min(each, pictures - n * each)) for n in range(-(-pictures // each))]


def _draw_identity(out: Path, seed: int, who: Identity) -> list[str]:
    """Draws one person's pictures; returns their lines of labels.jsonl.

    Expressions take turns, so that every class is equally large: kinder than any real data set.
    """
    counter = (seed, FOLDERS.index(who.folder), who.number)
    somebody = person(np.random.default_rng(counter))
    place = out / who.folder / f"{who.number:05d}"
    place.mkdir(parents=True)
    lines = []
    for number in range(who.pictures):
        rng = np.random.default_rng((*counter, number))
        expression = EXPRESSIONS[(who.number * PICTURES_OF_ONE[who.folder] + number) % len(EXPRESSIONS)]
        picture, box = draw_face(somebody, act(expression, rng), rng)
        path = place / f"{number:04d}.png"
        picture.save(path)
        name = f"{place.name}/{path.name}"
        lines.append(json.dumps({"path": name, "expression": expression, "box": [round(v, 4) for v in box]}))
    return lines
