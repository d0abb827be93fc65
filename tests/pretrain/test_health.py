"""The change of the weights is told from AdamW's state, to the size that AdamW gave it."""

import pytest
import torch

from fer_scale.pretrain import health
from fer_scale.pretrain.engine import Slice


def test_the_last_change_follows_from_what_adamw_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "_CHUNK", 7)
    w = torch.nn.Parameter(torch.randn(4, 5, generator=torch.Generator().manual_seed(0)))
    adamw = torch.optim.AdamW([w], lr=0.03, betas=(0.9, 0.95), weight_decay=0.2)
    for step in range(1, 4):
        before = w.detach().clone()
        w.grad = torch.randn(4, 5, generator=torch.Generator().manual_seed(step))
        w.grad[0, 0] = 0
        adamw.step()
        state = adamw.state[w]
        found = health.sums(Slice(w, state["exp_avg"], state["exp_avg_sq"], step, 0.03, (0.9, 0.95), 1e-8, 0.2))
        truth = (w - before).square().sum().item(), w.square().sum().item(), 1, 20
        assert found.tolist() == pytest.approx(truth, rel=1e-5)
