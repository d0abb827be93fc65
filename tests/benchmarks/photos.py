"""Photos to expressions: how fast, beside plain timm; and how well a face in a photo is cut out.

python tests/benchmarks/photos.py speed MODEL "FACES/*.jpg" [ROUNDS]
    face crops (--faces whole) from JPEG files to probabilities on one core, all at once as users call it, against
    timm.create_model, PIL and timm's own transform, an image at a time and 64 at a time; interleaved
python tests/benchmarks/photos.py agreement MODEL SET SPLIT.json DETECTOR COUNT [LIST]
    faces of a list (test; valid, where something is chosen) pasted into 640x480: whether they get their crop's label,
    and how wide a found face is to be cut, in shares of the width of training; DETECTOR is a file or haar
python tests/benchmarks/photos.py place "FACES/*.jpg" DETECTOR
    the median box on such crops: the table in fer_scale/faces.py
"""

import glob
import json
import os
import sys
import time
from collections.abc import Callable

import numpy as np
import timm
import torch
from PIL import Image

import fer_scale
from fer_scale import cuts, faces, photos
from shards.boxes import iou
from shards.index import ShardSet
from shards.pixels import decode

BATCH = 64
SIZES = (64, 120, 300)
WIDTHS = (0.8, 0.85, 0.9, 0.95, 1.0)


def speed(model: str, pattern: str, rounds: str = "7") -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    torch.set_num_threads(1)
    files = sorted(glob.glob(pattern))[:512]
    ours = fer_scale.load(model, faces="whole", device="cpu")
    network = timm.create_model(f"local-dir:{model}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network), is_training=False)

    def theirs(batch: int) -> list[list[float]]:
        rows: list[list[float]] = []
        with torch.inference_mode():
            for start in range(0, len(files), batch):
                pictures = [transform(Image.open(file).convert("RGB")) for file in files[start : start + batch]]
                rows += network(torch.stack(pictures)).softmax(1).tolist()
        return rows

    ways: dict[str, Callable[[], list[list[float]]]] = {
        "fer_scale": lambda: [list(p.faces[0].probabilities.values()) for p in ours.predict(files)],
        "timm, one at a time": lambda: theirs(1),
        f"timm, {BATCH} at a time": lambda: theirs(BATCH),
    }
    took: dict[str, list[float]] = {name: [] for name in ways}
    said = {name: np.array(way()) for name, way in ways.items()}  # warm
    for _ in range(int(rounds)):
        for name, way in ways.items():
            began = time.process_time()
            way()
            took[name].append((time.process_time() - began) / len(files) * 1e3)
    print(f"{len(files)} faces, {rounds} rounds, one core, processor time")
    for name, ms in took.items():
        ratios = np.array(ms) / np.array(took["fer_scale"])
        off = abs(said[name] - said["fer_scale"]).max()
        print(
            f"{name:<22} {np.median(ms):6.2f} ms a face  {np.median(ratios):.2f} times ours "
            f"({ratios.min():.2f} to {ratios.max():.2f}), probabilities differ by at most {off:.1e}"
        )


def pasted(crop: photos.Pixels, px: int, rng: np.random.Generator) -> tuple[photos.Pixels, int, int]:
    behind = Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).resize((640, 480), Image.Resampling.BICUBIC)
    left, top = int(rng.integers(0, 640 - px)), int(rng.integers(0, 480 - px))
    behind.paste(Image.fromarray(crop).resize((px, px), Image.Resampling.BICUBIC), (left, top))
    return np.asarray(behind), left, top


def scaled(cut: tuple[float, ...], width: float) -> tuple[float, float, float, float]:
    """A cut of cuts.around() as wide as `width` of what lay there in training."""
    left, top, right, bottom = cut
    more = (right - left) / 2 * (width / cuts.NARROWER - 1)
    return left - more, top - more, right + more, bottom + more


def agreement(model: str, address: str, split: str, detector: str, count: str, list_name: str = "test") -> None:
    torch.set_num_threads(1)
    with open(split) as text:
        keys = json.load(text)[list_name]
    wanted = set(keys[:: max(1, len(keys) // int(count))])
    samples = [s for s in ShardSet.open(address).samples_in_order() if s.key in wanted]
    crops = [decode(sample.image).copy() for sample in samples]
    true = np.array([sample.face.expression if sample.face else "" for sample in samples])
    found = fer_scale.load(model, faces="all", detector=detector, device="cpu")
    whole = fer_scale.load(model, faces="whole", device="cpu")
    names, rng = np.array(whole.names), np.random.default_rng(0)
    of_crop = np.array([list(photo.faces[0].probabilities.values()) for photo in whole.predict(crops)])
    print(f"{len(crops)} faces; accuracy of the crops {100 * np.mean(names[of_crop.argmax(1)] == true):.1f} %")

    def line(name: str, rows: list[int], probabilities: list[list[float]]) -> None:
        one, other = np.array(probabilities), of_crop[rows]
        same, apart = np.mean(one.argmax(1) == other.argmax(1)), np.abs(one - other).sum(1).mean() / 2
        right, before = (np.mean(names[p.argmax(1)] == true[rows]) for p in (one, other))
        print(
            f"{name:<24} {len(rows):5} faces  the crop's label {100 * same:5.1f} %  total variation {apart:.3f}  "
            f"accuracy {100 * right:.1f} %, of their crops {100 * before:.1f} %",
            flush=True,
        )

    for px in SIZES:
        scenes = [pasted(crop, px, rng) for crop in crops]
        for share in (0.0, 0.05, 0.25):
            more = share * px / 2
            wider = [(x - more, y - more, x + px + more, y + px + more) for _, x, y in scenes]
            inputs = [
                cuts.as_input(photo, whole.px, cuts.middle(cut, whole.crop_pct))
                for (photo, *_), cut in zip(scenes, wider, strict=True)
            ]
            answers = [row for at in range(0, len(inputs), BATCH) for row in whole.ask(inputs[at : at + BATCH])]
            line(f"{px} px, cut {100 * share:.0f} % too wide", list(range(len(crops))), answers)
        rows, boxes, strangers = [], [], 0
        for number, photo in enumerate(found.predict(scene for scene, *_ in scenes)):
            _, x, y = scenes[number]
            there = [f for f in photo.faces if iou(f.box, (x, y, x + px, y + px)) > 0.2]
            strangers += len(photo.faces) - len(there)
            if there:
                rows.append(number)
                boxes.append(there[0].box)
        for width in WIDTHS:
            inputs = [
                cuts.as_input(scenes[number][0], whole.px, scaled(cuts.around(box, found.place), width))
                for number, box in zip(rows, boxes, strict=True)
            ]
            answers = [row for at in range(0, len(inputs), BATCH) for row in whole.ask(inputs[at : at + BATCH])]
            line(f"{px} px, found, {width:g} wide", rows, answers)
        print(f"{'':<24} {strangers} boxes where no face is")


def place(pattern: str, detector: str) -> None:
    crops = [photos.upright(file) for file in sorted(glob.glob(pattern))]
    finder = faces.finder(detector)
    began = time.process_time()
    print(
        finder.name, len(crops), finder.place(crops), f"{(time.process_time() - began) / len(crops) * 1e3:.1f} ms each"
    )


if __name__ == "__main__":
    what: dict[str, Callable[..., None]] = {"speed": speed, "agreement": agreement, "place": place}
    what[sys.argv[1]](*sys.argv[2:])
