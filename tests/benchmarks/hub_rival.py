"""Publishing and pulling while things fail: this program beside plain calls of huggingface_hub, on the same schedules.

    python tests/benchmarks/hub_rival.py                  # 300 schedules of faults each (tests/hub/schedules.py)
    python tests/benchmarks/hub_rival.py --only ours --first 50 --schedules 50 --at-once 4 --show

Every schedule has a process, a server and a cache of its own, and all time limits are those that users have: one that
has not ended after 120 s is a hang. The rival is what the documentation shows: create_repo, upload_folder,
create_tag, snapshot_download.

Of 300 schedules (2026-11-27, two slow cores, huggingface_hub 2.4) ours ended whole and right in 299 and with a plain
error in one; the rival in 122, with 4 silent corruptions, and 51 had not ended after 120 s.
"""

import argparse
import json
import logging
import multiprocessing
import os
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

sys.path.extend([str(Path(__file__).parents[1]), str(Path(__file__).parents[2])])  # `hub` is tests/hub
from hub.client import WRITER, point_at
from hub.schedules import REPO, TAG, Outcome, play, summary
from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.utils import disable_progress_bars

from fer_scale import artifact, hub, hub_client

LIMIT_S = 120.0
SILENCE_S, PATIENCE_S, WAIT_S = hub_client.SILENCE_S, hub_client.PATIENCE_S, hub_client.WAIT_S


def ours(number: int, place: Path) -> Outcome:
    def publish(folder: Path) -> str:
        artifact.seal(folder)
        return hub.push(folder, f"hf://{REPO}@{TAG}", message="release")

    def pull(cache: Path) -> Path:
        return hub.pull(f"hf://{REPO}@{TAG}").folder

    return _play(number, place, publish, pull, hub.HubError)


def plain(number: int, place: Path) -> Outcome:
    def publish(folder: Path) -> None:
        artifact.seal(folder)
        api = HfApi()
        api.create_repo(REPO, exist_ok=True)
        api.upload_folder(repo_id=REPO, folder_path=folder, commit_message="release")
        api.create_tag(REPO, tag=TAG, exist_ok=True)

    def pull(cache: Path) -> Path:
        return Path(snapshot_download(REPO, revision=TAG))

    return _play(number, place, publish, pull, Exception)


def _play(number: int, place: Path, publish: object, pull: object, errors: type[Exception]) -> Outcome:
    def use(server: object) -> None:
        point_at(server, place / "cache", setattr)
        hub_client.SILENCE_S, hub_client.PATIENCE_S, hub_client.WAIT_S = SILENCE_S, PATIENCE_S, WAIT_S

    os.environ |= {"HF_TOKEN": WRITER, "HF_XET_CACHE": str(place.with_suffix(".xet"))}
    place.mkdir()
    return play(number, place, use, publish, pull, errors=errors, silence_s=SILENCE_S, limit_s=LIMIT_S)


def _child(side: str, number: int, place: Path, answer: Path) -> None:
    outcome = {"ours": ours, "plain": plain}[side](number, place)
    answer.write_text(json.dumps(asdict(outcome)))
    os._exit(0)  # whatever hangs


def _all(side: str, numbers: range, at_once: int, scratch: Path) -> list[Outcome]:
    """Every schedule in a process of its own, so many at once."""
    fork = multiprocessing.get_context("fork")
    running: list[multiprocessing.Process] = []
    files = {number: scratch / f"{side}{number}.json" for number in numbers}
    for number, file in files.items():
        while len(running := [process for process in running if process.is_alive()]) >= at_once:
            time.sleep(0.05)
        running.append(fork.Process(target=_child, args=(side, number, scratch / f"{side}{number}", file)))
        running[-1].start()
    for process in running:
        process.join()
    return [Outcome(**json.loads(file.read_text())) for file in files.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--schedules", type=int, default=300)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--at-once", type=int, default=12)
    parser.add_argument("--only", choices=("ours", "plain"))
    parser.add_argument("--show", action="store_true", help="every schedule that did not end whole and right")
    args = parser.parse_args()
    disable_progress_bars()
    logging.disable(logging.WARNING)
    for side in ("ours", "plain"):
        if args.only in (None, side):
            with tempfile.TemporaryDirectory() as scratch:
                numbers = range(args.first, args.first + args.schedules)
                outcomes = _all(side, numbers, args.at_once, Path(scratch))
            print(json.dumps({"side": side} | summary(outcomes)), flush=True)
            for outcome in outcomes:
                if args.show and (outcome.error or outcome.wrong):
                    print(f"    {outcome}", flush=True)


if __name__ == "__main__":
    main()
