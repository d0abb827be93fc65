"""The errors that are a user's to mend: printed as one message without a traceback, exit code 2."""

import errno

# What a disk, or the network before it, says of trouble that may pass.
PASSING = (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.EHOSTDOWN, errno.EREMOTEIO)


class UserError(ValueError):
    """Something the user can put right; the text says where, what, and what to do."""


class ShardError(UserError):
    """A shard set that cannot be made or read as it is."""


class Broken(UserError):
    """A machine failed, not the user: the same command again may help. Exit code 75 in place of 2."""


class Unread(ShardError, Broken):
    """A shard that a disk, or the network before it, does not give; another time it may."""


def exit_code(error: Exception) -> int:
    """What a process ends with by this error: 2, a mistake, or 75 (sysexits.h), where the same again may help."""
    passes = isinstance(error, Broken) or (isinstance(error, OSError) and error.errno in PASSING)
    return 75 if passes else 2


def unread(error: Exception) -> type[ShardError]:
    """What to raise where a shard cannot be read because of this."""
    return Unread if isinstance(error, OSError) and error.errno in PASSING else ShardError


def way_out(error: Exception) -> str:
    """What to do where a file of a dataset cannot be read because of this."""
    return "look after the disk" if unread(error) is Unread else "get it again"
