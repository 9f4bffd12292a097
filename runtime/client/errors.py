"""Why a call got no good answer. Each is a TealError, and where there is one also the error that the rest of teal
raises for the same cause, so that one `except` serves both.
"""

from typing import Any

from runtime.core.errors import ContractError, NotFoundError, RefusedError, TealError, UnreachableError, UsageError


class RequestFailed(TealError):
    """A call that got no good answer. `request_id` finds it in the logs of the edge and of the replica."""

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        field: str | None = None,
        request_id: str = "",
        num_attempts: int = 1,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        """HTTP status of the last answer; None if there was none."""
        self.code = code
        """The word that the answer's body gives the cause."""
        self.field = field
        self.request_id = request_id
        self.num_attempts = num_attempts
        self.retry_after_s = retry_after_s
        """What the answer asked to wait, where it did."""

    def __reduce__(self) -> tuple[Any, ...]:
        # An exception's own way would call the constructor with the message alone, and lose the rest between processes.
        return _rebuild, (type(self), self.message, dict(self.__dict__))


class BadRequest(RequestFailed, UsageError):
    """The request is malformed, too large, or of a kind that is not taken. The same request will fail again."""


class ContractViolated(BadRequest, ContractError):
    """A value breaks the contract of the endpoint's columns; the message says how."""

    row: int | None = None
    """Position in the rows sent; None where it is not known."""
    value: Any = None
    """The value sent in `column` of `row`; None where either is not known."""

    @property
    def column(self) -> str | None:
        """None where the rows are wrong as a whole."""
        return None if self.field in ("instances", "labels") else self.field


class Unauthenticated(RequestFailed, RefusedError):
    """No token, or one that is not known."""


class Forbidden(RequestFailed, RefusedError):
    """The token's principal may not do this."""


class NotFound(RequestFailed, NotFoundError):
    """No such endpoint."""


class TooManyRequests(RequestFailed, UnreachableError):
    """A rate limit or a full queue, for longer than the call could wait."""


class Unavailable(RequestFailed, UnreachableError):
    """Nobody answered, or the edge had no replica to ask."""


class DeadlineExceeded(RequestFailed, UnreachableError):
    """No answer within the call's time."""


class ServerFailed(RequestFailed):
    """The model or its server failed on this request; their log says why."""


class InvalidAnswer(RequestFailed):
    """What came back is not an answer of teal's: does the URL lead to its edge, and nothing between change answers?"""


def _rebuild(kind: type[RequestFailed], message: str, state: dict[str, Any]) -> RequestFailed:
    error = kind(message)
    error.__dict__.update(state)
    return error
