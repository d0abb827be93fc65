"""What a rank of `fer-scale check` computes on: a GPU by its maker's sheet, or this machine's processor as measured."""

import os
import time
from collections.abc import Callable
from dataclasses import replace

import torch

from fer_scale.config import ConfigError, did_you_mean
from fer_scale.pretrain import cost
from fer_scale.pretrain.cost import Device

CPU = "cpu"


def asked_for(gpu: str, node: int, network_gbps: float | None) -> Device:
    """What `--gpu` names, one of `node` ranks of a node, whose network is that of the device's sheet if None."""
    if node < 1:
        raise ConfigError(f"--gpus-per-node {node}: a node has at least one rank")
    if gpu == CPU:
        found = _this_cpu(node)
    elif gpu in cost.DEVICES:
        found = cost.DEVICES[gpu]
    else:
        known = [*cost.DEVICES, CPU]
        raise ConfigError(f"--gpu {gpu}: one of {', '.join(known)}{did_you_mean(gpu, known)}")
    if network_gbps is None:
        return found
    if not network_gbps > 0:
        raise ConfigError(f"--network-gbps {network_gbps}: must be above 0")
    return replace(found, network=network_gbps * 1e9 / 8 / node)


def _this_cpu(node: int) -> Device:
    """This machine as one of `node` ranks, by its matrix products and copies: half a second."""
    a, b = torch.rand(512, 512), torch.rand(8, 1 << 20)
    product, moved = _seconds(lambda: a @ a), _seconds(lambda: b.add_(1.0))
    rate, bandwidth = 2 * 512**3 / product, 2 * b.numel() * cost.FP32 / moved
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / node
    call_s = cost.GLOO_S * max(1, node / (os.cpu_count() or 1))
    # Links are assumed: ranks of a node over its memory, nodes by 1 Gbit/s. Nothing waits for a launch.
    return Device(
        CPU, memory, {"fp32": rate / node, "bf16": rate / node}, bandwidth / node, 2e9, 1e9 / 8, 0.0,
        link_latency_s=0.0, network_latency_s=1e-4, call_s=call_s, gloo=True,
    )  # fmt: skip


def _seconds(work: Callable[[], object]) -> float:
    """The quickest of some runs."""
    taken = []
    for _ in range(12):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)
