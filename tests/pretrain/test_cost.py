"""The formulas of `fer-scale check`: counted on the model itself where that is possible, by hand where it is not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fer_scale import config
from fer_scale.pretrain import cost, setup
from fer_scale.pretrain.cost import FP32, Shape
from fer_scale.pretrain.mae import MaskedAutoencoder
from fer_scale.pretrain.recipe import Pretrain
from fer_scale.pretrain.setup import shape_of

CONFIGS = Path(__file__).parents[2] / "configs" / "pretrain"
ONE = Shape(
    width=8, depth=2, patches=16, visible=4, patch_values=12, decoder_width=4, decoder_depth=1
)  # small enough to reckon by hand


def recipe(name: str, *overrides: str) -> Pretrain:
    return config.load(Pretrain, CONFIGS / f"{name}.toml", ["data.shards=none", *overrides])


@pytest.mark.parametrize("name", ["demo", "faces_cpu", "faces_gpu", "vit_small_112", "ssfer_vit_base"])
def test_weights_and_flops_are_those_of_the_model(name: str) -> None:
    rec = recipe(name)
    model, shape = setup.fresh(rec), shape_of(rec)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert (shape.trained, shape.frozen) == (trained, sum(p.numel() for p in model.parameters()) - trained)
    assert sorted(shape.tensors) == sorted(p.numel() for p in model.parameters() if p.requires_grad)
    images, keys = torch.rand(2, 3, rec.model.image_px, rec.model.image_px), torch.arange(2)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(images, keys)
    assert shape.forward_flops() == counter.get_total_flops() / 2


def kept(model: MaskedAutoencoder, px: int, count: int, bf16: bool) -> int:
    """Bytes that a forward pass over so many images keeps for backward, without the model's own."""
    found, held = {}, []
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        model(torch.rand(count, 3, px, px), torch.arange(count)).sum()
    return sum(found.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", ["demo", "faces_cpu", "faces_gpu"])
def test_what_backward_keeps_of_an_image_is_foretold_within_four_percent(name: str, precision: str) -> None:
    rec = recipe(name)
    model, px, bf16 = setup.fresh(rec), rec.model.image_px, precision == "bf16"
    an_image = (kept(model, px, 6, bf16) - kept(model, px, 2, bf16)) / 4  # casts of weights fall out
    assert shape_of(rec).kept(precision) == pytest.approx(an_image, rel=0.04)


def test_recomputed_blocks_keep_their_input_only() -> None:
    rec = recipe("faces_cpu", "run.recompute=true")
    model = setup.fresh(rec).train()
    an_image = (kept(model, 48, 6, False) - kept(model, 48, 2, False)) / 4
    assert shape_of(rec).kept("fp32", recompute=True) == pytest.approx(an_image, rel=0.07)


def memory(stage: int, ranks: int, **changes: Any) -> cost.Memory:
    given = {"micro": 1, "precision": "fp32", "recompute": False, "bucket": ONE.trained, "overlap": False} | changes
    return cost.memory(ONE, stage=stage, ranks=ranks, **given)


def test_states_are_sharded_as_zero_says() -> None:
    """ZeRO, Figure 1, for fp32: 16 bytes a weight at stage 0; then the optimizer's over the ranks, at last all."""
    n = ONE.trained

    def states(stage: int, ranks: int) -> float:
        m = memory(stage, ranks)
        return m.weights + m.optimizer - FP32 * ONE.frozen / (ranks if stage == 3 else 1)

    assert states(0, 1) == states(0, 64) == 12 * n
    assert states(1, 64) == states(2, 64) == 4 * n + 12 * n / 64  # masters, too, which DeepSpeed copies
    assert states(3, 64) == 16 * n / 64


def test_gradients_and_activations_are_not_all_there_at_once() -> None:
    """Held against the memory of real ranks, within 15 % at each stage (tests/benchmarks/memory.py)."""
    n, small, large = FP32 * ONE.trained, memory(0, 1, micro=0), memory(0, 1, micro=1000)
    assert small.gradients == 2 * n and small.total == 5 * n + FP32 * ONE.frozen
    assert large.total == large.weights + large.optimizer + large.activations
    assert memory(1, 2, micro=0).total == (1 + 1.5 + 1 + 1) * n + FP32 * ONE.frozen  # one bucket and a flat copy
    assert memory(2, 2, micro=0, overlap=True).total == (1 + 1.5 + 2 + 1) * n + FP32 * ONE.frozen
    assert memory(3, 2, micro=0).total == (0.5 + 1.5 + 1.5 + 2) * n + FP32 * ONE.frozen / 2
    kept_for_more = memory(1, 2, accumulation=2)
    assert kept_for_more.activations == memory(1, 2).activations + n


def test_a_ring_sends_twice_the_weights_and_zero_half_as_much_again() -> None:
    """Counted at the network cards of two and four hosts: 1.00 of it (tests/benchmarks/scaling.py)."""
    n = FP32 * ONE.trained
    sent = {s: cost.wire_bytes(ONE, stage=s, ranks=4, accumulation=1) for s in range(4)}
    assert sent == {0: 1.5 * n, 1: 2.25 * n, 2: 2.25 * n, 3: 1.5 * n}
    assert cost.wire_bytes(ONE, stage=3, ranks=4, accumulation=1, gloo=True) == 2.25 * n
    assert cost.wire_bytes(ONE, stage=2, ranks=4, accumulation=3) == 7 * 0.75 * n
    assert cost.wire_bytes(ONE, stage=3, ranks=4, accumulation=3) == 6 * 0.75 * n
    assert cost.wire_bytes(ONE, stage=3, ranks=1, accumulation=3) == 0
    halved = [cost.wire_bytes(ONE, stage=s, ranks=4, accumulation=1, gradient=2) for s in range(4)]
    assert halved == [0.75 * n, 1.5 * n, 1.5 * n, 1.125 * n], "the weights go on travelling in fp32"


def test_collectives_are_those_that_deepspeed_makes() -> None:
    """Counted at each stage on two ranks of faces_cpu.toml, with what World.agree asks: 93 gathers at stage 3."""
    shape = shape_of(recipe("faces_cpu"))
    found = [cost.traffic(shape, stage=s, ranks=2, accumulation=1, bucket=shape.trained, gloo=True) for s in range(4)]
    assert [(t.reduces, t.gathers) for t in found] == [(2, 0), (4, 2), (4, 2), (4, 93)]
    often = cost.traffic(shape, stage=2, ranks=2, accumulation=3, bucket=shape.trained // 2)
    assert (often.reduces, often.gathers) == (3 * 2 + 3, 2)


def seconds(sent: float, *, ranks: int, node: int, reduces: int = 0, gathers: int = 0, **given: Any) -> float:
    links = {"link": 1.0, "network": 1.0, "link_latency_s": 0.0, "network_latency_s": 0.0, "call_s": 0.0} | given
    device = replace(cost.DEVICES["h100"], **links)
    return cost.wire_s(cost.Traffic(sent, reduces, gathers), device, ranks=ranks, node=node)


def test_the_slower_kind_of_link_decides_and_one_rank_waits_for_nobody() -> None:
    assert seconds(1e9, ranks=1, node=8, reduces=1, call_s=1.0) == 0
    inside = seconds(1e9, ranks=8, node=8, link=100e9)
    assert inside == pytest.approx(0.01), "the network between nodes is not used"
    # Two nodes of 8: what leaves a node is 1e9 bytes, over 8 shares of its network.
    assert seconds(1e9, ranks=16, node=8, link=100e9, network=1e9) == pytest.approx(1 / 8 / cost.GOODPUT)
    assert seconds(1e9, ranks=2, node=1, network=1e9) == pytest.approx(1.0 / cost.GOODPUT)


def test_every_collective_takes_its_hops() -> None:
    far = {"network_latency_s": 1.0, "link_latency_s": 0.01}
    assert seconds(0, ranks=4, node=1, gathers=1, **far) == pytest.approx(4)
    assert seconds(0, ranks=4, node=1, reduces=1, gloo=True, **far) == pytest.approx(8)
    assert seconds(0, ranks=64, node=8, reduces=1, **far) == pytest.approx(2 * (3 + 0.07)), "NCCL's tree"
    assert seconds(0, ranks=8, node=8, gathers=3, call_s=0.5, **far) == pytest.approx(3 * (0.07 + 0.5))


def test_traffic_hides_behind_backward_where_it_may() -> None:
    hidden = cost.step(compute=0.3, wire=0.1, hidden=0.1, ranks=2, read=0)
    assert hidden.exposed == 0 and hidden.bound == "compute"
    partly = cost.step(compute=0.3, wire=0.9, hidden=0.6, ranks=2, read=0)  # two thirds of computing hide 0.2
    assert partly.exposed == pytest.approx(0.7)
    assert [cost.beside_backward(stage) for stage in range(4)] == [0, pytest.approx(2 / 3), pytest.approx(2 / 3), 1]
    assert cost.beside_backward(2, cost.BF16) == 0.5
    open_ = cost.step(compute=0.3, wire=0.4, hidden=0.0, ranks=2, read=0)
    assert open_.exposed == 0.4 and open_.bound == "network"
    assert cost.step(compute=0.3, wire=0.0, hidden=0.0, ranks=1, read=0.5).bound == "reading"
    assert cost.step(compute=0.3, wire=0.0, hidden=0.0, ranks=1, read=0.5).total == 0.5


def test_the_one_gpu_that_was_measured_has_the_memory_foretold_and_the_rate_that_launching_was_fitted_to() -> None:
    """ViT-S at 48 px on an H100, 2026-11-26: 17.6 to 25.8 thousand images/s, 4.8 GB."""
    rec = recipe("faces_gpu")
    shape = shape_of(rec)
    seconds, launching = cost.compute_s(shape, cost.DEVICES["h100"], micro=1024, precision="bf16")
    assert 17_600 < 1024 / seconds < 25_800 and launching
    found = cost.memory(
        shape, stage=0, ranks=1, micro=1024, precision="bf16", recompute=False, bucket=10, overlap=False
    )
    assert found.total == pytest.approx(4.8e9, rel=0.15)


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA H200", "h200"),
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("NVIDIA L40S", "l40s"),
        ("NVIDIA L40", None),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA GeForce RTX 4090", None),
    ],
)
def test_a_gpu_is_known_by_the_name_of_its_driver(name: str, found: str | None) -> None:
    device = cost.device_called(name)
    assert (device.name if device else None) == found
