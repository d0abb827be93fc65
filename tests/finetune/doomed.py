"""fer-scale finetune, but something happens to this process at a moment: DOOM says what, AT when, DOOMED to which rank.

    killed        SIGKILL at the AT-th moment: a step, or an operation on a file of the run folder
    counted       nothing; how many moments there were is said at the end
    SIGTERM       (or another) that signal, in step AT
    stop          a person makes RUN/stop, in step AT
    full          no room is left on the disk of the file BALLAST, from step AT on
    loss          the loss of step AT is not a number; loss!: from step AT on
    gradient      one value of its gradient, and no loss
    teacher       what the teacher answers in step AT is no number

APART is a folder with a folder for each rank, in which it works.
"""

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from fer_scale.__main__ import main
from fer_scale.finetune import facemix, loop, steps

DOOM, AT = os.environ.get("DOOM", ""), int(os.environ.get("AT", 0))
DOOMED = os.environ.get("DOOMED", "0") == os.environ.get("RANK", "0")
OUT = next(word.partition("=")[2] for word in sys.argv if word.startswith("run.out="))
gradients, losses, teach, fsync = loop._gradients, facemix.losses, steps.teach, os.fsync
moments, poisoned = 0, ""


def moment() -> None:
    global moments
    moments += 1
    if DOOM == "killed" and moments == AT:
        os.kill(os.getpid(), signal.SIGKILL)


def audited(event: str, args: tuple[Any, ...]) -> None:
    if event not in ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir"):
        return
    if event == "open" and not (isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)):
        return
    file = str(args[0])
    if event in ("os.remove", "os.rmdir") and args[1] not in (None, -1):
        file = f"{os.readlink(f'/proc/self/fd/{args[1]}')}/{file}"
    if file.startswith(OUT):
        moment()


def flushed(fd: int) -> None:
    moment()
    fsync(fd)


def doomed_gradients(run: loop.Run, *parts: Any) -> Any:
    global poisoned
    moment()
    now = run.step + 1
    if DOOM.startswith("SIG") and now == AT:
        os.kill(os.getpid(), getattr(signal, DOOM))
    if DOOM == "stop" and now == AT:
        Path(OUT, "stop").touch()
    if DOOM == "full" and now == AT:
        ballast = Path(os.environ["BALLAST"])
        with ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(ballast.parent).free)
    poisoned = DOOM.rstrip("!") if now == AT or (now > AT and DOOM.endswith("!")) else ""
    found = gradients(run, *parts)
    if poisoned == "gradient":
        next(p for p in run.student.parameters() if p.grad is not None).grad.view(-1)[7] = float("nan")  # type: ignore
    return found


def doomed_losses(*args: Any, **words: Any) -> torch.Tensor:
    return losses(*args, **words) * (float("nan") if poisoned == "loss" else 1.0)


def doomed_teach(*args: Any) -> torch.Tensor:
    return teach(*args) * (float("nan") if poisoned == "teacher" else 1.0)


if __name__ == "__main__":
    if DOOMED:
        sys.addaudithook(audited)
        os.fsync, loop._gradients = flushed, doomed_gradients
        facemix.losses, steps.teach = doomed_losses, doomed_teach
    if "APART" in os.environ:  # each process has a folder of its own under the name run.out
        os.chdir(f"{os.environ['APART']}/rank{os.environ['RANK']}")
    code = main()
    print(f"moments: {moments}", flush=True)
    sys.exit(code)
