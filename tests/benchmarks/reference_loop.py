"""Pre-training as the MAE repository does it, on one device: its loading, batch, precision and loop, our model.

    python tests/benchmarks/reference_loop.py FOLDER --set SHARDS [--steps 60] [--workers 10] [overrides]

After main_pretrain.py and engine_pretrain.py of He et al. 2022: ImageFolder with PIL, torchvision's crop, flip and
normalisation in 10 workers, batches of 64 (--batch) with a step each, fp16 with a gradient scaler, loss and norm of the
gradient read by the host in every step. On a processor, for a dry run, bf16 without a scaler. FOLDER receives the
shards' images as files, once. Prints {"images_per_s", "data_wait"}: medians over lines of 10 steps after the first.
"""

import argparse
import json
import statistics
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torchvision import datasets, transforms

from fer_scale import config, optim
from fer_scale.pretrain import setup
from fer_scale.pretrain.recipe import Pretrain

ROOT = Path(__file__).parents[2]
LINE = 10  # steps


def unpack(shards: Path, folder: Path) -> None:
    """The shards' images as files of one class; what is there is left."""
    if folder.exists():
        return
    beside = folder.with_name(f"{folder.name}.part")
    for number, tar in enumerate(sorted(shards.glob("*.tar"))):
        place = beside / "faces" / str(number)
        place.mkdir(parents=True, exist_ok=True)
        with tarfile.open(tar) as members:
            for member in members:
                if not member.name.endswith(".json"):
                    found = members.extractfile(member)
                    assert found is not None
                    (place / member.name.replace("/", "_")).write_bytes(found.read())
    beside.rename(folder)


def loaded(folder: Path, rec: Pretrain, batch: int, workers: int) -> Iterator[torch.Tensor]:
    """Batches without end."""
    view = transforms.Compose(
        [
            transforms.RandomResizedCrop(rec.model.image_px, scale=(0.2, 1.0), interpolation=3),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(rec.model.mean, rec.model.std),
        ]
    )
    data = torch.utils.data.DataLoader(
        datasets.ImageFolder(str(folder), transform=view), batch_size=batch, shuffle=True, drop_last=True,
        num_workers=workers, pin_memory=torch.cuda.is_available(),
    )  # fmt: skip
    while True:
        yield from (images for images, _ in data)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--set", type=Path, required=True)
    parser.add_argument("--recipe", type=Path, default=ROOT / "configs/pretrain/ssfer_vit_base.toml")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("overrides", nargs="*")
    args = parser.parse_intermixed_args()
    unpack(args.set, args.folder)
    rec = config.load(Pretrain, args.recipe, [f"data.shards={args.set}", *args.overrides])
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = setup.build(rec).to(device)
    adamw = torch.optim.AdamW(optim.parameter_groups(model, rec.optim.weight_decay), lr=1e-4, betas=rec.optim.betas)
    on_gpu = device.type == "cuda"
    scaler = torch.amp.GradScaler(enabled=on_gpu)
    batches = loaded(args.folder, rec, args.batch, args.workers)
    line = min(LINE, max(1, args.steps // 3))
    lines: list[tuple[float, float]] = []  # seconds, and of these waiting
    began, waited = time.perf_counter(), 0.0
    for step in range(1, args.steps + 1):
        asked = time.perf_counter()
        images = next(batches)
        waited += time.perf_counter() - asked
        images = images.to(device, non_blocking=True)
        keys = torch.randint(2**62, (len(images),), device=device)
        with torch.autocast(device.type, torch.float16 if on_gpu else torch.bfloat16):
            loss = model(images, keys).mean()
        loss.item()
        scaler.scale(loss).backward()
        scaler.unscale_(adamw)
        torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf")).item()
        scaler.step(adamw)
        scaler.update()
        adamw.zero_grad()
        if on_gpu:
            torch.cuda.synchronize()
        if step % line == 0:
            lines.append((time.perf_counter() - began, waited))
            began, waited = time.perf_counter(), 0.0
    print(json.dumps(figures(lines, args.batch * line)))


def figures(lines: list[tuple[float, float]], images: int) -> dict[str, Any]:
    """What the lines after the first come to, with so many images in each."""
    rates = [images / seconds for seconds, _ in lines[1:]]
    waits = [waited / seconds for seconds, waited in lines[1:]]
    return {"images_per_s": round(statistics.median(rates), 1), "data_wait": round(statistics.median(waits), 4)}


if __name__ == "__main__":
    main()
