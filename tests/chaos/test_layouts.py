"""One run over 1, 2, 4, 3 and 1 ranks and ZeRO 1, 3, 2, 0 and 1, stopped and killed in between: one curve, and every
sample of an epoch once."""

import time
from collections.abc import Callable
from pathlib import Path

from disturbed import HERE, Life
from runs import layout

from fer_scale import log
from shards.index import ShardSet

Lives = Callable[..., Life]
STEPS, BATCH = 22, 22  # epochs of 110 images, of which an order leaves none out: 22 lanes of 5


def test_ranks_and_stages_change_and_the_curve_and_the_samples_stay(life: Lives, faces: Path, tmp_path: Path) -> None:
    given = [f"run.steps={STEPS}", f"batch.size={BATCH}"]
    peace, run = life("peace", *given), life("run", *given, driver=str(HERE / "recording.py"))
    peace.go(layout(tmp_path, 0), ranks=1)
    for number, (ranks, stage, until, how) in enumerate(
        [(1, 1, 5, "stopped"), (2, 3, 10, "killed"), (4, 2, 15, "stopped"), (3, 0, 20, "killed"), (1, 1, STEPS, "done")]
    ):
        record = {"RECORD": str(tmp_path), "START": str(number)}
        stop = [f"run.stop_after_steps={until}"] if how == "stopped" else []
        started = run.start(layout(tmp_path, stage), *stop, ranks=ranks, **record)
        if how == "killed":
            end = time.monotonic() + 100
            while max(run.losses, default=0) < until and time.monotonic() < end:
                time.sleep(0.005)
            started.kill()
            assert max(run.losses) < STEPS, "the kill came too late to prove anything"
            continue
        run.ended(started)
        assert run.codes == [0] * ranks, run.said
    assert run.outcome["outcome"] == "done"
    assert list(run.losses) == list(range(1, STEPS + 1))
    apart = [abs(a - b) for a, b in zip(run.losses.values(), peace.losses.values(), strict=True)]
    print(f"{max(apart):.1e} from the uninterrupted curve")
    assert max(apart) < 1e-5
    read = samples(tmp_path)
    images = sum(ShardSet.open(faces).counts)
    assert len(read) == STEPS * BATCH
    for first in range(0, len(read) - images, images):
        assert sorted(read[first : first + images]) == list(range(images)), "every sample of the epoch once"


def samples(folder: Path) -> list[int]:
    """The ids in the order of steps and ranks; what was read again after a kill counts as it was read last."""
    read: dict[int, list[int]] = {}
    for number in range(5):
        of_start: dict[int, list[int]] = {}
        for file in sorted(folder.glob(f"{number}-*.jsonl")):
            for row in log.rows(file):
                of_start.setdefault(row["step"], []).extend(row["ids"])
        read |= of_start
    return [sample for step in sorted(read) for sample in read[step]]
