"""The one exception root. A message names the thing, the value and the remedy; the class gives the exit code."""


class TealError(Exception):
    """Something failed that the user can read about. Exit code 1."""

    exit_code = 1


class UsageError(TealError):
    """The command line or the configuration is wrong; nothing was done. Exit code 2."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration key, value or file is wrong."""


class ContractError(UsageError):
    """Data does not keep its contract."""


class RefusedError(TealError):
    """A gate or a policy said no; nothing was changed. Exit code 3."""

    exit_code = 3


class ConflictError(RefusedError):
    """Somebody else changed the same thing first; nothing was changed."""


class UnreachableError(TealError):
    """A cluster, an edge or a database did not answer. Exit code 4."""

    exit_code = 4


class NotFoundError(UsageError):
    """A name leads nowhere: endpoint, version, prediction, table."""
