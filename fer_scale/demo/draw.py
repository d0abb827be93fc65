"""Two folders of drawn faces, as the two kinds of data sets lie on disk: many faces of few, and few labels of many.

    OUT/unlabeled/00017/0003.jpg     face recognition: 1,100 people, ten pictures of each, no expressions
    OUT/labeled/00004/0000.jpg       expression recognition: 3,600 other people, one picture of each, and
    OUT/labeled/labels.jsonl         path, expression and box of every one

So nobody is in both, and however the labeled faces are split, those that are tested on are strangers. A picture is a
function of (seed, folder, person, number) alone.
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

FOLDERS = ("unlabeled", "labeled")
PICTURES_OF_ONE = {"unlabeled": 10, "labeled": 1}


@dataclass(frozen=True, slots=True)
class Task:
    """One person and how many pictures of them to draw: the unit of work of one process."""

    folder: str
    number: int
    pictures: int


def draw(
    out: Path,
    *,
    unlabeled: int = 11_000,
    labeled: int = 3_600,
    seed: int = 0,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Draws both folders into `out`, which appears when it is complete; the same bytes for any number of `workers`.

    Raises UserError where `out` exists.
    """
    if out.exists():
        raise UserError(f"{out} is there already; remove it or name another folder")
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    tasks = [*_tasks("unlabeled", unlabeled), *_tasks("labeled", labeled)]
    done = 0
    labels: list[str] = []
    # "spawn": a forked copy of a process with threads may stand still for ever
    with get_context("spawn").Pool(workers) as pool:
        drawn = pool.imap(partial(_draw_person, part, seed), tasks, chunksize=64)
        for who, lines in zip(tasks, drawn, strict=True):
            labels += lines if who.folder == "labeled" else []
            done += who.pictures
            if progress:
                progress(done, unlabeled + labeled)
    (part / "labeled/labels.jsonl").write_text("\n".join(labels) + "\n")
    part.rename(out)


def _tasks(folder: str, pictures: int) -> list[Task]:
    each = PICTURES_OF_ONE[folder]
    return [Task(folder, n, min(each, pictures - n * each)) for n in range(-(-pictures // each))]


def _draw_person(out: Path, seed: int, who: Task) -> list[str]:
    """Draws one person's pictures; returns their lines of labels.jsonl.

    Expressions take turns, so that every class is equally large: kinder than any real data set.
    """
    counter = (seed, FOLDERS.index(who.folder), who.number)
    somebody = person(np.random.default_rng(counter))
    place = out / who.folder / f"{who.number:05d}"
    place.mkdir(parents=True)
    lines = []
    for number in range(who.pictures):
        rng = np.random.default_rng((*counter, number + 1))  # numpy takes a trailing 0 for nothing at all
        expression = EXPRESSIONS[(who.number * PICTURES_OF_ONE[who.folder] + number) % len(EXPRESSIONS)]
        picture, box = draw_face(somebody, act(expression, rng), rng)
        path = place / f"{number:04d}.jpg"
        picture.save(path, quality=95, subsampling=0)  # JPEG, as in the sets that people have; it reads fast, too
        name = f"{place.name}/{path.name}"
        lines.append(json.dumps({"path": name, "expression": expression, "box": [round(v, 4) for v in box]}))
    return lines
