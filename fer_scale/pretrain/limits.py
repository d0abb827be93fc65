"""How long each phase of a run may last before it counts as hung: `run.hang_seconds`.

The defaults are for the slowest that is no hang: after a false alarm the run would end at the same place again.

start    shard sets are opened, exclusions applied, the model built and, with model.start_from, its weights fetched
load     a checkpoint is read, hashed and broadcast: the 3.6 GB of a ViT-L take 3 minutes at 20 MB/s
compile  the first step of a process: readers start, a far set's first shards arrive, NCCL connects, torch.compile works
step     4,096 images take a few CPU cores minutes; on GPUs, where a step takes seconds, set less
save     as much as `load`, in the other direction; of the thread that writes beside the steps too
probe    the main rank draws, the others wait
"""

import math

from fer_scale.config import did_you_mean

DEFAULTS = {"start": 600.0, "load": 1200.0, "compile": 1800.0, "step": 600.0, "save": 1200.0, "probe": 300.0}
SAID = " ".join(f"{phase}={limit:g}" for phase, limit in DEFAULTS.items())
BEYOND = 1.5  # times the limit: what comes after the watchdog waits so long; it speaks first, and says more


def of_phases(given: float | tuple[str, ...]) -> dict[str, float]:
    """The limit of each phase in seconds, of a value without `mistakes`."""
    return DEFAULTS | (_listed(given)[0] if isinstance(given, tuple) else dict.fromkeys(DEFAULTS, given))


def mistakes(given: float | tuple[str, ...]) -> list[str]:
    """What is wrong with a value of run.hang_seconds, a line each."""
    found, wrong = _listed(given) if isinstance(given, tuple) else ({"all": given}, [])
    return wrong + [f"hang_seconds: must be above 0, not {limit}" for limit in found.values() if limit <= 0]


def _listed(given: tuple[str, ...]) -> tuple[dict[str, float], list[str]]:
    found, wrong = dict[str, float](), list[str]()
    for entry in given:
        phase, equals, text = entry.partition("=")
        if not equals:
            wrong.append(f"hang_seconds: {entry!r}: write one number for all phases, or a list of PHASE=SECONDS")
        elif phase not in DEFAULTS:
            hint = did_you_mean(phase, DEFAULTS) or f"; one of {', '.join(DEFAULTS)}"
            wrong.append(f"hang_seconds: {phase!r} is no phase{hint}")
        elif phase in found:
            wrong.append(f"hang_seconds: {phase} is given twice")
        else:
            try:
                found[phase] = float(text)
            except ValueError:
                found[phase] = math.nan
            if not math.isfinite(found[phase]):
                wrong.append(f"hang_seconds: {entry}: must be a number of seconds")
    return found, wrong
