"""What a step of pre-training takes: weights, arithmetic, memory, traffic and time. Pure: numbers in, numbers out.

Sources: "ZeRO" is Rajbhandari et al. 2020 (arXiv 1910.02054), sections 5 and 7; collectives are counted as over a ring
(Patarasuk and Yuan 2009). Parameters, FLOPs and what backward keeps are tested against the model itself. Time is a
model: a device's roofline with the efficiencies below, of which only the host's is measured, at one point
(tests/benchmarks/pretrain_gpu.py, 2026-11-26).

Units: bytes, FLOPs, seconds. One multiply-add is two FLOPs.
"""

from dataclasses import dataclass
from math import log, sqrt

MATMUL = 0.6  # share of the peak that matrix products of a ViT's sizes reach (assumed; 0.8 at 8192, measured)
BANDWIDTH = 0.8  # share of the memory's peak that elementwise kernels reach (assumed)
PASSES = 4  # how often what backward keeps moves through memory: written, read, and the same for gradients (assumed)
LAUNCH_S = 3.4e-3  # of the host, a block and micro-batch: fitted to faces_gpu.toml on an H100 with slow cores
STRAGGLING = 0.02  # deviation of a rank's step time, as a share of it (assumed)
DECODE_S, DECODE_PIXEL_S = 25e-6, 7e-9  # of one core, an image and its pixels: 113 us for 112 px (README, reading)
FP32, BF16 = 4, 2


@dataclass(frozen=True, slots=True)
class Shape:
    """A masked autoencoder; letters as in mae.py."""

    width: int  # D
    depth: int
    patches: int  # N
    visible: int  # V
    patch_values: int  # P
    decoder_width: int  # E
    decoder_depth: int

    @property
    def blocks(self) -> int:
        return self.depth + self.decoder_depth

    @property
    def trained(self) -> int:
        """Weights with a gradient."""
        d, e, p = self.width, self.decoder_width, self.patch_values
        encoder = (p * d + d) + d + self.depth * _block_weights(d) + 2 * d
        return encoder + (d * e + e) + e + self.decoder_depth * _block_weights(e) + 2 * e + (e * p + p)

    @property
    def frozen(self) -> int:
        """Positions."""
        return (self.patches + 1) * (self.width + self.decoder_width)

    def forward_flops(self) -> int:
        """Of one image, in matrix products."""
        d, e, n, p = self.width, self.decoder_width, self.patches, self.patch_values
        seen, every = self.visible + 1, n + 1  # with the class token
        encoder = 2 * n * p * d + self.depth * _block_flops(seen, d)
        return encoder + 2 * seen * d * e + self.decoder_depth * _block_flops(every, e) + 2 * every * e * p

    def step_flops(self, recompute: bool = False) -> int:
        """Of one image, forward and backward: backward is two forward passes."""
        seen, every = self.visible + 1, self.patches + 1
        again = self.depth * _block_flops(seen, self.width)
        again += self.decoder_depth * _block_flops(every, self.decoder_width)
        return 3 * self.forward_flops() + (again if recompute else 0)

    def kept(self, precision: str, recompute: bool = False) -> int:
        """Bytes that one image's forward pass keeps for its backward pass, without what is the same for all images."""
        d, e, pixels = self.width, self.decoder_width, self.patches * self.patch_values
        seen, every = self.visible + 1, self.patches + 1
        a = BF16 if precision == "bf16" else FP32  # of what matrix products take and give
        # timm's block: the inputs of two norms in fp32; what qkv and fc1 take; q, k, v; attention's output; four widths
        # before GELU and after it. With recompute its own input.
        token = FP32 if recompute else 2 * FP32 + 14 * a
        blocks = token * (self.depth * seen * d + self.decoder_depth * every * e)
        # Around them: two last norms and what follows each, which patches are visible (int64), prediction and error.
        return blocks + (FP32 + a) * (seen * d + every * e) + 8 * self.visible * d + (2 * FP32 + a) * pixels


def _block_weights(width: int) -> int:
    return 12 * width**2 + 13 * width


def _block_flops(tokens: int, width: int) -> int:
    """Of a transformer block: qkv, projection, a perceptron of four times the width; attention's two products."""
    return 24 * tokens * width**2 + 4 * tokens**2 * width


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one rank."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    buffers: float

    @property
    def total(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations + self.buffers


def memory(
    shape: Shape, *, stage: int, ranks: int, micro: float, precision: str, recompute: bool, bucket: int, overlap: bool
) -> Memory:
    """Of one rank. `bucket` is ZeRO's reduce_bucket_size in elements, `overlap` its overlap_comm (ZeRO section 5)."""
    own = 1 / ranks
    weights = FP32 * (shape.trained * (own if stage == 3 else 1) + shape.frozen)
    gradients = FP32 * shape.trained * (own if stage >= 2 else 1)
    masters = FP32 * shape.trained * own if stage else 0.0  # DeepSpeed copies a rank's part of the weights, in fp32 too
    optimizer = masters + 2 * FP32 * shape.trained * (own if stage else 1)
    casts = BF16 * shape.trained if precision == "bf16" else 0  # autocast keeps its copies through a forward pass
    flat = FP32 * bucket * (2 if overlap and stage else 1)
    buffers = casts + (flat if ranks > 1 or stage else 0)
    return Memory(weights, gradients, optimizer, micro * shape.kept(precision, recompute), buffers)


@dataclass(frozen=True, slots=True)
class Device:
    """What a rank computes on, by its maker's sheet; rates in units a second."""

    name: str
    memory: float
    flops: dict[str, float]  # by precision, without sparsity
    bandwidth: float
    link: float  # to another device of the node, one way
    network: float  # of its share of the node's network, one way; clusters differ
    launch_s: float = LAUNCH_S


DEVICES = {
    device.name: device
    for device in (
        Device("h100", 80e9, {"bf16": 989e12, "fp32": 67e12}, 3.35e12, 450e9, 50e9),
        Device("h200", 141e9, {"bf16": 989e12, "fp32": 67e12}, 4.8e12, 450e9, 50e9),
        Device("a100", 80e9, {"bf16": 312e12, "fp32": 19.5e12}, 2.0e12, 300e9, 25e9),
        Device("l40s", 48e9, {"bf16": 362e12, "fp32": 91.6e12}, 0.86e12, 32e9, 12.5e9),
    )
}


def device_called(name: str) -> Device | None:
    """The device that its driver calls so, as "NVIDIA H100 80GB HBM3"."""
    words = name.lower().replace("-", " ").split()
    if {"pcie", "nvl", "mig"} & set(words):  # slower cards of the name, and parts of one
        return None
    return next((device for key, device in DEVICES.items() if key in words), None)


def wire_bytes(shape: Shape, *, stage: int, ranks: int, accumulation: int) -> float:
    """What each rank sends in a step (and receives): gradients and weights in fp32 over a ring (ZeRO section 7).

    At stages 1 and 2 DeepSpeed 0.19 reduces gradients to all ranks, ZeRO to their owners: half as much again.
    """
    once = FP32 * shape.trained * (ranks - 1) / ranks
    if stage == 3:
        return 3 * accumulation * once  # weights gathered for each pass, gradients scattered
    return 2 * (accumulation if stage == 2 else 1) * once + (once if stage else 0)


def wire_s(sent: float, *, ranks: int, node: int, link: float, network: float, latency: float = 20e-6) -> float:
    """The time of a step's traffic: that of the slower kind of link. `node` is the ranks of a node.

    A node's share of a ring leaves it once, over all of its network; so per rank 1 / `node` of what it sends does.
    """
    if ranks == 1:
        return 0.0
    nodes = -(-ranks // node)
    outside = sent / (network * min(node, ranks)) if nodes > 1 else 0.0
    return max(outside, sent / link if node > 1 else 0.0) + 2 * (ranks - 1) * latency


@dataclass(frozen=True, slots=True)
class Step:
    """Seconds of one optimizer step of all ranks."""

    compute: float
    wire: float
    exposed: float  # what of the wire nothing hides
    read: float  # what the readers of a rank take
    straggling: float
    launching: bool  # computing waits for the host

    @property
    def total(self) -> float:
        return max(self.compute + self.exposed + self.straggling, self.read)

    @property
    def bound(self) -> str:
        """What would have to become faster."""
        if self.read > self.compute + self.exposed + self.straggling:
            return "reading"
        if self.exposed > self.compute:
            return "network"
        return "launching" if self.launching else "compute"


def compute_s(
    shape: Shape, device: Device, *, micro: float, precision: str, recompute: bool = False
) -> tuple[float, bool]:
    """Of one micro-batch: matrix products, then what moves through memory; or (True) the host's launching of it all."""
    products = micro * shape.step_flops(recompute) / (MATMUL * device.flops[precision])
    moved = PASSES * micro * shape.kept(precision) / (BANDWIDTH * device.bandwidth)
    launching = device.launch_s * shape.blocks
    return max(products + moved, launching), launching > products + moved


def step(*, compute: float, wire: float, overlap: bool, ranks: int, read: float, launching: bool = False) -> Step:
    """`overlap`: traffic goes on during backward, which is two thirds of computing."""
    exposed = max(0.0, wire - 2 / 3 * compute) if overlap else wire
    # The expected largest of so many normal deviates (an upper bound).
    straggling = STRAGGLING * compute * sqrt(2 * log(ranks)) if ranks > 1 else 0.0
    return Step(compute, wire, exposed, read, straggling, launching)


def decode_s(width_px: float, height_px: float) -> float:
    """Of one core, to read and decode an image."""
    return DECODE_S + DECODE_PIXEL_S * width_px * height_px
