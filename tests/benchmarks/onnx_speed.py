"""How fast a model's ONNX file is in onnxruntime, against the model in torch: one thread, interleaved.

    python tests/benchmarks/onnx_speed.py [192x6x6,48,8 vit_base,224,16] [--batches 1 64] [--opset 18] [--rounds 5]

Networks of random weights with a head for seven expressions, uint8 faces in, probabilities out. Medians over the rounds
(ten times as many of a single face), and the median and the middle 80 % of the rounds' ratios: what else the machine
does falls on both alike.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import torch

from fer_scale import encoder, export, exported

NAMES = ["neutral", "happiness", "surprise", "sadness", "anger", "disgust", "fear"]


def make(folder: Path, name: str, image_px: int, patch_px: int) -> Path:
    """An expression model of random weights."""
    torch.manual_seed(0)
    sizes = {"image_px": image_px, "patch_px": patch_px}
    model = encoder.build(name, **sizes)
    model.reset_classifier(len(NAMES))
    args = encoder.model_args(name, **sizes)
    config = encoder.make_config(
        model, args, image_px=image_px, mean=(0.5,) * 3, std=(0.25,) * 3, label_names=NAMES, block={}
    )
    encoder.write(folder, model.state_dict(), config)
    return folder


def measure(folder: Path, file: Path, batch: int, rounds: int) -> tuple[list[float], list[float], float]:
    """Seconds of each round in onnxruntime and in torch, and the largest difference of what they give."""
    model, session = exported.load(str(folder)), export.open_session(str(file))
    faces = np.random.default_rng(batch).integers(0, 256, (batch, model.px, model.px, 3), np.uint8)
    ways = (lambda: session.run(None, {exported.INPUT: faces}), lambda: exported.run_in_torch(model, faces))
    worst = max(exported.difference(a, b) for a, b in zip(ways[1](), ways[0](), strict=True))
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for took, run in zip(times, ways, strict=True):
            began = time.perf_counter()
            run()
            took.append(time.perf_counter() - began)
    return (*times, worst)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", default=["192x6x6,48,8", "vit_base,224,16"])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--opset", type=int, default=export.OPSET)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| model | batch | ms a face in onnxruntime | in torch | torch / onnxruntime | difference |")
    print("|---" * 6 + "|")
    for shape in args.shapes:
        name, image_px, patch_px = shape.split(",")
        with tempfile.TemporaryDirectory() as here:
            folder, file = make(Path(here, "model"), name, int(image_px), int(patch_px)), Path(here, "model.onnx")
            export.export(str(folder), file, opset=args.opset)
            for batch in args.batches:
                rounds = args.rounds * (1 if batch > 1 else 10)
                fast, slow, worst = measure(folder, file, batch, rounds)
                ratios = sorted(b / a for a, b in zip(fast, slow, strict=True))
                low, high = ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
                each = [1000 * median(times) / batch for times in (fast, slow)]
                print(
                    f"| {name} at {image_px} px | {batch} | {each[0]:.3g} | {each[1]:.3g} "
                    f"| {median(ratios):.2f} ({low:.2f}-{high:.2f}) | {worst:.1e} |", flush=True
                )  # fmt: skip


if __name__ == "__main__":
    main()
