"""Three steps of an engine in each layout FOLDER/zero*.json, and what health.py sees of them: a line of JSON.

A hidden unit of the first block is dead, and the last images of rank 1 are not finite.
"""

import json
import sys
from pathlib import Path

import torch

from fer_scale import config
from fer_scale.pretrain import health, setup, world
from fer_scale.pretrain.engine import Engine
from fer_scale.pretrain.mae import MaskedAutoencoder
from fer_scale.pretrain.recipe import Plan, Pretrain

HERE = Path(__file__).parent


def ill(rec: Pretrain) -> MaskedAutoencoder:
    model = setup.build(rec)
    with torch.no_grad():
        model.encoder.blocks[0].mlp.fc1.bias[5] = -50
    return model


def main(folder: Path) -> None:
    us = world.join(60)
    for layout in sorted(folder.glob("zero*.json")):
        given = ["data.shards=none", "run.out=none", f"run.deepspeed={layout}", "batch.size=24", *sys.argv[2:]]
        rec = config.load(Pretrain, HERE / "pretrain.toml", given)
        plan = Plan(ranks=us.ranks, accumulation=1, images=1, steps=1, views=1, epochs=(1.0,), lr=1e-3, warmup_steps=0)
        engine = Engine(ill(rec), rec, plan, us)
        images = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(us.rank))
        batch = (images, torch.arange(12) + 12 * us.rank)
        engine.step(iter([batch]), 1e-3)
        before = engine.weights()
        with health.seen(engine, us, True) as values:
            engine.step(iter([batch]), 1e-3)
        after = engine.weights()
        with health.seen(engine, us, True) as bad:
            engine.step(iter([(images if us.is_main else images * torch.nan, batch[1])]), 1e-3)
        with health.seen(engine, us, False) as nothing:
            engine.step(iter([batch]), 1e-3)
        if us.is_main:
            trained = [name for name, p in engine.module.named_parameters() if p.requires_grad]
            norm, change = (sum(t.double().square().sum() for t in tensors) for tensors in (
                [after[name] for name in trained], [after[name] - before[name] for name in trained]
            ))  # fmt: skip
            values |= {"true_ratio": float(change / norm) ** 0.5, "numel": engine.numel_trained}
            values |= {"bad": bad, "otherwise": nothing}
            print(json.dumps(values), flush=True)
    us.leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
