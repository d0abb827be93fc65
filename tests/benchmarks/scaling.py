"""What cost.py foretells of traffic and time, against hosts of one rank each, joined by links of a given rate.

    python tests/benchmarks/scaling.py OUT --set SHARDS [--ranks 2] [--stages 0 1 2 3] [--mbit 1000 100]

Hosts are namespaces of this machine (root, iproute2, openssh-server), links are shaped with tc. Computing is measured
first: as many ranks at the same time, each alone with its share of the batch. A row tells the bytes that a host sent in
a step (its network card's counter) and the time of a step, each as measured, as foretold, and the quotient.

Measured (2026-11-26, two slow cores, 192x6x6 with 3 M weights, two ranks): sent 1.00 to 1.01 of what is foretold at
every stage; a step 1.05 to 1.17 at stages 0 to 2 (1 Gbit/s and 100 Mbit/s), at stage 3 1.25 at 100 Mbit/s and 1.72 at
1 Gbit/s, where gathering each small layer costs more than its bytes: that is not in the model.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "tests" / "launch"))
from hosts import Host, Hosts, Running, call  # noqa: E402

from fer_scale import config, log  # noqa: E402
from fer_scale.pretrain import cost  # noqa: E402
from fer_scale.pretrain.recipe import Pretrain  # noqa: E402
from fer_scale.pretrain.setup import shape_of  # noqa: E402

RECIPE = "configs/pretrain/faces_cpu.toml"
LINES = 5  # of the log, after the first, a step each where links are slow
STEPS = 4  # in a line


def shape_link(host: Host, mbit: int) -> None:
    """Nothing leaves the host faster."""
    limit = f"tc qdisc replace dev eth0 root tbf rate {mbit}mbit burst 256kb latency 500ms"
    call("nsenter", f"--target={host.pid}", "--net", *limit.split())


def sent(host: Host) -> int:
    """Bytes that have left the host."""
    table = Path(f"/proc/{host.pid}/net/dev").read_text()
    [line] = [line for line in table.splitlines() if "eth0:" in line]
    return int(line.split(":")[1].split()[8])


def start(host: Host, out: Path, rank: int, ranks: int, batch: int, stage: int, given: str) -> Running:
    """One rank of a run, whose folder is `out`."""
    keys = [f"data.shards={given}", f"run.out={out}", f"batch.size={batch}", f"batch.micro={batch}", "data.workers=0"]
    keys += [f"run.log_every_steps={STEPS}", "run.checkpoint_every_steps=1000000", "run.steps=1000000"]
    keys += [f"run.deepspeed=configs/deepspeed/zero{stage}.json"]
    main = {"MASTER_ADDR": "10.77.0.1" if ranks > 1 else "127.0.0.1", "MASTER_PORT": "29517"}
    here = {"RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_RANK": "0", "OMP_NUM_THREADS": "1"}
    network = {"GLOO_SOCKET_IFNAME": "eth0", "DS_ACCELERATOR": "cpu"} if ranks > 1 else {"DS_ACCELERATOR": "cpu"}
    words = [sys.executable, "-m", "fer_scale", "pretrain", RECIPE, *keys]
    return host.run(out.parent / f"{out.name}-said{rank}", *words, **main, **here, **network)


def measured(runs: list[Running], outs: list[Path], hosts: Hosts, batch: int) -> tuple[float, float]:
    """Seconds of a step, and bytes that a host sent in it; ends the ranks."""
    counts: list[tuple[int, int]] = []  # lines of the log so far, bytes sent by the first host
    until = time.monotonic() + 240
    while len(counts) < LINES + 1:
        if time.monotonic() > until or any(run.process.poll() is not None for run in runs):
            raise SystemExit(f"a rank did not come so far:\n{runs[0].said[-2000:]}")
        lines = min(len(log.rows(out / "metrics.jsonl")) for out in outs)
        if lines > (counts[-1][0] if counts else 0):
            counts.append((lines, sent(hosts[0])))
        time.sleep(0.01)
    rates = [row["images_per_s"] for out in outs for row in log.rows(out / "metrics.jsonl")[1 : LINES + 1]]
    for number, host in enumerate(hosts.hosts):
        host.kill()
        hosts.restart(number)
    steps = (counts[-1][0] - counts[0][0]) * STEPS
    return batch / statistics.median(rates), (counts[-1][1] - counts[0][1]) / steps


def row(hosts: Hosts, out: Path, stage: int, mbit: int, compute: float, args: argparse.Namespace) -> dict[str, Any]:
    """A run at one stage over links of one rate, beside what was foretold."""
    for host in hosts.hosts:
        shape_link(host, mbit)
    folder = out / f"stage{stage}-{mbit}"
    runs = [start(hosts[r], folder, r, args.ranks, args.batch, stage, args.set) for r in range(args.ranks)]
    seconds, wire = measured(runs, [folder], hosts, args.batch)
    rec = config.load(Pretrain, ROOT / RECIPE, ["data.shards=none"])
    foretold = cost.wire_bytes(shape_of(rec), stage=stage, ranks=args.ranks, accumulation=1)
    on_wire = cost.wire_s(foretold, ranks=args.ranks, node=1, link=1, network=mbit * 1e6 / 8)
    step = cost.step(compute=compute, wire=on_wire, overlap=False, ranks=args.ranks, read=0)
    return {
        "stage": stage,
        "mbit": mbit,
        "sent_mb": wire / 1e6,
        "sent_mb_foretold": foretold / 1e6,
        "sent_quotient": wire / foretold,
        "step_ms": 1e3 * seconds,
        "step_ms_foretold": 1e3 * step.total,
        "step_quotient": seconds / step.total,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--set", required=True)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--stages", type=int, nargs="+", default=[0, 1, 2, 3])
    parser.add_argument("--mbit", type=int, nargs="+", default=[1000, 100])
    args = parser.parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as etc:
        hosts = Hosts(Path(etc), [f"node{number}" for number in range(args.ranks)])
        try:
            share = args.batch // args.ranks
            outs = [out / f"alone{r}" for r in range(args.ranks)]
            alone = [start(hosts[r], outs[r], 0, 1, share, 0, args.set) for r in range(args.ranks)]
            compute, _ = measured(alone, outs, hosts, share)
            print(f"{args.ranks} ranks, each alone with {share} images: {1e3 * compute:.0f} ms a step", flush=True)
            rows = []
            for stage in args.stages:
                for mbit in args.mbit:
                    rows.append(row(hosts, out, stage, mbit, compute, args))
                    print(json.dumps({k: round(v, 3) for k, v in rows[-1].items()}), flush=True)
        finally:
            hosts.end()
    (out / "scaling.json").write_text(json.dumps({"compute_s": compute, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
