"""The baseline that sees pixels and nothing else: a logistic regression on 24x24 pictures.

Whatever is called learning has to beat it.

    python -m fer_scale.demo.pixels SET --split FILE [--test SET] [--out FILE.json]

trains on the split's labeled faces; tests on all of --test, or else on the split's own test list.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from fer_scale.finetune.metrics import measure
from fer_scale.images import decode
from fer_scale.log import print_json, say
from shards.errors import UserError
from shards.expressions import EXPRESSIONS
from shards.index import ShardSet

SIDE_PX = 24
L2 = 0.01  # on 320 drawn faces anything from .003 to .03 gives the same within a point
Faces = tuple[Tensor, Tensor]  # pixels [N, SIDE_PX * SIDE_PX * 3] in 0..1 and expressions [N]


def read(shards: ShardSet, keys: set[str] | None = None) -> Faces:
    """The faces of a set that have an expression, of these keys alone where some are given."""
    pixels, labels = [], []
    for sample in shards.samples_in_order():
        expression = sample.face.expression if sample.face else None
        if expression is not None and (keys is None or sample.key in keys):
            pixels.append(_small(decode(sample.image)))
            labels.append(EXPRESSIONS.index(expression))
    if not labels:
        raise UserError(f"{shards.path}: none of the faces asked for has an expression; is it the set of this split?")
    return torch.from_numpy(np.stack(pixels)), torch.tensor(labels)


def _small(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    image = Image.fromarray(pixels).resize((SIDE_PX, SIDE_PX), Image.Resampling.BOX)
    return (np.asarray(image).reshape(-1) / 255).astype(np.float32)


def probabilities(train: Faces, test: Tensor) -> Tensor:
    """What multinomial logistic regression, fitted to the minimum, says of each test picture [N, expressions]."""
    mean, std = train[0].mean(dim=0), train[0].std(dim=0) + 1e-3
    linear = nn.Linear(len(mean), len(EXPRESSIONS))
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=200, line_search_fn="strong_wolfe")
    inputs = (train[0] - mean) / std

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(linear(inputs), train[1]) + L2 / 2 * linear.weight.square().sum()
        value.backward()
        return value

    optimizer.step(loss)  # type: ignore[arg-type]  # torch says float, and wants a tensor
    with torch.no_grad():
        return linear((test - mean) / std).softmax(dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m fer_scale.demo.pixels", description="Logistic regression on pixels."
    )
    parser.add_argument("set", type=Path, help="the labeled shard set")
    parser.add_argument("--split", type=Path, required=True, help="its split file")
    parser.add_argument("--test", type=Path, help="a shard set to test on, instead of the split's test list")
    parser.add_argument("--out", type=Path, help="where to write what was measured, as JSON")
    wanted = parser.parse_args()
    lists = json.loads(wanted.split.read_text())
    shards = ShardSet.open(wanted.set)
    train = read(shards, set(lists["labeled"]))
    test = read(ShardSet.open(wanted.test)) if wanted.test else read(shards, set(lists["test"]))
    measured = measure(probabilities(train, test[0]).numpy(), test[1].numpy(), list(EXPRESSIONS))
    if wanted.out:
        wanted.out.parent.mkdir(parents=True, exist_ok=True)
        wanted.out.write_text(json.dumps(measured, indent=2))
        say(f"{wanted.out}: accuracy {measured['accuracy']:.3f}, uar {measured['uar']:.3f} of {len(test[1]):,} faces")
    else:
        print_json(measured)


if __name__ == "__main__":
    main()
