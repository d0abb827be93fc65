"""The errors that are a user's to mend: printed as one message without a traceback, exit code 2."""


class UserError(ValueError):
    """Something the user can put right; the text says where, what, and what to do."""


class ShardError(UserError):
    """A shard set that cannot be made or read as it is."""


class Broken(UserError):
    """A machine failed, not the user: the same command again may help. Exit code 75 in place of 2."""
