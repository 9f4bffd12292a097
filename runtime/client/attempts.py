"""One call's way through its attempts: what to send next, and whether to try again. Does no input or output itself.

Every call may be repeated: a prediction changes nothing, and feedback counts once however often it arrives.
"""

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from runtime.client import errors
from runtime.client.answers import read_error, read_retry_after_s
from runtime.client.calls import Answered, Call
from runtime.client.exchange import Fault, Garbled, Late, Lost, RawAnswer, Request, Unreached, Untrusted
from runtime.client.retry import RetryBudget, RetryPolicy
from runtime.core.errors import UsageError

KINDS: dict[int, type[errors.RequestFailed]] = {
    400: errors.BadRequest,
    401: errors.Unauthenticated,
    403: errors.Forbidden,
    404: errors.NotFound,
    405: errors.BadRequest,
    408: errors.DeadlineExceeded,
    413: errors.BadRequest,
    415: errors.BadRequest,
    422: errors.ContractViolated,
    429: errors.TooManyRequests,
    500: errors.ServerFailed,
    502: errors.Unavailable,
    503: errors.Unavailable,
    504: errors.Unavailable,
}
"""HTTP status to what is raised. Whatever teal never answers is InvalidAnswer."""

LONGEST_TIMEOUT_S = 3_600.0
"""What the data plane takes in x-timeout-ms."""


class Attempts:
    """Ask `begin` before each attempt, tell `fault` or `refusal` when it failed, wait for as long as that says."""

    def __init__(
        self,
        request: Request,
        *,
        policy: RetryPolicy,
        budget: RetryBudget,
        timeout_s: float,
        rows: Sequence[Any] = (),
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        if not 0 < timeout_s <= LONGEST_TIMEOUT_S:
            raise UsageError(f"timeout_s must be above 0 and at most {LONGEST_TIMEOUT_S:g} but got {timeout_s}")
        self._request = request
        self._policy = policy
        self._budget = budget
        self._timeout_s = timeout_s
        self._rows = rows
        self._clock = clock
        self._draw = draw
        self.deadline_at = clock() + timeout_s
        """On the clock."""
        self.num_attempts = 0
        self._budget.earn()

    def begin(self) -> Request:
        """What to send now: the request with the time that is left in it."""
        left_s = self.deadline_at - self._clock()
        if left_s <= 0:
            raise self._error(errors.DeadlineExceeded, self._late())
        self.num_attempts += 1
        timeout_ms = max(1, int(left_s * 1000))
        return replace(self._request, headers=self._request.headers | {"x-timeout-ms": str(timeout_ms)})

    def fault(self, fault: Fault) -> float:
        """Seconds to wait before the next attempt; raises if there is to be none."""
        match fault:
            case Late():
                raise self._error(errors.DeadlineExceeded, self._late()) from fault
            case Garbled():
                raise self._error(errors.InvalidAnswer, f"what came back is not HTTP: {fault}") from fault
            case Untrusted():
                raise self._error(errors.Unavailable, f"the server's certificate is refused: {fault}") from fault
            case Unreached():
                message = f"nobody can be reached: {fault}"
            case Lost():
                message = f"the connection ended before the answer was whole: {fault}"
            case _:
                raise TypeError(f"no such fault: {fault!r}")
        return self._pause_s(self._error(errors.Unavailable, message), fault, at_least_s=0.0)

    def refusal(self, answer: RawAnswer) -> float:
        """Seconds to wait before the next attempt after an answer that is an error; raises if there is to be none."""
        described = read_error(answer)
        retry_after_s = read_retry_after_s(answer)
        message = described.get("message", f"HTTP {answer.status} without an error of teal's in it")
        kind = KINDS.get(answer.status, errors.InvalidAnswer)
        error = self._error(kind, message)
        error.status, error.code, error.field = answer.status, described.get("code"), described.get("field")
        error.request_id = answer.headers.get("x-request-id", error.request_id)
        error.retry_after_s = retry_after_s
        if isinstance(error, errors.ContractViolated):
            error.row, error.value = self._find_value(described.get("row"), error.column)
        is_busy = kind is errors.TooManyRequests and retry_after_s is not None
        if not (is_busy or kind is errors.Unavailable):
            raise error
        return self._pause_s(error, None, at_least_s=retry_after_s or 0.0)

    def read(self, call: Call[Answered], answer: RawAnswer) -> Answered:
        """The value of an answer with a good status. InvalidAnswer if there is none in it."""
        try:
            return call.read(answer)
        except errors.InvalidAnswer as error:
            error.status, error.request_id = answer.status, self._request.headers["x-request-id"]
            error.num_attempts = self.num_attempts
            raise

    def _pause_s(self, error: errors.RequestFailed, cause: Fault | None, *, at_least_s: float) -> float:
        if self.num_attempts >= self._policy.max_attempts:
            raise error from cause
        pause_s = at_least_s + self._policy.pause_s(self.num_attempts, self._draw())
        if self._clock() + pause_s >= self.deadline_at:
            error.add_note(f"not tried again: the next attempt would start {pause_s:.3g} s from now, past the deadline")
            raise error from cause
        if not self._budget.try_spend():
            error.add_note("not tried again: this client's retry budget is spent")
            raise error from cause
        return pause_s

    def _error(self, kind: type[errors.RequestFailed], message: str) -> errors.RequestFailed:
        return kind(message, request_id=self._request.headers["x-request-id"], num_attempts=self.num_attempts)

    def _late(self) -> str:
        return f"no answer within {self._timeout_s:g} s and {self.num_attempts} attempts"

    def _find_value(self, row: Any, column: str | None) -> tuple[int | None, Any]:
        if row is None and len(self._rows) == 1:
            row = 0
        if type(row) is not int or not 0 <= row < len(self._rows):
            return None, None
        sent = self._rows[row]
        return row, sent.get(column) if hasattr(sent, "get") else None
