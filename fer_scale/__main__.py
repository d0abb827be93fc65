"""The command line: fer-scale VERB ... What may be typed stands in command_line.py.

A user's mistake ends in one message and exit code 2, a machine's failure after which the same command may help in one
message and 75 (EX_TEMPFAIL of sysexits.h, which launch/node.sh starts again); our own bug shows its traceback, with 1.
"""

import errno
import io
import os
import select
import sys
from argparse import Namespace
from contextlib import suppress

from fer_scale import command_line
from fer_scale.command_line import VERBS
from fer_scale.verbs import PROBLEM
from shards.errors import PASSING, UserError, exit_code

EXIT_MISTAKE, EXIT_INTERRUPTED = PROBLEM, 130
_RUNS = ("pretrain", "finetune", "demo")  # none is done because nobody reads what it says
_NO_ROOM, _NO_RIGHT = (errno.ENOSPC, errno.EDQUOT), (errno.EACCES, errno.EPERM, errno.EROFS)
_WAYS_OUT = {
    **dict.fromkeys(_NO_ROOM, "make room there, or write to another disk"),
    **dict.fromkeys(_NO_RIGHT, "you may not do that there; choose another place, or change its rights"),
    errno.ENOENT: "look at the path",
    errno.ENOTDIR: "a file is where a folder is needed; give another path",
    errno.EISDIR: "a folder is where a file is needed; give another path",
    errno.ENAMETOOLONG: "too long for a path; are these several, in quotes?",
    errno.ELOOP: "its links lead in a circle; give another path",
    errno.EEXIST: "something else is there already; give another path",
    **dict.fromkeys(PASSING, "look after the disk, or the network before it; the same command may help then"),
}


def main(argv: list[str] | None = None) -> int:
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of files may be no text, or none of this terminal's
        with suppress(OSError):  # a pipe that was a file before does not know its place; that comes last
            sys.stdout.reconfigure(errors="backslashreplace")
    args, code = command_line.parse(VERBS, argv), 0
    try:
        code = args.run(args) or 0
        print(end="", flush=True)  # here, where a broken pipe is understood
        return code
    except UserError as error:
        if args.debug:
            raise
        return _mistake(args, str(error), exit_code(error))
    except BrokenPipeError:  # `fer-scale show SET | head`
        if args.verb in _RUNS or not _nobody_reads_on():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return code
    except OSError as error:
        if args.debug or error.errno not in _WAYS_OUT:
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _mistake(args, f"{where}{error.strerror}; {_WAYS_OUT[error.errno]}", exit_code(error))
    except KeyboardInterrupt:
        return _mistake(args, "interrupted; the same command goes on or starts anew", EXIT_INTERRUPTED)


def _nobody_reads_on() -> bool:
    """Whether stdout is a pipe whose reader is gone; another pipe that breaks is a failure."""
    pipe = select.poll()
    pipe.register(1, 0)
    return any(events & select.POLLERR for _, events in pipe.poll(0))


def _mistake(args: Namespace, text: str, code: int = EXIT_MISTAKE) -> int:
    print(f"fer-scale {args.verb}: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
