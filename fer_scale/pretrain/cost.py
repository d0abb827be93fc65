"""What a step of pre-training takes: weights, arithmetic, memory, traffic and time. Pure: numbers in, numbers out.

Sources: "ZeRO" is Rajbhandari et al. 2020 (arXiv 1910.02054), sections 5 and 7; "DeepSpeed" is 0.19.8, files of its
runtime/zero; collectives are counted as over a ring (Patarasuk and Yuan 2009). Parameters, FLOPs and what backward
keeps are tested against the model itself; memory and traffic were held against real ranks of this machine's kind
(tests/benchmarks/memory.py, scaling.py). The time of a GPU is a model: a roofline with the efficiencies below, of which
only the host's is no assumption: it was inferred from one run (tests/benchmarks/pretrain_gpu.py, 2026-11-26).

Units: bytes, FLOPs, seconds. One multiply-add is two FLOPs.
"""

from dataclasses import dataclass
from math import ceil, log, log2, sqrt

MATMUL = 0.6  # share of the peak that matrix products of a ViT's sizes reach (assumed; 0.8 at 8192, measured)
BANDWIDTH = 0.8  # share of the memory's peak that elementwise kernels reach (assumed)
PASSES = 4  # how often what backward keeps moves through memory: written, read, and the same for gradients (assumed)
LAUNCH_S = 3.4e-3  # of the host, a block and micro-batch: fitted to faces_gpu.toml on an H100 with slow cores
GOODPUT = 0.95  # share of a network's rate that is payload: TCP over Ethernet, 1,448 of 1,526 bytes
STRAGGLING = 0.02  # deviation of a rank's step time, as a share of it (assumed)
DECODE_S, DECODE_PIXEL_S = 25e-6, 7e-9  # of one core, an image and its pixels: 113 us for 112 px (README, reading)
GLOO_S = 1.7e-3  # of slow cores, a collective by gloo: fitted to two ranks at stage 3, 1 Gbit/s (scaling.py, 97 a step)
FP32, BF16 = 4, 2
PERSISTENT = 100_000  # weights of a tensor that stage 3 keeps whole between steps: DeepSpeed's default and zero3.json's
PREFETCH = 50_000_000  # weights that stage 3 gathers at once: DeepSpeed's default
REUSE = 1_000_000_000  # weights that stage 3 passes before it frees what it will use again: DeepSpeed's default


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
    def tensors(self) -> list[int]:
        """The sizes of the trained parameters, those of the blocks first."""
        d, e, p = self.width, self.decoder_width, self.patch_values
        blocks = self.depth * _block_tensors(d) + self.decoder_depth * _block_tensors(e)
        return [*blocks, p * d, d, d, d, d, d * e, e, e, e, e, e * p, p]

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


def _block_tensors(width: int) -> list[int]:
    """Four matrices and the biases; two norms."""
    return [width**2 * times for times in (3, 1, 4, 4)] + [width * times for times in (3, 1, 4, 1, 1, 1, 1, 1)]


def _block_flops(tokens: int, width: int) -> int:
    """Of a transformer block: qkv, projection, a perceptron of four times the width; attention's two products."""
    return 24 * tokens * width**2 + 4 * tokens**2 * width


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one rank. `activations` and `gradients` are never whole at once."""

    weights: float  # of its own
    gradients: float  # when backward ends, and the copies that are reduced then
    optimizer: float  # fp32 masters, which DeepSpeed copies in fp32 too, and Adam's two moments
    activations: float  # when forward ends, with what else is there then only
    buffers: float  # throughout

    @property
    def total(self) -> float:
        """The most at once."""
        return self.weights + self.optimizer + self.buffers + max(self.activations, self.gradients)


def memory(
    shape: Shape, *, stage: int, ranks: int, micro: float, precision: str, recompute: bool, bucket: int, overlap: bool,
    accumulation: int = 1,
) -> Memory:  # fmt: skip
    """Of one rank. `bucket` is ZeRO's reduce_bucket_size in weights, `overlap` its overlap_comm (ZeRO section 5).

    Held against RSS of 1, 2 and 4 ranks (tests/benchmarks/memory.py). Lines are DeepSpeed's.
    """
    whole, own, flat = FP32 * shape.trained, FP32 * shape.trained / ranks, FP32 * min(bucket, shape.trained)
    casts = BF16 * shape.trained if precision == "bf16" else 0  # autocast's, which backward needs
    forward = micro * shape.kept(precision, recompute) + casts
    left = forward * (1 - flat / whole)  # of it when the first bucket is full
    part = own if flat < whole or accumulation > 1 else 0.0  # gradients reduced before
    if stage == 0:
        forward += whole if accumulation > 1 else 0
        return Memory(whole + FP32 * shape.frozen, 2 * whole, 2 * whole, forward, 0.0)  # engine.py, allreduce_bucket
    if stage == 3:
        # stage3.py:782 and 791: bucket and partition of the gradients. Gathered weights stay for backward; what was
        # received stays until the last of it is used in forward (partition_parameters.py:795 copies each out). A bucket
        # is copied to be scattered, and gloo takes a copy as well.
        gathered = whole * min(1, REUSE / (2 * shape.trained)) if ranks > 1 else 0.0
        received = FP32 * min(PREFETCH, shape.trained) if ranks > 1 else 0.0
        backward = 2 * flat + left + gathered * (1 - flat / whole)
        kept = own + FP32 * shape.frozen / ranks
        return Memory(kept, backward, 3 * own, forward + gathered + received, own + flat)
    # stage_1_and_2.py:3266 and 3275: buckets, from the start of backward; 2367: a flat copy of what is reduced.
    buffers = flat * (2 if overlap else 1)
    if stage == 1:
        forward, backward = forward + (whole if accumulation > 1 else 0), max(whole, flat + part)
    else:
        backward = part + flat + left
    return Memory(whole + FP32 * shape.frozen, backward, 3 * own, forward, buffers)


def saved(shape: Shape) -> int:
    """Bytes of a checkpoint, of which the writers' hosts keep a copy: 381 MB where 383 are foretold (test_check.py)."""
    return FP32 * (3 * shape.trained + shape.frozen)


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
    # Of a hop: NCCL's own (2.19, graph/tuning.cc, hwLat of Simple). Of the host's for a collective: assumed.
    link_latency_s: float = 4e-6
    network_latency_s: float = 14e-6
    call_s: float = 1e-4
    gloo: bool = False  # all-reduces over a ring, not NCCL's tree, also for a reduce-scatter


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


@dataclass(frozen=True, slots=True)
class Traffic:
    """What each rank does with the others in a step."""

    sent: float  # bytes, and as many received
    reduces: int  # collectives that go twice around the ring
    gathers: int  # once


def wire_bytes(
    shape: Shape, *, stage: int, ranks: int, accumulation: int, gradient: int = FP32, gloo: bool = False
) -> float:
    """What each rank sends in a step (and receives): gradients of so many bytes and fp32 weights (ZeRO section 7).

    At stages 1 and 2 DeepSpeed reduces gradients to all ranks, ZeRO to their owners: half as much again. At stage 3 it
    keeps what forward gathered for backward, of a model of up to half REUSE: a third less than ZeRO.
    """
    share = shape.trained * (ranks - 1) / ranks
    if stage == 3:
        gathers = 2 - min(1, REUSE / (2 * shape.trained))
        return accumulation * share * (gathers * FP32 + (2 if gloo else 1) * gradient)
    return share * (2 * gradient * (accumulation if stage == 2 else 1) + (FP32 if stage else 0))


def traffic(
    shape: Shape, *, stage: int, ranks: int, accumulation: int, bucket: int, gradient: int = FP32, gloo: bool = False
) -> Traffic:
    """Of one rank and step, counted on two ranks at each stage. `bucket` is ZeRO's reduce_bucket_size."""
    sent = wire_bytes(shape, stage=stage, ranks=ranks, accumulation=accumulation, gradient=gradient, gloo=gloo)
    small = 1 if stage == 0 else 3  # what World.agree asks; the gradient's norm and whether it is finite
    buckets = -(-shape.trained // bucket) * (accumulation if stage >= 2 else 1)
    if stage < 3:
        return Traffic(sent, buckets + small, 2 if stage else 0)  # of matrices and of what does not decay
    sizes = [*shape.tensors, *((shape.patches + 1) * width for width in (shape.width, shape.decoder_width))]
    single = sum(size <= PERSISTENT for size in sizes)  # gathered one by one after a step (stage3.py:2841)
    together = accumulation * -(-sum(size for size in sizes if size > PERSISTENT) // PREFETCH)
    return Traffic(sent, small + (buckets if gloo else 0), single + together + (0 if gloo else buckets))


def wire_s(load: Traffic, device: Device, *, ranks: int, node: int) -> float:
    """The time of a step's traffic: bytes over the slower kind of link, hops, and the host's part of each collective.

    `node` is the ranks of a node. Its share of a ring leaves it once, over all of its network; so per rank 1 / `node`
    of what it sends does.
    """
    if ranks == 1:
        return 0.0
    nodes = -(-ranks // node)
    outside = load.sent / (GOODPUT * device.network * min(node, ranks)) if nodes > 1 else 0.0
    moving = max(outside, load.sent / device.link if node > 1 else 0.0)
    far, near = device.network_latency_s, device.link_latency_s
    around = nodes * far + (ranks - nodes) * near if nodes > 1 else (ranks - 1) * near
    up = around if device.gloo else ceil(log2(nodes)) * far + (min(node, ranks) - 1) * near
    hops = load.reduces * 2 * up + load.gathers * around
    return moving + hops + (load.reduces + load.gathers) * device.call_s


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


def beside_backward(stage: int, gradient: int = FP32) -> float:
    """The share of the traffic that DeepSpeed's overlap_comm lets go on beside backward.

    At stages 1 and 2 not the weights, which are gathered after the optimizer's step.
    """
    return {0: 0.0, 3: 1.0}.get(stage, 2 * gradient / (2 * gradient + FP32))


def step(*, compute: float, wire: float, hidden: float, ranks: int, read: float, launching: bool = False) -> Step:
    """`hidden`: what of the wire backward may hide, which is two thirds of computing."""
    exposed = wire - min(hidden, 2 / 3 * compute)
    # The expected largest of so many normal deviates (an upper bound).
    straggling = STRAGGLING * compute * sqrt(2 * log(ranks)) if ranks > 1 else 0.0
    return Step(compute, wire, exposed, read, straggling, launching)


def decode_s(width_px: float, height_px: float) -> float:
    """Of one core, to read and decode an image."""
    return DECODE_S + DECODE_PIXEL_S * width_px * height_px
