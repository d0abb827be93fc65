"""How long `fer-scale --help`, `--version` and each `fer-scale VERB --help` take, and what one line of Python takes.

python tests/benchmarks/help_times.py [--rounds 5]        milliseconds, median over interleaved rounds
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from fer_scale.command_line import ORDER


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    script = [str(Path(sys.executable).with_name("fer-scale"))]
    asked = {"--help": ["--help"], "--version": ["--version"]} | {verb: [verb, "--help"] for verb in ORDER}
    commands = {"python -c pass": [sys.executable, "-c", "pass"]} | {n: script + words for n, words in asked.items()}
    wall: dict[str, list[float]] = {name: [] for name in commands}
    processor: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            before, began = os.times(), time.perf_counter()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
            after = os.times()
            wall[name].append(1000 * (time.perf_counter() - began))
            used = after.children_user + after.children_system - before.children_user - before.children_system
            processor[name].append(1000 * used)
    for name in commands:
        print(f"{name:<16} {median(wall[name]):>6.0f} ms, {median(processor[name]):>4.0f} ms of a processor")


if __name__ == "__main__":
    main()
