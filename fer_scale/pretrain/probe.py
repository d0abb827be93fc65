"""What the ranks of `fer-scale doctor` do together: try each part of the cluster as a job would use it.

Started once a rank by whatever will start the job. fitness.py judges what they find.
"""

import json
import os
import select
import signal
import socket
import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from threading import Thread
from typing import Any

import torch

from fer_scale import checkpoint, log
from fer_scale.pretrain import cost, fitness, saving, setup, shared_folder, world
from fer_scale.pretrain.doctor import MARK, read
from fer_scale.pretrain.fitness import Facts, Needs
from fer_scale.pretrain.here import versions
from fer_scale.pretrain.world import World
from shards.errors import UserError

_JOIN_S, _WAIT_S = 120, 60  # for one another: at first, when torch may still be read from a slow disk; then each time
_BROKEN_S = 5  # in which all that are left notice that a collective broke
_WINDOWS, _WINDOW_S = 5, 0.4  # of matrix products


class _Absent(Exception):
    """Ranks did not come to where the others wait."""

    def __init__(self, who: list[int]):
        super().__init__()
        self.who = who


def probe(recipe: Path | None, overrides: list[str], out: Path | None, *, reporting: bool) -> dict[str, Any] | None:
    """The report, on the rank that speaks for all; None on the others. `reporting`: in lines, to what started us."""
    try:
        needs = _needs(recipe, overrides, out)
    except UserError:
        if world.another_rank_speaks():
            raise SystemExit(2) from None
        raise
    if reporting:
        Thread(target=_end_unheard, daemon=True).start()
        _tell("came", {"host": socket.gethostname(), "device": world.device_name()})
    us = world.join(_JOIN_S)
    us.limit_waiting(_WAIT_S)
    party = _Party(us, reporting)
    try:
        report = _report(party, needs)
        us.leave()
    except _Absent as absent:
        report = party.lost(absent.who)
    except RuntimeError as error:  # a collective broke, or took too long
        report = party.broken(str(error))
    if not reporting:
        return report
    for key, value in (report or {}).items():
        for item in value if isinstance(value, list) else [value]:
            _tell(key, item)
    if report:
        _tell("end", None)
    return None


def _tell(key: str, value: Any) -> None:
    """One line in one piece: ranks write beside one another, and pdsh cuts long lines."""
    os.write(sys.stdout.fileno(), f"{MARK}{json.dumps({key: value})}\n".encode())


def _end_unheard() -> None:
    """End this rank once nobody reads what it says: the doctor that started it is gone, and others want its port."""
    hearer = select.poll()
    hearer.register(sys.stdout.fileno(), 0)  # for nothing but its end
    hearer.poll()
    os.kill(os.getpid(), signal.SIGINT)  # Python clears up, unless a collective keeps it
    time.sleep(_BROKEN_S)
    os._exit(1)


def _needs(recipe: Path | None, overrides: list[str], out: Path | None) -> Needs | None:
    """None where neither a recipe nor --out says which folder the job will write to."""
    if not (rec := read(recipe, overrides, out)):
        return Needs(str(out)) if out else None
    run, shape = rec.run, setup.shape_of(rec)
    there, most = len(checkpoint.complete(run.out)), setup.most_kept(rec, run.steps or 0)
    return Needs(
        str(run.out),
        checkpoint_gb=cost.saved(shape) / 1e9,
        checkpoints=max(1, most - there),
        uncounted=bool(run.keep_every_steps and not run.steps),
        writers=saving.most_writers(shape.trained + shape.frozen),
        grace_s=run.grace_s,
    )


@dataclass
class _Party:
    """All ranks, on their way through the parts."""

    us: World
    reporting: bool
    hosts: list[str] = field(default_factory=list)  # of each rank
    doing: str = "meeting"
    parts: int = 0

    def meet(self, what: str, value: Any = None) -> list[Any]:
        """Say what comes next, wait until all ranks are here, and give what each of them brought."""
        if self.us.is_main:
            _tell("doing", what) if self.reporting else log.say(what)
        self.parts, self.doing = self.parts + 1, what
        if who := self.us.absent(f"doctor/{self.parts}", _WAIT_S):
            raise _Absent(who)
        return self.us.collect(value)

    def lost(self, who: list[int], error: str = "") -> dict[str, Any] | None:
        """The report where these ranks are not heard of any more: the first of the others gives it."""
        if self.us.rank != min(set(range(self.us.ranks)) - set(who)):
            return None
        names = [f"rank {rank} on {self.hosts[rank]}" if self.hosts else f"rank {rank}" for rank in who]
        where = f"{fitness.few(names)} not heard of any more" if who else error
        return {"hosts": [], "notes": [], "findings": [f"{self.doing}: {where}"]}

    def broken(self, error: str) -> dict[str, Any] | None:
        """The report where a collective broke, or took too long."""
        try:
            return self.lost(self.us.absent("doctor/broken", _BROKEN_S), error)
        except RuntimeError:  # rank 0 keeps the list of who is there; of each host one of the others tells
            if self.hosts and self.us.rank != min({*self.of_host[self.hosts[self.us.rank]]} - {0}, default=0):
                return None
            where = f"rank 0 on {self.hosts[0]}" if self.hosts else "rank 0"
            return {"hosts": [], "notes": [], "findings": [f"{self.doing}: {where} is not heard of any more"]}

    @property
    def of_host(self) -> dict[str, list[int]]:
        """The ranks of each host."""
        found: dict[str, list[int]] = {}
        for rank, host in enumerate(self.hosts):
            found.setdefault(host, []).append(rank)
        return found


def _report(party: _Party, needs: Needs | None) -> dict[str, Any] | None:
    """What rank 0 says of all."""
    us = party.us
    came = party.meet("meeting", (socket.gethostname(), uuid.uuid4().hex[:8]))
    party.hosts, trial = [host for host, _ in came], came[0][1]
    host = party.hosts[us.rank]
    first = party.of_host[host][0] == us.rank  # of its host
    stamps = _stamps(party)
    party.meet("matrix products on every rank")
    tflops = _tflops(us.device)
    all_reduce = _all_reduce(party)
    before = _moved_bytes()
    links, sent = _links(party)
    party.meet("counting what the network moved")
    moved = {name: count - before.get(name, 0) for name, count in _moved_bytes().items()}
    folder = None
    if needs:
        folder = shared_folder.look(Path(needs.out), host if first else None, trial, party.meet, is_main=us.is_main)
    mine = Facts(
        rank=us.rank, host=host, device=world.device_name(), cores=len(os.sched_getaffinity(0)), versions=versions(),
        tflops=tflops, stamps=stamps, links=links, sent_bytes=sent, moved_bytes=moved if first else {}, folder=folder,
    )  # fmt: skip
    facts = party.meet("judging", mine)
    if not us.is_main:
        return None
    found = {"findings": fitness.findings(facts, needs), "notes": fitness.notes(facts, needs)}
    return {"hosts": fitness.rows(facts), "all_reduce": all_reduce} | found


def _stamps(party: _Party) -> list[float]:
    """This rank's clock at some moments that all share: they leave a barrier together, to a millisecond or so."""
    party.meet("clocks")
    stamps = []
    for _ in range(9):
        party.us.agree(0)
        stamps.append(time.time())
    return stamps


def _tflops(device: torch.device) -> float:
    """TFLOP/s of matrix products, of some windows the median: what passes within a second is no fault of the host.

    Counted over a window, not by the product: a host that is held back every tenth of a second is slow.
    """
    size, dtype = (8192, torch.bfloat16) if device.type == "cuda" else (512, torch.float32)
    a = torch.rand(size, size, device=device, dtype=dtype)
    rates = []
    for _ in range(1 + _WINDOWS):
        products, began = 0, time.perf_counter()
        while (taken := time.perf_counter() - began) < _WINDOW_S:
            _seconds(lambda: a @ a, device)
            products += 1
        rates.append(products / taken)
    return median(rates[1:]) * 2 * size**3 / 1e12  # clocks rise under load


def _all_reduce(party: _Party) -> dict[str, Any] | None:
    """Time and rate of the sum of many numbers and of one over all ranks; None for one that is alone."""
    us = party.us
    if us.ranks == 1:
        return None
    mb = 128 if us.device.type == "cuda" else 16
    party.meet(f"all-reduce of {mb} MB")
    many, one = torch.ones(mb << 18, device=us.device), torch.ones(1, device=us.device)

    def seconds(values: torch.Tensor) -> float:
        """Of as many runs as take half a second, at most 50, all ranks alike."""
        _seconds(lambda: us.add_up(values), us.device)
        [first_us] = us.agree(round(1e6 * _seconds(lambda: us.add_up(values), us.device)))
        runs = max(1, min(50, 500_000 // max(1, first_us)))
        return median(_seconds(lambda: us.add_up(values), us.device) for _ in range(runs))

    large, small = seconds(many), seconds(one)
    sent = 2 * (us.ranks - 1) / us.ranks * (mb << 20)  # of each rank, over a ring
    return {
        "ranks": us.ranks, "mb": mb, "ms": 1e3 * large, "gbit_per_s": 8 * sent / large / 1e9, "latency_us": 1e6 * small,
    }  # fmt: skip


def _links(party: _Party) -> tuple[dict[str, tuple[float, float]], int]:
    """(Gbit/s each way, microseconds) with the rank of the same number on the two neighbour hosts; bytes sent."""
    us, hosts = party.us, list(party.of_host)
    links, sent = dict[str, tuple[float, float]](), 0
    for number, pairs in enumerate(fitness.rounds(len(hosts))):
        party.meet(f"exchanges between neighbours, round {number + 1}")
        for a, b in pairs:
            for mine, theirs in zip(party.of_host[hosts[a]], party.of_host[hosts[b]], strict=False):
                if us.rank in (mine, theirs):
                    there = hosts[b] if us.rank == mine else hosts[a]
                    rate, latency, count = _exchange(us, theirs if us.rank == mine else mine)
                    links[there], sent = (rate, latency), sent + count
    return links, sent


def _exchange(us: World, peer: int) -> tuple[float, float, int]:
    """Gbit/s each way, microseconds of one number, and bytes sent in all."""
    size, runs = (64 << 20, 8) if us.device.type == "cuda" else (8 << 20, 4)
    many, one = (torch.zeros(2, count, dtype=torch.uint8, device=us.device) for count in (size, 1))
    small = [_seconds(lambda: us.exchange(one[0], one[1], peer), us.device) for _ in range(30)]
    large = [_seconds(lambda: us.exchange(many[0], many[1], peer), us.device) for _ in range(runs)]
    return 8 * size / min(large) / 1e9, 1e6 * median(small), runs * size


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    began = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def _moved_bytes() -> dict[str, int]:
    """In and out since the start of this host, by network interface.

    What goes over InfiniBand passes the kernel by: with NCCL_DEBUG=INFO, NCCL names the cards that it uses.
    """
    found = {}
    for line in Path("/proc/net/dev").read_text().splitlines()[2:]:
        name, _, counts = line.partition(":")
        found[name.strip()] = int(counts.split()[0]) + int(counts.split()[8])
    return found
