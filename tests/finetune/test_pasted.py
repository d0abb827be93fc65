"""Photos of real faces: each gets the label that its crop gets, as nearly as a detector finds it."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scenes import pasted

import fer_scale
from fer_scale import cuts
from fer_scale.finetune import sweep_rows
from fer_scale.finetune.loop import finetune
from fer_scale.finetune.split import split
from fer_scale.finetune.sweep_rows import SCRATCH
from shards.boxes import iou
from shards.index import ShardSet
from shards.pixels import decode

ROOT = Path(__file__).parents[2]
CNN = (*SCRATCH, *sweep_rows.CNN, "semi.steps=0", "supervised.steps=400", "run.checkpoint_every_steps=0")


@pytest.mark.slow
def test_a_face_in_a_photo_gets_the_label_of_its_crop_and_not_if_it_is_cut_twice_as_wide(
    ferplus_set: Path, yunet: Path, tmp_path: Path
) -> None:
    file = tmp_path / "split.json"
    test = {*split(ferplus_set, labels="25%", test="2%", seed=0, out=file)["test"]}
    shards, out = f"data.shards={ferplus_set}", f"run.out={tmp_path / 'run'}"
    finetune(ROOT / "configs/finetune/few_labels.toml", [shards, f"data.split={file}", out, *CNN])
    crops = [decode(s.image).copy() for s in ShardSet.open(ferplus_set).samples_in_order() if s.key in test]
    model = fer_scale.load(tmp_path / "run/model", faces="all", detector=yunet)
    whole = fer_scale.load(tmp_path / "run/model", faces="whole")
    labels = [photo.faces[0].label for photo in whole.predict(crops)]
    assert len(crops) > 500 and len(set(labels)) > 3
    for px, least in ((64, 0.7), (120, 0.9), (300, 0.95)):
        found, same, wide = 0, 0, 0
        for number, (crop, label) in enumerate(zip(crops, labels, strict=True)):
            photo, true = pasted(Image.fromarray(crop), px, number)
            there = [face for face in model.predict([photo])[0].faces if iou(face.box, true) > 0.2]
            if there:
                cut = cuts.middle(cuts.around(there[0].box, model.place), model.crop_pct)
                [too_wide] = model.ask([cuts.as_input(photo, model.px, cuts.middle(cut, 2.0))])
                found += 1
                same += there[0].label == label
                wide += model.names[int(np.argmax(too_wide))] == label
        print(px, found / len(crops), same / found, wide / found)
        assert found >= least * len(crops)
        assert same >= 0.7 * found and wide < same - 0.15 * found
