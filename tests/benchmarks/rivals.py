"""What reading.py measures: each loader of this file's table, in an environment of its own.

    python rivals.py prepare NAME IMAGES DATA     puts a folder of JPEGs of one size into the loader's own format
    python rivals.py read NAME DATA BATCH         prints "ready"; for each line N on its input reads N batches

One process reads ahead of the one that trains, as in training. All shuffle as they recommend. Where nothing else is
said they decode with simplejpeg, as fer_scale does, and end with uint8 [B, 112, 112, 3]: what is sent to a device that
crops. So the difference is the format, the order, the checks and the way from the reader to the trainer.
"""

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SHUFFLED = 1000  # samples in a shuffling buffer
IMAGES_A_SHARD = 2500


def jpegs(images: Path) -> list[Path]:
    return sorted(images.rglob("*.jpg"))


def decoded(jpeg: bytes) -> np.ndarray:
    import simplejpeg

    return simplejpeg.decode_jpeg(jpeg, colorspace="RGB")


def stacked(pictures: list[np.ndarray]) -> Any:
    import torch

    return torch.from_numpy(np.stack(pictures))


def settings(batch: int) -> dict[str, Any]:
    """Of torch's DataLoader and of what is derived from it."""
    return {"batch_size": batch, "num_workers": 1, "collate_fn": stacked, "persistent_workers": True}


def forever(batches: Any) -> Iterator[Any]:
    while True:
        yield from batches


# fer_scale


def prepare_fer_scale(images: Path, data: Path) -> None:
    command = [sys.executable, "-m", "fer_scale", "pack", images, data, "--source", "folder"]
    subprocess.run([str(word) for word in command], check=True)


def read_fer_scale(data: Path, batch: int) -> Iterator[Any]:
    from fer_scale.loader import Faces, batches
    from shards.index import ShardSet
    from shards.order import Order

    faces = Faces([ShardSet.open(data)], slot_px=112)
    order = Order(faces.counts, seed=0, batch=batch)
    steps = {"start_step": 0, "stop_step": 10**9, "rank": 0, "ranks": 1, "accumulation": 1, "workers": 1}
    yield from (micro for [micro] in batches(faces, order, **steps))


def read_cropped(data: Path, batch: int) -> Iterator[Any]:
    """Where the device is the processor itself, the crop to 224 px is its work, too."""
    from types import SimpleNamespace

    from fer_scale.images import normalise, training_view

    augment = SimpleNamespace(crop_scale=(0.2, 1.0), crop_ratio=(3 / 4, 4 / 3), flip=True, grey=0.0)
    for found in read_fer_scale(data, batch):
        view = training_view(found.pixels, found.sizes, found.keys, 224, augment)
        yield normalise(view, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


# webdataset


def prepare_webdataset(images: Path, data: Path) -> None:
    import webdataset

    data.mkdir()
    with webdataset.ShardWriter(f"{data}/train-%06d.tar", maxcount=IMAGES_A_SHARD, verbose=0) as writer:
        for number, file in enumerate(jpegs(images)):
            writer.write({"__key__": f"{number:09d}", "jpg": file.read_bytes(), "json": {"number": number}})


def tars(data: Path) -> list[str]:
    return sorted(str(tar) for tar in data.glob("*.tar"))


def webdataset_of(data: Path, make: Callable[[dict[str, Any]], Any], batch: int, collate: Any) -> Iterator[Any]:
    import webdataset

    found = webdataset.WebDataset(tars(data), shardshuffle=100, repeat=True).shuffle(SHUFFLED).map(make)
    batched = found.batched(batch, collation_fn=collate)
    return iter(webdataset.WebLoader(batched, batch_size=None, num_workers=1))


def read_webdataset(data: Path, batch: int) -> Iterator[Any]:
    return webdataset_of(data, lambda sample: decoded(sample["jpg"]), batch, stacked)


def read_stock(data: Path, batch: int) -> Iterator[Any]:
    """As the reference MAE reads its images, over webdataset: PIL, torchvision, float32 [B, 3, 224, 224]."""
    import io

    import torch
    from PIL import Image
    from torchvision import transforms

    view = transforms.Compose(
        [
            transforms.RandomResizedCrop(224, scale=(0.2, 1.0), interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    return webdataset_of(
        data, lambda sample: view(Image.open(io.BytesIO(sample["jpg"])).convert("RGB")), batch, torch.stack
    )


# MosaicML Streaming


def prepare_streaming(images: Path, data: Path) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=str(data), columns={"jpg": "bytes"}, hashes=["sha256"]) as writer:
        for file in jpegs(images):
            writer.write({"jpg": file.read_bytes()})


def read_streaming(data: Path, batch: int) -> Iterator[Any]:
    from streaming import StreamingDataset
    from torch.utils.data import DataLoader

    class Pictures(StreamingDataset):
        def __getitem__(self, at: Any) -> Any:
            return decoded(super().__getitem__(at)["jpg"])

    return forever(DataLoader(Pictures(local=str(data), shuffle=True, batch_size=batch), **settings(batch)))


# LitData


def prepare_litdata(images: Path, data: Path) -> None:
    import litdata

    files = [str(file) for file in jpegs(images)]
    litdata.optimize(fn=whole, inputs=files, output_dir=str(data), chunk_bytes="16MB", num_workers=1)


def whole(file: str) -> dict[str, bytes]:
    return {"jpg": Path(file).read_bytes()}


def read_litdata(data: Path, batch: int) -> Iterator[Any]:
    import litdata

    class Pictures(litdata.StreamingDataset):
        def __getitem__(self, at: Any) -> Any:
            return decoded(super().__getitem__(at)["jpg"])

    found = Pictures(str(data), shuffle=True)
    return forever(litdata.StreamingDataLoader(found, **settings(batch)))


# Megatron Energon


def prepare_energon(images: Path, data: Path) -> None:
    prepare_webdataset(images, data)
    options = ["--non-interactive", "--split-ratio", "1,0,0", "--sample-type", "CrudeWebdataset"]
    energon = Path(sys.executable).with_name("energon")
    subprocess.run([energon, "prepare", data, *options], check=True)


def read_energon(data: Path, batch: int) -> Iterator[Any]:
    from megatron import energon

    class Pictures(energon.DefaultTaskEncoder):
        cookers = [energon.Cooker(energon.stateless(cooked))]  # noqa: RUF012
        decoder = None  # ours, as everywhere

        @energon.stateless
        def batch(self, samples: Any) -> Any:
            return stacked([sample["pixels"] for sample in samples])

    cores = energon.WorkerConfig(rank=0, world_size=1, num_workers=1)
    how = {"worker_config": cores, "task_encoder": Pictures(), "shuffle_buffer_size": SHUFFLED}
    found = energon.get_train_dataset(data, batch_size=batch, max_samples_per_sequence=None, **how)
    return forever(energon.get_loader(found))


def cooked(sample: dict[str, Any]) -> dict[str, Any]:
    from megatron import energon

    return {**energon.basic_sample_keys(sample), "pixels": decoded(sample["jpg"])}


# DALI, on the processor: its own decoder (libjpeg-turbo), in a thread


def read_dali(data: Path, batch: int) -> Iterator[Any]:
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def(batch_size=batch, num_threads=1, device_id=None)
    def pictures() -> Any:
        shuffle = {"random_shuffle": True, "initial_fill": SHUFFLED}
        jpeg = fn.readers.webdataset(paths=tars(data), ext=["jpg"], name="faces", **shuffle)
        return fn.decoders.image(jpeg, device="cpu", output_type=types.RGB)

    made = pictures()
    made.build()
    while True:
        yield made.run()[0].as_tensor()


# Hugging Face datasets, streaming


def prepare_datasets(images: Path, data: Path) -> None:
    import datasets

    data.mkdir()
    files = jpegs(images)
    for start in range(0, len(files), IMAGES_A_SHARD):
        rows = [{"bytes": f.read_bytes(), "path": f.name} for f in files[start : start + IMAGES_A_SHARD]]
        table = datasets.Dataset.from_dict({"image": rows}, features=datasets.Features({"image": datasets.Image()}))
        table.to_parquet(data / f"train-{start:09d}.parquet", batch_size=100)


def read_datasets(data: Path, batch: int) -> Iterator[Any]:
    import datasets
    from torch.utils.data import DataLoader

    files = sorted(str(file) for file in data.glob("*.parquet"))
    found = datasets.load_dataset("parquet", data_files=files, split="train", streaming=True)
    found = found.cast_column("image", datasets.Image(decode=False)).shuffle(seed=0, buffer_size=SHUFFLED)
    found = found.map(lambda row: {"image": decoded(row["image"]["bytes"])})
    collate = {"collate_fn": lambda rows: stacked([row["image"] for row in rows])}
    return forever(DataLoader(found, **(settings(batch) | collate)))


# name: what it reads, which of the others' data (by name) or how its own are made
READERS: dict[str, tuple[Callable[[Path, int], Iterator[Any]], Callable[[Path, Path], None] | str]] = {
    "fer_scale": (read_fer_scale, prepare_fer_scale),
    "fer_scale, cropped on the processor": (read_cropped, "fer_scale"),
    "stock: webdataset, PIL, torchvision": (read_stock, "webdataset, its own tars"),
    "webdataset, its own tars": (read_webdataset, prepare_webdataset),
    "webdataset, our tars": (read_webdataset, "fer_scale"),
    "streaming": (read_streaming, prepare_streaming),
    "litdata": (read_litdata, prepare_litdata),
    "energon": (read_energon, prepare_energon),
    "dali": (read_dali, "webdataset, its own tars"),
    "datasets": (read_datasets, prepare_datasets),
}


def serve(batches: Iterator[Any]) -> None:
    """Reads as many batches as each line of the input says, and tells when it has."""
    for _ in itertools.islice(batches, 4):  # processes have started, buffers are full
        pass
    print("ready", flush=True)
    for line in sys.stdin:
        images = 0
        for found in itertools.islice(batches, int(line)):
            images += shape(found)[0]
        print(json.dumps({"images": images, "shape": shape(found)}), flush=True)


def shape(batch: Any) -> list[int]:
    """Of what a loader gives, in its own terms."""
    found = getattr(batch, "pixels", batch).shape
    return list(found() if callable(found) else found)


def main(verb: str, name: str, *rest: str) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    read, prepare = READERS[name]
    if verb == "prepare":
        assert callable(prepare)
        prepare(Path(rest[0]), Path(rest[1]))
    else:
        serve(read(Path(rest[0]), int(rest[1])))


if __name__ == "__main__":
    main(*sys.argv[1:])
