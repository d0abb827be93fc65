"""Who this process is among its peers, and the few things that they do together.

The one file that reads RANK, WORLD_SIZE and their like, and that talks to torch.distributed.
"""

import os
import socket
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from fer_scale.peers import not_met

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import deepspeed


@dataclass(frozen=True, slots=True)
class World:
    """`rank` of `ranks`; methods must be called by all ranks together, in one order."""

    rank: int
    ranks: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def host(self) -> str:
        return socket.gethostname()

    @property
    def name(self) -> str:
        return f"rank {self.rank} on {self.host}"

    def agree(self, *flags: int) -> list[int]:
        """The largest value of each flag over all ranks: the one place a step where they agree."""
        together = torch.tensor(flags, dtype=torch.int64, device=self.device)
        dist.all_reduce(together, op=dist.ReduceOp.MAX)
        return together.tolist()

    def sum(self, *values: Tensor) -> list[float]:
        """The sum of each value over all ranks."""
        total = torch.stack([value.detach() for value in values])
        dist.all_reduce(total)
        return total.tolist()

    def collect(self, value: Any) -> list[Any]:
        """What every rank has, in the order of the ranks."""
        everything: list[Any] = [None] * self.ranks
        dist.all_gather_object(everything, value)
        dist.barrier()  # as in `tell`
        return everything

    def tell(self, value: Any, *, of: int = 0) -> Any:
        """What rank `of` has."""
        box = [value]
        dist.broadcast_object_list(box, src=of, device=self.device)
        # Who ends now, with an error that all were told, would do so while gloo's thread lets go of what was sent: that
        # thread asks for the interpreter, which is ending, and aborts the process.
        dist.barrier()
        return box[0]

    def broadcast(self, tensor: Tensor, *, of: int) -> Tensor:
        """Rank `of`'s tensor, on the CPU; the others give an empty one of its shape."""
        moved = tensor.to(self.device)
        dist.broadcast(moved, src=of)
        return moved.cpu()

    def spread(self, values: Tensor, *, of: int) -> None:
        """Have rank `of`'s values in the tensors of all the others, in place."""
        dist.broadcast(values, src=of)

    def add_up(self, values: Tensor) -> None:
        """Sum over all ranks, in place."""
        dist.all_reduce(values)

    def exchange(self, mine: Tensor, theirs: Tensor, peer: int) -> None:
        """Send `mine` to rank `peer` and fill `theirs` with what it sends: only these two call it."""
        both = [dist.P2POp(dist.isend, mine, peer), dist.P2POp(dist.irecv, theirs, peer)]
        for work in dist.batch_isend_irecv(both):
            work.wait()

    def absent(self, place: str, seconds: float) -> list[int]:
        """The ranks that have not come to `place`, a name used once, within so many seconds; no collective is used."""
        store = dist.distributed_c10d._get_default_store()
        store.set(f"{place}/{self.rank}", "")
        come, end = store.add(place, 1), time.monotonic() + seconds
        while come < self.ranks and time.monotonic() < end:
            time.sleep(0.02)
            come = store.add(place, 0)
        return [] if come == self.ranks else [r for r in range(self.ranks) if not store.check([f"{place}/{r}"])]

    def limit_waiting(self, seconds: float) -> None:
        """No collective waits longer. DeepSpeed's own `timeout` does not reach the groups that it clones."""
        for group in dist.distributed_c10d._world.pg_map:
            if hasattr(dist, "set_timeout"):
                dist.set_timeout(timedelta(seconds=seconds), group)
            else:  # torch before 2.14
                dist.distributed_c10d._set_pg_timeout(timedelta(seconds=seconds), group)

    def record_flight(self, file: Path) -> None:
        """Where NCCL itself writes down this rank's last collectives when it gives up (TORCH_FR_BUFFER_SIZE of them).

        It puts the rank's number behind the name.
        """
        for name in ("TORCH_FR_DUMP_TEMP_FILE", "TORCH_NCCL_DEBUG_INFO_TEMP_FILE"):  # of torch 2.14, and before
            os.environ[name] = str(file)

    def flight(self) -> bytes:
        """The same now, for `torchfrtrace`; empty without a GPU."""
        recorder = torch._C._distributed_c10d
        dump = getattr(recorder, "_dump_fr_trace", None) or getattr(recorder, "_dump_nccl_trace", None)
        return dump() if dump and self.device.type == "cuda" else b""

    def leave(self) -> None:
        dist.barrier()
        dist.destroy_process_group()


def join(seconds: float) -> World:
    """Meet the other ranks, whoever launched us: deepspeed, torchrun, srun, mpirun, or nobody (then we are alone).

    They wait so long for one another, also in collectives until `limit_waiting` is called. Broken where one is missing.
    """
    _name_ourselves()
    # DeepSpeed calls collectives by names that torch has renamed, at every step, and torch says so every time.
    warnings.filterwarnings("ignore", message=r"`torch.distributed.\w+` is deprecated", category=FutureWarning)
    on_gpu = has_gpu()
    if on_gpu:
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
        torch.cuda.set_device(device)
    else:
        os.environ["DS_ACCELERATOR"] = "cpu"
        device = torch.device("cpu")
        # DeepSpeed would compile this op for over a minute, and hang for ever on the lock of a killed build; it serves
        # only inference.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    try:
        deepspeed.init_distributed("nccl" if on_gpu else "gloo", timeout=timedelta(seconds=seconds), verbose=False)
    except RuntimeError as error:  # gloo has no type for it
        raise not_met(error) from error
    return World(dist.get_rank(), dist.get_world_size(), device)


@contextmanager
def timed_collectives() -> Iterator[list[float]]:
    """After it, the seconds that DeepSpeed's collectives inside took; each is waited for, none overlaps."""
    comm, seconds = deepspeed.comm.comm, list[float]()
    deepspeed.comm.configure(enabled=True, prof_all=True)
    try:
        yield seconds
    finally:
        deepspeed.comm.configure(enabled=False)
    # Not what its log says: there, each time has those before it in it.
    seconds += [timer.elapsed() / 1000 for timer in comm.timers.get_timers().values()]
    comm.comms_logger.comms_dict.clear()


def lost_peer(error: Exception) -> bool:
    """Whether a collective failed: gloo has no type for it."""
    said = str(error)
    return isinstance(error, dist.DistError) or "/gloo/" in said or "Connection closed by peer" in said


def has_gpu() -> bool:
    """Whether this process computes on one."""
    return torch.cuda.is_available() and os.environ.get("DS_ACCELERATOR") != "cpu"


def device_name() -> str:
    """Of the device that a process here computes on: "cpu", or as NVIDIA calls its card."""
    return torch.cuda.get_device_name() if has_gpu() else "cpu"


def another_rank_speaks() -> bool:
    """Before `join`: whether rank 0 of this launch says what all ranks would say alike."""
    _name_ourselves()
    return os.environ["RANK"] != "0"


def is_alone() -> bool:
    """Before `join`: whether there is no other rank."""
    _name_ourselves()
    return os.environ["WORLD_SIZE"] == "1"


def meeting() -> str:
    """Before `join`: how many are to meet, and where."""
    _name_ourselves()
    return f"{os.environ['WORLD_SIZE']} ranks at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"


def own_name() -> str:
    """Before `join`: what World.name says after it."""
    _name_ourselves()
    return f"rank {os.environ['RANK']} on {socket.gethostname()}"


_LAUNCHERS = (  # rank, number of ranks, rank on this node
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    (
        "SLURM_PROCID",
        "SLURM_STEP_NUM_TASKS",
        "SLURM_LOCALID",
    ),  # srun; a batch shell has SLURM_NTASKS but no step of its own
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
)


def _name_ourselves() -> None:
    """Set RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT from whatever the launcher gave."""
    env = os.environ
    for rank, ranks, local in _LAUNCHERS:
        if rank in env and ranks in env:
            names = {"RANK": env[rank], "WORLD_SIZE": env[ranks], "LOCAL_RANK": env.get(local, "0")}
            break
    else:
        names = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    alone = names["WORLD_SIZE"] == "1"
    if "MASTER_ADDR" not in env:
        names["MASTER_ADDR"] = "127.0.0.1" if alone else _first_host()
    if "MASTER_PORT" not in env:
        names["MASTER_PORT"] = str(_free_port()) if alone else "29500"
    env.update(names)


def _first_host() -> str:
    if nodes := os.environ.get("SLURM_STEP_NODELIST"):
        listed = subprocess.run(["scontrol", "show", "hostnames", nodes], capture_output=True, text=True, check=True)
        return listed.stdout.split()[0]
    return "127.0.0.1"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
