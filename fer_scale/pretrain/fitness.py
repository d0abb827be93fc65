"""Whether a cluster is fit for a job, by what its ranks found: plain values in, sentences out. `doctor` prints them.

A finding is something to be mended before the job; a note is something to know.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from statistics import median, median_high
from typing import Any

from fer_scale import log

SLOW, SLOW_LINK = 0.8, 0.6  # of the usual rate, below which a host is named; networks vary more
OFF_S = 1.0  # of a clock; what was written first in the logs of two hosts can no longer be told
_CARRIES = 0.05  # of a host's traffic, from which an interface is named


@dataclass(frozen=True, slots=True, kw_only=True)
class Folder:
    """run.out, as the first rank of a host finds it."""

    problem: str = ""
    unseen: list[str] = field(default_factory=list)  # hosts that wrote there what this one does not read
    fsync_mb_per_s: float = 0.0  # while all hosts write
    free_gb: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What one rank found. What is of its host, only the host's first rank has."""

    rank: int
    host: str
    device: str
    cores: int
    versions: dict[str, str]
    tflops: float
    stamps: list[float]  # its clock at moments that all ranks share, in seconds
    links: dict[str, tuple[float, float]] = field(default_factory=dict)  # neighbour: Gbit/s each way, microseconds
    sent_bytes: int = 0  # to neighbours
    moved_bytes: dict[str, int] = field(default_factory=dict)  # of the host, meanwhile, by the kernel's interfaces
    folder: Folder | None = None


@dataclass(frozen=True, slots=True)
class Needs:
    """What a recipe wants of its folder."""

    out: str
    checkpoint_gb: float | None = None  # one of them; None: there is no recipe
    checkpoints: int = 0  # at most at once, beside those that are there
    uncounted: bool = False  # whether others will stay for good, nobody knows yet how many
    writers: int = 1  # so many ranks, the first ones, share in writing it
    grace_s: float = 0.0


def findings(facts: list[Facts], needs: Needs | None) -> list[str]:
    """What is to be mended, each with its host. `facts` are in the order of the ranks."""
    firsts = first_ranks(facts)
    found = [*unlike(_each(firsts, lambda f: {"device": f.device} | f.versions))]
    found += _slow(facts, lambda f: f.tflops, SLOW, "computes", "TFLOP/s", "another job, a limit or heat slows it")
    if len(firsts) > 2:  # of two hosts, either may be the slow one
        linked = [f for f in facts if f.links]
        found += _slow(linked, _best_link, SLOW_LINK, "exchanges", "Gbit/s", "see its card, cable and switch port")
    found += _clocks(firsts)
    if needs:
        found += _folder(firsts, needs)
        found += _writing(facts, needs)
    return found


def first_ranks(facts: list[Facts]) -> list[Facts]:
    """Of each host."""
    return list({f.host: f for f in reversed(facts)}.values())[::-1]


def unlike(by_host: dict[str, dict[str, str]]) -> Iterator[str]:
    """One sentence for each thing of which the hosts have different ones."""
    for name in next(iter(by_host.values()), {}):
        values: dict[str, list[str]] = {}
        for host, has in by_host.items():
            values.setdefault(has.get(name, "none"), []).append(host)
        if len(values) > 1:
            usual_first = sorted(values.items(), key=lambda pair: -len(pair[1]))
            yield f"{name} is not the same: " + "; ".join(f"{v} on {few(hosts)}" for v, hosts in usual_first)


def _each(firsts: list[Facts], get: Callable[[Facts], dict[str, str]]) -> dict[str, dict[str, str]]:
    return {f.host: get(f) for f in firsts}


def _slow(
    facts: list[Facts], rate: Callable[[Facts], float], limit: float, does: str, unit: str, why: str
) -> Iterator[str]:
    """Hosts with ranks below `limit` of the usual rate, which is one of the better half: so one of two is named."""
    if not facts:
        return
    usual = median_high(map(rate, facts))
    slow: dict[str, list[Facts]] = {}
    for f in facts:
        if rate(f) < limit * usual:
            slow.setdefault(f.host, []).append(f)
    for host, ranks in slow.items():
        least = min(map(rate, ranks))
        some = "" if len(ranks) == sum(f.host == host for f in facts) else f" ({ranks_of(f.rank for f in ranks)})"
        yield f"{host}{some} {does} at {least / usual:.0%} of the usual rate, {least:.3g} of {usual:.3g} {unit}: {why}"


def _best_link(f: Facts) -> float:
    """Gbit/s with the better neighbour: the other one's link may be slow through no fault of this host."""
    return max(gbit for gbit, _ in f.links.values())


def offsets_s(firsts: list[Facts]) -> dict[str, float]:
    """How far each host's clock is ahead: of most, or where there are two, of the first one's."""
    ahead = {f.host: median(a - b for a, b in zip(f.stamps, firsts[0].stamps, strict=True)) for f in firsts}
    usual = median(ahead.values()) if len(firsts) > 2 else 0.0
    return {host: seconds - usual for host, seconds in ahead.items()}


def _clocks(firsts: list[Facts]) -> Iterator[str]:
    whose = "most others'" if len(firsts) > 2 else f"that of {firsts[0].host}"
    for host, seconds in offsets_s(firsts).items():
        if abs(seconds) > OFF_S:
            way = "ahead of" if seconds > 0 else "behind"
            yield (
                f"{host}: its clock is {abs(seconds):,.1f} s {way} {whose}: logs of the hosts cannot be set side by "
                "side, and servers refuse requests from another time; start NTP there"
            )


def _folder(firsts: list[Facts], needs: Needs) -> Iterator[str]:
    looked = [(f.host, f.folder) for f in firsts if f.folder]
    for host, folder in looked:
        if folder.problem:
            yield f"{host}: {needs.out}: {folder.problem}"
        elif folder.unseen:
            yield f"{host}: {needs.out}: what {few(folder.unseen)} wrote there cannot be read"
    good = [(host, folder) for host, folder in looked if not folder.problem]
    if not good or needs.checkpoint_gb is None:
        return
    host, least = min(good, key=lambda pair: pair[1].free_gb)
    wanted = needs.checkpoints * needs.checkpoint_gb
    if least.free_gb < wanted:
        yield (
            f"{needs.out}: {least.free_gb:,.1f} GB are free there (seen from {host}), and the checkpoints still take "
            f"{wanted:,.1f} GB: {needs.checkpoints} of {needs.checkpoint_gb:,.1f} GB; free some, or keep fewer: "
            "run.keep_checkpoints, run.keep_every_steps"
        )


def _writing(facts: list[Facts], needs: Needs) -> Iterator[str]:
    """Whether a checkpoint is written in time: each of the writers has an equal share, those of a host its rate."""
    writing = [f.host for f in facts if f.rank < needs.writers]
    took = []
    for f in first_ranks(facts):
        if needs.checkpoint_gb and f.host in writing and f.folder and f.folder.fsync_mb_per_s:
            gb = needs.checkpoint_gb * writing.count(f.host) / len(writing)
            took.append((1e3 * gb / f.folder.fsync_mb_per_s, f.host, gb, f.folder.fsync_mb_per_s))
    seconds, host, gb, rate = max(took, default=(0.0, "", 0.0, 0.0))
    if seconds > needs.grace_s:
        yield (
            f"{needs.out}: a checkpoint of {needs.checkpoint_gb:,.1f} GB takes {seconds:,.0f} s to write, {gb:,.1f} GB "
            f"of it by {host} at {rate:,.0f} MB/s, more than run.grace_s = {needs.grace_s:g}: a stop could be cut off "
            "before it is saved"
        )


def notes(facts: list[Facts], needs: Needs | None) -> list[str]:
    """What one should know: what was not looked at, and over what the hosts talk."""
    blind = [] if needs else ["no folder was looked at: give the job's RECIPE, or --out DIR"]
    if needs and needs.uncounted:
        blind.append(
            "run.keep_every_steps: the room for what stays for good was not counted: how many that are, run.steps "
            "would tell, and run.epochs does not"
        )
    return blind + _network(facts)


def _network(facts: list[Facts]) -> list[str]:
    firsts = first_ranks(facts)
    if len(firsts) < 2:
        return ["one host only: nothing is known of a network"]
    by_host = {f.host: carriers(f, sum(g.sent_bytes for g in facts if g.host == f.host)) for f in firsts}
    said = [f"the hosts talk over {line}" for line in dict.fromkeys(by_host.values())]
    if len(said) > 1:
        names = dict.fromkeys(by_host.values())
        each = "; ".join(f"{name} on {few([h for h in by_host if by_host[h] == name])}" for name in names)
        return [f"the hosts talk over different interfaces: {each}; INTERFACE=NAME says which (launch/README.md)"]
    return said


def carriers(first: Facts, sent_bytes: int) -> str:
    """The network interfaces over which a host's traffic with its neighbours went, as far as its kernel sees it."""
    moved = {name: count for name, count in first.moved_bytes.items() if name != "lo"}
    total = sum(moved.values())
    if total < sent_bytes / 2:
        return "what the kernel does not count, as InfiniBand (NCCL_DEBUG=INFO names it)"
    return " ".join(sorted(name for name, count in moved.items() if count >= _CARRIES * total))


def rows(facts: list[Facts]) -> list[dict[str, Any]]:
    """What the table says of each host: of its ranks, the slowest."""
    found, ahead = [], offsets_s(first_ranks(facts))
    for first in first_ranks(facts):
        ranks = [f for f in facts if f.host == first.host]
        links = [(_best_link(f), min(us for _, us in f.links.values())) for f in ranks if f.links]
        folder = first.folder if first.folder and not first.folder.problem else None
        found.append({
            "host": first.host,
            "ranks": len(ranks),
            "device": first.device,
            "cores": first.cores,
            "tflops": min(f.tflops for f in ranks),
            "network": carriers(first, sum(f.sent_bytes for f in ranks)) if links else None,
            "gbit_per_s": min(gbit for gbit, _ in links) if links else None,
            "latency_us": max(us for _, us in links) if links else None,
            "clock_s": ahead[first.host],
            "fsync_mb_per_s": folder.fsync_mb_per_s if folder else None,
            "free_gb": folder.free_gb if folder else None,
            "versions": first.versions,
        })  # fmt: skip
    return found


_COLUMNS = (  # title, key, format
    ("host", "host", ""),
    ("ranks", "ranks", ""),
    ("device", "device", ""),
    ("cores", "cores", ""),
    ("TFLOP/s a rank", "tflops", ",.3g"),
    ("network", "network", ""),
    ("Gbit/s a rank", "gbit_per_s", ",.3g"),
    ("us", "latency_us", ",.0f"),
    ("clock, s", "clock_s", "+,.3f"),
    ("fsync MB/s", "fsync_mb_per_s", ",.0f"),
    ("free GB", "free_gb", ",.1f"),
)


def told(report: dict[str, Any], *, as_json: bool) -> bool:
    """Whether the cluster is fit; prints the report."""
    log.print_json(report) if as_json else print("\n".join(table(report)))
    return not report["findings"]


def table(report: dict[str, Any]) -> list[str]:
    """The lines of a report, a row for each host, then what is amiss."""
    cells = [[title for title, _, _ in _COLUMNS]]
    for row in report["hosts"]:
        cells.append(["-" if row[key] is None else format(row[key], form) for _, key, form in _COLUMNS])
    wide = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ["  ".join(map(str.ljust, line, wide)).rstrip() for line in cells] if report["hosts"] else []
    if reduced := report.get("all_reduce"):
        lines.append(
            f"all-reduce over {reduced['ranks']} ranks: {reduced['mb']:,.0f} MB in {reduced['ms']:,.1f} ms "
            f"({reduced['gbit_per_s']:,.3g} Gbit/s a rank), one number in {reduced['latency_us']:,.0f} us"
        )
    lines += [f"note     {text}" for text in report["notes"]]
    lines += [f"amiss    {text}" for text in report["findings"]]
    return [*lines, "not fit: see what is amiss" if report["findings"] else "fit"]


def rounds(hosts: int) -> list[list[tuple[int, int]]]:
    """The pairs of neighbours in a ring of so many hosts, in rounds in which no host stands twice."""
    if hosts < 3:
        return [[(0, 1)]] if hosts == 2 else []
    pairs = [(a, (a + 1) % hosts) for a in range(hosts)]
    last = [pairs.pop()] if hosts % 2 else []
    return [part for part in (pairs[::2], pairs[1::2], last) if part]


def ranks_of(numbers: Any) -> str:
    """`rank 3`, `ranks 3, 4`, and of many the first ones."""
    some = [str(n) for n in numbers]
    return ("rank " if len(some) == 1 else "ranks ") + few(some)


def few(names: list[str]) -> str:
    """The first eight names, and how many more there are."""
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
